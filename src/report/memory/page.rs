// SPDX-License-Identifier: GPL-2.0

//! The report `page`: the pages at some addresses of a process, and who else maps each.

#![deny(unsafe_code)]

use crate::object::{
    memory::address_space::{AddressSpace, VmaExt, Vmas},
    memory::anon_vma::{is_chained, RootGuard},
    memory::file_map::FileGuard,
    memory::page::{self, flag, is_hugetlb, Entries, Entry, Kind, ReverseMap, Tree},
    process::{may_see_frames, Owner, Process, Viewpoint},
    sync::id::Id,
};
use crate::records::{
    common::ReportName,
    memory::{self, FolioFlags, PageKind, PageSummary, Swap},
};
use crate::report::{gfp, text::Text, Fault, Step, CHUNK_TEXT};
use core::ops::Range;
use kernel::{mm::virt::VmaRef, page::PAGE_SIZE, prelude::*};

/// How many pages are looked at in one hold of the locks, at most.
const CHUNK_PAGES: usize = 64;

/// How far apart, in pages, those can be: as many as a page table has entries.
pub(in crate::report) const WINDOW: usize = 512;

/// How many mappers are emitted for one page.
const MAX_MAPPERS: usize = 4096;

/// How many entries of page tables are visited in one hold of the locks, unless one page alone
/// takes more.
const CHUNK_VISITS: usize = 32768;

