//! Asking nodes one by one, each for itself: what one of them says is told as its word.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::args::Target;
use super::exit::{Coded, Exit};
use crate::client::{Client, Error, ErrorKind, Options};
use crate::proto::StatusResponse;

/// A node that does not answer within this is told as not answering.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Where any node will do, the next one is asked as well after this: one that hangs costs no more.
const NEXT_AFTER: Duration = Duration::from_millis(500);

/// What a member has answered, or why it has not.
pub struct Answer<T> {
    /// The member.
    pub name: String,
    /// Where it was asked; empty if nobody knows where it is.
    pub address: String,
    /// What it said, or why nothing is known of it.
    pub said: Result<T, String>,
}

/// A client that gives up soon.
///
/// # Errors
/// If the addresses are none.
pub fn client(target: &Target) -> anyhow::Result<Client> {
    target.client(impatient())
}

/// How a client behaves that gives up soon. Who is asked speaks for itself: nobody else is asked in its stead.
pub fn impatient() -> Options {
    Options { timeout: ANSWER_WITHIN, pinned: true, ..Options::default() }
}

/// The answer of the first node that gives one. They are asked in their order, each as soon as the
/// one before it has failed or is slow.
///
/// # Errors
/// If none does: the reason that tells most. What is refused is no fault of the nodes.
pub async fn ask_any<T, Called>(
    client: &Client,
    ask: impl Fn(Client, String) -> Called,
) -> anyhow::Result<T>
where
    T: Send + 'static,
    Called: Future<Output = Result<T, Error>> + Send + 'static,
{
    let addresses = client.addresses();
    let (mut asking, mut told) = (JoinSet::new(), None);
    let mut left = addresses.iter();
    loop {
        let next = left.next();
        if let Some(address) = next {
            asking.spawn(ask(client.clone(), address.clone()));
        }
        let answered = match next {
            Some(_) => timeout(NEXT_AFTER, asking.join_next()).await.unwrap_or_default(),
            None => asking.join_next().await,
        };
        match answered {
            Some(Ok(Ok(answer))) => return Ok(answer),
            Some(Ok(Err(error))) => told = Some(error.or_more_telling(told)),
            None if next.is_none() => break,
            // It is slow, or its task has failed.
            Some(Err(_)) | None => {}
        }
    }
    if let Some(error) = told.take_if(|error| is_refused(error)) {
        return Err(error.into());
    }
    let places = addresses.join(", ");
    let answered = told.as_ref().is_some_and(Error::is_an_answer);
    let what = if answered { "can tell at" } else { "answers at" };
    let message = format!("no node {what} {places}");
    Err(Coded { exit: Exit::Degraded, message, source: told.map(Into::into) }.into())
}

/// Whether it is the question that is at fault, and no node.
fn is_refused(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Refused | ErrorKind::Invalid)
}

/// How the node at an address sees itself and the cluster.
///
/// # Errors
/// See [`Error`].
pub async fn status_of(client: Client, address: String) -> Result<StatusResponse, Error> {
    client.status(&address).await
}

/// The answers of all these members (names and addresses), asked at once, in the order given.
pub async fn ask_each<T, Called>(
    client: &Client,
    members: impl IntoIterator<Item = (String, String)>,
    ask: impl Fn(Client, String) -> Called,
) -> Vec<Answer<T>>
where
    T: Send + 'static,
    Called: Future<Output = Result<T, Error>> + Send + 'static,
{
    let mut asking = JoinSet::new();
    let mut answers = Vec::new();
    for (at, (name, address)) in members.into_iter().enumerate() {
        if address.is_empty() {
            let said = Err("nobody has told where it is".to_owned());
            answers.push((at, Answer { name, address, said }));
            continue;
        }
        let call = ask(client.clone(), address.clone());
        asking.spawn(async move {
            let said = call.await.map_err(|error| error.message().to_owned());
            (at, Answer { name, address, said })
        });
    }
    while let Some(answered) = asking.join_next().await {
        answers.extend(answered.ok());
    }
    answers.sort_by_key(|answer| answer.0);
    answers.into_iter().map(|answer| answer.1).collect()
}
