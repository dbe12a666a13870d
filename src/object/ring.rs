// SPDX-License-Identifier: GPL-2.0

//! Rings that events lie in from the probe that saw them until a reader takes them, one for each CPU.
//!
//! A writer runs with interrupts off, and so alone on its CPU's ring: no tracepoint that ravel uses is reached
//! from an NMI. It never waits, allocates or takes a lock. Since probes are what others wait for, it is in C, beside
//! them, where an atomic access is one instruction and no call (`ravel_event_begin()` in `bindings/events.c`), and an
//! event is put together in its slot. The one reader, whoever holds a stream's lock, waits for writers, each of which
//! is between a few stores.
//!
//! How the reader knows that it misses nothing that is older than what it takes: a writer counts `section` up,
//! has a full barrier, and only then reads the clock; the reader reads the clock, has a full barrier, and
//! then waits until each section that it finds open has ended. A writer whose section it did not see has
//! read the clock after the reader did. So all that is older than the reader's time is in the rings.
//!
//! Where a ring is full, what comes is counted in one of its two loss cells, the one that `epoch` names, until
//! the reader changes the epoch; by the same waiting it knows when the writer has left the cell before. Until
//! then nothing is put into the ring, so a loss has one place in it: `Cell::at`.

use super::{gfp, netfilter::NetFilter, waker::Waker};
use crate::bindings;
pub(crate) use crate::bindings::{
    ravel_event as Event, ravel_lineage as Lineage, ravel_net as NetPart, ravel_packet as Packet,
    ravel_who as Who,
};
use core::{
    cell::UnsafeCell,
    ffi::c_void,
    mem::{offset_of, size_of, MaybeUninit},
};
use kernel::{
    cpu::nr_cpu_ids,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        barrier::{smp_mb, Full},
    },
    types::Opaque,
};

/// Bytes of an event in a ring.
pub(crate) const EVENT_SIZE: usize = size_of::<Event>();

const _: () = assert!(EVENT_SIZE == 160);

// A probe begins by setting the first part of the union to 0, and so all of it.
const _: () = assert!(size_of::<Packet>() == size_of::<bindings::ravel_part>());

impl Event {
    /// What an event of a process has.
    pub(crate) fn lineage(&self) -> &Lineage {
        // SAFETY: All of the union was written, and all of its parts are integers, for which any bits will do.
        unsafe { self.part.lineage.as_ref() }
    }

    /// Who did it; of an event that names no process, nothing of meaning.
    pub(crate) fn who(&self) -> &Who {
        // SAFETY: As above.
        unsafe { self.part.who.as_ref() }
    }

    /// What an event of a packet's way has.
    pub(crate) fn packet(&self) -> &Packet {
        // SAFETY: As above.
        unsafe { self.part.packet.as_ref() }
    }

    /// What an event of the network has.
    pub(crate) fn net(&self) -> &NetPart {
        // SAFETY: As above.
        unsafe { self.part.net.as_ref() }
    }
}

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

/// What a reader takes.
pub(crate) enum Taken<'a> {
    /// An event.
    Event(&'a Event),
    /// In the place of events.
    Loss(Loss),
}

/// A loss under way. Its writer's, while the ring's epoch names it; else the reader's.
#[repr(C)]
struct Cell {
    count: Atomic<u64>,
    first: Atomic<u64>,
    last: Atomic<u64>,
    /// `head` when it began.
    at: Atomic<u64>,
}

impl Cell {
    const fn new() -> Self {
        Self {
            count: Atomic::new(0),
            first: Atomic::new(0),
            last: Atomic::new(0),
            at: Atomic::new(0),
        }
    }
}

type Slot = UnsafeCell<MaybeUninit<Event>>;

/// What a ring is over: the room of a vector that has no elements, since nothing is to be done with them but by the ring.
struct Slots(KVVec<Slot>);

// SAFETY: A slot is accessed by the writer or the reader alone, by the invariant of `Ring`; who may be one is told at
// `ravel_event_begin()` and `Sink::gather`.
unsafe impl Sync for Slots {}

impl Slots {
    fn new(size: usize) -> Result<Self> {
        Ok(Self(KVVec::with_capacity(size, gfp())?))
    }
}

/// What the reader alone writes, on a cache line of its own.
#[repr(C, align(64))]
struct ReaderSide {
    tail: Atomic<u64>,
    epoch: Atomic<u64>,
}

/// One CPU's ring, as C has it.
///
/// # Invariants
///
/// `slots` are `size` of them. Those from `tail` to before `head` (modulo their number) hold events, and are not
/// written. The others are the writer's.
#[repr(C, align(64))]
struct Ring {
    /// Odd while a writer is at work.
    section: Atomic<u64>,
    head: Atomic<u64>,
    _time: Atomic<u64>,
    size: u64,
    slots: *const Slot,
    cells: [Cell; 2],
    reader: ReaderSide,
}

