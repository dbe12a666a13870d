//! The same search in reports `sockets`: those that were saved, and that of one socket that no list
//! of the kernel has.

use std::net::SocketAddr;

use ravel_records::client::Client;
use ravel_records::{Family, Socket, Text};

use super::wanted::{Host, Port};
use super::{Answer, Found, Kind, Other, Owners, Wanted};
use crate::census::address::{bound, lookup};
use crate::census::holders::Descriptor;
use crate::census::netns::Name;
use crate::census::paths::is_abstract;
use crate::census::socket::{Ends, Sock, Unix, What};
use crate::census::{Census, Place};
use crate::command::Failure;
use crate::sweep::{Held, Holder, Sweep};

/// Finds sockets in saved reports. None of it is known that the reports do not say: what addresses
/// namespaces have, which files paths lead to, what other processes there were.
pub fn search(wanted: &Wanted, sweep: &Sweep) -> Answer {
    let socks: Vec<Sock> = sweep
        .sockets
        .iter()
        .map(|held| sock(&held.socket))
        .collect();
    let mut netns: Vec<u64> = socks.iter().map(|sock| sock.netns).collect();
    netns.sort_unstable();
    netns.dedup();
    let hits: Vec<(usize, Option<u32>)> = match wanted {
        Wanted::Port(port) => of_port(&socks, port),
        Wanted::Address(Host::Ip(ip, _), port) => {
            let to = SocketAddr::new(*ip, port.number);
            let found = netns
                .iter()
                .flat_map(|netns| lookup(&socks, *netns, to, None));
            let is_of = |at: usize| port.is_of(&socks[at].protocol);
            let found = found.filter(|of| is_of(of.at));
            found.map(|of| (of.at, of.order)).collect()
        }
        // Names are of the machine that the reports are of.
        Wanted::Address(Host::Name(_), port) => of_port(&socks, port),
        Wanted::Inode(inode) => places(&socks, |sock| sock.inode == *inode),
        Wanted::Path(path) => {
            use std::os::unix::ffi::OsStrExt;

            let path = path.as_os_str().as_bytes();
            places(&socks, |sock| name(sock) == Some(path))
        }
        Wanted::Abstract(wanted) => places(&socks, |sock| {
            let unix = sock.unix.as_ref();
            unix.is_some_and(|unix| is_abstract(unix, wanted).is_some())
        }),
    };
    let found = hits
        .into_iter()
        .map(|(at, order)| found(&sweep.sockets[at], &socks[at], order, sweep));
    Answer {
        kernel: sweep.kernel.clone(),
        processes: sweep.processes,
        unread: sweep.unread.clone(),
        namespaces: netns.iter().map(|inode| place(*inode)).collect(),
        sockets: found.collect(),
        ..Answer::default()
    }
}

fn of_port(socks: &[Sock], port: &Port) -> Vec<(usize, Option<u32>)> {
    let found = bound(socks, port.number, None).into_iter();
    let found = found.filter(|at| port.is_of(&socks[*at].protocol));
    found.map(|at| (at, None)).collect()
}

fn places(socks: &[Sock], is_wanted: impl Fn(&Sock) -> bool) -> Vec<(usize, Option<u32>)> {
    let places = (0..socks.len()).filter(|at| is_wanted(&socks[*at]));
    places.map(|at| (at, None)).collect()
}

fn name(sock: &Sock) -> Option<&[u8]> {
    sock.unix.as_ref()?.name.as_deref()
}

fn place(inode: u64) -> Place {
    Place {
        inode,
        name: Name::default(),
        pid: None,
    }
}

