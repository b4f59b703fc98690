//! A network in user space, for kernels without netem: every packet that a node sends comes to this
//! process, which loses it or passes it on later.
//!
//! ```text
//!   node-0's namespace: tun0 ── socat ──┐
//!   node-1's namespace: tun0 ── socat ──┤ datagrams of a Unix socket ── this process
//!   clients:            tun  ── socat ──┘
//! ```
//!
//! As with netem, packets that vary in their delay overtake each other.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::scenario::Network;

/// Larger than any packet of these interfaces.
const PACKET_BYTES: usize = 4096;
/// How long socat may take to make an interface.
const UP_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often a packet is tried to be handed over to an end whose queue is full, and the pause between.
const QUEUE_TRIES: u32 = 200;
const QUEUE_PAUSE: Duration = Duration::from_millis(1);
/// Fewer lost packets than this may be luck.
const LOSSES_EXPECTED: f64 = 20.0;

/// The network, while it is there.
#[derive(Debug)]
pub struct Ether {
    shared: Arc<Shared>,
    programs: Vec<Child>,
    switch: JoinHandle<()>,
}

/// Where an interface is to be.
#[derive(Clone, Debug)]
pub struct Place {
    /// What enters its namespace.
    pub prefix: Vec<String>,
    /// Its name.
    pub interface: String,
    /// Its address.
    pub address: String,
    /// Whether what it sends can be lost and late: what nodes send can.
    pub shaped: bool,
}

/// The socket of an interface.
#[derive(Clone, Debug)]
struct End {
    path: Arc<Path>,
    shaped: bool,
}

/// The switch's own socket. Nobody is told when the queue of *another* socket has room again, so what
/// is sent cannot be awaited: it is tried.
#[derive(Debug)]
struct Socket {
    incoming: UnixDatagram,
    outgoing: Arc<StdDatagram>,
}

impl Socket {
    fn bind(path: &Path) -> std::io::Result<Self> {
        let outgoing = StdDatagram::bind(path)?;
        outgoing.set_nonblocking(true)?;
        let incoming = UnixDatagram::from_std(outgoing.try_clone()?)?;
        Ok(Self { incoming, outgoing: Arc::new(outgoing) })
    }
}

#[derive(Debug, Default)]
struct Shared {
    network: Mutex<Option<Network>>,
    passed: AtomicU64,
    lost: AtomicU64,
}

