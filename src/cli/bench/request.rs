//! One request: which key, a read or a write, and whether the answer is right.

use std::sync::Arc;

use bytes::Bytes;
use clap::ValueEnum;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::book::{self, Book};
use super::draw::{Choice, Random};
use crate::proto::kv_client::KvClient;
use crate::proto::{self, batch_get_result, batch_set_result};

/// What every key begins with.
const PREFIX: &str = "bench-";

/// A connection's client: the generated one as it is, so that the same stack drives our nodes and
/// the bare echo servers that they are compared with.
pub type Kv = KvClient<Channel>;

/// Which requests are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Reads.
    Get,
    /// Writes over existing keys.
    Set,
    /// Half reads, half writes.
    Mixed,
    /// 95 % reads, 5 % writes.
    ReadMostly,
}

impl Workload {
    /// As a table shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::Mixed => "50/50",
            Self::ReadMostly => "95/5",
        }
    }

    fn reads_percent(self) -> u64 {
        match self {
            Self::Get => 100,
            Self::Set => 0,
            Self::Mixed => 50,
            Self::ReadMostly => 95,
        }
    }
}

/// What requests are about. Shared by all clients.
#[derive(Debug)]
pub struct Data {
    keys: Vec<Bytes>,
    choice: Choice,
    value: Bytes,
    /// What was written, if it is to be verified.
    pub book: Option<Book>,
}

/// Requests of one kind.
#[derive(Clone, Debug)]
pub struct Requests {
    /// What they are about.
    pub data: Arc<Data>,
    /// Reads or writes.
    pub workload: Workload,
    /// R or W.
    pub consistency: proto::Consistency,
    /// Keys that one request is about; 1: a call of its own for each.
    pub batch: usize,
}

