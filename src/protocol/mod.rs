//! The pure core: it decides, and does nothing.

pub mod clock;
pub mod codec;
pub mod context;
pub mod control;
pub mod defect;
pub mod lost;
pub mod message;
mod meta;
pub mod op;
pub mod placement;
pub mod progress;
pub mod quorum;
pub mod record;
pub mod rounds;
pub mod step;
pub mod tree;
pub mod worker;
