// SPDX-License-Identifier: GPL-2.0

//! The report `chains`: a process' own side of its anon_vma chains, and where its anonymous pages are.
//!
//! Nothing is said of other members, so that the reports on a whole family of processes are no longer than
//! the chains and the memory that they have, where `anon_vma` would name everyone to everyone.

#![deny(unsafe_code)]

use super::{gfp, push_name, text::Text, Fault, Step, CHUNK_TEXT};
use crate::object::{
    anon_vma::{is_chained, AnonVmaInfo, RootGuard, Token, ANON_VMA_BYTES, AVC_BYTES},
    id::Id,
    mm::{AddressSpace, MmapGuard, VmaExt, PATH_MAX},
    page::{is_hugetlb, Entries, Kind},
    process::Process,
};
use kernel::{mm::virt::VmaRef, page::PAGE_SIZE, prelude::*};

/// How many items are collected in one hold of the locks.
const CHUNK_ITEMS: usize = 2048;

/// How many bytes of names are collected in one hold of `mmap_lock`, the last name's end excepted.
const CHUNK_NAMES: usize = 65536;

/// How many VMAs are passed in one hold of `mmap_lock`.
const CHUNK_VMAS: usize = 1024;

/// How many entries of page tables are read at once.
const WINDOW: usize = 512;

/// And how many times in one hold of `mmap_lock`.
const CHUNK_PIECES: usize = 64;

/// Pages that follow each other, and that differ in nothing that is told.
#[derive(Clone, Copy)]
struct Run {
    address: usize,
    pages: usize,
    anon_vma: Id,
    mapcount: u32,
}

/// What was collected, in the order it is told.
enum Item {
    Chain {
        start: usize,
        end: usize,
        perms: [u8; 4],
        anon_pgoff: usize,
        own: Id,
        root: Id,
        links: usize,
        /// Where its name stands in [`Walk::names`].
        name: (usize, usize),
    },
    Link {
        vma: usize,
        anon_vma: Id,
        own: bool,
        info: AnonVmaInfo,
    },
    Run {
        vma: usize,
        run: Run,
    },
}

/// The VMA at hand.
#[derive(Default)]
struct AtHand {
    /// Its bounds; none: no VMA is at hand.
    bounds: Option<(usize, usize)>,
    /// The anon_vmas in its chain, of which the first `index` were told.
    chain: KVVec<Token>,
    index: usize,
    /// Its page table was read up to here,
    next: usize,
    /// and this is not yet told, for it may go on.
    run: Option<Run>,
}

#[derive(Default)]
struct Totals {
    vmas: u64,
    chained: u64,
    links: u64,
    runs: u64,
    pages: u64,
    other: u64,
    hugetlb: u64,
    moved: u64,
}

