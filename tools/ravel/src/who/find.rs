//! Finds the sockets that are asked for in a census of the machine.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;

use ravel_records::client::Client;

use super::owners::Seeking;
use super::wanted::{Host, Port};
use super::{Answer, Found, Kind, Other, PathFound, Searched, Wanted};
use crate::census::Census;
use crate::census::address::{bound, lookup};
use crate::census::paths::{self, Bound};
use crate::census::peers::Peers;
use crate::census::socket::{Sock, is_loopback};
use crate::command::Failure;
use crate::proc::{Proc, Subject, Unread, is_initial_namespace};

/// Why no socket is shown.
#[derive(Debug)]
pub struct Missing {
    /// That it is not there.
    pub sentence: String,
    /// What to try instead.
    pub mend: String,
    /// What could not be read, in sentences: the socket may be there.
    pub unread: Vec<String>,
}

/// A socket that matches.
struct Hit {
    at: usize,
    order: Option<u32>,
    path: Option<PathFound>,
}

impl Hit {
    fn new(at: usize) -> Self {
        Self {
            at,
            order: None,
            path: None,
        }
    }
}

/// What was found, and what is to be said if nothing was.
struct Hits {
    hits: Vec<Hit>,
    remarks: Vec<String>,
    missing: String,
    mend: String,
}

/// Finds the sockets of this machine that are asked for; `all`: also those that are bound there and
/// would receive nothing.
pub fn find(wanted: &Wanted, all: bool, proc: &Proc, client: &Client) -> Result<Answer, Failure> {
    if !is_initial_namespace() {
        return Err(Failure::Namespace);
    }
    // Messages are known to the module alone.
    let kernel = client.version()?.kernel;
    let census = Census::take(proc).map_err(Failure::Proc)?;
    let mut unread = census.unread.clone();
    let found = match wanted {
        Wanted::Port(port) => by_port(&census, port),
        Wanted::Address(host, port) => by_address(&census, host, port, all)?,
        Wanted::Inode(inode) => Hits {
            hits: census
                .with_inode(*inode)
                .iter()
                .copied()
                .map(Hit::new)
                .collect(),
            remarks: Vec::new(),
            missing: format!("no socket has inode {inode}"),
            mend: "ls -l /proc/PID/fd, for the inodes of a process' sockets".to_owned(),
        },
        Wanted::Path(path) => {
            let places = paths::places(path, proc, &census.holders.roots, &mut unread);
            by_path(&census, path, &places)
        }
        Wanted::Abstract(name) => by_name(&census, name),
    };
    let mut unlisted = Vec::new();
    if let (Wanted::Inode(inode), true) = (wanted, found.hits.is_empty()) {
        // Of a family that the kernel does not list.
        unlisted = super::saved::unlisted(*inode, &census, client)?;
    }
    if found.hits.is_empty() && unlisted.is_empty() {
        return Err(Failure::NoSocket(Missing {
            sentence: found.missing,
            mend: found.mend,
            unread: hiding(unread).sentences(),
        }));
    }
    let peers = Peers::of(&census);
    let mut seeking = Seeking::new(
        &census,
        proc,
        client,
        &found.hits.iter().map(|hit| hit.at).collect::<Vec<_>>(),
    );
    let mut sockets: Vec<Found> = Vec::new();
    for hit in &found.hits {
        let mut socket = describe(&census, hit.at);
        (socket.order, socket.path) = (hit.order, hit.path.clone());
        socket.owners = seeking.owners(hit.at);
        if let Some(peer) = peers.find(hit.at) {
            let other = &census.socks[peer.at];
            socket.peer_holders = seeking.descriptors(other);
            socket.peer = Some(Other {
                inode: other.inode,
                namespace: census.place(other.netns),
                sk_state: other.state.clone(),
                what: Kind::of(other),
                is_listener: peer.is_listener,
                is_translated: peer.is_translated,
            });
        }
        sockets.push(socket);
    }
    sockets.extend(unlisted);
    unread.0.append(&mut seeking.unread.0);
    Ok(Answer {
        kernel,
        processes: census.holders.processes,
        exited: census.holders.exited,
        namespaces: census
            .namespaces
            .keys()
            .map(|netns| census.place(*netns))
            .collect(),
        unread,
        searched: Searched {
            messages: seeking.is_exhaustive,
            rings: true,
            kernel: true,
            remnants: true,
            calls: seeking.is_exhaustive,
        },
        remarks: found.remarks,
        sockets,
    })
}

/// What could not be read and may have a socket that is asked for: its owners do not matter.
fn hiding(mut unread: Unread) -> Unread {
    let subjects = [Subject::Namespace, Subject::Root];
    unread.0.retain(|gap| subjects.contains(&gap.subject));
    unread
}

