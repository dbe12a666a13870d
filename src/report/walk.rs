// SPDX-License-Identifier: GPL-2.0

//! What the reports on VMAs have in common: the walk over them, and along their chains, chunk by chunk.
//!
//! Nothing is held between two chunks. A VMA is found again by its bounds then, an anon_vma by its token; what
//! is no longer there is counted as moved, and the walk goes on behind it.

#![deny(unsafe_code)]

use super::{
    gfp,
    text::{Line, Text},
    Fault, Step, CHUNK_TEXT,
};
use crate::object::{
    anon_vma::{is_chained, AnonVma, RootGuard, Token},
    id::Id,
    mm::{AddressSpace, MmapGuard, Name, VmaExt, PATH_MAX},
    process::{Process, Viewpoint},
};
use core::ops::Range;
use kernel::{mm::virt::VmaRef, prelude::*};

/// How many bytes of names are collected in one hold of `mmap_lock`, the last name's end excepted.
const CHUNK_NAMES: usize = 65536;

/// How many VMAs are passed in one hold of `mmap_lock`.
const CHUNK_VMAS: usize = 1024;

/// How many pieces of page tables are read in one hold of `mmap_lock`, unless it grows long.
const CHUNK_PIECES: usize = 64;

/// What one of the reports collects of a VMA, and tells of it.
///
/// A VMA begins, goes on until that is [`Step::Done`], maybe in later chunks, and ends.
pub(crate) trait VmaReport: Sized {
    /// What is collected under the locks, to be told when they were dropped.
    type Item;
    /// The report's name.
    const NAME: &'static [u8];
    /// How many items are collected in one hold of the locks.
    const ITEMS: usize;
    /// How many there must be room for where a VMA begins.
    const ROOM: usize;

    fn new() -> Result<Self, Fault>;

    /// Whether a VMA is one that the report is about.
    fn wants(&mut self, vma: &VmaRef) -> bool {
        is_chained(vma)
    }

    /// Whether the VMA that starts where the one at hand did is still that one.
    fn is_same(head: &Head, vma: &VmaRef) -> bool {
        vma.end() == head.end
    }

    fn begin(&mut self, vma: &VmaRef, head: &Head, chunk: &mut Chunk<'_, Self>) -> Result;

    fn go_on(&mut self, vma: &VmaRef, chunk: &mut Chunk<'_, Self>) -> Result<Step>;

    /// There is no more of it, or it was not found again.
    fn end(&mut self, _head: &Head, _chunk: &mut Chunk<'_, Self>) -> Result {
        Ok(())
    }

    fn tell(&mut self, item: &Self::Item, names: &[u8], text: &mut Text) -> Result;

    /// What the summary says.
    fn sum_up<'t>(&self, line: Line<'t>, walked: &Walked) -> Line<'t>;
}

/// Where a walk has been.
pub(crate) struct Walked {
    pub(super) mm: Id,
    /// VMAs come to.
    pub(super) vmas: u64,
    /// Places that were gone when the walk came back to them.
    pub(super) moved: u64,
}

/// What each report tells of a VMA, as it was when it began.
#[derive(Clone)]
pub(crate) struct Head {
    pub(super) start: usize,
    pub(super) end: usize,
    perms: [u8; 4],
    /// Where its name stands among those of the chunk.
    name: Range<usize>,
}

impl Head {
    /// Begins a record with it.
    pub(super) fn tell<'t>(&self, text: &'t mut Text, kind: &'static str) -> Line<'t> {
        text.record(kind)
            .hex("start", self.start)
            .hex("end", self.end)
            .word("perms", &self.perms)
    }

    /// Ends that record.
    pub(super) fn tell_name(&self, line: Line<'_>, names: &[u8]) -> Result {
        line.string("name", &names[self.name.clone()]).end()
    }
}

/// What is at hand while a chunk is collected.
pub(crate) struct Chunk<'a, R: VmaReport> {
    lock: &'a MmapGuard<'a>,
    pub(super) space: &'a AddressSpace,
    pub(super) view: &'a Viewpoint,
    pub(super) walked: &'a mut Walked,
    items: &'a mut KVVec<R::Item>,
    pieces: usize,
}

