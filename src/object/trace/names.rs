// SPDX-License-Identifier: GPL-2.0

//! Names for what an event of the network brings as a number or an address.
//!
//! C headers: [`include/net/dropreason.h`](srctree/include/net/dropreason.h),
//! [`include/net/rstreason.h`](srctree/include/net/rstreason.h)

use crate::bindings;
use crate::object::{
    sync::{id::Id, read_once},
    trace::event::{NetPart, Packet},
};
use core::ptr;
use kernel::{ffi, prelude::*, str::CStrExt, sync::rcu};

/// The longest name that is not truncated.
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
            match bindings::ravel_reset_reasons.get(self.reason as usize) {
                Some(name) if !name.is_null() => CStr::from_char_ptr(*name).to_bytes(),
                _ => b"",
            }
        }
    }

    /// The function that dropped a packet, and how far into it; empty likewise.
    pub(crate) fn location<'t>(&self, text: &'t mut [u8; NAME_MAX]) -> &'t [u8] {
        symbol(self.location, text)
    }
}

/// Returns the name of a reason, which its subsystem has: the kernel itself, or a module that has
/// registered its own.
fn drop_reason(reason: u32, text: &mut [u8; NAME_MAX]) -> &[u8] {
    const SHIFT: u32 = bindings::SKB_DROP_REASON_SUBSYS_SHIFT;
    let subsystem = reason >> SHIFT;
    let _rcu = rcu::read_lock();
    // SAFETY: The kernel has as many places; RCU keeps what is in one.
    let list = unsafe {
        let lists = &raw const bindings::drop_reasons_by_subsys;
        match (*lists).get(subsystem as usize) {
            Some(list) => read_once!(*list),
            None => ptr::null_mut(),
        }
    };
    if list.is_null() {
        return b"";
    }
    // SAFETY: As above: a list has as many names as it says, each a string or null.
    let name = unsafe {
        let at = (reason & ((1 << SHIFT) - 1)) as usize;
        if at >= (*list).n_reasons {
            return b"";
        }
        let name: *const ffi::c_char = *(*list).reasons.add(at);
        if name.is_null() {
            return b"";
        }
        CStr::from_char_ptr(name).to_bytes()
    };
    let len = name.len().min(NAME_MAX);
    text[..len].copy_from_slice(&name[..len]);
    &text[..len]
}

/// Returns the function that an address is in, and the offset; nothing where the kernel has no name
/// for it, and would print the address.
fn symbol(address: u64, text: &mut [u8; NAME_MAX]) -> &[u8] {
    if address == 0 {
        return b"";
    }
    let mut symbol = [0u8; bindings::RAVEL_KSYM_SYMBOL_LEN as usize];
    // SAFETY: It writes no more than KSYM_SYMBOL_LEN bytes; the address is only looked up.
    let len = unsafe { bindings::sprint_symbol(symbol.as_mut_ptr().cast(), address as usize) };
    let symbol = symbol.get(..len as usize).unwrap_or(b"");
    let Some(end) = symbol.iter().position(|&byte| byte == b'/') else {
        return b"";
    };
    if symbol.starts_with(b"0x") {
        return b"";
    }
    let len = end.min(NAME_MAX);
    text[..len].copy_from_slice(&symbol[..len]);
    &text[..len]
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
