//! Which crossings of a stream are of one packet: a stream names sk_buffs, and these go from packet to packet.
//!
//! A packet ends where its sk_buff is consumed, dropped or freed; what next has that sk_buff is another packet.
//! Clones have a buffer in common. Where the stream does not say enough, that is reported, and nothing is guessed.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use serde::{Deserialize, Serialize};

use crate::{Event, Id, Packet, Point, Protocol, Text};

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It began where packets begin: it was sent here, or came in by a device.
    Own,
    /// Its sk_buff is a clone: that packet has, or had, the same buffer.
    Clone(u64),
    /// It is one of those that the kernel has cut that packet into: GSO's segments of TCP, or IP's fragments.
    Segment(u64),
    /// It was first seen amid its way.
    Unknown,
}

/// What a crossing is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crossing {
    /// The packet, in the order in which they were first seen, from 1.
    pub packet: u64,
    /// Where it comes from.
    pub origin: Origin,
    /// Whether this is the first that is seen of it.
    pub first: bool,
    /// Whether this is its end.
    pub ends: bool,
    /// Whether it ends here, or has ended before.
    pub ended: bool,
    /// Whether it is sure to be the packet that had this number before: after a loss it may be another.
    pub certain: bool,
}

/// How far a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// On its way, and last seen at GRO: its buffer may be part of another packet by now.
    Merging,
    /// On its way.
    Open,
    /// A process has read some of it.
    Read,
    /// Consumed or dropped; its sk_buff is about to be freed.
    Ended,
    /// Freed, with nothing before to say so: the kernel may put off the rest, and say it then.
    Freed,
    /// Nothing more is to come.
    Gone,
}

impl Stage {
    fn is_open(self) -> bool {
        matches!(self, Self::Merging | Self::Open | Self::Read)
    }
}

#[derive(Clone, Debug)]
struct Known {
    number: u64,
    origin: Origin,
    stage: Stage,
    certain: bool,
    head: Id,
    from: Text,
    to: Text,
    sequence: u32,
}

/// A packet that IP has begun to send, and what its fragments have in common with it.
#[derive(Clone, Debug)]
struct Sent {
    number: u64,
    from: Text,
    to: Text,
}

/// A packet that stood for many, and has ended.
#[derive(Clone, Debug)]
struct Cut {
    number: u64,
    from: Text,
    to: Text,
    sequence: u32,
    len: u64,
}

/// Sk_buffs that are kept in mind: their memory is bounded, as the stream's is.
const MOST: usize = 1 << 16;

/// Ids are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct Already(u64);

impl Hasher for Already {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type ById<T> = HashMap<Id, T, BuildHasherDefault<Already>>;

/// The packets of a stream, from crossing to crossing.
#[derive(Debug, Default)]
pub struct Walks {
    last: u64,
    known: ById<Known>,
    traces: Traces,
}

/// By what a packet's origin is found.
#[derive(Debug, Default)]
struct Traces {
    /// The packet that began with a buffer, which somebody still has.
    heads: ById<u64>,
    /// By CPU.
    cut: BTreeMap<u32, Cut>,
    /// The last, by CPU.
    sent: BTreeMap<u32, Sent>,
}

impl Walks {
    /// A stream's from its beginning.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next event of the stream, in its order; none where it is no packet's.
    pub fn take(&mut self, event: &Event) -> Option<Crossing> {
        match event {
            Event::Packet(packet) => Some(self.cross(packet)),
            Event::Loss(_) => {
                self.lose();
                None
            }
            _ => None,
        }
    }

    /// Something is missing from here on: of what is open, nobody knows whether it has ended.
    pub fn lose(&mut self) {
        self.traces = Traces::default();
        self.known.retain(|_, known| {
            known.certain = false;
            known.stage.is_open()
        });
    }

