//! `apply`, `decommission` and `remove`: orders that change the ring.
//!
//! ```text
//!   who takes it: a member that is ready ─▶ the order, once ─▶ begun ─▶ --wait: looks at any member
//! ```
//!
//! An order is given to one node, once: given to a second one because the first is slow, it would be
//! refused there as somebody else's.

mod planned;
mod wait;

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::args::Show;
use super::exit::{Coded, Exit};
use super::nodes::{ask_any, ask_each, client, impatient, status_of};
use super::plan::{ChangeArgs, PlanDocument, print as print_plan};
use super::term::{self, Output};
use crate::client::{Client, Error, Options};
use crate::proto::{ApplyRequest, OrderResponse, PlanRequest, RemoveRequest, StatusResponse};
use planned::Planned;
use wait::{Goal, WaitArgs};

/// A majority of members may have to agree: as long as that is given by the nodes, and a little more.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Carry out a change of the ring
#[derive(Args, Debug)]
#[command(after_help = "\
What to change is said by the flags of `coterie plan`, or by the file that `coterie plan -o json`
printed. It is planned once more, shown, and applied to exactly the version that the plan was made
on: if somebody has changed the ring since, nothing is changed. Reads and writes go on meanwhile.

Exit codes: 0 it has begun, or with --wait is done, 1 it was refused, 2 the flags make no sense,
4 no node can take it, or it is not done in time, 5 nobody knows whether it has begun.

Examples:
  coterie apply --join node-3,node-4
  coterie plan --join node-3 -o json > plan.json && coterie apply plan.json
  coterie apply --replicas 5 --wait --timeout 2h
  coterie apply --weight node-1=200 --on 2:9f86d081884c7d65      only if that is the version")]
pub struct ApplyArgs {
    /// A plan as `coterie plan -o json` prints it; `-` reads it from standard input
    #[arg(value_name = "PLAN.json")]
    plan: Option<std::path::PathBuf>,
    #[command(flatten)]
    change: ChangeArgs,
    /// Only if this is the newest version: the parent that a plan has named
    #[arg(long, value_name = "NUMBER:HASH", conflicts_with = "plan")]
    on: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    show: Show,
}

/// Take a live node out of the ring, with all that it holds
#[derive(Args, Debug)]
#[command(after_help = "\
It hands over what it holds, and serves until that is done; then its process ends with exit code 0.
`coterie plan --leave NAME` shows beforehand what moves, and how many copies there are meanwhile.
Started again, it joins anew.

Exit codes: 0 it has begun, or with --wait its process has ended, 1 it was refused, 3 there is no
such member, 4 no node can take it, or it is not done in time, 5 nobody knows whether it has begun.

Examples:
  coterie decommission node-4
  coterie decommission node-4 --wait --timeout 2h
  coterie decommission node-4 --wait -o json && kubectl delete pvc data-node-4")]
pub struct DecommissionArgs {
    /// The node's name
    name: String,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    show: Show,
}

/// Give a dead node up, with its disk
#[derive(Args, Debug)]
#[command(after_help = "\
What only it held is lost: nothing, if a majority of the homes of every range lives. If only its
disk is lost, start it with an empty data folder instead: it gets its copies back. A node that lives
is decommissioned. A removed node that comes back is told so, sets its data aside, and joins anew.

Exit codes: 0 it is removed, or with --wait the ring has changed, too, 1 it was refused, 3 there is
no such member, 4 no majority of members is there, or it is not done in time, 5 nobody knows whether
it is removed.

Examples:
  coterie remove node-4 --force
  coterie remove node-4 --force --wait --timeout 2h
  coterie remove node-3 --force --accept-loss      before the removal of node-4 is over")]
pub struct RemoveArgs {
    /// The node's name
    name: String,
    /// It is dead for good
    #[arg(long)]
    force: bool,
    /// It may have held the only copy of something, since an earlier removal is not over
    #[arg(long, requires = "force")]
    accept_loss: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    show: Show,
}

#[derive(Serialize)]
struct OrderDocument<'a> {
    told_by: &'a str,
    /// The version that was made; none of a removal, whose version follows.
    #[serde(skip_serializing_if = "str::is_empty")]
    tag: &'a str,
    /// Whether it was waited for.
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<PlanDocument<'a>>,
}

/// Runs `apply`.
///
/// # Errors
/// If it is refused, no node takes it, it is not done in time, or standard output is closed.
pub async fn apply(args: ApplyArgs) -> anyhow::Result<Exit> {
    let planned = Planned::read(args.plan.as_deref(), &args.change, args.on)?;
    let (client, taker) = taker(&args.show, "").await?;
    let asked = PlanRequest { change: Some(planned.change.clone()), ..PlanRequest::default() };
    let plan = client.plan(&taker.address, asked).await?;
    planned.is_still(&plan)?;
    if args.show.output == Output::Text {
        print_plan(&plan)?;
    }
    let asked = ApplyRequest {
        change: Some(planned.change),
        parent: plan.parent.clone(),
        tag: planned.tag.unwrap_or_else(|| plan.tag.clone()),
    };
    let agreed = client.apply(&taker.address, asked).await?;
    let document = Some(PlanDocument::new(&plan));
    let order = Order { show: &args.show, wait: &args.wait, taker: &taker, agreed: &agreed };
    order.follow(document, &Goal::version(&agreed.tag)).await
}

