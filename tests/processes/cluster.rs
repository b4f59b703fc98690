//! Clusters of real processes: where their nodes are, and what is done to them.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coterie::client::{Client, Options};
use coterie::proto::StatusResponse;
use tempfile::TempDir;

use crate::process::{Process, Signal};
use crate::turn::{self, Turn};

/// Ports of a node: clients, then other nodes, then operators; those of the next are ten further.
const PORT: u16 = 7400;
const PORT_STEP: u16 = 10;
/// A cluster is ready within this, and one that is asked for its end has ended.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Hints are handed off within this, once all nodes are back.
const HANDOFF_WITHIN: Duration = Duration::from_secs(60);
/// A node answers for itself within this.
const STATUS_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks at something that is waited for.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Of each log, so many last lines are shown when a test fails.
const LOG_LINES: usize = 40;

/// Where one node is, and what it is told.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: String,
    pub cluster: String,
    pub client: SocketAddr,
    pub internal: SocketAddr,
    pub admin: SocketAddr,
    pub data: PathBuf,
    pub config: PathBuf,
    pub log: PathBuf,
    /// Internal addresses.
    pub seeds: Vec<SocketAddr>,
    /// How many found the cluster.
    pub expect: usize,
    /// Lines of configuration, section headers among them.
    pub more: String,
    /// What the node's process has in its environment.
    pub environment: Vec<(&'static str, PathBuf)>,
}

/// Processes that are one cluster, in a folder and on an address of their own.
pub struct Cluster {
    nodes: Vec<(Place, Option<Process>)>,
    dir: TempDir,
    asking: Client,
    _turn: Option<Turn>,
}

impl Place {
    /// A place for the node of this number, alone, on `address`.
    pub fn new(dir: &Path, address: Ipv4Addr, number: u16) -> Self {
        let name = format!("node-{number}");
        let at = |offset| SocketAddr::from((address, PORT + PORT_STEP * number + offset));
        Self {
            cluster: "processes".to_owned(),
            client: at(0),
            internal: at(1),
            admin: at(2),
            data: dir.join(&name),
            config: dir.join(format!("{name}.toml")),
            log: dir.join(format!("{name}.log")),
            seeds: vec![],
            expect: 1,
            more: String::new(),
            environment: vec![],
            name,
        }
    }

    /// Writes the configuration.
    pub fn write(&self) {
        let mut text = String::new();
        let seeds: Vec<String> = self.seeds.iter().map(SocketAddr::to_string).collect();
        write!(
            text,
            "[node]\nname = \"{}\"\ndata = {:?}\n[cluster]\nname = \"{}\"\n[listen]\n\
             client = \"{}\"\ninternal = \"{}\"\nadmin = \"{}\"\n[bootstrap]\nexpect = {}\n\
             seeds = {seeds:?}\n[replication]\nreplicas = {}\n[runtime]\nthreads = 1\n{}",
            self.name,
            self.data.display().to_string(),
            self.cluster,
            self.client,
            self.internal,
            self.admin,
            self.expect,
            self.expect.min(3),
            self.more
        )
        .unwrap();
        std::fs::write(&self.config, text).unwrap();
    }

    /// Writes the configuration and starts the node.
    pub fn serve(&self) -> Process {
        self.write();
        Process::serve(&self.config, &self.log, &self.environment)
    }

    /// Everything that its processes have said.
    pub fn said(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts the node, which must refuse: its exit code, and what it said this time.
    pub async fn refuses(&self) -> (i32, String) {
        let before = self.said().len();
        let mut process = self.serve();
        let ended = process.end_within(READY_WITHIN).await;
        let said = self.said().split_off(before);
        let status = ended.unwrap_or_else(|| panic!("it did not refuse, and said:\n{said}"));
        let code = status.code().unwrap_or_else(|| panic!("{status} ended it:\n{said}"));
        assert_ne!(code, 0, "it has ended as if all were well:\n{said}");
        assert!(!said.contains("panicked"), "it has panicked:\n{said}");
        (code, said)
    }

    fn is_free(&self) -> bool {
        let tcp = [self.client, self.internal, self.admin];
        tcp.iter().all(|at| TcpListener::bind(at).is_ok()) && UdpSocket::bind(self.internal).is_ok()
    }
}

/// A folder for a test, which goes with it.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("coterie-processes-").tempdir().unwrap()
}

