//! Walking all keys.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Streaming};

use super::{Client, Consistency, Error, silent};
use crate::proto;

/// What a walk shows, and where it starts.
#[derive(Clone, Debug, Default)]
pub struct ScanOptions {
    /// Only keys that start with this.
    pub prefix: Bytes,
    /// R of each key; unset: as the client's options say.
    pub consistency: Option<Consistency>,
    /// Go on behind an earlier page.
    pub page_token: Bytes,
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
    stream: Option<(usize, Streaming<ScanPage>)>,
    ended: bool,
}

impl Scan {
    pub(super) fn new(client: Client, options: ScanOptions) -> Self {
        Self { client, options, stream: None, ended: false }
    }

    /// The next page; none at the end. A page may be empty and yet tell of progress.
    ///
    /// After an error the walk can be asked again: it goes on where it was.
    ///
    /// # Errors
    /// See [`Error`]; only once every attempt has failed.
    pub async fn next(&mut self) -> Result<Option<ScanPage>, Error> {
        if self.ended {
            return Ok(None);
        }
        let mut tried = Vec::new();
        loop {
            let at = match &self.stream {
                Some((at, _)) => *at,
                None => self.client.shared.nodes.pick(&tried),
            };
            let error = match self.page_from(at).await {
                Ok(page) => return Ok(self.advance(page)),
                Err(error) => error,
            };
            self.stream = None;
            tried.push(at);
            let last = tried.len() >= self.client.shared.options.attempts as usize;
            if error.blames_the_node() {
                self.client.shared.nodes.failed(at);
            }
            if last || !error.worth_another_node() {
                return Err(error);
            }
            tokio::time::sleep(self.client.shared.nodes.pause_before_attempt(&tried)).await;
        }
    }

    /// Where the walk is: give it to [`ScanOptions::page_token`] to go on from here.
    #[must_use]
    pub fn page_token(&self) -> &Bytes {
        &self.options.page_token
    }

    fn advance(&mut self, page: Option<ScanPage>) -> Option<ScanPage> {
        self.ended = page.as_ref().is_none_or(|page| page.page_token.is_empty());
        if let Some(page) = &page {
            self.options.page_token = page.page_token.clone();
        }
        page
    }

    async fn page_from(&mut self, at: usize) -> Result<Option<ScanPage>, Error> {
        let shared = self.client.shared.clone();
        let node = &shared.nodes.all()[at];
        let limit = self.options.timeout.unwrap_or(shared.options.timeout);
        let until = Instant::now() + limit;
        let page = async {
            let stream = match &mut self.stream {
                Some((_, stream)) => stream,
                absent => {
                    let message = proto::ScanRequest {
                        prefix: self.options.prefix.clone(),
                        consistency: self.client.consistency(self.options.consistency),
                        page_token: self.options.page_token.clone(),
                    };
                    let answer = node.kv().scan(Request::new(message)).await?;
                    &mut absent.insert((at, answer.into_inner())).1
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
