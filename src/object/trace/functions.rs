// SPDX-License-Identifier: GPL-2.0

//! Probes of functions, where the kernel has no tracepoint. They are called by ftrace, at a
//! function's first instruction, and not as kprobes: the kernel skips a kprobe on a CPU that runs
//! another just then, and an interrupt that receives a packet while one is being sent is common. A
//! call costs less, too.
//!
//! All streams share one `ftrace_ops`, which stays registered from the first that needs it to the
//! module's end. To unregister it waits, with a lock held that all of ftrace needs, until each task
//! has slept or left the kernel; to change which functions it is called for does not. While nobody
//! watches, that is a function of ravel's own, which nobody calls.
//!
//! C headers: [`include/linux/ftrace.h`](srctree/include/linux/ftrace.h),
//! [`include/linux/kprobes.h`](srctree/include/linux/kprobes.h)

use crate::{
    arch::{argument, PreemptOff, Shared},
    bindings,
    object::{compat::EOPNOTSUPP, gfp, trace::source::Hook},
};
use core::{
    cell::UnsafeCell,
    ffi::c_void,
    mem::{transmute, MaybeUninit},
    ptr,
};
use kernel::{
    error::to_result,
    ffi::c_ulong,
    prelude::*,
    str::CStrExt,
    sync::atomic::{Atomic, Relaxed},
};

/// What is called where a function is entered: with the sink, and the registers for [`argument`].
pub(super) type Enter = unsafe extern "C" fn(sink: *mut c_void, regs: *mut bindings::ftrace_regs);

/// How many functions can be watched: all that there are.
const FUNCTIONS: usize = crate::object::trace::event::FUNCTIONS;

/// A power of two.
const PLACES: usize = 1 << 10;
const _: () = assert!(PLACES > 2 * FUNCTIONS);

/// How many sinks can listen.
const LISTENERS: usize = u64::BITS as usize;

/// A function. Once it has a place, it keeps it; padded, so that the place is found by a shift.
#[repr(C, align(32))]
struct Target {
    /// 0: there is none.
    ip: Shared<usize>,
    enter: Shared<*const ()>,
    /// Who listens, as bits.
    listeners: Shared<u64>,
    /// The sink of the one who mostly does alone; null: see `listeners`.
    only: Shared<*mut c_void>,
}

/// Who listens.
struct Listener {
    /// Null: there is none.
    sink: Shared<*mut c_void>,
    /// Null: that of the function.
    enter: Shared<*const ()>,
}

/// Each function stands where its address says, or, where two do to the same, in one of the
/// next places.
static TARGETS: [Target; PLACES] = [const {
    Target {
        ip: Shared::new(0),
        enter: Shared::new(ptr::null()),
        listeners: Shared::new(0),
        only: Shared::new(ptr::null_mut()),
    }
}; PLACES];

static ALL: [Listener; LISTENERS] = [const {
    Listener {
        sink: Shared::new(ptr::null_mut()),
        enter: Shared::new(ptr::null()),
    }
}; LISTENERS];