impl<R: VmaReport> Chunk<'_, R> {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn room(&self) -> usize {
        R::ITEMS - self.items.len()
    }

    /// The caller has seen that there is room, which was made before any lock was taken.
    pub(super) fn push(&mut self, item: R::Item) {
        let _ = self.items.push_within_capacity(item);
    }

    /// Drops the items after the first `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.items.truncate(len);
    }

    /// Whether another piece of page tables may be read in this hold of `mmap_lock`.
    fn has_time(&self) -> bool {
        self.pieces == 0 || (self.pieces < CHUNK_PIECES && !self.lock.is_wanted())
    }

    /// The same, and counts it.
    pub(super) fn piece(&mut self) -> bool {
        let has_time = self.has_time();
        self.pieces += usize::from(has_time);
        has_time
    }
}

/// A report under way.
pub(crate) struct Walk<R: VmaReport> {
    space: AddressSpace,
    /// The address at which it goes on behind the VMA at hand.
    next: usize,
    at_hand: Option<Head>,
    walked: Walked,
    items: KVVec<R::Item>,
    /// How many of the items were told.
    told: usize,
    /// Whether more are to be collected when they are.
    step: Step,
    names: KVVec<u8>,
    path: KBox<[u8; PATH_MAX]>,
    report: R,
}

impl<R: VmaReport> Walk<R> {
    /// Begins with the address space that the process has now.
    pub(crate) fn new(process: &Process) -> Result<Self, Fault> {
        let space = process.address_space()?;
        Ok(Self {
            next: 0,
            at_hand: None,
            walked: Walked {
                mm: space.id(),
                vmas: 0,
                moved: 0,
            },
            space,
            items: KVVec::with_capacity(R::ITEMS, gfp())?,
            told: 0,
            step: Step::More,
            names: KVVec::new(),
            path: KBox::new([0; PATH_MAX], gfp())?,
            report: R::new()?,
        })
    }

    /// Tells what was collected; where all of that was told, collects anew.
    pub(crate) fn chunk(&mut self, process: &Process, text: &mut Text) -> Result<Step, Fault> {
        if self.told == self.items.len() {
            let view = process.viewpoint().ok_or(Fault::EXITED)?;
            self.items.clear();
            self.told = 0;
            self.forget_names();
            self.step = self.collect(&view)?;
        }
        for item in &self.items[self.told..] {
            if text.bytes().len() >= CHUNK_TEXT {
                return Ok(Step::More);
            }
            self.report.tell(item, &self.names, text)?;
            self.told += 1;
        }
        if self.step == Step::Done {
            let line = text.record("summary").word("report", R::NAME);
            self.report.sum_up(line, &self.walked).end()?;
        }
        Ok(self.step)
    }

    fn collect(&mut self, view: &Viewpoint) -> Result<Step, Fault> {
        let user = self.space.user().ok_or(Fault::EXITED)?;
        MmapGuard::with(user, |lock| self.collect_under(lock, view))?
    }

    fn collect_under(&mut self, lock: &MmapGuard<'_>, view: &Viewpoint) -> Result<Step, Fault> {
        let report = &mut self.report;
        let mut chunk = Chunk {
            lock,
            space: &self.space,
            view,
            walked: &mut self.walked,
            items: &mut self.items,
            pieces: 0,
        };
        for passed in 0..CHUNK_VMAS {
            let (head, vma) = if let Some(head) = self.at_hand.take() {
                let vma = lock.find_vma(head.start);
                let vma = vma.filter(|vma| vma.start() == head.start && R::is_same(&head, vma));
                // Between two chunks it was split, merged or unmapped.
                chunk.walked.moved += u64::from(vma.is_none());
                (head, vma)
            } else {
                let Some(vma) = lock.find_vma(self.next) else {
                    return Ok(Step::Done);
                };
                let names = self.names.len();
                // One VMA is passed in any case, so that the walk comes to its end.
                let wanted = passed > 0 && lock.is_contended();
                if chunk.room() < R::ROOM || names >= CHUNK_NAMES || wanted || !chunk.has_time() {
                    return Ok(Step::More);
                }
                // It was merged with what was told before this chunk.
                let merged = vma.start() < self.next;
                self.next = vma.end();
                chunk.walked.vmas += 1;
                if !report.wants(vma) {
                    continue;
                }
                push_name(vma, &mut self.names, &mut self.path)?;
                let head = Head {
                    start: vma.start(),
                    end: vma.end(),
                    perms: vma.perms(),
                    name: names..self.names.len(),
                };
                report.begin(vma, &head, &mut chunk)?;
                chunk.walked.moved += u64::from(merged);
                (head, Some(vma))
            };
            if let Some(vma) = vma {
                if report.go_on(vma, &mut chunk)? == Step::More {
                    self.at_hand = Some(head);
                    return Ok(Step::More);
                }
            }
            report.end(&head, &mut chunk)?;
        }
        Ok(Step::More)
    }

