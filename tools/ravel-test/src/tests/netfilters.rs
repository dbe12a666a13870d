// SPDX-License-Identifier: GPL-2.0
//! Streams about one socket, one cgroup, one address, one port: all of theirs, and nothing of others.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ravel_records::{Event, Protocol, SkState};

use super::netevents::{alone, inode};
use super::peers::{pair, wait_for};
use crate::process::Child;
use crate::report::own_socket;
use crate::stream::{Made, children, client, errno};
use crate::sys;
use crate::{check, check_eq, tests};

tests!("netfilters":
    port_is_of_either_end,
    address_is_of_either_end_and_of_packets,
    socket_is_told_to_its_end_and_no_other,
    cgroup_has_its_processes_and_sockets,
    filters_that_cannot_be_are_refused,
);

/// The states that the ends of a connection went through, by local address.
fn locals(events: &[Event]) -> BTreeSet<String> {
    let states = events.iter().filter_map(|event| match event {
        Event::TcpState(state) => Some(state.local.to_string()),
        _ => None,
    });
    states.collect()
}

fn connect_and_end(at: &TcpListener) -> Result<[String; 2]> {
    let one = TcpStream::connect(at.local_addr()?)?;
    let (two, _) = at.accept()?;
    let ends = [one.local_addr()?, two.local_addr()?].map(|end| end.to_string());
    drop((one, two));
    Ok(ends)
}

fn port_is_of_either_end() -> Result<()> {
    alone()?;
    let (wanted, other) = (
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    );
    let port = wanted.local_addr()?.port();
    let terms = format!("sources=tcp_state,drop,close bytes=4194304 port={port}");
    let stream = Made::new("port", &terms)?;
    check_eq!(u32::from(stream.state()?.port), u32::from(port), "port");
    let mut ends = BTreeSet::new();
    for _ in 0..50 {
        ends.extend(connect_and_end(&wanted)?);
        connect_and_end(&other)?;
    }
    // A datagram to that port, and one to another: nobody has either.
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    sender.send_to(b"nobody", ("127.0.0.1", port))?;
    sender.send_to(b"nobody", other.local_addr()?)?;
    let mut events = Vec::new();
    let mut closed = 0;
    wait_for("the last close", || {
        let more = stream.drain()?;
        closed += more
            .iter()
            .filter(|event| matches!(event, Event::TcpState(state) if state.new == SkState::Close))
            .count();
        events.extend(more);
        Ok(closed == 100)
    })?;
    let mut told = locals(&events);
    // Until the port of an end is chosen.
    told.remove("127.0.0.1:0");
    check_eq!(told, ends, "ends");
    let closes = events
        .iter()
        .filter(|event| matches!(event, Event::Close(_)))
        .count();
    check_eq!(closes, 100, "close()");
    let drops: Vec<String> = events
        .iter()
        .filter_map(|event| match event {
            // TCP has its own reasons to drop what comes late.
            Event::Drop(drop) if drop.transport == Protocol::Udp => Some(drop.to.to_string()),
            _ => None,
        })
        .collect();
    check_eq!(drops, [format!("127.0.0.1:{port}")], "drops");
    Ok(())
}