const _: () = {
    use bindings::{ravel_cell, ravel_ring};
    assert!(size_of::<Ring>() == size_of::<ravel_ring>());
    assert!(offset_of!(Ring, section) == offset_of!(ravel_ring, section));
    assert!(offset_of!(Ring, head) == offset_of!(ravel_ring, head));
    assert!(offset_of!(Ring, _time) == offset_of!(ravel_ring, time));
    assert!(offset_of!(Ring, size) == offset_of!(ravel_ring, size));
    assert!(offset_of!(Ring, slots) == offset_of!(ravel_ring, slots));
    assert!(offset_of!(Ring, cells) == offset_of!(ravel_ring, cells));
    assert!(offset_of!(Ring, reader.tail) == offset_of!(ravel_ring, tail));
    assert!(offset_of!(Ring, reader.epoch) == offset_of!(ravel_ring, epoch));
    assert!(size_of::<Cell>() == size_of::<ravel_cell>());
    assert!(offset_of!(Cell, first) == offset_of!(ravel_cell, first));
    assert!(offset_of!(Cell, last) == offset_of!(ravel_cell, last));
    assert!(offset_of!(Cell, at) == offset_of!(ravel_cell, at));
};

// SAFETY: All that changes is atomic, but for slots, of which see `Slots`.
unsafe impl Sync for Ring {}
// SAFETY: As above.
unsafe impl Send for Ring {}

impl Ring {
    /// An empty one over these slots, which are to live for longer.
    fn new(slots: &Slots) -> Self {
        // INVARIANT: There are that many, and none holds an event: `tail` and `head` are the same.
        Self {
            section: Atomic::new(0),
            head: Atomic::new(0),
            _time: Atomic::new(0),
            size: slots.0.capacity() as u64,
            slots: slots.0.as_ptr(),
            cells: [Cell::new(), Cell::new()],
            reader: ReaderSide {
                tail: Atomic::new(0),
                epoch: Atomic::new(0),
            },
        }
    }

    /// The slot of a number.
    fn slot(&self, at: u64) -> *const Event {
        // SAFETY: There are `size` of them.
        unsafe { self.slots.add((at % self.size) as usize) }.cast()
    }

    /// The cell of this epoch. The other one is empty, but while the reader changes the epoch.
    fn current(&self) -> &Cell {
        &self.cells[(self.reader.epoch.load(Relaxed) & 1) as usize]
    }

    /// Waits until a writer that may not have seen the reader's last stores is done.
    fn wait(&self) {
        let section = self.section.load(Acquire);
        if section & 1 == 1 {
            while self.section.load(Acquire) == section {
                core::hint::spin_loop();
            }
        }
    }
}

/// What the reader knows of a ring between two gatherings.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// A loss that is closed, and where it stands in the ring.
    loss: Option<(u64, Loss)>,
    /// `head` as the reader last saw it.
    head: u64,
    /// The writer leaves a cell in this gathering.
    closing: bool,
}

/// What the one reader of a sink keeps.
pub(crate) struct Gatherer {
    seen: KVec<Seen>,
    /// The time of what was taken last.
    time: u64,
}

impl Gatherer {
    /// A reader of a sink that was never read.
    pub(crate) fn new() -> Result<Self> {
        let cpus = nr_cpu_ids() as usize;
        Ok(Self {
            seen: KVec::from_elem(Seen::default(), cpus, gfp())?,
            time: 0,
        })
    }
}

/// Which processes a sink is told of.
pub(crate) enum Filter {
    /// All.
    All,
    /// One. When its number is given to another process, none.
    One(Atomic<u32>),
    /// Those whose bit is set: a process and its descendants.
    Tree(Pids),
}

/// A set of process ids.
pub(crate) struct Pids(KVVec<Atomic<u64>>);

impl Pids {
    /// Bytes that it takes.
    pub(crate) const SIZE: usize = super::process::PID_MAX as usize / 8;

    /// An empty set.
    pub(crate) fn new() -> Result<Self> {
        let words = Self::SIZE / 8;
        let mut set = KVVec::with_capacity(words, gfp())?;
        for _ in 0..words {
            set.push(Atomic::new(0), gfp())?;
        }
        Ok(Self(set))
    }

    fn has(&self, pid: u32) -> bool {
        self.0
            .get(pid as usize / 64)
            .is_some_and(|word| word.load(Relaxed) >> (pid % 64) & 1 == 1)
    }

