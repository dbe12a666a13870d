//! `ravel who`: the sockets that match, and everyone who holds them, anywhere on the machine.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ravel_records::client::Client;
use ravel_records::{Family, Holds, Sharer, Socket, Text};
use serde::Serialize;

use crate::proc::{Subject, Unread};
use crate::screen::plain;
use crate::sweep::{Held, Holder, Sweep};

/// The sockets that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Bound to this port.
    Port(u16),
    /// Bound to this address and port.
    Address(SocketAddr),
    /// The one with this inode.
    Inode(u64),
    /// Unix sockets bound to this path or, with `@` for its first byte, to this abstract name.
    Path(String),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| plain)
        };
        if text.starts_with(['/', '@']) && text.len() > 1 {
            return Ok(Self::Path(text.to_owned()));
        }
        let link = text
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(inode) = link.or(text.strip_prefix("inode:")) {
            let plain = inode.bytes().all(|byte| byte.is_ascii_digit());
            let inode = inode.parse().ok().filter(|_| plain);
            return inode
                .map(Self::Inode)
                .ok_or_else(|| "not an inode's number".to_owned());
        }
        let found = match text.rsplit_once(':') {
            Some(("", digits)) => port(digits).map(Self::Port),
            Some((address, digits)) => {
                let address = address
                    .strip_prefix('[')
                    .map_or(Some(address), |rest| rest.strip_suffix(']'));
                let ip: Option<IpAddr> = address.and_then(|address| address.parse().ok());
                ip.zip(port(digits))
                    .map(|(ip, port)| Self::Address(SocketAddr::new(ip, port)))
            }
            None => port(text).map(Self::Port),
        };
        found.ok_or_else(|| {
            "neither PORT, ADDRESS:PORT, inode:NUMBER nor the path of a unix socket".to_owned()
        })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port}"),
            Self::Address(address) => address.fmt(f),
            Self::Inode(inode) => write!(f, "inode {inode}"),
            Self::Path(path) => f.write_str(&plain(&path.as_str().into())),
        }
    }
}

impl Wanted {
    /// Whether a socket is meant.
    fn is(&self, socket: &Socket) -> bool {
        let Some(detail) = &socket.detail else {
            return matches!(self, Self::Inode(inode) if *inode == socket.inode);
        };
        let inet = matches!(socket.family, Family::Inet | Family::Inet6);
        let bound = detail.local.socket_address().filter(|_| inet);
        match self {
            Self::Inode(inode) => *inode == socket.inode,
            Self::Port(wanted) => bound.is_some_and(|end| end.port() == *wanted && *wanted != 0),
            Self::Address(wanted) => bound.is_some_and(|end| {
                let (ip, wanted_ip) = (end.ip().to_canonical(), wanted.ip().to_canonical());
                // What is bound to any address of a family is bound to this one. An IPv6 socket may take IPv4 as well.
                let any = ip.is_unspecified() && (end.is_ipv6() || wanted_ip.is_ipv4());
                end.port() == wanted.port() && (ip == wanted_ip || any)
            }),
            Self::Path(path) => socket.family == Family::Unix && detail.local == path.as_str(),
        }
    }
}

/// Who has a socket, and its other end.
#[derive(Clone, Debug, Serialize)]
pub struct Known {
    /// The socket, and the descriptors that were found.
    #[serde(flatten)]
    pub held: Held,
    /// References that are no descriptors: messages on their way, registered with a ring.
    pub others: Vec<Sharer>,
    /// References on the open file whose holders are not known; none where they were not looked up.
    pub unnamed: Option<u64>,
    /// Who has the other end open, where that is on this machine.
    pub peer_holders: Vec<Holder>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// The kernel's release.
    pub kernel: Text,
    /// Processes that were read.
    #[serde(rename = "processes_read")]
    pub processes: u64,
    /// What could not be read.
    pub unread: Unread,
    /// The sockets that match.
    pub sockets: Vec<Known>,
}

