// SPDX-License-Identifier: GPL-2.0

//! What the reports on VMAs have in common: the walk over them, and along their chains, chunk by
//! chunk.
//!
//! Nothing is held between two chunks. A VMA is found again by its bounds then, an anon_vma by its
//! token; what is no longer there is counted as moved, and the walk goes on behind it.

#![deny(unsafe_code)]

use crate::object::{
    memory::address_space::{AddressSpace, Name, VmaExt, VmaGuard, Vmas, PATH_MAX},
    memory::anon_vma::{is_chained, AnonVma, RootGuard, Token},
    process::{Process, Viewpoint},
    sync::id::Id,
};
use crate::records::{common::Bounds, Short, Str};
use crate::report::{gfp, text::Text, Fault, Step, CHUNK_TEXT};
use core::ops::Range;
use kernel::{mm::virt::VmaRef, prelude::*};

/// Room for the longest name that is emitted, with what is put around it.
const NAME: usize = PATH_MAX + 16;

/// How many bytes of names are collected in one chunk. There is room for fewer as
/// long as they are few.
const CHUNK_NAMES: usize = 65536;

/// How many VMAs a chunk passes.
const CHUNK_VMAS: usize = 1024;

/// How many pieces of page tables a chunk reads.
const CHUNK_PIECES: usize = 64;

/// What one of the reports collects of a VMA, and emits.
///
/// A VMA begins, goes on until that is [`Step::Done`], maybe in later chunks, and ends.
pub(crate) trait VmaReport: Sized {
    /// What is collected under the locks, to be emitted when they were dropped.
    type Item;
    /// How many items are collected in one hold of the locks.
    const ITEMS: usize;
    /// How many there must be room for where a VMA begins.
    const ROOM: usize;

    fn new() -> Result<Self, Fault>;

    /// Makes the room that the last chunk lacked. No lock is held.
    fn prepare(&mut self) -> Result {
        Ok(())
    }

    /// Whether a VMA is one that the report is about.
    fn wants(&mut self, vma: &VmaRef) -> bool {
        is_chained(vma)
    }

    /// Whether the VMA that starts where the current one did is still that one.
    fn is_same(head: &Head, vma: &VmaRef) -> bool {
        vma.end() == head.end
    }

    /// [`Step::More`]: there was no room, and the VMA begins again after [`Self::prepare`].
    fn begin(&mut self, vma: &VmaRef, head: &Head, chunk: &mut Chunk<'_, Self>) -> Result<Step>;

    fn go_on(&mut self, vma: &VmaGuard<'_>, chunk: &mut Chunk<'_, Self>) -> Result<Step>;

    /// There is no more of it, or it was not found again.
    fn end(&mut self, _head: &Head, _chunk: &mut Chunk<'_, Self>) -> Result {
        Ok(())
    }

    fn emit(&mut self, item: &Self::Item, names: &[u8], text: &mut Text) -> Result;

    /// Writes the summary.
    fn write_summary(&self, walked: &Walked, text: &mut Text) -> Result;
}

/// Where a walk has been.
pub(crate) struct Walked {
    pub(in crate::report) mm: Id,
    /// VMAs reached.
    pub(in crate::report) vmas: u64,
    /// Places that were gone when the walk came back to them.
    pub(in crate::report) moved: u64,
}

/// What each report emits of a VMA, as it was when it began.
#[derive(Clone)]
pub(crate) struct Head {
    pub(in crate::report) start: usize,
    pub(in crate::report) end: usize,
    perms: [u8; 4],
    /// Where its name stands among those of the chunk.
    name: Range<usize>,
}

impl Head {
    /// Its bounds and permissions.
    pub(in crate::report) fn bounds(&self) -> Bounds {
        Bounds {
            start: self.start.into(),
            end: self.end.into(),
            perms: Short::of(&self.perms),
        }
    }

    /// Its name among those of the chunk, which is all that the strings of a record are.
    pub(in crate::report) fn name<'n>(&self, names: &'n [u8]) -> (Str, &'n [u8]) {
        let name = names.get(self.name.clone()).unwrap_or_default();
        (Str::at(0, name.len()), name)
    }
}

/// What is needed while a chunk is collected.
pub(crate) struct Chunk<'a, R: VmaReport> {
    pub(in crate::report) space: &'a AddressSpace,
    pub(in crate::report) view: &'a Viewpoint,
    pub(in crate::report) walked: &'a mut Walked,
    items: &'a mut KVVec<R::Item>,
    pieces: usize,
}