/// What is changed with the lock held, beside the tables: probes only read those.
struct State {
    registered: bool,
    /// Where functions were found, by their names.
    places: [Option<(&'static CStr, usize)>; FUNCTIONS],
}

kernel::sync::global_lock! {
    // SAFETY: Ftrace::new() comes before everything else.
    unsafe(uninit) static LOCK: Mutex<State> = State {
        registered: false,
        places: [None; FUNCTIONS],
    };
}

struct Ops(UnsafeCell<bindings::ftrace_ops>);

// SAFETY: ftrace locks, and this module uses it with its own lock held.
unsafe impl Sync for Ops {}

static OPS: Ops = Ops(UnsafeCell::new(bindings::ftrace_ops {
    func: Some(entered),
    // SAFETY: All zeroes is one that was never registered.
    ..unsafe { MaybeUninit::zeroed().assume_init() }
}));

/// Returns where a function mostly stands.
#[inline(always)]
fn first_place(ip: usize) -> usize {
    // Functions begin at multiples of 16: the bits above differ.
    ip >> 4 & (PLACES - 1)
}

/// Returns the place of a function, or a free one for it; none if there is neither.
fn target_of(ip: usize) -> Option<&'static Target> {
    let (after, before) = TARGETS.split_at_checked(first_place(ip))?;
    let is_its = |target: &&Target| {
        let its = target.ip.load();
        its == ip || its == 0
    };
    before
        .iter()
        .find(is_its)
        .or_else(|| after.iter().find(is_its))
}

impl Target {
    /// Calls those who listen.
    ///
    /// # Safety
    ///
    /// The registers are of a call of this function.
    #[inline(always)]
    unsafe fn call(&self, regs: *mut bindings::ftrace_regs) {
        // For who takes a listener away, and waits for RCU.
        let _rcu = PreemptOff::new();
        // Pairs with the second store of set_listeners().
        let only = self.only.load_acquire();
        // SAFETY: Where somebody listens, the function was set before; the sink is not dropped
        // before RCU has waited.
        unsafe {
            if only.is_null() {
                self.call_all(regs);
            } else {
                enter(self.enter.load())(only, regs);
            }
        }
    }

    /// # Safety
    ///
    /// As for [`Self::call`], with RCU held.
    #[inline(never)]
    unsafe fn call_all(&self, regs: *mut bindings::ftrace_regs) {
        // Pairs with the first store of set_listeners().
        let mut rest = self.listeners.load_acquire();
        while rest != 0 {
            let number = rest.trailing_zeros() as usize;
            rest &= rest.wrapping_sub(1);
            let Some(listener) = ALL.get(number) else {
                return;
            };
            let mut function = listener.enter.load();
            if function.is_null() {
                function = self.enter.load();
            }
            // SAFETY: As in call().
            unsafe { enter(function)(listener.sink.load(), regs) };
        }
    }

    /// Sets who listens. The listeners are there before anybody finds them, and so is what is
    /// called for them.
    fn set_listeners(&self, listeners: u64) {
        let first = ALL.get(listeners.trailing_zeros() as usize);
        let only =
            first.filter(|first| listeners.is_power_of_two() && first.enter.load().is_null());
        self.listeners.store_release(listeners);
        let only = only.map_or(ptr::null_mut(), |only| only.sink.load());
        self.only.store_release(only);
    }
}

/// # Safety
///
/// It is an [`Enter`].
#[inline(always)]
unsafe fn enter(function: *const ()) -> Enter {
    // SAFETY: By this function's contract.
    unsafe { transmute::<*const (), Enter>(function) }
}

/// Called by ftrace, in any context. No function that is called from here has a probe of ravel's.
/// What is called rarely is left to others, so that nothing has to be kept on the stack.
///
/// # Safety
///
/// The registers are of a call of the function at `ip`.
unsafe extern "C" fn entered(
    ip: c_ulong,
    _parent: c_ulong,
    _ops: *mut bindings::ftrace_ops,
    regs: *mut bindings::ftrace_regs,
) {
    // SAFETY: There are so many places.
    let target = unsafe { TARGETS.get_unchecked(first_place(ip)) };
    // SAFETY: By this function's contract.
    unsafe {
        if target.ip.load() == ip {
            target.call(regs);
        } else {
            entered_elsewhere(ip, regs);
        }
    }
}

/// # Safety
///
/// As for [`entered`].
#[inline(never)]
unsafe fn entered_elsewhere(ip: usize, regs: *mut bindings::ftrace_regs) {
    if let Some(target) = target_of(ip) {
        // SAFETY: By this function's contract. A place that is free has no listeners.
        unsafe { target.call(regs) };
    }
}

impl State {
    /// Returns where a function was found before, if it is still there: the name of what is at an
    /// address is looked up at once, while one that is searched for is compared with those of all
    /// modules.
    fn known_place(&self, name: &CStr) -> Result<Option<usize>> {
        let mut places = self.places.iter().flatten();
        let Some((_, ip)) = places.find(|(known, _)| *known == name) else {
            return Ok(None);
        };
        let symbol = symbol_at(*ip)?;
        let rest = symbol.strip_prefix(name.to_bytes());
        Ok(rest
            .is_some_and(|rest| rest.first() == Some(&b'+'))
            .then_some(*ip))
    }

