// SPDX-License-Identifier: GPL-2.0

//! The report `anon_vma`: a process' anon_vma chains, and every VMA that hangs in their trees.

#![deny(unsafe_code)]

use crate::object::{
    memory::address_space::{MemberVma, VmaExt, VmaGuard},
    memory::anon_vma::{AnonVma, AnonVmaInfo, Mark, Member, Token},
    process::Owner,
    sync::id::Id,
};
use crate::records::{common::ReportName, memory};
use crate::report::{
    gfp,
    memory::walk::{self, Begun, Head, InChain, VmaReport, Walked},
    text::Text,
    Fault, Step,
};
use kernel::{mm::virt::VmaRef, prelude::*};

/// How many records a chunk has.
const ITEMS: usize = 2048;

/// How many members are visited in one hold of a root's lock, to count them and to find out where
/// each anon_vma is emitted, before the next chunk begins. One anon_vma alone may have more: then a
/// hold is as long as the kernel's own, when it looks for a page's mappings there.
const CHUNK_VISITS: usize = 65536;

/// How many of the members that were emitted last are marked, where there are more with the same
/// key than a chunk holds: the walk continues after the last of them that is still there.
const MARKS: usize = 32;

/// What was collected, in the order in which it is emitted.
pub(crate) enum Item {
    Vma {
        head: Head,
        pgoff: usize,
        anon_pgoff: usize,
        own: Id,
        chain: usize,
    },
    Avc {
        vma: usize,
        anon_vma: Id,
        own: bool,
        here: bool,
    },
    AnonVma {
        id: Id,
        info: AnonVmaInfo,
        members: usize,
    },
    Member {
        anon_vma: Id,
        vma: MemberVma,
        owner: Owner,
    },
}

/// A position among an anon_vma's members, which are ordered by key, and by age where keys are
/// equal.
#[derive(Clone, Copy, Default)]
struct Cursor {
    /// All members with lesser keys were emitted.
    key: usize,
    /// Some of those that have this key were emitted, too, from older to newer. The last of them
    /// are marked.
    within: bool,
}

#[derive(Default)]
struct Totals {
    chained: u64,
    avcs: u64,
    anon_vmas: u64,
    members: u64,
}

/// The report under way.
pub(crate) type Walk = walk::Walk<Members>;

type Chunk<'a> = walk::Chunk<'a, Members>;

/// The current VMA, and what was emitted.
pub(crate) struct Members {
    chain: InChain,
    /// Where it stopped among the members of an anon_vma in the chain.
    cursor: Option<(Token, Cursor)>,
    /// Members that were emitted last.
    marks: KVVec<Mark>,
    /// The anon_vmas that were emitted.
    emitted: Emitted,
    totals: Totals,
}

impl VmaReport for Members {
    type Item = Item;
    const ITEMS: usize = ITEMS;
    const ROOM: usize = 1;

    fn new() -> Result<Self, Fault> {
        Ok(Self {
            chain: InChain::default(),
            cursor: None,
            marks: KVVec::with_capacity(MARKS, gfp())?,
            emitted: Emitted::new()?,
            totals: Totals::default(),
        })
    }

    /// Its chain is what matters, wherever it ends by now.
    fn is_same(_head: &Head, _vma: &VmaRef) -> bool {
        true
    }

    fn prepare(&mut self) -> Result {
        self.emitted.prepare()?;
        self.chain.prepare()
    }

    fn begin(&mut self, vma: &VmaRef, head: &Head, chunk: &mut Chunk<'_>) -> Result<Step> {
        self.cursor = None;
        match self.chain.begin(vma)? {
            Begun::NoRoom => return Ok(Step::More),
            Begun::Empty => {}
            Begun::At(root) => chunk.push(Item::Vma {
                head: head.clone(),
                pgoff: vma.pgoff(),
                anon_pgoff: vma.anon_pgoff(),
                own: root.own().id(),
                chain: self.chain.len(),
            }),
        }
        Ok(Step::Done)
    }

