// SPDX-License-Identifier: GPL-2.0

//! sk_buffs in the queues of sockets.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

mod control;
pub(in crate::object) mod list;
mod queue;

use crate::bindings;
use crate::object::{sync::id::Id, sync::read_once};
use core::{
    marker::PhantomData,
    ptr::{self, NonNull},
};

pub(crate) use control::Control;
pub(in crate::object) use control::ControlKind;
pub(in crate::object) use queue::Of;
pub(crate) use queue::{Device, Queue, QueueGuard, QueueName, QueueTotals, MAX_WALK};

/// The fields of an sk_buff that its copies take over as a whole (the struct group `headers`).
type Headers = bindings::sk_buff__bindgen_ty_4__bindgen_ty_2;

/// An sk_buff in a queue.
///
/// # Invariants
///
/// It stays in its queue for `'q`, whose lock is held, and `control` says whose its control block
/// is.
pub(crate) struct SkBuff<'q> {
    skb: NonNull<bindings::sk_buff>,
    control: ControlKind,
    _queue: PhantomData<&'q ()>,
}

/// A piece of an sk_buff outside its linear part.
#[derive(Clone, Copy)]
pub(crate) struct Frag {
    /// The page, or an sk_buff in the `frag_list`.
    pub(crate) id: Id,
    /// Where the bytes begin in the page; of an sk_buff its `data_len`.
    pub(crate) offset: u32,
    /// Bytes.
    pub(crate) size: u32,
}

/// Bits of an sk_buff.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flags(u16);

impl Flags {
    pub(crate) const NOHDR: Self = Self(0x1);
    pub(crate) const PEEKED: Self = Self(0x2);
    pub(crate) const HEAD_FRAG: Self = Self(0x4);
    pub(crate) const PFMEMALLOC: Self = Self(0x8);
    pub(crate) const RECYCLE: Self = Self(0x10);
    pub(crate) const ENCAPSULATION: Self = Self(0x20);
    pub(crate) const L4_HASH: Self = Self(0x40);
    pub(crate) const SW_HASH: Self = Self(0x80);
    pub(crate) const CSUM_VALID: Self = Self(0x100);
    pub(crate) const UNREADABLE: Self = Self(0x200);
    pub(crate) const IGNORE_DF: Self = Self(0x400);
    pub(crate) const SLOW_GRO: Self = Self(0x800);

    /// Whether it has one of another's bits.
    pub(crate) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    fn set(&mut self, flag: Self, value: u8) {
        if value != 0 {
            self.0 |= flag.0;
        }
    }
}

/// A time stamp.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    /// In nanoseconds.
    pub(crate) time: i64,
    /// The clock that it is of (`SKB_CLOCK_*`).
    pub(crate) clock: u8,
    /// Nanoseconds since then, by that clock.
    pub(crate) age: i64,
}

/// What is known of the checksum.
#[derive(Clone, Copy)]
pub(crate) enum Checksum {
    None,
    Unnecessary,
    /// The sum over the packet.
    Complete(u32),
    /// Where the device puts it: the first byte that it covers, and its own place behind that.
    Partial(u16, u16),
}

/// What comes behind an outer header.
#[derive(Clone, Copy)]
pub(crate) enum Inner {
    EtherType(u16),
    IpProtocol(u8),
}

/// An sk_buff as it was when it was looked at. Offsets count from `head`; fields of packets are in
/// host order.
#[derive(Clone, Copy)]
pub(crate) struct SkbState {
    pub(crate) stamp: Option<Stamp>,
    pub(crate) control: Control,
    pub(crate) len: u32,
    pub(crate) data_len: u32,
    pub(crate) truesize: u32,
    pub(crate) data: u32,
    pub(crate) tail: u32,
    pub(crate) end: u32,
    pub(crate) users: u32,
    pub(crate) dataref: u32,
    pub(crate) priority: u32,
    pub(crate) mark: u32,
    pub(crate) hash: u32,
    pub(crate) gso_type: u32,
    pub(crate) iif: i32,
    pub(crate) checksum: Checksum,
    pub(crate) mac: u16,
    pub(crate) network: u16,
    pub(crate) transport: u16,
    pub(crate) inner_mac: u16,
    pub(crate) inner_network: u16,
    pub(crate) inner_transport: u16,
    pub(crate) mac_len: u16,
    pub(crate) hdr_len: u16,
    pub(crate) protocol: u16,
    pub(crate) gso_size: u16,
    pub(crate) gso_segs: u16,
    pub(crate) flags: Flags,
    pub(crate) inner: Inner,
    /// The tag's protocol and value.
    pub(crate) vlan: Option<(u16, u16)>,
    pub(crate) cloned: bool,
    pub(crate) fclone: u8,
    pub(crate) nr_frags: u8,
    pub(crate) frag_list: bool,
    pub(crate) pkt_type: u8,
    pub(crate) csum_level: u8,
}

