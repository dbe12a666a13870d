// SPDX-License-Identifier: GPL-2.0

//! The records `queue`, `skb`, `frag`, `part` and `header`.

#![deny(unsafe_code)]

use super::{Packet, QueueName, Room, Seen};
use crate::{
    object::net::encap::Encap,
    object::net::skb::{Checksum, Control, Flags, Frag, Inner, SkbState},
    records::{
        skbs::{
            self, ChecksumPlace, Clock, Encapsulation, ErrorControl, Fclone, Gso, GsoType,
            PacketType, Sacked, SkbFlags, Stamp, TcpFlags, UnixControl, Vlan,
        },
        Bytes, Comm, Maybe, Offset,
    },
    report::text::Text,
};
use kernel::prelude::*;

/// What the kernel keeps in an offset that no layer has set.
const UNSET: u16 = u16::MAX;

/// Whether a layer has set an offset. Where 0 is no sentinel of the kernel's, it is still what an offset is made
/// with, and no place for a header that has others before it.
pub(super) fn is_set(offset: u16, zero_counts: bool) -> bool {
    offset != UNSET && (zero_counts || offset != 0)
}

/// A queue's name in records.
fn name(name: QueueName) -> skbs::QueueName {
    match name {
        QueueName::Receive => skbs::QueueName::RECEIVE,
        QueueName::Reader => skbs::QueueName::READER,
        QueueName::OutOfOrder => skbs::QueueName::OFO,
        QueueName::Write => skbs::QueueName::WRITE,
        QueueName::Retransmit => skbs::QueueName::RTX,
        QueueName::Backlog => skbs::QueueName::BACKLOG,
        QueueName::Error => skbs::QueueName::ERROR,
    }
}

/// What a socket receives.
fn receiver(encap: Encap) -> Encapsulation {
    match encap {
        Encap::Vxlan => Encapsulation::VXLAN,
        Encap::Geneve => Encapsulation::GENEVE,
        Encap::Fou => Encapsulation::FOU,
        Encap::Gue => Encapsulation::GUE,
        Encap::Gtp => Encapsulation::GTP,
        Encap::Esp => Encapsulation::ESP,
        Encap::L2tp => Encapsulation::L2TP,
        Encap::WireGuard => Encapsulation::WIREGUARD,
        Encap::Bareudp => Encapsulation::BAREUDP,
        Encap::Other => Encapsulation::OTHER,
    }
}

pub(super) fn emit_queue(text: &mut Text, fd: u32, queue: &Seen) -> Result {
    let record = skbs::Queue {
        fd: fd.into(),
        name: name(queue.name),
        child: queue.child.map(Into::into).into(),
        packets: queue.packets.into(),
        shown: queue.skbs.len().into(),
    };
    text.put(&record, &[])
}

/// Emits an sk_buff, and what belongs to it. Its record is made in a place that is used for one after another.
pub(super) fn emit_skb(
    text: &mut Text,
    (fd, queue, pos): (u32, QueueName, usize),
    skb: &Packet,
    room: &Room,
    record: &mut skbs::Skb,
) -> Result {
    record.fd = fd.into();
    record.queue = name(queue);
    record.pos = pos.into();
    record.id = skb.id.into();
    fill(record, &skb.state);
    record.dev = skb
        .device
        .as_ref()
        .map(|device| Comm::new(device.name))
        .into();
    record.dev_type = skb.device.as_ref().map(|device| device.kind.into()).into();
    record.encap = skb.encap.map(receiver).into();
    fill_optional(record, &skb.state);
    fill_control(record, &skb.state.control);
    text.put(record, &[])?;
    emit_pieces(text, (fd, queue, pos), skb, room)
}

/// Fills in what every sk_buff has.
fn fill(record: &mut skbs::Skb, state: &SkbState) {
    record.len = state.len.into();
    record.data_len = state.data_len.into();
    record.truesize = state.truesize.into();
    record.data = state.data.into();
    record.tail = state.tail.into();
    record.end = state.end.into();
    record.mac = Offset::of(state.mac, is_set(state.mac, true));
    let offset = |raw| Offset::of(raw, is_set(raw, false));
    record.network = offset(state.network);
    record.transport = offset(state.transport);
    record.inner_mac = offset(state.inner_mac);
    record.inner_network = offset(state.inner_network);
    record.inner_transport = offset(state.inner_transport);
    record.mac_len = state.mac_len.into();
    record.hdr_len = state.hdr_len.into();
    record.protocol = state.protocol.into();
    record.cloned = state.cloned.into();
    record.fclone = match state.fclone {
        1 => Fclone::ORIGINAL,
        2 => Fclone::CLONE,
        _ => Fclone::NONE,
    };
    record.users = state.users.into();
    record.dataref = state.dataref.into();
    record.flags = flags(state.flags);
    record.frags = state.nr_frags.into();
    record.frag_list = state.frag_list.into();
    record.pkt_type = PacketType::new(state.pkt_type.min(7).into());
    record.csum_level = state.csum_level.into();
    (record.csum, record.csum_place) = Default::default();
    record.ip_summed = match state.checksum {
        Checksum::None => skbs::Checksum::NONE,
        Checksum::Unnecessary => skbs::Checksum::UNNECESSARY,
        Checksum::Complete(sum) => {
            record.csum = Maybe::some(sum.into());
            skbs::Checksum::COMPLETE
        }
        Checksum::Partial(start, offset) => {
            record.csum_place = Maybe::some(ChecksumPlace {
                csum_start: start.into(),
                csum_offset: offset.into(),
            });
            skbs::Checksum::PARTIAL
        }
    };
    record.priority = state.priority.into();
    record.mark = state.mark.into();
    record.hash = state.hash.into();
    record.iif = (state.iif.max(0) as u32).into();
}