    fn keep_place(&mut self, name: &'static CStr, ip: usize) {
        let mut places = self.places.iter_mut();
        let place = places.find(|place| place.is_none_or(|(known, _)| known == name));
        if let Some(place) = place {
            *place = Some((name, ip));
        }
    }

    /// Returns where the functions' first instructions are; 0: this kernel has no such function, or
    /// does not let it be probed.
    ///
    /// Kprobes know functions by their names, and which may be probed; one that is registered, but
    /// never armed, changes nothing in the kernel's text.
    fn locate(&mut self, functions: &[Hook]) -> Result<[usize; FUNCTIONS]> {
        let mut ips = [0; FUNCTIONS];
        if functions.len() > FUNCTIONS {
            return Err(ENOSPC);
        }
        let mut unknown = 0_usize;
        for (ip, function) in ips.iter_mut().zip(functions) {
            *ip = self.known_place(function.name())?.unwrap_or(0);
            unknown = unknown.saturating_add(usize::from(*ip == 0));
        }
        if unknown == 0 {
            return Ok(ips);
        }
        let mut search = Search::new(unknown)?;
        for (ip, function) in ips.iter_mut().zip(functions) {
            if *ip == 0 {
                if let Some(found) = search.find(function.name())? {
                    *ip = found;
                    self.keep_place(function.name(), found);
                }
            }
        }
        Ok(ips)
    }

    /// Has ftrace call for those functions that somebody listens to, and for no other.
    fn watch(&mut self) -> Result {
        let mut ips = [0 as c_ulong; FUNCTIONS];
        let mut count = 0;
        for target in TARGETS.iter().filter(|target| target.listeners.load() != 0) {
            *ips.get_mut(count).ok_or(ENOSPC)? = target.ip.load() as c_ulong;
            count = count.saturating_add(1);
        }
        if count == 0 && !self.registered {
            return Ok(());
        }
        // None would be all that there are.
        if count == 0 {
            ips[0] = bindings::ravel_nobody_watches as *const () as c_ulong;
            count = 1;
        }
        let ops = OPS.0.get();
        // SAFETY: There are that many, and they lie in no module that could go. The lock is held.
        to_result(unsafe {
            bindings::ftrace_set_filter_ips(ops, ips.as_mut_ptr(), count as u32, 0, 1)
        })?;
        if !self.registered {
            // SAFETY: It is not registered, and is unregistered before the module goes.
            to_result(unsafe { bindings::register_ftrace_function(ops) })?;
            self.registered = true;
        }
        Ok(())
    }

    fn stop(&mut self) {
        if self.registered {
            // SAFETY: It is registered. Waits until it runs no more.
            unsafe { bindings::unregister_ftrace_function(OPS.0.get()) };
        }
        self.registered = false;
    }

    /// Has a sink called for these functions.
    ///
    /// # Safety
    ///
    /// The sink is kept until [`Self::silence`] has returned. `enter`, or else that of each hook,
    /// may be called with it.
    unsafe fn listen(
        &mut self,
        sink: *mut c_void,
        enter: Option<Enter>,
        functions: &[Hook],
    ) -> Result<usize> {
        let ips = self.locate(functions)?;
        let mut free = ALL.iter().enumerate();
        let free = free.find(|(_, listener)| listener.sink.load().is_null());
        let (number, listener) = free.ok_or(ENOSPC)?;
        listener.sink.store(sink);
        listener
            .enter
            .store(enter.map_or(ptr::null(), |enter| enter as *const ()));
        let added = functions.iter().zip(ips).try_for_each(|(function, ip)| {
            if ip == 0 {
                return Err(EOPNOTSUPP);
            }
            let target = target_of(ip).ok_or(ENOSPC)?;
            let listeners = target.listeners.load();
            if listeners == 0 {
                target.enter.store(function.enter());
                target.ip.store(ip);
            }
            target.set_listeners(listeners | 1 << number);
            Ok(())
        });
        let result = added.and_then(|()| self.watch());
        match result {
            Ok(()) => Ok(number),
            Err(err) => {
                self.silence(number);
                // There may be many reasons for which ftrace does not call.
                Err(if err == ENOMEM { err } else { EOPNOTSUPP })
            }
        }
    }