impl<'q> SkBuff<'q> {
    /// # Safety
    ///
    /// The sk_buff stays in its queue for `'q`, whose lock is held, and its control block is of
    /// that kind.
    unsafe fn new(skb: NonNull<bindings::sk_buff>, control: ControlKind) -> Self {
        // INVARIANT: By the caller.
        Self {
            skb,
            control,
            _queue: PhantomData,
        }
    }

    /// Returns its id.
    pub(crate) fn id(&self) -> Id {
        Id::of(self.skb.as_ptr())
    }

    /// Copies the group of fields that its copies take over.
    fn headers(&self) -> Headers {
        // SAFETY: The sk_buff is valid by the type's invariant, and nobody changes these while it
        // is queued and the lock is held. The group is all of this union.
        unsafe {
            (&raw const (*self.skb.as_ptr()).__bindgen_anon_4)
                .cast::<Headers>()
                .read()
        }
    }

    /// The end of its buffer.
    fn shared(&self) -> *const bindings::skb_shared_info {
        // SAFETY: The sk_buff is valid by the type's invariant, and its buffer goes with it. On
        // 64-bit kernels, `end` counts from `head`.
        unsafe {
            let head = (*self.skb.as_ptr()).head;
            head.add((*self.skb.as_ptr()).end as usize).cast()
        }
    }

    /// How far its bytes begin behind the buffer's head.
    fn headroom(&self) -> u32 {
        // SAFETY: The sk_buff is valid by the type's invariant.
        let (head, data) = unsafe { ((*self.skb.as_ptr()).head, (*self.skb.as_ptr()).data) };
        data.addr().wrapping_sub(head.addr()) as u32
    }

    /// Returns its fields.
    pub(crate) fn state(&self) -> SkbState {
        let skb = self.skb.as_ptr();
        let headers = self.headers();
        let shared = self.shared();
        // SAFETY: The sk_buff is valid and does not change, by the type's invariant, but for counts
        // of references to it and to its buffer, and what others who share the buffer do to
        // `shared`.
        unsafe {
            SkbState {
                stamp: self.stamp(&headers),
                control: self.control.read(skb),
                len: (*skb).len,
                data_len: (*skb).data_len,
                truesize: (*skb).truesize,
                data: self.headroom(),
                tail: (*skb).tail,
                end: (*skb).end,
                users: read_once!((*skb).users.refs.counter) as u32,
                // The upper half counts those who do without the headers (SKB_DATAREF_SHIFT).
                dataref: read_once!((*shared).dataref.counter) as u32 & 0xffff,
                priority: headers.priority,
                mark: headers.__bindgen_anon_4.mark,
                hash: headers.hash,
                gso_type: read_once!((*shared).gso_type),
                iif: headers.skb_iif,
                checksum: checksum(&headers),
                mac: headers.mac_header,
                network: headers.network_header,
                transport: headers.transport_header,
                inner_mac: headers.inner_mac_header,
                inner_network: headers.inner_network_header,
                inner_transport: headers.inner_transport_header,
                mac_len: (*skb).mac_len,
                hdr_len: (*skb).hdr_len,
                protocol: u16::from_be(headers.protocol),
                gso_size: read_once!((*shared).gso_size),
                gso_segs: read_once!((*shared).gso_segs),
                flags: self.flags(&headers),
                inner: inner(&headers),
                vlan: vlan(&headers),
                cloned: (*skb).cloned() != 0,
                fclone: (*skb).fclone(),
                nr_frags: read_once!((*shared).nr_frags),
                frag_list: !read_once!((*shared).frag_list).is_null(),
                pkt_type: headers.pkt_type(),
                csum_level: headers.csum_level(),
            }
        }
    }

    fn flags(&self, headers: &Headers) -> Flags {
        let skb = self.skb.as_ptr();
        let mut flags = Flags::default();
        // SAFETY: The sk_buff is valid by the type's invariant; its bits do not change while it is
        // queued and the lock is held.
        unsafe {
            flags.set(Flags::NOHDR, (*skb).nohdr());
            flags.set(Flags::PEEKED, (*skb).peeked());
            flags.set(Flags::HEAD_FRAG, (*skb).head_frag());
            flags.set(Flags::PFMEMALLOC, (*skb).pfmemalloc());
            flags.set(Flags::RECYCLE, (*skb).pp_recycle());
        }
        flags.set(Flags::ENCAPSULATION, headers.encapsulation());
        flags.set(Flags::L4_HASH, headers.l4_hash());
        flags.set(Flags::SW_HASH, headers.sw_hash());
        flags.set(Flags::CSUM_VALID, headers.csum_valid());
        flags.set(Flags::UNREADABLE, headers.unreadable());
        flags.set(Flags::IGNORE_DF, headers.ignore_df());
        flags.set(Flags::SLOW_GRO, headers.slow_gro());
        flags
    }

    fn stamp(&self, headers: &Headers) -> Option<Stamp> {
        // SAFETY: The sk_buff is valid by the type's invariant.
        let time = unsafe { (*self.skb.as_ptr()).__bindgen_anon_2.tstamp };
        // When TCP last sent it, whatever the clock of its packets.
        let clock = match self.control {
            ControlKind::TcpOutgoing => bindings::skb_tstamp_type_SKB_CLOCK_MONOTONIC as u8,
            _ => headers.tstamp_type(),
        };
        (time != 0).then(|| Stamp {
            time,
            clock,
            age: now(clock).wrapping_sub(time),
        })
    }

