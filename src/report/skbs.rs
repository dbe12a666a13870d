// SPDX-License-Identifier: GPL-2.0

//! The report `skbs`: the sk_buffs in a process' sockets' queues. It walks the sockets as `sockets` does.

#![deny(unsafe_code)]

use super::{gfp, text::Text, Fault, Step, CHUNK_TEXT};
use crate::object::{
    id::Id,
    skb::{Queue, QueueName, SkbState},
    socket::Socket,
};
use core::ops::Range;
use kernel::prelude::*;

/// How many sk_buffs of a queue are told: as many as are looked at in one hold of its lock.
const MAX_SHOWN: usize = 1024;

/// How many sk_buffs of a queue that keeps no count are counted.
const MAX_COUNTED: usize = crate::bindings::RAVEL_QUEUE_WALK as usize;

/// The queues that there are; no socket has them all.
const QUEUES: [QueueName; 4] = [
    QueueName::Reader,
    QueueName::Receive,
    QueueName::Write,
    QueueName::Retransmit,
];

/// The most that one socket has: TCP's.
const MAX_QUEUES: usize = 3;

/// A queue as it was when it was looked at.
struct Seen {
    name: QueueName,
    /// sk_buffs in it.
    packets: usize,
    /// Those that are told, in [`Queues::seen`].
    skbs: Range<usize>,
}

/// What the report `skbs` adds to the walk over sockets.
pub(crate) struct Queues {
    /// The socket at hand.
    fd: u32,
    tcp: bool,
    /// Its queues, and their sk_buffs.
    found: [Option<Seen>; QUEUES.len()],
    seen: KVVec<(Id, SkbState)>,
    /// How many of its queues were told, and of the next one how many sk_buffs; none: not even its record.
    told: usize,
    next: Option<usize>,
    pub(super) queues: u64,
    pub(super) skbs: u64,
    pub(super) cut: u64,
}

impl Queues {
    /// Makes the room in which sk_buffs are collected while a queue's lock is held.
    pub(crate) fn new() -> Result<Self, Fault> {
        Ok(Self {
            fd: 0,
            tcp: false,
            found: Default::default(),
            seen: KVVec::with_capacity(MAX_QUEUES * MAX_SHOWN, gfp())?,
            told: QUEUES.len(),
            next: None,
            queues: 0,
            skbs: 0,
            cut: 0,
        })
    }

    /// Looks at the queues of one socket. False: the socket's user did not let go of it.
    pub(super) fn look(&mut self, fd: u32, socket: &Socket<'_>) -> Result<bool, Fault> {
        self.fd = fd;
        self.tcp = socket.ident().is_tcp != 0;
        self.found = Default::default();
        self.seen.clear();
        self.told = QUEUES.len();
        for (at, name) in QUEUES.into_iter().enumerate() {
            let from = self.seen.len();
            let packets = if self.tcp {
                let guard = match socket.lock() {
                    Ok(guard) => guard,
                    Err(err) if err == EBUSY => return Ok(false),
                    Err(err) => return Err(err.into()),
                };
                let packets = guard.tcp_queue(name).map(|queue| self.collect(&queue));
                packets
            } else {
                socket.queue(name).map(|guard| self.collect(&guard.queue()))
            };
            self.found[at] = packets.map(|packets| Seen {
                name,
                packets,
                skbs: from..self.seen.len(),
            });
        }
        self.told = 0;
        self.next = None;
        Ok(true)
    }

    /// Returns how many sk_buffs are in the queue. A lock is held: no memory is allocated.
    fn collect(&mut self, queue: &Queue<'_>) -> usize {
        let mut packets = 0;
        let most = match queue.len() {
            Some(_) => MAX_SHOWN,
            None => MAX_COUNTED,
        };
        for skb in queue.skbs().take(most) {
            packets += 1;
            // There is room, for no socket has more than MAX_QUEUES.
            if packets <= MAX_SHOWN {
                let _ = self.seen.push_within_capacity((skb.id(), skb.state()));
            }
        }
        queue.len().map_or(packets, |len| len as usize)
    }

    /// Tells what was looked at, or goes on telling it. [`Step::More`]: the chunk is full.
    pub(super) fn tell(&mut self, text: &mut Text) -> Result<Step> {
        while let Some(found) = self.found.get(self.told) {
            if let Some(queue) = found {
                let word = word(queue.name);
                let mut next = match self.next {
                    Some(next) => next,
                    None => {
                        text.record("queue")
                            .number("fd", self.fd.into())
                            .word("name", word)
                            .number("packets", queue.packets as u64)
                            .number("shown", queue.skbs.len() as u64)
                            .end()?;
                        self.queues += 1;
                        self.cut += (queue.packets - queue.skbs.len()) as u64;
                        0
                    }
                };
                self.next = Some(next);
                for (id, skb) in &self.seen[queue.skbs.clone()][next..] {
                    if text.bytes().len() >= CHUNK_TEXT {
                        return Ok(Step::More);
                    }
                    tell_skb(text, self.fd, self.tcp, word, next, *id, skb)?;
                    self.skbs += 1;
                    next += 1;
                    self.next = Some(next);
                }
            }
            self.told += 1;
            self.next = None;
        }
        Ok(Step::Done)
    }
}

/// A queue's name in reports.
fn word(name: QueueName) -> &'static [u8] {
    match name {
        QueueName::Receive => b"receive",
        QueueName::Reader => b"reader",
        QueueName::Write => b"write",
        QueueName::Retransmit => b"rtx",
    }
}

fn tell_skb(
    text: &mut Text,
    fd: u32,
    tcp: bool,
    queue: &[u8],
    pos: usize,
    id: Id,
    skb: &SkbState,
) -> Result {
    let mut line = text
        .record("skb")
        .number("fd", fd.into())
        .word("queue", queue)
        .number("pos", pos as u64)
        .id("id", id)
        .number("len", skb.len.into())
        .number("data_len", skb.data_len.into())
        .number("truesize", skb.truesize.into())
        .number("data", skb.data.into())
        .number("tail", skb.tail.into())
        .number("end", skb.end.into())
        .offset("mac", skb.mac, skb.mac != UNSET)
        .offset(
            "network",
            skb.network,
            skb.network != UNSET && skb.network != 0,
        )
        .offset(
            "transport",
            skb.transport,
            skb.transport != UNSET && skb.transport != 0,
        )
        .hex16("protocol", skb.protocol)
        .flag("cloned", skb.cloned != 0)
        .number("frags", skb.nr_frags.into())
        .flag("frag_list", skb.frag_list != 0);
    if tcp {
        line = line
            .number("seq", skb.seq.into())
            .number("end_seq", skb.end_seq.into());
    }
    line.end()
}

/// What the kernel keeps in an offset that no layer has set.
const UNSET: u16 = u16::MAX;
