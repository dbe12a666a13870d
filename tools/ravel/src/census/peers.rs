//! The other end of a connection, wherever on the machine it is.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::net::SocketAddr;

use ravel_records::Protocol;

use super::Census;
use super::procnet::Translated;
use super::socket::{Sock, What, canonical, is_loopback};

/// What both ends of a connection have in common: its protocol, and the addresses as one of them
/// has them.
type Key = (Protocol, SocketAddr, SocketAddr);

/// Translations that are followed, one after the other, from one end to the other.
const MAX_TRANSLATIONS: usize = 8;

/// The connections of the machine, by their addresses.
pub struct Peers<'a> {
    census: &'a Census,
    connections: HashMap<Key, Vec<usize>>,
    translated: OnceCell<Vec<Translated>>,
}

/// The other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its place in the list of sockets.
    pub at: usize,
    /// The addresses of the two differ: they are translated on the way.
    pub is_translated: bool,
    /// The connection waits for accept(), and this is the listener.
    pub is_listener: bool,
}

impl<'a> Peers<'a> {
    /// Sorts the connections of a census.
    pub fn of(census: &'a Census) -> Self {
        let mut connections: HashMap<Key, Vec<usize>> = HashMap::new();
        for (at, sock) in census.socks.iter().enumerate() {
            if let Some((local, remote)) = addresses(sock) {
                let key = (sock.protocol.clone(), local, remote);
                connections.entry(key).or_default().push(at);
            }
        }
        Self {
            census,
            connections,
            translated: OnceCell::new(),
        }
    }

    /// The other end of a socket's connection; none if it has none, or if that is not on this
    /// machine.
    pub fn find(&self, at: usize) -> Option<Peer> {
        let sock = &self.census.socks[at];
        if let Some(unix) = &sock.unix {
            return self.unix(sock, unix.peer?);
        }
        let (local, remote) = addresses(sock)?;
        let direct = self.at(sock, remote, local);
        if let Some(at) = direct {
            return Some(Peer {
                at,
                is_translated: false,
                is_listener: false,
            });
        }
        // What is sent to a loopback address leaves the namespace only if it is translated.
        let at = self.behind_translation(sock, local, remote)?;
        Some(Peer {
            at,
            is_translated: true,
            is_listener: false,
        })
    }

    fn unix(&self, sock: &Sock, peer: u64) -> Option<Peer> {
        let connected = self.census.with_inode(peer).first().copied();
        if let Some(at) = connected.filter(|_| peer != 0) {
            return Some(Peer {
                at,
                is_translated: false,
                is_listener: false,
            });
        }
        // The socket that accept() is to return has no inode yet.
        let waits = |of: &Sock| {
            let unix = of.unix.as_ref();
            unix.is_some_and(|unix| unix.pending.contains(&sock.inode))
        };
        let at = self.census.socks.iter().position(waits)?;
        Some(Peer {
            at,
            is_translated: false,
            is_listener: true,
        })
    }

    /// The socket with these addresses: in the namespace of the other one, or in the only other
    /// namespace that has one.
    fn at(&self, of: &Sock, local: SocketAddr, remote: SocketAddr) -> Option<usize> {
        let key = (of.protocol.clone(), local, remote);
        let found = self.connections.get(&key)?;
        let socks = &self.census.socks;
        let is_whole = |at: &&usize| socks[**at].what != What::Remnant;
        let nearest = |is_wanted: &dyn Fn(&Sock) -> bool| {
            let mut wanted = found.iter().filter(|at| is_wanted(&socks[**at]));
            let mut whole = wanted.clone().filter(is_whole);
            match (whole.next(), whole.next()) {
                (Some(at), None) => Some(*at),
                (Some(_), Some(_)) => None,
                (None, _) => match (wanted.next(), wanted.next()) {
                    (Some(at), None) => Some(*at),
                    _ => None,
                },
            }
        };
        let inside = nearest(&|sock| sock.netns == of.netns);
        let leaves = !is_loopback(local.ip()) && !is_loopback(remote.ip());
        inside.or_else(|| match leaves {
            true => nearest(&|sock| sock.netns != of.netns),
            false => None,
        })
    }

