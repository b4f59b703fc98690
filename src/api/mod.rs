//! gRPC services.

pub mod backend;