fn address_is_of_either_end_and_of_packets() -> Result<()> {
    alone()?;
    let one = Made::new("one", "sources=tcp_state,drop address=127.0.0.2")?;
    let six = Made::new("six", "sources=tcp_state,drop address=::1")?;
    check_eq!(one.state()?.address.to_string(), "127.0.0.2", "address");
    check_eq!(six.state()?.address.to_string(), "::1", "address");
    let listeners = [
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.2:0")?,
        TcpListener::bind("[::1]:0")?,
    ];
    // An IPv4 connection to a socket of IPv6, which sees it mapped.
    let mapped = TcpListener::bind("[::ffff:127.0.0.2]:0")?;
    let mut ends = Vec::new();
    for listener in &listeners {
        ends.push(connect_and_end(listener)?);
    }
    let to = ("127.0.0.2", mapped.local_addr()?.port());
    let client = TcpStream::connect(to)?;
    let (server, _) = mapped.accept()?;
    let mapped_end = server.local_addr()?.to_string();
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    for address in ["127.0.0.1:9", "127.0.0.2:9"] {
        sender.send_to(b"nobody", address)?;
    }
    let in_one = one.drain()?;
    let told = locals(&in_one);
    check!(!told.contains(&ends[0][1]), "127.0.0.1 is told: {told:?}");
    for end in [&ends[1][0], &ends[1][1], &mapped_end] {
        check!(told.contains(end), "{end} is not told: {told:?}");
    }
    check!(
        told.iter().all(|end| !end.starts_with("[::1]")),
        "::1 is told: {told:?}"
    );
    let drops: Vec<String> = in_one
        .iter()
        .filter_map(|event| match event {
            // TCP has its own reasons to drop what comes late.
            Event::Drop(drop) if drop.transport == Protocol::Udp => Some(drop.to.to_string()),
            _ => None,
        })
        .collect();
    check_eq!(drops, ["127.0.0.2:9"], "drops");
    let told = locals(&six.drain()?);
    for end in &ends[2] {
        check!(told.contains(end), "{end} is not told: {told:?}");
    }
    check!(
        told.iter().all(|end| end.starts_with("[::1]")),
        "more than ::1 is told: {told:?}"
    );
    drop((client, server));
    Ok(())
}

fn socket_is_told_to_its_end_and_no_other() -> Result<()> {
    alone()?;
    let (one, two) = pair()?;
    let (socket, _) = own_socket(&one)?;
    let terms = format!(
        "sources=tcp_state,reset,close,release,shutdown socket={}:{}",
        sys::getpid(),
        one.as_raw_fd()
    );
    let stream = Made::new("socket", &terms)?;
    check_eq!(stream.state()?.socket, socket.id, "socket");
    sys::shutdown(&one, libc::SHUT_WR)?;
    wait_for("the acknowledgement", || {
        Ok(own_socket(&one)?.1.sk_state == SkState::FinWait2)
    })?;
    drop(one);
    drop(two);
    let mut kinds = Vec::new();
    wait_for("its end", || {
        for event in stream.drain()? {
            let (id, kind) = match event {
                Event::TcpState(event) => (event.id, format!("{}-{}", event.old, event.new)),
                Event::Reset(event) => (event.id, "reset".to_owned()),
                Event::Shutdown(event) => (event.id, "shutdown".to_owned()),
                Event::Close(event) => (event.id, "close".to_owned()),
                Event::Release(event) => (event.id, "release".to_owned()),
                other => anyhow::bail!("what is this: {other:?}"),
            };
            check_eq!(id, socket.id, "whose it is");
            kinds.push(kind);
        }
        Ok(kinds.iter().any(|kind| kind.ends_with("-CLOSE")))
    })?;
    check_eq!(
        kinds,
        [
            "shutdown",
            "ESTABLISHED-FIN_WAIT1",
            "FIN_WAIT1-FIN_WAIT2",
            "close",
            "release",
            // close() sets the state that it has already.
            "FIN_WAIT2-FIN_WAIT2",
            "FIN_WAIT2-CLOSE"
        ],
        "what happened to it"
    );
    // Its place in memory is kept, so nobody gets its id.
    for _ in 0..200 {
        let (one, two) = pair()?;
        for end in [&one, &two] {
            check!(own_socket(end)?.0.id != socket.id, "another has its id");
        }
    }
    check_eq!(stream.drain()?, [], "events after its end");
    Ok(())
}

/// A cgroup2 hierarchy, and a cgroup in it that is removed at the end.
pub(super) struct Cgroup(pub(super) PathBuf);

impl Cgroup {
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn id(&self) -> Result<u64> {
        Ok(fs::metadata(&self.0)?.ino())
    }

