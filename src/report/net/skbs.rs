// SPDX-License-Identifier: GPL-2.0

//! The report `skbs`: the sk_buffs in a process' sockets' queues. It walks the sockets as `sockets`
//! does.

#![deny(unsafe_code)]

mod headers;
pub(crate) mod record;

use crate::object::{
    net::encap::{Destination, Encap},
    net::skb::{Device, Flags, Frag, Inner, Queue, QueueName, SkBuff, SkbState, MAX_WALK},
    net::socket::{Child, Kind, Socket},
    sync::id::Id,
};
use crate::records;
use crate::report::{gfp, text::Text, Fault, Step, CHUNK_TEXT};
use core::ops::Range;
use kernel::prelude::*;
use record::{emit_queue, emit_skb};

/// The most sk_buffs of a queue that are reported.
const MAX_SHOWN: usize = 1024;

/// The most of an error queue: interrupts are off meanwhile.
const MAX_ERRORS: usize = 128;

/// The most of a socket, with the connections that wait to be accepted from it.
const MAX_SOCKET: usize = 1280;

/// The most sk_buffs that are counted, of a queue that keeps no count.
const MAX_COUNTED: usize = MAX_WALK as usize;

/// The most connections that wait to be accepted that are looked at.
const MAX_CHILDREN: usize = 128;

/// The most pieces of one sk_buff that are reported: pages, and sk_buffs that hang on it.
const MAX_FRAGS: usize = 64;

/// The most sk_buffs that hang on others and are counted but not reported, in one hold of a queue's
/// lock.
const MAX_PARTS: usize = 16384;

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
    /// The connection that it is of, if nobody has accepted that.
    child: Option<Id>,
    /// sk_buffs in it.
    packets: usize,
    /// Those that are reported, in [`Room::skbs`].
    skbs: Range<usize>,
}

/// An sk_buff as it was when it was looked at.
struct Packet {
    id: Id,
    state: SkbState,
    /// The device that it came by.
    device: Option<Device>,
    /// What the socket receives that its outermost datagram goes to.
    encap: Option<Encap>,
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
    /// Connections and pieces that are left out.
    cut: u64,
    /// Pieces that may still be counted in the hold under way.
    countable: usize,
    /// The receivers of datagrams that were looked up last.
    encaps: [Option<(Destination, Option<Encap>)>; 4],
}

