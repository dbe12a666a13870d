// SPDX-License-Identifier: GPL-2.0

//! The report `skbs`: the sk_buffs in a process' sockets' queues. It walks the sockets as `sockets` does.

#![deny(unsafe_code)]

use super::{text::Text, Fault};
use crate::object::{
    id::Id,
    skb::{Queue, QueueName, SkbState},
    socket::Socket,
};
use kernel::prelude::*;

/// How many sk_buffs of a queue are told: as many as are looked at in one hold of its lock.
const MAX_SHOWN: usize = 1024;

/// How many sk_buffs of a queue that keeps no count are counted.
const MAX_COUNTED: usize = crate::bindings::RAVEL_QUEUE_WALK as usize;

/// What the report `skbs` adds to the walk over sockets.
pub(crate) struct Queues {
    seen: KVVec<(Id, SkbState)>,
    pub(super) queues: u64,
    pub(super) skbs: u64,
    pub(super) cut: u64,
}

impl Queues {
    /// Makes the room in which sk_buffs are collected while a queue's lock is held.
    pub(crate) fn new() -> Result<Self, Fault> {
        Ok(Self {
            seen: KVVec::with_capacity(MAX_SHOWN, GFP_KERNEL)?,
            queues: 0,
            skbs: 0,
            cut: 0,
        })
    }

    /// Tells the queues of one socket. False: the socket's user did not let go of it.
    pub(super) fn tell(
        &mut self,
        fd: u32,
        socket: &Socket<'_>,
        text: &mut Text,
    ) -> Result<bool, Fault> {
        let tcp = socket.ident().is_tcp != 0;
        for name in [
            QueueName::Reader,
            QueueName::Receive,
            QueueName::Write,
            QueueName::Retransmit,
        ] {
            self.seen.clear();
            let packets = if tcp {
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
            if let Some(packets) = packets {
                self.tell_queue(fd, name, packets, tcp, text)?;
            }
        }
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
            if packets <= MAX_SHOWN {
                let _ = self.seen.push_within_capacity((skb.id(), skb.state()));
            }
        }
        queue.len().map_or(packets, |len| len as usize)
    }

    fn tell_queue(
        &mut self,
        fd: u32,
        name: QueueName,
        packets: usize,
        tcp: bool,
        text: &mut Text,
    ) -> Result {
        let word: &[u8] = match name {
            QueueName::Receive => b"receive",
            QueueName::Reader => b"reader",
            QueueName::Write => b"write",
            QueueName::Retransmit => b"rtx",
        };
        self.queues += 1;
        self.skbs += self.seen.len() as u64;
        self.cut += (packets - self.seen.len()) as u64;
        text.record("queue")
            .number("fd", fd.into())
            .word("name", word)
            .number("packets", packets as u64)
            .number("shown", self.seen.len() as u64)
            .end()?;
        for (pos, (id, skb)) in self.seen.iter().enumerate() {
            let mut line = text
                .record("skb")
                .number("fd", fd.into())
                .word("queue", word)
                .number("pos", pos as u64)
                .id("id", *id)
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
            line.end()?;
        }
        Ok(())
    }
}

/// What the kernel keeps in an offset that no layer has set.
const UNSET: u16 = u16::MAX;
