//! The acts of the demo, in order.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::document::Document;
use super::load::{Load, Log};
use super::measure::{PHASES, Phase};
use super::report::{self, Outage, Report};
use super::story::Story;
use super::verdict::Fate;
use super::watch::{Sight, counters, seen, sum};
use super::{DemoArgs, text, verify};
use crate::cli::cluster::Cluster;
use crate::cli::exit::Exit;
use crate::cli::term::{self, Output, Progress};
use crate::client::{Client, Options};

/// Founding takes a second or two; a loaded machine may need longer.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A node that is back has its hints within this, or the demo has failed.
const HANDOFF_WITHIN: Duration = Duration::from_secs(60);
/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);

/// When the outage began and ended, and what it did.
struct Act {
    spans: [Duration; PHASES],
    outage: Outage,
}

/// Runs all acts on a cluster that has just been started.
///
/// # Errors
/// If something takes longer than it may, or a node ends that was not killed.
pub async fn run(cluster: &mut Cluster, args: &DemoArgs, seed: u64) -> anyhow::Result<Exit> {
    let story = Story::begin(args.output);
    let nodes = cluster.len();
    story.tell(format_args!("seed {seed}: {nodes} nodes, each a process with its data on disk"));
    cluster.wait_ready(READY_WITHIN).await?;
    story.tell(format_args!("the {nodes} nodes have found each other; each serves any request"));

    let client = Client::connect(cluster.addresses(), Options::default())?;
    let mut load = Load::new(seed, &client);
    load_records(&mut load, args, &story).await?;
    let act = outage(cluster, &mut load, args, seed, &story).await?;
    let log = load.log();

    let addresses = cluster.addresses();
    let verdict = verify::verify(&log.histories, &addresses, &story).await?;
    story.tell(format_args!(
        "{} read back from {nodes} nodes",
        term::count(verdict.reads, "answer")
    ));
    let alone = written_during(&log, &act.outage);
    let alone_total = alone.len() as u64;
    let victim = &addresses[act.outage.victim];
    let alone_held = verify::held_alone(&log.histories, alone, victim, &story).await?;

    let report = Report {
        log: &log,
        verdict: &verdict,
        outage: &act.outage,
        spans: &act.spans,
        alone: (alone_held, alone_total),
        plan: cluster.plan(),
        rate: args.rate,
        seed,
    };
    match args.output {
        Output::Text => report::print(&report, &addresses).await?,
        Output::Json => term::json(&Document::of(&report))?,
    }
    Ok(if verdict.is_clean() { Exit::Ok } else { Exit::Error })
}

async fn load_records(load: &mut Load, args: &DemoArgs, story: &Story) -> anyhow::Result<()> {
    let started = Instant::now();
    let direction = load.direction.clone();
    load.start_loading(args.records as usize);
    let bar = story.bar("load records", Some(args.records.into()), "records");
    let mut tick = tokio::time::interval(TICK);
    let mut joined = std::pin::pin!(load.join());
    loop {
        tokio::select! {
            joined = &mut joined => break joined?,
            _ = tick.tick() => bar.set(direction.loaded.load(Relaxed)),
        }
    }
    story.bar_done();
    let loaded = direction.loaded.load(Relaxed);
    if loaded == 0 {
        let why = direction.first_failure.get().map_or("no reason was given", String::as_str);
        bail!("no record could be loaded: {why}");
    }
    story.tell(format_args!(
        "{} loaded through all nodes in {}",
        term::count(loaded, "record"),
        term::span(started.elapsed())
    ));
    Ok(())
}

/// The mixed load with the death of a node in its middle.
async fn outage(
    cluster: &mut Cluster,
    load: &mut Load,
    args: &DemoArgs,
    seed: u64,
    story: &Story,
) -> anyhow::Result<Act> {
    let victim = text::below(&mut text::generator(seed, "victim"), cluster.len());
    let [before, during, after] = args.spans();
    let direction = load.direction.clone();
    direction.enter(Phase::Before);
    load.start_mixed(args.rate);
    story.tell("mixed load: half reads, a quarter new keys, a quarter overwrites");
    let bar = story.bar("mixed load", Some(args.seconds.into()), "");
    let acts = Acts { story, bar: &bar, load: &*load, began: Instant::now() };

    acts.pass(cluster, before).await?;
    let spans_before = acts.began.elapsed();
    direction.enter(Phase::During);
    let mut outage = acts.kill(cluster, victim, during).await?;
    let spans_during = acts.began.elapsed().saturating_sub(spans_before);

    let returned = Instant::now();
    acts.bring_back(cluster, &mut outage).await?;
    direction.enter(Phase::After);
    let entered = Instant::now();
    acts.handoff(cluster, &mut outage).await?;
    acts.pass(cluster, after.saturating_sub(returned.elapsed())).await?;
    direction.stop();
    load.join().await?;
    story.bar_done();
    let spans = [spans_before, spans_during + (entered - returned), entered.elapsed()];
    let nodes = cluster.addresses();
    wait_without_hints(&cluster.client(), &nodes, story).await?;
    let end = counters(&cluster.client(), &nodes).await;
    outage.repaired = sum(&end, |counters| counters.repairs_sent);
    Ok(Act { spans, outage })
}

/// What the acts under load have in common.
struct Acts<'a> {
    story: &'a Story,
    bar: &'a Progress,
    load: &'a Load,
    began: Instant,
}

