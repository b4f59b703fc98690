//! Whose turn it is: tests share one machine.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Clusters that run at a time: more would only wait for the same processors and disk.
const PLACES: u32 = 2;

static TURNS: Semaphore = Semaphore::const_new(PLACES as usize);

/// A place on this machine, until it is dropped.
pub type Turn = SemaphorePermit<'static>;

/// Waits for a place beside others.
pub async fn shared() -> Turn {
    TURNS.acquire().await.expect("the semaphore is never closed")
}

/// Waits until nobody else is there: for what measures time.
pub async fn alone() -> Turn {
    TURNS.acquire_many(PLACES).await.expect("the semaphore is never closed")
}
