//! Which sockets would receive what is sent to an address, by the rules of the kernel's lookup.
//!
//! `net/ipv4/inet_hashtables.c`, `net/ipv6/inet6_hashtables.c` and `net/ipv4/udp.c`: a socket that
//! is bound to the address comes before one that is bound to any address. Of several TCP listeners
//! at one address, all of which have SO_REUSEPORT, the first in the kernel's list decides, which is
//! the order of sock_diag; its group shares what is sent. Of UDP sockets, one that is bound to a
//! device comes before one that is not, and an IPv4 socket before an IPv6 one. What programs of
//! `BPF_SK_LOOKUP` and of SO_ATTACH_REUSEPORT_EBPF choose is not known.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ravel_records::{Family, Protocol, SkState};

use super::socket::{Ends, Sock, What, canonical, is_loopback};

/// The index of the loopback device in every namespace.
const LOOPBACK: u32 = 1;

/// A socket that is bound to an address that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Its place in the list of sockets.
    pub at: usize,
    /// The place in which the kernel's lookup chooses it, from 1; sockets of one place share what
    /// is sent. None if the lookup does not choose it.
    pub order: Option<u32>,
}

/// What the kernel's lookup compares, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    exact: Reverse<bool>,
    score: Reverse<u8>,
    list: usize,
}

/// Whether an address that a socket is bound to covers an IP address: exactly (true), or as any
/// address (false).
fn covers(sock: &Sock, ends: &Ends, ip: IpAddr) -> Option<bool> {
    let bound = ends.local.ip();
    if bound.to_canonical() == ip {
        return Some(true);
    }
    let is_any = match (bound, ip) {
        (IpAddr::V4(any), IpAddr::V4(_)) => any.is_unspecified(),
        // Of one whose IPV6_V6ONLY is not known, the default is assumed.
        (IpAddr::V6(any), IpAddr::V4(_)) => any.is_unspecified() && ends.v6only != Some(true),
        (IpAddr::V6(any), IpAddr::V6(_)) => any.is_unspecified(),
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    };
    let is_inet = matches!(sock.family, Family::Inet | Family::Inet6);
    (is_any && is_inet).then_some(false)
}

/// Whether a socket that is bound to a device can get what is sent to an address.
fn reaches(ends: &Ends, to: IpAddr, scope: Option<u32>) -> bool {
    match (ends.device, scope) {
        (0, _) => true,
        (device, Some(scope)) => device == scope,
        (device, None) => !is_loopback(to) || device == LOOPBACK,
    }
}

/// Whether a socket takes new connections or datagrams.
fn receives(sock: &Sock) -> bool {
    match sock.protocol {
        Protocol::Udp | Protocol::Udplite => sock.what == What::Socket,
        // A subflow's listener stands for that of its MPTCP socket, which is in the list as well.
        _ => sock.listens() && !sock.is_subflow,
    }
}

/// The rank of a socket that receives; `list`: the place of its group in the kernel's list.
fn rank(sock: &Sock, ends: &Ends, exact: bool, list: usize) -> Rank {
    let device = 4 * u8::from(ends.device != 0);
    let family = u8::from(sock.family == Family::Inet);
    let (score, list) = match sock.protocol {
        Protocol::Udp | Protocol::Udplite => (device + family, 0),
        _ => (0, list),
    };
    Rank {
        exact: Reverse(exact),
        score: Reverse(score),
        list,
    }
}

/// The sockets of one namespace that are bound to an address, those first that would receive what
/// is sent there, in the order of the kernel's choice; `scope`: index of the device by which a
/// link-local address is reached.
pub fn lookup(socks: &[Sock], netns: u64, to: SocketAddr, scope: Option<u32>) -> Vec<Match> {
    let to = canonical(to);
    let mut receivers: Vec<(Protocol, Rank, usize)> = Vec::new();
    let mut others: Vec<(Protocol, SkStateOrder, usize)> = Vec::new();
    let mut groups: BTreeMap<(Protocol, bool, Family, u32), usize> = BTreeMap::new();
    for (at, sock) in socks.iter().enumerate() {
        let Some(ends) = &sock.ends else {
            continue;
        };
        if sock.netns != netns || ends.local.port() != to.port() {
            continue;
        }
        let Some(exact) = covers(sock, ends, to.ip()) else {
            continue;
        };
        // What is connected gets what its peer sends alone.
        match receives(sock) && ends.remote.is_none() && reaches(ends, to.ip(), scope) {
            true => {
                let protocol = sock.protocol.clone();
                let group = (protocol.clone(), exact, sock.family.clone(), ends.device);
                let list = *groups.entry(group).or_insert(at);
                receivers.push((protocol, rank(sock, ends, exact, list), at));
            }
            false => others.push((sock.protocol.clone(), SkStateOrder::of(sock), at)),
        }
    }
    receivers.sort_by_key(|(protocol, rank, at)| (protocol.clone(), *rank, *at));
    others.sort();
    let mut order = 0;
    let mut found = Vec::new();
    for (place, (protocol, rank, at)) in receivers.iter().enumerate() {
        let before = place.checked_sub(1).map(|before| &receivers[before]);
        let is_same = before.is_some_and(|(other, of, before)| {
            let same_device = device(&socks[*before]) == device(&socks[*at]);
            other == protocol && of == rank && same_device
        });
        let is_first = before.is_none_or(|(other, ..)| other != protocol);
        order = match (is_first, is_same) {
            (true, _) => 1,
            (false, true) => order,
            (false, false) => order + 1,
        };
        found.push(Match {
            at: *at,
            order: Some(order),
        });
    }
    found.extend(others.into_iter().map(|(.., at)| Match { at, order: None }));
    found
}