/// Whether it can be had here.
pub fn can_be_had() -> Result<(), String> {
    if !Path::new("/dev/net/tun").exists() {
        return Err("there is no /dev/net/tun".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join("socat").is_file());
    if found { Ok(()) } else { Err("socat is not installed".to_owned()) }
}

impl Ether {
    /// Makes an interface in every place, and a socket for each in `dir`.
    ///
    /// # Errors
    /// If a socket or an interface cannot be made.
    pub async fn make(dir: &Path, places: &[Place]) -> anyhow::Result<Self> {
        let own = dir.join("ether");
        let socket = Socket::bind(&own);
        let socket = socket.with_context(|| format!("cannot make {}", own.display()))?;
        let mut ends = HashMap::new();
        let mut programs = Vec::new();
        for place in places {
            let end = dir.join(format!("ether-{}", place.address));
            programs.push(socat(place, &own, &end)?);
            let address: Ipv4Addr = place.address.parse().context("an address is none")?;
            ends.insert(address, End { path: end.into(), shaped: place.shaped });
        }
        let shared = Arc::new(Shared::default());
        let switch = tokio::spawn(run(socket, ends.clone(), shared.clone()));
        let ether = Self { shared, programs, switch };
        let until = Instant::now() + UP_WITHIN;
        while !ends.values().all(|end| end.path.exists()) {
            if Instant::now() > until {
                bail!("socat has made no interfaces within {UP_WITHIN:?}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(ether)
    }

    /// Makes it worse, or as it was.
    pub fn shape(&self, network: Option<Network>) {
        *self.shared.network.lock().unwrap_or_else(PoisonError::into_inner) = network;
        self.shared.passed.store(0, Relaxed);
        self.shared.lost.store(0, Relaxed);
    }

    /// What it has done to packets since then.
    ///
    /// # Errors
    /// If nothing was sent, or far too little was lost.
    pub fn shaped(&self, network: Network) -> anyhow::Result<String> {
        let (passed, lost) = (self.shared.passed.load(Relaxed), self.shared.lost.load(Relaxed));
        let expected = (passed + lost) as f64 * network.loss_percent / 100.0;
        if passed == 0 || (expected > LOSSES_EXPECTED && (lost as f64) < expected / 4.0) {
            bail!("{passed} packets were passed on and {lost} lost");
        }
        let Network { delay, jitter, .. } = network;
        Ok(format!(
            "{lost} of {} packets were lost, the others came {delay:?} ± {jitter:?} later",
            passed + lost
        ))
    }

    /// Takes the interfaces away.
    pub async fn take_away(mut self) -> Vec<String> {
        self.switch.abort();
        let mut troubles = Vec::new();
        for program in &mut self.programs {
            if let Err(error) = program.kill().await {
                troubles.push(format!("socat may still run: {error}"));
            }
        }
        troubles
    }
}

fn socat(place: &Place, to: &Path, from: &Path) -> anyhow::Result<Child> {
    let Place { prefix, interface, address, .. } = place;
    let tun = format!("TUN:{address}/24,tun-type=tun,iff-no-pi,up,tun-name={interface}");
    let unix = format!("UNIX-SENDTO:{},bind={}", to.display(), from.display());
    let size = PACKET_BYTES.to_string();
    let words: Vec<&str> =
        prefix.iter().map(String::as_str).chain(["socat", "-b", &size]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args([tun, unix]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
    command.kill_on_drop(true).process_group(0).spawn().context("cannot start socat")
}

async fn run(socket: Socket, ends: HashMap<Ipv4Addr, End>, shared: Arc<Shared>) {
    let mut buffer = vec![0; PACKET_BYTES];
    loop {
        // An error is told when an end has gone: the others go on.
        let Ok((length, _)) = socket.incoming.recv_from(&mut buffer).await else { continue };
        let packet = buffer[..length].to_vec();
        let Some((from, to)) = addresses(&packet) else { continue };
        let (Some(from), Some(to)) = (ends.get(&from), ends.get(&to)) else { continue };
        let network = *shared.network.lock().unwrap_or_else(PoisonError::into_inner);
        let network = network.filter(|_| from.shaped);
        let (outgoing, to) = (socket.outgoing.clone(), to.path.clone());
        let Some(Network { delay, jitter, loss_percent }) = network else {
            if !passed_on(&outgoing, &packet, &to) {
                tokio::spawn(async move { hand_over(&outgoing, &packet, &to).await });
            }
            continue;
        };
        if rand::random_range(0.0..100.0) < loss_percent {
            shared.lost.fetch_add(1, Relaxed);
            continue;
        }
        shared.passed.fetch_add(1, Relaxed);
        let later = delay.saturating_sub(jitter) + jitter.mul_f64(rand::random_range(0.0..2.0));
        let at = Instant::now() + later;
        tokio::spawn(async move {
            tokio::time::sleep_until(at).await;
            hand_over(&outgoing, &packet, &to).await;
        });
    }
}

/// Whether an end has taken a packet, or has gone and loses it, as a host that is off does. If not, its
/// queue is full.
fn passed_on(socket: &StdDatagram, packet: &[u8], to: &Path) -> bool {
    let sent = socket.send_to(packet, to);
    !sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Hands a packet over once the end's queue has room; in the end it is lost, as in a router's queue.
async fn hand_over(socket: &StdDatagram, packet: &[u8], to: &Path) {
    for _ in 0..QUEUE_TRIES {
        if passed_on(socket, packet, to) {
            return;
        }
        tokio::time::sleep(QUEUE_PAUSE).await;
    }
}

/// Who has sent an IPv4 packet, and where it wants to go.
fn addresses(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let four = |at: usize| -> Option<[u8; 4]> { packet.get(at..at + 4)?.try_into().ok() };
    let (from, to) = (four(12)?, four(16)?);
    (packet[0] >> 4 == 4).then(|| (from.into(), to.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_tell_who_has_sent_them_and_where_they_want_to_go() {
        let mut packet = vec![0x45; 20];
        packet[12..20].copy_from_slice(&[10, 213, 7, 1, 10, 213, 7, 11]);
        let ends = (Ipv4Addr::new(10, 213, 7, 1), Ipv4Addr::new(10, 213, 7, 11));
        assert_eq!(addresses(&packet), Some(ends));
        assert_eq!(addresses(&packet[..19]), None);
        packet[0] = 0x60;
        assert_eq!(addresses(&packet), None);
    }

    #[tokio::test]
    async fn a_full_queue_stalls_nobody_and_is_emptied_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let switch = Socket::bind(&path("switch")).unwrap();
        let (slow, well) =
            (Socket::bind(&path("slow")).unwrap(), Socket::bind(&path("well")).unwrap());
        while passed_on(&switch.outgoing, b"x", &path("slow")) {}
        assert!(passed_on(&switch.outgoing, b"y", &path("well")));
        let mut buffer = [0; 1];
        assert_eq!(well.incoming.recv(&mut buffer).await.unwrap(), 1);
        let (outgoing, to) = (switch.outgoing.clone(), path("slow"));
        let waiting = tokio::spawn(async move { hand_over(&outgoing, b"z", &to).await });
        while buffer != *b"z" {
            slow.incoming.recv(&mut buffer).await.unwrap();
        }
        waiting.await.unwrap();
        assert!(passed_on(&switch.outgoing, b"x", &path("gone")), "nobody waits for who has gone");
    }
}