/// A socket without its owners.
fn describe(census: &Census, at: usize) -> Found {
    let sock = &census.socks[at];
    let device = sock.ends.map_or(0, |ends| ends.device);
    let devices = census.devices.get(&sock.netns);
    let name = devices.and_then(|all| all.iter().find(|of| of.index == device));
    Found {
        netns: sock.netns,
        namespace: census.place(sock.netns),
        inode: sock.inode,
        family: sock.family.clone(),
        r#type: sock.kind.clone(),
        protocol: sock.protocol.clone(),
        sk_state: sock.state.clone(),
        what: Kind::of(sock),
        local: sock.local(),
        remote: sock.remote(),
        v6only: sock.ends.and_then(|ends| ends.v6only),
        device: match (device, name) {
            (0, _) => None,
            (_, Some(device)) => Some(device.name.clone()),
            (device, None) => Some(format!("device {device}")),
        },
        uid: sock.uid.filter(|_| sock.inode != 0),
        order: None,
        path: None,
        owners: Default::default(),
        peer: None,
        peer_holders: Vec::new(),
    }
}

/// How many namespaces were searched.
fn namespaces(census: &Census) -> String {
    let count = census.namespaces.len() as u64;
    crate::screen::count(count, "network namespace", "network namespaces")
}

fn by_port(census: &Census, port: &Port) -> Hits {
    let mut hits: Vec<usize> = bound(&census.socks, port.number, None);
    hits.retain(|at| port.is_of(&census.socks[*at].protocol));
    // This program's namespace first.
    hits.sort_by_key(|at| census.socks[*at].netns != census.here);
    Hits {
        hits: hits.into_iter().map(Hit::new).collect(),
        remarks: Vec::new(),
        missing: format!(
            "port {port} is free in {}: no socket is bound to it",
            namespaces(census)
        ),
        mend: "ravel who HOST:PORT, for another".to_owned(),
    }
}

/// The addresses of a host, each once.
fn resolve(host: &Host) -> Result<Vec<IpAddr>, Failure> {
    match host {
        Host::Ip(ip, _) => Ok(vec![ip.to_canonical()]),
        Host::Name(name) => {
            let found = (name.as_str(), 0).to_socket_addrs();
            let found = found.map_err(|error| Failure::Resolve(name.clone(), error))?;
            let mut seen = BTreeSet::new();
            let mut ips: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
            ips.retain(|ip| seen.insert(*ip));
            Ok(ips)
        }
    }
}

fn by_address(census: &Census, host: &Host, port: &Port, all: bool) -> Result<Hits, Failure> {
    let ips = resolve(host)?;
    let scope = match host {
        Host::Ip(_, Some(name)) => Some(device(census, name)?),
        _ => None,
    };
    let mut hits: Vec<Hit> = Vec::new();
    let mut remarks = Vec::new();
    let mut nowhere = Vec::new();
    for ip in &ips {
        let to = SocketAddr::new(*ip, port.number);
        let (places, is_known) = namespaces_of(census, *ip, scope)?;
        if !is_known {
            nowhere.push(ip.to_string());
        }
        for netns in census
            .namespaces
            .keys()
            .filter(|netns| all || places.contains(netns))
        {
            let is_there = places.contains(netns);
            for of in lookup(&census.socks, *netns, to, scope) {
                let exact = is_exact(&census.socks[of.at], *ip);
                // Where the address is another machine's, only what is bound to it all the same
                // matches.
                if is_there && is_known || exact || all {
                    let order = of.order.filter(|_| is_there && is_known);
                    hits.push(Hit {
                        order,
                        ..Hit::new(of.at)
                    });
                }
            }
            let rest = bound(&census.socks, port.number, Some(*ip));
            let is_wanted =
                |at: &usize| all || ip.is_unspecified() && conflicts(&census.socks[*at], *ip);
            let rest = rest
                .into_iter()
                .filter(|at| census.socks[*at].netns == *netns)
                .filter(is_wanted);
            hits.extend(rest.map(Hit::new));
        }
    }
    hits.retain(|hit| port.is_of(&census.socks[hit.at].protocol));
    let mut seen = BTreeSet::new();
    hits.retain(|hit| seen.insert(hit.at));
    hits.sort_by_key(|hit| census.socks[hit.at].netns != census.here);
    if !nowhere.is_empty() {
        remarks.push(format!("{} is no local address", nowhere.join(", ")));
    }
    let asked = Wanted::Address(host.clone(), port.clone());
    let missing = match remarks.first() {
        Some(remark) => format!("{remark}, and no socket is bound to it"),
        None => format!(
            "{asked} is free: no socket would receive what is sent there, or keeps it from being \
             bound"
        ),
    };
    let others = bound(&census.socks, port.number, None);
    Ok(Hits {
        hits,
        remarks,
        missing,
        mend: match others.is_empty() {
            true => "ravel who PORT, for sockets at any address".to_owned(),
            false => format!(
                "ravel who {}, for {} of that port at other addresses",
                port.number,
                crate::screen::count(others.len() as u64, "socket", "sockets")
            ),
        },
    })
}

