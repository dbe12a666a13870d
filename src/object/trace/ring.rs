// SPDX-License-Identifier: GPL-2.0

//! Rings that events lie in from the probe that saw them until a reader takes them, one for each
//! CPU.
//!
//! A writer runs with interrupts off, and so alone on its CPU's ring: no tracepoint that ravel uses
//! is reached from an NMI. It never waits, allocates or takes a lock, and calls nothing but the
//! clock. An event is put together in its slot. The one reader, whoever holds a stream's lock,
//! waits for writers, each of which is between a few stores.
//!
//! How the reader knows that it misses nothing that is older than what it takes: a writer counts
//! `section` up, has a full barrier, and only then reads the clock; the reader reads the clock, has
//! a full barrier, and then waits until each section that it finds open has ended. A writer whose
//! section it did not see has read the clock after the reader did. So all that is older than the
//! reader's time is in the rings.
//!
//! By the same barriers nobody sleeps over an event: who found nothing says so
//! ([`Waker::await_event`]) and looks again. Either it sees a writer's section, waits for its end
//! and finds its event, or that writer sees that it is to wake him.
//!
//! Where a ring is full, what comes is counted in one of its two loss cells, the one that `epoch`
//! names, until the reader changes the epoch; by the same waiting it knows when the writer has left
//! the cell before. Until then nothing is put into the ring, so a loss has one place in it:
//! `Cell::at`.
//!
//! [`Waker::await_event`]: super::waker::Waker::await_event

use crate::{
    arch::{smp_mb, Shared},
    bindings,
    object::{gfp, trace::event::Event},
};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use kernel::prelude::*;

/// What one CPU could not put into its ring.
#[derive(Clone, Copy, Default)]
pub(crate) struct Loss {
    /// How many events.
    pub(crate) count: u64,
    /// When the first of them was.
    pub(crate) first: u64,
    /// And the last.
    pub(crate) last: u64,
    /// The CPU.
    pub(crate) cpu: u32,
}

/// A loss under way. Its writer's, while the ring's epoch names it; else the reader's.
struct Cell {
    count: Shared<u64>,
    first: Shared<u64>,
    last: Shared<u64>,
    /// `head` when it began.
    at: Shared<u64>,
}

impl Cell {
    const fn new() -> Self {
        Self {
            count: Shared::new(0),
            first: Shared::new(0),
            last: Shared::new(0),
            at: Shared::new(0),
        }
    }
}

type Slot = UnsafeCell<MaybeUninit<Event>>;

/// The room of a vector that has no elements, since nothing is to be done with them but by the
/// ring.
struct Slots(KVVec<Slot>);

// SAFETY: A slot is accessed by the writer or the reader alone, by the invariant of `Ring`.
unsafe impl Sync for Slots {}
// SAFETY: As above.
unsafe impl Send for Slots {}

/// What the reader alone writes, on a cache line of its own.
#[repr(C, align(64))]
struct ReaderSide {
    tail: Shared<u64>,
    epoch: Shared<u64>,
}

/// One CPU's ring.
///
/// # Invariants
///
/// `first` to before `end` are the slots. Those with numbers from `tail` to before `head` hold
/// events, and are not written. The others are the writer's. `next` is that of `head`.
#[repr(C, align(64))]
pub(super) struct Ring {
    /// Odd while a writer is at work.
    section: Shared<u64>,
    head: Shared<u64>,
    next: Shared<*mut Event>,
    /// Of the last event: of two on one CPU the later is never the earlier by the clock.
    time: Shared<u64>,
    first: *mut Event,
    end: *mut Event,
    size: u64,
    cells: [Cell; 2],
    reader: ReaderSide,
    _slots: Slots,
}

// SAFETY: All that changes is accessed atomically, but for slots, of which see the invariant.
unsafe impl Sync for Ring {}
// SAFETY: As above.
unsafe impl Send for Ring {}

impl Ring {
    /// Returns an empty one with so many slots, whose memory is first touched when there is an
    /// event for it.
    pub(super) fn new(size: usize) -> Result<Self> {
        let slots = Slots(KVVec::with_capacity(size, gfp())?);
        let first = slots.0.as_ptr().cast::<Event>().cast_mut();
        // INVARIANT: There are that many, and none holds an event: `tail` and `head` are the same.
        Ok(Self {
            section: Shared::new(0),
            head: Shared::new(0),
            next: Shared::new(first),
            time: Shared::new(0),
            first,
            end: first.wrapping_add(slots.0.capacity()),
            size: slots.0.capacity() as u64,
            cells: [Cell::new(), Cell::new()],
            reader: ReaderSide {
                tail: Shared::new(0),
                epoch: Shared::new(0),
            },
            _slots: slots,
        })
    }

    fn slot_after(&self, slot: *mut Event) -> *mut Event {
        let next = slot.wrapping_add(1);
        if next == self.end {
            self.first
        } else {
            next
        }
    }

    /// Begins a writer's section. Returns the slot for an event, whose time is set, or null where
    /// there is no room: then it is counted. Either way [`Self::leave`] is to be called, which ends
    /// the section.
    ///
    /// # Safety
    ///
    /// This is the ring of this CPU, and interrupts are off until the section has ended.
    #[inline(always)]
    pub(super) unsafe fn enter(&self) -> *mut Event {
        self.section.store(self.section.load().wrapping_add(1));
        smp_mb();
        // SAFETY: Can be called anywhere.
        let clock = unsafe { bindings::ktime_get_boot_fast_ns() };
        let time = clock.max(self.time.load());
        self.time.store(time);
        // What the reader gave up, it no longer reads.
        let cell = &self.cells[(self.reader.epoch.load_acquire() & 1) as usize];
        let used = self
            .head
            .load()
            .wrapping_sub(self.reader.tail.load_acquire());
        if cell.count.load() == 0 && used < self.size {
            let slot = self.next.load();
            // SAFETY: By the type's invariant the slot of `head` is the writer's, which this is.
            unsafe { (*slot).time = time };
            return slot;
        }
        self.lose(cell, time);
        core::ptr::null_mut()
    }

