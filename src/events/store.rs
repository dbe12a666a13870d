// SPDX-License-Identifier: GPL-2.0

//! What a stream holds for its readers: each entry ready, reserved under a lease, delayed, or
//! failed.
//!
//! Entries and leases lie in arrays that whoever makes a store gives it, with room for all that
//! there will be. Entries are moved between lists by links, so nothing here allocates or fails for
//! want of memory. A place is first touched when there is something for it: most streams never have
//! as much as they have room for. Every list is in the order of sequence numbers: what is given
//! back stands before what came later. What is delayed stands in a heap, by the time when it is
//! due: each of its nodes is a list of entries that were given back together. Time is an argument,
//! and nothing of the kernel is used: the tools' own tests put this file through random histories.

#![deny(unsafe_code)]

use core::ops::DerefMut;

/// The end of a list.
const NIL: u32 = u32::MAX;

/// A place for one entry.
#[derive(Clone, Copy)]
pub(crate) struct Entry<E> {
    /// What it is about.
    pub(crate) what: E,
    /// Its sequence number, or the first of those that it stands for.
    pub(crate) seq: u64,
    /// How often it was handed out.
    pub(crate) attempts: u32,
    /// When it is ready again; only of the first of those that are delayed together, as the next
    /// two.
    due: u64,
    next: u32,
    /// In the heap, the first of those that are due later than this, and the next of those that are
    /// due later than the same.
    child: u32,
    sibling: u32,
}

/// An array of places.
pub(crate) trait Places: DerefMut<Target = [Entry<Self::What>]> {
    /// What entries are about.
    type What;

    /// Adds one, in memory that was set aside for it: whether there was some.
    fn add(&mut self, entry: Entry<Self::What>) -> bool;
}

#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl List {
    const EMPTY: Self = Self {
        head: NIL,
        tail: NIL,
        len: 0,
    };
}

/// A place for a lease: some entries, reserved for one reader.
#[derive(Clone, Copy)]
pub(crate) struct Lease {
    /// 0 where there is none.
    id: u64,
    deadline: u64,
    list: List,
}

impl Lease {
    /// A place that is free.
    pub(crate) const FREE: Self = Self {
        id: 0,
        deadline: 0,
        list: List::EMPTY,
    };
}

/// The lease has ended: its deadline passed, or all of it was acknowledged or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended;

/// How many entries there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// To be handed out.
    pub(crate) ready: u64,
    /// Under a lease.
    pub(crate) reserved: u64,
    /// To be handed out later.
    pub(crate) delayed: u64,
    /// Handed out as often as may be.
    pub(crate) failed: u64,
    /// Leases that are out.
    pub(crate) leases: u64,
}

/// The entries of a stream.
pub(crate) struct Store<M: Places, L: DerefMut<Target = [Lease]>> {
    entries: M,
    /// How many there may be.
    most: u32,
    leases: L,
    /// Those that have nothing any more.
    free: List,
    ready: List,
    failed: List,
    /// The root of the heap, and how many entries are in it.
    delayed: u32,
    delayed_len: u32,
    last_lease: u64,
    max_attempts: u32,
    /// Handed out, in all.
    attempts: u64,
}

impl<M: Places, L: DerefMut<Target = [Lease]>> Store<M, L> {
    /// A store that has at most so many entries, in an array that is empty; an entry is handed out
    /// at most `max_attempts` times.
    pub(crate) fn new(entries: M, most: u32, leases: L, max_attempts: u32) -> Self {
        Self {
            entries,
            most,
            leases,
            free: List::EMPTY,
            ready: List::EMPTY,
            failed: List::EMPTY,
            delayed: NIL,
            delayed_len: 0,
            last_lease: 0,
            max_attempts,
            attempts: 0,
        }
    }

    /// For how many more there is room.
    pub(crate) fn room(&self) -> u32 {
        self.free.len + (self.most - self.entries.len() as u32)
    }

