//! Which packets are of a process: those of its sockets. Who runs while a packet is handled says nothing of that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ravel_records::client::Client;
use ravel_records::walks::{Crossing, Origin};
use ravel_records::{Error, Family, Id, Packet, Protocol, Socket, Text};

/// What is not known may be of a socket that was made since: how often that is looked for.
const AGAIN: Duration = Duration::from_millis(20);

/// A connection that the process has closed is its own for that long: it ends by packets.
const LINGERS: Duration = Duration::from_secs(60);

/// Packets that are kept in mind.
const MOST: usize = 1 << 16;

/// A process, and its sockets.
pub struct Process<'c> {
    client: &'c Client,
    pid: u32,
    /// When somebody last looked; none once the process is gone.
    looked: Option<Instant>,
    sockets: BTreeMap<Id, Known>,
    /// Those with addresses, by their local ports: most packets are of other processes.
    ports: BTreeMap<u16, Vec<Id>>,
    /// Packets that are its own.
    packets: BTreeSet<u64>,
}

/// A socket, and when it was last there.
struct Known {
    netns: u64,
    protocol: Protocol,
    ends: Option<Ends>,
    seen: Instant,
}

/// Where it is bound, and connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    local: SocketAddr,
    remote: Option<SocketAddr>,
}

impl<'c> Process<'c> {
    /// One that there is.
    pub fn new(client: &'c Client, pid: u32) -> Result<Self, Error> {
        let mut new = Self {
            client,
            pid,
            looked: None,
            sockets: BTreeMap::new(),
            ports: BTreeMap::new(),
            packets: BTreeSet::new(),
        };
        new.take(&client.sockets(pid)?.sockets);
        Ok(new)
    }

    fn take(&mut self, sockets: &[Socket]) {
        let now = Instant::now();
        self.looked = Some(now);
        for socket in sockets {
            if matches!(socket.family, Family::Inet | Family::Inet6) {
                let known = Known::of(socket, now);
                self.sockets.insert(socket.id, known);
            }
        }
        self.sockets.retain(|_, known| {
            let lasts = known.ends.is_some_and(|ends| ends.remote.is_some());
            known.seen == now || lasts && now - known.seen < LINGERS
        });
        self.ports.clear();
        for (id, known) in &self.sockets {
            if let Some(ends) = known.ends {
                self.ports.entry(ends.local.port()).or_default().push(*id);
            }
        }
    }

    /// Whether a packet is of one of its sockets.
    pub fn has(&mut self, packet: &Packet, crossing: &Crossing) -> Result<bool, Error> {
        if self.packets.contains(&crossing.packet) {
            return Ok(true);
        }
        let of_its_own = match crossing.origin {
            Origin::Clone(of) | Origin::Segment(of) => self.packets.contains(&of),
            Origin::Own | Origin::Unknown => false,
        };
        let mut is_own = of_its_own || self.knows(packet);
        if !is_own && self.looked.is_some_and(|at| at.elapsed() > AGAIN) {
            match self.client.sockets(self.pid) {
                Ok(report) => self.take(&report.sockets),
                // What it had goes on for a while.
                Err(error) if error.errno() == Some("ESRCH") => self.looked = None,
                Err(error) => return Err(error),
            }
            is_own = self.knows(packet);
        }
        if is_own {
            self.packets.insert(crossing.packet);
            if self.packets.len() > MOST {
                self.packets.pop_first();
            }
        }
        Ok(is_own)
    }

    fn knows(&self, packet: &Packet) -> bool {
        if !packet.id.is_none() && self.sockets.contains_key(&packet.id) {
            return true;
        }
        let (Some(from), Some(to)) = (address(&packet.from), address(&packet.to)) else {
            return false;
        };
        let of_port = |port: u16| self.ports.get(&port).into_iter().flatten();
        let mut ids = of_port(from.port()).chain(of_port(to.port()));
        ids.any(|id| {
            self.sockets.get(id).is_some_and(|known| {
                (packet.netns == 0 || packet.netns == known.netns)
                    && packet.carries == known.protocol
                    && known.ends.is_some_and(|ends| ends.has(from, to))
            })
        })
    }
}

impl Known {
    fn of(socket: &Socket, seen: Instant) -> Self {
        let detail = socket.detail.as_ref();
        Self {
            netns: socket.netns,
            protocol: socket.protocol.clone(),
            ends: detail.and_then(|detail| Ends::of(&detail.local, &detail.remote)),
            seen,
        }
    }
}

impl Ends {
    fn of(local: &Text, remote: &Text) -> Option<Self> {
        Some(Self {
            local: address(local).filter(|local| local.port() != 0)?,
            remote: address(remote).filter(|remote| remote.port() != 0),
        })
    }

    /// Whether a packet goes from one of them to the other, be one of them any.
    fn has(self, from: SocketAddr, to: SocketAddr) -> bool {
        let local = |end: SocketAddr| {
            let ip = self.local.ip();
            end.port() == self.local.port() && (ip.is_unspecified() || ip == end.ip())
        };
        let remote = |end: SocketAddr| self.remote.is_none_or(|remote| remote == end);
        local(from) && remote(to) || local(to) && remote(from)
    }
}

/// An address with its port; an IPv4 one as it is, where IPv6 maps it, too.
fn address(text: &Text) -> Option<SocketAddr> {
    let address = text.socket_address()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_of_the_socket_at_either_end() {
        let at = |text: &str| address(&Text::from(text)).unwrap();
        for (local, remote, from, to, wanted) in [
            (
                "10.0.0.1:80",
                "10.0.0.2:9",
                "10.0.0.1:80",
                "10.0.0.2:9",
                true,
            ),
            (
                "10.0.0.1:80",
                "10.0.0.2:9",
                "10.0.0.2:9",
                "10.0.0.1:80",
                true,
            ),
            (
                "10.0.0.1:80",
                "10.0.0.2:9",
                "10.0.0.2:8",
                "10.0.0.1:80",
                false,
            ),
            ("10.0.0.1:80", "", "10.0.0.3:7", "10.0.0.1:80", true),
            ("10.0.0.1:80", "", "10.0.0.3:80", "10.0.0.1:7", false),
            ("0.0.0.0:80", "0.0.0.0:0", "10.0.0.3:7", "10.0.0.1:80", true),
            ("[::]:80", "", "10.0.0.3:7", "10.0.0.1:80", true),
            (
                "[::ffff:10.0.0.1]:80",
                "",
                "10.0.0.3:7",
                "10.0.0.1:80",
                true,
            ),
            ("[::1]:80", "[::1]:9", "[::1]:9", "[::1]:80", true),
        ] {
            let ends = Ends::of(&Text::from(local), &Text::from(remote)).unwrap();
            assert_eq!(ends.has(at(from), at(to)), wanted, "{ends:?} {from} {to}");
        }
        assert_eq!(Ends::of(&Text::from("0.0.0.0:0"), &Text::from("")), None);
    }
}
