// SPDX-License-Identifier: GPL-2.0

//! The report `skbs`: the sk_buffs in a process' sockets' queues. It walks the sockets as `sockets` does.

#![deny(unsafe_code)]

mod headers;
mod record;

use super::{gfp, text::Text, Fault, Step, CHUNK_TEXT};
use crate::object::{
    id::Id,
    skb::{Frag, Queue, QueueName, SkBuff, SkbState},
    socket::{Child, Socket},
};
use core::ops::Range;
use kernel::prelude::*;
use record::{tell_queue, tell_skb};

/// How many sk_buffs of a queue are told.
const MAX_SHOWN: usize = 1024;

/// How many of an error queue: interrupts are off meanwhile.
const MAX_ERRORS: usize = 128;

/// How many of a socket, with those that wait to be accepted from it.
const MAX_SOCKET: usize = 1280;

/// How many sk_buffs of a queue that keeps no count are counted.
const MAX_COUNTED: usize = crate::bindings::RAVEL_QUEUE_WALK as usize;

/// How many connections that wait to be accepted are looked at.
const MAX_CHILDREN: usize = 128;

/// How many pieces of one sk_buff are told: pages, and sk_buffs that hang on it.
const MAX_FRAGS: usize = 64;

/// Room for all of a socket's.
const ROOM_FRAGS: usize = 4096;

/// Room for all headers of a socket's: more than most have.
const ROOM_BYTES: usize = MAX_SOCKET * 96;

/// The most queues that one socket has: TCP's.
const MAX_QUEUES: usize = 6;

/// Those that the socket's own lock guards, in the order in which a sk_buff goes through them.
const GUARDED: [QueueName; 4] = [
    QueueName::Receive,
    QueueName::OutOfOrder,
    QueueName::Write,
    QueueName::Retransmit,
];

/// Those that can be looked at while somebody owns the socket.
const FREE: [QueueName; 4] = [
    QueueName::Reader,
    QueueName::Receive,
    QueueName::Backlog,
    QueueName::Error,
];

/// A queue as it was when it was looked at.
struct Seen {
    name: QueueName,
    /// Whose it is, if it is that of a connection which nobody has accepted.
    child: Option<Id>,
    /// sk_buffs in it.
    packets: usize,
    /// Those that are told, in [`Room::skbs`].
    skbs: Range<usize>,
}

/// An sk_buff as it was when it was looked at.
struct Packet {
    id: Id,
    state: SkbState,
    /// The device that it came by.
    device: [u8; 16],
    /// In [`Room::frags`], pages first.
    frags: Range<u32>,
    parts: Range<u32>,
    /// In [`Room::bytes`], and how far from the buffer's head they were.
    headers: [(u16, Range<u32>); 2],
}

/// What was collected of one socket while its locks were held. The room is taken before.
struct Room {
    queues: KVVec<Seen>,
    skbs: KVVec<Packet>,
    frags: KVVec<Frag>,
    bytes: KVVec<u8>,
    children: KVVec<Child>,
    /// Connections and pieces that are not told.
    cut: u64,
}