    pub(super) fn join(&self) -> Result<()> {
        Ok(fs::write(
            self.0.join("cgroup.procs"),
            sys::getpid().to_string(),
        )?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Where cgroups of version 2 are.
pub(super) fn cgroups() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mounted = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let path = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    if let Some(path) = mounted {
        return Ok(path);
    }
    let path = Path::new("/run/ravel-test-cgroups");
    fs::create_dir_all(path)?;
    sys::mount("none", path, "cgroup2", 0)?;
    Ok(path.to_owned())
}

fn cgroup_has_its_processes_and_sockets() -> Result<()> {
    let top = cgroups()?;
    let outer = Cgroup::new(top.join("ravel-outer"))?;
    let inner = Cgroup::new(outer.0.join("inner"))?;
    let other = Cgroup::new(top.join("ravel-other"))?;
    let stream = Made::new("forks", &format!("sources=fork cgroup={}", outer.id()?))?;
    check_eq!(stream.state()?.cgroup, outer.id()?, "cgroup");
    let kept = Made::new("socks", &format!("sources=close cgroup={}", outer.id()?))?;
    let mut forked = Vec::new();
    let mut closed = Vec::new();
    for (at, cgroup) in [&outer, &inner, &other].into_iter().enumerate() {
        let path = cgroup.0.clone();
        let mut child = Child::spawn(move |link| {
            Cgroup::join(&std::mem::ManuallyDrop::new(Cgroup(path)))?;
            let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            let inode = inode(&socket)?;
            let grandchild = Child::idle()?;
            link.send(&format!("{} {inode}", grandchild.pid))?;
            drop(socket);
            drop(grandchild);
            Ok(())
        })?;
        let line = child.link.wait()?;
        child.join()?;
        let (pid, inode) = line.split_once(' ').context("no inode")?;
        if at < 2 {
            forked.push(pid.parse::<u32>()?);
            closed.push(inode.parse::<u64>()?);
        }
    }
    check_eq!(children(&stream.drain()?), forked, "children");
    let told: BTreeSet<u64> = kept
        .drain()?
        .iter()
        .filter_map(|event| match event {
            Event::Close(close) => Some(close.inode),
            _ => None,
        })
        .collect();
    check_eq!(told, closed.into_iter().collect(), "sockets closed");
    drop((stream, kept));
    wait_for("the cgroups to be empty", || {
        Ok([&outer, &inner, &other].into_iter().all(|cgroup| {
            fs::read_to_string(cgroup.0.join("cgroup.procs")).is_ok_and(|text| text.is_empty())
        }))
    })?;
    drop(inner);
    Ok(())
}

fn filters_that_cannot_be_are_refused() -> Result<()> {
    let pid = sys::getpid();
    let file = fs::File::open("/proc/self/status")?;
    let mut gone = Child::idle()?;
    let gone_pid = gone.pid;
    gone.kill()?;
    for (terms, want) in [
        (format!("sources=drop socket={pid}:999"), libc::EBADF),
        (
            format!("sources=drop socket={pid}:{}", file.as_raw_fd()),
            libc::ENOTSOCK,
        ),
        (format!("sources=drop socket={gone_pid}:0"), libc::ESRCH),
        (format!("sources=drop socket={pid}"), libc::EINVAL),
        (format!("sources=drop socket={pid}:"), libc::EINVAL),
        ("sources=drop port=0".to_owned(), libc::EINVAL),
        ("sources=drop port=65536".to_owned(), libc::EINVAL),
        ("sources=drop protocol=0".to_owned(), libc::EINVAL),
        ("sources=drop protocol=256".to_owned(), libc::EINVAL),
        ("sources=drop protocol=udp".to_owned(), libc::EINVAL),
        ("sources=fork,drop protocol=6".to_owned(), libc::EINVAL),
        ("sources=drop until=remove".to_owned(), libc::EINVAL),
        (
            "sources=drop until=close until=close".to_owned(),
            libc::EINVAL,
        ),
        ("sources=drop address=127.0.0".to_owned(), libc::EINVAL),
        (
            "sources=drop address=::1 address=::1".to_owned(),
            libc::EINVAL,
        ),
        ("sources=fork,drop port=80".to_owned(), libc::EINVAL),
        ("sources=exit address=::1".to_owned(), libc::EINVAL),
        (
            "sources=fork cgroup=18446744073709551615".to_owned(),
            libc::ENOENT,
        ),
        ("sources=fork cgroup=0".to_owned(), libc::EINVAL),
    ] {
        check_eq!(
            errno(client().control_streams(&format!("create refused {terms}"))),
            want,
            "errno of {terms}"
        );
    }
    check_eq!(client().streams()?.streams, [], "streams");
    Ok(())
}