    #[cold]
    fn lose(&self, cell: &Cell, time: u64) {
        let count = cell.count.load();
        if count == 0 {
            cell.first.store(time);
            cell.at.store(self.head.load());
        }
        cell.last.store(time);
        cell.count.store_release(count.wrapping_add(1));
    }

    /// Gives the reader the event in the slot that [`Self::enter`] returned.
    ///
    /// # Safety
    ///
    /// It returned one in this section, and all of that was written.
    #[inline(always)]
    pub(super) unsafe fn commit(&self) {
        self.next.store(self.slot_after(self.next.load()));
        // INVARIANT: The slot holds an event, and is not written any more.
        self.head.store_release(self.head.load().wrapping_add(1));
    }

    /// Ends a writer's section.
    ///
    /// # Safety
    ///
    /// It was begun, on this CPU.
    #[inline(always)]
    pub(super) unsafe fn leave(&self) {
        self.section
            .store_release(self.section.load().wrapping_add(1));
    }

    /// Returns how many events lie in it, and how many are lost that no reader knows of yet: of a
    /// moment only where nothing happens.
    pub(super) fn waiting(&self) -> (u64, u64) {
        let tail = self.reader.tail.load();
        let cell = &self.cells[(self.reader.epoch.load() & 1) as usize];
        (self.head.load().saturating_sub(tail), cell.count.load())
    }
}

/// A ring, and what its one reader knows of it between two gatherings.
pub(super) struct Seen {
    /// The slot of `tail`; null before the first gathering.
    slot: *mut Event,
    /// A loss that is closed, and where it stands in the ring.
    loss: Option<(u64, Loss)>,
    /// `head` as the reader last saw it.
    head: u64,
    /// The writer leaves a cell in this gathering.
    closing: bool,
}

// SAFETY: The slot is used by the reader alone, together with the ring.
unsafe impl Send for Seen {}

/// What a reader takes.
pub(crate) enum Taken<'a> {
    /// An event.
    Event(&'a Event),
    /// A loss, instead of events.
    Loss(Loss),
}

impl Seen {
    /// What is known of a ring that was never read.
    pub(super) const NOTHING: Self = Self {
        slot: core::ptr::null_mut(),
        loss: None,
        head: 0,
        closing: false,
    };

    /// Returns how many events are lost that the reader knows of, and has not yet taken.
    pub(super) fn lost(&self) -> u64 {
        self.loss.map_or(0, |(_, loss)| loss.count)
    }

    /// Begins a gathering: the writer is to leave a cell in which it counts. Before the reader
    /// looks at the clock.
    pub(super) fn begin(&mut self, ring: &Ring) {
        let epoch = ring.reader.epoch.load();
        let cell = &ring.cells[(epoch & 1) as usize];
        self.closing = self.loss.is_none() && cell.count.load_acquire() > 0;
        if self.closing {
            // The other cell was emptied when it was taken.
            ring.reader.epoch.store_release(epoch.wrapping_add(1));
        }
    }

    /// Waits for a writer that may not have seen the reader's last stores, and looks what there is.
    /// After the clock and a full barrier.
    pub(super) fn look(&mut self, ring: &Ring, cpu: u32) {
        let section = ring.section.load_acquire();
        if section & 1 == 1 {
            while ring.section.load_acquire() == section {
                core::hint::spin_loop();
            }
        }
        if self.closing {
            let left = ring.reader.epoch.load().wrapping_add(1);
            let cell = &ring.cells[(left & 1) as usize];
            let loss = Loss {
                count: cell.count.load_acquire(),
                first: cell.first.load(),
                last: cell.last.load(),
                cpu,
            };
            self.loss = Some((cell.at.load(), loss));
            cell.count.store(0);
        }
        self.head = ring.head.load_acquire();
        if self.slot.is_null() {
            self.slot = ring.first;
        }
    }

    /// Returns when the oldest was that the reader has seen.
    pub(super) fn oldest(&self, ring: &Ring) -> Option<u64> {
        let tail = ring.reader.tail.load();
        match self.loss {
            Some((at, loss)) if at == tail => Some(loss.first),
            // SAFETY: The reader saw `head` there, so the slot holds an event; nobody but the
            // reader, which has this, takes it.
            _ if tail < self.head => Some(unsafe { (*self.slot).time }),
            _ => None,
        }
    }

    /// Gives `take` the oldest, if there is one, and forgets it.
    pub(super) fn take(&mut self, ring: &Ring, take: impl FnOnce(Taken<'_>)) {
        let tail = ring.reader.tail.load();
        match self.loss {
            Some((at, loss)) if at == tail => {
                self.loss = None;
                take(Taken::Loss(loss));
            }
            _ if tail < self.head => {
                // SAFETY: As in oldest(): the slot is not written before `tail` is stored.
                take(Taken::Event(unsafe { &*self.slot }));
                self.slot = ring.slot_after(self.slot);
                // INVARIANT: The event is not looked at again.
                ring.reader.tail.store_release(tail.wrapping_add(1));
            }
            _ => {}
        }
    }
}
