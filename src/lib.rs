//! Coterie.

pub mod api;
pub mod client;
pub mod config;
pub mod http;
pub mod protocol;
pub mod store;
pub mod telemetry;
pub mod types;

/// The protocol buffers of `proto/coterie/v1`, generated.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("coterie.v1");
    /// The encoded descriptors, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    /// The domain of the `google.rpc.ErrorInfo` in every error.
    pub const ERROR_DOMAIN: &str = "coterie.v1";
}
