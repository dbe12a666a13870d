// SPDX-License-Identifier: GPL-2.0

//! Where probes put events, and who takes them out.

use crate::object::trace::event::kind;
use crate::{
    arch::{cpu, in_nmi, smp_mb, IrqsOff, Shared},
    bindings,
    object::{
        gfp,
        net::filter::NetFilter,
        process::pids::Pids,
        trace::{
            event::Event,
            merge::{Merge, Next, NEVER},
            ring::{Ring, Seen, Taken},
            waker::Waker,
        },
    },
};
use core::ptr;
use kernel::{
    cpu::nr_cpu_ids,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// The processes whose events a sink receives.
pub(crate) enum Filter {
    /// All.
    All,
    /// One. When its number is given to another process, none.
    One(Atomic<u32>),
    /// Those whose bit is set: a process and its descendants.
    Tree(Pids),
}

/// Where probes put events: the rings, and who wakes their reader.
///
/// # Invariants
///
/// There is a ring for each CPU that there can be.
#[repr(C)]
pub(crate) struct Sink {
    net: NetFilter,
    rings: KVec<Ring>,
    waker: Waker,
    /// Events are taken in.
    is_open: Shared<bool>,
    /// The kinds that are asked for, as bits.
    kinds: u32,
    filter: Filter,
    /// Events that happened where none can be taken in.
    missed: Atomic<u64>,
}

/// A place for an event, with interrupts off. Dropped without [`Slot::end`], it holds no event.
pub(in crate::object) struct Slot<'s> {
    event: *mut Event,
    ring: &'s Ring,
    waker: &'s Waker,
}

impl Slot<'_> {
    /// Returns the place. What lies there is an older event, or nothing; its time and its CPU are
    /// set.
    #[inline(always)]
    pub(in crate::object) fn event(&mut self) -> *mut Event {
        self.event
    }

    /// Gives the reader the event.
    ///
    /// # Safety
    ///
    /// All of it was written.
    #[inline(always)]
    pub(in crate::object) unsafe fn end(self) {
        // SAFETY: The section was begun, and the rest is this function's contract.
        unsafe { self.ring.commit() };
    }
}

impl Drop for Slot<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: The section was begun with interrupts off, which they still are.
        unsafe { leave(self.ring, self.waker) };
    }
}

/// Ends a writer's section, and wakes who waits for it.
///
/// # Safety
///
/// It was begun on this CPU, and interrupts are off.
#[inline(always)]
unsafe fn leave(ring: &Ring, waker: &Waker) {
    // In the section: see `ring`.
    let is_awaited = waker.is_awaited();
    // SAFETY: By this function's contract.
    unsafe { ring.leave() };
    if is_awaited {
        waker.wake_by_interrupt();
    }
}

impl Sink {
    /// Makes rings of `size` events for each CPU that there can be. Nothing is taken in yet.
    pub(crate) fn new(size: usize, kinds: u32, filter: Filter, net: NetFilter) -> Result<Self> {
        let cpus = nr_cpu_ids() as usize;
        let mut rings = KVec::with_capacity(cpus, gfp())?;
        for _ in 0..cpus {
            rings.push(Ring::new(size)?, gfp())?;
        }
        // INVARIANT: Just made.
        Ok(Self {
            net,
            rings,
            waker: Waker::new()?,
            is_open: Shared::new(false),
            kinds,
            filter,
            missed: Atomic::new(0),
        })
    }

    /// Has it take in events from now on.
    pub(in crate::object) fn open(&self) {
        self.is_open.store(true);
    }

    /// Returns whether a kind of event is asked for.
    pub(crate) fn has_kind(&self, kind: u32) -> bool {
        self.kinds >> kind & 1 == 1
    }

    /// Returns the processes whose events it receives.
    pub(crate) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Returns the sockets whose events it receives.
    #[inline(always)]
    pub(crate) fn net_filter(&self) -> &NetFilter {
        &self.net
    }

    /// Returns what wakes its readers.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Returns how many events it could not take in that have no place in it.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }

    /// Returns whether an event of this kind, of that process, is asked for.
    pub(in crate::object) fn wants(&self, kind: u32, pid: u32) -> bool {
        self.has_kind(kind)
            && match &self.filter {
                Filter::All => true,
                Filter::One(one) => one.load(Relaxed) == pid,
                Filter::Tree(pids) => pids.has(pid),
            }
    }

    /// Has the filter know of a new process. Returns whether the fork is asked for.
    ///
    /// The child is not awake yet, so its number is filed before anything that it does; and
    /// whatever the number said of a process before, it now says of this one.
    pub(in crate::object) fn forked(&self, parent: u32, child: u32) -> bool {
        match &self.filter {
            Filter::All => {}
            Filter::One(one) => {
                if one.load(Relaxed) == child {
                    one.store(0, Relaxed);
                }
            }
            Filter::Tree(pids) => pids.set(child, pids.has(parent)),
        }
        self.wants(kind::FORK, parent)
    }

    /// Begins an event: the place for it, of which all but its time and its CPU is to be written.
    /// None where there is no room, which is counted, or the sink is not open.
    #[inline(always)]
    pub(in crate::object) fn begin<'s>(&'s self, _irqs: &'s IrqsOff) -> Option<Slot<'s>> {
        // SAFETY: Interrupts are off as long as the slot lives.
        let event = unsafe { self.begin_raw() };
        if event.is_null() {
            return None;
        }
        Some(Slot {
            event,
            // SAFETY: Likewise.
            ring: unsafe { self.ring() },
            waker: &self.waker,
        })
    }