/// What each VMA costs that could map some of the pages, in page table entries, besides those that
/// are visited: it is looked up, and its tables are locked and walked down to.
const CANDIDATE: usize = 16;

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
    /// The first of its mappers that are emitted.
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
    entries: Entries,
    room: Entries,
    found: KVVec<Found>,
    mappers: KVVec<Mapper>,
    /// How many of the entries were emitted, and which mapper of the last one comes next.
    emitted: usize,
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
            entries: Entries::with_capacity(CHUNK_PAGES)?,
            room: Entries::with_capacity(WINDOW)?,
            found: KVVec::with_capacity(CHUNK_PAGES, gfp())?,
            mappers: KVVec::with_capacity(MAX_MAPPERS, gfp())?,
            emitted: 0,
            mapper: None,
            step: Step::More,
            frames: may_see_frames(),
            totals: Totals::default(),
        })
    }

    /// Emits the current pages; where all of them were emitted, looks at the next few.
    #[inline(never)]
    pub(crate) fn chunk(&mut self, process: &Process, text: &mut Text) -> Result<Step, Fault> {
        if self.emitted == self.entries.len() && self.mapper.is_none() {
            let view = process.viewpoint().ok_or(Fault::EXITED)?;
            self.emitted = 0;
            self.step = self.collect(&view)?;
            for (at, mapper) in self.mappers.iter_mut().enumerate().rev() {
                mapper.next = self.found[mapper.entry].first.replace(at);
            }
        }
        if self.emit(text)? == Step::More {
            return Ok(Step::More);
        }
        let step = self.step;
        if step == Step::Done {
            let totals = &self.totals;
            let record = PageSummary {
                report: ReportName::PAGE,
                pages: totals.pages.into(),
                empty: totals.empty.into(),
                unmapped: totals.unmapped.into(),
                hugetlb: totals.hugetlb.into(),
                mappers: totals.mappers.into(),
                moved: totals.moved.into(),
                cut: totals.cut.into(),
            };
            text.put(&record, &[])?;
        }
        Ok(step)
    }

    fn collect(&mut self, view: &Viewpoint) -> Result<Step, Fault> {
        self.entries.clear();
        self.found.clear();
        self.mappers.clear();
        let user = self.space.user().ok_or(Fault::EXITED)?;
        self.collect_from(&Vmas::of(user), view)
    }

    fn collect_from(&mut self, vmas: &Vmas, view: &Viewpoint) -> Result<Step, Fault> {
        let pages = |bytes: usize| (bytes / PAGE_SIZE) as u64;
        for _ in 0..CHUNK_VMAS {
            if self.next >= self.end {
                return Ok(Step::Done);
            }
            let vma = vmas.lock_next(self.next)?;
            let vma = vma.filter(|vma| vma.start() < self.end);
            let Some(vma) = vma else {
                self.totals.unmapped += pages(self.end - self.next);
                return Ok(Step::Done);
            };
            let vma = &*vma;
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
            let mut stopped = self.entries.read(vma, start, end, CHUNK_PAGES);
            if let Some(first) = self.entries.first() {
                // No further apart than the room for what others map there.
                stopped = stopped.min(first.address() + WINDOW * PAGE_SIZE);
                self.entries.keep_below(stopped);
            }
            stopped = self.limit(stopped, file.as_ref(), root.as_ref());
            for _ in 0..self.entries.len() {
                self.found.push_within_capacity(Found::default()).ok();
            }
            self.reverse(vma, file.as_ref(), root.as_ref(), view);
            self.totals.empty += pages(stopped - start) - self.entries.len() as u64;
            self.next = stopped;
            if self.entries.len() > 0 {
                return Ok(Step::More);
            }
        }
        Ok(Step::More)
    }

    /// Drops entries at the end until there is room for the mappers of the others, and one hold of
    /// the locks may visit all that could map them; one stays in any case. Returns where the rest
    /// begins.
    fn limit(
        &mut self,
        stopped: usize,
        file: Option<&FileGuard<'_>>,
        root: Option<&RootGuard<'_>>,
    ) -> usize {
        let mut stopped = stopped;
        let mut mappers = 0usize;
        let full = self.entries.iter().position(|entry| {
            mappers = mappers.saturating_add(entry.mapcount() as usize);
            mappers > MAX_MAPPERS
        });
        if let Some(full) = full {
            if let Some(dropped) = self.entries.iter().nth(full.max(1)) {
                stopped = dropped.address();
                self.entries.keep_below(stopped);
            }
        }
        let candidates = |group: &Group, most: usize| {
            let map = map_of(group, file, root);
            map.map_or(0, |map| {
                map.covering(group.first, group.last).take(most).count()
            })
        };
        afford(
            &mut self.entries,
            stopped,
            CHUNK_VISITS,
            |_| true,
            candidates,
        )
    }

    /// Finds who maps the current pages.
    fn reverse(
        &mut self,
        vma: &VmaRef,
        file: Option<&FileGuard<'_>>,
        root: Option<&RootGuard<'_>>,
        view: &Viewpoint,
    ) {
        let Self {
            space,
            entries,
            room,
            found,
            mappers,
            totals,
            ..
        } = self;
        for group in Groups::of(entries, |_| true) {
            let map = map_of(&group, file, root);
            for at in group.members(entries) {
                found[at].walked = map.is_some();
                // It is no longer the page's: it went to a child's anon_vma, or was truncated,
                // meanwhile.
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
                    if !seen.maps_the_page_of(own) {
                        return;
                    }
                    counts[at] += 1;
                    if mappers.len() == MAX_MAPPERS {
                        totals.cut += 1;
                        return;
                    }
                    let _ = mappers.push_within_capacity(Mapper {
                        entry: at,
                        owner: linked.owner(view, space),
                        mm: linked.values().mm,
                        at: seen.address(),
                        writable: seen.writable(),
                        dirty: seen.dirty(),
                        accessed: seen.accessed(),
                        next: None,
                    });
                },
            );
            for at in group.members(entries) {
                found[at].mappers = counts[at];
            }
        }
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
    }

    /// Emits what was not emitted yet of the current pages, until that is enough text.
    fn emit(&mut self, text: &mut Text) -> Result<Step> {
        loop {
            if text.bytes().len() >= CHUNK_TEXT {
                return Ok(Step::More);
            }
            if let Some(at) = self.mapper {
                let mapper = &self.mappers[at];
                self.mapper = mapper.next;
                self.totals.mappers += 1;
                let page = self.entries.get(mapper.entry).address();
                let record = memory::Mapper {
                    page: page.into(),
                    owner: mapper.owner.record(mapper.mm),
                    at: mapper.at.into(),
                    writable: mapper.writable.into(),
                    dirty: mapper.dirty.into(),
                    accessed: mapper.accessed.into(),
                };
                text.put(&record, &[])?;
                continue;
            }
            if self.emitted == self.entries.len() {
                return Ok(Step::Done);
            }
            self.emit_page(text)?;
        }
    }

    /// Emits the next page.
    fn emit_page(&mut self, text: &mut Text) -> Result {
        let entry = self.entries.get(self.emitted);
        let found = self.found[self.emitted];
        self.emitted += 1;
        self.mapper = found.first;
        self.totals.pages += 1;
        self.totals.moved += u64::from(found.moved);
        let swap = (entry.kind() == Kind::Swap).then(|| {
            let (device, slot) = entry.swap();
            Swap {
                swap_type: device.into(),
                swap_offset: slot.into(),
            }
        });
        let pfn = if self.frames { entry.pfn() as u64 } else { 0 };
        let record = memory::Page {
            address: entry.address().into(),
            kind: page_kind(entry.kind()),
            swap: swap.into(),
            pfn: pfn.into(),
            order: entry.order().into(),
            place: entry.place().into(),
            index: entry.index().into(),
            mapcount: entry.mapcount().into(),
            folio_mapcount: entry.folio_mapcount().into(),
            exclusive: entry.exclusive().into(),
            huge: entry.huge().into(),
            writable: entry.writable().into(),
            dirty: entry.dirty().into(),
            accessed: entry.accessed().into(),
            mapping: entry.mapping().into(),
            flags: folio_flags(entry.flags()),
            walked: found.walked.into(),
            visited: found.visited.into(),
            found: found.mappers.into(),
            moved: found.moved.into(),
        };
        text.put(&record, &[])
    }
}

