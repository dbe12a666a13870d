//! `ravel who`: a row for each socket that matches, with everything that has it and its other end.

use std::fmt::Write;

use ravel_records::{Family, Holds, Protocol, Sharer, SkState};

use super::listing::{Cell, Column, Listing};
use super::sockets::{address, proto};
use crate::census::Place;
use crate::census::calls::Call;
use crate::census::holders::{Descriptor, Registered};
use crate::census::kernel::KernelOwner;
use crate::census::paths::escaped;
use crate::census::queues::Queue;
use crate::cli;
use crate::command::Failure;
use crate::epoll::Watch;
use crate::screen::{DIM, NAME, NOTE, STRONG, Screen, count, plain};
use crate::sweep::Holder;
use crate::who::{Answer, Found, Kind, Owners, PathFound};

/// Sockets that are shown unless more are asked for.
const FEW: usize = 20;
/// Holders of one that are named unless all are asked for.
const OWNERS: usize = 4;

const COLUMNS: [Column; 8] = [
    Column::words("NETNS").spare(2),
    Column::numbers("ORDER"),
    Column::words("PROTO").spare(3),
    Column::words("STATE"),
    Column::words("LOCAL"),
    Column::words("REMOTE"),
    Column::numbers("INODE").spare(1),
    Column::words("OWNERS"),
];
/// Where ORDER is in the list.
const ORDER: usize = 1;

/// Draws the answer to what was asked for in these words.
pub fn draw(
    asked: &str,
    answer: &Answer,
    args: &cli::Who,
    screen: &Screen,
) -> Result<String, Failure> {
    let mut text = format!(
        "{NAME}{asked}{NAME:#}: {STRONG}{}{STRONG:#} among {}, {}\n",
        count(answer.sockets.len() as u64, "socket", "sockets"),
        count(answer.processes, "process", "processes"),
        count(answer.namespaces.len() as u64, "namespace", "namespaces"),
    );
    for remark in &answer.remarks {
        let _ = writeln!(text, "{NOTE}{remark}.{NOTE:#}");
    }
    for sentence in answer.unread.sentences() {
        let _ = writeln!(text, "{NOTE}{sentence}{NOTE:#}");
    }
    if answer.exited > 0 {
        let exited = count(answer.exited, "process", "processes");
        let _ = writeln!(text, "{DIM}{exited} exited before they were read.{DIM:#}");
    }
    // What was asked for without an address has no order.
    let has_order = answer.sockets.iter().any(|found| found.order.is_some());
    let mut columns = COLUMNS.to_vec();
    if !has_order {
        columns.remove(ORDER);
    }
    let mut listing = Listing::new(&columns, FEW);
    for found in &answer.sockets {
        let mut cells = row(found);
        if !has_order {
            cells.remove(ORDER);
        }
        listing.add(cells, owners(found, args.rows.all));
    }
    text.push_str(&listing.draw(&args.rows, screen, |_| Vec::new())?);
    text.push_str(&footer(answer));
    Ok(text)
}