/// The index of a device of this namespace, by its name or number.
fn device(census: &Census, name: &str) -> Result<u32, Failure> {
    let devices = census.devices.get(&census.here);
    let named = devices.and_then(|all| all.iter().find(|of| of.name == name));
    let index = named.map(|of| of.index).or_else(|| name.parse().ok());
    index.ok_or_else(|| {
        Failure::Usage(format!(
            "there is no device {}",
            ravel_records::visible(name)
        ))
    })
}

/// The namespaces in which an address is a local one, and whether there are any. If there are none,
/// this one is returned.
fn namespaces_of(
    census: &Census,
    ip: IpAddr,
    scope: Option<u32>,
) -> Result<(Vec<u64>, bool), Failure> {
    let here = census.here;
    // Each namespace has loopback addresses of its own: those of this one are meant.
    if ip.is_unspecified() || ip.is_multicast() {
        return Ok((vec![here], true));
    }
    let mut places = Vec::new();
    for netns in census.namespaces.keys() {
        if is_loopback(ip) && *netns != here {
            continue;
        }
        let scope = scope.filter(|_| *netns == here);
        if census
            .is_local(*netns, ip, scope)
            .map_err(Failure::Network)?
        {
            places.push(*netns);
        }
    }
    let is_known = !places.is_empty();
    if !is_known {
        places.push(here);
    }
    Ok((places, is_known))
}

fn is_exact(sock: &Sock, ip: IpAddr) -> bool {
    sock.ends
        .is_some_and(|ends| ends.local.ip().to_canonical() == ip)
}

/// Whether a socket keeps another one from being bound to any address of a family.
fn conflicts(sock: &Sock, any: IpAddr) -> bool {
    let Some(ends) = sock.ends else {
        return false;
    };
    let local = ends.local.ip();
    match any {
        IpAddr::V4(_) => {
            local.to_canonical().is_ipv4() || local.is_unspecified() && ends.v6only != Some(true)
        }
        IpAddr::V6(_) => true,
    }
}

fn by_path(census: &Census, path: &Path, places: &[paths::Place]) -> Hits {
    let found = paths::matches(&census.socks, path, places);
    let hit = |of: &paths::PathMatch| Hit {
        path: Some(PathFound {
            is_reached: of.is_reached,
            is_former: of.bound == Bound::ToFormerFile,
            root_of: of.place.and_then(|place| places[place].root),
        }),
        ..Hit::new(of.at)
    };
    let shown = ravel_records::visible(&path.to_string_lossy());
    let missing = match places.first() {
        None => format!("there is no file {shown}, and no socket was bound to one of that name"),
        Some(place) if !place.is_socket => format!("{shown} is a file that is no socket"),
        Some(_) => format!(
            "{shown} is left of a socket that is closed: no socket is bound to it, and connect() \
             fails with ECONNREFUSED"
        ),
    };
    Hits {
        hits: found.iter().map(hit).collect(),
        remarks: Vec::new(),
        missing,
        mend: "ravel who @NAME, if the name is an abstract one".to_owned(),
    }
}

fn by_name(census: &Census, name: &[u8]) -> Hits {
    let matching = |at: usize| {
        let unix = census.socks[at].unix.as_ref()?;
        Some((paths::is_abstract(unix, name)?, at))
    };
    let mut found: Vec<(bool, usize)> = (0..census.socks.len()).filter_map(matching).collect();
    found.sort_by_key(|(is_padded, at)| {
        let sock = &census.socks[*at];
        (sock.netns != census.here, *is_padded, !sock.listens(), *at)
    });
    let wanted = Wanted::Abstract(name.to_vec());
    let begins = |sock: &&Sock| {
        let of = sock.unix.as_ref().and_then(|unix| unix.name.as_deref());
        of.is_some_and(|of| of.strip_prefix(&[0]).is_some_and(|of| of.starts_with(name)))
    };
    let longer = census.socks.iter().find(begins);
    Hits {
        hits: found.into_iter().map(|(_, at)| Hit::new(at)).collect(),
        remarks: Vec::new(),
        missing: format!("no socket is bound to {wanted} in {}", namespaces(census)),
        mend: match longer.and_then(|sock| sock.unix.as_ref()?.name.as_deref()?.get(1..)) {
            Some(longer) => format!(
                "ravel who '@{}', which begins like that",
                paths::escaped(longer)
            ),
            None => "ravel who PATH, if the name is that of a file".to_owned(),
        },
    }
}
