// SPDX-License-Identifier: GPL-2.0

//! The report `page`: the pages at some addresses of a process, and who else maps each.

#![deny(unsafe_code)]

use super::{gfp, text::Text, Fault, Step, CHUNK_TEXT};
use crate::{
    bindings,
    object::{
        anon_vma::{is_chained, RootGuard},
        file_map::FileGuard,
        id::Id,
        mm::{AddressSpace, MmapGuard, VmaExt},
        page::{self, is_hugetlb, Entries, Entry, Kind, ReverseMap, Tree},
        process::{may_see_frames, Owner, Process, Viewpoint},
    },
};
use core::ops::Range;
use kernel::{mm::virt::VmaRef, page::PAGE_SIZE, prelude::*};

/// How many pages are looked at in one hold of the locks, at most.
const CHUNK_PAGES: usize = 64;

/// How far apart, in pages, those can be: as many as a page table has entries.
pub(super) const WINDOW: usize = 512;

/// How many mappers are told of one page.
const MAX_MAPPERS: usize = 4096;

/// How many VMAs are passed in one hold of `mmap_lock`.
const CHUNK_VMAS: usize = 1024;

/// What the reverse walk found for a page.
#[derive(Clone, Copy, Default)]
struct Found {
    /// It was done: the page is in a reverse map that the VMA leads to.
    walked: bool,
    visited: u32,
    mappers: u32,
    moved: bool,
    /// The first of the mappers that are told.
    first: Option<usize>,
}

/// Who maps a page.
struct Mapper {
    /// Which of the entries.
    entry: usize,
    owner: Owner,
    mm: Id,
    at: usize,
    writable: bool,
    dirty: bool,
    accessed: bool,
    /// The next one of the same entry.
    next: Option<usize>,
}

#[derive(Default)]
struct Totals {
    unmapped: u64,
    empty: u64,
    hugetlb: u64,
    pages: u64,
    mappers: u64,
    moved: u64,
    cut: u64,
}

/// The report under way.
pub(crate) struct Walk {
    space: AddressSpace,
    next: usize,
    end: usize,
    /// How many pages the next chunk looks at.
    most: usize,
    entries: Entries,
    room: Entries,
    found: KVVec<Found>,
    mappers: KVVec<Mapper>,
    /// How many of the entries were told, and which mapper of the last one is to be told next.
    told: usize,
    mapper: Option<usize>,
    /// Whether more are to be looked at when they are.
    step: Step,
    frames: bool,
    totals: Totals,
}

impl Walk {
    /// Begins with the address space that the process has now. The range is cut to whole pages.
    pub(crate) fn new(process: &Process, range: Range<usize>) -> Result<Self, Fault> {
        Ok(Self {
            space: process.address_space()?,
            next: range.start & !(PAGE_SIZE - 1),
            end: range.end.next_multiple_of(PAGE_SIZE),
            most: CHUNK_PAGES,
            entries: Entries::with_capacity(CHUNK_PAGES)?,
            room: Entries::with_capacity(WINDOW)?,
            found: KVVec::with_capacity(CHUNK_PAGES, gfp())?,
            mappers: KVVec::with_capacity(MAX_MAPPERS, gfp())?,
            told: 0,
            mapper: None,
            step: Step::More,
            frames: may_see_frames(),
            totals: Totals::default(),
        })
    }

    /// Tells the pages at hand; where all of them were told, looks at the next few.
    pub(crate) fn chunk(&mut self, process: &Process, text: &mut Text) -> Result<Step, Fault> {
        if self.told == self.entries.len() && self.mapper.is_none() {
            let view = process.viewpoint().ok_or(Fault::EXITED)?;
            self.told = 0;
            self.step = self.collect(&view)?;
            for (at, mapper) in self.mappers.iter_mut().enumerate().rev() {
                mapper.next = self.found[mapper.entry].first.replace(at);
            }
        }
        if self.tell(text)? == Step::More {
            return Ok(Step::More);
        }
        let step = self.step;
        if step == Step::Done {
            let totals = &self.totals;
            text.record("summary")
                .word("report", b"page")
                .number("pages", totals.pages)
                .number("empty", totals.empty)
                .number("unmapped", totals.unmapped)
                .number("hugetlb", totals.hugetlb)
                .number("mappers", totals.mappers)
                .number("moved", totals.moved)
                .number("cut", totals.cut)
                .end()?;
        }
        Ok(step)
    }