/// A socket of a report as the kernel's lists have it.
fn sock(socket: &Socket) -> Sock {
    let detail = socket.detail.as_ref();
    let end = |text: &Text| text.socket_address();
    let local = detail.and_then(|detail| end(&detail.local));
    let is_inet = matches!(socket.family, Family::Inet | Family::Inet6);
    let is_unix = socket.family == Family::Unix;
    Sock {
        netns: socket.netns,
        inode: socket.inode,
        family: socket.family.clone(),
        kind: socket.r#type.clone(),
        protocol: socket.protocol.clone(),
        state: detail.map_or_else(|| "busy".into(), |detail| detail.sk_state.clone()),
        what: What::Socket,
        ends: local.filter(|_| is_inet).map(|local| Ends {
            local,
            remote: detail
                .and_then(|detail| end(&detail.remote))
                .filter(|remote| remote.port() != 0),
            v6only: None,
            device: 0,
        }),
        unix: is_unix.then(|| Unix {
            name: detail.and_then(|detail| written(&detail.local)),
            ..Unix::default()
        }),
        uid: None,
        waiting: detail.map_or(0, |detail| detail.rx_packets),
        is_subflow: false,
    }
}

/// A name as bind() was given it; reports have `@` for the NUL of an abstract one.
fn written(local: &Text) -> Option<Vec<u8>> {
    let bytes = local.as_bytes();
    match bytes.split_first() {
        None => None,
        Some((b'@', rest)) => Some([&[0], rest].concat()),
        Some(_) => Some(bytes.to_vec()),
    }
}

fn descriptors(holders: &[Holder]) -> Vec<Descriptor> {
    let descriptor = |holder: &Holder| Descriptor {
        pid: holder.pid,
        tid: None,
        comm: holder.comm.clone(),
        fd: holder.fd,
    };
    holders.iter().map(descriptor).collect()
}

fn found(held: &Held, sock: &Sock, order: Option<u32>, sweep: &Sweep) -> Found {
    let socket = &held.socket;
    let detail = socket.detail.as_ref();
    let holders = descriptors(&held.holders);
    let is_all = u64::try_from(socket.file_refs) == Ok(holders.len() as u64);
    let other = detail.and_then(|detail| sweep.peer(detail));
    let peer = detail.and_then(|detail| detail.other.as_ref());
    Found {
        netns: socket.netns,
        namespace: place(socket.netns),
        inode: socket.inode,
        family: socket.family.clone(),
        r#type: socket.r#type.clone(),
        protocol: socket.protocol.clone(),
        sk_state: sock.state.clone(),
        what: Kind::Socket,
        local: detail.map_or_else(Text::default, |detail| detail.local.clone()),
        remote: detail.map_or_else(Text::default, |detail| detail.remote.clone()),
        v6only: None,
        device: None,
        uid: None,
        order,
        path: None,
        owners: Owners {
            holders,
            unnamed: is_all.then_some(0),
            ..Owners::default()
        },
        peer: peer.map(|peer| Other {
            inode: peer.peer_inode,
            namespace: place(socket.netns),
            sk_state: peer.peer_state.clone(),
            what: Kind::Socket,
            is_listener: false,
            is_translated: false,
        }),
        peer_holders: other.map_or_else(Vec::new, |other| descriptors(&other.holders)),
    }
}

/// A socket that a descriptor leads to and no list of the kernel has: one of vsock, AF_ALG or XDP,
/// say.
pub fn unlisted(inode: u64, census: &Census, client: &Client) -> Result<Vec<Found>, Failure> {
    let Some(holders) = census.holders.descriptors.get(&inode) else {
        return Ok(Vec::new());
    };
    let Some(first) = holders.iter().find(|holder| holder.tid.is_none()) else {
        return Ok(Vec::new());
    };
    let report = client.sockets(first.pid)?;
    let socket = report.sockets.into_iter().find(|of| of.inode == inode);
    Ok(socket
        .map(|socket| {
            let held = Held {
                holders: Vec::new(),
                socket,
            };
            let mut found = found(&held, &sock(&held.socket), None, &Sweep::default());
            found.namespace = census.place(found.netns);
            let refs = u64::try_from(held.socket.file_refs).ok();
            found.owners.unnamed = refs.and_then(|refs| refs.checked_sub(holders.len() as u64));
            found.owners.holders.clone_from(holders);
            found
        })
        .into_iter()
        .collect())
}
