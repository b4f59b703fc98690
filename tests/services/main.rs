//! The services, the admin port and the client together, over real connections on loopback, with
//! a node that lives in memory.

mod admin_port;
mod bad_input;
mod batches;
mod client;
mod fake;
mod follow;
mod operators;
mod orders;
mod plans;
mod reflection;
mod scans;
mod traces;
