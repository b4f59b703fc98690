//! `bench --compare`: two configurations in turns, and how one relates to the other.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;

use super::draw::Distribution;
use super::load::{Measured, Shape, Target};
use super::pairs::{self, Ratio};
use super::request::Workload;
use super::row::{Conditions, Row};
use super::servers::{Own, Servers, Who};
use crate::cli::args;
use crate::cli::cluster::Durability;
use crate::cli::term::Progress;
use crate::proto::Consistency;

/// One way to measure.
#[derive(Clone, Debug)]
pub struct Side {
    /// Who is measured.
    pub who: Who,
    /// How much load, over what.
    pub shape: Shape,
    /// Which requests.
    pub workload: Workload,
    /// R or W.
    pub consistency: Consistency,
}

/// In what B differs from A.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// `workload=`
    Workload(Workload),
    /// `consistency=`
    Consistency(args::Consistency),
    /// `durability=`, of a cluster of our own.
    Durability(Durability),
    /// `distribution=`
    Distribution(Distribution),
    /// `clients=`
    Clients(u32),
    /// `connections=`
    Connections(u32),
    /// `value-bytes=`
    ValueBytes(u32),
    /// `batch=`
    Batch(u32),
    /// `rate=`, of an open loop.
    Rate(f64),
    /// `addr=`: other nodes, separated by commas.
    Addresses(Vec<String>),
    /// `echo`, or `echo=` and how many threads each has: echo servers.
    Echo {
        /// Of each; none: one for each processor.
        threads: Option<u16>,
    },
    /// `program=`: another binary, of a cluster of our own.
    Program(PathBuf),
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// A, then B; told beside the comparison.
    #[serde(skip)]
    pub rows: [Row; 2],
    /// In what B differs.
    pub differences: Vec<String>,
    /// B's requests a second to A's.
    pub per_second: Option<Ratio>,
    /// B's median latency to A's.
    pub p50: Option<Ratio>,
    /// B's p99 to A's.
    pub p99: Option<Ratio>,
    /// Processor time of B's nodes for each request to that of A's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Ratio>,
    /// Why the rates may not be compared, or prove nothing.
    pub doubts: Vec<String>,
}

impl std::str::FromStr for Difference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "echo" {
            return Ok(Self::Echo { threads: None });
        }
        let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, or echo")?;
        let number = || value.parse::<u32>().map_err(|error| format!("{value}: {error}"));
        let positive =
            || number().and_then(|n| if n > 0 { Ok(n) } else { Err("at least 1".into()) });
        match key {
            "workload" => Workload::from_str(value, true).map(Self::Workload),
            "consistency" => args::Consistency::from_str(value, true).map(Self::Consistency),
            "durability" => Durability::from_str(value, true).map(Self::Durability),
            "distribution" => Distribution::from_str(value, true).map(Self::Distribution),
            "clients" => positive().map(Self::Clients),
            "connections" => positive().map(Self::Connections),
            "value-bytes" => number().map(Self::ValueBytes),
            "batch" => positive().map(Self::Batch),
            "rate" => super::rate(value).map(Self::Rate),
            "addr" => {
                let addresses = value.split(',').map(args::address);
                addresses.collect::<Result<_, _>>().map(Self::Addresses)
            }
            "echo" => match value.parse() {
                Ok(threads) if threads > 0 => Ok(Self::Echo { threads: Some(threads) }),
                _ => Err(format!("{value} is no number of threads")),
            },
            "program" => Ok(Self::Program(value.into())),
            _ => Err("known are workload, consistency, durability, distribution, clients, \
                      connections, value-bytes, batch, rate, addr, program, and echo"
                .to_owned()),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(workload) => write!(f, "workload={}", workload.name()),
            Self::Consistency(consistency) => {
                write!(f, "consistency={}", format!("{consistency:?}").to_lowercase())
            }
            Self::Durability(durability) => write!(f, "durability={}", durability.as_str()),
            Self::Distribution(distribution) => write!(f, "distribution={}", distribution.name()),
            Self::Clients(clients) => write!(f, "clients={clients}"),
            Self::Connections(connections) => write!(f, "connections={connections}"),
            Self::ValueBytes(bytes) => write!(f, "value-bytes={bytes}"),
            Self::Batch(keys) => write!(f, "batch={keys}"),
            Self::Rate(rate) => write!(f, "rate={rate}"),
            Self::Addresses(addresses) => write!(f, "addr={}", addresses.join(",")),
            Self::Echo { threads: None } => f.write_str("echo"),
            Self::Echo { threads: Some(threads) } => write!(f, "echo={threads}"),
            Self::Program(program) => write!(f, "program={}", program.display()),
        }
    }
}