impl Data {
    /// Keys `bench-0…` of `key_bytes` bytes, drawn by `choice`, with values of `value_bytes`.
    #[must_use]
    pub fn new(
        keys: usize,
        key_bytes: usize,
        value_bytes: usize,
        choice: Choice,
        book: Option<Book>,
    ) -> Self {
        let width = key_bytes.saturating_sub(PREFIX.len());
        let key = |number: usize| Bytes::from(format!("{PREFIX}{number:0width$}"));
        let value = Bytes::from(vec![b'v'; value_bytes]);
        Self { keys: (0..keys.max(1)).map(key).collect(), choice, value, book }
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Writes one key.
    ///
    /// # Errors
    /// That of the call; for a claimed key its outcome counts as unknown.
    pub async fn set(
        &self,
        kv: &mut Kv,
        at: usize,
        consistency: proto::Consistency,
    ) -> Result<(), Status> {
        let Some(book) = &self.book else {
            return set(kv, &self.keys[at], &self.value, consistency).await;
        };
        let none_left = || Status::aborted("the outcome of a write of every key is unknown");
        let claim = book.claim(at).ok_or_else(none_left)?;
        let key = &self.keys[claim.at];
        let value = book::value(key, claim.sequence, self.value.len());
        set(kv, key, &value, consistency).await?;
        claim.acknowledged();
        Ok(())
    }

    async fn get(
        &self,
        kv: &mut Kv,
        at: usize,
        consistency: proto::Consistency,
    ) -> Result<(), Status> {
        let key = &self.keys[at];
        let answer = get(kv, key, consistency, false).await?;
        if !answer.found {
            return Err(Status::not_found("a key that was written is absent"));
        }
        let checked = self.book.as_ref().map(|book| book.check(at, key, &answer.value));
        match checked {
            Some(Err(why)) => Err(Status::data_loss(why)),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// Reads several keys in one call.
    async fn get_many(
        &self,
        kv: &mut Kv,
        keys: Vec<usize>,
        consistency: proto::Consistency,
    ) -> Result<(), Status> {
        let keys: Vec<Bytes> = keys.into_iter().map(|at| self.keys[at].clone()).collect();
        let (asked, consistency) = (keys.len(), consistency.into());
        let request = proto::BatchGetRequest { keys, consistency, ..Default::default() };
        let results = kv.batch_get(request).await?.into_inner().results;
        let found = |result: &proto::BatchGetResult| matches!(&result.result, Some(batch_get_result::Result::Ok(answer)) if answer.found);
        let is_whole = results.len() == asked && results.iter().all(found);
        if is_whole { Ok(()) } else { Err(Status::not_found("a key of a batch was not read")) }
    }

    /// Writes several keys in one call.
    async fn set_many(
        &self,
        kv: &mut Kv,
        mut keys: Vec<usize>,
        consistency: proto::Consistency,
    ) -> Result<u64, Status> {
        // A batch names a key once.
        keys.sort_unstable();
        keys.dedup();
        let entry = |at: usize| proto::BatchSetEntry {
            key: self.keys[at].clone(),
            value: self.value.clone(),
            ..proto::BatchSetEntry::default()
        };
        let entries: Vec<_> = keys.into_iter().map(entry).collect();
        let (asked, consistency) = (entries.len(), consistency.into());
        let request = proto::BatchSetRequest { entries, consistency, strict: false };
        let results = kv.batch_set(request).await?.into_inner().results;
        let failed = results.iter().find_map(|result| match &result.result {
            Some(batch_set_result::Result::Ok(_)) => None,
            Some(batch_set_result::Result::Error(error)) => Some(error.message.clone()),
            None => Some("a result of a batch is neither good nor bad".to_owned()),
        });
        match failed {
            Some(why) => Err(Status::unknown(why)),
            None if results.len() != asked => Err(Status::unknown("a batch lacks results")),
            None => Ok(asked as u64),
        }
    }

    /// Every value that a key shows, whatever else was written at the same time.
    ///
    /// # Errors
    /// That of the call.
    pub async fn all_of(&self, kv: &mut Kv, at: usize) -> Result<(&Bytes, Vec<Bytes>), Status> {
        let key = &self.keys[at];
        let answer = get(kv, key, proto::Consistency::Quorum, true).await?;
        Ok((key, answer.all.into_iter().map(|sibling| sibling.value).collect()))
    }
}

impl Requests {
    /// Makes one request, and says how many keys it has read or written.
    ///
    /// # Errors
    /// The call's, or what is wrong with its answer.
    pub async fn one(&self, kv: &mut Kv, random: &mut Random) -> Result<u64, Status> {
        let data = &*self.data;
        if self.batch > 1 {
            let keys: Vec<usize> = (0..self.batch).map(|_| data.choice.draw(random)).collect();
            return if random.bits() % 100 < self.workload.reads_percent() {
                data.get_many(kv, keys, self.consistency).await.map(|()| self.batch as u64)
            } else {
                data.set_many(kv, keys, self.consistency).await
            };
        }
        let at = data.choice.draw(random);
        if random.bits() % 100 < self.workload.reads_percent() {
            data.get(kv, at, self.consistency).await?;
        } else {
            data.set(kv, at, self.consistency).await?;
        }
        Ok(1)
    }
}

async fn get(
    kv: &mut Kv,
    key: &Bytes,
    consistency: proto::Consistency,
    all_siblings: bool,
) -> Result<proto::GetResponse, Status> {
    let consistency = consistency.into();
    let request = proto::GetRequest { key: key.clone(), consistency, strict: false, all_siblings };
    kv.get(request).await.map(tonic::Response::into_inner)
}

async fn set(
    kv: &mut Kv,
    key: &Bytes,
    value: &Bytes,
    consistency: proto::Consistency,
) -> Result<(), Status> {
    let request = proto::SetRequest {
        key: key.clone(),
        value: value.clone(),
        consistency: consistency.into(),
        ..proto::SetRequest::default()
    };
    kv.set(request).await.map(drop)
}

/// A failed request in a few words.
#[must_use]
pub fn described(status: &Status) -> String {
    match status.code() {
        // Ours: see `Data::get`.
        Code::DataLoss => status.message().to_owned(),
        code => format!("{code:?}: {}", status.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::draw::Distribution;

    #[test]
    fn keys_have_the_length_that_was_asked_for() {
        for bytes in [16, 100] {
            let choice = Choice::new(Distribution::Uniform, 1000);
            let data = Data::new(1000, bytes, 1, choice, None);
            assert!(data.keys.iter().all(|key| key.len() == bytes));
        }
    }
}