/// Runs `decommission`.
///
/// # Errors
/// If it is refused, no node takes it, it is not done in time, or standard output is closed.
pub async fn decommission(args: DecommissionArgs) -> anyhow::Result<Exit> {
    let (client, taker) = taker(&args.show, &args.name).await?;
    let agreed = client.decommission(&taker.address, &args.name).await.map_err(unless_unknown)?;
    let goal = Goal::version(&agreed.tag).without(&args.name, taker.address_of(&args.name));
    let order = Order { show: &args.show, wait: &args.wait, taker: &taker, agreed: &agreed };
    order.follow(None, &goal).await
}

/// Runs `remove`.
///
/// # Errors
/// If it is refused, no node takes it, it is not done in time, or standard output is closed.
pub async fn remove(args: RemoveArgs) -> anyhow::Result<Exit> {
    let (client, taker) = taker(&args.show, &args.name).await?;
    let RemoveArgs { name, force, accept_loss, .. } = &args;
    let (force, accept_loss) = (*force, *accept_loss);
    let asked = RemoveRequest { name: name.clone(), force, accept_loss };
    let agreed = client.remove(&taker.address, asked).await.map_err(unless_unknown)?;
    let goal = Goal::version(&agreed.tag).without(name, String::new());
    let order = Order { show: &args.show, wait: &args.wait, taker: &taker, agreed: &agreed };
    order.follow(None, &goal).await
}

/// There being no such member is a finding of its own.
fn unless_unknown(error: Error) -> anyhow::Error {
    if error.reason() == "NO_SUCH_MEMBER" {
        return Coded::error(Exit::NotFound, error.message());
    }
    error.into()
}

/// Who takes an order.
struct Taker {
    address: String,
    knows: StatusResponse,
}

impl Taker {
    fn address_of(&self, name: &str) -> String {
        let found = self.knows.members.iter().find(|member| member.home && member.name == name);
        found.map(|member| member.client_address.clone()).unwrap_or_default()
    }
}

/// A member that is ready and is not `leaving`, if there is one; and a client that waits for a majority.
async fn taker(show: &Show, leaving: &str) -> anyhow::Result<(Client, Taker)> {
    let ask = |client: Client, address: String| async move {
        client.status(&address).await.map(|knows| Taker { address, knows })
    };
    let asking = client(&show.target)?;
    let mut taker = ask_any(&asking, ask).await?;
    if !taker.knows.ready || taker.knows.name == leaving {
        let others = taker.knows.members.iter().filter(|member| {
            member.home
                && member.reachable
                && ![leaving, &taker.knows.name].contains(&&*member.name)
        });
        let others = others.map(|member| (member.name.clone(), member.client_address.clone()));
        let answers = ask_each(&asking, others.collect::<Vec<_>>(), status_of).await;
        let ready = answers.into_iter().find_map(|answer| {
            let knows = answer.said.ok().filter(|status| status.ready)?;
            Some(Taker { address: answer.address, knows })
        });
        taker = ready.unwrap_or(taker);
    }
    let options = Options { timeout: ANSWER_WITHIN, pinned: true, ..Options::default() };
    Ok((show.target.client(options)?, taker))
}

/// An order that has begun.
struct Order<'a> {
    show: &'a Show,
    wait: &'a WaitArgs,
    taker: &'a Taker,
    agreed: &'a OrderResponse,
}

impl Order<'_> {
    /// Tells that it has begun, or waits until it is done.
    async fn follow(&self, plan: Option<PlanDocument<'_>>, goal: &Goal) -> anyhow::Result<Exit> {
        let OrderResponse { name, tag } = self.agreed;
        let done = self.wait.is_asked();
        if self.show.output == Output::Text {
            let what = match tag.as_str() {
                "" => "has it agreed on: the next version follows".to_owned(),
                tag => format!("has begun it: version {tag}"),
            };
            term::line(format_args!("{name} {what}"))?;
            if !done {
                term::note("`coterie status --exit-when-healthy` waits until it is done");
            }
        }
        if done {
            self.wait.until(&self.watchers()?, goal, self.show.output).await?;
        }
        match self.show.output {
            Output::Json => term::json(&OrderDocument { told_by: name, tag, done, plan })?,
            Output::Text if done => term::line("done")?,
            Output::Text => {}
        }
        Ok(Exit::Ok)
    }

    /// A client of all members, for those that were named may be the ones that leave.
    fn watchers(&self) -> anyhow::Result<Client> {
        let target = &self.show.target;
        let mut addresses = target.addresses()?;
        let members = self.taker.knows.members.iter().filter(|_| !target.pinned);
        for member in members.filter(|member| member.home && !member.client_address.is_empty()) {
            if !addresses.contains(&member.client_address) {
                addresses.push(member.client_address.clone());
            }
        }
        Ok(Client::connect(addresses, impatient())?)
    }
}