/// The reverse map that leads to the mappers of a group, if the VMA leads to it.
fn map_of<'g>(
    group: &Group,
    file: Option<&'g FileGuard<'_>>,
    root: Option<&'g RootGuard<'_>>,
) -> Option<ReverseMap<'g>> {
    match group.tree {
        Tree::Anon(token) => root?.find(token).map(ReverseMap::Anon),
        Tree::File(token) => file
            .filter(|file| file.token() == token)
            .map(ReverseMap::File),
    }
}

/// Entries whose pages have the same anon_vma, or are of the same file.
pub(in crate::report) struct Group {
    pub(in crate::report) tree: Tree,
    /// The least and the greatest offset in it.
    pub(in crate::report) first: usize,
    pub(in crate::report) last: usize,
}

impl Group {
    /// Which of the entries they are.
    pub(in crate::report) fn members<'e>(
        &'e self,
        entries: &'e Entries,
    ) -> impl Iterator<Item = usize> + 'e {
        entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.tree() == Some(self.tree))
            .map(|(at, _)| at)
    }

    /// Which entry of `vma` is that of the page at an offset.
    pub(in crate::report) fn same_page<'e>(
        &self,
        entries: &'e Entries,
        vma: &VmaRef,
        index: usize,
    ) -> Option<(usize, &'e Entry)> {
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
pub(in crate::report) struct Groups<'e> {
    entries: &'e Entries,
    wanted: fn(&Entry) -> bool,
    /// A bit for each entry that came already.
    done: [u64; WINDOW / 64],
}

impl<'e> Groups<'e> {
    /// Those of the entries that are wanted, at most [`WINDOW`].
    pub(in crate::report) fn of(entries: &'e Entries, wanted: fn(&Entry) -> bool) -> Self {
        Self {
            entries,
            wanted,
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
            if self.done[word] & bit != 0 {
                continue;
            }
            let Some(tree) = entry.tree().filter(|_| (self.wanted)(entry)) else {
                self.done[word] |= bit;
                continue;
            };
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

/// Drops entries at the end until a reverse walk for the others visits no more than `visits` page
/// table entries, or one is left, and returns where the rest begins: `stopped`, or the first that
/// was dropped.
///
/// `candidates` counts the VMAs that cover a group, up to a number. The walk reads the tables of
/// each over all that the group spans; and each group takes a walk over the entries.
pub(in crate::report) fn afford(
    entries: &mut Entries,
    mut stopped: usize,
    visits: usize,
    wanted: fn(&Entry) -> bool,
    mut candidates: impl FnMut(&Group, usize) -> usize,
) -> usize {
    while entries.len() > 1 {
        let mut left = Some(visits);
        for group in Groups::of(entries, wanted) {
            let span = (group.last - group.first).saturating_add(1);
            let each = span.saturating_add(CANDIDATE);
            let most = left.unwrap_or(0) / each + 1;
            let cost = candidates(&group, most).saturating_mul(each);
            left = left.and_then(|left| left.checked_sub(cost.saturating_add(entries.len())));
            if left.is_none() {
                break;
            }
        }
        if left.is_some() {
            break;
        }
        stopped = entries.get(entries.len() / 2).address();
        entries.keep_below(stopped);
    }
    stopped
}

fn page_kind(kind: Kind) -> PageKind {
    match kind {
        Kind::Anon => PageKind::ANON,
        Kind::File => PageKind::FILE,
        Kind::Ksm => PageKind::KSM,
        Kind::Zero => PageKind::ZERO,
        Kind::Special => PageKind::SPECIAL,
        Kind::Swap => PageKind::SWAP,
        Kind::Migration => PageKind::MIGRATION,
        Kind::Device => PageKind::DEVICE,
        Kind::Hwpoison => PageKind::HWPOISON,
        Kind::Marker => PageKind::MARKER,
        Kind::Kernel => PageKind::KERNEL,
    }
}

/// The folio's flags, as records have them.
fn folio_flags(set: usize) -> FolioFlags {
    const FLAGS: [(usize, u64); 11] = [
        (flag::LOCKED, FolioFlags::LOCKED),
        (flag::REFERENCED, FolioFlags::REFERENCED),
        (flag::UPTODATE, FolioFlags::UPTODATE),
        (flag::DIRTY, FolioFlags::DIRTY),
        (flag::LRU, FolioFlags::LRU),
        (flag::ACTIVE, FolioFlags::ACTIVE),
        (flag::SWAPBACKED, FolioFlags::SWAPBACKED),
        (flag::SWAPCACHE, FolioFlags::SWAPCACHE),
        (flag::WRITEBACK, FolioFlags::WRITEBACK),
        (flag::UNEVICTABLE, FolioFlags::UNEVICTABLE),
        (flag::MLOCKED, FolioFlags::MLOCKED),
    ];
    let flags = FLAGS.iter().filter(|(flag, _)| set & flag != 0);
    FolioFlags::new(flags.fold(0, |all, (_, flag)| all | flag))
}
