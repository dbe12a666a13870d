// SPDX-License-Identifier: GPL-2.0

//! An sk_buff that somebody else holds, as probes see it.
//!
//! C headers: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use crate::bindings;
use crate::object::net::{owner, sock::SockRef};
use core::{
    marker::PhantomData,
    mem::{offset_of, size_of},
    ptr::NonNull,
};

/// A header's offset while no layer has set it.
pub(in crate::object) const UNSET: u16 = u16::MAX;

/// The fields of an sk_buff that its clones have in common, as bindgen names them.
type Headers = bindings::sk_buff__bindgen_ty_4__bindgen_ty_2;

/// An sk_buff.
///
/// # Invariants
///
/// It is valid for reading as long as `'a`, and so is its buffer, which is followed by a
/// `skb_shared_info`: whoever called the probe holds it. Its data may change meanwhile.
#[derive(Clone, Copy)]
pub(in crate::object) struct PacketRef<'a> {
    skb: NonNull<bindings::sk_buff>,
    held: PhantomData<&'a bindings::sk_buff>,
}

/// How many bytes can be read of what `header()` gives: IPv6's header, and ports.
#[allow(dead_code)] // The compiler does not count uses in unnamed constants.
const HEADER_LEN: usize = 44;

/// How many of these have to be in the linear part: IPv4's header, and ports.
const HEADER_MIN: usize = 24;

// The others may be those of what follows the buffer.
const _: () = assert!(size_of::<bindings::skb_shared_info>() >= HEADER_LEN - HEADER_MIN);

impl<'a> PacketRef<'a> {
    /// # Safety
    ///
    /// The sk_buff is held as long as `'a`, by whoever called the probe.
    #[inline(always)]
    pub(in crate::object) unsafe fn from_raw(skb: *const bindings::sk_buff) -> Self {
        Self {
            // SAFETY: What is held is not null.
            skb: unsafe { NonNull::new_unchecked(skb.cast_mut()) },
            held: PhantomData,
        }
    }

    #[inline(always)]
    pub(in crate::object) fn as_ptr(self) -> *const bindings::sk_buff {
        self.skb.as_ptr()
    }

    #[inline(always)]
    fn headers(self) -> *const Headers {
        // SAFETY: The place is within the sk_buff, by the type's invariant.
        unsafe { &raw const (*self.as_ptr()).__bindgen_anon_4 }.cast()
    }