    fn cross(&mut self, packet: &Packet) -> Crossing {
        let Self {
            last,
            known,
            traces,
        } = self;
        let mut begin = |doubtful: bool| {
            *last += 1;
            let origin = match doubtful {
                true => Origin::Unknown,
                false => traces.origin(packet),
            };
            Known::new(*last, origin, packet)
        };
        let (known, first) = match known.entry(packet.skb) {
            Entry::Occupied(entry) if goes_on(entry.get(), packet) => (entry.into_mut(), false),
            Entry::Occupied(entry) => {
                let known = entry.into_mut();
                // After a loss it may be the same packet, sent on, or the next that has its sk_buff.
                *known = begin(!known.certain);
                (known, true)
            }
            Entry::Vacant(entry) => (entry.insert(begin(false)), true),
        };
        // A buffer may be exchanged for a larger one.
        if first && !matches!(known.origin, Origin::Clone(_)) || known.head != packet.head {
            traces.heads.insert(packet.head, known.number);
        }
        known.keep(packet);
        let was_open = known.stage.is_open();
        known.stage = match (&packet.point, known.stage) {
            (Point::Gro, _) => Stage::Merging,
            (Point::Copy, _) => Stage::Read,
            (Point::Consume | Point::Drop, _) => Stage::Ended,
            (Point::Free, Stage::Open | Stage::Merging | Stage::Read) => Stage::Freed,
            (Point::Free, _) => Stage::Gone,
            _ => Stage::Open,
        };
        let ended = !known.stage.is_open();
        let crossing = Crossing {
            packet: known.number,
            origin: known.origin,
            first,
            ends: ended && was_open,
            ended,
            certain: known.certain,
        };
        traces.add(packet, &crossing);
        self.forget();
        crossing
    }

    fn forget(&mut self) {
        if self.known.len() > MOST {
            self.known.retain(|_, known| known.stage.is_open());
            let newest = self.last.saturating_sub(MOST as u64 / 2);
            if self.known.len() > MOST / 2 {
                self.known.retain(|_, known| known.number > newest);
            }
        }
        let heads = &mut self.traces.heads;
        if heads.len() > MOST {
            let newest = self.last.saturating_sub(MOST as u64 / 2);
            heads.retain(|_, number| *number > newest);
        }
    }
}

impl Traces {
    /// Of one that is seen for the first time.
    fn origin(&self, packet: &Packet) -> Origin {
        // What TCP sends is a clone of what it keeps, which is on no way.
        if packet.point == Point::Output {
            return Origin::Own;
        }
        let holder = self.heads.get(&packet.head).filter(|_| packet.cloned);
        if let Some(number) = holder {
            return Origin::Clone(*number);
        }
        match packet.point {
            Point::Gro | Point::Receive => Origin::Own,
            // What IP sends was at its output before, but for the fragments that it makes behind that.
            Point::Queue if packet.carries.as_str() == "none" => Origin::Own,
            Point::Queue => match self.sent.get(&packet.cpu) {
                Some(sent) if packet.fragment && sent.has(packet) => Origin::Segment(sent.number),
                _ => Origin::Unknown,
            },
            Point::Transmit => match self.cut.get(&packet.cpu) {
                Some(cut) if cut.has(packet) => Origin::Segment(cut.number),
                _ => Origin::Unknown,
            },
            _ => Origin::Unknown,
        }
    }

    /// What a crossing leaves behind for those that follow.
    fn add(&mut self, packet: &Packet, crossing: &Crossing) {
        if crossing.ended && !packet.shared {
            self.heads.remove(&packet.head);
        }
        if packet.point == Point::Output {
            self.sent
                .insert(packet.cpu, Sent::of(crossing.packet, packet));
        }
        if crossing.ended && packet.gso_size > 0 && packet.carries == Protocol::Tcp {
            self.cut
                .insert(packet.cpu, Cut::of(crossing.packet, packet));
        }
    }
}

impl Known {
    fn new(number: u64, origin: Origin, packet: &Packet) -> Self {
        Self {
            number,
            origin,
            stage: Stage::Open,
            certain: true,
            head: packet.head,
            from: packet.from.clone(),
            to: packet.to.clone(),
            sequence: packet.sequence,
        }
    }

