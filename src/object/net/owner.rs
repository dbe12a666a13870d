// SPDX-License-Identifier: GPL-2.0

//! The socket that an sk_buff belongs to.
//!
//! `skb->sk` means what `skb->destructor` says: drivers and protocols keep other objects there (an
//! rfcomm_dev, for example). It is taken for a socket only where the destructor is one that the
//! kernel uses for sockets that outlive the sk_buff; with any other, and with none, the sk_buff has
//! no owner.
//!
//! C headers: [`include/net/sock.h`](srctree/include/net/sock.h)

use crate::{arch::Shared, bindings, object::gfp};
use core::ptr;
use kernel::{ffi, prelude::*, str::CStrExt};

/// What releases an sk_buff's owner.
type Destructor = Option<unsafe extern "C" fn(skb: *mut bindings::sk_buff)>;

/// The destructors that modules can call. `sock_pfree` is not among them: the sk_buff may have no
/// reference then.
///
/// - `sock_wfree`, `__sock_wfree`, `tcp_wfree`: counted in `sk_wmem_alloc`, which keeps the socket.
/// - `sock_rfree`: on a receive queue, which is purged before the socket is freed.
/// - `sock_efree`, `sock_edemux`: a reference; of the latter, also one on a request or on what is
///   left in TIME_WAIT.
fn exported() -> [usize; 6] {
    [
        bindings::sock_wfree as usize,
        bindings::tcp_wfree as usize,
        bindings::__sock_wfree as usize,
        bindings::sock_rfree as usize,
        bindings::sock_efree as usize,
        bindings::sock_edemux as usize,
    ]
}

/// The destructors that only the kernel proper can call, each of which ends with one of the above.
const INTERNAL: [&CStr; 4] = [
    c"unix_wfree",
    c"netlink_skb_destructor",
    c"sock_rmem_free",
    c"xsk_destruct_skb",
];

/// The addresses of all; 0: this kernel does not have it.
static KNOWN: [Shared<usize>; 10] = [const { Shared::new(0) }; 10];

/// Finds the destructors of sockets. An sk_buff with one that is not found has no owner. May sleep.
pub(crate) fn init() {
    let (exported, internal) = (exported(), addresses(&INTERNAL));
    let found = Iterator::chain(exported.iter(), &internal);
    for (known, address) in KNOWN.iter().zip(found) {
        known.store(*address);
    }
}

/// Returns where functions of the kernel proper begin, by their names; 0 for those that are not
/// found.
///
/// Kprobes know functions by their names. One that is registered, but never armed, changes nothing
/// in the kernel's text.
fn addresses(names: &[&'static CStr; INTERNAL.len()]) -> [usize; INTERNAL.len()] {
    let mut begins = [0; INTERNAL.len()];
    let Ok(mut probes) = KVec::with_capacity(names.len(), gfp()) else {
        return begins;
    };
    let mut registered = [ptr::null_mut(); INTERNAL.len()];
    let mut count = 0;
    for (name, begin) in names.iter().zip(&mut begins) {
        let probe = bindings::kprobe {
            symbol_name: name.as_char_ptr(),
            flags: bindings::KPROBE_FLAG_DISABLED,
            ..Default::default()
        };
        if probes.push_within_capacity(probe).is_err() {
            break;
        }
        let Some(probe) = probes.last_mut() else {
            break;
        };
        // SAFETY: The probe stays where it is, in a vector that does not grow, until it is
        // unregistered below.
        if unsafe { bindings::register_kprobe(probe) } == 0 {
            *begin = function_at(probe.addr as usize);
            registered[count] = ptr::from_mut(probe);
            count = count.saturating_add(1);
        }
    }
    // SAFETY: These are registered. At once, since it waits for RCU.
    unsafe { bindings::unregister_kprobes(registered.as_mut_ptr(), count as ffi::c_int) };
    begins
}

/// Returns where the function begins that has an instruction at `address`; 0 where it is not the
/// kernel's own: modules can be unloaded. A kprobe may stand behind the instruction that marks the
/// target of an indirect call.
fn function_at(address: usize) -> usize {
    const LEN: usize = bindings::RAVEL_KSYM_SYMBOL_LEN as usize;
    let Ok(mut text) = KBox::new([0u8; LEN], gfp()) else {
        return 0;
    };
    // SAFETY: It writes no more than KSYM_SYMBOL_LEN bytes.
    let len = unsafe { bindings::sprint_symbol(text.as_mut_ptr().cast(), address) };
    let text = text.get(..len as usize).unwrap_or(b"");
    offset_in(text).map_or(0, |offset| address.wrapping_sub(offset))
}

/// Returns the offset of `function+0x4/0x80`; nothing where a module follows.
fn offset_in(symbol: &[u8]) -> Option<usize> {
    let text = core::str::from_utf8(symbol).ok()?;
    let (_, place) = text.split_once("+0x")?;
    let (offset, size) = place.split_once('/')?;
    if size.contains('[') {
        return None;
    }
    usize::from_str_radix(offset, 16).ok()
}

/// Returns whether sk_buffs with this destructor belong to the socket that they refer to, if any,
/// and that socket outlives them.
#[inline(always)]
pub(in crate::object::net) fn is_kept_by(destructor: Destructor) -> bool {
    destructor.is_some_and(|destructor| {
        let address = destructor as usize;
        KNOWN.iter().any(|known| known.load() == address)
    })
}
