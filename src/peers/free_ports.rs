//! Ports for tests that are told an address before they listen there, or listen there again after a pause.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below all ports that a system gives away by itself: nobody's call has one of these for its own end, neither
/// between the look and the listening nor while a stopped node is away. (Where such a port was only looked for with
/// `bind` to port 0, one run in eighty failed beside other tests.)
const FIRST: u16 = 12_000;
/// How many a process of tests takes in turn, and how many such ranges there are: processes that run at the same time
/// have ids next to each other.
const EACH: u16 = 100;
const PROCESSES: u32 = 200;

/// An address on this machine's loopback whose port is free, for TCP and for UDP, and is given to nobody else in
/// this process.
pub(crate) fn free_address() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let range = u16::try_from(std::process::id() % PROCESSES).expect("less than 200");
    loop {
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
        assert!(taken < EACH, "the tests of one process take more than {EACH} ports");
        let address = SocketAddr::from(([127, 0, 0, 1], FIRST + range * EACH + taken));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}
