//! gRPC services.

pub mod backend;

/// The domain of the `google.rpc.ErrorInfo` in every error of ours.
pub const ERROR_DOMAIN: &str = "coterie.v1";