    /// Forgets the names of the last chunk, but for that of the VMA at hand.
    fn forget_names(&mut self) {
        let mut kept = 0;
        if let Some(head) = &mut self.at_hand {
            kept = head.name.len();
            self.names.copy_within(head.name.clone(), 0);
            head.name = 0..kept;
        }
        self.names.truncate(kept);
    }
}

/// Appends a VMA's name.
fn push_name(vma: &VmaRef, names: &mut KVVec<u8>, path: &mut [u8; PATH_MAX]) -> Result {
    let parts: [&[u8]; 3] = match vma.name(path) {
        Name::None => [b"", b"", b""],
        Name::Path(name) | Name::Special(name) => [b"", name, b""],
        Name::TooLong => [b"", b"[path too long]", b""],
        Name::Anon(name) => [b"[anon:", name, b"]"],
    };
    for part in parts {
        names.extend_from_slice(part, gfp())?;
    }
    Ok(())
}

/// A place in a VMA's chain.
#[derive(Default)]
pub(crate) struct InChain {
    /// The anon_vmas in it, of which the first `told` were told.
    tokens: KVVec<Token>,
    told: usize,
}

impl InChain {
    /// Goes to the beginning of a VMA's chain, and leaves its root locked.
    pub(super) fn begin<'v>(&mut self, vma: &'v VmaRef) -> Result<Option<RootGuard<'v>>> {
        self.tokens.clear();
        self.told = 0;
        // Memory is allocated while the root's lock is not held. The chain stays as it is meanwhile:
        // mmap_lock is held.
        while let Some(root) = RootGuard::lock(vma)? {
            let len = root.anon_vmas().count();
            if len > self.tokens.capacity() {
                drop(root);
                self.tokens.reserve(len, gfp())?;
                continue;
            }
            for anon_vma in root.anon_vmas() {
                let _ = self.tokens.push_within_capacity(anon_vma.token());
            }
            return Ok(Some(root));
        }
        Ok(None)
    }

    /// How many anon_vmas the chain had.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Goes on along the chain for as long as `tell` is done with an anon_vma.
    pub(super) fn go_on<R: VmaReport>(
        &mut self,
        vma: &VmaRef,
        chunk: &mut Chunk<'_, R>,
        mut tell: impl FnMut(&AnonVma<'_>, &RootGuard<'_>, &mut Chunk<'_, R>) -> Step,
    ) -> Result<Step> {
        if self.told == self.tokens.len() {
            return Ok(Step::Done);
        }
        let Some(root) = RootGuard::lock(vma)? else {
            chunk.walked.moved += 1;
            self.told = self.tokens.len();
            return Ok(Step::Done);
        };
        let mut anon_vmas = root.anon_vmas().skip(self.told);
        while let Some(&token) = self.tokens.get(self.told) {
            let anon_vma = anon_vmas
                .next()
                .filter(|anon_vma| anon_vma.token() == token)
                .or_else(|| root.find(token));
            match anon_vma {
                Some(anon_vma) if tell(&anon_vma, &root, chunk) == Step::More => {
                    return Ok(Step::More);
                }
                Some(_) => {}
                None => chunk.walked.moved += 1,
            }
            self.told += 1;
        }
        Ok(Step::Done)
    }
}
