//! `ravel sockets --waiters`: who waits on each socket now, and how.

use std::collections::BTreeSet;
use std::fmt::Write;

use ravel_records::{
    Hex, Signal, SignalTo, SocketWaiters, Text, WaitQueue, Waiter, WaitersReport, WaitsBy,
};
use serde::Serialize;

use super::sockets::{address, identity, kind, state};
use super::{left_out, subject};
use crate::epoll::Watch;
use crate::identity::Processes;
use crate::proc::Unread;
use crate::screen::{DIM, NOTE, STRONG, Screen, count, plain};
use crate::syscall;

/// Epoll sets, and the processes whose sets could not be read.
#[derive(Debug, Serialize)]
pub struct Sets {
    /// Those that watch one of the sockets.
    #[serde(rename = "epoll")]
    pub watches: Vec<Watch>,
    /// What could not be read.
    pub unread: Unread,
}

/// The report, and the epoll sets that were found.
#[derive(Serialize)]
pub struct Waited {
    #[serde(flatten)]
    report: WaitersReport,
    /// None where a saved report is shown: /proc has what is now.
    #[serde(flatten)]
    sets: Option<Sets>,
}

impl Waited {
    /// What is known now.
    pub fn new(report: WaitersReport, sets: Option<Sets>) -> Self {
        Self { report, sets }
    }

    /// The processes that are named: the one asked for, and those that wait.
    pub fn pids(&self) -> Vec<u32> {
        let waiters = self.report.sockets.iter().flat_map(|of| &of.waiters);
        let watches = self.sets.iter().flat_map(|sets| &sets.watches);
        let mut pids = vec![self.report.header.pid];
        pids.extend(waiters.filter_map(|waiter| waiter.pid));
        pids.extend(watches.map(|watch| watch.pid));
        pids
    }

    /// Draws the report.
    pub fn draw(&self, all: bool, processes: Option<&Processes>, screen: &Screen) -> String {
        let mut text = self.conclusion();
        let own = self.report.header.pid;
        text.push_str(&identity(
            processes.and_then(|known| known.get(own)),
            screen,
        ));
        let idle: Vec<u32> = self
            .report
            .sockets
            .iter()
            .filter(|of| of.waiters.is_empty() && of.signal.is_none() && !of.socket.busy)
            .map(|of| of.socket.fd)
            .collect();
        for of in &self.report.sockets {
            if all || !idle.contains(&of.socket.fd) {
                self.socket(&mut text, of);
            }
        }
        if !all && !idle.is_empty() {
            let fds: Vec<String> = idle.iter().take(12).map(u32::to_string).collect();
            let more = match idle.len().saturating_sub(12) {
                0 => String::new(),
                more => format!(" and {more} more (--all)"),
            };
            let _ = writeln!(
                text,
                "\n{DIM}No waiters: fd {}{more}{DIM:#}",
                fds.join(", ")
            );
        }
        let others: BTreeSet<u32> = self.pids().into_iter().filter(|pid| *pid != own).collect();
        let others = others.into_iter();
        let others = others.filter_map(|pid| processes.and_then(|known| known.get(pid)));
        for (at, process) in others.enumerate() {
            let _ = match at {
                0 => writeln!(text, "\nProcesses that wait:"),
                _ => Ok(()),
            };
            let _ = writeln!(text, "{DIM}{}{DIM:#}", process.line(2, screen));
        }
        text
    }

