//! One call: attempts at one node after the other, within one time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::nodes::{Node, pause_before_attempt};
use super::trace::{Attempt, Method};
use super::{Error, Options, Shared, error, follow};
use crate::proto;
use crate::proto::admin_client::AdminClient;
use crate::proto::kv_client::KvClient;

/// Whether a call can change anything: the outcome of one that cannot is always known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Reads,
    Writes,
}

/// A further attempt gets this much time, or it is not begun: a node keeps a part of it for its
/// answer's way back (see `api::request`), and an attempt that ends in silence turns a failure that
/// is known into an outcome that is not. Of short calls, this part of their time.
const FURTHER_MIN: Duration = Duration::from_millis(250);
const FURTHER_MIN_PART: u32 = 4;

/// How a call ended, and what its attempts tell beside that.
pub(super) struct Tried<R> {
    pub(super) answer: Result<R, Error>,
    /// The node that was asked last.
    pub(super) node: Arc<Node>,
    pub(super) attempts: u32,
    /// Whether an attempt that failed may have been carried out.
    pub(super) outcome_unknown: bool,
}

/// Runs a call against one node after the other until one answers it; first against those that
/// are not in `asked`.
pub(super) async fn run<M, R, F, Called>(
    shared: &Arc<Shared>,
    asked: &[Arc<Node>],
    message: M,
    effect: Effect,
    until: Instant,
    send: &F,
) -> Tried<R>
where
    M: Clone + Method,
    F: Fn(KvClient<Channel>, Request<M>) -> Called,
    Called: Future<Output = Result<Response<R>, Status>>,
{
    let Shared { nodes, options, .. } = &**shared;
    let all = nodes.all();
    let place = |node: &Arc<Node>| all.iter().position(|known| Arc::ptr_eq(known, node));
    let mut tried: Vec<usize> = asked.iter().filter_map(place).collect();
    let before = tried.len();
    let (mut outcome_unknown, mut told, mut unsent) = (false, None, 0);
    let whole = until.saturating_duration_since(Instant::now());
    let further_min = FURTHER_MIN.min(whole / FURTHER_MIN_PART);
    let end = loop {
        let at = nodes.pick(&all, &tried);
        let node = all[at].clone();
        tried.push(at);
        let so_far = tried.len() - before;
        let attempts = u32::try_from(so_far - unsent).unwrap_or(u32::MAX);
        let last = attempts >= options.attempts;
        let end = attempt_end(until, all.len(), options, last);
        let error = match attempt(&node, message.clone(), end, send).await {
            Ok(answer) => break Tried { answer: Ok(answer), node, attempts, outcome_unknown },
            Err(status) => Error::from_status(status, &node.address, effect == Effect::Writes),
        };
        if error.blames_the_node() {
            nodes.failed(&node);
            shared.follow.hurry(nodes.now());
        }
        outcome_unknown |= !error.outcome_is_known();
        let settled = !error.worth_another_node();
        // What settles a call is its answer, whatever attempts before it have told.
        let mut error = if settled { error } else { error.or_more_telling(told.take()) };
        error.note_attempts(attempts, outcome_unknown);
        let pause = pause_before_attempt(all.len(), tried.len());
        // Who takes no connection, or nothing on any more, was not asked, while there are others.
        let counts = so_far >= all.len() || !error.was_turned_away();
        unsent += usize::from(!counts);
        if (last && counts) || settled || Instant::now() + pause + further_min >= until {
            break Tried { answer: Err(error), node, attempts, outcome_unknown };
        }
        told = Some(error);
        tokio::time::sleep(pause).await;
    };
    follow::look_around(shared);
    end
}

async fn attempt<M, R, F, Called>(
    node: &Node,
    message: M,
    end: Instant,
    send: &F,
) -> Result<R, Status>
where
    M: Method,
    F: Fn(KvClient<Channel>, Request<M>) -> Called,
    Called: Future<Output = Result<Response<R>, Status>>,
{
    let limit = end.saturating_duration_since(Instant::now());
    let mut request = Request::new(message);
    request.set_timeout(limit);
    let attempt = Attempt::begin::<M>(&node.address);
    attempt.tell(request.metadata_mut());
    let answer = match timeout_at(end, send(node.kv(), request)).await {
        Ok(Ok(answer)) => {
            node.answered();
            Ok(answer.into_inner())
        }
        Ok(Err(status)) if is_cut_off(&status) => Err(silent(limit)),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(silent(limit)),
    };
    attempt.end(&answer);
    answer
}

/// Whether the transport of either end has ended a call whose time was up, in words of its own.
fn is_cut_off(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message() == "Timeout expired"
}

/// When an attempt gives up: early if there is another node to ask.
fn attempt_end(until: Instant, nodes: usize, options: &Options, last: bool) -> Instant {
    if nodes == 1 || last { until } else { until.min(Instant::now() + options.attempt_timeout) }
}

/// How a node sees itself and the cluster.
pub(super) async fn status(
    channel: Channel,
    address: &str,
    limit: Duration,
) -> Result<proto::StatusResponse, Error> {
    let message = proto::StatusRequest {};
    ask(channel, address, limit, message, Effect::Reads, |mut admin, request| async move {
        admin.status(request).await
    })
    .await
}

/// Asks one node, once.
pub(super) async fn ask<M, R, Called>(
    channel: Channel,
    address: &str,
    limit: Duration,
    message: M,
    effect: Effect,
    call: impl FnOnce(AdminClient<Channel>, Request<M>) -> Called,
) -> Result<R, Error>
where
    Called: Future<Output = Result<Response<R>, Status>>,
{
    let until = Instant::now() + limit;
    let mut request = Request::new(message);
    request.set_timeout(limit);
    let answer = timeout_at(until, call(AdminClient::new(channel), request)).await;
    let answer = match answer {
        Ok(Err(status)) if is_cut_off(&status) => Err(silent(limit)),
        Ok(answer) => answer,
        Err(_) => Err(silent(limit)),
    };
    let writes = effect == Effect::Writes;
    answer.map(Response::into_inner).map_err(|status| Error::from_status(status, address, writes))
}

/// The status of an attempt that brought nothing in time. Its source tells it from a status that
/// a node has sent.
pub(super) fn silent(limit: Duration) -> Status {
    let within = if limit < Duration::from_secs(1) {
        format!("{} ms", limit.as_millis())
    } else {
        format!("{:.1} s", limit.as_secs_f64())
    };
    let mut status = Status::new(Code::DeadlineExceeded, format!("no answer within {within}"));
    status.set_source(Arc::new(error::Silent));
    status
}
