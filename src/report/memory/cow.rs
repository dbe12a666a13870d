// SPDX-License-Identifier: GPL-2.0

//! The report `cow`: how much of a process' private memory is its own, and with whom it shares the
//! rest.

#![deny(unsafe_code)]

use crate::object::{
    compat::MAYSHARE,
    memory::address_space::VmaGuard,
    memory::anon_vma::RootGuard,
    memory::page::{is_hugetlb, reverse, Entries, Entry, Kind, ReverseMap, Tree},
    process::Owner,
    sync::id::Id,
};
use crate::records::{
    common::ReportName,
    memory::{self, CowSummary, PageCounts},
};
use crate::report::{
    gfp,
    memory::page::{self, Group, Groups, WINDOW},
    memory::walk::{self, Head, VmaReport, Walked},
    text::Text,
    Fault, Step,
};
use core::cell::Cell;
use kernel::{mm::virt::VmaRef, page::PAGE_SIZE, prelude::*};

/// How many address spaces are emitted with which a VMA shares pages.
const MAX_SHARERS: usize = 1024;

/// How many entries of others' page tables are visited in one hold of an anon_vma's lock, unless
/// one page alone takes more. Between such holds the walk asks whether others wait.
const CHUNK_VISITS: usize = 32768;

/// Pages of a VMA, by what its page table entries hold.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Anonymous pages.
    anon: u64,
    /// Of these, mapped by this one entry alone.
    exclusive: u64,
    /// Of these, first written here, or copied here since the fork.
    own: u64,
    /// Of these, in the VMA's own anon_vma, which fork() may have taken over from an ancestor that
    /// has exited.
    unknown: u64,
    /// Of `anon`, mapped by huge entries.
    huge: u64,
    /// Pages of the mapped file, not copied.
    file: u64,
    zero: u64,
    ksm: u64,
    swap: u64,
    migration: u64,
    other: u64,
}

impl Counts {
    fn add(&mut self, more: &Self) {
        self.anon += more.anon;
        self.exclusive += more.exclusive;
        self.own += more.own;
        self.unknown += more.unknown;
        self.huge += more.huge;
        self.file += more.file;
        self.zero += more.zero;
        self.ksm += more.ksm;
        self.swap += more.swap;
        self.migration += more.migration;
        self.other += more.other;
    }

    fn record(&self) -> PageCounts {
        PageCounts {
            anon: self.anon.into(),
            exclusive: self.exclusive.into(),
            shared: (self.anon - self.exclusive).into(),
            own: self.own.into(),
            unknown: self.unknown.into(),
            inherited: (self.anon - self.own - self.unknown).into(),
            huge: self.huge.into(),
            file: self.file.into(),
            zero: self.zero.into(),
            ksm: self.ksm.into(),
            swap: self.swap.into(),
            migration: self.migration.into(),
            other: self.other.into(),
        }
    }
}

/// Another address space that maps some of a VMA's pages.
pub(crate) struct Sharer {
    mm: Id,
    owner: Owner,
    pages: u64,
}

/// What was collected, in the order in which it is emitted.
pub(crate) enum Item {
    /// A VMA, and how many places in it were gone when the walk came back to them.
    Cow(Head, Counts, u64),
    Share {
        vma: usize,
        sharer: Sharer,
    },
}

#[derive(Default)]
struct Totals {
    emitted: u64,
    public: u64,
    hugetlb: u64,
    counts: Counts,
    cut: u64,
}

/// The report under way.
pub(crate) type Walk = walk::Walk<Cow>;

type Chunk<'a> = walk::Chunk<'a, Cow>;

/// The current VMA, and what was emitted.
pub(crate) struct Cow {
    /// Its page table was read up to here.
    next: usize,
    counts: Counts,
    /// How many places were gone before it.
    moved: u64,
    sharers: KVVec<Sharer>,
    entries: Entries,
    room: Entries,
    totals: Totals,
}

impl VmaReport for Cow {
    type Item = Item;
    /// Some VMAs that share nothing, or one that shares with as many as are emitted.
    const ITEMS: usize = MAX_SHARERS + 64;
    const ROOM: usize = MAX_SHARERS + 1;

    fn new() -> Result<Self, Fault> {
        Ok(Self {
            next: 0,
            counts: Counts::default(),
            moved: 0,
            sharers: KVVec::with_capacity(MAX_SHARERS, gfp())?,
            entries: Entries::with_capacity(WINDOW)?,
            room: Entries::with_capacity(WINDOW)?,
            totals: Totals::default(),
        })
    }

    fn wants(&mut self, vma: &VmaRef) -> bool {
        let public = vma.flags() & MAYSHARE != 0;
        let hugetlb = !public && is_hugetlb(vma);
        self.totals.public += u64::from(public);
        self.totals.hugetlb += u64::from(hugetlb);
        !public && !hugetlb
    }

    fn begin(&mut self, _vma: &VmaRef, head: &Head, chunk: &mut Chunk<'_>) -> Result<Step> {
        self.next = head.start;
        self.counts = Counts::default();
        self.moved = chunk.walked.moved;
        Ok(Step::Done)
    }

    fn go_on(&mut self, vma: &VmaGuard<'_>, chunk: &mut Chunk<'_>) -> Result<Step> {
        while self.next < vma.end() {
            if !chunk.piece(vma) {
                return Ok(Step::More);
            }
            self.look(vma, chunk)?;
        }
        Ok(Step::Done)
    }

    fn end(&mut self, head: &Head, chunk: &mut Chunk<'_>) -> Result {
        let moved = chunk.walked.moved - self.moved;
        chunk.push(Item::Cow(head.clone(), self.counts, moved));
        let vma = head.start;
        for sharer in self.sharers.drain_all() {
            if sharer.mm != chunk.walked.mm {
                chunk.push(Item::Share { vma, sharer });
            }
        }
        Ok(())
    }