    fn go_on(&mut self, vma: &VmaGuard<'_>, chunk: &mut Chunk<'_>) -> Result<Step> {
        let Self {
            chain,
            cursor: at,
            marks,
            emitted,
            ..
        } = self;
        let mut visits = 0;
        chain.go_on(vma, chunk, |anon_vma, root, chunk| {
            let token = anon_vma.token();
            let mut cursor = at.take().filter(|(of, _)| *of == token);
            if cursor.is_none() {
                if chunk.room() < 3 || visits >= CHUNK_VISITS {
                    return Step::More;
                }
                let here = emitted.insert(token).unwrap_or_else(|| {
                    let (first, visited) = anon_vma.is_first(vma, chunk.space);
                    visits += visited;
                    first
                });
                chunk.push(Item::Avc {
                    vma: vma.start(),
                    anon_vma: anon_vma.id(),
                    own: token == root.own().token(),
                    here,
                });
                if here {
                    let members = anon_vma.members().count();
                    visits += members;
                    chunk.push(Item::AnonVma {
                        id: anon_vma.id(),
                        info: anon_vma.info(),
                        members,
                    });
                    cursor = Some((token, Cursor::default()));
                }
            }
            let Some((_, mut cursor)) = cursor else {
                return Step::Done;
            };
            let step = cursor.emit_members(marks, anon_vma, chunk);
            if step == Step::More {
                *at = Some((token, cursor));
            }
            step
        })
    }

    fn emit(&mut self, item: &Item, names: &[u8], text: &mut Text) -> Result {
        self.totals.count(item);
        item.emit(names, text)
    }

    fn write_summary(&self, walked: &Walked, text: &mut Text) -> Result {
        let totals = &self.totals;
        let record = memory::AnonVmaSummary {
            report: ReportName::ANON_VMA,
            vmas: walked.vmas.into(),
            chained: totals.chained.into(),
            avcs: totals.avcs.into(),
            anon_vmas: totals.anon_vmas.into(),
            members: totals.members.into(),
            moved: walked.moved.into(),
            cut: 0u64.into(),
        };
        text.put(&record, &[])
    }
}

impl Cursor {
    /// Emits an anon_vma's members from this position on. More: there is no room.
    ///
    /// Members with the same key are emitted in one hold, so that the key alone says where to go
    /// on; only where they are more than a chunk holds, the last of them have to be found again.
    fn emit_members(
        &mut self,
        marks: &mut KVVec<Mark>,
        anon_vma: &AnonVma<'_>,
        chunk: &mut Chunk<'_>,
    ) -> Step {
        let mut within = self.within;
        let mut skipped = 0;
        if within {
            skipped = self.find(marks, anon_vma).unwrap_or_else(|| {
                // All that were marked are gone, and with them the position. The others with this
                // key are skipped.
                chunk.walked.moved += 1;
                usize::MAX
            });
        }
        // Where the members begin that have the current key, and how many of them were passed.
        let mut group = chunk.len();
        let mut passed = 0;
        for member in anon_vma.members_from(self.key) {
            let vma = member.linked.values();
            if vma.key != self.key {
                self.key = vma.key;
                within = false;
                skipped = 0;
                group = chunk.len();
                passed = 0;
            }
            if passed < skipped {
                passed += 1;
                continue;
            }
            if chunk.room() == 0 {
                self.within = within || group == 0;
                if self.within {
                    self.mark(marks, anon_vma, passed);
                } else {
                    // The next chunk begins with all of them.
                    chunk.truncate(group);
                }
                return Step::More;
            }
            chunk.push(Item::Member {
                anon_vma: anon_vma.id(),
                vma,
                owner: member.linked.owner(chunk.view, chunk.space),
            });
            passed += 1;
        }
        Step::Done
    }

    /// The members that have the current key.
    fn group<'g>(&self, anon_vma: &AnonVma<'g>) -> impl Iterator<Item = Member<'g>> {
        let key = self.key;
        let from = anon_vma.members_from(key);
        from.take_while(move |member| member.linked.values().key == key)
    }

    /// How many members with the key come before the first that was not emitted; none if that is
    /// not known any more.
    fn find(&self, marks: &[Mark], anon_vma: &AnonVma<'_>) -> Option<usize> {
        // Mostly the very last is still there.
        let newest = marks.last()?;
        let mut found = self
            .group(anon_vma)
            .position(|member| member.is_marked(newest));
        if found.is_none() {
            for (at, member) in self.group(anon_vma).enumerate() {
                if marks.iter().any(|mark| member.is_marked(mark)) {
                    found = Some(at);
                }
            }
        }
        found.map(|at| at + 1)
    }

    /// Marks the last of the first `passed` members with the key.
    fn mark(&self, marks: &mut KVVec<Mark>, anon_vma: &AnonVma<'_>, passed: usize) {
        let first = passed.saturating_sub(MARKS);
        marks.clear();
        for member in self.group(anon_vma).take(passed).skip(first) {
            if let Some(mark) = member.mark() {
                let _ = marks.push_within_capacity(mark);
            }
        }
    }
}