/// What the report `skbs` adds to the walk over sockets.
pub(crate) struct Queues {
    /// The socket at hand.
    fd: u32,
    room: Room,
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
            room: Room {
                queues: KVVec::with_capacity(MAX_QUEUES + 3 * MAX_CHILDREN, gfp())?,
                skbs: KVVec::with_capacity(MAX_SOCKET, gfp())?,
                frags: KVVec::with_capacity(ROOM_FRAGS, gfp())?,
                bytes: KVVec::with_capacity(ROOM_BYTES, gfp())?,
                children: KVVec::with_capacity(MAX_CHILDREN, gfp())?,
                cut: 0,
            },
            told: 0,
            next: None,
            queues: 0,
            skbs: 0,
            cut: 0,
        })
    }

    /// Looks at the queues of one socket. False: the socket's user did not let go of it, and only those were
    /// looked at that he does not guard.
    pub(super) fn look(&mut self, fd: u32, socket: &Socket<'_>, busy: bool) -> Result<bool, Fault> {
        self.fd = fd;
        self.told = 0;
        self.next = None;
        let room = &mut self.room;
        room.clear();
        let free = !busy && room.look(socket, None)?;
        if !free {
            room.look_at_free(socket, None);
        }
        room.look_at_children(socket)?;
        room.name_devices(socket);
        self.cut += room.cut;
        Ok(free)
    }

    /// Tells what was looked at, or goes on telling it. [`Step::More`]: the chunk is full.
    pub(super) fn tell(&mut self, text: &mut Text) -> Result<Step> {
        while let Some(queue) = self.room.queues.get(self.told) {
            let mut next = match self.next {
                Some(next) => next,
                None => {
                    tell_queue(text, self.fd, queue)?;
                    self.queues += 1;
                    self.cut += (queue.packets - queue.skbs.len()) as u64;
                    0
                }
            };
            self.next = Some(next);
            for skb in &self.room.skbs[queue.skbs.clone()][next..] {
                if text.bytes().len() >= CHUNK_TEXT {
                    return Ok(Step::More);
                }
                tell_skb(text, self.fd, queue.name, next, skb, &self.room)?;
                self.skbs += 1;
                next += 1;
                self.next = Some(next);
            }
            self.told += 1;
            self.next = None;
        }
        Ok(Step::Done)
    }
}

impl Room {
    fn clear(&mut self) {
        self.queues.clear();
        self.skbs.clear();
        self.frags.clear();
        self.bytes.clear();
        self.children.clear();
        self.cut = 0;
    }

    /// Looks at all queues of a socket. False: its user did not let go of it, and none was looked at.
    fn look(&mut self, socket: &Socket<'_>, child: Option<Id>) -> Result<bool, Fault> {
        let guard = match socket.lock() {
            Ok(guard) => guard,
            Err(err) if err == EBUSY => return Ok(false),
            Err(err) => return Err(err.into()),
        };
        for name in GUARDED {
            if let Some(queue) = guard.queue(name) {
                self.collect(&queue, name, child);
            }
        }
        drop(guard);
        self.look_at_free(socket, child);
        Ok(true)
    }

    /// Looks at the queues that nobody guards for long.
    fn look_at_free(&mut self, socket: &Socket<'_>, child: Option<Id>) {
        for name in FREE {
            if let Some(guard) = socket.queue(name) {
                self.collect(&guard.queue(), name, child);
            }
        }
    }

    /// Looks at what those have sent already whom nobody has accepted.
    fn look_at_children(&mut self, socket: &Socket<'_>) -> Result<(), Fault> {
        let mut children = core::mem::replace(&mut self.children, KVVec::new());
        let found = socket.children(&mut children) as usize;
        self.cut += (found - children.len()) as u64;
        let mut result = Ok(());
        for child in &children {
            let socket = child.socket();
            // Nobody can own it but for a moment: it has no descriptor.
            match self.look(&socket, Some(socket.id())) {
                Ok(true) => {}
                Ok(false) => self.cut += 1,
                Err(fault) => {
                    result = Err(fault);
                    break;
                }
            }
        }
        children.clear();
        self.children = children;
        result
    }

    /// A lock is held: no memory is allocated.
    fn collect(&mut self, queue: &Queue<'_>, name: QueueName, child: Option<Id>) {
        let from = self.skbs.len();
        let shown = match name {
            QueueName::Error => MAX_ERRORS,
            _ => MAX_SHOWN,
        };
        let most = match queue.len() {
            Some(_) => shown,
            None => MAX_COUNTED,
        };
        let mut packets = 0;
        let mut full = false;
        for skb in queue.skbs().take(most) {
            packets += 1;
            full = full || packets > shown || !self.take_in(&skb, name);
            if full && queue.len().is_some() {
                break;
            }
        }
        let packets = queue.len().map_or(packets, |len| len as usize);
        if child.is_some() && packets == 0 {
            return;
        }
        // There is room for those of all connections: none has more than three that are not empty.
        let seen = Seen {
            name,
            child,
            packets,
            skbs: from..self.skbs.len(),
        };
        if self.queues.push_within_capacity(seen).is_err() {
            self.cut += packets as u64;
        }
    }

