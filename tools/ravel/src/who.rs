//! `ravel who`: which sockets are meant, and everyone who holds them, wherever they are on the machine.

use std::fmt;
use std::str::FromStr;

use ravel_records::client::Client;
use ravel_records::{Error, Family, Holds, Id, Sharer, Socket, Text};
use serde::Serialize;

use crate::screen::plain;
use crate::sweep::{Held, Holder, Sweep};

/// The sockets that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Bound to this port.
    Port(u16),
    /// Bound to this address and port.
    Address(String, u16),
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
                port(digits).map(|port| Self::Address(address.to_owned(), port))
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
            Self::Address(address, port) => write!(f, "{address}:{port}"),
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
        let local = detail.local.to_string();
        let bound = local
            .rsplit_once(':')
            .and_then(|(address, port)| Some((address, port.parse::<u16>().ok()?)))
            .filter(|_| inet);
        match self {
            Self::Inode(inode) => *inode == socket.inode,
            Self::Port(wanted) => bound.is_some_and(|(_, port)| port == *wanted && port != 0),
            Self::Address(wanted, number) => bound.is_some_and(|(address, port)| {
                // What is bound to any address is bound to this one.
                port == *number && (address == wanted || matches!(address, "0.0.0.0" | "[::]"))
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
    /// References on the open file that nobody was found to have; none where they were not looked for.
    pub unnamed: Option<u64>,
    /// Who has the other end open, where that is on this machine.
    pub peer_holders: Vec<Holder>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// The kernel's release.
    pub kernel: Text,
    /// Processes that were asked.
    pub processes: u64,
    /// The sockets that are meant.
    pub sockets: Vec<Known>,
}

/// Looks for the holders of sockets, descriptors and others.
pub struct Seeker<'a> {
    sweep: &'a Sweep,
    client: Option<&'a Client>,
    left: usize,
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
        }
    }

    /// Everyone who holds a socket, and who has its other end.
    pub fn know(&mut self, held: &Held) -> Result<Known, Error> {
        let found = held.holders.len() as u64;
        let mut known = Known {
            held: held.clone(),
            others: Vec::new(),
            unnamed: None,
            peer_holders: Vec::new(),
        };
        let peer = held.socket.detail.as_ref().map_or(Id::NONE, |of| of.peer);
        if let Some(peer) = self.sweep.socket(peer) {
            known.peer_holders = peer.holders.clone();
        }
        if u64::try_from(held.socket.file_refs) == Ok(found) {
            known.unnamed = Some(0);
        } else if let (Some(client), true) = (self.client, self.left > 0) {
            self.left -= 1;
            ask(&mut known, client)?;
        }
        Ok(known)
    }
}

/// Looks for everyone who holds the sockets that are wanted. Without a client, saved reports are all there is.
pub fn look(wanted: &Wanted, sweep: &Sweep, client: Option<&Client>) -> Result<Answer, Error> {
    let meant = sweep.sockets.iter().filter(|held| wanted.is(&held.socket));
    let mut seeker = Seeker::new(sweep, client);
    let sockets = meant
        .map(|held| seeker.know(held))
        .collect::<Result<_, _>>()?;
    Ok(Answer {
        kernel: sweep.kernel.clone(),
        processes: sweep.processes,
        sockets,
    })
}

/// Asks for all references of a socket, descriptors and others.
fn ask(known: &mut Known, client: &Client) -> Result<(), Error> {
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
                return Ok(());
            }
            Ok(_) => {}
            Err(error) if matches!(error.errno(), Some("ESRCH" | "EBADF")) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_in_any_words() {
        let is = |text: &str, wanted| assert_eq!(text.parse(), Ok(wanted), "{text}");
        is("80", Wanted::Port(80));
        is(":80", Wanted::Port(80));
        is("127.0.0.1:80", Wanted::Address("127.0.0.1".into(), 80));
        is("[::1]:80", Wanted::Address("[::1]".into(), 80));
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