impl<R: VmaReport> Chunk<'_, R> {
    pub(in crate::report) fn len(&self) -> usize {
        self.items.len()
    }

    pub(in crate::report) fn room(&self) -> usize {
        R::ITEMS - self.items.len()
    }

    /// The caller has seen that there is room, which was made before any lock was taken.
    pub(in crate::report) fn push(&mut self, item: R::Item) {
        let _ = self.items.push_within_capacity(item);
    }

    /// Drops the items after the first `len`.
    pub(in crate::report) fn truncate(&mut self, len: usize) {
        self.items.truncate(len);
    }

    /// Whether another piece of a VMA's page tables may be read while it is locked, which is
    /// counted. One is in any case, so that the walk ends.
    pub(in crate::report) fn piece(&mut self, vma: &VmaGuard<'_>) -> bool {
        let has_time = self.pieces == 0 || (self.pieces < CHUNK_PIECES && !vma.is_wanted());
        self.pieces += usize::from(has_time);
        has_time
    }
}

/// A report under way.
pub(crate) struct Walk<R: VmaReport> {
    space: AddressSpace,
    /// The address at which it continues after the current VMA.
    next: usize,
    current: Option<Head>,
    walked: Walked,
    items: KVVec<R::Item>,
    /// How many of the items were emitted.
    emitted: usize,
    /// Whether more are to be collected when they are.
    step: Step,
    names: KVVec<u8>,
    /// The last chunk ended for want of room for names.
    lacks_names: bool,
    path: KBox<[u8; PATH_MAX]>,
    report: R,
}

impl<R: VmaReport> Walk<R> {
    /// Begins with the address space that the process has now.
    pub(crate) fn new(process: &Process) -> Result<Self, Fault> {
        let space = process.address_space()?;
        Ok(Self {
            next: 0,
            current: None,
            walked: Walked {
                mm: space.id(),
                vmas: 0,
                moved: 0,
            },
            space,
            items: KVVec::with_capacity(R::ITEMS, gfp())?,
            emitted: 0,
            step: Step::More,
            names: KVVec::with_capacity(4 * NAME, gfp())?,
            lacks_names: false,
            path: KBox::new([0; PATH_MAX], gfp())?,
            report: R::new()?,
        })
    }

    /// Emits what was collected; where all of that was emitted, collects again.
    #[inline(never)]
    pub(crate) fn chunk(&mut self, process: &Process, text: &mut Text) -> Result<Step, Fault> {
        if self.emitted == self.items.len() {
            let view = process.viewpoint().ok_or(Fault::EXITED)?;
            self.items.clear();
            self.emitted = 0;
            self.forget_names();
            self.step = self.collect(&view)?;
        }
        for item in &self.items[self.emitted..] {
            if text.bytes().len() >= CHUNK_TEXT {
                return Ok(Step::More);
            }
            self.report.emit(item, &self.names, text)?;
            self.emitted += 1;
        }
        if self.step == Step::Done {
            self.report.write_summary(&self.walked, text)?;
        }
        Ok(self.step)
    }

    fn collect(&mut self, view: &Viewpoint) -> Result<Step, Fault> {
        // All memory is allocated here: who allocates may wait for reclaim, and the process would
        // wait with him for its mmap_lock.
        if core::mem::take(&mut self.lacks_names) {
            let more = self.names.capacity().min(CHUNK_NAMES);
            self.names
                .reserve(self.names.len().saturating_add(more), gfp())?;
        }
        self.report.prepare()?;
        let user = self.space.user().ok_or(Fault::EXITED)?;
        self.collect_from(&Vmas::of(user), view)
    }

    fn collect_from(&mut self, vmas: &Vmas, view: &Viewpoint) -> Result<Step, Fault> {
        let report = &mut self.report;
        let mut chunk = Chunk {
            space: &self.space,
            view,
            walked: &mut self.walked,
            items: &mut self.items,
            pieces: 0,
        };
        for _ in 0..CHUNK_VMAS {
            let (head, vma) = if let Some(head) = self.current.take() {
                let vma = vmas.lock_next(head.start)?;
                let vma = vma.filter(|vma| vma.start() == head.start && R::is_same(&head, vma));
                // Between two chunks it was split, merged or unmapped.
                chunk.walked.moved += u64::from(vma.is_none());
                (head, vma)
            } else {
                let Some(vma) = vmas.lock_next(self.next)? else {
                    return Ok(Step::Done);
                };
                let names = self.names.len();
                let full = self.names.capacity() - names < NAME;
                self.lacks_names = full && self.names.capacity() < CHUNK_NAMES;
                if chunk.room() < R::ROOM || full || chunk.pieces >= CHUNK_PIECES {
                    return Ok(Step::More);
                }
                // It was merged with what was emitted before this chunk.
                let merged = vma.start() < self.next;
                if !report.wants(&vma) {
                    self.next = vma.end();
                    chunk.walked.vmas += 1;
                    continue;
                }
                push_name(&vma, &mut self.names, &mut self.path);
                let head = Head {
                    start: vma.start(),
                    end: vma.end(),
                    perms: vma.perms(),
                    name: names..self.names.len(),
                };
                if report.begin(&vma, &head, &mut chunk)? == Step::More {
                    return Ok(Step::More);
                }
                self.next = vma.end();
                chunk.walked.vmas += 1;
                chunk.walked.moved += u64::from(merged);
                (head, Some(vma))
            };
            if let Some(vma) = vma {
                if report.go_on(&vma, &mut chunk)? == Step::More {
                    self.current = Some(head);
                    return Ok(Step::More);
                }
            }
            report.end(&head, &mut chunk)?;
        }
        Ok(Step::More)
    }

