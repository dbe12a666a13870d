// SPDX-License-Identifier: GPL-2.0
//! Events of TCP connections and packets: what is told of known ones, compared with the kernel's own counts.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use ravel_records::{Dropped, Event, Point, Protocol, Reset, SkState, TcpState, Way};

use super::peers::{pair, wait_for};
use crate::module;
use crate::report::own_socket;
use crate::stream::{Made, check_numbers, client, errno};
use crate::sys;
use crate::tier::{moving, scale};
use crate::{check, check_eq, tests};

tests!("netevents":
    states_of_many_connections_are_told_once [120 s],
    resets_are_told_as_snmp_counts_them [120 s],
    drops_are_told_as_snmp_and_ftrace_count_them [120 s],
    drop_of_what_is_no_ip_says_so,
    owner_that_is_no_socket_is_not_followed,
    what_happens_to_a_socket_is_no_process_doing,
    made_and_removed_under_traffic [180 s],
);

/// Goes to a network namespace where there is nobody else: its inode.
pub(super) fn alone() -> Result<u64> {
    sys::unshare(libc::CLONE_NEWNET)?;
    sys::loopback_up()?;
    Ok(fs::metadata("/proc/self/ns/net")?.ino())
}

/// The inode of a socket of ours.
pub(super) fn inode(fd: &impl AsRawFd) -> Result<u64> {
    Ok(fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd()))?.ino())
}

/// A count of /proc/net/snmp.
fn snmp(protocol: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/net/snmp")?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
    let names = lines.next().context("no names")?;
    let values = lines.next().context("no values")?;
    let mut both = names.split(' ').zip(values.split(' '));
    let found = both.find(|(is, _)| *is == name);
    Ok(found.with_context(|| format!("no {name}"))?.1.parse()?)
}

