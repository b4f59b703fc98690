//! Dialling: one task for each address that a stream is wanted to, for ever.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::link::Ended;
use super::registry::Peers;
use crate::protocol::control::ControlInput;

/// After a stream has broken, and at first between attempts: a node that was restarted is back
/// on the stream before anyone misses it.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Between attempts at last: a node that is down costs its peers one packet a second.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// An address that answers nothing at all, not even with a refusal.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps a stream to `address` until it is told to stop.
pub(super) async fn keep(peers: Peers, address: SocketAddr, stop: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    while !stop.is_cancelled() {
        let attempt = attempt(&peers, address, &stop);
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = attempt => accepted,
        };
        if accepted {
            backoff = BACKOFF_MIN;
        } else {
            peers.tell(ControlInput::DialFailed(address));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(jittered(backoff)) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// One stream from its beginning to its end; whether the peer was accepted in between.
async fn attempt(peers: &Peers, address: SocketAddr, stop: &CancellationToken) -> bool {
    let dialled = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await;
    let Ok(Ok(socket)) = dialled else { return false };
    let (accepted, ended) = peers.run(socket, address, true, stop.child_token()).await;
    match &ended {
        Ended::Here | Ended::Closed | Ended::Io(_) => tracing::debug!(%address, %ended, "stream"),
        _ => peers.counters().ended(address, &ended),
    }
    accepted
}

/// Between half and all of `backoff`, so that nodes started together do not dial in step.
fn jittered(backoff: Duration) -> Duration {
    backoff.mul_f64(rand::random_range(0.5..1.0))
}
