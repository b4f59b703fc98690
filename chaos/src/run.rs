//! A run: sets a cluster up, loads and breaks it, lets it come to rest, and takes it away again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::caller::Nodes;
use crate::history::{Event, Header, History, Recorder};
use crate::nemesis::{Director, Fault, Health, Watch};
use crate::scenario::{Scenario, TargetKind};
use crate::settle::Settle;
use crate::target::{Docker, Kubernetes, Local, Netns, Plan, Target};
use crate::workload::{Load, Mix};

/// How long the load runs before the first and after the last fault at least.
const CALM: Duration = Duration::from_secs(1);

/// What is run, and how.
#[derive(Clone, Debug)]
pub struct Job {
    /// The scenario.
    pub scenario: Scenario,
    /// Its name.
    pub name: String,
    /// For all choices.
    pub seed: u64,
    /// The `coterie` binary.
    pub program: PathBuf,
    /// For configuration, data and logs.
    pub dir: PathBuf,
    /// Where the history goes.
    pub history: PathBuf,
    /// What repeats the run.
    pub command: String,
    /// The image, for containers.
    pub image: String,
    /// The namespace and the label selector of the pods.
    pub pods: (String, String),
}

/// Says what happens, with the time since the run began.
pub fn say(t_us: u64, what: &str) {
    println!("t+{:6.1}s  {what}", t_us as f64 / 1e6);
}

/// Runs a job. What came of it is in the history.
///
/// # Errors
/// If the cluster could not be set up, the history could not be written, or it was interrupted.
pub async fn run(job: &Job) -> anyhow::Result<()> {
    let scenario = &job.scenario;
    let strikes = |fault: Fault| scenario.nemesis.iter().any(|nemesis| nemesis.fault == fault);
    let plan = Plan {
        program: job.program.clone(),
        dir: job.dir.clone(),
        nodes: scenario.nodes,
        spares: scenario.spares,
        replicas: scenario.replicas(),
        own_disks: strikes(Fault::FullDisk) || strikes(Fault::SlowDisk),
        own_network: strikes(Fault::Network) || scenario.network.is_some(),
        own_clocks: strikes(Fault::ClockJump),
        image: job.image.clone(),
        pods: job.pods.clone(),
    };
    match scenario.target {
        TargetKind::Local => guarded(job, Local::new(&plan)).await,
        TargetKind::Netns => guarded(job, Netns::new(&plan)?).await,
        TargetKind::Docker => guarded(job, Docker::new(&plan)).await,
        TargetKind::Kubernetes => guarded(job, Kubernetes::find(&plan).await?).await,
    }
}

/// Whatever happens, what was set up is taken away.
async fn guarded(job: &Job, mut target: impl Target) -> anyhow::Result<()> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let ended = tokio::select! {
        ended = on(job, &mut target) => ended,
        _ = interrupted.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminated.recv() => Err(anyhow::anyhow!("asked to stop")),
    };
    let troubles = target.clean_up().await;
    match (ended, troubles.is_empty()) {
        (ended, true) => ended,
        (Ok(()), false) => bail!("could not clean up: {}", troubles.join("; ")),
        (Err(error), false) => Err(error.context(format!("nor clean up: {}", troubles.join("; ")))),
    }
}

async fn on(job: &Job, target: &mut impl Target) -> anyhow::Result<()> {
    let scenario = &job.scenario;
    target.set_up().await?;
    for nemesis in &scenario.nemesis {
        if let Err(why) = target.offers(nemesis.fault) {
            bail!("the target {} offers no {}: {why}", scenario.target, nemesis.fault);
        }
    }
    target.start_all().await?;
    let nodes = Arc::new(Nodes::new(&target.nodes(), scenario.nodes)?);
    let watch = Watch::new(&nodes)?;
    let up = watch.well(&nodes.members(), Health::Ready).await;
    up.context("the cluster did not come up")?;
    if scenario.network.is_some() {
        target.shape(scenario.network).await?;
    }

    let recorder = Arc::new(Recorder::create(&job.history)?);
    recorder.record(&Event::Run(header(job, target)));
    say(0, &format!("{} nodes, {} clients, seed {}", scenario.nodes, scenario.clients, job.seed));
    let mix = Mix {
        clients: scenario.clients,
        rate: scenario.rate,
        weights: scenario.workloads.clone(),
        seed: job.seed,
    };
    let load = Load::start(&mix, &nodes, &recorder);
    let until = tokio::time::Instant::now() + Duration::from_secs(u64::from(scenario.seconds));
    tokio::time::sleep(CALM).await;
    let choices = (scenario.replicas(), job.seed);
    let mut director = Director::new(target, &nodes, &watch, &recorder, choices);
    director.run(scenario, until - CALM).await;
    let crashes = std::mem::take(&mut director.crashes);
    tokio::time::sleep_until(until).await;
    load.stop().await?;
    say(recorder.now_us(), "the load has ended");
    if let Some(network) = scenario.network {
        let seen =
            target.shaped(network).await.context("the network was not as the scenario says")?;
        say(recorder.now_us(), &seen);
        target.shape(None).await?;
    }
    recorder.finish()?;
    let history = History::read(&job.history)?;
    let settle = Settle { nodes, watch, recorder: recorder.clone(), replicas: scenario.replicas() };
    let mut settled = settle.run(&history).await;
    settled.unsettled.extend(crashes.into_iter().chain(target.unasked_ends()));
    recorder.record(&Event::Settled(settled));
    say(recorder.now_us(), "every copy was looked at, and every key read back");
    recorder.finish()
}

fn header(job: &Job, target: &impl Target) -> Header {
    let scenario = &job.scenario;
    let weights = scenario.workloads.iter();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Header {
        scenario: job.name.clone(),
        about: scenario.about.clone(),
        target: scenario.target.to_string(),
        nodes: target.nodes().into_iter().map(|(name, _)| name).collect(),
        replicas: scenario.replicas(),
        clients: scenario.clients,
        seconds: scenario.seconds,
        seed: job.seed,
        command: job.command.clone(),
        began_unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        failed_percent_max: scenario.limits.failed_percent,
        silence_ms_max: u64::try_from(scenario.limits.silence.as_millis()).unwrap_or(u64::MAX),
        workloads: weights.filter(|(_, weight)| **weight > 0).map(|(kind, _)| *kind).collect(),
    }
}
