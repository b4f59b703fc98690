//! The ports of a node, bound before anything is written to disk.

use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};

use crate::config::Listen;

/// All ports, bound.
#[derive(Debug)]
pub struct Ports {
    /// gRPC for clients.
    pub client: TcpListener,
    /// Streams between nodes.
    pub internal: TcpListener,
    /// Gossip, on the same number.
    pub gossip: UdpSocket,
    /// HTTP for operators.
    pub admin: TcpListener,
}

/// A port cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({protocol}) for {purpose}: {hint} (setting `{setting}`)")]
pub struct PortError {
    address: SocketAddr,
    protocol: &'static str,
    purpose: &'static str,
    setting: &'static str,
    hint: &'static str,
    #[source]
    source: Error,
}

impl Ports {
    /// Binds them all.
    ///
    /// # Errors
    /// The first that cannot be bound, what it is for, and what to do.
    pub fn bind(listen: &Listen) -> Result<Self, PortError> {
        let tcp = |address, purpose, setting| {
            let bound = TcpListener::bind(address)
                .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
            bound.map_err(|source| error(address, "TCP", purpose, setting, source))
        };
        let internal = "other nodes";
        Ok(Self {
            client: tcp(listen.client, "clients (gRPC)", "listen.client")?,
            internal: tcp(listen.internal, internal, "listen.internal")?,
            gossip: UdpSocket::bind(listen.internal).map_err(|source| {
                error(listen.internal, "UDP", internal, "listen.internal", source)
            })?,
            admin: tcp(listen.admin, "operators (HTTP)", "listen.admin")?,
        })
    }
}

fn error(
    address: SocketAddr,
    protocol: &'static str,
    purpose: &'static str,
    setting: &'static str,
    source: Error,
) -> PortError {
    let hint = match source.kind() {
        ErrorKind::AddrInUse => {
            "another process has this port, perhaps a node that still runs: stop it, or choose \
             another port"
        }
        ErrorKind::AddrNotAvailable => "this machine does not have that address: choose another",
        ErrorKind::PermissionDenied => {
            "not permitted: choose a port above 1023, or give the process the right to it"
        }
        _ => "the system refuses: check the address",
    };
    PortError { address, protocol, purpose, setting, hint, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::free_ports::free_address as free;

    #[test]
    fn a_port_in_use_is_named_with_its_purpose_and_its_setting() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = taken.local_addr().unwrap();
        let listen = Listen { client: free(), internal: free(), admin, insecure: false };
        let error = Ports::bind(&listen).unwrap_err().to_string();
        for part in [&admin.to_string(), "operators (HTTP)", "listen.admin", "another process"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn gossip_and_streams_share_a_number() {
        let listen = Listen { client: free(), internal: free(), admin: free(), insecure: false };
        let ports = Ports::bind(&listen).unwrap();
        assert_eq!(ports.gossip.local_addr().unwrap(), ports.internal.local_addr().unwrap());
    }
}
