//! Coterie.

pub mod api;
pub mod client;
pub mod config;
pub mod gossip;
pub mod node;
pub mod peers;
pub mod protocol;
pub mod sim;
pub mod store;
pub mod types;

/// The protocol buffers of `proto/coterie/v1`, generated.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("coterie.v1");
    /// The encoded descriptors, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