    fn behind_translation(
        &self,
        sock: &Sock,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Option<usize> {
        let all = self.translated.get_or_init(|| {
            let namespaces = self.census.namespaces.keys();
            namespaces
                .flat_map(|netns| self.census.translated(*netns).unwrap_or_default())
                .collect()
        });
        // Forward, as who began the connection; and backward, as who was called.
        let mut forward = (local, remote);
        let mut backward = (remote, local);
        for _ in 0..MAX_TRANSLATIONS {
            let next = all.iter().find(|of| of.before == forward);
            let before = all.iter().find(|of| of.after == backward);
            if let Some(next) = next {
                forward = next.after;
                if let Some(at) = self.at(sock, forward.1, forward.0) {
                    return Some(at);
                }
            }
            if let Some(before) = before {
                backward = before.before;
                if let Some(at) = self.at(sock, backward.0, backward.1) {
                    return Some(at);
                }
            }
            if next.is_none() && before.is_none() {
                return None;
            }
        }
        None
    }
}

fn addresses(sock: &Sock) -> Option<(SocketAddr, SocketAddr)> {
    let ends = sock.ends?;
    Some((canonical(ends.local), canonical(ends.remote?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::socket::{Ends, Unix};
    use ravel_records::{Family, SkState, SocketKind};

    fn connection(netns: u64, local: &str, remote: &str) -> Sock {
        Sock {
            netns,
            inode: 0,
            family: Family::Inet,
            kind: SocketKind::Stream,
            protocol: Protocol::Tcp,
            state: SkState::Established,
            what: What::Socket,
            ends: Some(Ends {
                local: local.parse().unwrap(),
                remote: Some(remote.parse().unwrap()),
                v6only: None,
                device: 0,
            }),
            unix: None,
            uid: None,
            waiting: 0,
            is_subflow: false,
        }
    }

    fn found(socks: Vec<Sock>, at: usize) -> Option<usize> {
        let census = Census {
            socks,
            ..Census::default()
        };
        let found = Peers::of(&census).find(at).map(|peer| peer.at);
        found
    }

    #[test]
    fn ends_in_one_namespace_and_in_two() {
        let (one, two) = ("10.0.0.1:80", "10.0.0.2:9");
        let socks = vec![
            connection(1, one, two),
            connection(2, two, one),
            connection(3, "127.0.0.1:80", "127.0.0.1:9"),
            connection(4, "127.0.0.1:9", "127.0.0.1:80"),
            connection(3, "[::ffff:127.0.0.1]:9", "[::ffff:127.0.0.1]:80"),
        ];
        assert_eq!(found(socks.clone(), 0), Some(1));
        assert_eq!(found(socks.clone(), 1), Some(0));
        // Each namespace has a loopback device of its own.
        assert_eq!(found(socks.clone(), 2), Some(4));
        assert_eq!(found(socks, 3), None);
        let twice = vec![
            connection(1, one, two),
            connection(2, two, one),
            connection(3, two, one),
        ];
        assert_eq!(found(twice, 0), None);
    }

    #[test]
    fn a_remnant_is_the_other_end_if_nothing_else_is() {
        let (one, two) = ("10.0.0.1:80", "10.0.0.2:9");
        let mut left = connection(1, two, one);
        left.what = What::Remnant;
        let socks = vec![connection(1, one, two), left.clone()];
        assert_eq!(found(socks, 0), Some(1));
        let socks = vec![connection(1, one, two), left, connection(1, two, one)];
        assert_eq!(found(socks, 0), Some(2));
    }

    #[test]
    fn translated_connections_are_followed() {
        let of = |address: &str| address.parse::<SocketAddr>().unwrap();
        let (client, public, server) = ("10.0.0.2:4", "192.0.2.1:80", "172.17.0.2:8080");
        let census = Census {
            socks: vec![connection(1, client, public), connection(2, server, client)],
            ..Census::default()
        };
        let peers = Peers::of(&census);
        let entry = Translated {
            before: (of(client), of(public)),
            after: (of(client), of(server)),
        };
        peers.translated.set(vec![entry]).unwrap();
        let other = |at| peers.find(at).map(|peer| (peer.at, peer.is_translated));
        assert_eq!(other(0), Some((1, true)));
        assert_eq!(other(1), Some((0, true)));
    }

    #[test]
    fn unix_clients_wait_at_their_listener() {
        let unix = |inode, peer, pending: &[u64]| {
            let mut sock = connection(1, "10.0.0.1:1", "10.0.0.1:2");
            (sock.inode, sock.ends, sock.family) = (inode, None, Family::Unix);
            sock.unix = Some(Unix {
                peer,
                pending: pending.to_vec(),
                ..Unix::default()
            });
            sock
        };
        let socks = vec![unix(5, Some(0), &[]), unix(6, None, &[5])];
        assert_eq!(found(socks, 0), Some(1));
    }
}
