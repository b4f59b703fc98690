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
        let attempt = tokio::select! {
            () = stop.cancelled() => return,
            attempt = attempt => attempt,
        };
        match attempt {
            Attempt::Accepted => backoff = BACKOFF_MIN,
            Attempt::Refused => {}
            Attempt::Failed => peers.tell(ControlInput::DialFailed(address)),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(jittered(backoff)) => {}
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// What came of dialling once.
enum Attempt {
    /// The peer was accepted; the stream has ended since.
    Accepted,
    /// Somebody answered, and one of the two refused the other.
    Refused,
    /// Nobody answered, or not as a node does.
    Failed,
}

/// One stream from its beginning to its end.
async fn attempt(peers: &Peers, address: SocketAddr, stop: &CancellationToken) -> Attempt {
    let dialled = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await;
    let Ok(Ok(socket)) = dialled else { return Attempt::Failed };
    let (accepted, ended) = peers.run(socket, address, true, stop.child_token()).await;
    peers.counters().ended(address, &ended);
    match ended {
        _ if accepted => Attempt::Accepted,
        Ended::Refused(_) | Ended::Rejected(_) => Attempt::Refused,
        _ => Attempt::Failed,
    }
}

/// Between half and all of `backoff`, so that nodes started together do not dial in step.
fn jittered(backoff: Duration) -> Duration {
    backoff.mul_f64(rand::random_range(0.5..1.0))
}
