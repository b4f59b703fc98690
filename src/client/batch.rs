//! Many keys at once.
//!
//! ```text
//!  entries ──▶ batches within the limits, a few at a time ──▶ a node ──▶ results, key by key
//!                             ▲                                  │
//!                             └── those that may be tried again ◀┘
//! ```
//!
//! What is sent again is only what has failed and is safe to send again: each write has a request
//! id of its own, which it keeps. Everything ends within one time.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::call::{self, Effect, Tried};
use super::trace::Method;
use super::{BatchOptions, Client, Error, Got, Reading, Written, millis, request_id};
use crate::proto;
use crate::proto::kv_client::KvClient;

/// Keys of a batch. More save little, and fewer spread over more nodes.
const KEYS: usize = 256;
/// Bytes of a batch: half of what a node takes at least. An entry that is larger goes alone.
const BYTES: usize = 2 << 20;
/// What an entry takes beside key, value and context.
const ENTRY_BYTES: usize = 64;
/// Batches of one call that are under way at a time.
const AT_A_TIME: usize = 8;
/// The pause before what has failed in a batch is tried again; doubled each time.
const PAUSE: Duration = Duration::from_millis(25);

/// A key to be written, or deleted, in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetEntry {
    /// The key.
    pub key: Bytes,
    /// The value; none deletes the key.
    pub value: Option<Bytes>,
    /// The context of the read that this write is based on; empty: overwrite.
    pub context: Bytes,
    /// How long the value lives; none: for ever. Ignored by deletes.
    pub ttl: Option<Duration>,
    /// Names the write of this entry; none: a random one.
    pub request_id: Option<[u8; 16]>,
}

impl SetEntry {
    /// Writes a value, over whatever is there.
    pub fn set(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::of(key.into(), Some(value.into()))
    }

    /// Deletes a key, whatever is there.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::of(key.into(), None)
    }

    fn of(key: Bytes, value: Option<Bytes>) -> Self {
        Self { key, value, context: Bytes::new(), ttl: None, request_id: None }
    }

    fn into_proto(self) -> proto::BatchSetEntry {
        let ttl = self.ttl.filter(|_| self.value.is_some());
        proto::BatchSetEntry {
            key: self.key,
            delete: self.value.is_none(),
            value: self.value.unwrap_or_default(),
            context: self.context,
            ttl_ms: ttl.map_or(0, millis),
            request_id: request_id(self.request_id),
        }
    }
}

/// A kind of batches.
trait Kind: Clone + Send + Sync + 'static {
    type Entry: Clone + Send + Sync + 'static;
    type Request: Clone + Send + Method;
    type Answer: Send + 'static;

    const EFFECT: Effect;

    fn bytes(entry: &Self::Entry) -> usize;

    fn request(&self, entries: Vec<Self::Entry>) -> Self::Request;

    /// Sends a request; there is a result for each entry.
    fn send(
        kv: KvClient<Channel>,
        request: Request<Self::Request>,
    ) -> impl Future<Output = Result<Response<Vec<Outcome<Self::Answer>>>, Status>> + Send;
}

/// What a node says of one entry.
type Outcome<A> = Result<A, proto::KeyError>;

#[derive(Clone)]
struct Gets {
    consistency: i32,
    strict: bool,
    all_siblings: bool,
}

#[derive(Clone)]
struct Sets {
    consistency: i32,
    strict: bool,
}

impl Client {
    /// Reads many keys: a result for each, in their order.
    pub async fn get_many<K: Into<Bytes>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Option<Got>, Error>> {
        let readings = self.get_many_with(keys, &BatchOptions::default()).await;
        readings.into_iter().map(|reading| reading.map(Reading::into_got)).collect()
    }