    /// Puts a process in, or takes it out.
    pub(crate) fn set(&self, pid: u32, member: bool) {
        let Some(word) = self.0.get(pid as usize / 64) else {
            return;
        };
        let bit = 1 << (pid % 64);
        let mut old = word.load(Relaxed);
        loop {
            let new = if member { old | bit } else { old & !bit };
            // Not for long: others change it for their own bits, once each.
            match word.cmpxchg(old, new, Relaxed) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
    }

    /// Puts in all that descend from `root` now.
    pub(super) fn add_descendants(&self, root: *mut bindings::pid) {
        let bits = Self::SIZE as u32 * 8;
        let words = self.0.as_ptr().cast_mut().cast();
        // SAFETY: The caller of `Process` keeps the pid. `words` has that many bits, which are only ever changed
        // atomically, here by set_bit(); an atomic may be written through a shared reference.
        unsafe { bindings::ravel_mark_descendants(root, words, bits) };
    }
}

/// What probes have of a sink.
#[repr(transparent)]
struct Shared(Opaque<bindings::ravel_sink>);

// SAFETY: What it refers to may be used from any thread, and what changes in it is accessed atomically.
unsafe impl Send for Shared {}
// SAFETY: As above.
unsafe impl Sync for Shared {}

/// Where probes put events: the rings, and who wakes their reader.
///
/// # Invariants
///
/// What `shared` points at is what the filter holds, the rings and the waker, which live as long.
#[repr(C)]
pub(crate) struct Sink {
    /// At the beginning, where probes look for it.
    shared: Shared,
    net: NetFilter,
    /// The kinds that are asked for, as bits.
    kinds: u32,
    filter: Filter,
    rings: KVec<Ring>,
    _slots: KVec<Slots>,
    waker: Waker,
}

const _: () = assert!(offset_of!(Sink, shared) == 0);

impl Sink {
    /// Rings of `size` events for each CPU that there can be. Nothing is taken in yet.
    pub(crate) fn new(size: usize, kinds: u32, filter: Filter, net: NetFilter) -> Result<Self> {
        let cpus = nr_cpu_ids() as usize;
        let mut slots = KVec::with_capacity(cpus, gfp())?;
        let mut rings = KVec::with_capacity(cpus, gfp())?;
        for _ in 0..cpus {
            let its = Slots::new(size)?;
            rings.push(Ring::new(&its), gfp())?;
            slots.push(its, gfp())?;
        }
        let waker = Waker::new()?;
        // INVARIANT: These stay where they are when what owns them is moved.
        Ok(Self {
            shared: Shared(Opaque::new(bindings::ravel_sink {
                filter: net.raw(),
                rings: rings.as_mut_ptr().cast(),
                waker: waker.raw(),
                missed: 0,
                is_open: 0,
            })),
            kinds,
            filter,
            net,
            rings,
            _slots: slots,
            waker,
        })
    }

    /// Has it take in events from now on.
    pub(super) fn open(&self) {
        // SAFETY: It lives as long as this, and is accessed atomically by all.
        unsafe { Atomic::from_ptr(&raw mut (*self.shared.0.get()).is_open) }.store(1, Relaxed);
    }

    /// Whether a kind of event is asked for.
    pub(crate) fn has_kind(&self, kind: u32) -> bool {
        self.kinds >> kind & 1 == 1
    }

    /// Which processes it is told of.
    pub(crate) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Which sockets it is told of.
    pub(crate) fn net_filter(&self) -> &NetFilter {
        &self.net
    }

    /// What wakes its readers.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Events that it could not take in, and that have no place in it.
    pub(crate) fn missed(&self) -> u64 {
        // SAFETY: As above.
        unsafe { Atomic::from_ptr(&raw mut (*self.shared.0.get()).missed) }.load(Relaxed)
    }

    fn wants(&self, kind: u32, pid: u32) -> bool {
        self.has_kind(kind)
            && match &self.filter {
                Filter::All => true,
                Filter::One(one) => one.load(Relaxed) == pid,
                Filter::Tree(pids) => pids.has(pid),
            }
    }

    /// Has the filter know of a new process: whether the fork is to be told.
    ///
    /// The child is not awake yet, so its number is filed before anything that it does; and whatever the
    /// number said of a process before, it now says of this one.
    fn forked(&self, parent: u32, child: u32) -> bool {
        match &self.filter {
            Filter::All => {}
            Filter::One(one) => {
                if one.load(Relaxed) == child {
                    one.store(0, Relaxed);
                }
            }
            Filter::Tree(pids) => pids.set(child, pids.has(parent)),
        }
        self.wants(bindings::RAVEL_EVENT_FORK, parent)
    }