fn row(found: &Found) -> Vec<Cell> {
    vec![
        Cell::new(namespace(&found.namespace)),
        match found.order {
            Some(order) => Cell::new(order.to_string()).by(u64::from(u32::MAX - order)),
            None => Cell::none(),
        },
        Cell::new(proto(&found.family, &found.r#type, &found.protocol)),
        match found.sk_state.as_str() {
            "busy" => Cell::styled("busy", NOTE),
            _ => Cell::new(state(found)),
        },
        Cell::new(local(found)),
        Cell::new(address(&found.remote)),
        Cell::number(found.inode, found.inode.to_string()),
        Cell::default(),
    ]
}

fn namespace(place: &Place) -> String {
    place.name.shown(place.inode)
}

/// The state in the words of the socket's own protocol: others than TCP borrow TCP's.
fn state(found: &Found) -> String {
    let is_tcp = matches!(
        found.protocol,
        Protocol::Tcp | Protocol::Mptcp | Protocol::Sctp
    );
    match (&found.sk_state, is_tcp) {
        (SkState::BoundInactive, _) => "bound".to_owned(),
        (SkState::Established, false) => "connected".to_owned(),
        (SkState::Close, false) => "unconnected".to_owned(),
        (state, _) => state.to_string(),
    }
}

/// What a socket is bound to, with its device.
fn local(found: &Found) -> String {
    let bytes = found.local.as_bytes();
    if let (Family::Unix, Some((b'@', name))) = (&found.family, bytes.split_first()) {
        return format!("@{}", escaped(name));
    }
    let shown = address(&found.local);
    match (&found.device, shown.rsplit_once(':')) {
        (Some(device), Some((ip, port))) => {
            let device = ravel_records::visible(device);
            match ip.strip_suffix(']') {
                Some(ip) => format!("{ip}%{device}]:{port}"),
                None => format!("{ip}%{device}:{port}"),
            }
        }
        _ => shown,
    }
}

/// Everything that has it, and who has its other end.
fn owners(found: &Found, all: bool) -> String {
    let owners = &found.owners;
    let mut parts: Vec<String> = list(&owners.holders, all);
    parts.extend(owners.others.iter().map(other));
    parts.extend(owners.rings.iter().map(ring));
    parts.extend(candidates(owners, all));
    parts.extend(owners.kernel.as_ref().map(kernel));
    match found.what {
        Kind::Remnant => parts.push("closed: what is left of a connection".to_owned()),
        Kind::Orphan => parts.push("closed by its process: the kernel ends it".to_owned()),
        Kind::NotAccepted => parts.push(format!("waits for accept(){}", listener(owners, all))),
        Kind::Request => parts.push(format!("in its handshake{}", listener(owners, all))),
        Kind::Subflow => parts.push("subflow of an MPTCP socket".to_owned()),
        Kind::Socket => {}
    }
    if found.what == Kind::Socket && owners.is_unknown() {
        parts.push(format!(
            "{NOTE}no process has a descriptor{NOTE:#}: the kernel, or a system call in progress, \
             has it"
        ));
    }
    match owners.unnamed {
        Some(0) | None => {}
        Some(unnamed) if owners.candidates() == 0 => parts.push(format!(
            "{NOTE}{} of unknown holders{NOTE:#} (a system call, or the kernel)",
            count(unnamed, "reference", "references")
        )),
        Some(_) => {}
    }
    parts.extend(watchers(owners, all));
    if found.v6only == Some(true) && found.local.as_bytes().starts_with(b"[::]") {
        parts.push("IPv6 only".to_owned());
    }
    parts.extend(found.path.as_ref().and_then(path));
    let mut text = parts.join(", ");
    if !owners.clients.is_empty() {
        let clients = list(&owners.clients, all).join(", ");
        let _ = write!(text, "; not accepted: {clients}");
    }
    if let Some(peer) = &found.peer {
        let holders = list(&found.peer_holders, all);
        let place = match peer.namespace.inode == found.netns {
            true => String::new(),
            false => format!(" in {}", namespace(&peer.namespace)),
        };
        let who = match (holders.is_empty(), peer.inode) {
            (false, _) => holders.join(", "),
            (true, 0) if peer.what == Kind::Remnant => format!("closed, in {}", peer.sk_state),
            (true, 0) => "not open in any process".to_owned(),
            (true, inode) => format!("inode:{inode}, no descriptor found"),
        };
        let how = match (peer.is_listener, peer.is_translated) {
            (true, _) => "waits for accept() by",
            (false, true) => "peer, through NAT,",
            (false, false) => "peer",
        };
        let _ = write!(text, "; {how} {who}{place}");
    }
    text
}

fn listener(owners: &Owners, all: bool) -> String {
    match &owners.listener {
        Some(listener) if listener.holders.is_empty() => format!(" by inode:{}", listener.inode),
        Some(listener) => format!(" by {}", list(&listener.holders, all).join(", ")),
        None => String::new(),
    }
}

fn list(holders: &[Descriptor], all: bool) -> Vec<String> {
    let shown = match all || holders.len() == OWNERS + 1 {
        true => holders.len(),
        false => OWNERS.min(holders.len()),
    };
    let mut parts: Vec<String> = holders.iter().take(shown).map(held).collect();
    if holders.len() > shown {
        parts.push(format!("{} more", holders.len() - shown));
    }
    parts
}

/// A descriptor in short.
fn held(holder: &Descriptor) -> String {
    let (comm, pid) = (plain(&holder.comm), holder.pid);
    match holder.tid {
        Some(tid) => format!("{comm} {pid} thread {tid} fd {}", holder.fd),
        None => format!("{comm} {pid} fd {}", holder.fd),
    }
}

fn ring(registered: &Registered) -> String {
    let ring = held(&registered.ring);
    format!("{ring} (an io_uring that it is registered with)")
}

/// Those of which one is likely to have the socket: nothing else has it.
fn candidates(owners: &Owners, all: bool) -> Option<String> {
    let mut named: Vec<String> = owners.calls.iter().map(call).collect();
    named.extend(owners.queues.iter().map(queue));
    let request = |ring: &Descriptor| format!("a request in the io_uring {}", held(ring));
    named.extend(owners.requests.iter().map(request));
    if !all && named.len() > OWNERS + 1 {
        let more = named.len() - OWNERS;
        named.truncate(OWNERS);
        named.push(format!("{more} more"));
    }
    match named.len() {
        0 => None,
        1 => named.pop(),
        _ => Some(format!("one of: {}", named.join(", "))),
    }
}

fn call(of: &Call) -> String {
    let comm = plain(&of.comm);
    format!(
        "{comm} {} thread {} in {}() on closed fd {}",
        of.pid, of.tid, of.call, of.fd
    )
}

fn queue(of: &Queue) -> String {
    let waiting = count(of.waiting, "descriptor", "descriptors");
    format!(
        "in unread messages of unix socket {} ({waiting})",
        held(&of.holder)
    )
}

fn kernel(owner: &KernelOwner) -> String {
    let kind = ravel_records::visible(&owner.kind);
    let name = owner.name.as_deref().unwrap_or_default();
    let probably = if owner.is_inferred { "probably " } else { "" };
    format!("the kernel: {probably}{kind} {name}")
        .trim_end()
        .to_owned()
}

/// Epoll sets that watch the socket: those of other processes than its holders, unless all are
/// asked for.
fn watchers(owners: &Owners, all: bool) -> Option<String> {
    let is_other =
        |watch: &&Watch| all || !owners.holders.iter().any(|holder| holder.pid == watch.pid);
    let named: Vec<String> = owners
        .watches
        .iter()
        .filter(is_other)
        .map(|watch| format!("{} {} fd {}", plain(&watch.comm), watch.pid, watch.fd))
        .collect();
    match named.is_empty() {
        true => None,
        false => Some(format!("watched by epoll set {}", named.join(", "))),
    }
}

fn path(found: &PathFound) -> Option<String> {
    match (found.is_reached, found.is_former, found.root_of) {
        (true, ..) => Some("connect() reaches it".to_owned()),
        (false, true, _) => Some("its file is not there any more".to_owned()),
        (false, false, Some(pid)) => Some(format!("in the root directory of {pid}")),
        (false, false, None) => None,
    }
}

/// The kinds of owners for which it was searched in vain.
fn footer(answer: &Answer) -> String {
    let has = |is: &dyn Fn(&Found) -> bool| answer.sockets.iter().any(is);
    let is_held = |found: &Found, holds: &Holds| {
        let mut others = found.owners.others.iter();
        others.any(|other| other.holds == *holds)
    };
    let searched = &answer.searched;
    let kinds = [
        (
            searched.messages
                && !has(&|found| {
                    !found.owners.queues.is_empty() || is_held(found, &Holds::Message)
                }),
            "queued messages",
        ),
        (
            searched.rings
                && !has(&|found| {
                    let owners = &found.owners;
                    !owners.rings.is_empty()
                        || !owners.requests.is_empty()
                        || is_held(found, &Holds::Ring)
                }),
            "io_uring",
        ),
        (
            searched.kernel && !has(&|found| found.owners.kernel.is_some()),
            "kernel",
        ),
        (
            searched.remnants && !has(&|found| found.what == Kind::Remnant),
            "TIME_WAIT",
        ),
        (
            searched.calls && !has(&|found| !found.owners.calls.is_empty()),
            "system calls on closed descriptors",
        ),
    ];
    let none: Vec<&str> = kinds
        .iter()
        .filter(|(is_none, _)| *is_none)
        .map(|(_, kind)| *kind)
        .collect();
    match none.is_empty() {
        true => String::new(),
        false => format!("{DIM}Also searched: {}: none.{DIM:#}\n", none.join(", ")),
    }
}

/// A holder in short.
pub fn descriptor(holder: &Holder) -> String {
    let (comm, pid) = (plain(&holder.comm), holder.pid);
    format!("{comm} {pid} fd {}", holder.fd)
}

/// The holder of a reference that is no descriptor.
pub fn other(sharer: &Sharer) -> String {
    let (comm, pid, fd) = (plain(&sharer.comm), sharer.pid, sharer.fd);
    let how = match &sharer.holds {
        Holds::Message => "in unread messages of unix socket",
        Holds::Ring => "registered with the io_uring",
        _ => "held by",
    };
    format!("{comm} {pid} {how} fd {fd}")
}