    /// Ends what [`Self::listen`] began. None of the listener's probes runs any more.
    fn silence(&mut self, number: usize) {
        let mut is_watched = false;
        for target in &TARGETS {
            let listeners = target.listeners.load();
            let rest = listeners & !(1 << number);
            if rest != listeners {
                target.set_listeners(rest);
            }
            is_watched |= rest != 0;
        }
        // It takes memory. Without any, functions that nobody listens to are watched for as long as
        // others are.
        if self.watch().is_err() && !is_watched {
            self.stop();
        }
        // Whoever has found it is done.
        // SAFETY: May sleep.
        unsafe { bindings::synchronize_rcu() };
        if let Some(listener) = ALL.get(number) {
            listener.sink.store(ptr::null_mut());
            listener.enter.store(ptr::null());
        }
    }
}

/// Kprobes that are registered, and never armed, to find functions.
///
/// # Invariants
///
/// Those that `found` points at are registered.
struct Search {
    probes: KVec<bindings::kprobe>,
    found: KVec<*mut bindings::kprobe>,
}

impl Search {
    /// Returns one for at most so many functions.
    fn new(most: usize) -> Result<Self> {
        Ok(Self {
            probes: KVec::with_capacity(most, gfp())?,
            found: KVec::with_capacity(most, gfp())?,
        })
    }