/// What the report `skbs` adds to the walk over sockets.
pub(crate) struct Queues {
    /// The current socket.
    fd: u32,
    room: Room,
    /// How many of its queues were emitted, and of the next one how many sk_buffs; none: not even
    /// its record.
    emitted: usize,
    next: Option<usize>,
    /// The record of the current sk_buff.
    record: KBox<records::skbs::Skb>,
    pub(in crate::report) queues: u64,
    pub(in crate::report) skbs: u64,
    pub(in crate::report) cut: u64,
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
                countable: 0,
                encaps: [None; 4],
            },
            emitted: 0,
            next: None,
            record: KBox::new(Default::default(), gfp())?,
            queues: 0,
            skbs: 0,
            cut: 0,
        })
    }

    /// Looks at the queues of one socket. False: the socket's user did not release it, and only
    /// those were looked at that it does not guard.
    // Not in the frame of the caller: a kernel stack is small.
    #[inline(never)]
    pub(in crate::report) fn look(
        &mut self,
        fd: u32,
        socket: &Socket<'_>,
        busy: bool,
    ) -> Result<bool, Fault> {
        self.fd = fd;
        self.emitted = 0;
        self.next = None;
        let room = &mut self.room;
        room.clear();
        let free = !busy && room.look(socket, None)?;
        if !free {
            room.look_at_free(socket, None);
        }
        room.look_at_children(socket)?;
        room.find_devices(socket);
        self.cut += room.cut;
        Ok(free)
    }

    /// Emits what was looked at, from where it stopped. [`Step::More`]: the chunk is full.
    pub(in crate::report) fn emit(&mut self, text: &mut Text) -> Result<Step> {
        while let Some(queue) = self.room.queues.get(self.emitted) {
            let mut next = match self.next {
                Some(next) => next,
                None => {
                    emit_queue(text, self.fd, queue)?;
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
                let place = (self.fd, queue.name, next);
                emit_skb(text, place, skb, &self.room, &mut self.record)?;
                self.skbs += 1;
                next += 1;
                self.next = Some(next);
            }
            self.emitted += 1;
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
        self.encaps = [None; 4];
    }

    /// Looks at all queues of a socket. False: its user did not release it, and none was looked at.
    // Not in the frame of the caller: a kernel stack is small.
    #[inline(never)]
    fn look(&mut self, socket: &Socket<'_>, child: Option<Id>) -> Result<bool, Fault> {
        let guard = match socket.lock() {
            Ok(guard) => guard,
            Err(err) if err == EBUSY => return Ok(false),
            Err(err) => return Err(err.into()),
        };
        self.countable = MAX_PARTS;
        for name in GUARDED {
            if let Some(queue) = guard.queue(name) {
                self.collect(socket, &queue, name, child);
            }
        }
        drop(guard);
        self.look_at_free(socket, child);
        Ok(true)
    }

    /// Looks at the queues that nobody guards for long.
    fn look_at_free(&mut self, socket: &Socket<'_>, child: Option<Id>) {
        if let Some(udp) = socket.udp_queues() {
            self.countable = MAX_PARTS;
            self.collect(socket, &udp.reader(), QueueName::Reader, child);
            self.collect(socket, &udp.receive(), QueueName::Receive, child);
        }
        for name in FREE {
            let is_taken = matches!(name, QueueName::Reader | QueueName::Receive);
            if is_taken && socket.kind() == Kind::Udp {
                continue;
            }
            if let Some(guard) = socket.queue(name) {
                self.countable = MAX_PARTS;
                self.collect(socket, &guard.queue(), name, child);
            }
        }
    }

    /// Looks at what came for connections that nobody has accepted.
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
    fn collect(
        &mut self,
        socket: &Socket<'_>,
        queue: &Queue<'_>,
        name: QueueName,
        child: Option<Id>,
    ) {
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
            full = full || packets > shown || !self.copy(socket, &skb, name);
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

    /// Copies what is reported of an sk_buff. False: there is no room.
    fn copy(&mut self, socket: &Socket<'_>, skb: &SkBuff<'_>, queue: QueueName) -> bool {
        if self.skbs.len() == self.skbs.capacity()
            || self.frags.capacity() - self.frags.len() < MAX_FRAGS
            || self.bytes.capacity() - self.bytes.len() < 2 * headers::MOST
        {
            return false;
        }
        let state = skb.state();
        let first = self.frags.len();
        for page in skb.frags() {
            let _ = self.frags.push_within_capacity(page);
        }
        let middle = self.frags.len();
        self.copy_parts(skb, MAX_FRAGS.saturating_sub(middle - first));
        let end = self.frags.len();
        let (headers, encap) = self.copy_headers(socket, skb, &state, queue);
        let packet = Packet {
            id: skb.id(),
            state,
            device: None,
            encap,
            frags: first as u32..middle as u32,
            parts: middle as u32..end as u32,
            headers,
        };
        self.skbs.push_within_capacity(packet).is_ok()
    }

    /// Copies the first sk_buffs that hang on one, and counts the others, as far as that may take.
    fn copy_parts(&mut self, skb: &SkBuff<'_>, most: usize) {
        for (at, part) in skb.parts().enumerate() {
            if at < most {
                let _ = self.frags.push_within_capacity(part);
                continue;
            }
            self.cut += 1;
            if self.countable == 0 {
                return;
            }
            self.countable -= 1;
        }
    }

    /// The headers of what was received, from the first that an offset names. What waits to be sent
    /// gets its headers when it is sent: until then there is nothing at their places.
    fn copy_headers(
        &mut self,
        socket: &Socket<'_>,
        skb: &SkBuff<'_>,
        state: &SkbState,
        queue: QueueName,
    ) -> ([(u16, Range<u32>); 2], Option<Encap>) {
        let mut found = [(0, 0..0), (0, 0..0)];
        let mut encap = None;
        if matches!(queue, QueueName::Write | QueueName::Retransmit) {
            return (found, encap);
        }
        let inside = |offset: u16| u32::from(offset) <= state.tail;
        let network = record::is_set(state.network, false).then_some(state.network);
        if let Some(network) = network.filter(|at| inside(*at)) {
            let link = record::is_set(state.mac, true) && state.mac <= network;
            let from = if link { state.mac } else { network };
            let mut bytes = [0; headers::MOST];
            let there = skb.bytes(from, &mut bytes);
            let link = usize::from(network - from);
            let device = state.iif;
            let mut encap_at = |to| self.encap_at(socket, Destination { device, ..to });
            let span = headers::span(&bytes[..there], link, state.protocol, &mut encap_at);
            encap = span.encap;
            found[0] = self.keep_bytes(from, &bytes[..span.len]);
        }
        // A datagram inside of the tunnel is received elsewhere.
        let (from, copied) = (u32::from(found[0].0), found[0].1.len() as u32);
        if let Some((inner, protocol)) = first_inner(state) {
            if inside(inner) && u32::from(inner) >= from + copied {
                let mut bytes = [0; headers::MOST];
                let there = skb.bytes(inner, &mut bytes);
                let span = headers::span(&bytes[..there], 0, protocol, &mut |_| None);
                found[1] = self.keep_bytes(inner, &bytes[..span.len]);
            }
        }
        (found, encap)
    }

    fn keep_bytes(&mut self, from: u16, bytes: &[u8]) -> (u16, Range<u32>) {
        let start = self.bytes.len() as u32;
        for byte in bytes {
            let _ = self.bytes.push_within_capacity(*byte);
        }
        (from, start..self.bytes.len() as u32)
    }

    /// Looks up what the receiver of a datagram is. Most of a socket's go to the same few.
    fn encap_at(&mut self, socket: &Socket<'_>, to: Destination) -> Option<Encap> {
        let mut known = self.encaps.iter().flatten();
        if let Some((_, encap)) = known.find(|(known, _)| *known == to) {
            return *encap;
        }
        let encap = socket.encap_at(&to);
        self.encaps.rotate_right(1);
        self.encaps[0] = Some((to, encap));
        encap
    }

    /// Looks up the devices. No lock is held any more.
    fn find_devices(&mut self, socket: &Socket<'_>) {
        let mut last = (0, None);
        for packet in &mut self.skbs {
            let index = packet.state.iif;
            if index > 0 && index != last.0 {
                last = (index, socket.device(index));
            }
            if index > 0 {
                packet.device = last.1;
            }
        }
    }
}

/// Returns where the headers of what is in a tunnel begin, and with an EtherType which. The offsets are valid only of
/// an encapsulated packet.
fn first_inner(state: &SkbState) -> Option<(u16, u16)> {
    if !state.flags.has(Flags::ENCAPSULATION) {
        return None;
    }
    let (offset, protocol) = match state.inner {
        Inner::EtherType(headers::BRIDGED) => (state.inner_mac, headers::BRIDGED),
        Inner::EtherType(protocol) => (state.inner_network, protocol),
        Inner::IpProtocol(4) => (state.inner_network, headers::IPV4),
        Inner::IpProtocol(41) => (state.inner_network, headers::IPV6),
        Inner::IpProtocol(_) => return None,
    };
    record::is_set(offset, false).then_some((offset, protocol))
}