fn device(sock: &Sock) -> u32 {
    sock.ends.map_or(0, |ends| ends.device)
}

/// The order of sockets that receive nothing new: connections before what is left of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SkStateOrder(u8);

impl SkStateOrder {
    fn of(sock: &Sock) -> Self {
        Self(match (sock.what, &sock.state) {
            (_, SkState::Listen) => 0,
            (What::Socket, _) => 1,
            (What::NotAccepted, _) => 2,
            (What::Request, _) => 3,
            (What::Orphan, _) => 4,
            (What::Remnant, _) => 5,
        })
    }
}

/// The sockets that are bound to a port, and to an address or any address of its family or another,
/// in the order of their namespaces: `None` for all addresses.
pub fn bound(socks: &[Sock], port: u16, ip: Option<IpAddr>) -> Vec<usize> {
    let ip = ip.map(|ip| ip.to_canonical());
    let is_wanted = |sock: &Sock| {
        let Some(ends) = &sock.ends else {
            return false;
        };
        let local = ends.local.ip();
        let covered = ip.is_none_or(|ip| {
            ip.is_unspecified() || local.is_unspecified() || local.to_canonical() == ip
        });
        ends.local.port() == port && covered
    };
    let mut found: Vec<usize> = (0..socks.len())
        .filter(|at| is_wanted(&socks[*at]))
        .collect();
    found.sort_by_key(|at| {
        let sock = &socks[*at];
        (sock.netns, sock.protocol.clone(), SkStateOrder::of(sock))
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use ravel_records::SocketKind;

    /// A socket in LISTEN, or of UDP.
    fn sock(local: &str) -> Sock {
        let local: SocketAddr = local.parse().unwrap();
        Sock {
            netns: 1,
            inode: 7,
            family: match local {
                SocketAddr::V4(_) => Family::Inet,
                SocketAddr::V6(_) => Family::Inet6,
            },
            kind: SocketKind::Stream,
            protocol: Protocol::Tcp,
            state: SkState::Listen,
            what: What::Socket,
            ends: Some(Ends {
                local,
                remote: None,
                v6only: local.is_ipv6().then_some(false),
                device: 0,
            }),
            unix: None,
            uid: None,
            waiting: 0,
            is_subflow: false,
        }
    }

    fn with(mut sock: Sock, change: impl FnOnce(&mut Sock, &mut Ends)) -> Sock {
        let mut ends = sock.ends.unwrap();
        change(&mut sock, &mut ends);
        sock.ends = Some(ends);
        sock
    }

    fn v6only(local: &str) -> Sock {
        with(sock(local), |_, ends| ends.v6only = Some(true))
    }

    fn connected(local: &str, remote: &str) -> Sock {
        with(sock(local), |sock, ends| {
            sock.state = SkState::Established;
            ends.remote = Some(remote.parse().unwrap());
        })
    }

    fn chosen(socks: &[Sock], to: &str) -> Vec<(usize, Option<u32>)> {
        let found = lookup(socks, 1, to.parse().unwrap(), None);
        found.iter().map(|of| (of.at, of.order)).collect()
    }

    #[test]
    fn the_address_comes_before_any() {
        let socks = [
            sock("0.0.0.0:80"),
            sock("[::]:80"),
            sock("127.0.0.1:80"),
            sock("10.0.0.1:80"),
        ];
        let want = [(2, Some(1)), (0, Some(2)), (1, Some(3))];
        assert_eq!(chosen(&socks, "127.0.0.1:80"), want);
        assert_eq!(chosen(&socks, "[::ffff:127.0.0.1]:80"), want);
        assert_eq!(chosen(&socks, "[::1]:80"), [(1, Some(1))]);
        assert_eq!(chosen(&socks, "127.0.0.1:81"), []);
    }

    #[test]
    fn ipv6_alone_gets_no_ipv4() {
        let socks = [v6only("[::]:80"), v6only("[::1]:80"), sock("0.0.0.0:81")];
        assert_eq!(chosen(&socks, "127.0.0.1:80"), []);
        assert_eq!(chosen(&socks, "[::1]:80"), [(1, Some(1)), (0, Some(2))]);
        assert_eq!(chosen(&socks, "[::1]:81"), []);
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let socks = [
            sock("[::ffff:127.0.0.1]:80"),
            connected("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]:9"),
        ];
        assert_eq!(chosen(&socks, "127.0.0.1:80"), [(0, Some(1)), (1, None)]);
        assert_eq!(chosen(&socks, "[::1]:80"), []);
    }

    #[test]
    fn groups_share_a_place() {
        let other = with(sock("0.0.0.0:80"), |sock, _| sock.netns = 2);
        let socks = [
            sock("0.0.0.0:80"),
            sock("127.0.0.1:80"),
            sock("127.0.0.1:80"),
            other,
        ];
        let want = [(1, Some(1)), (2, Some(1)), (0, Some(2))];
        assert_eq!(chosen(&socks, "127.0.0.1:80"), want);
    }

    #[test]
    fn devices_decide_what_arrives() {
        let on = |device| with(sock("0.0.0.0:80"), |_, ends| ends.device = device);
        let socks = [sock("0.0.0.0:80"), on(1), on(4)];
        let want = [(0, Some(1)), (1, Some(2)), (2, None)];
        assert_eq!(chosen(&socks, "127.0.0.1:80"), want);
        let want = [(0, Some(1)), (1, Some(2)), (2, Some(3))];
        assert_eq!(chosen(&socks, "10.0.0.1:80"), want);
        let udp = |device| with(on(device), |sock, _| sock.protocol = Protocol::Udp);
        let want = [(1, Some(1)), (0, Some(2))];
        assert_eq!(chosen(&[udp(0), udp(1)], "10.0.0.1:80"), want);
        let link = |device| with(sock("[fe80::1]:80"), |_, ends| ends.device = device);
        let found = lookup(
            &[link(3), link(4)],
            1,
            "[fe80::1]:80".parse().unwrap(),
            Some(4),
        );
        assert_eq!(
            found,
            [
                Match {
                    at: 1,
                    order: Some(1)
                },
                Match { at: 0, order: None }
            ]
        );
    }

    #[test]
    fn protocols_are_counted_by_themselves() {
        let udp = |local| {
            with(sock(local), |sock, _| {
                (sock.protocol, sock.state) = (Protocol::Udp, SkState::Close);
            })
        };
        let to_peer = with(udp("127.0.0.1:80"), |_, ends| {
            ends.remote = Some("127.0.0.1:9".parse().unwrap());
        });
        let socks = [
            udp("0.0.0.0:80"),
            sock("0.0.0.0:80"),
            udp("127.0.0.1:80"),
            to_peer,
        ];
        let want = [(1, Some(1)), (2, Some(1)), (0, Some(2)), (3, None)];
        assert_eq!(chosen(&socks, "127.0.0.1:80"), want);
    }

    #[test]
    fn what_is_bound_and_receives_nothing_is_listed_last() {
        let idle = with(sock("127.0.0.1:80"), |sock, _| {
            sock.state = SkState::BoundInactive
        });
        let left = with(connected("127.0.0.1:80", "127.0.0.1:9"), |sock, _| {
            (sock.state, sock.what) = (SkState::TimeWait, What::Remnant);
        });
        let subflow = with(sock("127.0.0.1:80"), |sock, _| sock.is_subflow = true);
        let socks = [left, idle, subflow];
        assert_eq!(
            chosen(&socks, "127.0.0.1:80"),
            [(2, None), (1, None), (0, None)]
        );
    }

    #[test]
    fn everything_that_is_bound() {
        let socks = [
            v6only("[::]:80"),
            sock("127.0.0.1:80"),
            sock("127.0.0.2:80"),
            sock("0.0.0.0:81"),
        ];
        assert_eq!(bound(&socks, 80, None), [0, 1, 2]);
        let ip = |ip: &str| Some(ip.parse().unwrap());
        assert_eq!(bound(&socks, 80, ip("127.0.0.1")), [0, 1]);
        assert_eq!(bound(&socks, 80, ip("0.0.0.0")), [0, 1, 2]);
        assert_eq!(bound(&socks, 80, ip("::1")), [0]);
    }
}