    fn collect(&mut self, view: &Viewpoint) -> Result<Step, Fault> {
        self.entries.clear();
        self.found.clear();
        self.mappers.clear();
        let user = self.space.user().ok_or(Fault::EXITED)?;
        MmapGuard::with(user, |lock| self.collect_under(lock, view))?
    }

    fn collect_under(&mut self, lock: &MmapGuard<'_>, view: &Viewpoint) -> Result<Step, Fault> {
        let pages = |bytes: usize| (bytes / PAGE_SIZE) as u64;
        for _ in 0..CHUNK_VMAS {
            if self.next >= self.end {
                return Ok(Step::Done);
            }
            let vma = lock
                .find_vma(self.next)
                .filter(|vma| vma.start() < self.end);
            let Some(vma) = vma else {
                self.totals.unmapped += pages(self.end - self.next);
                return Ok(Step::Done);
            };
            let start = self.next.max(vma.start());
            let end = self.end.min(vma.end());
            self.totals.unmapped += pages(start - self.next);
            self.next = start;
            if is_hugetlb(vma) {
                self.totals.hugetlb += pages(end - start);
                self.next = end;
                continue;
            }
            // Both come before the locks of page tables, in this order.
            let file = FileGuard::lock(vma)?;
            let root = if is_chained(vma) {
                RootGuard::lock(vma)?
            } else {
                None
            };
            let mut stopped = self.entries.read(vma, start, end, self.most);
            if let Some(first) = self.entries.first() {
                // No further apart than the room for what others map there.
                stopped = stopped.min(first.address() + WINDOW * PAGE_SIZE);
                self.entries.keep_below(stopped);
            }
            for _ in 0..self.entries.len() {
                self.found.push_within_capacity(Found::default()).ok();
            }
            if !self.reverse(vma, file.as_ref(), root.as_ref(), view) {
                // With fewer pages there is room for their mappers.
                self.most = (self.most / 2).max(1);
                self.entries.clear();
                self.mappers.clear();
                return Ok(Step::More);
            }
            self.totals.empty += pages(stopped - start) - self.entries.len() as u64;
            self.next = stopped;
            if self.entries.len() > 0 {
                self.most = (self.most * 2).min(CHUNK_PAGES);
                return Ok(Step::More);
            }
            if lock.is_wanted() {
                return Ok(Step::More);
            }
        }
        Ok(Step::More)
    }

