//! The open loop: requests begin when they are due, whether earlier ones have been answered or
//! not.
//!
//! ```text
//!   pacer (a thread) ── due instants, a Poisson process ──▶ one task a request ──▶ answered
//!                                                            latency = answered − due
//! ```
//!
//! A closed loop slows down with the servers, and so never sees what waiting clients would see
//! ("coordinated omission"). Here a latency is counted from when the request was due, also if the
//! load generator itself was late. The pacer is a thread because the runtime's own timer only
//! knows milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;

use super::draw::Random;
use super::load::{Measured, Shape};
use super::request::{Kv, Requests};

/// Requests under way, beyond which further ones count as failed: each is a task and a stream.
const UNDER_WAY_MAX: usize = 16_384;
/// Requests that are still not answered so long after the measurement count as failed.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// Begins `rate` requests a second, in turn on each of `clients`, and measures those that are due
/// within the span. `cpu` says how much processor time the servers have used so far.
///
/// # Errors
/// If the system has no thread left, or a request's task panicked.
pub async fn drive(
    clients: &[Kv],
    requests: &Requests,
    shape: &Shape,
    rate: f64,
    cpu: impl Fn() -> Option<Duration>,
) -> anyhow::Result<Measured> {
    let (sender, mut due) = mpsc::unbounded_channel();
    let pacer = Pacer::start(rate, sender)?;
    let requests = Arc::new(requests.clone());
    let mut begun = 0_usize;
    let mut tasks = JoinSet::new();
    let from = Instant::now() + shape.warm_up;
    let to = from + shape.measure;
    let (mut measured, mut cpu_before) = (Measured::default(), None);
    let within = |due: Instant| (from..to).contains(&due);
    let note = |measured: &mut Measured, (due, took, answer): Answered| {
        if within(due) {
            measured.note(took, answer);
        }
    };
    let cpu_after = loop {
        tokio::select! {
            biased;
            Some(done) = tasks.join_next() => note(&mut measured, done.context("a request")?),
            next = due.recv() => {
                let Some(due) = next else { anyhow::bail!("the pacer has ended") };
                if due >= from && cpu_before.is_none() {
                    cpu_before = cpu();
                }
                if due >= to {
                    break cpu();
                }
                if tasks.len() >= UNDER_WAY_MAX {
                    if within(due) {
                        measured.fail(|| format!("{UNDER_WAY_MAX} requests are under way already"));
                    }
                    continue;
                }
                begun += 1;
                let kv = clients[begun % clients.len()].clone();
                tasks.spawn(one(kv, requests.clone(), Random::new(begun as u64), due));
            }
        }
    };
    drop(pacer);
    let rest = async {
        while let Some(done) = tasks.join_next().await {
            note(&mut measured, done.context("a request")?);
        }
        anyhow::Ok(())
    };
    let rest = tokio::time::timeout(ANSWERED_WITHIN, rest).await;
    if let Ok(ended) = rest {
        ended?;
    }
    for _ in 0..tasks.len() {
        measured.fail(|| format!("not answered within {ANSWERED_WITHIN:?} after the end"));
    }
    measured.span = shape.measure;
    measured.cpu = cpu_before.zip(cpu_after).map(|(from, to)| to.saturating_sub(from));
    Ok(measured)
}

/// When a request was due, how long after that it was answered, and how.
type Answered = (Instant, Duration, Result<u64, Status>);

async fn one(mut kv: Kv, requests: Arc<Requests>, mut random: Random, due: Instant) -> Answered {
    let answer = requests.one(&mut kv, &mut random).await;
    (due, due.elapsed(), answer)
}

/// The thread that says when requests are due; it ends when this is dropped.
struct Pacer {
    stop: Arc<AtomicBool>,
}

impl Pacer {
    fn start(rate: f64, due: mpsc::UnboundedSender<Instant>) -> anyhow::Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let pace = move || {
            let (mut random, mut next) = (Random::new(1), Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                next += random.until_next(rate);
                // What is due already is not slept for: a late pacer catches up.
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                if due.send(next).is_err() {
                    return;
                }
            }
        };
        let started = std::thread::Builder::new().name("pacer".to_owned()).spawn(pace);
        started.context("cannot start the pacer")?;
        Ok(Self { stop })
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
