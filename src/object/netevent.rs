// SPDX-License-Identifier: GPL-2.0

//! Names for what an event of the network brings as a number or an address.
//!
//! C headers: [`include/net/dropreason.h`](srctree/include/net/dropreason.h),
//! [`include/net/rstreason.h`](srctree/include/net/rstreason.h)

use super::{id::Id, ring::NetPart};
use crate::bindings;
use core::ptr;
use kernel::prelude::*;

/// The longest name that is told in full.
pub(crate) const NAME_MAX: usize = 128;

impl NetPart {
    /// The socket's id.
    pub(crate) fn id(&self) -> Id {
        Id::of(ptr::without_provenance::<bindings::sock>(
            self.sock as usize,
        ))
    }

    /// Whether it has a flag.
    pub(crate) fn has(&self, flag: u32) -> bool {
        u32::from(self.flags) & flag != 0
    }

    /// Why a packet was dropped; empty where this kernel has no name for it.
    pub(crate) fn drop_reason<'t>(&self, text: &'t mut [u8; NAME_MAX]) -> &'t [u8] {
        // SAFETY: At most as many bytes are written as there are.
        let len = unsafe {
            bindings::ravel_drop_reason(self.reason, text.as_mut_ptr().cast(), NAME_MAX as u32)
        };
        &text[..len as usize]
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
        // SAFETY: As in drop_reason(); the address is only looked up.
        let len = unsafe {
            bindings::ravel_symbol(self.location, text.as_mut_ptr().cast(), NAME_MAX as u32)
        };
        &text[..len as usize]
    }
}