impl Acts<'_> {
    /// Lets time pass, under load.
    async fn pass(&self, cluster: &mut Cluster, span: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + span;
        while Instant::now() < until {
            tokio::time::sleep(TICK.min(until - Instant::now())).await;
            self.tick();
            if let Some(death) = cluster.death() {
                bail!("a node that nobody killed has ended: {}", death.sentence());
            }
        }
        Ok(())
    }

    fn tick(&self) {
        let requests = self.load.direction.requests.load(Relaxed);
        let message = format!("s, {}", term::count(requests, "request"));
        self.bar.show(self.began.elapsed().as_secs(), &message);
    }

    async fn kill(
        &self,
        cluster: &mut Cluster,
        victim: usize,
        during: Duration,
    ) -> anyhow::Result<Outage> {
        let name = format!("node-{victim}");
        let others: Vec<String> = cluster.addresses();
        let others = others.into_iter().enumerate().filter(|(node, _)| *node != victim);
        let others: Vec<String> = others.map(|(_, address)| address).collect();
        let client = cluster.client();
        let start = counters(&client, &others).await;

        let killed = Instant::now();
        let killed_ms = millis(self.began.elapsed());
        cluster.kill(victim).await?;
        self.story.tell(format_args!("{name} killed with SIGKILL, in mid-load"));
        let watching = tokio::spawn(watch(
            client.clone(),
            others.clone(),
            name,
            killed,
            during,
            self.story.clone(),
        ));
        self.pass(cluster, during).await?;
        let (noticed, dead) = watching.await?;

        let now = counters(&client, &others).await;
        let grown = |of: fn(&crate::proto::Counters) -> u64| {
            sum(&now, of) - sum(&start, of).min(sum(&now, of))
        };
        let outage = Outage {
            victim,
            from_ms: killed_ms,
            to_ms: millis(self.began.elapsed()),
            noticed,
            dead,
            hints_written: grown(|counters| counters.hints_written),
            hints_held: sum(&now, |counters| counters.hints_held),
            ..Outage::default()
        };
        self.story.tell(format_args!("{} are held for it", term::count(outage.hints_held, "hint")));
        Ok(outage)
    }

    async fn bring_back(&self, cluster: &mut Cluster, outage: &mut Outage) -> anyhow::Result<()> {
        let started = Instant::now();
        cluster.spawn(outage.victim)?;
        self.story.tell(format_args!("node-{} started again on its data", outage.victim));
        cluster.wait_ready(READY_WITHIN).await?;
        outage.back_after = started.elapsed();
        outage.to_ms = millis(self.began.elapsed());
        self.story.tell(format_args!(
            "node-{} is ready, after {}",
            outage.victim,
            term::span(outage.back_after)
        ));
        Ok(())
    }

    async fn handoff(&self, cluster: &mut Cluster, outage: &mut Outage) -> anyhow::Result<()> {
        let started = Instant::now();
        let nodes = cluster.addresses();
        loop {
            let now = counters(&cluster.client(), &nodes).await;
            let held = sum(&now, |counters| counters.hints_held);
            outage.hints_replayed = sum(&now, |counters| counters.hints_replayed);
            if held == 0 && now.iter().all(Option::is_some) {
                break;
            }
            if started.elapsed() > HANDOFF_WITHIN {
                bail!(
                    "{} are still held {} s after the node came back",
                    term::count(held, "hint"),
                    HANDOFF_WITHIN.as_secs()
                );
            }
            tokio::time::sleep(TICK / 4).await;
            self.tick();
        }
        outage.handoff = started.elapsed();
        self.story.tell(format_args!(
            "handoff is complete: {} replayed, none is left, {} after it was ready",
            term::count(outage.hints_replayed, "hint"),
            term::span(outage.handoff)
        ));
        Ok(())
    }
}

/// Tells when the others notice, and returns the last of both kinds.
async fn watch(
    client: Client,
    others: Vec<String>,
    name: String,
    killed: Instant,
    limit: Duration,
    story: Story,
) -> (Option<Duration>, Option<Duration>) {
    let mut last = [None; 2];
    for (sight, last) in [Sight::Unreachable, Sight::Dead].into_iter().zip(&mut last) {
        let all = seen(&client, &others, &name, sight, killed, limit).await;
        let count = all.iter().flatten().count();
        *last =
            all.iter().copied().collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max());
        let what = match sight {
            Sight::Unreachable => "noticed: unreachable",
            Sight::Dead => "dead in gossip",
        };
        match *last {
            Some(after) => story.tell(format_args!(
                "{what} for all {count} others within {} of the kill",
                term::span(after)
            )),
            None => story.tell(format_args!(
                "{what} for {count} of {} others by the end of {}",
                all.len(),
                term::span(limit)
            )),
        }
    }
    (last[0], last[1])
}

/// Writes of the last seconds may have left hints, too.
async fn wait_without_hints(
    client: &Client,
    nodes: &[String],
    story: &Story,
) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let now = counters(client, nodes).await;
        let held = sum(&now, |counters| counters.hints_held);
        if held == 0 && now.iter().all(Option::is_some) {
            return Ok(());
        }
        if started.elapsed() > HANDOFF_WITHIN {
            // Not a loss: the hints are still held. The reads will show.
            story.tell(format_args!("{} are still held", term::count(held, "hint")));
            return Ok(());
        }
        tokio::time::sleep(TICK).await;
    }
}

/// The keys that were written while the victim was down.
fn written_during(log: &Log, outage: &Outage) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    for (key, history) in &log.histories {
        let last = history.last_acknowledged().map(|at| &history.attempts()[at]);
        let during = last.is_some_and(|attempt| {
            attempt.fate == Fate::Acknowledged
                && (outage.from_ms..outage.to_ms).contains(&attempt.at_ms)
        });
        if during {
            keys.push(key.clone());
        }
    }
    keys
}

fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}