    fn emit(&mut self, item: &Item, names: &[u8], text: &mut Text) -> Result {
        match item {
            Item::Cow(head, counts, moved) => {
                self.totals.emitted += 1;
                self.totals.counts.add(counts);
                let (name, bytes) = head.name(names);
                let record = memory::Cow {
                    bounds: head.bounds(),
                    counts: counts.record(),
                    moved: (*moved).into(),
                    name,
                };
                text.put(&record, &[bytes])
            }
            Item::Share { vma, sharer } => {
                let record = memory::Share {
                    vma: (*vma).into(),
                    owner: sharer.owner.record(sharer.mm),
                    pages: sharer.pages.into(),
                };
                text.put(&record, &[])
            }
        }
    }

    fn write_summary(&self, walked: &Walked, text: &mut Text) -> Result {
        let totals = &self.totals;
        let record = CowSummary {
            report: ReportName::COW,
            vmas: walked.vmas.into(),
            told: totals.emitted.into(),
            public: totals.public.into(),
            hugetlb: totals.hugetlb.into(),
            counts: totals.counts.record(),
            moved: walked.moved.into(),
            cut: totals.cut.into(),
        };
        text.put(&record, &[])
    }
}

impl Cow {
    /// Counts a piece of the VMA.
    fn look(&mut self, vma: &VmaRef, chunk: &mut Chunk<'_>) -> Result {
        let Self {
            next,
            counts,
            sharers,
            entries,
            room,
            totals,
            ..
        } = self;
        let mut root = RootGuard::lock(vma)?;
        let mut stopped = read_window(entries, vma, *next);
        if root.is_none() && entries.iter().any(|entry| entry.kind() == Kind::Anon) {
            // A fault has made the anon_vma meanwhile; the root's lock comes before those of page
            // tables.
            root = RootGuard::lock(vma)?;
            stopped = read_window(entries, vma, *next);
        }
        let own = root.as_ref().map(|root| root.own().token());
        let own_is_new = root.as_ref().is_some_and(RootGuard::own_is_new);
        let sharing = root.filter(|_| entries.iter().any(is_shared));
        if let Some(root) = &sharing {
            let candidates = |group: &Group, most: usize| match group.tree {
                Tree::Anon(token) => root.find(token).map_or(0, |anon_vma| {
                    let all = anon_vma.covering(group.first, group.last);
                    all.take(most).count()
                }),
                Tree::File(_) => 0,
            };
            stopped = page::afford(entries, stopped, CHUNK_VISITS, is_shared, candidates);
        }
        *next = stopped;

        for entry in entries.iter() {
            match entry.kind() {
                Kind::Anon => {
                    counts.anon += 1;
                    counts.exclusive += u64::from(!is_shared(entry));
                    if entry.anon_vma() == own {
                        // fork() leaves no page marked as exclusive that it shares: such a one was
                        // written since.
                        let written = own_is_new || entry.exclusive();
                        counts.own += u64::from(written);
                        counts.unknown += u64::from(!written);
                    }
                    counts.huge += u64::from(entry.huge());
                }
                Kind::File => counts.file += 1,
                Kind::Zero => counts.zero += 1,
                Kind::Ksm => counts.ksm += 1,
                Kind::Swap => counts.swap += 1,
                Kind::Migration => counts.migration += 1,
                Kind::Special | Kind::Device | Kind::Hwpoison | Kind::Marker | Kind::Kernel => {
                    counts.other += 1
                }
            }
        }
        let Some(root) = sharing else {
            return Ok(());
        };
        for group in Groups::of(entries, is_shared) {
            let Tree::Anon(token) = group.tree else {
                continue;
            };
            let Some(anon_vma) = root.find(token) else {
                chunk.walked.moved += 1;
                continue;
            };
            let cut = &mut totals.cut;
            // For which address space the pages of the current member are counted: looked up once,
            // not for each page.
            let whose = Cell::new(None);
            reverse(
                &ReverseMap::Anon(anon_vma),
                group.first,
                group.last,
                room,
                |_, _| whose.set(None),
                |linked, index, seen| {
                    let Some((_, own)) = group.same_page(entries, vma, index) else {
                        return;
                    };
                    if !seen.maps_the_page_of(own) {
                        return;
                    }
                    let place = whose.get().unwrap_or_else(|| {
                        let mm = linked.values().mm;
                        let known = sharers.iter().rposition(|sharer| sharer.mm == mm);
                        known.unwrap_or_else(|| {
                            let place = sharers.len();
                            // Where there is no room for it, nothing will be at this place.
                            if place < MAX_SHARERS {
                                let _ = sharers.push_within_capacity(Sharer {
                                    mm,
                                    owner: linked.owner(chunk.view, chunk.space),
                                    pages: 0,
                                });
                            }
                            place
                        })
                    });
                    whose.set(Some(place));
                    match sharers.get_mut(place) {
                        Some(sharer) => sharer.pages += 1,
                        None => *cut += 1,
                    }
                },
            );
        }
        Ok(())
    }
}

/// Whether other page table entries map an anonymous page, too.
fn is_shared(entry: &Entry) -> bool {
    entry.kind() == Kind::Anon && entry.mapcount() != 1
}

/// Reads entries from `start` on, no further apart than there is room for what others map there.
fn read_window(entries: &mut Entries, vma: &VmaRef, start: usize) -> usize {
    let stopped = entries.read(vma, start, vma.end(), WINDOW);
    let Some(first) = entries.first() else {
        return stopped;
    };
    let stopped = stopped.min(first.address() + WINDOW * PAGE_SIZE);
    entries.keep_below(stopped);
    stopped
}
