//! The cores of a real node: joins the core's own types to what the drivers ask of them.

use bytes::Bytes;

use super::handle::{NodeHandle, Reports};
use super::host::DataCore;
use super::run::{Services, run};
use super::start::{Cores, Start};
use crate::api::backend::MemberStatus;
use crate::config::Settings;
use crate::gossip::ControlCore;
use crate::protocol::control::{
    ChangeReport, Control, ControlEffect, ControlInput, MemberReport, MemberState,
};
#[cfg(any(test, feature = "seeded-defects"))]
use crate::protocol::defect::Defect;
use crate::protocol::step::{Effect, Input, RepairReport, Stats};
use crate::protocol::worker::{Worker, WorkerConfig};
use crate::types::{Mono, NodeId, Now, Wall};
use crate::{api, http};

/// Runs one node as the configuration says, until `shutdown` or until it fails: see [`run`].
///
/// # Errors
/// Why it could not start, or had to stop; each says what to do.
pub fn serve(settings: &Settings, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let services: Services<NodeHandle<Worker, Control>> = Services {
        grpc: |listener, node, settings, close| {
            let settings = api::Settings::of(settings);
            Box::pin(async move {
                Ok(api::serve(listener, node, settings, close.cancelled_owned()).await?)
            })
        },
        admin: |listener, node, _, close| {
            Box::pin(async move { Ok(http::serve(listener, node, close.cancelled_owned()).await?) })
        },
    };
    run(settings, &RealCores, &services, shutdown)
}

/// Makes workers and the control core as the configuration says.
#[derive(Clone, Copy, Debug)]
pub struct RealCores;

impl Cores for RealCores {
    type Worker = Worker;
    type Control = Control;

    fn worker(&self, start: &Start<'_>, index: usize) -> Worker {
        Worker::new(WorkerConfig {
            index,
            workers: start.workers,
            tuning: start.settings.tuning(start.workers),
            boot: start.identity.boot,
            clock: start.clock,
            seed: rand::random(),
            #[cfg(any(test, feature = "seeded-defects"))]
            defect: seeded_defect(),
        })
    }

    fn control(&self, start: Start<'_>) -> anyhow::Result<Control> {
        let Start { settings, identity, meta, now, .. } = start;
        Ok(Control::new(settings.control(), identity, meta, rand::random(), now)?)
    }
}

/// The defect that the environment asks for, by its variant's name: so that what watches a cluster
/// from outside can be tested on real processes, too, and any defect hunted by any number of seeds.
#[cfg(any(test, feature = "seeded-defects"))]
pub(crate) fn seeded_defect() -> Option<Defect> {
    let name = std::env::var("COTERIE_SEEDED_DEFECT").ok()?;
    let found = Defect::ALL.into_iter().find(|defect| format!("{defect:?}") == name);
    Some(found.unwrap_or_else(|| panic!("there is no defect `{name}`")))
}

impl DataCore for Worker {
    fn step(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        Worker::step(self, now, input, out);
    }

    fn next_timer(&self) -> Option<Mono> {
        Worker::next_timer(self)
    }

    fn serves(&self) -> bool {
        Worker::serves(self)
    }

    fn stats(&self) -> Stats {
        Worker::stats(self)
    }

    fn repair_report(&mut self) -> RepairReport {
        Worker::repair_report(self)
    }
}

impl ControlCore for Control {
    fn step(&mut self, now: Now, input: ControlInput, out: &mut Vec<ControlEffect>) {
        Control::step(self, now, input, out);
    }

    fn next_timer(&self) -> Option<Mono> {
        Control::next_timer(self)
    }

    fn hello(&self, now: Now) -> Bytes {
        Control::hello(self, now)
    }

    fn settled(&self) -> bool {
        self.not_ready().is_none()
    }
}

impl Reports for Control {
    fn members(&self, now: Now) -> Vec<MemberStatus> {
        Control::members(self, now).into_iter().map(status).collect()
    }

    fn not_ready(&self, _: Now) -> Option<String> {
        Control::not_ready(self)
    }

    fn has_placement(&self) -> bool {
        self.cluster().is_some()
    }

    fn began_anew(&self) -> Option<(Wall, NodeId)> {
        Control::began_anew(self)
    }

    fn change(&self, now: Now) -> ChangeReport {
        self.change_report(now)
    }

    fn gossip_report(&self, now: Now) -> serde_json::Value {
        // A report has only text for keys: nothing in it cannot be written.
        serde_json::to_value(Control::gossip_report(self, now)).unwrap_or_default()
    }
}

fn status(member: MemberReport) -> MemberStatus {
    MemberStatus {
        name: member.name,
        node_id: member.id,
        state: match member.state {
            MemberState::Alive => "alive",
            MemberState::Suspect => "suspect",
            MemberState::Down => "down",
            MemberState::Unknown => "unknown",
        }
        .into(),
        reachable: member.reachable,
        internal_address: member.internal_address,
        client_address: member.client_address,
        admin_address: member.admin_address,
        generation: member.generation,
        incarnation: member.incarnation.into(),
        since_ms: member.since_ms,
        home: member.home,
        zone: member.zone,
        weight: member.weight,
    }
}