    /// Reads many keys in the way that `options` says: a result for each, in their order.
    pub async fn get_many_with<K: Into<Bytes>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        options: &BatchOptions,
    ) -> Vec<Result<Reading, Error>> {
        let kind = Gets {
            consistency: self.consistency(options.consistency),
            strict: options.strict.unwrap_or(self.shared.options.strict),
            all_siblings: options.all_siblings,
        };
        self.run_batches(kind, keys.into_iter().map(Into::into).collect(), options).await
    }

    /// Writes many keys: a result for each entry, in their order. It is no transaction, and
    /// entries are written at the same time: a key that comes twice is refused, and all with it.
    pub async fn set_many(
        &self,
        entries: impl IntoIterator<Item = SetEntry>,
    ) -> Vec<Result<Written, Error>> {
        self.set_many_with(entries, &BatchOptions::default()).await
    }

    /// Writes many keys in the way that `options` says: see [`Client::set_many`].
    pub async fn set_many_with(
        &self,
        entries: impl IntoIterator<Item = SetEntry>,
        options: &BatchOptions,
    ) -> Vec<Result<Written, Error>> {
        let entries: Vec<_> = entries.into_iter().map(SetEntry::into_proto).collect();
        // Only here are all batches seen together.
        let mut keys = HashSet::with_capacity(entries.len());
        if let Some(twice) = entries.iter().find(|entry| !keys.insert(&entry.key)) {
            let key = String::from_utf8_lossy(&twice.key);
            let told = format!("the key `{key}` comes twice; nothing was written");
            let error = || Err(Error::invalid(told.clone()));
            return entries.iter().map(|_| error()).collect();
        }
        let kind = Sets {
            consistency: self.consistency(options.consistency),
            strict: options.strict.unwrap_or(self.shared.options.strict),
        };
        self.run_batches(kind, entries, options).await
    }

    async fn run_batches<K: Kind>(
        &self,
        kind: K,
        entries: Vec<K::Entry>,
        options: &BatchOptions,
    ) -> Vec<Result<K::Answer, Error>> {
        let until = Instant::now() + options.timeout.unwrap_or(self.shared.options.timeout);
        let mut batches = split::<K>(entries);
        if batches.len() <= 1 {
            return match batches.pop() {
                Some(batch) => run(self, &kind, batch, until).await,
                None => vec![],
            };
        }
        let mut tasks = JoinSet::new();
        let room = Arc::new(Semaphore::new(AT_A_TIME));
        let mut results: Vec<Vec<_>> = batches.iter().map(|_| Vec::new()).collect();
        for (at, batch) in batches.into_iter().enumerate() {
            let (client, kind, room) = (self.clone(), kind.clone(), room.clone());
            tasks.spawn(async move {
                // The semaphore is never closed; without a permit it would only be quicker.
                let _permit = room.acquire().await;
                (at, run(&client, &kind, batch, until).await)
            });
        }
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok((at, batch)) => results[at] = batch,
                Err(failed) => std::panic::resume_unwind(failed.into_panic()),
            }
        }
        results.into_iter().flatten().collect()
    }
}

/// Batches within the limits, in order.
fn split<K: Kind>(entries: Vec<K::Entry>) -> Vec<Vec<K::Entry>> {
    let mut batches: Vec<Vec<K::Entry>> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        bytes += K::bytes(&entry);
        match batches.last_mut().filter(|batch| batch.len() < KEYS && bytes <= BYTES) {
            Some(batch) => batch.push(entry),
            None => {
                bytes = K::bytes(&entry);
                batches.push(vec![entry]);
            }
        }
    }
    batches
}

/// An entry that has no result yet.
struct Open<E> {
    at: usize,
    entry: E,
    attempts: u32,
    outcome_unknown: bool,
    /// What tells most of why it has none.
    told: Option<Error>,
}

/// Runs one batch until every entry has its result.
async fn run<K: Kind>(
    client: &Client,
    kind: &K,
    entries: Vec<K::Entry>,
    until: Instant,
) -> Vec<Result<K::Answer, Error>> {
    let mut results: Vec<Option<Result<K::Answer, Error>>> = entries.iter().map(|_| None).collect();
    let open = |(at, entry)| Open { at, entry, attempts: 0, outcome_unknown: false, told: None };
    let mut open: Vec<Open<K::Entry>> = entries.into_iter().enumerate().map(open).collect();
    let (mut rounds, mut asked) = (0, Vec::new());
    while !open.is_empty() {
        let request = kind.request(open.iter().map(|open| open.entry.clone()).collect());
        let tried = call::run(&client.shared, &asked, request, K::EFFECT, until, &K::send).await;
        rounds += 1;
        let pause = PAUSE * (1 << (rounds - 1).min(5));
        let again = rounds < client.shared.options.attempts && Instant::now() + pause < until;
        asked.push(tried.node.clone());
        let before = open.len();
        open = settle::<K>(open, tried, again, &mut results);
        if open.iter().all(|open| open.attempts == 0) && open.len() < before {
            // Only the answer had no room: that is progress.
            rounds -= 1;
        } else if !open.is_empty() {
            tokio::time::sleep(pause).await;
        }
    }
    let none = || Err(Error::invalid("the entry was not tried".to_owned()));
    results.into_iter().map(|result| result.unwrap_or_else(none)).collect()
}

/// Gives entries their results; returns those that are to be tried again.
fn settle<K: Kind>(
    open: Vec<Open<K::Entry>>,
    tried: Tried<Vec<Outcome<K::Answer>>>,
    again: bool,
    results: &mut [Option<Result<K::Answer, Error>>],
) -> Vec<Open<K::Entry>> {
    let Tried { answer, node, attempts, outcome_unknown } = tried;
    let outcomes = match answer {
        Ok(outcomes) if outcomes.len() == open.len() => outcomes,
        Ok(outcomes) => {
            let (got, asked) = (outcomes.len(), open.len());
            let told = format!("{got} results came for {asked} keys");
            let error = Error::from_status(Status::internal(told), &node.address, true);
            return fail_all(open, &error, results);
        }
        Err(error) => return fail_all(open, &error, results),
    };
    let mut left = Vec::new();
    for (mut entry, outcome) in open.into_iter().zip(outcomes) {
        entry.outcome_unknown |= outcome_unknown;
        let error = match outcome {
            Ok(answer) => {
                results[entry.at] = Some(Ok(answer));
                continue;
            }
            Err(error) if error.reason == ANSWER_FULL => {
                left.push(entry);
                continue;
            }
            Err(error) => error,
        };
        let error = Error::from_key_error(error, &node.address, K::EFFECT == Effect::Writes);
        entry.attempts += attempts;
        entry.outcome_unknown |= !error.outcome_is_known();
        let settled = !error.worth_another_node();
        let mut error = if settled { error } else { error.or_more_telling(entry.told.take()) };
        error.note_attempts(entry.attempts, entry.outcome_unknown);
        if again && !settled {
            entry.told = Some(error);
            left.push(entry);
        } else {
            results[entry.at] = Some(Err(error));
        }
    }
    left
}

