//! Who waits for room in a socket, and what holds a socket that no descriptor of a process leads
//! to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use ravel_records::client::Client;
use ravel_records::{
    Family, Holds, Id, Sharer, SkState, Socket, SocketKind, TcpTimer, Text, WaitQueue, Waiter,
    WaitsBy,
};
use serde::Serialize;

use crate::proc::{Proc, Subject, Unread, exited};
use crate::sweep::{Held, Holder, Key, Sweep, is_no_process};
use crate::syscall;

/// A task that waits until it can send or connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// The process.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// The thread's name.
    pub comm: Text,
    /// The system call in which it sleeps; null if it is not known.
    pub call: Option<String>,
    /// Whether it sleeps in a call that sends, rather than connects or polls.
    #[serde(skip)]
    pub writes: bool,
}

/// What is known beyond the sockets themselves.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Who waits on which socket.
    pub(super) waiters: BTreeMap<Key, Vec<Waiter>>,
    /// The sockets registered with an io_uring.
    pub(super) rings: BTreeMap<u64, Vec<Sharer>>,
    /// The sockets in a thread's own table of descriptors.
    threads: BTreeMap<u64, Vec<Holder>>,
    /// Sockets with unread messages that hold descriptors.
    pub(super) messages: Vec<Sharer>,
}

/// Whether somebody may wait until there is room in a socket, or in what it sends.
fn may_block(socket: &Socket) -> bool {
    let Some(detail) = &socket.detail else {
        return false;
    };
    let full = detail.memory.as_ref().is_some_and(|memory| {
        // sock_writeable(), unix_writable(): senders wait long before all is used.
        u64::try_from(detail.wmem).unwrap_or(0).saturating_mul(4) > memory.sndbuf
    });
    let unix = socket.family == Family::Unix;
    let tcp = detail.tcp.as_ref();
    let window = tcp.is_some_and(|tcp| tcp.timer == TcpTimer::Probe && tcp.unsent > 0);
    let connects = detail.sk_state == SkState::SynSent;
    let queue = unix
        && match (&detail.sk_state, &socket.r#type) {
            (SkState::Listen, _) => detail.rx_packets > detail.backlog,
            (_, SocketKind::Dgram) => detail.rx_packets > 0,
            _ => false,
        };
    full || window || connects || queue
}

/// Whether a system call sends.
fn sends(call: &str) -> bool {
    matches!(
        call,
        "sendto"
            | "send"
            | "sendmsg"
            | "sendmmsg"
            | "write"
            | "writev"
            | "pwritev"
            | "pwritev2"
            | "sendfile"
            | "sendfile64"
            | "splice"
            | "tee"
            | "socketcall"
    )
}

fn call(waiter: &Waiter) -> Option<&'static str> {
    syscall::name(waiter.syscall?, waiter.i386 == Some(true))
}

fn blocked(waiter: &Waiter) -> Option<Blocked> {
    let call = call(waiter);
    Some(Blocked {
        pid: waiter.pid?,
        tid: waiter.tid?,
        comm: waiter.comm.clone().unwrap_or_default(),
        call: call.map(str::to_owned),
        writes: call.is_some_and(sends),
    })
}

impl Evidence {
    /// Asks the module who waits on the sockets on which somebody may wait for room.
    pub fn ask_waiters(&mut self, client: &Client, sweep: &Sweep, unread: &mut Unread) {
        let held = sweep.sockets.iter().filter(|held| may_block(&held.socket));
        let pids: BTreeSet<u32> = held
            .filter_map(|held| Some(held.holders.first()?.pid))
            .collect();
        self.ask(client, &pids, unread);
        // Who polls is known at the sockets that are connected to a full one.
        let waiters = self.waiters.values().flatten();
        let relays: BTreeSet<u64> = waiters.filter_map(|waiter| waiter.relay_inode).collect();
        let pollers = sweep.sockets.iter();
        let pollers = pollers.filter(|held| relays.contains(&held.socket.inode));
        let pollers: BTreeSet<u32> = pollers
            .filter_map(|held| Some(held.holders.first()?.pid))
            .filter(|pid| !pids.contains(pid))
            .collect();
        self.ask(client, &pollers, unread);
    }

    fn ask(&mut self, client: &Client, pids: &BTreeSet<u32>, unread: &mut Unread) {
        for pid in pids.iter().copied() {
            match client.waiters(pid) {
                Ok(report) => {
                    for of in report.sockets {
                        let key = (of.socket.id, of.socket.inode);
                        self.waiters.insert(key, of.waiters);
                    }
                }
                Err(error) if is_no_process(&error) => {}
                Err(error) => unread.add(Subject::Process, pid, error),
            }
        }
    }

    fn of(&self, key: Key) -> impl Iterator<Item = &Waiter> {
        self.waiters.get(&key).into_iter().flatten()
    }

    /// Whether somebody waits until a unix socket has room for a packet or a connection.
    pub fn waits_for_room(&self, key: Key) -> bool {
        self.of(key).any(|waiter| waiter.queue == WaitQueue::Room)
    }

    /// Whether a task sleeps in a call that sends by a socket.
    pub fn sends(&self, key: Key) -> bool {
        let mut own = self.of(key).filter(|of| of.queue == WaitQueue::Socket);
        own.any(|waiter| call(waiter).is_some_and(sends))
    }