    /// Adds an entry, whose number is above all before. Whether there was room.
    pub(crate) fn push(&mut self, seq: u64, what: M::What) -> bool {
        let entry = Entry {
            what,
            seq,
            attempts: 0,
            due: 0,
            next: NIL,
            child: NIL,
            sibling: NIL,
        };
        let mut free = self.free;
        let at = if let Some(at) = self.pop(&mut free) {
            self.free = free;
            self.entries[at as usize] = entry;
            at
        } else if self.room() > 0 && self.entries.add(entry) {
            self.entries.len() as u32 - 1
        } else {
            return false;
        };
        let mut ready = self.ready;
        self.append(&mut ready, at);
        self.ready = ready;
        true
    }

    /// Ends leases and delays that are due by now. Comes before everything that looks at them.
    /// Returns whether there was one: something may be ready that was not.
    pub(crate) fn tick(&mut self, now: u64) -> bool {
        let mut is_due = false;
        for at in 0..self.leases.len() {
            if self.leases[at].id != 0 && self.leases[at].deadline <= now {
                self.end(at, 0);
                is_due = true;
            }
        }
        if self.next_delay().is_some_and(|due| due <= now) {
            let due = self.take_due(now);
            self.ready = self.merge(self.ready, due);
            is_due = true;
        }
        is_due
    }

    /// Takes all that is due out of the heap.
    fn take_due(&mut self, now: u64) -> List {
        // Lists of 1, 2, 4 and so on that were in the heap, merged: none is walked more often than
        // their number has digits.
        let mut bins = [List::EMPTY; 32];
        while self.next_delay().is_some_and(|due| due <= now) {
            let mut list = self.pop_delayed();
            for bin in &mut bins {
                if bin.len == 0 {
                    *bin = list;
                    break;
                }
                list = self.merge(core::mem::replace(bin, List::EMPTY), list);
            }
        }
        let mut all = List::EMPTY;
        for bin in &bins {
            all = self.merge(all, *bin);
        }
        all
    }

