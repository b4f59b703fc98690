//! Waiting until an order is carried out: what any member says, again and again.

use std::time::{Duration, Instant};

use clap::Args;

use crate::cli::args;
use crate::cli::exit::{Coded, Exit};
use crate::cli::nodes::{ask_any, ask_each, status_of};
use crate::cli::term::{self, Output};
use crate::cli::under_way::UnderWay;
use crate::client::{Client, ErrorKind};
use crate::proto::{RingResponse, StatusResponse};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What is left is told again after this, if nothing else has changed.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Whether to wait, and how long.
#[derive(Args, Debug)]
pub(super) struct WaitArgs {
    /// Wait until it is done, and tell how far it is
    #[arg(long)]
    wait: bool,
    /// Stop waiting after this; what was begun goes on
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1h",
        value_parser = args::duration,
        requires = "wait",
    )]
    timeout: Duration,
}

/// What is waited for.
pub(super) struct Goal {
    /// The version that was made; empty if any will do.
    tag: String,
    /// Who is to be nobody.
    gone: Option<String>,
    /// Where nobody is to answer then; empty if that does not matter.
    silent: String,
}

impl Goal {
    /// That no version is live but this one, or one that followed on it.
    pub(super) fn version(tag: &str) -> Self {
        Self { tag: tag.to_owned(), gone: None, silent: String::new() }
    }

    /// And that nobody has this name, and nobody answers at this address.
    pub(super) fn without(self, name: &str, address: String) -> Self {
        Self { gone: Some(name.to_owned()), silent: address, ..self }
    }

    /// Whether it is reached, as a node sees it.
    fn is_reached(&self, status: &StatusResponse, ring: &RingResponse) -> bool {
        let live = status.change.as_ref().map(|change| change.live.as_slice()).unwrap_or_default();
        let [only] = live else { return false };
        let number = |tag: &str| -> u32 {
            tag.split(':').next().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        // Of two versions with one number the other one may have stayed: then this one is made anew.
        let made = *only == self.tag || number(only) > number(&self.tag);
        let is_there = |name: &String| ring.members.iter().any(|member| member.name == *name);
        made && !self.gone.as_ref().is_some_and(is_there)
    }
}

impl WaitArgs {
    pub(super) fn is_asked(&self) -> bool {
        self.wait
    }

    /// Waits until the goal is reached.
    ///
    /// # Errors
    /// If it is not in time.
    pub(super) async fn until(
        &self,
        client: &Client,
        goal: &Goal,
        output: Output,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + self.timeout;
        let mut told = Told::default();
        loop {
            let waits = match look(client).await {
                Ok((status, ring, _)) if goal.is_reached(&status, &ring) => {
                    if goal.silent.is_empty() || is_silent(client, &goal.silent).await {
                        return Ok(());
                    }
                    told.tell(output, "its process is ending", "");
                    "its process has not ended".to_owned()
                }
                Ok((_, _, Some(change))) => {
                    let away: Vec<String> = change.away().collect();
                    let stage = [&[change.stage()], away.as_slice()].concat().join("; ");
                    told.tell(output, &stage, &change.left());
                    let waits: Vec<String> = change.waits().collect();
                    waits.join("; ")
                }
                Ok((_, _, None)) => "the next version is not known yet".to_owned(),
                Err(error) => {
                    told.tell(output, &error.to_string(), "");
                    error.to_string()
                }
            };
            if Instant::now() >= until {
                let message = format!("it is not done in time, and goes on: {waits}");
                return Err(Coded::error(Exit::Degraded, message));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What was told last, so that nothing is told twice.
#[derive(Default)]
struct Told {
    stage: String,
    at: Option<Instant>,
}

impl Told {
    fn tell(&mut self, output: Output, stage: &str, left: &str) {
        let due = self.at.is_none_or(|at| at.elapsed() >= TELL_EVERY) && !left.is_empty();
        if output == Output::Json || (stage == self.stage && !due) {
            return;
        }
        let left = if left.is_empty() { String::new() } else { format!("; left: {left}") };
        term::note(format_args!("waiting: {stage}{left}"));
        (self.stage, self.at) = (stage.to_owned(), Some(Instant::now()));
    }
}

/// How far it is, as one node and all that it knows see it.
async fn look(client: &Client) -> anyhow::Result<(StatusResponse, RingResponse, Option<UnderWay>)> {
    let ask = |client: Client, address: String| async move {
        Ok((client.status(&address).await?, client.ring(&address).await?))
    };
    let (status, ring) = ask_any(client, ask).await?;
    let others = status.members.iter().filter(|member| member.name != status.name && member.home);
    let others = others.map(|member| (member.name.clone(), member.client_address.clone()));
    let answers = ask_each(client, others.collect::<Vec<_>>(), status_of).await;
    let statuses: Vec<StatusResponse> =
        answers.into_iter().filter_map(|answer| answer.said.ok()).collect();
    let change = UnderWay::of(&status, &statuses);
    Ok((status, ring, change))
}

/// Whether nobody takes connections at an address.
async fn is_silent(client: &Client, address: &str) -> bool {
    client.status(address).await.is_err_and(|error| error.kind() == ErrorKind::Unreachable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Change, RingMember};

    fn status(live: &[&str]) -> StatusResponse {
        let live = live.iter().map(|tag| (*tag).to_owned()).collect();
        let change = Some(Change { live, ..Change::default() });
        StatusResponse { change, ..StatusResponse::default() }
    }

    fn ring(members: &[&str]) -> RingResponse {
        let member = |name: &&str| RingMember { name: (*name).to_owned(), ..RingMember::default() };
        RingResponse { members: members.iter().map(member).collect(), ..RingResponse::default() }
    }

    #[test]
    fn a_version_is_reached_when_it_or_one_after_it_lives_alone() {
        let goal = Goal::version("3:0a");
        let reached = |live: &[&str]| goal.is_reached(&status(live), &ring(&["a"]));
        assert!(reached(&["3:0a"]) && reached(&["4:0c"]));
        assert!(!reached(&["2:09"]), "not heard of yet");
        assert!(!reached(&["2:09", "3:0a"]), "under way");
        assert!(!reached(&["3:0b"]), "a rival has stayed");
    }

    #[test]
    fn a_name_is_gone_when_the_only_version_does_not_name_it() {
        let goal = Goal::version("").without("b", String::new());
        let reached =
            |live: &[&str], members: &[&str]| goal.is_reached(&status(live), &ring(members));
        assert!(reached(&["2:0a"], &["a"]));
        assert!(!reached(&["1:0a"], &["a", "b"]), "the version without it follows");
        assert!(!reached(&["1:0a", "2:0b"], &["a"]), "the version with it is live");
    }
}