/// Fills in what most sk_buffs have not.
fn fill_optional(record: &mut skbs::Skb, state: &SkbState) {
    record.stamp = state
        .stamp
        .map(|stamp| Stamp {
            tstamp: (stamp.time as u64).into(),
            clock: match stamp.clock {
                0 => Clock::REALTIME,
                1 => Clock::MONOTONIC,
                2 => Clock::TAI,
                _ => Clock::UNKNOWN,
            },
            age_ns: stamp.age.into(),
        })
        .into();
    record.vlan = state
        .vlan
        .map(|(protocol, tag)| Vlan {
            vlan_proto: protocol.into(),
            vlan_tci: tag.into(),
        })
        .into();
    let has_gso = state.gso_size != 0 || state.gso_type != 0;
    record.gso = has_gso
        .then(|| Gso {
            gso_size: state.gso_size.into(),
            gso_segs: state.gso_segs.into(),
            gso_type: GsoType::new(state.gso_type.into()),
        })
        .into();
    (record.inner_protocol, record.inner_ipproto) = Default::default();
    match state.inner {
        Inner::EtherType(0) | Inner::IpProtocol(0) => {}
        Inner::EtherType(protocol) => record.inner_protocol = Maybe::some(protocol.into()),
        Inner::IpProtocol(protocol) => record.inner_ipproto = Maybe::some(protocol.into()),
    }
}

/// Fills in what the queue's owner keeps with the sk_buff.
fn fill_control(record: &mut skbs::Skb, control: &Control) {
    record.tcp.clear();
    record.unix.clear();
    record.error.clear();
    match *control {
        Control::None => {}
        Control::TcpIncoming {
            seq,
            end_seq,
            ack_seq,
            flags,
        } => {
            let tcp = record.tcp.there();
            tcp.seq = seq.into();
            tcp.end_seq = end_seq.into();
            tcp.tcp_flags = TcpFlags::new(flags.into());
            tcp.ack_seq = Maybe::some(ack_seq.into());
            tcp.sacked.clear();
        }
        Control::TcpOutgoing {
            seq,
            end_seq,
            flags,
            sacked,
        } => {
            let tcp = record.tcp.there();
            tcp.seq = seq.into();
            tcp.end_seq = end_seq.into();
            tcp.tcp_flags = TcpFlags::new(flags.into());
            tcp.ack_seq.clear();
            tcp.sacked = Maybe::some(Sacked::new(sacked.into()));
        }
        Control::Unix { consumed, fds } => {
            record.unix = Maybe::some(UnixControl {
                consumed: consumed.into(),
                fds: fds.into(),
            });
        }
        Control::Error {
            errno,
            info,
            data,
            origin,
            type_,
            code,
        } => {
            record.error = Maybe::some(ErrorControl {
                ee_errno: errno.into(),
                ee_origin: origin.into(),
                ee_type: type_.into(),
                ee_code: code.into(),
                ee_info: info.into(),
                ee_data: data.into(),
            });
        }
    }
}

/// Emits its pages, the sk_buffs that hang on it and its headers.
#[inline(never)]
fn emit_pieces(
    text: &mut Text,
    (fd, queue, pos): (u32, QueueName, usize),
    skb: &Packet,
    room: &Room,
) -> Result {
    let queue = name(queue);
    for (at, frag) in pieces(room, &skb.frags).enumerate() {
        let record = skbs::Frag {
            fd: fd.into(),
            queue,
            pos: pos.into(),
            index: at.into(),
            page: frag.id.into(),
            offset: frag.offset.into(),
            size: frag.size.into(),
        };
        text.put(&record, &[])?;
    }
    for (at, part) in pieces(room, &skb.parts).enumerate() {
        let record = skbs::Part {
            fd: fd.into(),
            queue,
            pos: pos.into(),
            index: at.into(),
            id: part.id.into(),
            len: part.size.into(),
            data_len: part.offset.into(),
        };
        text.put(&record, &[])?;
    }
    for (offset, bytes) in &skb.headers {
        if !bytes.is_empty() {
            let bytes = &room.bytes[bytes.start as usize..bytes.end as usize];
            let record = skbs::Header {
                fd: fd.into(),
                queue,
                pos: pos.into(),
                offset: (*offset).into(),
                bytes: Bytes::at(0, bytes.len()),
            };
            text.put(&record, &[bytes])?;
        }
    }
    Ok(())
}

fn pieces<'r>(room: &'r Room, range: &core::ops::Range<u32>) -> impl Iterator<Item = &'r Frag> {
    room.frags[range.start as usize..range.end as usize].iter()
}

fn flags(set: Flags) -> SkbFlags {
    const FLAGS: [(Flags, u64); 12] = [
        (Flags::NOHDR, SkbFlags::NOHDR),
        (Flags::PEEKED, SkbFlags::PEEKED),
        (Flags::HEAD_FRAG, SkbFlags::HEAD_FRAG),
        (Flags::PFMEMALLOC, SkbFlags::PFMEMALLOC),
        (Flags::RECYCLE, SkbFlags::RECYCLE),
        (Flags::ENCAPSULATION, SkbFlags::ENCAPSULATION),
        (Flags::L4_HASH, SkbFlags::L4_HASH),
        (Flags::SW_HASH, SkbFlags::SW_HASH),
        (Flags::CSUM_VALID, SkbFlags::CSUM_VALID),
        (Flags::UNREADABLE, SkbFlags::UNREADABLE),
        (Flags::IGNORE_DF, SkbFlags::IGNORE_DF),
        (Flags::SLOW_GRO, SkbFlags::SLOW_GRO),
    ];
    let flags = FLAGS.iter().filter(|(flag, _)| set.has(*flag));
    SkbFlags::new(flags.fold(0, |all, (_, flag)| all | flag))
}
