//! Everything wired together.

mod ending;
pub mod host;
#[cfg(test)]
mod host_tests;
