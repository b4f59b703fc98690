//! Asking nodes one by one, each for itself: what one of them says is told as its word.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;

use super::args::Target;
use super::exit::{Coded, Exit};
use crate::client::{Client, Error, Options};

/// A node that does not answer within this is told as not answering.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

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
    patient_client(target, ANSWER_WITHIN)
}

/// A client that waits so long for each answer.
///
/// # Errors
/// If the addresses are none.
pub fn patient_client(target: &Target, within: Duration) -> anyhow::Result<Client> {
    // Who is asked speaks for itself: nobody else is asked in its stead.
    target.client(Options { timeout: within, pinned: true, ..Options::default() })
}

/// The answer of the first node that gives one, and its address.
///
/// # Errors
/// If none does: the reason of the last.
pub async fn ask_any<T>(
    client: &Client,
    ask: impl AsyncFn(&Client, &str) -> Result<T, Error>,
) -> anyhow::Result<(String, T)> {
    let addresses = client.addresses();
    let mut last = None;
    for address in &addresses {
        match ask(client, address).await {
            Ok(answer) => return Ok((address.clone(), answer)),
            Err(error) => last = Some(error),
        }
    }
    Err(Coded {
        exit: Exit::Degraded,
        message: format!(
            "no node answers at {}. Is the cluster running, and is this the port for clients?",
            addresses.join(", ")
        ),
        source: last.map(|error: Error| error.into()),
    }
    .into())
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