    /// Returns where its bytes in pages are.
    pub(crate) fn frags(&self) -> impl Iterator<Item = Frag> + '_ {
        let shared = self.shared();
        // SAFETY: The buffer goes with the sk_buff, which is valid by the type's invariant.
        let (frags, count) = unsafe { (&raw const (*shared).frags, (*shared).nr_frags) };
        let frags = frags.cast::<bindings::skb_frag_t>();
        let most = bindings::MAX_SKB_FRAGS as usize;
        (0..usize::from(count).min(most)).map(move |at| {
            // SAFETY: As above. The array has `nr_frags` entries that are filled.
            let frag = unsafe { frags.add(at).read() };
            Frag {
                // It may be a device's memory, which has no page.
                id: Id::of(ptr::without_provenance::<u8>(frag.netmem)),
                offset: frag.offset,
                size: frag.len,
            }
        })
    }

    /// Returns the sk_buffs of its `frag_list`.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Frag> + '_ {
        // SAFETY: The buffer goes with the sk_buff, which is valid by the type's invariant.
        let mut next = unsafe { (*self.shared()).frag_list };
        core::iter::from_fn(move || {
            let part = NonNull::new(next)?.as_ptr();
            // SAFETY: The list belongs to the sk_buff, and does not change while that is queued and
            // the lock is held.
            let (behind, len, data_len) = unsafe {
                (
                    (*part).__bindgen_anon_1.__bindgen_anon_1.next,
                    (*part).len,
                    (*part).data_len,
                )
            };
            next = behind;
            Some(Frag {
                id: Id::of(part),
                offset: data_len,
                size: len,
            })
        })
    }

    /// Copies its bytes from a place on that counts from the buffer's head, wherever they are, and
    /// returns how many.
    pub(crate) fn bytes(&self, from: u16, bytes: &mut [u8]) -> usize {
        let skb = self.skb.as_ptr();
        // SAFETY: The sk_buff is valid by the type's invariant.
        let (len, data_len) = unsafe { ((*skb).len, (*skb).data_len) };
        let offset = i64::from(from).wrapping_sub(self.headroom().into());
        // Behind the linear part only what the CPU can read.
        let readable = match self.headers().unreadable() {
            0 => len,
            _ => len.saturating_sub(data_len),
        };
        let behind = i64::from(readable).saturating_sub(offset);
        let wanted = behind.clamp(0, bytes.len() as i64) as i32;
        if wanted == 0 {
            return 0;
        }
        // SAFETY: As above. The place is within the buffer: headers are behind its head. There is
        // room for the bytes.
        let copied = unsafe {
            bindings::skb_copy_bits(skb, offset as i32, bytes.as_mut_ptr().cast(), wanted)
        };
        if copied == 0 {
            wanted as usize
        } else {
            0
        }
    }
}

fn checksum(headers: &Headers) -> Checksum {
    // SAFETY: `ip_summed` says which member of the union is set; all are plain numbers.
    unsafe {
        match u32::from(headers.ip_summed()) {
            bindings::CHECKSUM_UNNECESSARY => Checksum::Unnecessary,
            bindings::CHECKSUM_COMPLETE => Checksum::Complete(headers.__bindgen_anon_1.csum),
            bindings::CHECKSUM_PARTIAL => {
                let place = headers.__bindgen_anon_1.__bindgen_anon_1;
                Checksum::Partial(place.csum_start, place.csum_offset)
            }
            _ => Checksum::None,
        }
    }
}

fn inner(headers: &Headers) -> Inner {
    // SAFETY: `inner_protocol_type` says which member of the union is set; all are plain numbers.
    unsafe {
        if u32::from(headers.inner_protocol_type()) == bindings::ENCAP_TYPE_IPPROTO {
            Inner::IpProtocol(headers.__bindgen_anon_5.inner_ipproto)
        } else {
            Inner::EtherType(u16::from_be(headers.__bindgen_anon_5.inner_protocol))
        }
    }
}

fn vlan(headers: &Headers) -> Option<(u16, u16)> {
    // SAFETY: All members of the union are plain numbers.
    unsafe {
        let tag = headers.__bindgen_anon_2.__bindgen_anon_1;
        (headers.__bindgen_anon_2.vlan_all != 0)
            .then(|| (u16::from_be(tag.vlan_proto), tag.vlan_tci))
    }
}

/// What a clock shows (`SKB_CLOCK_*`).
fn now(clock: u8) -> i64 {
    // SAFETY: Clocks may be read anywhere.
    unsafe {
        match u32::from(clock) {
            bindings::skb_tstamp_type_SKB_CLOCK_MONOTONIC => bindings::ktime_get(),
            bindings::skb_tstamp_type_SKB_CLOCK_TAI => bindings::ktime_get_clocktai(),
            _ => bindings::ktime_get_real(),
        }
    }
}