/// The report under way.
pub(crate) struct Walk {
    space: AddressSpace,
    next: usize,
    at: AtHand,
    items: KVVec<Item>,
    /// How many of the items were told.
    told: usize,
    /// Whether more are to be collected when they are.
    step: Step,
    entries: Entries,
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
            items: KVVec::with_capacity(CHUNK_ITEMS, gfp())?,
            told: 0,
            step: Step::More,
            entries: Entries::with_capacity(WINDOW)?,
            names: KVVec::new(),
            path: KBox::new([0; PATH_MAX], gfp())?,
            totals: Totals::default(),
        })
    }

    /// Tells what was collected; where all of that was told, collects anew.
    pub(crate) fn chunk(&mut self, text: &mut Text) -> Result<Step, Fault> {
        if self.told == self.items.len() {
            self.items.clear();
            self.names.clear();
            self.told = 0;
            self.step = self.collect()?;
        }
        for item in &self.items[self.told..] {
            if text.bytes().len() >= CHUNK_TEXT {
                return Ok(Step::More);
            }
            item.tell(&self.names, text)?;
            self.totals.count(item);
            self.told += 1;
        }
        if self.step == Step::Done {
            let totals = &self.totals;
            text.record("summary")
                .word("report", b"chains")
                .id("mm", self.space.id())
                .number("vmas", totals.vmas)
                .number("chained", totals.chained)
                .number("links", totals.links)
                .number("runs", totals.runs)
                .number("pages", totals.pages)
                .number("other", totals.other)
                .number("hugetlb", totals.hugetlb)
                .number("anon_vma_bytes", ANON_VMA_BYTES as u64)
                .number("avc_bytes", AVC_BYTES as u64)
                .number("moved", totals.moved)
                .number("cut", 0)
                .end()?;
        }
        Ok(self.step)
    }

    fn room(&self) -> usize {
        CHUNK_ITEMS - self.items.len()
    }

    fn collect(&mut self) -> Result<Step, Fault> {
        let user = self.space.user().ok_or(Fault::EXITED)?;
        let lock = MmapGuard::lock(&user)?;
        let mut pieces = 0;
        for _ in 0..CHUNK_VMAS {
            let vma = match self.at.bounds {
                Some((start, end)) => lock
                    .find_vma(start)
                    .filter(|vma| (vma.start(), vma.end()) == (start, end)),
                None => {
                    let Some(vma) = lock.find_vma(self.next) else {
                        return Ok(Step::Done);
                    };
                    if self.room() < 2 || self.names.len() >= CHUNK_NAMES {
                        return Ok(Step::More);
                    }
                    self.next = vma.end();
                    self.totals.vmas += 1;
                    if !is_chained(vma) {
                        continue;
                    }
                    self.begin(vma)?;
                    Some(vma)
                }
            };
            let Some(vma) = vma else {
                // It was split, merged or unmapped: what was read so far is told, and the walk goes on
                // behind it.
                if self.room() == 0 {
                    return Ok(Step::More);
                }
                self.totals.moved += 1;
                self.end();
                continue;
            };
            if !self.links(vma)? {
                return Ok(Step::More);
            }
            if is_hugetlb(vma) {
                self.totals.hugetlb += 1;
                self.end();
                continue;
            }
            while self.at.next < vma.end() {
                if self.room() <= WINDOW || pieces == CHUNK_PIECES || (pieces > 0 && lock.is_long())
                {
                    return Ok(Step::More);
                }
                pieces += 1;
                self.pages(vma);
            }
            self.end();
        }
        Ok(Step::More)
    }

    /// Begins a VMA. There is room for an item.
    fn begin(&mut self, vma: &VmaRef) -> Result<(), Fault> {
        let name = (
            self.names.len(),
            push_name(vma, &mut self.names, &mut self.path)?,
        );
        let at = &mut self.at;
        at.chain.clear();
        at.index = 0;
        at.run = None;
        at.next = vma.start();
        at.bounds = Some((vma.start(), vma.end()));
        // Memory is allocated while the root's lock is not held. The chain stays as it is meanwhile:
        // mmap_lock is held.
        while let Some(root) = RootGuard::lock(vma)? {
            let len = root.anon_vmas().count();
            if len > at.chain.capacity() {
                drop(root);
                at.chain.reserve(len, gfp())?;
                continue;
            }
            for anon_vma in root.anon_vmas() {
                let _ = at.chain.push_within_capacity(anon_vma.token());
            }
            let own = root.own();
            let _ = self.items.push_within_capacity(Item::Chain {
                start: vma.start(),
                end: vma.end(),
                perms: vma.perms(),
                anon_pgoff: vma.anon_pgoff(),
                own: own.id(),
                root: own.info().root,
                links: len,
                name,
            });
            break;
        }
        Ok(())
    }

    /// Tells a VMA's chain from where it was left. False: there is more, and no room.
    fn links(&mut self, vma: &VmaRef) -> Result<bool, Fault> {
        if self.at.index == self.at.chain.len() {
            return Ok(true);
        }
        let Some(root) = RootGuard::lock(vma)? else {
            self.totals.moved += 1;
            return Ok(true);
        };
        let own = root.own().token();
        let mut anon_vmas = root.anon_vmas().skip(self.at.index);
        while let Some(&token) = self.at.chain.get(self.at.index) {
            if self.items.len() == CHUNK_ITEMS {
                return Ok(false);
            }
            let anon_vma = anon_vmas
                .next()
                .filter(|anon_vma| anon_vma.token() == token)
                .or_else(|| root.find(token));
            self.at.index += 1;
            let Some(anon_vma) = anon_vma else {
                self.totals.moved += 1;
                continue;
            };
            let _ = self.items.push_within_capacity(Item::Link {
                vma: vma.start(),
                anon_vma: anon_vma.id(),
                own: token == own,
                info: anon_vma.info(),
            });
        }
        Ok(true)
    }

    /// Reads a piece of the VMA's page table. There is room for an item for each page, and one more.
    fn pages(&mut self, vma: &VmaRef) {
        self.at.next = self.entries.read(vma, self.at.next, vma.end(), WINDOW - 1);
        for entry in self.entries.iter() {
            if entry.kind() != Kind::Anon {
                self.totals.other += 1;
                continue;
            }
            let (address, anon_vma, mapcount) =
                (entry.address(), entry.mapping(), entry.mapcount());
            match &mut self.at.run {
                Some(run)
                    if run.address + run.pages * PAGE_SIZE == address
                        && run.anon_vma == anon_vma
                        && run.mapcount == mapcount =>
                {
                    run.pages += 1;
                }
                run => {
                    let begun = Run {
                        address,
                        pages: 1,
                        anon_vma,
                        mapcount,
                    };
                    if let Some(run) = run.replace(begun) {
                        let vma = vma.start();
                        let _ = self.items.push_within_capacity(Item::Run { vma, run });
                    }
                }
            }
        }
    }

    /// Leaves the VMA at hand. There is room for an item.
    fn end(&mut self) {
        if let (Some((vma, _)), Some(run)) = (self.at.bounds, self.at.run.take()) {
            let _ = self.items.push_within_capacity(Item::Run { vma, run });
        }
        self.at.bounds = None;
    }
}

impl Totals {
    fn count(&mut self, item: &Item) {
        match item {
            Item::Chain { .. } => self.chained += 1,
            Item::Link { .. } => self.links += 1,
            Item::Run { run, .. } => {
                self.runs += 1;
                self.pages += run.pages as u64;
            }
        }
    }
}

impl Item {
    fn tell(&self, names: &[u8], text: &mut Text) -> Result {
        match self {
            Self::Chain {
                start,
                end,
                perms,
                anon_pgoff,
                own,
                root,
                links,
                name,
            } => text
                .record("chain")
                .hex("start", *start)
                .hex("end", *end)
                .word("perms", perms)
                .hex("anon_pgoff", *anon_pgoff)
                .id("anon_vma", *own)
                .id("root", *root)
                .number("links", *links as u64)
                .string("name", &names[name.0..name.1])
                .end(),
            Self::Link {
                vma,
                anon_vma,
                own,
                info,
            } => text
                .record("link")
                .hex("vma", *vma)
                .id("anon_vma", *anon_vma)
                .flag("own", *own)
                .id("parent", info.parent)
                .number("depth", info.depth.into())
                .number("children", info.children as u64)
                .number("active_vmas", info.active_vmas as u64)
                .signed("refcount", info.refcount.into())
                .end(),
            Self::Run { vma, run } => text
                .record("run")
                .hex("vma", *vma)
                .hex("address", run.address)
                .number("pages", run.pages as u64)
                .id("anon_vma", run.anon_vma)
                .number("mapcount", run.mapcount.into())
                .end(),
        }
    }
}
