//! Coterie: a leaderless, Dynamo-style replicated key-value store.
//!
//! ```text
//!     cli, main              flags, printing, exit codes
//!     node                   wires everything: start, shutdown, background drivers
//!     api · http · client    gRPC services · admin HTTP · the Rust client
//!     gossip · peers · store drivers: UDP and foca, streams between nodes, fjall
//!     config · telemetry     settings · logs; traces and metrics for a collector
//!     metrics                instruments, and the text that Prometheus reads
//!     sim                    the core in one deterministic world
//!     protocol               the pure core: no async, sockets, files, clock or randomness
//!     types                  newtypes that cannot be mixed up
//! ```
//!
//! Imports point downwards only. `ARCHITECTURE.md` is the map.

pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod gossip;
pub mod http;
pub mod metrics;
pub mod node;
pub mod peers;
pub mod protocol;
pub mod sim;
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
    /// What the admin port says to a call: clients know it by these words, for it is no node's answer.
    pub const ADMIN_PORT_SPEAKS_HTTP: &str =
        "this is the admin port (HTTP); the port for clients is listen.client";
}
