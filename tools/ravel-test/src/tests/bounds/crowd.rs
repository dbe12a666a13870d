// SPDX-License-Identifier: GPL-2.0
//! A hundred thousand sockets on one machine: read process by process, all at once, and by what looks at all of them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use ravel_records::{Family, SkState, SocketKind, SocketsReport};
use serde_json::Value;

use super::affordable;
use crate::harness::say;
use crate::measure::{Holds, kernel_bytes};
use crate::module::{self, Answer, BUFFER, open_query, write_errno};
use crate::process::Child;
use crate::report::parse_sockets;
use crate::sys::{self, Pid};
use crate::{check, check_eq, tests, tier};

tests!("bounds":
    machine_with_100000_sockets [240 s],
);

/// Processes, each with a fifth of the sockets.
const PROCESSES: usize = 5;

/// Of each: connections to a listener of its own, and how many of these their clients have half closed.
const CONNECTIONS: usize = 100;
const HALF_CLOSED: usize = 12;

/// What a process says of its own sockets.
struct Crowd {
    child: Child,
    port: u16,
    listener: i32,
    /// Descriptors of a server's end and of its client's. The first of them are half closed.
    connections: Vec<(i32, i32)>,
    unix: usize,
    udp: usize,
    /// The sum of all inodes' numbers.
    inodes: u64,
}

/// Begins to make a process' sockets.
fn begin(sockets: usize) -> Result<Child> {
    Child::spawn(move |link| {
        sys::allow_descriptors(sockets as u64 + 100)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (mut all, mut fds): (Vec<File>, Vec<String>) = Default::default();
        for at in 0..CONNECTIONS {
            let client = TcpStream::connect(address)?;
            let (mut server, _) = listener.accept()?;
            if at < HALF_CLOSED {
                client.shutdown(Shutdown::Write)?;
                // It has come when this ends.
                check_eq!(server.read(&mut [0; 1])?, 0, "bytes from who has closed");
            }
            fds.push(format!("{}:{}", server.as_raw_fd(), client.as_raw_fd()));
            all.push(OwnedFd::from(server).into());
            all.push(OwnedFd::from(client).into());
        }
        let said = [address.port().into(), listener.as_raw_fd() as u64];
        all.push(OwnedFd::from(listener).into());
        let unix = (sockets - all.len()) / 4 * 2;
        for _ in 0..unix / 2 {
            let (one, two) = sys::socketpair(libc::SOCK_STREAM)?;
            all.extend([one.into(), two.into()]);
        }
        let udp = sockets - all.len();
        for _ in 0..udp {
            all.push(sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?.into());
        }
        let mut inodes = 0;
        for file in &all {
            inodes += file.metadata()?.ino();
        }
        let said = said.into_iter().chain([unix as u64, udp as u64, inodes]);
        let said: Vec<String> = said.map(|number| number.to_string()).chain(fds).collect();
        link.send(&said.join(" "))?;
        link.wait().map(drop)
    })
}

impl Crowd {
    /// Waits until they are there.
    fn there(mut child: Child) -> Result<Self> {
        let said = child.link.wait()?;
        let mut words = said.split(' ');
        let mut next = || words.next().context("too little said");
        let (port, listener) = (next()?.parse()?, next()?.parse()?);
        let (unix, udp, inodes) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
        let pair = |word: &str| -> Result<(i32, i32)> {
            let (server, client) = word.split_once(':').context("no pair")?;
            Ok((server.parse()?, client.parse()?))
        };
        Ok(Self {
            port,
            listener,
            connections: words.map(pair).collect::<Result<_>>()?,
            unix,
            udp,
            inodes,
            child,
        })
    }

    fn sockets(&self) -> usize {
        1 + 2 * CONNECTIONS + self.unix + self.udp
    }