    /// Records an event, of which all but its time and its CPU is given.
    pub(in crate::object) fn push(&self, event: &Event) {
        let irqs = IrqsOff::new();
        let slot = self.begin(&irqs);
        if let Some(mut slot) = slot {
            let place = slot.event();
            // SAFETY: The place is the slot's, and all of it is written: time and CPU are kept.
            unsafe {
                (*place).kind = event.kind;
                event.part.copy_to(&raw mut (*place).part);
                slot.end();
            }
        }
    }

    /// Returns the ring of this CPU.
    ///
    /// # Safety
    ///
    /// Interrupts are off.
    #[inline(always)]
    unsafe fn ring(&self) -> &Ring {
        // SAFETY: By the type's invariant.
        unsafe { self.rings.get_unchecked(cpu() as usize) }
    }

    /// Begins an event. Null where there is no room for it, which is counted, or the sink is not
    /// open.
    ///
    /// # Safety
    ///
    /// Interrupts are off, and stay so until the section has ended, where this did not return null.
    #[inline(always)]
    unsafe fn begin_raw(&self) -> *mut Event {
        // An NMI could come amid a writer's section. None is to be expected.
        if in_nmi() {
            self.missed.add(1, Relaxed);
            return ptr::null_mut();
        }
        if !self.is_open.load() {
            return ptr::null_mut();
        }
        // SAFETY: By this function's contract.
        let ring = unsafe { self.ring() };
        // SAFETY: It is that of this CPU, and interrupts are off.
        let event = unsafe { ring.enter() };
        if event.is_null() {
            // SAFETY: The section was just begun.
            unsafe { leave(ring, &self.waker) };
        } else {
            // SAFETY: The slot is the writer's.
            unsafe { (*event).cpu = cpu() };
        }
        event
    }

    /// Returns how many events lie in the rings, and how many are lost that no reader knows of yet:
    /// of a moment only where nothing happens.
    pub(crate) fn waiting(&self, by: &Gatherer) -> (u64, u64) {
        let (mut events, mut lost) = (0_u64, 0_u64);
        for (ring, seen) in self.rings.iter().zip(&by.seen) {
            let (in_ring, losing) = ring.waiting();
            events = events.saturating_add(in_ring);
            lost = lost.saturating_add(losing).saturating_add(seen.lost());
        }
        (events, lost)
    }

    /// Gives `take` what there is, the oldest first over all CPUs, for as long as `room` says so.
    /// Returns the time of the oldest that is left because it is later than now: there may be an
    /// older one of another CPU that is not yet there. Its writer may have woken nobody, so the
    /// caller is to look again at that time.
    ///
    /// There is one gatherer for a sink, so its `&mut` makes the caller the only reader.
    pub(crate) fn gather(
        &self,
        by: &mut Gatherer,
        mut room: impl FnMut() -> bool,
        mut take: impl FnMut(u64, Taken<'_>),
    ) -> Option<u64> {
        if !room() {
            return None;
        }
        let Gatherer { seen, merge, last } = by;
        for (ring, seen) in self.rings.iter().zip(seen.iter_mut()) {
            seen.begin(ring);
        }
        let now = boot_ns();
        smp_mb();
        let mut rings = self.rings.iter().zip(seen.iter_mut()).enumerate();
        merge.set_all(|_| {
            let Some((cpu, (ring, seen))) = rings.next() else {
                return NEVER;
            };
            seen.look(ring, cpu as u32);
            seen.oldest(ring).unwrap_or(NEVER)
        });
        while room() {
            let (cpu, time) = match merge.next(now) {
                Next::Now(cpu, time) => (cpu, time),
                Next::Later(time) => return Some(time),
                Next::Nothing => return None,
            };
            let (Some(ring), Some(seen)) = (self.rings.get(cpu), seen.get_mut(cpu)) else {
                return None;
            };
            // Clocks that are read without a lock can differ between CPUs by what an adjustment
            // makes of a tick.
            *last = time.max(*last);
            seen.take(ring, |taken| take(*last, taken));
            merge.set(cpu, seen.oldest(ring).unwrap_or(NEVER));
        }
        None
    }
}

/// What the one reader of a sink keeps.
pub(crate) struct Gatherer {
    seen: KVec<Seen>,
    merge: Merge<KVec<u64>, KVec<u32>>,
    /// The time of what was taken last.
    last: u64,
}

impl Gatherer {
    /// Makes a reader of a sink that was never read.
    pub(crate) fn new() -> Result<Self> {
        let cpus = nr_cpu_ids() as usize;
        let mut seen = KVec::with_capacity(cpus, gfp())?;
        for _ in 0..cpus {
            seen.push(Seen::NOTHING, gfp())?;
        }
        let matches = Merge::<KVec<u64>, KVec<u32>>::matches(cpus);
        Ok(Self {
            seen,
            merge: Merge::new(
                KVec::from_elem(NEVER, cpus, gfp())?,
                KVec::from_elem(0, matches, gfp())?,
            ),
            last: 0,
        })
    }
}

/// Nanoseconds since boot, suspended time too.
pub(crate) fn boot_ns() -> u64 {
    // SAFETY: Can be called anywhere.
    unsafe { bindings::ktime_get_boot_fast_ns() }
}
