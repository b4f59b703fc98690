//! How a node comes to its end: told to stop, or failed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// A node had to stop. Its log has said why when it found out: see [`Ending::fail`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub(super) String);

/// A node had to stop, and is to be started again from its folder: it goes on as another disk.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ComesBack(pub(super) String);

/// Shared by everything that may find that the node must not go on. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    failed: AtomicBool,
    comes_back: AtomicBool,
    reason: Mutex<Option<String>>,
    token: CancellationToken,
    left: CancellationToken,
}

impl Ending {
    /// The node must stop, and acknowledge nothing from now on. The first reason counts.
    pub fn fail(&self, reason: impl Into<String>) {
        self.0.failed.store(true, Ordering::SeqCst);
        let mut first = self.0.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            let reason = reason.into();
            tracing::error!("this node stops: {reason}");
            *first = Some(reason);
        }
        drop(first);
        self.0.token.cancel();
    }

    /// The node must stop as if it had failed, and start again at once.
    pub fn come_back(&self, reason: impl Into<String>) {
        self.0.comes_back.store(true, Ordering::SeqCst);
        self.fail(reason);
    }

    /// The node has left the ring for good, and stops as if it were told to.
    pub fn leave(&self, reason: &str) {
        tracing::info!("{reason}: this node stops");
        self.0.left.cancel();
    }

    /// Waits until it has left the ring.
    pub async fn left(&self) {
        self.0.left.cancelled().await;
    }

    /// Whether it is to start again, unless it has failed for another reason before.
    #[must_use]
    pub fn comes_back(&self) -> bool {
        self.0.comes_back.load(Ordering::SeqCst)
    }

    /// The node must stop because of a defect of this program.
    pub fn defect(&self, what: &str) {
        self.fail(format!("{what}: this is a defect of this program; the log above says more"));
    }

    /// Whether the node has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.0.failed.load(Ordering::SeqCst)
    }

    /// Why it has failed.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.0.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has failed.
    pub async fn failed(&self) {
        self.0.token.cancelled().await;
    }
}