/// A loopback address on which the ports of so many nodes are free. Processes and tests have
/// addresses of their own, so that nobody meets another's nodes.
pub fn address(nodes: u16) -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(number < 255, "found no free address");
        let process = std::process::id().to_be_bytes();
        let [_, _, _, number] = number.to_be_bytes();
        let address = Ipv4Addr::new(127, 64 | process[2] & 0x3f, process[3], number);
        let places = (0..nodes).map(|node| Place::new(Path::new(""), address, node));
        if places.into_iter().all(|place| place.is_free()) {
            return address;
        }
    }
}

impl Cluster {
    /// A cluster that is ready, beside others.
    pub async fn start(nodes: u16) -> Self {
        Self::start_in(turn::shared().await, nodes).await
    }

    /// A cluster that is ready, in the place of `turn`.
    pub async fn start_in(turn: Turn, nodes: u16) -> Self {
        let mut cluster = Self::plan(Some(turn), nodes);
        cluster.run().await;
        cluster
    }

    /// A cluster that is ready, beside others; each node's configuration has these lines, too.
    pub async fn start_with(nodes: u16, more: &str) -> Self {
        let mut cluster = Self::plan(Some(turn::shared().await), nodes);
        cluster.tell_all(more);
        cluster.run().await;
        cluster
    }

    /// A cluster of which nothing runs yet.
    pub fn plan(turn: Option<Turn>, nodes: u16) -> Self {
        let dir = folder();
        let address = address(nodes);
        let mut places: Vec<Place> =
            (0..nodes).map(|number| Place::new(dir.path(), address, number)).collect();
        let seeds: Vec<SocketAddr> = places.iter().map(|place| place.internal).collect();
        for place in &mut places {
            place.expect = usize::from(nodes);
            place.seeds = seeds.iter().copied().filter(|seed| *seed != place.internal).collect();
        }
        let addresses = places.iter().map(|place| place.client.to_string());
        let options = Options { timeout: STATUS_WITHIN, pinned: true, ..Options::default() };
        let asking = Client::connect(addresses, options).unwrap();
        let nodes = places.into_iter().map(|place| (place, None)).collect();
        Self { nodes, dir, asking, _turn: turn }
    }

