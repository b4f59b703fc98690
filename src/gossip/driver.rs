//! The thread: one loop that steps the control core and carries out what it says.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::clock::SystemClock;
use super::seeds::{RESOLVE_EVERY, RESOLVE_EVERY_SETTLED, Resolver, Seed};
use super::{ControlCore, Letters, Mail, Mailbox, Outlet};
use crate::peers::quiet::Quiet;
use crate::protocol::control::{ControlEffect, ControlInput, Level};
use crate::protocol::step::Change;
use crate::types::Mono;

/// The largest datagram that UDP can carry.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// The loop turns at least this often, so that one can see that it does.
const BEAT_EVERY_MICROS: u64 = 1_000_000;
/// After a socket error that is not about one datagram.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
/// A batch of changes that was refused is tried again after this.
const PERSIST_RETRY_MS: u64 = 1000;

/// What the thread needs to begin.
#[derive(Debug)]
pub struct Options {
    /// Bound already.
    pub socket: StdUdpSocket,
    /// Where to look for other nodes.
    pub seeds: Vec<Seed>,
    /// The node's clock.
    pub clock: SystemClock,
}

/// The thread of a control core.
#[derive(Debug)]
pub struct Gossip {
    beat: Arc<AtomicU64>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Gossip {
    /// Starts the thread. The core is locked while it is stepped; whoever else locks it, for a
    /// report or a hello, must be quick.
    ///
    /// # Errors
    /// If the system has no thread, timer or socket left.
    pub fn start<C: ControlCore>(
        core: Arc<Mutex<C>>,
        (mailbox, letters): (Mailbox, Letters),
        outlet: Arc<dyn Outlet>,
        options: Options,
    ) -> std::io::Result<Self> {
        options.socket.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Resolving names is all that ever blocks here.
            .max_blocking_threads(2)
            .build()?;
        let beat = Arc::new(AtomicU64::new(options.clock.mono().0));
        let stop = CancellationToken::new();
        let (thread_beat, thread_stop) = (beat.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("gossip".into()).spawn(move || {
            let guard = StopIfPanicking(outlet.clone());
            let result = runtime.block_on(async {
                let sender = options.socket.try_clone()?;
                let socket = UdpSocket::from_std(options.socket)?;
                let resolver = Resolver::new(options.seeds, socket.local_addr()?);
                tokio::spawn(resolve(resolver, core.clone(), mailbox));
                let driver = Driver {
                    core,
                    letters,
                    outlet,
                    socket,
                    sender,
                    clock: options.clock,
                    beat: thread_beat,
                    persists: VecDeque::new(),
                    retry: None,
                    effects: Vec::new(),
                    quiet: Quiet::default(),
                };
                driver.run(thread_stop).await;
                std::io::Result::Ok(())
            });
            if let Err(error) = result {
                guard.0.stop(format!("the gossip thread could not begin: {error}"));
            }
            // A resolver that hangs must not hold up the end.
            runtime.shutdown_background();
        })?;
        Ok(Self { beat, stop, thread: Some(thread) })
    }

    /// Where the loop notes, in microseconds of the node's clock, when it turned last.
    #[must_use]
    pub fn beat_cell(&self) -> Arc<AtomicU64> {
        self.beat.clone()
    }

    /// Ends the thread and waits for it.
    pub fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// A thread that dies must take the node with it: without gossip it would serve on, unseen.
struct StopIfPanicking(Arc<dyn Outlet>);

impl Drop for StopIfPanicking {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop("the gossip thread has panicked: this is a defect of this program".into());
        }
    }
}

struct Driver<C> {
    core: Arc<Mutex<C>>,
    letters: Letters,
    outlet: Arc<dyn Outlet>,
    socket: UdpSocket,
    /// The same socket, for sending: a runtime's would not send before its first turn.
    sender: StdUdpSocket,
    clock: SystemClock,
    beat: Arc<AtomicU64>,
    /// Batches that are not durable yet; the first one is with the committer, or was refused.
    persists: VecDeque<(u64, Vec<Change>)>,
    /// When to try a refused batch again.
    retry: Option<Mono>,
    effects: Vec<ControlEffect>,
    quiet: Quiet,
}

/// What woke the loop.
enum Event {
    Due,
    Mail(Mail),
    Datagram(SocketAddr, usize),
    Failed(std::io::Error),
    End,
}

impl<C: ControlCore> Driver<C> {
    async fn run(mut self, stop: CancellationToken) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let next = self.turn_timers();
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => Event::End,
                () = tokio::time::sleep_until(self.clock.instant(next)) => Event::Due,
                mail = self.letters.next() => mail.map_or(Event::End, Event::Mail),
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => Event::Datagram(from, length),
                    Err(error) => Event::Failed(error),
                },
            };
            match event {
                Event::Due => self.note_lag(next),
                Event::Mail(mail) => self.open(mail),
                Event::Datagram(from, length) => {
                    let counters = &self.letters.counters;
                    counters.datagrams_in.fetch_add(1, Ordering::Relaxed);
                    counters.datagram_bytes_in.fetch_add(length as u64, Ordering::Relaxed);
                    let bytes = Bytes::copy_from_slice(&buffer[..length]);
                    self.step(ControlInput::Datagram(from, bytes));
                }
                Event::Failed(error) => {
                    self.warn(format_args!("receiving on the gossip socket failed: {error}"));
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
                Event::End => return,
            }
        }
    }

    /// Does what is due, and says when the next thing will be.
    fn turn_timers(&mut self) -> Mono {
        let now = self.clock.mono();
        self.beat.store(now.0, Ordering::Relaxed);
        if self.retry.is_some_and(|retry| retry <= now) {
            self.retry = None;
            self.persist_first();
        }
        let mut next = self.lock().next_timer();
        if next.is_some_and(|next| next <= now) {
            self.step(ControlInput::Tick);
            next = self.lock().next_timer();
        }
        // A core whose timer stays due must not keep the loop from everything else.
        let soonest = now.after_millis(1);
        let beat = now.after_micros(BEAT_EVERY_MICROS);
        next.map_or(beat, |next| next.clamp(soonest, beat)).min(self.retry.unwrap_or(beat))
    }

    fn open(&mut self, mail: Mail) {
        match mail {
            Mail::Input(input) => self.step(input),
            Mail::Stored(id) => {
                if self.persists.front().is_some_and(|(first, _)| *first == id) {
                    self.persists.pop_front();
                    self.persist_first();
                    self.step(ControlInput::Persisted(id));
                }
            }
            Mail::Refused(id) => {
                if self.persists.front().is_some_and(|(first, _)| *first == id) {
                    self.retry = Some(self.clock.mono().after_millis(PERSIST_RETRY_MS));
                    self.warn(format_args!(
                        "the store refused what the cluster's membership needs to remember; \
                         trying again every {PERSIST_RETRY_MS} ms"
                    ));
                }
            }
        }
    }

    fn step(&mut self, input: ControlInput) {
        let now = self.clock.now();
        let mut effects = std::mem::take(&mut self.effects);
        self.lock().step(now, input, &mut effects);
        for effect in effects.drain(..) {
            self.carry_out(effect);
        }
        self.effects = effects;
    }

    fn carry_out(&mut self, effect: ControlEffect) {
        match effect {
            ControlEffect::SendDatagram(to, bytes) => self.send_datagram(to, &bytes),
            ControlEffect::Send(to, message) => self.outlet.send(to, message),
            ControlEffect::Connect(addresses) => self.outlet.connect(&addresses),
            ControlEffect::Accept(conn, peer) => self.outlet.accept(conn, peer),
            ControlEffect::Reject(conn, reason) => self.outlet.reject(conn, reason),
            ControlEffect::Persist(id, changes) => {
                self.persists.push_back((id, changes));
                if self.persists.len() == 1 {
                    self.persist_first();
                }
            }
            ControlEffect::Note(changes) => self.outlet.note(changes),
            ControlEffect::View(view) => self.outlet.view(view),
            ControlEffect::Reachability(peer, is) => self.outlet.reachability(peer, is),
            ControlEffect::Conditions(conditions) => self.outlet.conditions(conditions),
            ControlEffect::Log(Level::Warn, line) => tracing::warn!("{line}"),
            ControlEffect::Log(Level::Info, line) => tracing::info!("{line}"),
            ControlEffect::Stop(reason) => self.outlet.stop(reason),
            ControlEffect::ComeBack(reason) => self.outlet.come_back(reason),
            ControlEffect::Decommissioned(reason) => self.outlet.decommissioned(reason),
            ControlEffect::Answer(id, answer) => self.outlet.answer(id, answer),
        }
    }

    fn persist_first(&self) {
        if let Some((id, changes)) = self.persists.front() {
            self.outlet.persist(*id, changes.clone());
        }
    }

    /// Datagrams may be lost: what the kernel does not take at once is.
    fn send_datagram(&self, to: SocketAddr, bytes: &[u8]) {
        let counters = &self.letters.counters;
        match self.sender.send_to(bytes, to) {
            Ok(_) => {
                counters.datagrams_out.fetch_add(1, Ordering::Relaxed);
                counters.datagram_bytes_out.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Err(error) => {
                counters.datagrams_failed.fetch_add(1, Ordering::Relaxed);
                if error.kind() != std::io::ErrorKind::WouldBlock {
                    self.warn(format_args!("a datagram to {to} could not be sent: {error}"));
                }
            }
        }
    }

    /// A loaded machine delays timers, which makes false suspicions: worth showing.
    fn note_lag(&self, due: Mono) {
        let late = self.clock.mono().micros_since(due);
        self.letters.counters.lag_max_micros.fetch_max(late, Ordering::Relaxed);
    }

    fn warn(&self, line: std::fmt::Arguments<'_>) {
        if let Some(others) = self.quiet.allow() {
            tracing::warn!(others, "{line}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, C> {
        self.core.lock().expect("the control core has panicked before")
    }
}

/// Tells the core what the seeds are, for ever.
async fn resolve<C: ControlCore>(resolver: Resolver, core: Arc<Mutex<C>>, mailbox: Mailbox) {
    loop {
        mailbox.input(ControlInput::Seeds(resolver.resolve().await));
        let settled = core.lock().is_ok_and(|core| core.settled());
        let pause = if settled { RESOLVE_EVERY_SETTLED } else { RESOLVE_EVERY };
        tokio::time::sleep(pause).await;
    }
}