impl Side {
    /// This side, but for the differences.
    ///
    /// # Errors
    /// If one makes no sense for those who are measured.
    pub fn but_for(&self, differences: &[Difference]) -> Result<Self, String> {
        let mut side = self.clone();
        for difference in differences {
            match difference {
                Difference::Workload(workload) => side.workload = *workload,
                Difference::Consistency(consistency) => side.consistency = (*consistency).into(),
                Difference::Distribution(distribution) => side.shape.distribution = *distribution,
                Difference::Clients(clients) => side.shape.clients = *clients as usize,
                Difference::Connections(count) => side.shape.connections = *count as usize,
                Difference::ValueBytes(bytes) => side.shape.value_bytes = *bytes as usize,
                Difference::Batch(keys) => side.shape.batch = *keys as usize,
                Difference::Rate(rate) => side.shape.rate = Some(*rate),
                Difference::Addresses(addresses) => side.who = Who::Given(addresses.clone()),
                Difference::Echo { threads } => side.who = Who::Echo { threads: *threads },
                Difference::Durability(durability) => {
                    side.own(difference)?.durability = *durability;
                }
                Difference::Program(program) => {
                    side.own(difference)?.program = Some(program.clone());
                }
            }
        }
        Ok(side)
    }

    /// The cluster that is started for it, which the difference is about.
    fn own(&mut self, difference: &Difference) -> Result<&mut Own, String> {
        match &mut self.who {
            Who::Own(own) => Ok(own),
            Who::Echo { .. } | Who::Given(_) => {
                Err(format!("{difference} is of a cluster that --local starts"))
            }
        }
    }

    fn conditions(&self, servers: &Servers) -> Conditions {
        servers.conditions(self.workload, self.consistency, &self.shape)
    }
}

/// Measures A and what differs from it, in so many pairs.
///
/// # Errors
/// If servers do not start, or a run fails altogether.
pub async fn compare(
    a: Side,
    differences: &[Difference],
    count: u32,
) -> anyhow::Result<Comparison> {
    let b = a.but_for(differences).map_err(anyhow::Error::msg)?;
    let first = Servers::start(&a.who, &a.shape).await.context("starting A")?;
    let other = if a.who == b.who {
        None
    } else {
        match Servers::start(&b.who, &b.shape).await.context("starting B") {
            Ok(other) => Some(other),
            Err(error) => {
                first.stop().await;
                return Err(error);
            }
        }
    };
    let runs = in_turns([&a, &b], [&first, other.as_ref().unwrap_or(&first)], count).await;
    let conditions = [a.conditions(&first), b.conditions(other.as_ref().unwrap_or(&first))];
    first.stop().await;
    if let Some(other) = other {
        other.stop().await;
    }
    Ok(Comparison::of(conditions, &runs?, differences))
}

async fn in_turns(
    sides: [&Side; 2],
    servers: [&Servers; 2],
    count: u32,
) -> anyhow::Result<[Vec<Measured>; 2]> {
    let mut targets: Vec<Target> = Vec::new();
    for (side, servers) in sides.iter().zip(servers) {
        targets.push(servers.target(&side.shape).await?);
    }
    let progress = Progress::start("compare", Some(u64::from(count) * 4), "runs");
    let mut runs = [Vec::new(), Vec::new()];
    for (done, at) in (1..).zip(pairs::order(2, count)) {
        let Side { shape, workload, consistency, .. } = sides[at];
        let run = targets[at].drive(shape, *workload, *consistency).await;
        runs[at].push(run.with_context(|| format!("measuring {}", ["A", "B"][at]))?);
        progress.set(done);
    }
    progress.finish();
    Ok(runs)
}

/// How long a comparison of so many pairs takes.
#[must_use]
pub fn takes(shape: &Shape, count: u32) -> Duration {
    (shape.warm_up + shape.measure) * 4 * count
}