    /// Takes in what is told of an sk_buff. False: there is no room.
    fn take_in(&mut self, skb: &SkBuff<'_>, queue: QueueName) -> bool {
        if self.skbs.len() == self.skbs.capacity()
            || self.frags.capacity() - self.frags.len() < MAX_FRAGS
            || self.bytes.capacity() - self.bytes.len() < 2 * headers::MOST
        {
            return false;
        }
        let state = skb.state();
        let mut pieces = [Frag::default(); MAX_FRAGS];
        let pages = skb.frags(&mut pieces);
        let (parts, missed) = skb.parts(&mut pieces[pages..]);
        self.cut += u64::from(missed);
        let first = self.frags.len() as u32;
        for piece in &pieces[..pages + parts] {
            let _ = self.frags.push_within_capacity(*piece);
        }
        let middle = first + pages as u32;
        let headers = self.take_in_headers(skb, &state, queue);
        let packet = Packet {
            id: skb.id(),
            state,
            device: [0; 16],
            frags: first..middle,
            parts: middle..middle + parts as u32,
            headers,
        };
        self.skbs.push_within_capacity(packet).is_ok()
    }

    /// The headers of what was received, from the first that an offset names. What waits to be sent gets its
    /// headers when it is sent: until then there is nothing at their places.
    fn take_in_headers(
        &mut self,
        skb: &SkBuff<'_>,
        state: &SkbState,
        queue: QueueName,
    ) -> [(u16, Range<u32>); 2] {
        let mut found = [(0, 0..0), (0, 0..0)];
        if matches!(queue, QueueName::Write | QueueName::Retransmit) {
            return found;
        }
        let inside = |offset: u16| u32::from(offset) <= state.tail;
        let network = record::is_set(state.network, false).then_some(state.network);
        if let Some(network) = network.filter(|at| inside(*at)) {
            let link = record::is_set(state.mac, true) && state.mac <= network;
            let from = if link { state.mac } else { network };
            found[0] = self.take_in_bytes(skb, from, network - from, state.protocol);
        }
        let encapsulated = state.flags & crate::bindings::RAVEL_SKB_ENCAPSULATION != 0;
        let inner = record::is_set(state.inner_network, false) && state.inner_is_ip == 0;
        if encapsulated && inner && inside(state.inner_network) {
            let network = state.inner_network;
            let (from, told) = (u32::from(found[0].0), found[0].1.len() as u32);
            if !(from..from + told).contains(&network.into()) {
                let link = record::is_set(state.inner_mac, false) && state.inner_mac <= network;
                let from = if link { state.inner_mac } else { network };
                let protocol = if link { 0 } else { state.inner_protocol };
                found[1] = self.take_in_bytes(skb, from, network - from, protocol);
            }
        }
        found
    }

    fn take_in_bytes(
        &mut self,
        skb: &SkBuff<'_>,
        from: u16,
        link: u16,
        protocol: u16,
    ) -> (u16, Range<u32>) {
        let mut bytes = [0; headers::MOST];
        let there = skb.bytes(from, &mut bytes);
        let len = headers::span(&bytes[..there], link.into(), protocol);
        let start = self.bytes.len() as u32;
        for byte in &bytes[..len] {
            let _ = self.bytes.push_within_capacity(*byte);
        }
        (from, start..start + len as u32)
    }

    /// Looks up the names of the devices. No lock is held any more.
    fn name_devices(&mut self, socket: &Socket<'_>) {
        let mut last = (0, [0; 16]);
        for packet in &mut self.skbs {
            let index = packet.state.iif;
            if index > 0 && index != last.0 {
                last = (index, socket.device_name(index));
            }
            if index > 0 {
                packet.device = last.1;
            }
        }
    }
}