    /// How many threads and sets wait, and for how many sockets.
    fn conclusion(&self) -> String {
        let sockets = &self.report.sockets;
        let waiters = || sockets.iter().flat_map(|of| &of.waiters);
        let number = |by: WaitsBy| waiters().filter(|waiter| waiter.by == by).count() as u64;
        let threads: BTreeSet<_> = waiters()
            .filter(|waiter| matches!(waiter.by, WaitsBy::Task | WaitsBy::Poll))
            .filter_map(|waiter| waiter.tid)
            .collect();
        let mut parts = Vec::new();
        if !threads.is_empty() {
            parts.push(count(threads.len() as u64, "thread", "threads"));
        }
        let entries = number(WaitsBy::Epoll);
        if entries > 0 {
            let watches = self.sets.iter().flat_map(|sets| &sets.watches);
            let sets: BTreeSet<_> = watches.map(|watch| (watch.pid, watch.fd)).collect();
            let entries = count(entries, "entry", "entries");
            parts.push(match sets.len() as u64 {
                0 => format!("{entries} of epoll sets"),
                sets => format!("{} ({entries})", count(sets, "epoll set", "epoll sets")),
            });
        }
        if let requests @ 1.. = number(WaitsBy::IoUring) {
            parts.push(count(requests, "io_uring request", "io_uring requests"));
        }
        let others = number(WaitsBy::Relay) + number(WaitsBy::Unknown);
        if others > 0 {
            parts.push(count(others, "other entry", "other entries"));
        }
        let waited = sockets.iter().filter(|of| !of.waiters.is_empty()).count() as u64;
        let mut text = subject(&self.report.header);
        let all = count(sockets.len() as u64, "socket", "sockets");
        let _ = match parts.is_empty() {
            true => writeln!(text, ": {STRONG}nothing waits{STRONG:#} on its {all}"),
            false => writeln!(
                text,
                ": {STRONG}{}{STRONG:#} wait on {waited} of {all}",
                parts.join(", ")
            ),
        };
        for sentence in self.sets.iter().flat_map(|sets| sets.unread.sentences()) {
            let _ = writeln!(text, "{NOTE}{sentence}{NOTE:#}");
        }
        text.push_str(&left_out(self.report.summary.cut));
        text
    }

    fn socket(&self, text: &mut String, of: &SocketWaiters) {
        let socket = &of.socket;
        let _ = write!(
            text,
            "\n{STRONG}fd {}{STRONG:#}  {}",
            socket.fd,
            kind(socket)
        );
        match &socket.detail {
            Some(detail) => {
                let _ = write!(text, "  {}", state(socket, detail));
                if !(detail.local.is_empty() && detail.remote.is_empty()) {
                    let (local, remote) = (address(&detail.local), address(&detail.remote));
                    let _ = write!(text, "  {local} → {remote}");
                }
            }
            None => {
                let _ = write!(text, "  {NOTE}busy{NOTE:#}");
            }
        }
        text.push_str(match socket.nonblock {
            true => "  O_NONBLOCK\n",
            false => "\n",
        });
        if of.waiters.is_empty() {
            let _ = writeln!(text, "  {DIM}no waiters{DIM:#}");
        }
        let mut line = |model: &str, said: String| {
            let _ = writeln!(text, "  {model:<9} {said}");
        };
        for waiter in &of.waiters {
            match waiter.by {
                WaitsBy::Epoll => {}
                _ => line(model(waiter), say(waiter)),
            }
        }
        let entries = of.waiters.iter().filter(|w| w.by == WaitsBy::Epoll).count();
        for said in self.sets(socket.inode, entries) {
            line("epoll", said);
        }
        if let Some(signal) = &of.signal {
            line("signal", say_signal(signal));
        }
    }

    /// The epoll sets that watch a socket: the module counts their entries, /proc has their owners.
    fn sets(&self, inode: u64, entries: usize) -> Vec<String> {
        let Some(Sets { watches: sets, .. }) = &self.sets else {
            return match entries {
                0 => Vec::new(),
                _ => vec![count(entries as u64, "epoll set", "epoll sets")],
            };
        };
        let found: Vec<&Watch> = sets.iter().filter(|watch| watch.inode == inode).collect();
        let mut said: Vec<String> = found.iter().map(|watch| say_watch(watch)).collect();
        if found.len() < entries {
            let lost = count((entries - found.len()) as u64, "entry", "entries");
            said.push(format!(
                "{NOTE}{lost} of sets that no process of /proc has open{NOTE:#}"
            ));
        }
        said
    }
}