    /// Finds who maps the pages at hand. False: there is no room for all of them, and more than one page.
    fn reverse(
        &mut self,
        vma: &VmaRef,
        file: Option<&FileGuard<'_>>,
        root: Option<&RootGuard<'_>>,
        view: &Viewpoint,
    ) -> bool {
        let Self {
            space,
            entries,
            room,
            found,
            mappers,
            totals,
            ..
        } = self;
        let mut cut = 0;
        for group in Groups::of(entries) {
            let map = match (group.tree, file) {
                (Tree::Anon(token), _) => {
                    root.and_then(|root| root.find(token)).map(ReverseMap::Anon)
                }
                (Tree::File(token), Some(file)) if file.token() == token => {
                    Some(ReverseMap::File(file))
                }
                (Tree::File(_), _) => None,
            };
            for at in group.members(entries) {
                found[at].walked = map.is_some();
                // It is no longer the page's: it went to a child's anon_vma, or was truncated, meanwhile.
                found[at].moved = map.is_none();
            }
            let Some(map) = map else { continue };
            let visited = &mut *found;
            let mut counts = [0u32; CHUNK_PAGES];
            page::reverse(
                &map,
                group.first,
                group.last,
                room,
                |first, last| {
                    for at in group.members(entries) {
                        let index = entries.get(at).index();
                        if first <= index && index <= last {
                            visited[at].visited += 1;
                        }
                    }
                },
                |linked, index, seen| {
                    let Some((at, own)) = group.same_page(entries, vma, index) else {
                        return;
                    };
                    if seen.kind() != own.kind() || seen.pfn() != own.pfn() {
                        return;
                    }
                    counts[at] += 1;
                    let mapper = Mapper {
                        entry: at,
                        owner: linked.owner(view, space),
                        mm: linked.values().mm,
                        at: seen.address(),
                        writable: seen.writable(),
                        dirty: seen.dirty(),
                        accessed: seen.accessed(),
                        next: None,
                    };
                    if mappers.len() == MAX_MAPPERS {
                        cut += 1;
                    } else {
                        let _ = mappers.push_within_capacity(mapper);
                    }
                },
            );
            for at in group.members(entries) {
                found[at].mappers = counts[at];
            }
        }
        if cut > 0 && entries.len() > 1 {
            return false;
        }
        totals.cut += cut;
        // Pages are mapped and unmapped by faults and exits, which this lock does not stop.
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            room.read(vma, first.address(), last.address() + PAGE_SIZE, WINDOW);
        }
        for (at, before) in entries.iter().enumerate() {
            let now = room.at(before.address()).map(|(_, now)| now);
            let same = now.is_some_and(|now| {
                now.pfn() == before.pfn() && now.mapcount() == before.mapcount()
            });
            let found = &mut found[at];
            if found.walked && (!same || found.mappers != before.mapcount()) {
                found.moved = true;
            }
        }
        true
    }

    /// Tells what was not told yet of the pages at hand, until that is enough text.
    fn tell(&mut self, text: &mut Text) -> Result<Step> {
        loop {
            if text.bytes().len() >= CHUNK_TEXT {
                return Ok(Step::More);
            }
            if let Some(at) = self.mapper {
                let mapper = &self.mappers[at];
                self.mapper = mapper.next;
                self.totals.mappers += 1;
                let page = self.entries.get(mapper.entry).address();
                mapper
                    .owner
                    .tell(text.record("mapper").hex("page", page), mapper.mm)
                    .hex("at", mapper.at)
                    .flag("writable", mapper.writable)
                    .flag("dirty", mapper.dirty)
                    .flag("accessed", mapper.accessed)
                    .end()?;
                continue;
            }
            if self.told == self.entries.len() {
                return Ok(Step::Done);
            }
            self.tell_page(text)?;
        }
    }

    /// Tells the next page.
    fn tell_page(&mut self, text: &mut Text) -> Result {
        let entry = self.entries.get(self.told);
        let found = self.found[self.told];
        self.told += 1;
        self.mapper = found.first;
        self.totals.pages += 1;
        self.totals.moved += u64::from(found.moved);
        let mut line = text
            .record("page")
            .hex("address", entry.address())
            .word("kind", kind_word(entry.kind()));
        if entry.kind() == Kind::Swap {
            let (device, slot) = entry.swap();
            line = line
                .number("swap_type", device.into())
                .number("swap_offset", slot);
        }
        let pfn = if self.frames { entry.pfn() } else { 0 };
        line = line
            .number("pfn", pfn)
            .number("order", entry.order().into())
            .number("place", entry.place())
            .hex("index", entry.index())
            .number("mapcount", entry.mapcount().into())
            .number("folio_mapcount", entry.folio_mapcount().into())
            .flag("exclusive", entry.exclusive())
            .flag("huge", entry.huge())
            .flag("writable", entry.writable())
            .flag("dirty", entry.dirty())
            .flag("accessed", entry.accessed())
            .id("mapping", entry.mapping());
        flags(line, entry.flags())
            .flag("walked", found.walked)
            .number("visited", found.visited.into())
            .number("found", found.mappers.into())
            .flag("moved", found.moved)
            .end()
    }
}

