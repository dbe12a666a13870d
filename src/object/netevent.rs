// SPDX-License-Identifier: GPL-2.0

//! Names for what an event of the network brings as a number or an address.
//!
//! C headers: [`include/net/dropreason.h`](srctree/include/net/dropreason.h),
//! [`include/net/rstreason.h`](srctree/include/net/rstreason.h)

use super::{
    id::Id,
    ring::{NetPart, Packet},
};
use crate::bindings;
use core::ptr;
use kernel::prelude::*;

/// The longest name that is told in full.
pub(crate) const NAME_MAX: usize = 128;

impl NetPart {
    /// The socket's id.
    pub(crate) fn id(&self) -> Id {
        id::<bindings::sock>(self.sock)
    }

    /// Whether it has a flag.
    pub(crate) fn has(&self, flag: u32) -> bool {
        u32::from(self.flags) & flag != 0
    }

    /// Why a packet was dropped; empty where this kernel has no name for it.
    pub(crate) fn drop_reason<'t>(&self, text: &'t mut [u8; NAME_MAX]) -> &'t [u8] {
        drop_reason(self.reason, text)
    }

    /// Why a reset was sent; empty likewise.
    pub(crate) fn reset_reason(&self) -> &'static [u8] {
        // SAFETY: The name is a string of the module's, or null.
        unsafe {
            let name = bindings::ravel_reset_reason(self.reason);
            if name.is_null() {
                return b"";
            }
            CStr::from_char_ptr(name).to_bytes()
        }
    }

    /// The function that dropped a packet, and how far into it; empty likewise.
    pub(crate) fn location<'t>(&self, text: &'t mut [u8; NAME_MAX]) -> &'t [u8] {
        symbol(self.location, text)
    }
}

fn drop_reason(reason: u32, text: &mut [u8; NAME_MAX]) -> &[u8] {
    // SAFETY: At most as many bytes are written as there are.
    let len =
        unsafe { bindings::ravel_drop_reason(reason, text.as_mut_ptr().cast(), NAME_MAX as u32) };
    &text[..len as usize]
}

fn symbol(address: u64, text: &mut [u8; NAME_MAX]) -> &[u8] {
    // SAFETY: As above; the address is only looked up.
    let len = unsafe { bindings::ravel_symbol(address, text.as_mut_ptr().cast(), NAME_MAX as u32) };
    &text[..len as usize]
}

fn id<T>(address: u64) -> Id {
    Id::of(ptr::without_provenance::<T>(address as usize))
}

impl Packet {
    /// The sk_buff's id.
    pub(crate) fn skb_id(&self) -> Id {
        id::<bindings::sk_buff>(self.skb)
    }

    /// The buffer's id.
    pub(crate) fn head_id(&self) -> Id {
        id::<u8>(self.head)
    }

    /// The socket's id.
    pub(crate) fn sock_id(&self) -> Id {
        id::<bindings::sock>(self.sock)
    }

    /// Whether it has a flag.
    pub(crate) fn has(&self, flag: u32) -> bool {
        u32::from(self.flags) & flag != 0
    }

    /// Why it is dropped; empty where this kernel has no name for it.
    pub(crate) fn drop_reason<'t>(&self, text: &'t mut [u8; NAME_MAX]) -> &'t [u8] {
        drop_reason(self.reason, text)
    }

    /// The function that drops or consumes it, and how far into it; empty likewise.
    pub(crate) fn location<'t>(&self, text: &'t mut [u8; NAME_MAX]) -> &'t [u8] {
        symbol(self.location, text)
    }
}
