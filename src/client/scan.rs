//! Walking all keys.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Streaming};

use super::call::silent;
use super::nodes::{Node, pause_before_attempt};
use super::trace::Attempt;
use super::{Client, Consistency, Error, follow};
use crate::proto;

/// What a walk shows, and where it starts.
#[derive(Clone, Debug, Default)]
pub struct ScanOptions {
    /// Only keys that start with this.
    pub prefix: Bytes,
    /// R of each key; unset: as the client's options say.
    pub consistency: Option<Consistency>,
    /// Go on behind an earlier page of a walk with the same prefix.
    pub page_token: Bytes,
    /// Fill `all` of each entry.
    pub all_siblings: bool,
    /// Fill `context` of each entry.
    pub contexts: bool,
    /// Leave out values.
    pub keys_only: bool,
    /// A page must come within this; unset: as the client's options say.
    pub timeout: Option<Duration>,
}

/// A key that was found.
pub type Entry = proto::ScanEntry;

/// Some keys, and how far the walk has come.
pub type ScanPage = proto::ScanResponse;

/// A walk under way. It holds no more than one page, and asks for the next only when it is wanted.
#[derive(Debug)]
pub struct Scan {
    client: Client,
    options: ScanOptions,
    stream: Option<(Arc<Node>, Streaming<ScanPage>)>,
    /// How often it has failed since the walk last got on, and since when it has not.
    failures: u32,
    stalled: Option<Instant>,
    ended: bool,
}

impl Scan {
    pub(super) fn new(client: Client, options: ScanOptions) -> Self {
        Self { client, options, stream: None, failures: 0, stalled: None, ended: false }
    }

    /// The next page; none at the end. A page may be empty and yet tell of progress.
    ///
    /// After an error the walk can be asked again: it goes on where it was.
    ///
    /// # Errors
    /// See [`Error`]; only once every attempt has failed, or the time for a page is over.
    pub async fn next(&mut self) -> Result<Option<ScanPage>, Error> {
        if self.ended {
            return Ok(None);
        }
        let shared = self.client.shared.clone();
        let all = shared.nodes.all();
        let (mut tried, mut told) = (Vec::new(), None);
        let stalled = *self.stalled.get_or_insert_with(Instant::now);
        loop {
            let node = match &self.stream {
                Some((node, _)) => node.clone(),
                None => {
                    tried.push(shared.nodes.pick(&all, &tried));
                    all[tried[tried.len() - 1]].clone()
                }
            };
            let error = match self.page_from(&node).await {
                Ok(page) => {
                    follow::look_around(&shared);
                    return Ok(self.advance(page));
                }
                Err(error) => error,
            };
            self.stream = None;
            self.failures += 1;
            if error.blames_the_node() {
                shared.nodes.failed(&node);
                shared.follow.hurry(shared.nodes.now());
            }
            let given_up =
                self.failures >= shared.options.attempts || stalled.elapsed() >= self.limit();
            let settled = !error.worth_another_node();
            let error = if settled { error } else { error.or_more_telling(told.take()) };
            if given_up || settled {
                (self.failures, self.stalled) = (0, None);
                return Err(error);
            }
            told = Some(error);
            tokio::time::sleep(pause_before_attempt(all.len(), tried.len())).await;
        }
    }

    /// Where the walk is: give it to [`ScanOptions::page_token`] to go on from here.
    #[must_use]
    pub fn page_token(&self) -> &Bytes {
        &self.options.page_token
    }

    fn advance(&mut self, page: Option<ScanPage>) -> Option<ScanPage> {
        self.ended = page.as_ref().is_none_or(|page| page.page_token.is_empty());
        if let Some(page) = &page
            && page.page_token != self.options.page_token
        {
            self.options.page_token = page.page_token.clone();
            (self.failures, self.stalled) = (0, None);
        }
        page
    }

    /// A page must come within this.
    fn limit(&self) -> Duration {
        self.options.timeout.unwrap_or(self.client.shared.options.timeout)
    }

    async fn page_from(&mut self, node: &Arc<Node>) -> Result<Option<ScanPage>, Error> {
        let limit = self.limit();
        let until = Instant::now() + limit;
        let page = async {
            let stream = match &mut self.stream {
                Some((_, stream)) => stream,
                absent => {
                    let message = proto::ScanRequest {
                        prefix: self.options.prefix.clone(),
                        consistency: self.client.consistency(self.options.consistency),
                        page_token: self.options.page_token.clone(),
                        all_siblings: self.options.all_siblings,
                        contexts: self.options.contexts,
                        keys_only: self.options.keys_only,
                    };
                    let mut request = Request::new(message);
                    let attempt = Attempt::begin::<proto::ScanRequest>(&node.address);
                    attempt.tell(request.metadata_mut());
                    let answer = node.kv().scan(request).await;
                    attempt.end(&answer);
                    &mut absent.insert((node.clone(), answer?.into_inner())).1
                }
            };
            stream.message().await
        };
        let page = timeout_at(until, page).await.unwrap_or_else(|_| Err(silent(limit)));
        if page.is_ok() {
            node.answered();
        }
        page.map_err(|status| Error::from_status(status, &node.address, false))
    }
}