/// Entries whose pages have the same anon_vma, or are of the same file.
pub(super) struct Group {
    pub(super) tree: Tree,
    /// The least and the greatest offset in it.
    pub(super) first: usize,
    pub(super) last: usize,
}

impl Group {
    /// Which of the entries they are.
    pub(super) fn members<'e>(&'e self, entries: &'e Entries) -> impl Iterator<Item = usize> + 'e {
        entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.tree() == Some(self.tree))
            .map(|(at, _)| at)
    }

    /// Which entry of `vma` is that of the page at an offset.
    pub(super) fn same_page(
        &self,
        entries: &Entries,
        vma: &VmaRef,
        index: usize,
    ) -> Option<(usize, Entry)> {
        let key = match self.tree {
            Tree::Anon(_) => vma.anon_pgoff(),
            Tree::File(_) => vma.pgoff(),
        };
        let pages = index.checked_sub(key)?;
        let (at, own) = entries.at(vma.start() + pages * PAGE_SIZE)?;
        (own.tree() == Some(self.tree) && own.index() == index).then_some((at, own))
    }
}

/// The anon_vmas and files of some entries, one after the other.
pub(super) struct Groups<'e> {
    entries: &'e Entries,
    /// A bit for each entry that came already.
    done: [u64; WINDOW / 64],
}

impl<'e> Groups<'e> {
    /// At most [`WINDOW`] entries.
    pub(super) fn of(entries: &'e Entries) -> Self {
        Self {
            entries,
            done: [0; WINDOW / 64],
        }
    }
}

impl Iterator for Groups<'_> {
    type Item = Group;

    fn next(&mut self) -> Option<Group> {
        let mut group: Option<Group> = None;
        for (at, entry) in self.entries.iter().enumerate() {
            let (word, bit) = (at / 64, 1u64 << (at % 64));
            let Some(tree) = entry.tree() else {
                continue;
            };
            if self.done[word] & bit != 0 {
                continue;
            }
            let index = entry.index();
            match &mut group {
                None => {
                    group = Some(Group {
                        tree,
                        first: index,
                        last: index,
                    });
                }
                Some(group) if group.tree == tree => {
                    group.first = group.first.min(index);
                    group.last = group.last.max(index);
                }
                Some(_) => continue,
            }
            self.done[word] |= bit;
        }
        group
    }
}

fn kind_word(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Anon => b"anon",
        Kind::File => b"file",
        Kind::Ksm => b"ksm",
        Kind::Zero => b"zero",
        Kind::Special => b"special",
        Kind::Swap => b"swap",
        Kind::Migration => b"migration",
        Kind::Device => b"device",
        Kind::Hwpoison => b"hwpoison",
        Kind::Marker => b"marker",
        Kind::Kernel => b"kernel",
    }
}

/// The folio's flags as a word: names with commas between.
fn flags(line: super::text::Line<'_>, set: u32) -> super::text::Line<'_> {
    const NAMES: [(u32, &[u8]); 11] = [
        (bindings::RAVEL_FLAG_LOCKED, b"locked"),
        (bindings::RAVEL_FLAG_REFERENCED, b"referenced"),
        (bindings::RAVEL_FLAG_UPTODATE, b"uptodate"),
        (bindings::RAVEL_FLAG_DIRTY, b"dirty"),
        (bindings::RAVEL_FLAG_LRU, b"lru"),
        (bindings::RAVEL_FLAG_ACTIVE, b"active"),
        (bindings::RAVEL_FLAG_SWAPBACKED, b"swapbacked"),
        (bindings::RAVEL_FLAG_SWAPCACHE, b"swapcache"),
        (bindings::RAVEL_FLAG_WRITEBACK, b"writeback"),
        (bindings::RAVEL_FLAG_UNEVICTABLE, b"unevictable"),
        (bindings::RAVEL_FLAG_MLOCKED, b"mlocked"),
    ];
    line.words(
        "flags",
        NAMES
            .iter()
            .filter(|(flag, _)| set & flag != 0)
            .map(|(_, name)| *name),
    )
}