fn states_of_many_connections_are_told_once() -> Result<()> {
    use SkState::{
        Close, CloseWait, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent,
    };
    let netns = alone()?;
    let total = scale(1000, 200);
    let stream = Made::new("states", "sources=tcp_state bytes=16777216")?;
    let (active, passive) = (snmp("Tcp", "ActiveOpens")?, snmp("Tcp", "PassiveOpens")?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    let mut made = Vec::new();
    for _ in 0..total {
        let mut one = TcpStream::connect(at)?;
        let (two, _) = listener.accept()?;
        made.push((one.local_addr()?, inode(&one)?, inode(&two)?));
        drop(two);
        // The FIN.
        check_eq!(one.read(&mut [0])?, 0, "bytes");
    }
    check_eq!(
        snmp("Tcp", "ActiveOpens")? - active,
        total as u64,
        "connect() by snmp"
    );
    check_eq!(
        snmp("Tcp", "PassiveOpens")? - passive,
        total as u64,
        "accept() by snmp"
    );
    let mut events: Vec<Event> = Vec::new();
    let mine = |event: &Event| match event {
        Event::TcpState(state) if state.netns == netns => Some(state.clone()),
        _ => None,
    };
    // The last acknowledgement takes a moment.
    wait_for("the last close", || {
        events.extend(stream.drain()?);
        Ok(events.iter().filter_map(mine).count() > total * 10)
    })?;
    check_eq!(
        check_numbers(&events, 1)?,
        events.len() as u64 + 1,
        "the number behind the last"
    );
    check_eq!(stream.state()?.missed, 0, "missed");
    let states: Vec<TcpState> = events.iter().filter_map(mine).collect();
    check_eq!(states.len(), total * 10 + 1, "changes of state");
    check_eq!(
        (&states[0].old, &states[0].new, states[0].inode),
        (&Close, &Listen, inode(&listener)?),
        "the listener"
    );
    // A socket that is gone leaves its place, and so its id, to another.
    let mut open: BTreeMap<u64, Vec<&TcpState>> = BTreeMap::new();
    // The port of the end that closed last is free at once: whose it was, in the order of time.
    let mut ends: BTreeMap<(String, String), VecDeque<Vec<&TcpState>>> = BTreeMap::new();
    for state in &states[1..] {
        check_eq!(state.protocol, Protocol::Tcp, "protocol");
        open.entry(state.id.0).or_default().push(state);
        if state.new == Close {
            let chain = open.remove(&state.id.0).unwrap_or_default();
            // At the first, one end has no port yet, and the other no peer.
            let last = (state.local.to_string(), state.remote.to_string());
            ends.entry(last).or_default().push_back(chain);
        }
    }
    check!(open.is_empty(), "not closed: {open:?}");
    for (one, one_inode, two_inode) in made {
        let key = (one.to_string(), at.to_string());
        let mut next = |key| ends.get_mut(&key)?.pop_front();
        let client = next(key.clone()).with_context(|| format!("no {one}"))?;
        let server = next((key.1, key.0)).context("no other end")?;
        // The end that closed first is the one that accepted.
        chain(
            &client,
            &[
                (Close, SynSent),
                (SynSent, Established),
                (Established, CloseWait),
                (CloseWait, LastAck),
                (LastAck, Close),
            ],
            &[one_inode, one_inode, one_inode],
        )?;
        chain(
            &server,
            &[
                (Listen, SynRecv),
                (SynRecv, Established),
                (Established, FinWait1),
                (FinWait1, FinWait2),
                (FinWait2, Close),
            ],
            &[0, 0, two_inode],
        )?;
    }
    let left: Vec<_> = ends.into_values().flatten().collect();
    check!(left.is_empty(), "connections of nobody: {left:?}");
    Ok(())
}

/// Checks what one socket went through, and its inode until it is closed.
fn chain(told: &[&TcpState], want: &[(SkState, SkState)], inodes: &[u64]) -> Result<()> {
    let states: Vec<_> = told
        .iter()
        .map(|state| (state.old.clone(), state.new.clone()))
        .collect();
    check_eq!(states, want, "states of {}", told[1].local);
    for state in &told[1..] {
        check_eq!(
            (&state.local, &state.remote),
            (&told[1].local, &told[1].remote),
            "ends"
        );
    }
    let until: Vec<_> = told.iter().map(|state| state.inode).collect();
    check_eq!(until[..inodes.len()], *inodes, "inodes");
    check_eq!(until[4], 0, "inode of what is closed");
    Ok(())
}

/// Known resets: the port that each end had, and why.
#[derive(Default)]
struct Resets {
    sent: Vec<(String, String, String, SkState)>,
    received: Vec<(String, String, SkState)>,
}

impl Resets {
    /// `one` sent it to `two`.
    fn add(&mut self, one: SocketAddr, two: SocketAddr, reason: &str, states: [SkState; 2]) {
        let [sent, received] = states;
        let (one, two) = (one.to_string(), two.to_string());
        self.sent
            .push((one.clone(), two.clone(), reason.to_owned(), sent));
        self.received.push((two, one, received));
    }
}

fn resets_are_told_as_snmp_counts_them() -> Result<()> {
    let netns = alone()?;
    let rounds = scale(300, 60);
    let stream = Made::new("resets", "sources=reset bytes=16777216")?;
    let before = snmp("Tcp", "OutRsts")?;
    let mut done = Resets::default();
    // Nobody listens there.
    let closed: SocketAddr = "127.0.0.1:9".parse()?;
    for _ in 0..rounds {
        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let socket = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        sys::bind(&socket, &sys::Address::loopback(free.port()))?;
        let refused = sys::connect(&socket, &sys::Address::loopback(9));
        check_eq!(
            refused.err().map(|e| sys::errno(&e)),
            Some(libc::ECONNREFUSED),
            "errno of connect()"
        );
        done.add(closed, free, "NO_SOCKET", [SkState::None, SkState::SynSent]);
        // SO_LINGER of 0 seconds.
        let (one, two) = pair()?;
        sys::set_linger(&one, true, 0)?;
        let ends = (one.local_addr()?, two.local_addr()?);
        drop(one);
        done.add(
            ends.0,
            ends.1,
            "TCP_STATE",
            [SkState::Close, SkState::Established],
        );
        // Something that nobody has read.
        let (one, mut two) = pair()?;
        two.write_all(b"unread")?;
        wait_for("the bytes", || Ok(sys::inq(&one)? == 6))?;
        let ends = (one.local_addr()?, two.local_addr()?);
        drop(one);
        done.add(
            ends.0,
            ends.1,
            "TCP_ABORT_ON_CLOSE",
            [SkState::Close, SkState::Established],
        );
    }
    let happened = 3 * rounds;
    let mut events: Vec<Event> = Vec::new();
    let mine = |event: &Event| match event {
        Event::Reset(reset) if reset.way == Way::Received && reset.netns == netns => {
            Some(reset.clone())
        }
        Event::Reset(reset) if reset.way == Way::Sent => Some(reset.clone()),
        _ => None,
    };
    wait_for("the last reset", || {
        events.extend(stream.drain()?);
        Ok(events.iter().filter_map(mine).count() >= 2 * happened)
    })?;
    check_eq!(
        check_numbers(&events, 1)?,
        events.len() as u64 + 1,
        "the number behind the last"
    );
    check_eq!(
        snmp("Tcp", "OutRsts")? - before,
        happened as u64,
        "resets sent, by snmp"
    );
    let (sent, received): (Vec<Reset>, Vec<Reset>) = events
        .iter()
        .filter_map(mine)
        .partition(|reset| reset.way == Way::Sent);
    // None is received before it is sent.
    let mut on_their_way: BTreeMap<(String, String), usize> = BTreeMap::new();
    for reset in events.iter().filter_map(mine) {
        let (local, remote) = (reset.local.to_string(), reset.remote.to_string());
        if reset.way == Way::Sent {
            *on_their_way.entry((remote, local)).or_default() += 1;
        } else {
            let sent = on_their_way.remove(&(local, remote));
            check_eq!(sent, Some(1), "sent before this was received: {reset:?}");
        }
    }
    check_eq!(on_their_way.len(), 0, "resets that are not received");
    let mut told: Vec<_> = sent
        .iter()
        .map(|reset| {
            let ends = (reset.local.to_string(), reset.remote.to_string());
            (
                ends.0,
                ends.1,
                reset.reason.to_string(),
                reset.sk_state.clone(),
            )
        })
        .collect();
    told.sort();
    done.sent.sort();
    check_eq!(told, done.sent, "resets sent");
    let mut told: Vec<_> = received
        .iter()
        .map(|reset| {
            check_eq!(reset.reason.as_str(), "none", "reason of what was received");
            let ends = (reset.local.to_string(), reset.remote.to_string());
            Ok((ends.0, ends.1, reset.sk_state.clone()))
        })
        .collect::<Result<_>>()?;
    told.sort();
    done.received.sort();
    check_eq!(told, done.received, "resets received");
    for reset in &sent {
        let none = reset.sk_state == SkState::None;
        check_eq!(
            reset.id.0 == 0,
            none,
            "whether there is a socket: {reset:?}"
        );
        check_eq!(reset.netns, if none { 0 } else { netns }, "netns");
        check_eq!(reset.protocol, Protocol::Tcp, "protocol");
    }
    Ok(())
}

/// The kernel's own record of drops, in an instance of tracefs that is ours.
pub(super) struct Ftrace(PathBuf);

impl Ftrace {
    pub(super) fn new() -> Result<Self> {
        let dir = PathBuf::from("/sys/kernel/tracing/instances/ravel-test");
        fs::create_dir(&dir).context("make an instance of tracefs")?;
        let new = Self(dir);
        fs::write(new.0.join("buffer_size_kb"), "8192")?;
        fs::write(new.0.join("events/skb/kfree_skb/enable"), "1")?;
        Ok(new)
    }

    /// How many there were, by location and reason.
    pub(super) fn counts(&self) -> Result<BTreeMap<(String, String), usize>> {
        fs::write(self.0.join("tracing_on"), "0")?;
        let mut counts = BTreeMap::new();
        let text = fs::read_to_string(self.0.join("trace"))?;
        for line in text.lines().filter(|line| line.contains(" kfree_skb: ")) {
            let of = |key: &str| {
                let (_, rest) = line.split_once(key)?;
                rest.split([' ', '/']).next().map(str::to_owned)
            };
            let both = of("location=").zip(of("reason: "));
            *counts.entry(both.context("no location")?).or_default() += 1;
        }
        Ok(counts)
    }
}

impl Drop for Ftrace {
    fn drop(&mut self) {
        // A rmdir of tracefs, which takes all that is in it.
        let _ = fs::remove_dir(&self.0);
    }
}

fn drops_are_told_as_snmp_and_ftrace_count_them() -> Result<()> {
    let netns = alone()?;
    let total = scale(1000, 200);
    let full = UdpSocket::bind("127.0.0.1:0")?;
    sys::set_option(&full, libc::SOL_SOCKET, libc::SO_RCVBUF, 4096)?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    let sender6 = UdpSocket::bind("[::1]:0")?;
    let free = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let from = [sender.local_addr()?, sender6.local_addr()?];
    let (target, target6) = (
        full.local_addr()?,
        SocketAddr::new("::1".parse()?, free.port()),
    );
    let errors = ["NoPorts", "RcvbufErrors"];
    let before = errors.map(|name| snmp("Udp", name));
    let ftrace = Ftrace::new()?;
    let stream = Made::new("drops", "sources=drop bytes=16777216")?;
    for _ in 0..total {
        sender.send_to(b"nobody", free)?;
        sender.send_to(&[7; 400], target)?;
        sender6.send_to(b"nobody", target6)?;
    }
    let traced = ftrace.counts()?;
    let events = stream.drain()?;
    drop(ftrace);
    check_eq!(
        check_numbers(&events, 1)?,
        events.len() as u64 + 1,
        "the number behind the last"
    );
    let drops: Vec<&Dropped> = events
        .iter()
        .filter_map(|event| match event {
            Event::Drop(drop) => Some(drop),
            _ => None,
        })
        .collect();
    let to = |address: SocketAddr| {
        let address = address.to_string();
        let some = drops
            .iter()
            .filter(move |drop| drop.to.to_string() == address);
        some.copied().collect::<Vec<_>>()
    };
    let (nobody, nobody6, overflow) = (to(free), to(target6), to(target));
    for (drops, reason, len, source) in [
        (&nobody, "NO_SOCKET", 6, from[0]),
        (&nobody6, "NO_SOCKET", 6, from[1]),
        (&overflow, "SOCKET_RCVBUFF", 400, from[0]),
    ] {
        for drop in drops {
            check_eq!(drop.reason.as_str(), reason, "reason: {drop:?}");
            check_eq!(drop.from.to_string(), source.to_string(), "from");
            check_eq!(drop.transport, Protocol::Udp, "transport");
            check_eq!(drop.iif, 1, "device");
            // Whether the header was taken off by then, is the function's business.
            check!(
                drop.len == len || drop.len == len + 8,
                "length {}: {drop:?}",
                drop.len
            );
            check!(
                !drop.location.to_string().is_empty(),
                "no location: {drop:?}"
            );
        }
    }
    check_eq!(nobody.len(), total, "datagrams for nobody");
    check_eq!(nobody6.len(), total, "the same by IPv6");
    for ((name, before), told) in errors.iter().zip(before).zip([&nobody, &overflow]) {
        let counted = snmp("Udp", name)? - before?;
        check_eq!(told.len() as u64, counted, "{name} of snmp");
    }
    check!(overflow.len() > total / 2, "hardly any overflow");
    let (socket, _) = own_socket(&full)?;
    for drop in &overflow {
        check_eq!(
            (drop.id, drop.inode, drop.netns),
            (socket.id, inode(&full)?, netns),
            "the socket"
        );
    }
    // The kernel's own words for where and why.
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for drop in nobody.iter().chain(&nobody6).chain(&overflow) {
        let key = (drop.location.to_string(), drop.reason.to_string());
        *counts.entry(key).or_default() += 1;
    }
    for (key, count) in counts {
        check_eq!(
            Some(&count),
            traced.get(&key),
            "ftrace on {key:?}: {traced:?}"
        );
    }
    Ok(())
}

fn drop_of_what_is_no_ip_says_so() -> Result<()> {
    alone()?;
    // A frame of a type that nobody knows, sent to ourselves.
    let packet = sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
    let stream = Made::new("strange", "sources=drop")?;
    sys::send_to(&packet, &[0x45; 61], &sys::Address::packet(0x88b5, 1))?;
    let mut found = Vec::new();
    wait_for("the frame", || {
        found.extend(stream.drain()?.into_iter().filter_map(|event| match event {
            Event::Drop(drop) if drop.protocol.0 == 0x88b5 => Some(drop),
            _ => None,
        }));
        Ok(!found.is_empty())
    })?;
    check_eq!(found.len(), 1, "drops of the frame");
    let drop = &found[0];
    check_eq!(drop.transport.as_str(), "none", "transport");
    check_eq!(
        (drop.from.to_string(), drop.to.to_string()),
        (String::new(), String::new()),
        "addresses"
    );
    check_eq!(drop.reason.as_str(), "UNHANDLED_PROTO", "reason");
    check_eq!((drop.id.0, drop.inode, drop.netns), (0, 0, 0), "socket");
    Ok(())
}

/// Another module keeps what is no socket in `skb->sk`, and frees one sk_buff as dropped and one as consumed.
fn owner_that_is_no_socket_is_not_followed() -> Result<()> {
    let stream = Made::new("foreign", "sources=drop,packet port=7707")?;
    let all = Made::new("all", "sources=drop,packet bytes=16777216")?;
    let path = module::beside("ravel-test-skb.ko")?;
    let file = fs::File::open(&path).with_context(|| path.display().to_string())?;
    sys::insert_module(&file).context("insert ravel-test-skb.ko")?;
    sys::delete_module("ravel_test_skb").context("remove it")?;
    let ends = ["192.0.2.1:7707", "192.0.2.2:7708"];
    for stream in [stream, all] {
        let mut told = Vec::new();
        for event in stream.drain()? {
            let (what, from, to, socket) = match event {
                Event::Drop(drop) => (
                    "event",
                    drop.from,
                    drop.to,
                    (drop.id.0, drop.inode, drop.netns),
                ),
                Event::Packet(packet) => (
                    match packet.point {
                        Point::Drop => "drop",
                        Point::Consume => "consume",
                        Point::Free => "free",
                        _ => "another point",
                    },
                    packet.from,
                    packet.to,
                    (packet.id.0, packet.inode, packet.netns),
                ),
                _ => continue,
            };
            if from == ends[0] {
                check_eq!(to.to_string(), ends[1], "to");
                check_eq!(socket, (0, 0, 0), "socket of {what}");
                told.push(what);
            }
        }
        told.sort_unstable();
        check_eq!(
            told,
            ["consume", "drop", "event", "free", "free"],
            "what happened to both"
        );
    }
    Ok(())
}

fn what_happens_to_a_socket_is_no_process_doing() -> Result<()> {
    let pid = sys::getpid();
    for source in ["tcp_state", "reset", "drop", "packet"] {
        for who in ["pid", "tree"] {
            for all in [source.to_owned(), format!("close,{source}")] {
                let request = format!("create refused sources={all} {who}={pid}");
                check_eq!(
                    errno(client().control_streams(&request)),
                    libc::EINVAL,
                    "errno of {request}"
                );
            }
        }
    }
    check_eq!(client().streams()?.streams, [], "streams");
    Ok(())
}

fn made_and_removed_under_traffic() -> Result<()> {
    const ALL: &str = "tcp_state,reset,drop,shutdown,close,release,packet";
    let mut traffic = crate::process::Child::spawn(|link| {
        alone()?;
        let free = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let sender = UdpSocket::bind("127.0.0.1:0")?;
        link.send("ready")?;
        loop {
            let (one, two) = pair()?;
            sys::shutdown(&one, libc::SHUT_WR)?;
            sys::set_linger(&two, true, 0)?;
            drop((two, one));
            sender.send_to(b"nobody", free)?;
        }
    })?;
    traffic.link.wait()?;
    let (mut told, mut round) = (0, 0);
    let start = Instant::now();
    // Each changes the text of the kernel in several places, for which all CPUs have to be stopped.
    while round < 4 || start.elapsed() < moving() {
        round += 1;
        let sources = if round % 2 == 0 {
            ALL
        } else {
            "shutdown,close"
        };
        let who = if round % 4 == 1 {
            format!(" tree={}", traffic.pid)
        } else {
            String::new()
        };
        let stream = Made::new("brief", &format!("sources={sources} bytes=65536{who}"))?;
        let before = stream.state()?.events;
        wait_for("an event", || Ok(stream.state()?.events > before + 20))?;
        let events = stream.batches(20)?;
        check_numbers(&events, 1)?;
        told += events.len();
        check_eq!(stream.state()?.missed, 0, "missed");
    }
    check!(told > 100, "hardly anything was told");
    traffic.kill()?;
    check_eq!(client().streams()?.streams, [], "streams at the end");
    Ok(())
}