/// Looks for the holders of sockets, descriptors and others.
pub struct Seeker<'a> {
    sweep: &'a Sweep,
    client: Option<&'a Client>,
    left: usize,
    /// Look-ups that failed.
    pub unread: Unread,
}

/// For how many sockets the module is asked who holds what no descriptor does: it walks the machine for each.
const MAX_ASKED: usize = 32;

impl<'a> Seeker<'a> {
    /// Looks in what a sweep has found, and beyond it where there is somebody to ask.
    pub fn new(sweep: &'a Sweep, client: Option<&'a Client>) -> Self {
        Self {
            sweep,
            client,
            left: MAX_ASKED,
            unread: Unread::default(),
        }
    }

    /// Everyone who holds a socket, and who has its other end.
    pub fn know(&mut self, held: &Held) -> Known {
        let found = held.holders.len() as u64;
        let peer = held.socket.detail.as_ref();
        let peer = peer.and_then(|detail| self.sweep.peer(detail));
        let mut known = Known {
            held: held.clone(),
            others: Vec::new(),
            unnamed: None,
            peer_holders: peer.map_or_else(Vec::new, |peer| peer.holders.clone()),
        };
        if u64::try_from(held.socket.file_refs) == Ok(found) {
            known.unnamed = Some(0);
        } else if let (Some(client), true) = (self.client, self.left > 0) {
            self.left -= 1;
            look_up(&mut known, client, &mut self.unread);
        }
        known
    }
}

/// Finds the sockets that match, with their holders. Without a client, saved reports are all there is.
pub fn look(wanted: &Wanted, sweep: &Sweep, client: Option<&Client>) -> Answer {
    let matching = sweep.sockets.iter().filter(|held| wanted.is(&held.socket));
    let mut seeker = Seeker::new(sweep, client);
    let sockets = matching.map(|held| seeker.know(held)).collect();
    let mut unread = sweep.unread.clone();
    unread.0.append(&mut seeker.unread.0);
    Answer {
        kernel: sweep.kernel.clone(),
        processes: sweep.processes,
        unread,
        sockets,
    }
}

/// Looks up all references to a socket, descriptors and others. What is known stays as it is if that fails.
fn look_up(known: &mut Known, client: &Client, unread: &mut Unread) {
    for holder in known.held.holders.clone() {
        match client.sharers(holder.pid, holder.fd) {
            // The number may mean another file by now.
            Ok(report) if report.file.inode == known.held.socket.inode => {
                let (descriptors, others): (Vec<Sharer>, _) = report
                    .sharers
                    .into_iter()
                    .partition(|sharer| sharer.holds == Holds::Descriptor);
                known.held.holders = descriptors
                    .into_iter()
                    .map(|sharer| Holder {
                        pid: sharer.pid,
                        comm: sharer.comm,
                        fd: sharer.fd,
                    })
                    .collect();
                known.others = others;
                known.unnamed = Some(report.summary.unnamed);
                return;
            }
            Ok(_) => {}
            Err(error) if matches!(error.errno(), Some("ESRCH" | "EBADF")) => {}
            Err(error) => {
                unread.add(Subject::References, holder.pid, error);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_in_any_words() {
        let is = |text: &str, wanted| assert_eq!(text.parse(), Ok(wanted), "{text}");
        is("80", Wanted::Port(80));
        is(":80", Wanted::Port(80));
        is("127.0.0.1:80", Wanted::Address(([127, 0, 0, 1], 80).into()));
        for one in ["[::1]:80", "[0:0::1]:80", "::1:80"] {
            is(one, Wanted::Address("[::1]:80".parse().unwrap()));
        }
        is("inode:4711", Wanted::Inode(4711));
        is("socket:[4711]", Wanted::Inode(4711));
        is("/run/a:80", Wanted::Path("/run/a:80".into()));
        is("@name", Wanted::Path("@name".into()));
        for text in [
            "",
            ":",
            "70000",
            "+80",
            "x",
            "a:b",
            "localhost:80",
            "[::1:80",
            "inode:",
            "inode:x",
            "socket:[1",
            "@",
            "/",
        ] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
    }
}