    /// When [`Self::tick`] has something to do next.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.leases
            .iter()
            .filter(|lease| lease.id != 0)
            .map(|lease| lease.deadline)
            .chain(self.next_delay())
            .min()
    }

    fn next_delay(&self) -> Option<u64> {
        self.entries.get(self.delayed as usize).map(|root| root.due)
    }

    /// Puts a list into the heap.
    fn delay(&mut self, list: List, due: u64) {
        if let Some(first) = self.entries.get_mut(list.head as usize) {
            (first.due, first.child, first.sibling) = (due, NIL, NIL);
            self.delayed_len += list.len;
            self.delayed = self.meld(self.delayed, list.head);
        }
    }

    /// Joins two heaps, by their roots; either may be none.
    fn meld(&mut self, one: u32, two: u32) -> u32 {
        let due = |at: u32| self.entries.get(at as usize).map(|root| root.due);
        let (root, child) = match (due(one), due(two)) {
            (_, None) => return one,
            (None, _) => return two,
            (Some(a), Some(b)) if a <= b => (one, two),
            _ => (two, one),
        };
        self.entries[child as usize].sibling = self.entries[root as usize].child;
        self.entries[root as usize].child = child;
        root
    }

    /// Takes the list that is due first out of the heap, which is not empty.
    fn pop_delayed(&mut self) -> List {
        let root = self.delayed;
        // Joins its children by pairs, and those from the last to the first.
        let mut rest = self.entries[root as usize].child;
        let mut pairs = NIL;
        while rest != NIL {
            let one = rest;
            let two = self.split_sibling(one);
            rest = self.split_sibling(two);
            let pair = self.meld(one, two);
            self.entries[pair as usize].sibling = pairs;
            pairs = pair;
        }
        let mut heap = NIL;
        while pairs != NIL {
            let pair = pairs;
            pairs = self.split_sibling(pair);
            heap = self.meld(heap, pair);
        }
        self.delayed = heap;
        let mut list = List::EMPTY;
        let mut at = root;
        while at != NIL {
            let next = self.entries[at as usize].next;
            self.append(&mut list, at);
            at = next;
        }
        self.delayed_len -= list.len;
        list
    }

    /// Parts a heap from those behind it, which are returned; none of none.
    fn split_sibling(&mut self, at: u32) -> u32 {
        match self.entries.get_mut(at as usize) {
            Some(entry) => core::mem::replace(&mut entry.sibling, NIL),
            None => NIL,
        }
    }

    /// Whether something is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.len > 0
    }

    /// What is ready, the oldest first.
    pub(crate) fn ready(&self) -> impl Iterator<Item = &Entry<M::What>> {
        self.iter(self.ready)
    }

    /// Reserves that many of what is ready, from the oldest on: the lease. None where as many
    /// leases are out as there can be, or there is nothing to reserve; then nothing has happened.
    pub(crate) fn lease(&mut self, count: u32, deadline: u64) -> Option<u64> {
        let slot = self.leases.iter().position(|lease| lease.id == 0)?;
        let mut list = List::EMPTY;
        let mut ready = self.ready;
        while list.len < count {
            let Some(at) = self.pop(&mut ready) else {
                break;
            };
            self.entries[at as usize].attempts += 1;
            self.append(&mut list, at);
        }
        self.ready = ready;
        if list.len == 0 {
            return None;
        }
        self.attempts += u64::from(list.len);
        self.last_lease += 1;
        self.leases[slot] = Lease {
            id: self.last_lease,
            deadline,
            list,
        };
        Some(self.last_lease)
    }

    /// Whether one more lease can be out.
    pub(crate) fn has_lease(&self) -> bool {
        self.leases.iter().any(|lease| lease.id == 0)
    }

    fn slot(&self, id: u64) -> Result<usize, Ended> {
        let found = self
            .leases
            .iter()
            .position(|lease| lease.id == id && id != 0);
        found.ok_or(Ended)
    }

    /// Whether a lease holds.
    pub(crate) fn holds(&self, id: u64) -> bool {
        self.slot(id).is_ok()
    }

    /// Acknowledges a lease's entries up to the one with that number, or all: how many. None if no
    /// such entry is left in it.
    pub(crate) fn acknowledge(&mut self, id: u64, upto: Option<u64>) -> Result<Option<u64>, Ended> {
        let slot = self.slot(id)?;
        let mut list = self.leases[slot].list;
        if let Some(seq) = upto {
            if !self.iter(list).any(|entry| entry.seq == seq) {
                return Ok(None);
            }
        }
        let mut done = 0;
        while list.len > 0 {
            let seq = self.entries[list.head as usize].seq;
            if upto.is_some_and(|upto| seq > upto) {
                break;
            }
            if let Some(at) = self.pop(&mut list) {
                self.discard(at);
                done += 1;
            }
        }
        self.leases[slot].list = list;
        if list.len == 0 {
            self.leases[slot].id = 0;
        }
        Ok(Some(done))
    }

    /// Ends a lease: what is left of it is ready again, at once or (`due` not 0) then; what was
    /// handed out as often as may be has failed.
    pub(crate) fn give_back(&mut self, id: u64, due: u64) -> Result<(), Ended> {
        let slot = self.slot(id)?;
        self.end(slot, due);
        Ok(())
    }

    fn end(&mut self, slot: usize, due: u64) {
        let mut list = self.leases[slot].list;
        self.leases[slot].id = 0;
        self.leases[slot].list = List::EMPTY;
        let most = self.max_attempts;
        let failed = self.take_if(&mut list, |entry| entry.attempts >= most);
        self.failed = self.merge(self.failed, failed);
        if due == 0 {
            self.ready = self.merge(self.ready, list);
            return;
        }
        self.delay(list, due);
    }

    /// The failed entries with a number from `from` on.
    pub(crate) fn failed(&self, from: u64) -> impl Iterator<Item = &Entry<M::What>> {
        self.iter(self.failed)
            .filter(move |entry| entry.seq >= from)
    }

    /// Makes failed entries ready as if they were new: the one with that number, or all. How many.
    pub(crate) fn replay(&mut self, seq: Option<u64>) -> u64 {
        let list = self.take_failed(seq);
        let mut at = list.head;
        while at != NIL {
            let entry = &mut self.entries[at as usize];
            entry.attempts = 0;
            at = entry.next;
        }
        self.ready = self.merge(self.ready, list);
        list.len.into()
    }

    /// Forgets failed entries: the one with that number, or all. How many.
    pub(crate) fn clear(&mut self, seq: Option<u64>) -> u64 {
        let mut list = self.take_failed(seq);
        let len = list.len;
        while let Some(at) = self.pop(&mut list) {
            self.discard(at);
        }
        len.into()
    }

    fn take_failed(&mut self, seq: Option<u64>) -> List {
        let mut failed = self.failed;
        let taken = self.take_if(&mut failed, |entry| seq.is_none_or(|seq| entry.seq == seq));
        self.failed = failed;
        taken
    }

    /// How many entries are where.
    pub(crate) fn counts(&self) -> Counts {
        let out = || self.leases.iter().filter(|lease| lease.id != 0);
        Counts {
            ready: self.ready.len.into(),
            reserved: out().map(|lease| u64::from(lease.list.len)).sum(),
            delayed: self.delayed_len.into(),
            failed: self.failed.len.into(),
            leases: out().count() as u64,
        }
    }

    /// Entries handed out in all, each as often as it was.
    pub(crate) fn attempts(&self) -> u64 {
        self.attempts
    }

    fn iter(&self, list: List) -> impl Iterator<Item = &Entry<M::What>> {
        let mut at = list.head;
        core::iter::from_fn(move || {
            let entry = self.entries.get(at as usize)?;
            at = entry.next;
            Some(entry)
        })
    }

    fn discard(&mut self, at: u32) {
        let mut free = self.free;
        self.append(&mut free, at);
        self.free = free;
    }

    fn append(&mut self, list: &mut List, at: u32) {
        self.entries[at as usize].next = NIL;
        if list.tail == NIL {
            list.head = at;
        } else {
            self.entries[list.tail as usize].next = at;
        }
        list.tail = at;
        list.len += 1;
    }

    fn pop(&mut self, list: &mut List) -> Option<u32> {
        let at = list.head;
        list.head = self.entries.get(at as usize)?.next;
        if list.head == NIL {
            list.tail = NIL;
        }
        list.len -= 1;
        Some(at)
    }

    /// Takes some out of a list, both staying in order.
    fn take_if(&mut self, list: &mut List, mut which: impl FnMut(&Entry<M::What>) -> bool) -> List {
        let (mut taken, mut kept) = (List::EMPTY, List::EMPTY);
        while let Some(at) = self.pop(list) {
            let which = which(&self.entries[at as usize]);
            self.append(if which { &mut taken } else { &mut kept }, at);
        }
        *list = kept;
        taken
    }

    /// One list of two, in order.
    fn merge(&mut self, mut one: List, mut two: List) -> List {
        if two.len == 0 {
            return one;
        }
        let mut all = List::EMPTY;
        while one.len > 0 && two.len > 0 {
            let (a, b) = (one.head as usize, two.head as usize);
            let first = self.entries[a].seq < self.entries[b].seq;
            if let Some(at) = self.pop(if first { &mut one } else { &mut two }) {
                self.append(&mut all, at);
            }
        }
        // What is left of one of them goes on as it is.
        let rest = if one.len > 0 { one } else { two };
        if rest.len > 0 {
            if all.len == 0 {
                return rest;
            }
            self.entries[all.tail as usize].next = rest.head;
            all.tail = rest.tail;
            all.len += rest.len;
        }
        all
    }
}