    /// Whether its ends are those that it had.
    fn has_ends_of(&self, packet: &Packet) -> bool {
        self.sequence == packet.sequence && self.from == packet.from && self.to == packet.to
    }

    /// What it has by now.
    fn keep(&mut self, packet: &Packet) {
        self.head = packet.head;
        if !self.has_ends_of(packet) {
            self.from = packet.from.clone();
            self.to = packet.to.clone();
            self.sequence = packet.sequence;
        }
    }
}

/// Whether a crossing is of the packet that its sk_buff was known for.
fn goes_on(known: &Known, packet: &Packet) -> bool {
    let same = known.head == packet.head;
    if !known.certain && matches!(packet.point, Point::Output | Point::Gro) {
        return false;
    }
    match known.stage {
        Stage::Gone => false,
        Stage::Ended => packet.point == Point::Free,
        Stage::Freed => same && matches!(packet.point, Point::Consume | Point::Drop | Point::Free),
        // Merged into another, which nothing tells, its sk_buff is used again.
        Stage::Merging => {
            !matches!(packet.point, Point::Gro | Point::Output)
                && (same || known.has_ends_of(packet))
        }
        Stage::Open => same || known.has_ends_of(packet),
        // What is read goes nowhere any more.
        Stage::Read => {
            let stays = matches!(
                packet.point,
                Point::Copy | Point::Consume | Point::Drop | Point::Free
            );
            stays && (same || known.has_ends_of(packet))
        }
    }
}

/// An end without its port, which only the first fragment has.
fn host(end: &Text) -> &[u8] {
    let end = end.as_bytes();
    if let Some(six) = end.strip_prefix(b"[") {
        return six.split(|byte| *byte == b']').next().unwrap_or(six);
    }
    let mut parts = end.split(|byte| *byte == b':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(four), Some(_), None) => four,
        _ => end,
    }
}

impl Sent {
    fn of(number: u64, packet: &Packet) -> Self {
        Self {
            number,
            from: packet.from.clone(),
            to: packet.to.clone(),
        }
    }

    fn has(&self, packet: &Packet) -> bool {
        host(&self.from) == host(&packet.from) && host(&self.to) == host(&packet.to)
    }
}

impl Cut {
    fn of(number: u64, packet: &Packet) -> Self {
        Self {
            number,
            from: packet.from.clone(),
            to: packet.to.clone(),
            sequence: packet.sequence,
            len: packet.len,
        }
    }