/// The anon_vmas that a report has emitted: a hash table with open addressing.
struct Emitted {
    slots: KVVec<Option<Token>>,
    used: usize,
}

impl Emitted {
    const FIRST: usize = 2048;

    /// 256 KiB of them. What comes after that is emitted under the VMA that comes first in the
    /// anon_vma's own tree, which may change while the report is read.
    const MOST: usize = 16384;

    fn new() -> Result<Self> {
        Ok(Self {
            slots: KVVec::from_elem(None, Self::FIRST, gfp())?,
            used: 0,
        })
    }

    /// Makes room for as many as a chunk emits, with half of the slots empty. No lock is held.
    fn prepare(&mut self) -> Result {
        let slots = self.slots.len();
        if slots >= Self::MOST || (self.used + ITEMS / 2) * 2 <= slots {
            return Ok(());
        }
        let larger = KVVec::from_elem(None, slots * 2, gfp())?;
        let old = core::mem::replace(&mut self.slots, larger);
        self.used = 0;
        for token in old.iter().copied().flatten() {
            self.insert(token);
        }
        Ok(())
    }

    /// Whether it was not there yet; none if there is no room for it.
    fn insert(&mut self, token: Token) -> Option<bool> {
        let slots = self.slots.len();
        for at in (0..slots).map(|step| token.hash().wrapping_add(step) & (slots - 1)) {
            match self.slots.get_mut(at)? {
                Some(other) if *other == token => return Some(false),
                Some(_) => {}
                None if (self.used + 1) * 2 > slots => return None,
                free => {
                    *free = Some(token);
                    self.used += 1;
                    return Some(true);
                }
            }
        }
        None
    }
}

impl Totals {
    fn count(&mut self, item: &Item) {
        match item {
            Item::Vma { .. } => self.chained += 1,
            Item::Avc { .. } => self.avcs += 1,
            Item::AnonVma { .. } => self.anon_vmas += 1,
            Item::Member { .. } => self.members += 1,
        }
    }
}

impl Item {
    fn emit(&self, names: &[u8], text: &mut Text) -> Result {
        match self {
            Self::Vma {
                head,
                pgoff,
                anon_pgoff,
                own,
                chain,
            } => {
                let (name, bytes) = head.name(names);
                let record = memory::Vma {
                    bounds: head.bounds(),
                    pgoff: (*pgoff).into(),
                    anon_pgoff: (*anon_pgoff).into(),
                    anon_vma: (*own).into(),
                    chain: (*chain).into(),
                    name,
                };
                text.put(&record, &[bytes])
            }
            Self::Avc {
                vma,
                anon_vma,
                own,
                here,
            } => {
                let record = memory::Avc {
                    vma: (*vma).into(),
                    anon_vma: (*anon_vma).into(),
                    own: (*own).into(),
                    here: (*here).into(),
                };
                text.put(&record, &[])
            }
            Self::AnonVma { id, info, members } => {
                let record = memory::AnonVma {
                    id: (*id).into(),
                    root: info.root.into(),
                    parent: info.parent.into(),
                    depth: info.depth.into(),
                    children: info.children.into(),
                    active_vmas: info.active_vmas.into(),
                    refcount: info.refcount.into(),
                    members: (*members).into(),
                };
                text.put(&record, &[])
            }
            Self::Member {
                anon_vma,
                vma,
                owner,
            } => {
                let record = memory::Member {
                    anon_vma: (*anon_vma).into(),
                    owner: owner.record(vma.mm),
                    start: vma.start.into(),
                    end: vma.end.into(),
                    anon_pgoff: vma.key.into(),
                };
                text.put(&record, &[])
            }
        }
    }
}