    /// Returns the buffer; null where it is gone already.
    #[inline(always)]
    pub(in crate::object) fn head(self) -> *const u8 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.as_ptr()).head }
    }

    /// Returns where the data begins, in bytes from head, of an sk_buff that has one.
    #[inline(always)]
    pub(in crate::object) fn data_offset(self) -> usize {
        // SAFETY: By the type's invariant.
        let data = unsafe { (*self.as_ptr()).data };
        data.addr().wrapping_sub(self.head().addr())
    }

    /// Returns where the data of the linear part ends, in bytes from head.
    #[inline(always)]
    pub(in crate::object) fn tail(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.as_ptr()).tail }
    }

    /// Returns where the buffer ends, in bytes from head.
    #[inline(always)]
    pub(in crate::object) fn end(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.as_ptr()).end }
    }

    /// Returns the bytes at `at`, counted from head, where they are within the linear part.
    #[inline(always)]
    pub(in crate::object) fn read<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        let end = at.checked_add(N)?;
        if self.head().is_null() || end > self.tail() as usize {
            return None;
        }
        // SAFETY: The place is within the linear part, by the type's invariant; any bytes are such
        // an array.
        Some(unsafe { self.head().add(at).cast::<[u8; N]>().read_unaligned() })
    }

    /// Returns where a header begins, where 24 bytes of it are within the linear part. 44 bytes can
    /// be read; those beyond the linear part are of no meaning.
    #[inline(always)]
    pub(in crate::object) fn header(self, at: usize) -> Option<*const u8> {
        if at.wrapping_add(HEADER_MIN) > self.tail() as usize {
            return None;
        }
        Some(self.head().wrapping_add(at))
    }

    #[inline(always)]
    pub(in crate::object) fn len(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.as_ptr()).len }
    }

    #[inline(always)]
    pub(in crate::object) fn data_len(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.as_ptr()).data_len }
    }

    #[inline(always)]
    pub(in crate::object) fn truesize(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.as_ptr()).truesize }
    }

    /// Returns what the link layer says that it carries, in host order.
    #[inline(always)]
    pub(in crate::object) fn ethertype(self) -> u16 {
        // SAFETY: By the type's invariant.
        u16::from_be(unsafe { (*self.headers()).protocol })
    }

    #[inline(always)]
    pub(in crate::object) fn mac_header(self) -> u16 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.headers()).mac_header }
    }

    #[inline(always)]
    pub(in crate::object) fn network_header(self) -> u16 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.headers()).network_header }
    }

    #[inline(always)]
    pub(in crate::object) fn transport_header(self) -> u16 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.headers()).transport_header }
    }

    /// Returns the offsets of the inner link layer's, network's and transport's headers.
    #[inline(always)]
    pub(in crate::object) fn inner_headers(self) -> [u16; 3] {
        let headers = self.headers();
        // SAFETY: By the type's invariant.
        unsafe {
            [
                (*headers).inner_mac_header,
                (*headers).inner_network_header,
                (*headers).inner_transport_header,
            ]
        }
    }

    /// Returns the index of the device that it came in by, or 0.
    #[inline(always)]
    pub(in crate::object) fn iif(self) -> u32 {
        // SAFETY: By the type's invariant.
        unsafe { (*self.headers()).skb_iif as u32 }
    }

    /// Returns whether its checksum was found right while it was copied.
    pub(in crate::object) fn is_csum_valid(self) -> bool {
        // SAFETY: By the type's invariant; a bit field is read, which nobody changes meanwhile.
        unsafe { (*self.headers()).csum_valid() != 0 }
    }

    /// Returns whether the buffer is, or was, another sk_buff's, too.
    #[inline(always)]
    pub(in crate::object) fn is_cloned(self) -> bool {
        // SAFETY: By the type's invariant; likewise.
        unsafe { (*self.as_ptr()).cloned() != 0 }
    }

    /// Returns whether it was made together with room for a clone, or is that clone.
    #[inline(always)]
    pub(in crate::object) fn fclone(self) -> u8 {
        // SAFETY: By the type's invariant; likewise.
        unsafe { (*self.as_ptr()).fclone() }
    }

    /// Returns what is behind the buffer, of an sk_buff that has one.
    #[inline(always)]
    fn shared_info(self) -> *const bindings::skb_shared_info {
        self.head().wrapping_add(self.end() as usize).cast()
    }

    /// Returns the bytes of data in each packet that it stands for, and how many these are, of an
    /// sk_buff that has a buffer.
    #[inline(always)]
    pub(in crate::object) fn gso(self) -> (u16, u16) {
        let info = self.shared_info();
        // SAFETY: By the type's invariant.
        unsafe { ((*info).gso_size, (*info).gso_segs) }
    }

    /// Returns whether the buffer is another sk_buff's now, too, of an sk_buff that has one.
    #[inline(always)]
    pub(in crate::object) fn is_shared(self) -> bool {
        // The rest counts references to the payload alone.
        const DATAREF_MASK: i32 = (1 << 16) - 1;
        // SAFETY: By the type's invariant.
        let references =
            unsafe { (&raw const (*self.shared_info()).dataref.counter).read_volatile() };
        self.is_cloned() && references & DATAREF_MASK != 1
    }

    /// Returns the socket that it belongs to, where that is known.
    #[inline(always)]
    pub(in crate::object) fn owner(self) -> Option<SockRef<'a>> {
        // SAFETY: By the type's invariant.
        let (destructor, sk) = unsafe {
            let skb = self.as_ptr();
            (
                (*skb).__bindgen_anon_3.__bindgen_anon_1.destructor,
                (*skb).sk,
            )
        };
        if owner::is_kept_by(destructor) {
            // SAFETY: With that destructor it is null, or a socket that outlives the sk_buff.
            unsafe { SockRef::from_raw(sk.cast()) }
        } else {
            None
        }
    }

    /// Returns what it refers to as its socket, which may be something else: to be compared, not
    /// followed.
    #[inline(always)]
    pub(in crate::object) fn sk(self) -> *const bindings::sock {
        // SAFETY: By the type's invariant.
        unsafe { (*self.as_ptr()).sk.cast() }
    }

    /// Returns its device. In a queue, the same bytes serve for something else.
    #[inline(always)]
    pub(in crate::object) fn dev(self) -> *const bindings::net_device {
        // SAFETY: By the type's invariant.
        unsafe {
            (*self.as_ptr())
                .__bindgen_anon_1
                .__bindgen_anon_1
                .__bindgen_anon_1
                .dev
                .cast()
        }
    }

    /// Returns the route that it takes, or null.
    pub(in crate::object) fn dst(self) -> *const bindings::dst_entry {
        // The lowest bit says whether there is a reference.
        // SAFETY: By the type's invariant.
        let dst = unsafe {
            (*self.as_ptr())
                .__bindgen_anon_3
                .__bindgen_anon_1
                ._skb_refdst
        };
        (dst & !1) as *const _
    }

    /// Returns the sk_buff that follows it in a list that begins at `list`.
    ///
    /// # Safety
    ///
    /// The list is not changed meanwhile, and what is on it held as long as `'a`.
    pub(in crate::object) unsafe fn next_in(
        list: *const bindings::list_head,
        at: *const bindings::list_head,
    ) -> Option<(Self, *const bindings::list_head)> {
        // SAFETY: By this function's contract.
        let next: *const bindings::list_head = unsafe { (*at).next };
        if next == list {
            return None;
        }
        // The list's place is at the beginning.
        const _: () = assert!(offset_of!(bindings::sk_buff, __bindgen_anon_1) == 0);
        // SAFETY: Likewise.
        Some((unsafe { Self::from_raw(next.cast()) }, next))
    }
}