    fn has(&self, packet: &Packet) -> bool {
        self.from == packet.from
            && self.to == packet.to
            && u64::from(packet.sequence.wrapping_sub(self.sequence)) < self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Line;

    /// A crossing of an sk_buff by its buffer; `more`: fields in place of the usual ones.
    fn packet(point: &str, skb: u64, head: u64, more: &str) -> Event {
        let mut text = format!("packet point={point} skb={skb:016x} head={head:016x} {more}");
        text.truncate(text.trim_end().len());
        for field in [
            "seq=1 attempt=1 time=1 cpu=0 id=0000000000000000 inode=0 netns=0 device=1 reason=none",
            "location=\"\" protocol=0x0800 carries=tcp from=\"10.0.0.1:1\" to=\"10.0.0.2:2\" sequence=1",
            "len=100 data_len=0 truesize=768 copied=0 gso_size=0 gso_segs=0 data=64 tail=164 end=192",
            "mac=50:set network=64:set transport=84:set inner_mac=0:unset inner_network=0:unset",
            "inner_transport=0:unset cloned=0 shared=0 fragment=0 fclone=none",
        ]
        .iter()
        .flat_map(|fields| fields.split(' '))
        {
            let key = field.split_once('=').unwrap().0;
            if !more.split(' ').any(|word| word.starts_with(&format!("{key}="))) {
                text += &format!(" {field}");
            }
        }
        let line = Line::parse(text.as_bytes(), 1).unwrap();
        Event::from_line(&line).unwrap().unwrap()
    }

    /// Number, origin and whether it has ended, of each.
    fn walk(events: &[Event]) -> Vec<(u64, Origin, bool)> {
        let mut walks = Walks::new();
        let told = events.iter().filter_map(|event| walks.take(event));
        told.map(|crossing| (crossing.packet, crossing.origin, crossing.ended))
            .collect()
    }

    #[test]
    fn sk_buff_is_used_again() {
        let told = walk(&[
            packet("output", 1, 7, ""),
            packet("receive", 1, 7, ""),
            packet("copy", 1, 7, ""),
            packet("free", 1, 7, ""),
            packet("output", 1, 7, ""),
            packet("consume", 1, 7, ""),
            packet("free", 1, 7, ""),
            // Neither of these says anything of the one before.
            packet("free", 1, 7, ""),
        ]);
        let numbers: Vec<_> = told.iter().map(|told| told.0).collect();
        assert_eq!(numbers, [1, 1, 1, 1, 2, 2, 2, 3]);
        assert_eq!(told[3], (1, Origin::Own, true));
        assert_eq!(told[7].1, Origin::Unknown);
    }

    #[test]
    fn freeing_may_be_put_off() {
        let told = walk(&[
            packet("queue", 1, 7, ""),
            packet("free", 1, 7, ""),
            packet("consume", 1, 7, ""),
            packet("free", 1, 7, ""),
            packet("queue", 1, 7, ""),
        ]);
        let numbers: Vec<_> = told.iter().map(|told| told.0).collect();
        assert_eq!(numbers, [1, 1, 1, 1, 2]);
    }

    #[test]
    fn unseen_end_is_no_bar() {
        // Merged by GRO, and its sk_buff used for the next; read, and its end not told.
        let told = walk(&[
            packet("gro", 1, 7, ""),
            packet("gro", 1, 8, ""),
            packet("receive", 1, 8, ""),
            packet("copy", 1, 8, ""),
            packet("output", 1, 8, ""),
            // Another buffer, and nothing that is the same.
            packet("transmit", 1, 9, "to=\"10.0.0.3:2\""),
        ]);
        let numbers: Vec<_> = told.iter().map(|told| told.0).collect();
        assert_eq!(numbers, [1, 2, 2, 2, 3, 4]);
    }

    #[test]
    fn clones_have_an_origin() {
        let told = walk(&[
            packet("output", 1, 7, ""),
            packet("receive", 1, 7, "cloned=1 shared=1"),
            packet("copy", 2, 7, "cloned=1 shared=1"),
            packet("free", 1, 7, "cloned=1 shared=1"),
            // The first is gone, and the buffer is not.
            packet("free", 3, 7, "cloned=1 shared=1"),
            packet("free", 2, 7, "cloned=1 shared=0"),
            // By now it is.
            packet("copy", 4, 7, "cloned=1 shared=1"),
        ]);
        let origins: Vec<_> = told.iter().map(|told| (told.0, told.1)).collect();
        let clone = Origin::Clone(1);
        let (one, two, three) = ((1, Origin::Own), (2, clone), (3, clone));
        assert_eq!(
            origins,
            [one, one, two, one, three, two, (4, Origin::Unknown)]
        );
    }

    #[test]
    fn tcp_sends_clones_of_what_it_keeps() {
        let told = walk(&[
            packet("output", 1, 7, "cloned=1 shared=1 fclone=clone"),
            packet("free", 1, 7, "cloned=1 shared=1 fclone=clone"),
            packet("output", 1, 7, "cloned=1 shared=1 fclone=clone"),
        ]);
        assert_eq!((told[2].0, told[2].1), (2, Origin::Own));
    }

    #[test]
    fn segments_have_an_origin_where_numbers_say_so() {
        let told = walk(&[
            packet("queue", 1, 7, "gso_size=50"),
            packet("consume", 1, 7, "gso_size=50"),
            packet("free", 1, 7, "gso_size=50"),
            packet("transmit", 2, 8, "sequence=1"),
            packet("transmit", 3, 9, "sequence=51"),
            packet("transmit", 4, 10, "sequence=101"),
            packet("transmit", 5, 11, "sequence=51 cpu=1"),
            packet("transmit", 6, 12, "sequence=51 to=\"10.0.0.3:2\""),
        ]);
        let origins: Vec<_> = told[3..].iter().map(|told| told.1).collect();
        let (segment, unknown) = (Origin::Segment(1), Origin::Unknown);
        assert_eq!(origins, [segment, segment, unknown, unknown, unknown]);
    }

    #[test]
    fn fragments_have_an_origin_where_they_say_so() {
        for (from, bare) in [("10.0.0.1:1", "10.0.0.1"), ("[fe80::1]:1", "fe80::1")] {
            let (whole, part) = (format!("from=\"{from}\""), format!("from=\"{bare}\""));
            let fragment = format!("{part} to=\"10.0.0.2\" fragment=1");
            let told = walk(&[
                packet("output", 1, 7, &whole),
                packet("queue", 1, 7, &format!("{whole} fragment=1")),
                packet("queue", 2, 8, &fragment),
                // Whole, on another CPU, and from elsewhere.
                packet("queue", 3, 9, &whole),
                packet("queue", 4, 10, &format!("{fragment} cpu=1")),
                packet("queue", 5, 11, "from=\"10.0.0.3\" fragment=1"),
                // No packet of IP.
                packet(
                    "queue",
                    6,
                    12,
                    "carries=none protocol=0x0806 from=\"\" to=\"\"",
                ),
            ]);
            let origins: Vec<_> = told.iter().map(|told| told.1).collect();
            let (own, unknown) = (Origin::Own, Origin::Unknown);
            assert_eq!(
                origins,
                [own, own, Origin::Segment(1), unknown, unknown, unknown, own]
            );
        }
    }

    #[test]
    fn after_a_loss_nothing_open_is_certain() {
        let loss = Line::parse(b"loss seq=3 attempt=1 time=1 last=2 cpu=0 count=9", 1).unwrap();
        let loss = Event::from_line(&loss).unwrap().unwrap();
        let mut walks = Walks::new();
        for skb in [1, 2] {
            assert!(walks.take(&packet("queue", skb, skb, "")).unwrap().certain);
        }
        walks.take(&packet("consume", 2, 2, ""));
        assert_eq!(walks.take(&loss), None);
        let crossing = walks.take(&packet("receive", 1, 1, "")).unwrap();
        assert_eq!((crossing.packet, crossing.certain), (1, false));
        // What had ended before it is not waited for, and clones are not linked to what was before.
        let crossing = walks.take(&packet("free", 2, 2, "")).unwrap();
        assert_eq!((crossing.packet, crossing.origin), (3, Origin::Unknown));
        let crossing = walks.take(&packet("copy", 3, 1, "cloned=1")).unwrap();
        assert_eq!(crossing.origin, Origin::Unknown);
        // What begins after it is certain again, though not whether it comes from elsewhere.
        let crossing = walks.take(&packet("output", 1, 1, "")).unwrap();
        assert_eq!(
            (crossing.first, crossing.certain, crossing.origin),
            (true, true, Origin::Unknown)
        );
        assert!(
            walks
                .take(&packet("output", 1, 5, "to=\"10.0.0.9:2\""))
                .unwrap()
                .certain
        );
    }

    #[test]
    fn what_is_kept_in_mind_is_bounded() {
        let mut walks = Walks::new();
        for skb in 1..=2 * MOST as u64 {
            walks.take(&packet("queue", skb, skb, ""));
        }
        assert!(walks.known.len() <= MOST && walks.traces.heads.len() <= MOST);
    }
}
