// SPDX-License-Identifier: GPL-2.0

//! The report `cow`: how much of a process' private memory is its own, and with whom it shares the rest.

#![deny(unsafe_code)]

use super::{
    gfp,
    page::{Group, Groups, WINDOW},
    text::{Line, Text},
    walk::{self, Head, VmaReport, Walked},
    Fault, Step,
};
use crate::object::{
    anon_vma::{is_chained, RootGuard},
    id::Id,
    page::{self, is_hugetlb, Entries, Entry, Kind, ReverseMap, Tree},
    process::Owner,
};
use core::cell::Cell;
use kernel::{
    mm::virt::{flags, VmaRef},
    page::PAGE_SIZE,
    prelude::*,
};

/// How many address spaces a VMA's pages are told to be shared with.
const MAX_SHARERS: usize = 1024;

/// How many entries of others' page tables are looked at in one hold of an anon_vma's lock, about.
const CHUNK_VISITS: usize = 65536;

/// Pages of a VMA, by what its page table entries hold.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Anonymous pages.
    anon: u64,
    /// Of these, mapped by this one entry alone.
    exclusive: u64,
    /// Of these, in the VMA's own anon_vma: born here, or copied here since the fork.
    own: u64,
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
        self.huge += more.huge;
        self.file += more.file;
        self.zero += more.zero;
        self.ksm += more.ksm;
        self.swap += more.swap;
        self.migration += more.migration;
        self.other += more.other;
    }

    fn tell<'t>(&self, line: Line<'t>) -> Line<'t> {
        line.number("anon", self.anon)
            .number("exclusive", self.exclusive)
            .number("shared", self.anon - self.exclusive)
            .number("own", self.own)
            .number("inherited", self.anon - self.own)
            .number("huge", self.huge)
            .number("file", self.file)
            .number("zero", self.zero)
            .number("ksm", self.ksm)
            .number("swap", self.swap)
            .number("migration", self.migration)
            .number("other", self.other)
    }
}

/// Another address space that maps some of a VMA's pages.
pub(crate) struct Sharer {
    mm: Id,
    owner: Owner,
    pages: u64,
}

/// What was collected, in the order it is told.
pub(crate) enum Item {
    /// Apart, for it is large.
    Cow(KBox<(Head, Counts, u64)>),
    Share {
        vma: usize,
        sharer: Sharer,
    },
}

#[derive(Default)]
struct Totals {
    told: u64,
    public: u64,
    hugetlb: u64,
    counts: Counts,
    cut: u64,
}

/// The report under way.
pub(crate) type Walk = walk::Walk<Cow>;

type Chunk<'a> = walk::Chunk<'a, Cow>;

/// The VMA at hand, and what was told.
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
    const NAME: &'static [u8] = b"cow";
    /// Some VMAs that share nothing, or one that shares with as many as are told.
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
        let public = vma.flags() & flags::MAYSHARE != 0;
        let hugetlb = !public && is_hugetlb(vma);
        self.totals.public += u64::from(public);
        self.totals.hugetlb += u64::from(hugetlb);
        !public && !hugetlb
    }

    fn begin(&mut self, _vma: &VmaRef, head: &Head, chunk: &mut Chunk<'_>) -> Result {
        self.next = head.start;
        self.counts = Counts::default();
        self.moved = chunk.walked.moved;
        Ok(())
    }

    fn go_on(&mut self, vma: &VmaRef, chunk: &mut Chunk<'_>) -> Result<Step> {
        while self.next < vma.end() {
            if !chunk.piece() {
                return Ok(Step::More);
            }
            self.look(vma, chunk)?;
        }
        Ok(Step::Done)
    }

    fn end(&mut self, head: &Head, chunk: &mut Chunk<'_>) -> Result {
        let moved = chunk.walked.moved - self.moved;
        let record = (head.clone(), self.counts, moved);
        chunk.push(Item::Cow(KBox::new(record, gfp())?));
        let vma = head.start;
        for sharer in self.sharers.drain_all() {
            if sharer.mm != chunk.walked.mm {
                chunk.push(Item::Share { vma, sharer });
            }
        }
        Ok(())
    }

    fn tell(&mut self, item: &Item, names: &[u8], text: &mut Text) -> Result {
        match item {
            Item::Cow(record) => {
                let (head, counts, moved) = &**record;
                self.totals.told += 1;
                self.totals.counts.add(counts);
                let line = counts.tell(head.tell(text, "cow"));
                head.tell_name(line.number("moved", *moved), names)
            }
            Item::Share { vma, sharer } => sharer
                .owner
                .tell(text.record("share").hex("vma", *vma), sharer.mm)
                .number("pages", sharer.pages)
                .end(),
        }
    }

    fn sum_up<'t>(&self, line: Line<'t>, walked: &Walked) -> Line<'t> {
        let totals = &self.totals;
        let line = line
            .number("vmas", walked.vmas)
            .number("told", totals.told)
            .number("public", totals.public)
            .number("hugetlb", totals.hugetlb);
        totals
            .counts
            .tell(line)
            .number("moved", walked.moved)
            .number("cut", totals.cut)
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
        let root = if is_chained(vma) {
            RootGuard::lock(vma)?
        } else {
            None
        };
        let own = root.as_ref().map(|root| root.own().token());
        let mut stopped = entries.read(vma, *next, vma.end(), WINDOW);
        if let Some(first) = entries.first() {
            stopped = stopped.min(first.address() + WINDOW * PAGE_SIZE);
            entries.keep_below(stopped);
        }
        let is_shared = |entry: &Entry| entry.kind() == Kind::Anon && entry.mapcount() != 1;
        let sharing = root.filter(|_| entries.iter().any(|entry| is_shared(&entry)));
        if let Some(root) = &sharing {
            // The more could map each page, the fewer pages in one hold.
            let candidates = |group: Group| match group.tree {
                Tree::Anon(token) => Some(root.find(token)?.covering(group.first, group.last)),
                Tree::File(_) => None,
            };
            let counts = Groups::of(entries).filter_map(candidates);
            let most = counts.map(|all| all.take(CHUNK_VISITS).count()).max();
            let most = (CHUNK_VISITS / most.unwrap_or(1).max(1)).clamp(8, WINDOW);
            if most < entries.len() {
                stopped = entries.get(most).address();
                entries.keep_below(stopped);
            }
        }
        *next = stopped;

        for entry in entries.iter() {
            match entry.kind() {
                Kind::Anon => {
                    counts.anon += 1;
                    counts.exclusive += u64::from(!is_shared(&entry));
                    counts.own += u64::from(entry.anon_vma() == own);
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
        for group in Groups::of(entries) {
            let Tree::Anon(token) = group.tree else {
                continue;
            };
            let Some(anon_vma) = root.find(token) else {
                chunk.walked.moved += 1;
                continue;
            };
            let cut = &mut totals.cut;
            // Whose the pages of the member at hand are counted for: looked for once, not for each page.
            let whose = Cell::new(None);
            page::reverse(
                &ReverseMap::Anon(anon_vma),
                group.first,
                group.last,
                room,
                |_, _| whose.set(None),
                |linked, index, seen| {
                    let Some((_, own)) = group.same_page(entries, vma, index) else {
                        return;
                    };
                    if seen.kind() != Kind::Anon || seen.pfn() != own.pfn() {
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
