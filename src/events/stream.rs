// SPDX-License-Identifier: GPL-2.0

//! A stream: its rings, its store, and what its readers do with them.

use super::{
    record::What,
    request::{Name, Settings, Terms, Who},
    store::{Ended, Entry, Lease, Places, Store},
};
use crate::{
    object::{
        compat::{EOPNOTSUPP, ESTALE},
        debugfs::PollWait,
        net::filter::{self, NetFilter},
        process::{pids::Pids, Process},
        trace::{
            event::{Event, EVENT_SIZE},
            ring::{Loss, Taken},
            sink::{boot_ns, Filter, Gatherer, Sink},
            source::{Probes, Source},
        },
    },
    records::{
        common::ReportName,
        events::{self, Batch, EventsSummary, Scope, Sources},
        Address, Word,
    },
    report::{gfp, text::Text, FORMAT},
};
use core::{mem::size_of, net::IpAddr};
use kernel::{
    cpu::nr_cpu_ids,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
};

/// How many leases a stream can have at once.
const LEASES: usize = 64;

/// How often a reader looks for an event that is later than now, before it leaves that to the
/// timer.
const LOOKS: u32 = 4;

/// A stream.
#[pin_data]
pub(super) struct Stream {
    name: Name,
    settings: Settings,
    /// Bytes that it takes for events, and for its filter.
    memory: usize,
    /// Bytes that its descriptors have for what is read of it.
    of_descriptors: Atomic<i64>,
    /// The process that it is about, by its number in the initial pid namespace; 0 for all.
    pid: i32,
    /// While events are taken in; none once the stream is removed.
    #[pin]
    probes: Mutex<Option<Probes>>,
    sink: Arc<Sink>,
    #[pin]
    state: Mutex<State>,
}

impl Places for KVVec<Entry<What>> {
    type What = What;

    fn add(&mut self, entry: Entry<What>) -> bool {
        self.push_within_capacity(entry).is_ok()
    }
}

/// What the lock guards.
struct State {
    gatherer: Gatherer,
    store: Store<KVVec<Entry<What>>, KVec<Lease>>,
    /// The last sequence number given: how many events have happened, but for those still in the
    /// rings.
    seq: u64,
    /// Of these, how many were lost.
    lost: u64,
    /// Entries acknowledged.
    acked: u64,
    /// Failed entries cleared.
    cleared: u64,
    /// The time of the oldest event that was left in the rings because it was later than now.
    rest: Option<u64>,
    /// The stream was removed: nothing is asked of it any more.
    ended: bool,
}

impl State {
    /// Moves what lies in the rings to the store, as far as there is room.
    fn gather(&mut self, sink: &Sink) {
        let Self {
            gatherer,
            store,
            seq,
            lost,
            rest,
            ..
        } = self;
        let room = core::cell::Cell::new(store.room());
        *rest = sink.gather(
            gatherer,
            || room.get() > 0,
            |time, taken| {
                let what = match taken {
                    Taken::Event(event) => What::Event(Event { time, ..*event }),
                    Taken::Loss(loss) => {
                        *lost += loss.count;
                        What::Loss(Loss {
                            first: time,
                            last: loss.last.max(time),
                            ..loss
                        })
                    }
                };
                let events = what.events();
                room.set(room.get() - 1);
                store.push(*seq + 1, what);
                *seq += events;
            },
        );
    }

    /// Returns whether something is ready to be reserved. If not, the next event wakes those who
    /// wait.
    fn is_ready(&mut self, sink: &Sink) -> bool {
        if self.store.is_ready() {
            return true;
        }
        // Else events stay in the rings, until somebody makes room and wakes all.
        if self.store.room() == 0 {
            return false;
        }
        sink.waker().await_event();
        // What came meanwhile has woken nobody. An event that is later than now is so for no longer
        // than it takes to look again, unless clocks differ.
        for _ in 0..LOOKS {
            self.gather(sink);
            if self.store.is_ready() || self.rest.is_none() {
                break;
            }
        }
        self.store.is_ready()
    }
}