/// The answer had no room for a key: it is to be asked for in another batch.
const ANSWER_FULL: &str = "ANSWER_FULL";

fn fail_all<E, A>(
    open: Vec<Open<E>>,
    error: &Error,
    results: &mut [Option<Result<A, Error>>],
) -> Vec<Open<E>> {
    for entry in open {
        let unknown = entry.outcome_unknown || !error.outcome_is_known();
        let attempts = entry.attempts + error.attempts();
        let settled = !error.worth_another_node();
        let error = error.clone();
        let mut error = if settled { error } else { error.or_more_telling(entry.told) };
        error.note_attempts(attempts, unknown);
        results[entry.at] = Some(Err(error));
    }
    vec![]
}

impl Kind for Gets {
    type Entry = Bytes;
    type Request = proto::BatchGetRequest;
    type Answer = Reading;

    const EFFECT: Effect = Effect::Reads;

    fn bytes(entry: &Bytes) -> usize {
        entry.len()
    }

    fn request(&self, keys: Vec<Bytes>) -> proto::BatchGetRequest {
        let Self { consistency, strict, all_siblings } = *self;
        proto::BatchGetRequest { keys, consistency, strict, all_siblings }
    }

    async fn send(
        mut kv: KvClient<Channel>,
        request: Request<proto::BatchGetRequest>,
    ) -> Result<Response<Vec<Outcome<Reading>>>, Status> {
        use proto::batch_get_result::Result as Is;
        let outcome = |result: proto::BatchGetResult| match result.result {
            Some(Is::Ok(answer)) => Ok(answer.into()),
            Some(Is::Error(error)) => Err(error),
            None => Err(no_result()),
        };
        let answer = kv.batch_get(request).await?;
        Ok(answer.map(|answer| answer.results.into_iter().map(outcome).collect()))
    }
}

impl Kind for Sets {
    type Entry = proto::BatchSetEntry;
    type Request = proto::BatchSetRequest;
    type Answer = Written;

    const EFFECT: Effect = Effect::Writes;

    fn bytes(entry: &proto::BatchSetEntry) -> usize {
        ENTRY_BYTES + entry.key.len() + entry.value.len() + entry.context.len()
    }

    fn request(&self, entries: Vec<proto::BatchSetEntry>) -> proto::BatchSetRequest {
        let Self { consistency, strict } = *self;
        proto::BatchSetRequest { entries, consistency, strict }
    }

    async fn send(
        mut kv: KvClient<Channel>,
        request: Request<proto::BatchSetRequest>,
    ) -> Result<Response<Vec<Outcome<Written>>>, Status> {
        use proto::batch_set_result::Result as Is;
        let outcome = |result: proto::BatchSetResult| match result.result {
            Some(Is::Ok(answer)) => Ok(answer.into()),
            Some(Is::Error(error)) => Err(error),
            None => Err(no_result()),
        };
        let answer = kv.batch_set(request).await?;
        Ok(answer.map(|answer| answer.results.into_iter().map(outcome).collect()))
    }
}

/// A result that this client does not understand.
fn no_result() -> proto::KeyError {
    let message = "the node's result for this key is none that this client knows".to_owned();
    proto::KeyError { code: tonic::Code::Internal as i32, message, ..proto::KeyError::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_to_their_limits_and_to_the_order() {
        let sizes = |sizes: &[usize]| {
            let entry = |(at, size): (usize, &usize)| {
                SetEntry::set(at.to_string(), vec![0; *size]).into_proto()
            };
            let entries = sizes.iter().enumerate().map(entry).collect();
            split::<Sets>(entries).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[1; 600]), [KEYS, KEYS, 88]);
        assert_eq!(sizes(&[BYTES / 2, BYTES / 3, BYTES / 3, 1]), [2, 2]);
        assert_eq!(sizes(&[1, 3 * BYTES, 1, 1]), [1, 1, 2], "what is too large goes alone");
        let keys = (0..600).map(|i| Bytes::from(i.to_string()));
        let joined: Vec<Bytes> = split::<Gets>(keys.clone().collect()).concat();
        assert!(joined.into_iter().eq(keys));
    }
}
