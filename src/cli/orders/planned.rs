//! What is to be applied, and on which version it was planned.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use crate::cli::exit::{Coded, Exit};
use crate::cli::plan::{ChangeArgs, ChangeDocument};
use crate::proto::{PlanResponse, RingChange};

/// A plan's file: what `coterie plan -o json` prints, as far as it counts.
#[derive(Deserialize)]
struct PlanFile {
    parent: String,
    tag: String,
    change: ChangeDocument,
}

/// What is to be applied.
pub(super) struct Planned {
    pub(super) change: RingChange,
    /// The version that it was planned on; none if it is planned now.
    parent: Option<String>,
    /// The version that the plan makes; none if it is planned now.
    pub(super) tag: Option<String>,
}

impl Planned {
    /// From a file, or from flags.
    ///
    /// # Errors
    /// If there are both or neither, or the file is no plan.
    pub(super) fn read(
        file: Option<&Path>,
        flags: &ChangeArgs,
        on: Option<String>,
    ) -> anyhow::Result<Self> {
        let wrong = |told: &str| Err(Coded::error(Exit::Usage, told));
        let change = flags.change();
        let Some(file) = file else {
            if change == RingChange::default() {
                return wrong(
                    "nothing is to be changed: say what by --join, --leave, --weight, --zone or \
                     --replicas, or give the file of a plan",
                );
            }
            return Ok(Self { change, parent: on, tag: None });
        };
        if change != RingChange::default() {
            return wrong(
                "the change is said twice, by the plan's file and by flags: leave one out",
            );
        }
        let shown = file.display();
        let mut text = String::new();
        if file == Path::new("-") {
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        } else {
            text = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
        }
        let plan: PlanFile = serde_json::from_str(&text).with_context(|| {
            format!("{shown} is no plan: `coterie plan -o json > plan.json` writes one")
        })?;
        Ok(Self { change: plan.change.into(), parent: Some(plan.parent), tag: Some(plan.tag) })
    }

    /// Whether it would still be made on the version that it was planned on.
    ///
    /// # Errors
    /// If not.
    pub(super) fn is_still(&self, now: &PlanResponse) -> anyhow::Result<()> {
        match &self.parent {
            Some(parent) if *parent != now.parent => Err(Coded::error(
                Exit::Error,
                format!(
                    "the plan was made on placement version {parent}, and {} is the newest that {} knows: \
                     somebody else has changed the ring; make the plan anew",
                    now.parent, now.name
                ),
            )),
            Some(_) | None => Ok(()),
        }
    }
}