impl Stream {
    /// A stream that takes in events from now on.
    #[inline(never)]
    pub(super) fn new(settings: Settings) -> Result<Arc<Self>> {
        let half = settings.bytes / 2;
        let ring = half / nr_cpu_ids() as usize / EVENT_SIZE;
        let places = half / size_of::<Entry<What>>();
        // On a machine of very many CPUs.
        if ring < 8 {
            return Err(EINVAL);
        }
        let mut memory =
            ring * EVENT_SIZE * nr_cpu_ids() as usize + places * size_of::<Entry<What>>();
        let root = match settings.who {
            Who::All => None,
            Who::One(pid) | Who::Tree(pid) => Some(Process::find(pid)?),
        };
        let pid = root.as_ref().map_or(0, Process::nr);
        let filter = match settings.who {
            Who::All => Filter::All,
            Who::One(_) => Filter::One(Atomic::new(pid as u32)),
            Who::Tree(_) => {
                memory += Pids::SIZE;
                Filter::Tree(Pids::new()?)
            }
        };
        let entries = KVVec::with_capacity(places, gfp())?;
        let leases = KVec::from_elem(Lease::FREE, LEASES, gfp())?;
        let state = State {
            gatherer: Gatherer::new()?,
            store: Store::new(entries, places as u32, leases, settings.attempts),
            seq: 0,
            lost: 0,
            acked: 0,
            cleared: 0,
            rest: None,
            ended: false,
        };
        let of_network = Source::ALL
            .into_iter()
            .any(|source| source.is_of_network() && settings.kinds >> source.kind() & 1 == 1);
        if settings.wanted.cgroup.is_some() && of_network && !filter::has_sock_cgroups() {
            return Err(EOPNOTSUPP);
        }
        let net = NetFilter::new(&settings.wanted)?;
        let sink = Arc::new(Sink::new(ring, settings.kinds, filter, net)?, gfp())?;
        let shared = sink.clone();
        let stream = Arc::pin_init(
            pin_init!(Self {
                name: settings.name,
                memory,
                of_descriptors: Atomic::new(0),
                pid,
                probes <- new_mutex!(None),
                sink: shared,
                state <- new_mutex!(state),
                settings,
            }),
            gfp(),
        )?;
        // Last of all: from here on events come.
        *stream.probes.lock() = Some(Probes::new(sink, root.as_ref())?);
        Ok(stream)
    }

    /// Its name.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Ends the stream: nothing is read of it any more, nobody waits for it, and no probe of it
    /// runs when this returns.
    pub(super) fn end(&self) {
        // Before any probe: one source ends after the other, and nobody is to be handed events
        // between which those of another source are left out.
        self.state.lock().ended = true;
        self.sink.waker().wake_at_end();
        drop(self.probes.lock().take());
    }

    /// Counts what a descriptor has of memory, instead of what it had.
    pub(super) fn count_memory(&self, before: usize, now: usize) {
        self.of_descriptors.add(now as i64 - before as i64, Relaxed);
    }

    /// Wakes who waits.
    fn wake(&self) {
        self.sink.waker().wake();
    }

    /// Has poll() wait for what changes in the stream.
    pub(super) fn join(&self, wait: &PollWait<'_>) {
        self.sink.waker().join(wait);
    }