    /// Compares its report with what it says itself.
    fn check(&self, report: &SocketsReport) -> Result<()> {
        let all = self.sockets() as u64;
        let fds = fs::read_dir(format!("/proc/{}/fd", self.child.pid))?.count() as u64;
        let summary = &report.summary;
        check_eq!(
            (summary.fds, summary.sockets, summary.waiting),
            (fds, all, 0),
            "descriptors, sockets, connections not accepted"
        );
        check_eq!((summary.busy, summary.cut), (0, 0), "busy, cut");
        check_eq!(report.sockets.len() as u64, all, "records");
        check!(
            report.sockets.is_sorted_by(|a, b| a.fd < b.fd),
            "descriptors are out of order"
        );
        let inodes = report.sockets.iter().map(|socket| socket.inode);
        check_eq!(inodes.sum::<u64>(), self.inodes, "sum of all inodes");
        use {Family::*, SkState::*, SocketKind::*};
        let want = [
            ((Inet, Stream, Listen), 1),
            ((Inet, Stream, CloseWait), HALF_CLOSED),
            ((Inet, Stream, FinWait2), HALF_CLOSED),
            ((Inet, Stream, Established), 2 * (CONNECTIONS - HALF_CLOSED)),
            ((Inet, Dgram, Close), self.udp),
            ((Unix, Stream, Established), self.unix),
        ];
        let mut found = want.each_ref().map(|(kind, _)| (kind, 0));
        for socket in &report.sockets {
            let detail = socket.detail.as_ref().context("a busy socket")?;
            let is = |(family, kind, state): &(Family, SocketKind, SkState)| {
                (&socket.family, &socket.r#type, &detail.sk_state) == (family, kind, state)
            };
            let of = found.iter_mut().find(|(kind, _)| is(kind));
            of.with_context(|| format!("an unknown socket: {socket:?}"))?
                .1 += 1;
        }
        check_eq!(
            found,
            want.each_ref().map(|(kind, count)| (kind, *count)),
            "sockets of each kind"
        );
        for (at, (server, client)) in self.connections.iter().enumerate() {
            let of = |fd: i32| report.socket(fd as u32).context("no such descriptor");
            let (server, client) = (of(*server)?, of(*client)?);
            let detail = server.detail.as_ref().context("busy")?;
            check_eq!(detail.peer, client.id, "other end of connection {at}");
            let closed = at < HALF_CLOSED;
            check_eq!(
                detail.sk_state == CloseWait,
                closed,
                "whether connection {at} is half closed"
            );
        }
        Ok(())
    }
}

/// What the command says.
fn ask(words: &[&str]) -> Result<Value> {
    let start = Instant::now();
    let out = Command::new(module::beside("ravel")?)
        .args(words)
        .arg("--json")
        .output()?;
    let errors = String::from_utf8_lossy(&out.stderr);
    check!(out.status.success(), "ravel {words:?}: {errors}");
    say(format_args!("ravel {words:?}: {:.2?}", start.elapsed()));
    Ok(serde_json::from_slice(&out.stdout)?)
}

/// A number in an answer.
fn number(of: &Value, key: &str) -> Result<u64> {
    of[key].as_u64().with_context(|| format!("no {key}"))
}

/// The only (pid, descriptor) in a list of holders.
fn holder(list: &Value) -> Result<(Pid, i32)> {
    let list = list.as_array().context("no list")?;
    check_eq!(list.len(), 1, "holders: {list:?}");
    let number = |key: &str| list[0][key].as_i64().with_context(|| format!("no {key}"));
    Ok((number("pid")? as Pid, number("fd")? as i32))
}

fn machine_with_100000_sockets() -> Result<()> {
    let each = tier::scale(20_000, 2_000);
    let before = ask(&["stuck"])?;
    let start = Instant::now();
    let children: Vec<Child> = (0..PROCESSES).map(|_| begin(each)).collect::<Result<_>>()?;
    let crowds: Vec<Crowd> = children
        .into_iter()
        .map(Crowd::there)
        .collect::<Result<_>>()?;
    let all: usize = crowds.iter().map(Crowd::sockets).sum();
    check_eq!(all, PROCESSES * each, "sockets");
    say(format_args!(
        "{all} sockets made in {:.2?}",
        start.elapsed()
    ));

    // All reports are under way at once, each far from its end.
    let part = each * 100;
    Holds::forget()?;
    let start = Instant::now();
    let quiet = kernel_bytes()?;
    let mut open = Vec::new();
    for crowd in &crowds {
        let mut file = open_query()?;
        let request = format!("binary sockets {}", crowd.child.pid);
        check_eq!(write_errno(&mut file, request.as_bytes()), 0, "write");
        let mut text = vec![0; part];
        file.read_exact(&mut text)?;
        open.push((file, text));
    }
    let memory = kernel_bytes()? - quiet;
    let mut ids = BTreeSet::new();
    for (crowd, (mut file, mut text)) in crowds.iter().zip(open) {
        text.extend(Answer::read(&mut file, BUFFER).whole()?);
        let report = parse_sockets(&text)?;
        crowd.check(&report)?;
        ids.extend(report.sockets.iter().map(|socket| socket.id));
    }
    check_eq!(ids.len(), all, "ids that differ");
    let holds = Holds::now()?;
    say(format_args!(
        "{all} sockets, read in {:.2?}; longest holds: {holds}; kernel memory of {PROCESSES} reports under way: {} KiB",
        start.elapsed(),
        memory >> 10,
    ));
    affordable("sockets", &holds, memory / PROCESSES as i64)?;

    let after = ask(&["stuck"])?;
    for (key, more) in [("sockets_read", all), ("processes_read", PROCESSES)] {
        let had = number(&before, key)?;
        check_eq!(number(&after, key)?, had + more as u64, "{key}");
    }
    for key in ["sockets_busy", "cut"] {
        check_eq!(number(&after, key)?, 0, "{key}");
    }
    let mut blamed = BTreeSet::new();
    for told in after["stuck"].as_array().context("no list")? {
        if told["why"] == "close_wait" {
            blamed.insert(holder(&told["blame"])?);
        }
    }
    let half_closed = crowds.iter().flat_map(|crowd| {
        let connections = crowd.connections[..HALF_CLOSED].iter();
        connections.map(|(server, _)| (crowd.child.pid, *server))
    });
    check_eq!(
        blamed,
        half_closed.collect(),
        "who is to blame for what is half closed"
    );

    let last = crowds.last().context("no process")?;
    let pid = last.child.pid;
    let told = ask(&["who", &last.port.to_string()])?;
    let mut ends = BTreeSet::new();
    for socket in told["sockets"].as_array().context("no list")? {
        let (by, fd) = holder(&socket["holders"])?;
        check_eq!(by, pid, "who has {socket}");
        let other = match socket["sk_state"] == "listen" {
            true => None,
            false => Some(holder(&socket["peer_holders"])?),
        };
        ends.insert((fd, other));
    }
    let connections = last.connections.iter();
    let mut want: BTreeSet<_> = connections
        .map(|(server, client)| (*server, Some((pid, *client))))
        .collect();
    want.insert((last.listener, None));
    check_eq!(ends, want, "sockets of the port, and their other ends");
    Ok(())
}