    /// Forgets the names of the last chunk, but for that of the current VMA.
    fn forget_names(&mut self) {
        let mut kept = 0;
        if let Some(head) = &mut self.current {
            kept = head.name.len();
            self.names.copy_within(head.name.clone(), 0);
            head.name = 0..kept;
        }
        self.names.truncate(kept);
    }
}

/// Appends a VMA's name. There is room for [`NAME`] bytes.
fn push_name(vma: &VmaRef, names: &mut KVVec<u8>, path: &mut [u8; PATH_MAX]) {
    let parts: [&[u8]; 3] = match vma.name(path) {
        Name::None => [b"", b"", b""],
        Name::Path(name) | Name::Special(name) => [b"", name, b""],
        Name::TooLong => [b"", b"[path too long]", b""],
        Name::Anon(name) => [b"[anon:", name, b"]"],
        Name::AnonShmem(name) => [b"[anon_shmem:", name, b"]"],
    };
    for byte in parts.into_iter().flatten() {
        let _ = names.push_within_capacity(*byte);
    }
}

/// How a VMA's chain began.
pub(in crate::report) enum Begun<'v> {
    /// It has none.
    Empty,
    /// There is no room for it.
    NoRoom,
    /// Its root is locked.
    At(RootGuard<'v>),
}

/// A position in a VMA's chain.
#[derive(Default)]
pub(crate) struct InChain {
    /// The anon_vmas in it, of which the first `emitted` were emitted.
    tokens: KVVec<Token>,
    emitted: usize,
    /// The length of a chain for which there was no room.
    lacks: usize,
}

impl InChain {
    /// Makes room for the chain that was too long for it.
    pub(in crate::report) fn prepare(&mut self) -> Result {
        if self.lacks > self.tokens.capacity() {
            self.tokens.clear();
            self.emitted = 0;
            self.tokens.reserve(self.lacks, gfp())?;
        }
        Ok(())
    }

    /// Goes to the beginning of a VMA's chain, and leaves its root locked. [`Begun::NoRoom`]: only
    /// after [`Self::prepare`].
    pub(in crate::report) fn begin<'v>(&mut self, vma: &'v VmaRef) -> Result<Begun<'v>> {
        self.tokens.clear();
        self.emitted = 0;
        let Some(root) = RootGuard::lock(vma)? else {
            return Ok(Begun::Empty);
        };
        let len = root.anon_vmas().count();
        if len > self.tokens.capacity() {
            self.lacks = len;
            return Ok(Begun::NoRoom);
        }
        for anon_vma in root.anon_vmas() {
            let _ = self.tokens.push_within_capacity(anon_vma.token());
        }
        Ok(Begun::At(root))
    }

    /// How many anon_vmas the chain had.
    pub(in crate::report) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Goes on along the chain for as long as `emit` is done with an anon_vma.
    pub(in crate::report) fn go_on<R: VmaReport>(
        &mut self,
        vma: &VmaRef,
        chunk: &mut Chunk<'_, R>,
        mut emit: impl FnMut(&AnonVma<'_>, &RootGuard<'_>, &mut Chunk<'_, R>) -> Step,
    ) -> Result<Step> {
        if self.emitted == self.tokens.len() {
            return Ok(Step::Done);
        }
        let Some(root) = RootGuard::lock(vma)? else {
            chunk.walked.moved += 1;
            self.emitted = self.tokens.len();
            return Ok(Step::Done);
        };
        let mut anon_vmas = root.anon_vmas().skip(self.emitted);
        while let Some(&token) = self.tokens.get(self.emitted) {
            let anon_vma = anon_vmas
                .next()
                .filter(|anon_vma| anon_vma.token() == token)
                .or_else(|| root.find(token));
            match anon_vma {
                Some(anon_vma) if emit(&anon_vma, &root, chunk) == Step::More => {
                    return Ok(Step::More);
                }
                Some(_) => {}
                None => chunk.walked.moved += 1,
            }
            self.emitted += 1;
        }
        Ok(Step::Done)
    }
}