    /// Runs `f` on the stream's state, brought up to date. `EIO` once the stream was removed.
    fn with<R>(&self, f: impl FnOnce(&mut State, u64) -> Result<R>) -> Result<R> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(EIO);
        }
        let now = boot_ns();
        let is_due = state.store.tick(now);
        state.gather(&self.sink);
        let result = f(&mut state, now);
        let mut due = state.store.next_due();
        if !state.store.is_ready() {
            due = match (due, state.rest) {
                (Some(due), Some(rest)) => Some(due.min(rest)),
                (due, rest) => due.or(rest),
            };
        }
        // Replaces the time at which the waker would have woken those who wait for what is due by
        // now: so do it here.
        self.sink.waker().wake_at(due);
        drop(state);
        if is_due {
            self.wake();
        }
        result
    }

    /// The same, where others may find something ready for it.
    fn change<R>(&self, f: impl FnOnce(&mut State, u64) -> Result<R>) -> Result<R> {
        let result = self.with(f);
        self.wake();
        result
    }

    /// Returns whether a lease holds.
    pub(super) fn holds(&self, lease: u64) -> Result<bool> {
        self.with(|state, _| Ok(state.store.holds(lease)))
    }

    /// Returns whether there is something to reserve.
    pub(super) fn is_ready(&self) -> Result<bool> {
        self.with(|state, _| Ok(state.is_ready(&self.sink)))
    }

    /// Reserves a batch and writes it down: its lease.
    ///
    /// `EAGAIN` where nothing is ready, `EBUSY` where too many have leases. Whatever fails, nothing
    /// is reserved.
    pub(super) fn reserve(&self, terms: Terms, text: &mut Text) -> Result<u64> {
        self.with(|state, now| {
            if !state.is_ready(&self.sink) {
                return Err(EAGAIN);
            }
            let store = &mut state.store;
            if !store.has_lease() {
                return Err(EBUSY);
            }
            let deadline = now + terms.time;
            let name = self.name.bytes();
            let record = Batch {
                stream: Word::at(0, name.len()),
                format: FORMAT.into(),
                deadline: deadline.into(),
                attempts: self.settings.attempts.into(),
            };
            text.put(&record, &[name])?;
            let begin = text.bytes().len();
            let (mut records, mut lost) = (0u32, 0u64);
            for entry in store.ready().take(terms.events as usize) {
                let before = text.bytes().len();
                What::write(entry, entry.attempts + 1, text)?;
                if text.bytes().len() - begin > terms.bytes && records > 0 {
                    text.truncate(before);
                    break;
                }
                records += 1;
                if let What::Loss(loss) = entry.what {
                    lost += loss.count;
                }
            }
            let record = EventsSummary {
                report: ReportName::EVENTS,
                records: records.into(),
                lost: lost.into(),
                cut: 0u64.into(),
            };
            text.put(&record, &[])?;
            store.lease(records, deadline).ok_or(EAGAIN)
        })
    }

    /// Acknowledges a batch, up to a number or all of it: whether anything of it is left.
    ///
    /// `ESTALE` where the lease has ended, `ENOENT` where it has no such record.
    pub(super) fn acknowledge(&self, lease: u64, upto: Option<u64>) -> Result<bool> {
        self.change(|state, _| {
            let done = state.store.acknowledge(lease, upto).map_err(stale)?;
            state.acked += done.ok_or(ENOENT)?;
            Ok(state.store.holds(lease))
        })
    }

    /// Gives the rest of a batch back, to be ready after a time.
    pub(super) fn give_back(&self, lease: u64, delay: u64) -> Result {
        self.change(|state, now| {
            let due = if delay == 0 { 0 } else { now + delay };
            state.store.give_back(lease, due).map_err(stale)
        })
    }

    /// Makes failed entries ready again. `ENOENT` where there is none of that number.
    pub(super) fn replay(&self, seq: Option<u64>) -> Result {
        self.change(|state, _| match state.store.replay(seq) {
            0 if seq.is_some() => Err(ENOENT),
            _ => Ok(()),
        })
    }

    /// Forgets failed entries, likewise.
    pub(super) fn clear(&self, seq: Option<u64>) -> Result {
        self.change(|state, _| match state.store.clear(seq) {
            0 if seq.is_some() => Err(ENOENT),
            count => {
                state.cleared += count;
                Ok(())
            }
        })
    }

    /// Writes down failed entries from that number on, until the text has `bytes`: how many, and
    /// the number to go on with, none at the end.
    pub(super) fn write_failed(
        &self,
        from: u64,
        bytes: usize,
        text: &mut Text,
    ) -> Result<(u64, Option<u64>)> {
        self.with(|state, _| {
            let mut written = 0;
            for entry in state.store.failed(from) {
                if text.bytes().len() >= bytes {
                    return Ok((written, Some(entry.seq)));
                }
                What::write(entry, entry.attempts, text)?;
                written += 1;
            }
            Ok((written, None))
        })
    }

    /// Writes its record in the list of streams.
    pub(super) fn write(&self, text: &mut Text) -> Result {
        let wanted = &self.settings.wanted;
        let address = match wanted.address {
            Some(IpAddr::V4(v4)) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&v4.octets());
                Address::ipv4(&bytes, None)
            }
            Some(IpAddr::V6(v6)) => Address::ipv6(&v6.octets(), None),
            None => Address::default(),
        };
        let of_descriptors = self.of_descriptors.load(Relaxed);
        let memory = (self.memory as u64).saturating_add_signed(of_descriptors);
        self.with(|state, _| {
            let counts = state.store.counts();
            let (waiting, losing) = self.sink.waiting(&state.gatherer);
            let name = self.name.bytes();
            let record = events::Stream {
                name: Word::at(0, name.len()),
                // A source's bit is that of its kind.
                sources: Sources::new(self.settings.kinds.into()),
                scope: match self.settings.who {
                    Who::All => Scope::ALL,
                    Who::One(_) => Scope::PID,
                    Who::Tree(_) => Scope::TREE,
                },
                pid: self.pid.into(),
                socket: self.sink.net_filter().socket().into(),
                cgroup: self.sink.net_filter().cgroup().into(),
                address,
                port: wanted.port.unwrap_or(0).into(),
                protocol: wanted.protocol.unwrap_or(0).into(),
                until_close: self.settings.until_close.into(),
                bytes: self.settings.bytes.into(),
                memory: memory.into(),
                events: (state.seq + waiting + losing).into(),
                waiting: waiting.into(),
                lost: (state.lost + losing).into(),
                missed: self.sink.missed().into(),
                ready: counts.ready.into(),
                reserved: counts.reserved.into(),
                delayed: counts.delayed.into(),
                failed: counts.failed.into(),
                acked: state.acked.into(),
                cleared: state.cleared.into(),
                leases: counts.leases.into(),
                attempts: state.store.attempts().into(),
                max_attempts: self.settings.attempts.into(),
            };
            text.put(&record, &[name])
        })
    }
}

fn stale(_: Ended) -> Error {
    ESTALE
}