impl Comparison {
    fn of(conditions: [Conditions; 2], [a, b]: &[Vec<Measured>; 2], why: &[Difference]) -> Self {
        let mean = |runs: &[Measured], figure: &dyn Fn(&Measured) -> f64| {
            runs.iter().map(figure).sum::<f64>() / runs.len() as f64
        };
        let ratio =
            |figure: &dyn Fn(&Measured) -> f64| Ratio::of_runs(b, a, |runs| mean(runs, figure));
        let per_second = Ratio::of_runs(b, a, pairs::rate);
        let mut doubts: Vec<String> = per_second.iter().filter_map(Ratio::doubt).collect();
        doubts.extend(promise(&conditions));
        let [of_a, of_b] = conditions;
        Self {
            rows: [Row::of(of_a, a), Row::of(of_b, b)],
            differences: why.iter().map(ToString::to_string).collect(),
            per_second,
            p50: ratio(&|run| run.micros(0.5)),
            p99: ratio(&|run| run.micros(0.99)),
            cpu: ratio(&|run| run.cpu_micros().unwrap_or(f64::NAN)),
            doubts,
        }
    }

    /// For people, below the table of the rows.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Some(per_second) = self.per_second else { return "B ÷ A: not a number".to_owned() };
        let mut parts = vec![format!("requests/s {}", per_second.cell())];
        for (name, ratio) in [("p50", self.p50), ("p99", self.p99), ("CPU/request", self.cpu)] {
            parts.extend(ratio.map(|ratio| format!("{name} {}", ratio.cell())));
        }
        format!(
            "B is A but for {}. B ÷ A, median and spread of {} A-B-B-A pairs:\n  {}",
            self.differences.join(", "),
            per_second.pairs,
            parts.join("\n  "),
        )
    }
}

/// What an OK of the one promises and an OK of the other does not.
fn promise([a, b]: &[Conditions; 2]) -> Option<String> {
    if a.promise() == b.promise() {
        return None;
    }
    Some(format!("an OK means different things: {} with A, {} with B", a.promise(), b.promise()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::tests::shape;

    fn side() -> Side {
        let own = Own { nodes: 3, port: 7400, durability: Durability::Fsync, program: None };
        let (workload, consistency) = (Workload::Get, Consistency::Quorum);
        Side { who: Who::Own(own), shape: shape(), workload, consistency }
    }

    #[test]
    fn differences_are_read_as_they_are_written() {
        for text in [
            "workload=set",
            "consistency=one",
            "durability=buffered",
            "distribution=zipfian",
            "clients=256",
            "connections=3",
            "value-bytes=1024",
            "batch=100",
            "rate=1500",
            "addr=127.0.0.1:7400,127.0.0.1:7410",
            "echo",
            "echo=1",
            "program=/bin/true",
        ] {
            assert_eq!(text.parse::<Difference>().unwrap().to_string(), text);
        }
        for wrong in
            ["", "clients", "clients=0", "clients=x", "rate=-1", "echo=0", "colour=red", "addr=x"]
        {
            assert!(wrong.parse::<Difference>().is_err(), "accepted {wrong}");
        }
    }

    #[test]
    fn b_is_a_but_for_what_was_said() {
        let a = side();
        let differences = ["durability=buffered", "clients=7"].map(|text| text.parse().unwrap());
        let b = a.but_for(&differences).unwrap();
        let (Who::Own(of_a), Who::Own(of_b)) = (&a.who, &b.who) else { panic!("own clusters") };
        assert_eq!((of_a.durability, of_b.durability), (Durability::Fsync, Durability::Buffered));
        assert_eq!((b.shape.clients, b.shape.keys), (7, a.shape.keys));
        let given = Side { who: Who::Given(vec!["a:1".to_owned()]), ..side() };
        assert!(given.but_for(&differences).unwrap_err().contains("--local"));
    }

    #[test]
    fn a_comparison_says_what_it_does_not_prove() {
        let measured = |count: u64| {
            let mut measured = Measured { span: Duration::from_secs(1), ..Measured::default() };
            (0..count).for_each(|_| measured.note(Duration::from_millis(1), Ok(1)));
            measured
        };
        let a = Conditions::of_echo(3, None, Workload::Get, &shape());
        let b = Conditions { durability: "fsync".to_owned(), n: 3, r: 2, ..a.clone() };
        let runs = [vec![measured(100), measured(100)], vec![measured(40), measured(60)]];
        let comparison = Comparison::of([a, b], &runs, &[Difference::Echo { threads: None }]);
        let ratio = comparison.per_second.unwrap();
        assert!((ratio.median - 0.5).abs() < 1e-9);
        assert_eq!(comparison.cpu, None);
        let doubts = comparison.doubts.join(" ");
        assert!(doubts.contains("indication") && doubts.contains("different things"), "{doubts}");
        assert!(comparison.sentence().contains("0.50 (0.50–0.50)"));
    }
}