/// The kind of waiting, in one word.
fn model(waiter: &Waiter) -> &'static str {
    match (&waiter.by, &waiter.queue) {
        (WaitsBy::Task, WaitQueue::Lock) => "lock",
        (WaitsBy::Task, WaitQueue::Room) => "room",
        (WaitsBy::Task, _) => "blocked",
        (WaitsBy::Poll, _) => "poll",
        (WaitsBy::Epoll, _) => "epoll",
        (WaitsBy::IoUring, _) => "io_uring",
        (WaitsBy::Relay, _) => "relay",
        _ => "other",
    }
}

/// Who a task is: `nc 173`, with its thread where that is not the main one.
fn who(waiter: &Waiter) -> String {
    let nobody = Text::default();
    let comm = plain(waiter.comm.as_ref().unwrap_or(&nobody));
    let (pid, tid) = (waiter.pid.unwrap_or(0), waiter.tid.unwrap_or(0));
    match pid == tid {
        true => format!("{comm} {pid}"),
        false => format!("{comm} {pid}, thread {tid}"),
    }
}

/// ` in recvfrom()`, as far as it is known.
fn call(waiter: &Waiter) -> String {
    if waiter.worker == Some(true) {
        return ", a thread of the kernel or of an io_uring".to_owned();
    }
    let Some(number @ 0..) = waiter.syscall else {
        return String::new();
    };
    match syscall::name(number, waiter.i386 == Some(true)) {
        Some(name) => format!(" in {name}()"),
        None => format!(" in system call {number}"),
    }
}

fn say(waiter: &Waiter) -> String {
    let events = waiter.events.map_or(String::new(), asked);
    let mut said = match &waiter.by {
        WaitsBy::Task => format!("{}{}", who(waiter), call(waiter)),
        WaitsBy::Poll => format!("{}{}, for {events}", who(waiter), call(waiter)),
        WaitsBy::IoUring => {
            let opcode = waiter.opcode.unwrap_or(u32::MAX);
            let name = OPCODES.get(opcode as usize).copied();
            let name = name.map_or_else(|| format!("operation {opcode}"), str::to_owned);
            format!("{name} of {}, for {events}", who(waiter))
        }
        WaitsBy::Relay => format!(
            "those who poll the socket with inode {}, which is connected to this one",
            waiter.relay_inode.unwrap_or(0)
        ),
        _ => {
            let function = match waiter.function.is_empty() {
                true => "a function without a name".to_owned(),
                false => format!("{}()", plain(&waiter.function)),
            };
            match waiter.module.is_empty() {
                true => function,
                false => format!("{function} {}", plain(&waiter.module)),
            }
        }
    };
    match (&waiter.by, &waiter.queue) {
        (WaitsBy::Task, WaitQueue::Lock) => said.push_str(", until nobody else uses the socket"),
        (WaitsBy::Task, WaitQueue::Room) => said.push_str(", until there is room in this socket"),
        _ => {}
    }
    if waiter.exclusive {
        said.push_str(", exclusive");
    }
    said
}

fn say_watch(watch: &Watch) -> String {
    let bits = watch.events.0;
    let mut said = format!("fd {} of {} {}", watch.fd, plain(&watch.comm), watch.pid);
    if !watch.target_is_open {
        let _ = write!(said, ", which has the socket not as fd {}", watch.target);
    }
    // What EPOLLONESHOT leaves of the events once it has fired: no more than the flags.
    match bits & EVENTS == 0 && bits & ONESHOT != 0 {
        true => said.push_str(", disarmed: it has fired once"),
        false => {
            let _ = write!(said, ", for {}", asked(watch.events));
        }
    }
    said.push_str(match bits & EDGE {
        0 => ", level-triggered",
        _ => ", edge-triggered",
    });
    for (bit, word) in [(ONESHOT, ", once"), (EXCLUSIVE, ", exclusive")] {
        if bits & bit != 0 {
            said.push_str(word);
        }
    }
    match watch.threads[..] {
        [] => said.push_str("; no thread waits at it"),
        [tid] if tid == watch.pid => said.push_str("; it waits there"),
        ref tids => {
            let tids: Vec<String> = tids.iter().map(u32::to_string).collect();
            let _ = write!(said, "; threads that wait there: {}", tids.join(", "));
        }
    }
    said
}

