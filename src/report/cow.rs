// SPDX-License-Identifier: GPL-2.0

//! The report `cow`: how much of a process' private memory is its own, and with whom it shares the rest.

#![deny(unsafe_code)]

use super::{
    gfp,
    page::{Groups, WINDOW},
    text::Text,
    Fault, Step, CHUNK_TEXT,
};
use crate::object::{
    anon_vma::{is_chained, RootGuard, Token},
    id::Id,
    mm::{AddressSpace, MmapGuard, VmaExt, PATH_MAX},
    page::{self, is_hugetlb, Entries, Kind, ReverseMap, Tree},
    process::{Owner, Process, Viewpoint},
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

/// How many pieces of a VMA are looked at in one hold of `mmap_lock`, unless it grows long.
const CHUNK_PIECES: usize = 64;

/// Pages of a VMA, by what its page table entries hold.
#[derive(Clone, Copy, Default)]
struct Counts {
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

    fn tell<'t>(&self, line: super::text::Line<'t>) -> super::text::Line<'t> {
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
struct Sharer {
    mm: Id,
    owner: Owner,
    pages: u64,
}

/// The VMA at hand, so far.
#[derive(Default)]
struct AtHand {
    /// Its start; none: no VMA is at hand.
    start: Option<usize>,
    end: usize,
    perms: [u8; 4],
    counts: Counts,
    /// Bytes of its name in [`Walk::name`].
    name: usize,
    moved: u64,
    cut: u64,
}

#[derive(Default)]
struct Totals {
    vmas: u64,
    told: u64,
    public: u64,
    hugetlb: u64,
    counts: Counts,
    moved: u64,
    cut: u64,
}

/// The report under way.
pub(crate) struct Walk {
    space: AddressSpace,
    next: usize,
    at: AtHand,
    sharers: KVVec<Sharer>,
    /// How many records of the VMA at hand were told; none: it is not yet counted to its end.
    told: Option<usize>,
    /// Whether there are more VMAs, or more of the one at hand.
    step: Step,
    entries: Entries,
    room: Entries,
    names: KVVec<u8>,
    path: KBox<[u8; PATH_MAX]>,
    totals: Totals,
}

impl Walk {
    /// Begins with the address space that the process has now.
    pub(crate) fn new(process: &Process) -> Result<Self, Fault> {
        Ok(Self {
            space: process.address_space()?,
            next: 0,
            at: AtHand::default(),
            sharers: KVVec::with_capacity(MAX_SHARERS, gfp())?,
            told: None,
            step: Step::More,
            entries: Entries::with_capacity(WINDOW)?,
            room: Entries::with_capacity(WINDOW)?,
            names: KVVec::new(),
            path: KBox::new([0; PATH_MAX], gfp())?,
            totals: Totals::default(),
        })
    }

    /// Looks at a few pieces of a VMA, or tells it after its end.
    pub(crate) fn chunk(&mut self, process: &Process, text: &mut Text) -> Result<Step, Fault> {
        if self.told.is_none() {
            let view = process.viewpoint().ok_or(Fault::EXITED)?;
            self.step = self.collect(&view)?;
            if self.at.start.is_some() && self.next >= self.at.end {
                self.told = Some(0);
            }
        }
        if let Some(told) = self.told {
            self.told = self.tell(told, text)?;
            if self.told.is_some() {
                return Ok(Step::More);
            }
            self.at = AtHand::default();
            self.sharers.clear();
        }
        let step = self.step;
        if step == Step::Done {
            let totals = &self.totals;
            let line = text
                .record("summary")
                .word("report", b"cow")
                .number("vmas", totals.vmas)
                .number("told", totals.told)
                .number("public", totals.public)
                .number("hugetlb", totals.hugetlb);
            totals
                .counts
                .tell(line)
                .number("moved", totals.moved)
                .number("cut", totals.cut)
                .end()?;
        }
        Ok(step)
    }

    fn collect(&mut self, view: &Viewpoint) -> Result<Step, Fault> {
        let user = self.space.user().ok_or(Fault::EXITED)?;
        let lock = MmapGuard::lock(&user)?;
        for _ in 0..CHUNK_PIECES {
            let vma = match self.at.start {
                Some(start) => lock
                    .find_vma(start)
                    .filter(|vma| vma.start() == start && vma.end() == self.at.end),
                None => {
                    let Some(vma) = lock.find_vma(self.next) else {
                        return Ok(Step::Done);
                    };
                    self.next = vma.end();
                    self.totals.vmas += 1;
                    if vma.flags() & flags::MAYSHARE != 0 {
                        self.totals.public += 1;
                        continue;
                    }
                    if is_hugetlb(vma) {
                        self.totals.hugetlb += 1;
                        continue;
                    }
                    self.names.clear();
                    self.at = AtHand {
                        start: Some(vma.start()),
                        end: vma.end(),
                        perms: vma.perms(),
                        name: super::push_name(vma, &mut self.names, &mut self.path)?,
                        ..AtHand::default()
                    };
                    self.next = vma.start();
                    Some(vma)
                }
            };
            let Some(vma) = vma else {
                // It was split, merged or unmapped: what was counted so far is told, and the walk goes
                // on behind it.
                self.at.moved += 1;
                self.next = self.next.max(self.at.end);
                return Ok(Step::More);
            };
            self.piece(vma, view)?;
            if self.next >= self.at.end || lock.is_long() {
                return Ok(Step::More);
            }
        }
        Ok(Step::More)
    }

    /// Counts a piece of the VMA.
    fn piece(&mut self, vma: &VmaRef, view: &Viewpoint) -> Result<(), Fault> {
        let Self {
            space,
            next,
            at,
            sharers,
            entries,
            room,
            ..
        } = self;
        let root = if is_chained(vma) {
            RootGuard::lock(vma)?
        } else {
            None
        };
        // The more could map each page, the fewer pages in one hold.
        let members = root.as_ref().map_or(0, |root| {
            let members =
                |anon_vma: &crate::object::anon_vma::AnonVma<'_>| anon_vma.members().count();
            root.anon_vmas()
                .map(|anon_vma| members(&anon_vma))
                .max()
                .unwrap_or(0)
        });
        let most = (CHUNK_VISITS / members.max(1)).clamp(8, WINDOW);
        let mut stopped = entries.read(vma, *next, at.end, most);
        if let Some(first) = entries.first() {
            stopped = stopped.min(first.address() + WINDOW * PAGE_SIZE);
            entries.keep_below(stopped);
        }
        *next = stopped;

        let own: Option<Token> = root.as_ref().map(|root| root.own().token());
        let counts = &mut at.counts;
        let mut shared = false;
        for entry in entries.iter() {
            match entry.kind() {
                Kind::Anon => {
                    counts.anon += 1;
                    let alone = entry.mapcount() == 1;
                    counts.exclusive += u64::from(alone);
                    shared |= !alone;
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
        let Some(root) = root.filter(|_| shared) else {
            return Ok(());
        };
        for group in Groups::of(entries) {
            let Tree::Anon(token) = group.tree else {
                continue;
            };
            let Some(anon_vma) = root.find(token) else {
                at.moved += 1;
                continue;
            };
            let cut = &mut at.cut;
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
                                    owner: linked.owner(view, space),
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

    /// Tells the VMA at hand behind its first `told` records. None: that was all.
    fn tell(&mut self, told: usize, text: &mut Text) -> Result<Option<usize>> {
        let at = &self.at;
        let start = at.start.unwrap_or(0);
        if told == 0 {
            self.totals.told += 1;
            self.totals.counts.add(&at.counts);
            self.totals.moved += at.moved;
            self.totals.cut += at.cut;
            let line = text
                .record("cow")
                .hex("start", start)
                .hex("end", at.end)
                .word("perms", &at.perms);
            at.counts
                .tell(line)
                .number("moved", at.moved)
                .string("name", &self.names[..at.name])
                .end()?;
        }
        let told = told.max(1);
        for (more, sharer) in self.sharers[told - 1..].iter().enumerate() {
            if text.bytes().len() >= CHUNK_TEXT {
                return Ok(Some(told + more));
            }
            if sharer.mm == self.space.id() {
                continue;
            }
            sharer
                .owner
                .tell(text.record("share").hex("vma", start), sharer.mm)
                .number("pages", sharer.pages)
                .end()?;
        }
        Ok(None)
    }
}