    /// Returns where a function is that can be watched.
    fn find(&mut self, name: &'static CStr) -> Result<Option<usize>> {
        let probe = bindings::kprobe {
            symbol_name: name.as_char_ptr(),
            flags: bindings::KPROBE_FLAG_DISABLED,
            // SAFETY: All zeroes is one that was never registered.
            ..unsafe { MaybeUninit::zeroed().assume_init() }
        };
        self.probes
            .push_within_capacity(probe)
            .map_err(|_| ENOSPC)?;
        let probe = self.probes.last_mut().ok_or(ENOSPC)?;
        // SAFETY: It stays where it is until it is unregistered: the vector does not grow.
        match to_result(unsafe { bindings::register_kprobe(probe) }) {
            Ok(()) => {}
            Err(err) if err == ENOMEM => return Err(err),
            Err(_) => return Ok(None),
        }
        let by_ftrace = probe.flags & bindings::KPROBE_FLAG_FTRACE != 0;
        let ip = probe.addr as usize;
        // INVARIANT: Just registered. There is room for it.
        let _ = self.found.push_within_capacity(probe);
        // What a module has goes with it.
        let in_module = symbol_at(ip)?.contains(&b'[');
        Ok((by_ftrace && !in_module).then_some(ip))
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        // All at once: it waits for RCU.
        // SAFETY: By the type's invariant.
        unsafe {
            bindings::unregister_kprobes(self.found.as_mut_ptr(), self.found.len() as i32);
        }
    }
}

/// Returns `function+0x4/0x80` of an address, with the name of its module behind it in brackets, and
/// zeroes.
fn symbol_at(ip: usize) -> Result<KVec<u8>> {
    let mut symbol = KVec::from_elem(0u8, bindings::RAVEL_KSYM_SYMBOL_LEN as usize, gfp())?;
    // SAFETY: There is room for the longest symbol.
    unsafe { bindings::sprint_symbol(symbol.as_mut_ptr().cast(), ip as c_ulong) };
    Ok(symbol)
}

/// Returns how many of these functions cannot be probed.
pub(super) fn missing(functions: &[Hook]) -> Result<usize> {
    if functions.is_empty() {
        return Ok(0);
    }
    let ips = LOCK.lock().locate(functions)?;
    Ok(ips
        .iter()
        .zip(functions)
        .filter(|(ip, _)| **ip == 0)
        .count())
}

/// A sink is called for functions until this is dropped.
///
/// # Invariants
///
/// The listener is this one's.
pub(super) struct Listening(usize);

impl Listening {
    /// Registers a sink. `EOPNOTSUPP` where one of the functions cannot be probed.
    ///
    /// # Safety
    ///
    /// The sink is a [`Sink`](super::sink::Sink), and is kept until this is dropped.
    pub(super) unsafe fn new(sink: *mut c_void, functions: &[Hook]) -> Result<Self> {
        // SAFETY: By this function's contract.
        let number = unsafe { LOCK.lock().listen(sink, None, functions) }?;
        // INVARIANT: Just registered.
        Ok(Self(number))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        LOCK.lock().silence(self.0);
    }
}

/// What probes of functions leave behind until the module goes; dropped after all who listen: else
/// those functions would be watched again with the next who does.
pub(crate) struct Ftrace(());

impl Ftrace {
    /// Prepares for probes of functions. `EBUSY` after the first time.
    pub(crate) fn new() -> Result<Self> {
        static PREPARED: Atomic<u32> = Atomic::new(0);
        if PREPARED.xchg(1, Relaxed) != 0 {
            return Err(EBUSY);
        }
        // SAFETY: Nobody but the first gets here; and whoever has probes, after this.
        unsafe { LOCK.init() };
        Ok(Self(()))
    }
}

impl Drop for Ftrace {
    fn drop(&mut self) {
        LOCK.lock().stop();
        // SAFETY: It is not registered any more.
        unsafe { bindings::ftrace_free_filter(OPS.0.get()) };
    }
}

/// The freeing of one sk_buff, of ours.
struct Trial {
    skb: *mut bindings::sk_buff,
    seen: Shared<bool>,
}

/// # Safety
///
/// `trial` is a [`Trial`], and the registers are of a call of a function whose first argument is an
/// sk_buff.
unsafe extern "C" fn enter_trial(trial: *mut c_void, regs: *mut bindings::ftrace_regs) {
    // SAFETY: By this function's contract.
    unsafe {
        let trial = &*trial.cast::<Trial>();
        if argument(regs, 0) == trial.skb as usize {
            trial.seen.store(true);
        }
    }
}

/// Returns whether a function that frees an sk_buff is part of those that call it in this kernel,
/// as a compiler may choose: then it is not reached as a function.
pub(super) fn is_inlined(free: Hook) -> Result<bool> {
    /// What was found: it stays as it is until the next kernel. 0: nothing yet; 1: it is not; 2: it
    /// is.
    static KNOWN: Shared<u32> = Shared::new(0);
    match KNOWN.load() {
        0 => {}
        known => return Ok(known == 2),
    }
    // SAFETY: Allocates.
    let skb = unsafe { bindings::__alloc_skb(1, bindings::GFP_KERNEL, 0, bindings::NUMA_NO_NODE) };
    if skb.is_null() {
        return Err(ENOMEM);
    }
    let trial = Trial {
        skb,
        seen: Shared::new(false),
    };
    let mut state = LOCK.lock();
    // SAFETY: The trial is kept until it is silenced below, and enter_trial() may be called with
    // it.
    let number = unsafe {
        let trial = (&raw const trial).cast_mut().cast();
        state.listen(trial, Some(enter_trial), &[free])
    };
    // SAFETY: The sk_buff is ours, and this is its end.
    unsafe { bindings::consume_skb(skb) };
    state.silence(number?);
    let is_inlined = !trial.seen.load();
    KNOWN.store(if is_inlined { 2 } else { 1 });
    Ok(is_inlined)
}