    /// Starts all nodes, and waits until they are ready.
    async fn run(&mut self) {
        (0..self.len()).for_each(|node| self.spawn(node));
        self.wait_ready().await;
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn place(&self, node: usize) -> &Place {
        &self.nodes[node].0
    }

    /// Lines of configuration for every node.
    pub fn tell_all(&mut self, more: &str) {
        for (place, _) in &mut self.nodes {
            more.clone_into(&mut place.more);
        }
    }

    /// The place of a node that does not run: changes take effect at its next start.
    pub fn place_mut(&mut self, node: usize) -> &mut Place {
        let (place, process) = &mut self.nodes[node];
        assert!(process.is_none(), "{} runs", place.name);
        place
    }

    pub fn process(&mut self, node: usize) -> &mut Process {
        self.nodes[node].1.as_mut().expect("the node runs")
    }

    pub fn address(&self, node: usize) -> String {
        self.nodes[node].0.client.to_string()
    }

    pub fn addresses(&self) -> Vec<String> {
        (0..self.len()).map(|node| self.address(node)).collect()
    }

    /// A client that knows all nodes.
    pub fn client(&self, options: Options) -> Client {
        Client::connect(self.addresses(), options).unwrap()
    }

    /// A client that knows one node.
    pub fn client_of(&self, node: usize) -> Client {
        let timeout = Duration::from_secs(15);
        let options = Options { timeout, pinned: true, ..Options::default() };
        Client::connect([self.address(node)], options).unwrap()
    }

    pub fn spawn(&mut self, node: usize) {
        let (place, process) = &mut self.nodes[node];
        assert!(process.is_none(), "{} runs already", place.name);
        *process = Some(place.serve());
    }

    pub fn kill(&mut self, node: usize) {
        self.take(node).kill();
    }

    /// Kills several in one moment.
    pub fn kill_at_once(&mut self, nodes: &[usize]) {
        let mut taken: Vec<Process> = nodes.iter().map(|node| self.take(*node)).collect();
        taken.iter_mut().for_each(|process| process.signal(Signal::Kill));
        taken.into_iter().for_each(Process::kill);
    }

    /// Takes a process out of the cluster's hands.
    pub fn take(&mut self, node: usize) -> Process {
        let (place, process) = &mut self.nodes[node];
        process.take().unwrap_or_else(|| panic!("{} does not run", place.name))
    }

    /// How a node sees itself and the others.
    pub async fn status(&self, node: usize) -> Option<StatusResponse> {
        self.asking.status(&self.address(node)).await.ok()
    }

    /// The same, of a node that is expected to answer, if not at once.
    pub async fn answer(&self, node: usize) -> StatusResponse {
        for _ in 0..10 {
            if let Some(status) = self.status(node).await {
                return status;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        panic!("{} does not answer", self.nodes[node].0.name)
    }

    /// Waits until every running node serves, and sees every running node.
    pub async fn wait_ready(&mut self) -> Duration {
        let started = Instant::now();
        loop {
            let why = self.not_ready().await;
            if why.is_empty() {
                return started.elapsed();
            }
            self.assert_running();
            assert!(started.elapsed() < READY_WITHIN, "the cluster is not ready: {why:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn not_ready(&self) -> Vec<String> {
        let running: Vec<&Place> = self
            .nodes
            .iter()
            .filter(|(_, process)| process.is_some())
            .map(|node| &node.0)
            .collect();
        let mut why = Vec::new();
        for place in &running {
            let status = match self.asking.status(&place.client.to_string()).await {
                Ok(status) => status,
                Err(error) => {
                    why.push(format!("{}: {error}", place.name));
                    continue;
                }
            };
            let seen = |other: &Place| {
                let member = status.members.iter().find(|member| member.name == other.name);
                other.name == place.name
                    || member.is_some_and(|m| m.state == "alive" && m.reachable)
            };
            let unseen: Vec<&str> =
                running.iter().filter(|other| !seen(other)).map(|o| o.name.as_str()).collect();
            if !status.ready || !unseen.is_empty() {
                let because = &status.not_ready_because;
                why.push(format!("{}: {because:?}, does not see {unseen:?}", place.name));
            }
        }
        why
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(|node| self.nodes[*node].1.is_some())
    }

    /// Hints held by all nodes that run; none if one does not answer.
    pub async fn hints_held(&self) -> Option<u64> {
        let mut held = 0;
        for node in self.running() {
            held += self.status(node).await?.counters?.hints_held;
        }
        Some(held)
    }

    /// Waits until no node holds a hint.
    pub async fn wait_without_hints(&mut self) -> Duration {
        let started = Instant::now();
        loop {
            let held = self.hints_held().await;
            if held == Some(0) {
                return started.elapsed();
            }
            self.assert_running();
            assert!(started.elapsed() < HANDOFF_WITHIN, "hints are left: {held:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// No process has ended that was not told to, and none has panicked.
    pub fn assert_running(&mut self) {
        for (place, process) in &mut self.nodes {
            if let Some(status) = process.as_mut().and_then(Process::ended) {
                panic!("{} has ended by itself ({status})", place.name);
            }
            let said = place.said();
            assert!(!said.contains("panicked"), "{} has panicked", place.name);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (place, _) in &self.nodes {
            let said = place.said();
            let lines: Vec<&str> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("---- {} said last:\n{}", place.name, last.join("\n"));
        }
    }
}

/// Asks for a page of the admin port: its status code and body. None if there is no answer.
pub async fn http_get(at: SocketAddr, path: &str) -> Option<(u16, String)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(at).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(STATUS_WITHIN, exchange).await.ok()?.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some((code, body.to_owned()))
}
