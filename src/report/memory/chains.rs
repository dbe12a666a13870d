// SPDX-License-Identifier: GPL-2.0

//! The report `chains`: a process' own side of its anon_vma chains, and where its anonymous pages
//! are.
//!
//! Nothing is said of other members, so that the reports on a whole family of processes are no
//! longer than the chains and the memory that they have, where `anon_vma` would name everyone to
//! everyone.

#![deny(unsafe_code)]

use crate::object::{
    memory::address_space::{VmaExt, VmaGuard},
    memory::anon_vma::{AnonVmaInfo, ANON_VMA_BYTES, AVC_BYTES},
    memory::page::{is_hugetlb, Entries, Kind},
    sync::id::Id,
};
use crate::records::{common::ReportName, memory};
use crate::report::{
    memory::walk::{self, Begun, Head, InChain, VmaReport, Walked},
    text::Text,
    Fault, Step,
};
use kernel::{mm::virt::VmaRef, page::PAGE_SIZE, prelude::*};

/// How many entries of page tables are read at once.
const WINDOW: usize = 512;

/// Pages that follow each other, and that do not differ in what is emitted.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    address: usize,
    pages: usize,
    anon_vma: Id,
    mapcount: u32,
}

/// What was collected, in the order in which it is emitted.
pub(crate) enum Item {
    Chain {
        head: Head,
        anon_pgoff: usize,
        own: Id,
        root: Id,
        links: usize,
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

#[derive(Default)]
struct Totals {
    chained: u64,
    links: u64,
    runs: u64,
    pages: u64,
    other: u64,
    hugetlb: u64,
}

/// The report under way.
pub(crate) type Walk = walk::Walk<Chains>;

type Chunk<'a> = walk::Chunk<'a, Chains>;

/// The current VMA, and what was emitted.
pub(crate) struct Chains {
    chain: InChain,
    /// Its page table was read up to here,
    next: usize,
    /// and this run is not emitted yet, for it may continue.
    run: Option<Run>,
    entries: Entries,
    totals: Totals,
}

impl VmaReport for Chains {
    type Item = Item;
    const ITEMS: usize = 2048;
    const ROOM: usize = 2;

    fn new() -> Result<Self, Fault> {
        Ok(Self {
            chain: InChain::default(),
            next: 0,
            run: None,
            entries: Entries::with_capacity(WINDOW)?,
            totals: Totals::default(),
        })
    }

    fn prepare(&mut self) -> Result {
        self.chain.prepare()
    }

    fn begin(&mut self, vma: &VmaRef, head: &Head, chunk: &mut Chunk<'_>) -> Result<Step> {
        self.next = head.start;
        match self.chain.begin(vma)? {
            Begun::NoRoom => return Ok(Step::More),
            Begun::Empty => {}
            Begun::At(root) => {
                let own = root.own();
                chunk.push(Item::Chain {
                    head: head.clone(),
                    anon_pgoff: vma.anon_pgoff(),
                    own: own.id(),
                    root: own.info().root,
                    links: self.chain.len(),
                });
            }
        }
        Ok(Step::Done)
    }

    fn go_on(&mut self, vma: &VmaGuard<'_>, chunk: &mut Chunk<'_>) -> Result<Step> {
        let links = self.chain.go_on(vma, chunk, |anon_vma, root, chunk| {
            if chunk.room() == 0 {
                return Step::More;
            }
            chunk.push(Item::Link {
                vma: vma.start(),
                anon_vma: anon_vma.id(),
                own: anon_vma.token() == root.own().token(),
                info: anon_vma.info(),
            });
            Step::Done
        })?;
        if links == Step::More {
            return Ok(Step::More);
        }
        if is_hugetlb(vma) {
            self.totals.hugetlb += 1;
            return Ok(Step::Done);
        }
        while self.next < vma.end() {
            // Each page may be a run of its own, and there is the last run before them.
            if chunk.room() <= WINDOW || !chunk.piece(vma) {
                return Ok(Step::More);
            }
            self.pages(vma, chunk);
        }
        Ok(Step::Done)
    }

    fn end(&mut self, head: &Head, chunk: &mut Chunk<'_>) -> Result {
        self.end_run(head.start, chunk);
        Ok(())
    }

    fn emit(&mut self, item: &Item, names: &[u8], text: &mut Text) -> Result {
        self.totals.count(item);
        item.emit(names, text)
    }

    fn write_summary(&self, walked: &Walked, text: &mut Text) -> Result {
        let totals = &self.totals;
        let record = memory::ChainsSummary {
            report: ReportName::CHAINS,
            mm: walked.mm.into(),
            vmas: walked.vmas.into(),
            chained: totals.chained.into(),
            links: totals.links.into(),
            runs: totals.runs.into(),
            pages: totals.pages.into(),
            other: totals.other.into(),
            hugetlb: totals.hugetlb.into(),
            anon_vma_bytes: ANON_VMA_BYTES.into(),
            avc_bytes: AVC_BYTES.into(),
            moved: walked.moved.into(),
            cut: 0u64.into(),
        };
        text.put(&record, &[])
    }
}

impl Chains {
    /// Reads a piece of the VMA's page table. There is room for an item for each page, and one
    /// more.
    fn pages(&mut self, vma: &VmaRef, chunk: &mut Chunk<'_>) {
        self.next = self.entries.read(vma, self.next, vma.end(), WINDOW - 1);
        for at in 0..self.entries.len() {
            let entry = self.entries.get(at);
            if entry.kind() != Kind::Anon {
                self.totals.other += 1;
                continue;
            }
            let (address, anon_vma, mapcount) =
                (entry.address(), entry.mapping(), entry.mapcount());
            match &mut self.run {
                Some(run)
                    if run.address + run.pages * PAGE_SIZE == address
                        && run.anon_vma == anon_vma
                        && run.mapcount == mapcount =>
                {
                    run.pages += 1;
                }
                _ => {
                    self.end_run(vma.start(), chunk);
                    self.run = Some(Run {
                        address,
                        pages: 1,
                        anon_vma,
                        mapcount,
                    });
                }
            }
        }
    }

    /// Emits the run that does not continue. There is room for an item.
    fn end_run(&mut self, vma: usize, chunk: &mut Chunk<'_>) {
        if let Some(run) = self.run.take() {
            chunk.push(Item::Run { vma, run });
        }
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
    fn emit(&self, names: &[u8], text: &mut Text) -> Result {
        match self {
            Self::Chain {
                head,
                anon_pgoff,
                own,
                root,
                links,
            } => {
                let (name, bytes) = head.name(names);
                let record = memory::Chain {
                    bounds: head.bounds(),
                    anon_pgoff: (*anon_pgoff).into(),
                    anon_vma: (*own).into(),
                    root: (*root).into(),
                    links: (*links).into(),
                    name,
                };
                text.put(&record, &[bytes])
            }
            Self::Link {
                vma,
                anon_vma,
                own,
                info,
            } => {
                let record = memory::Link {
                    vma: (*vma).into(),
                    anon_vma: (*anon_vma).into(),
                    own: (*own).into(),
                    parent: info.parent.into(),
                    depth: info.depth.into(),
                    children: info.children.into(),
                    active_vmas: info.active_vmas.into(),
                    refcount: info.refcount.into(),
                };
                text.put(&record, &[])
            }
            Self::Run { vma, run } => {
                let record = memory::Run {
                    vma: (*vma).into(),
                    address: run.address.into(),
                    pages: run.pages.into(),
                    anon_vma: run.anon_vma.into(),
                    mapcount: run.mapcount.into(),
                };
                text.put(&record, &[])
            }
        }
    }
}