fn say_signal(signal: &Signal) -> String {
    let number = match signal.signal {
        0 => "SIGIO".to_owned(),
        number => format!("signal {number}"),
    };
    let to = match (&signal.to, signal.pid) {
        (SignalTo::None, _) => "no process: there is no owner".to_owned(),
        (to, 0) => format!("a {to} that is gone"),
        (to, pid) => format!("{to} {pid}"),
    };
    match signal.r#async {
        true => format!("{number} to {to}"),
        // A socket sends SIGURG without being asked to (sk_send_sigurg()).
        false => format!("only when urgent data come (no O_ASYNC), to {to}"),
    }
}

const EDGE: u64 = 1 << 31;
const ONESHOT: u64 = 1 << 30;
const EXCLUSIVE: u64 = 1 << 28;
/// Bits of events, those always told included.
const EVENTS: u64 = 0xffff;

/// Events by their names, but those that nobody needs to ask for.
fn asked(events: Hex) -> String {
    const NAMES: [(u64, &str); 4] = [
        (0x1, "EPOLLIN"),
        (0x2, "EPOLLPRI"),
        (0x4, "EPOLLOUT"),
        (0x2000, "EPOLLRDHUP"),
    ];
    let names: Vec<&str> = NAMES
        .iter()
        .filter(|(bit, _)| events.0 & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    match names.is_empty() {
        true => "errors and its end".to_owned(),
        false => names.join(", "),
    }
}

/// IORING_OP_*, from 0 (include/uapi/linux/io_uring.h).
const OPCODES: [&str; 65] = [
    "NOP",
    "READV",
    "WRITEV",
    "FSYNC",
    "READ_FIXED",
    "WRITE_FIXED",
    "POLL_ADD",
    "POLL_REMOVE",
    "SYNC_FILE_RANGE",
    "SENDMSG",
    "RECVMSG",
    "TIMEOUT",
    "TIMEOUT_REMOVE",
    "ACCEPT",
    "ASYNC_CANCEL",
    "LINK_TIMEOUT",
    "CONNECT",
    "FALLOCATE",
    "OPENAT",
    "CLOSE",
    "FILES_UPDATE",
    "STATX",
    "READ",
    "WRITE",
    "FADVISE",
    "MADVISE",
    "SEND",
    "RECV",
    "OPENAT2",
    "EPOLL_CTL",
    "SPLICE",
    "PROVIDE_BUFFERS",
    "REMOVE_BUFFERS",
    "TEE",
    "SHUTDOWN",
    "RENAMEAT",
    "UNLINKAT",
    "MKDIRAT",
    "SYMLINKAT",
    "LINKAT",
    "MSG_RING",
    "FSETXATTR",
    "SETXATTR",
    "FGETXATTR",
    "GETXATTR",
    "SOCKET",
    "URING_CMD",
    "SEND_ZC",
    "SENDMSG_ZC",
    "READ_MULTISHOT",
    "WAITID",
    "FUTEX_WAIT",
    "FUTEX_WAKE",
    "FUTEX_WAITV",
    "FIXED_FD_INSTALL",
    "FTRUNCATE",
    "BIND",
    "LISTEN",
    "RECV_ZC",
    "EPOLL_WAIT",
    "READV_FIXED",
    "WRITEV_FIXED",
    "PIPE",
    "NOP128",
    "URING_CMD128",
];