    /// How many events lie in the rings, and how many are lost that no reader knows of yet. Of a moment only
    /// where nothing happens.
    pub(crate) fn waiting(&self, by: &Gatherer) -> (u64, u64) {
        let (mut events, mut lost) = (0, 0);
        for (ring, seen) in self.rings.iter().zip(&by.seen) {
            let tail = ring.reader.tail.load(Relaxed);
            events += ring.head.load(Relaxed).saturating_sub(tail);
            lost += ring.current().count.load(Relaxed);
            lost += seen.loss.map_or(0, |(_, loss)| loss.count);
        }
        (events, lost)
    }

    /// Gives `take` what there is, the oldest first over all CPUs, for as long as `room` says so.
    ///
    /// There is one gatherer for a sink, so its `&mut` makes the caller the only reader.
    pub(crate) fn gather(
        &self,
        by: &mut Gatherer,
        mut room: impl FnMut() -> bool,
        mut take: impl FnMut(u64, Taken<'_>),
    ) {
        if !room() {
            return;
        }
        for (ring, seen) in self.rings.iter().zip(by.seen.iter_mut()) {
            seen.closing = seen.loss.is_none() && ring.current().count.load(Acquire) > 0;
            if seen.closing {
                // The other cell was emptied when it was taken.
                ring.reader
                    .epoch
                    .store(ring.reader.epoch.load(Relaxed) + 1, Release);
            }
        }
        let now = boot_ns();
        smp_mb(Full);
        for (cpu, (ring, seen)) in self.rings.iter().zip(by.seen.iter_mut()).enumerate() {
            ring.wait();
            if seen.closing {
                let cell = &ring.cells[(ring.reader.epoch.load(Relaxed) + 1 & 1) as usize];
                let loss = Loss {
                    count: cell.count.load(Acquire),
                    first: cell.first.load(Relaxed),
                    last: cell.last.load(Relaxed),
                    cpu: cpu as u32,
                };
                seen.loss = Some((cell.at.load(Relaxed), loss));
                cell.count.store(0, Relaxed);
            }
            seen.head = ring.head.load(Acquire);
        }
        while room() {
            let next = self
                .rings
                .iter()
                .zip(by.seen.iter_mut())
                .filter_map(|(ring, seen)| Some((Self::oldest(ring, seen)?, ring, seen)))
                .min_by_key(|(time, ..)| *time);
            let Some((time, ring, seen)) = next.filter(|(time, ..)| *time < now) else {
                break;
            };
            // Clocks that are read without a lock can differ between CPUs by what an adjustment makes of a tick.
            by.time = by.time.max(time);
            let tail = ring.reader.tail.load(Relaxed);
            match seen.loss {
                Some((at, loss)) if at == tail => {
                    seen.loss = None;
                    take(by.time, Taken::Loss(loss));
                }
                _ => {
                    // SAFETY: `tail` is before `head`, or there would be no oldest: the slot holds an event, and is
                    // not written before `tail` is stored.
                    take(by.time, Taken::Event(unsafe { &*ring.slot(tail) }));
                    // INVARIANT: The event is not looked at again.
                    ring.reader.tail.store(tail + 1, Release);
                }
            }
        }
    }

    /// When the oldest of a ring was that the reader has seen.
    fn oldest(ring: &Ring, seen: &Seen) -> Option<u64> {
        let tail = ring.reader.tail.load(Relaxed);
        match seen.loss {
            Some((at, loss)) if at == tail => Some(loss.first),
            // SAFETY: The reader saw `head` there, so the slot holds an event; nobody but the reader, which
            // this is, takes it.
            _ if tail < seen.head => Some(unsafe { (*ring.slot(tail)).time }),
            _ => None,
        }
    }
}

/// Nanoseconds since boot, suspended time too.
pub(crate) fn boot_ns() -> u64 {
    // SAFETY: Can be called anywhere.
    unsafe { bindings::ravel_boot_ns() }
}

/// # Safety
///
/// `sink` is a [`Sink`] that a probe was registered with.
#[no_mangle]
unsafe extern "C" fn ravel_sink_wants(sink: *const c_void, kind: u32, pid: u32) -> bool {
    // SAFETY: Probes are unregistered, and waited for, before their sink goes.
    unsafe { &*sink.cast::<Sink>() }.wants(kind, pid)
}

/// # Safety
///
/// `sink` is a [`Sink`] that a probe was registered with.
#[no_mangle]
unsafe extern "C" fn ravel_sink_forked(sink: *const c_void, parent: u32, child: u32) -> bool {
    // SAFETY: As above.
    unsafe { &*sink.cast::<Sink>() }.forked(parent, child)
}