    /// Those who wait for room in a socket, or until it has sent or is connected.
    pub fn blocked(&self, sweep: &Sweep, held: &Held) -> Vec<Blocked> {
        let key = (held.socket.id, held.socket.inode);
        let mut found = Vec::new();
        for waiter in self.of(key) {
            match (&waiter.queue, &waiter.by) {
                (WaitQueue::Room, WaitsBy::Relay) => {
                    // Those who poll the socket that is connected to this one.
                    let from = sweep.sockets.iter().filter(|from| {
                        Some(from.socket.inode) == waiter.relay_inode
                            && Some(from.socket.id) == waiter.relay
                    });
                    for from in from {
                        found.extend(self.pollers(from));
                    }
                }
                (WaitQueue::Room, _) => found.extend(blocked(waiter)),
                (WaitQueue::Socket, WaitsBy::Task) => {
                    let waits = call(waiter).is_some_and(|call| sends(call) || call == "connect");
                    found.extend(blocked(waiter).filter(|_| waits));
                }
                _ => {}
            }
        }
        found
    }

    fn pollers(&self, from: &Held) -> Vec<Blocked> {
        let key = (from.socket.id, from.socket.inode);
        let polls = |waiter: &&Waiter| waiter.by == WaitsBy::Poll;
        let found: Vec<Blocked> = self.of(key).filter(polls).filter_map(blocked).collect();
        if !found.is_empty() {
            return found;
        }
        // By an epoll set, or not known: at least who has the socket.
        let holders = from.holders.iter().map(|holder| Blocked {
            pid: holder.pid,
            tid: holder.pid,
            comm: holder.comm.clone(),
            call: None,
            writes: false,
        });
        holders.collect()
    }

    /// Searches what may hold sockets that no descriptor of a process leads to: threads with tables
    /// of their own, io_urings, messages that nobody has read.
    pub fn search(
        &mut self,
        proc: &Proc,
        inodes: &BTreeSet<u64>,
        unread: &mut Unread,
    ) -> io::Result<()> {
        for pid in proc.pids()? {
            match self.search_process(proc, pid, inodes) {
                Err(error) if !exited(&error) => unread.add(Subject::References, pid, error),
                _ => {}
            }
        }
        Ok(())
    }

    fn search_process(&mut self, proc: &Proc, pid: u32, inodes: &BTreeSet<u64>) -> io::Result<()> {
        let comm = proc.comm(pid)?;
        let sharer = |fd: u32, holds: Holds, counted: u64| Sharer {
            pid,
            comm: comm.clone(),
            fd,
            holds,
            table: Id(0),
            counted,
        };
        for fd in proc.descriptors(pid)? {
            let Ok(link) = proc.link(pid, fd) else {
                continue;
            };
            let link = link.to_string_lossy();
            let ring = link == "anon_inode:[io_uring]";
            if !ring && !link.starts_with("socket:[") {
                continue;
            }
            let Ok(info) = proc.read(pid, &format!("fdinfo/{fd}")) else {
                continue;
            };
            let info = String::from_utf8_lossy(&info);
            if !ring {
                let count = info.lines().find_map(|line| line.strip_prefix("scm_fds:"));
                if let Some(Ok(count @ 1..)) = count.map(|count| count.trim().parse()) {
                    self.messages.push(sharer(fd, Holds::Message, count));
                }
                continue;
            }
            let files = info.lines().filter_map(registered);
            for inode in files.filter(|inode| inodes.contains(inode)) {
                let known = self.rings.entry(inode).or_default();
                known.push(sharer(fd, Holds::Ring, 1));
            }
        }
        for tid in proc.threads(pid)?.into_iter().filter(|tid| *tid != pid) {
            let table = format!("task/{tid}/fd");
            let Ok(fds) = proc.numbers_of(pid, &table) else {
                continue;
            };
            for fd in fds {
                let Ok(link) = proc.link_of(pid, &format!("{table}/{fd}")) else {
                    continue;
                };
                let inode = inode(&link.to_string_lossy());
                if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                    let comm = proc.read(pid, &format!("task/{tid}/comm"))?;
                    let comm = comm.strip_suffix(b"\n").unwrap_or(&comm).into();
                    let holder = Holder { pid: tid, comm, fd };
                    self.threads.entry(inode).or_default().push(holder);
                }
            }
        }
        Ok(())
    }

    /// Threads that have a socket in a table of their own.
    pub fn threads(&self, inode: u64) -> Vec<Holder> {
        self.threads.get(&inode).cloned().unwrap_or_default()
    }

    /// The io_urings that a socket is registered with.
    pub fn rings(&self, inode: u64) -> Vec<Sharer> {
        self.rings.get(&inode).cloned().unwrap_or_default()
    }

    /// Sockets with unread messages that hold descriptors.
    pub fn messages(&self) -> &[Sharer] {
        &self.messages
    }

    /// Whether it is known what holds a socket.
    pub fn is_held(&self, inode: u64) -> bool {
        self.threads.contains_key(&inode) || self.rings.contains_key(&inode)
    }
}

/// The inode of a socket's link.
fn inode(link: &str) -> Option<u64> {
    let number = link.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

/// The socket of a line of io_uring_show_fdinfo(): `    0: socket:[4711]`.
fn registered(line: &str) -> Option<u64> {
    let (place, link) = line.trim().split_once(": ")?;
    place.parse::<u32>().ok()?;
    inode(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registered_files() {
        assert_eq!(registered("    0: socket:[4711]"), Some(4711));
        for line in [
            "UserFiles:\t2",
            "    1: /dev/null",
            "    1: socket:[x]",
            "socket:[1]",
        ] {
            assert_eq!(registered(line), None, "{line}");
        }
    }
}
