// SPDX-License-Identifier: GPL-2.0

//! The report `anon_vma`: a process' anon_vma chains, and every VMA that hangs in their trees.

#![deny(unsafe_code)]

use super::{gfp, push_name, text::Text, Fault, Step, CHUNK_TEXT};
use crate::object::{
    anon_vma::{is_chained, AnonVma, AnonVmaInfo, Mark, Member, RootGuard, Token},
    id::Id,
    mm::{AddressSpace, MemberVma, MmapGuard, VmaExt, PATH_MAX},
    process::{Owner, Process, Viewpoint},
};
use kernel::{mm::virt::VmaRef, prelude::*};

/// How many items are collected in one hold of the locks.
const CHUNK_ITEMS: usize = 2048;

/// How many bytes of names are collected in one hold of `mmap_lock`, the last name's end excepted.
const CHUNK_NAMES: usize = 65536;

/// How many VMAs are passed in one hold of `mmap_lock`.
const CHUNK_VMAS: usize = 1024;

/// How many members are visited in one hold of a root's lock, to find out where each anon_vma is told,
/// before the next chunk begins. One anon_vma alone may have more: then a hold is as long as the kernel's
/// own, when it looks for a page's mappings there.
const CHUNK_VISITS: usize = 65536;

/// How many of the members last told are remembered, where there are more with the same key than a chunk
/// holds: the walk goes on after the last of them that is still there.
const MARKS: usize = 32;

/// What was collected, in the order it is told.
enum Item {
    Vma {
        start: usize,
        end: usize,
        perms: [u8; 4],
        pgoff: usize,
        anon_pgoff: usize,
        own: Id,
        chain: usize,
        /// Where its name stands in [`Walk::names`].
        name: (usize, usize),
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

/// Items, in room that was made before any lock was taken.
struct Items(KVVec<Item>);

impl Items {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn room(&self) -> usize {
        CHUNK_ITEMS - self.0.len()
    }

    /// The caller has seen that there is room.
    fn push(&mut self, item: Item) {
        let _ = self.0.push_within_capacity(item);
    }
}

/// A place among an anon_vma's members, which are ordered by key, and by age where keys are equal.
#[derive(Default)]
struct Place {
    /// All members with lesser keys were told.
    key: usize,
    /// The last members told that have this key: from older to newer.
    last: [Option<Mark>; MARKS],
}

/// A place in a VMA's chain.
#[derive(Default)]
struct Inside {
    /// The VMA's start; none: no VMA is at hand.
    vma: Option<usize>,
    /// The anon_vmas in its chain, of which the first `index` were told.
    chain: KVVec<Token>,
    index: usize,
    /// None: the anon_vma at `index` is not begun.
    place: Option<Place>,
}

#[derive(Default)]
struct Totals {
    vmas: u64,
    chained: u64,
    avcs: u64,
    anon_vmas: u64,
    members: u64,
    moved: u64,
}

/// The report under way.
pub(crate) struct Walk {
    space: AddressSpace,
    /// The address at which it goes on, when it is not inside a VMA's chain.
    next: usize,
    inside: Inside,
    items: Items,
    /// How many of the items were told.
    told: usize,
    /// Whether more are to be collected when they are.
    step: Step,
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
            inside: Inside::default(),
            items: Items(KVVec::with_capacity(CHUNK_ITEMS, gfp())?),
            told: 0,
            step: Step::More,
            names: KVVec::new(),
            path: KBox::new([0; PATH_MAX], gfp())?,
            totals: Totals::default(),
        })
    }

    /// Tells what was collected; where all of that was told, collects anew.
    pub(crate) fn chunk(&mut self, process: &Process, text: &mut Text) -> Result<Step, Fault> {
        if self.told == self.items.len() {
            let view = process.viewpoint().ok_or(Fault::EXITED)?;
            self.items.0.clear();
            self.names.clear();
            self.told = 0;
            self.step = self.collect(&view)?;
        }
        for item in &self.items.0[self.told..] {
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
                .word("report", b"anon_vma")
                .number("vmas", totals.vmas)
                .number("chained", totals.chained)
                .number("avcs", totals.avcs)
                .number("anon_vmas", totals.anon_vmas)
                .number("members", totals.members)
                .number("moved", totals.moved)
                .number("cut", 0)
                .end()?;
        }
        Ok(self.step)
    }

    fn collect(&mut self, view: &Viewpoint) -> Result<Step, Fault> {
        let user = self.space.user().ok_or(Fault::EXITED)?;
        let lock = MmapGuard::lock(&user)?;
        let mut chunk = Chunk {
            space: &self.space,
            view,
            inside: &mut self.inside,
            items: &mut self.items,
            totals: &mut self.totals,
        };
        for _ in 0..CHUNK_VMAS {
            let vma = match chunk.inside.vma {
                Some(start) => lock.find_vma(start).filter(|vma| vma.start() == start),
                None => {
                    let Some(vma) = lock.find_vma(self.next) else {
                        return Ok(Step::Done);
                    };
                    if chunk.items.room() == 0 || self.names.len() >= CHUNK_NAMES {
                        return Ok(Step::More);
                    }
                    self.next = vma.end();
                    chunk.totals.vmas += 1;
                    if !is_chained(vma) {
                        continue;
                    }
                    let name = (
                        self.names.len(),
                        push_name(vma, &mut self.names, &mut self.path)?,
                    );
                    chunk.begin(vma, name)?;
                    Some(vma)
                }
            };
            match vma {
                Some(vma) => {
                    if !chunk.tell_chain(vma)? {
                        return Ok(Step::More);
                    }
                }
                // Between two chunks it was unmapped, or merged with the one before it.
                None => chunk.totals.moved += 1,
            }
            chunk.inside.vma = None;
        }
        Ok(Step::More)
    }
}

/// What is at hand while the locks are held.
struct Chunk<'a> {
    space: &'a AddressSpace,
    view: &'a Viewpoint,
    inside: &'a mut Inside,
    items: &'a mut Items,
    totals: &'a mut Totals,
}

impl Chunk<'_> {
    /// Begins a VMA. There is room for an item.
    fn begin(&mut self, vma: &VmaRef, name: (usize, usize)) -> Result<(), Fault> {
        let inside = &mut *self.inside;
        inside.chain.clear();
        inside.index = 0;
        inside.place = None;
        inside.vma = Some(vma.start());
        // Memory is allocated while the root's lock is not held. The chain stays as it is meanwhile:
        // mmap_lock is held.
        while let Some(root) = RootGuard::lock(vma)? {
            let len = root.anon_vmas().count();
            if len > inside.chain.capacity() {
                drop(root);
                inside.chain.reserve(len, gfp())?;
                continue;
            }
            for anon_vma in root.anon_vmas() {
                let _ = inside.chain.push_within_capacity(anon_vma.token());
            }
            self.items.push(Item::Vma {
                start: vma.start(),
                end: vma.end(),
                perms: vma.perms(),
                pgoff: vma.pgoff(),
                anon_pgoff: vma.anon_pgoff(),
                own: root.own().id(),
                chain: len,
                name,
            });
            break;
        }
        Ok(())
    }

    /// Tells a VMA's chain from where it was left. False: there is more, and no room.
    fn tell_chain(&mut self, vma: &VmaRef) -> Result<bool, Fault> {
        let Some(root) = RootGuard::lock(vma)? else {
            self.totals.moved += 1;
            return Ok(true);
        };
        let mut visits = 0;
        let mut anon_vmas = root.anon_vmas().skip(self.inside.index);
        while let Some(&token) = self.inside.chain.get(self.inside.index) {
            let anon_vma = anon_vmas
                .next()
                .filter(|anon_vma| anon_vma.token() == token)
                .or_else(|| root.anon_vmas().find(|other| other.token() == token));
            let mut place = self.inside.place.take();
            let Some(anon_vma) = anon_vma else {
                self.totals.moved += 1;
                self.inside.index += 1;
                continue;
            };
            if place.is_none() {
                if self.items.room() < 3 || visits >= CHUNK_VISITS {
                    return Ok(false);
                }
                let (here, visited) = anon_vma.is_first(vma, self.space);
                visits += visited;
                self.items.push(Item::Avc {
                    vma: vma.start(),
                    anon_vma: anon_vma.id(),
                    own: token == root.own().token(),
                    here,
                });
                if here {
                    self.items.push(Item::AnonVma {
                        id: anon_vma.id(),
                        info: anon_vma.info(),
                        members: anon_vma.members().count(),
                    });
                    place = Some(Place::default());
                }
            }
            if let Some(mut place) = place {
                if !self.tell_members(&anon_vma, &mut place) {
                    self.inside.place = Some(place);
                    return Ok(false);
                }
            }
            self.inside.index += 1;
        }
        Ok(true)
    }

    /// Tells an anon_vma's members from a place on. False: there is more, and no room.
    ///
    /// Members with the same key are told in one hold, so that the key alone says where to go on; only
    /// where they are more than a chunk holds must the last of them be found again.
    fn tell_members(&mut self, anon_vma: &AnonVma<'_>, place: &mut Place) -> bool {
        let mut among = place.last.iter().any(Option::is_some);
        let mut told = 0;
        if among {
            told = place.find(anon_vma).unwrap_or_else(|| {
                // All that was told last is gone, and with it the place. Those that are left with this
                // key are passed over.
                self.totals.moved += 1;
                usize::MAX
            });
        }
        let mut recent: [Option<Member<'_>>; MARKS] = [const { None }; MARKS];
        // Where the members begin that have the key at hand.
        let mut group = self.items.len();
        let mut count = 0;
        for member in anon_vma.members_from(place.key) {
            let vma = member.linked.values();
            if vma.key != place.key {
                place.key = vma.key;
                place.last = Default::default();
                among = false;
                told = 0;
                group = self.items.len();
                count = 0;
            }
            if told > 0 {
                told -= 1;
                continue;
            }
            if self.items.room() == 0 {
                if !among && group > 0 {
                    // The next chunk begins with all of them.
                    self.items.0.truncate(group);
                    place.last = Default::default();
                } else {
                    place.remember(&recent, count);
                }
                return false;
            }
            self.items.push(Item::Member {
                anon_vma: anon_vma.id(),
                vma,
                owner: member.linked.owner(self.view, self.space),
            });
            recent[count % MARKS] = Some(member);
            count += 1;
        }
        true
    }
}

impl Place {
    /// How many members with the key stand before the first that was not told; none: nobody knows.
    fn find(&self, anon_vma: &AnonVma<'_>) -> Option<usize> {
        let group = || {
            anon_vma
                .members_from(self.key)
                .take_while(|member| member.linked.values().key == self.key)
        };
        // Mostly the very last is still there.
        let newest = self.last.iter().rev().flatten().next()?;
        let mut found = group().position(|member| member.is_marked(newest));
        if found.is_none() {
            for (at, member) in group().enumerate() {
                if self
                    .last
                    .iter()
                    .flatten()
                    .any(|mark| member.is_marked(mark))
                {
                    found = Some(at);
                }
            }
        }
        found.map(|at| at + 1)
    }

    /// Keeps the last of `count` members, which are in a ring.
    fn remember(&mut self, recent: &[Option<Member<'_>>; MARKS], count: usize) {
        if count == 0 {
            return;
        }
        self.last = Default::default();
        for (to, at) in (count.saturating_sub(MARKS)..count).enumerate() {
            self.last[to] = recent[at % MARKS].as_ref().and_then(Member::mark);
        }
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
    fn tell(&self, names: &[u8], text: &mut Text) -> Result {
        match self {
            Self::Vma {
                start,
                end,
                perms,
                pgoff,
                anon_pgoff,
                own,
                chain,
                name,
            } => text
                .record("vma")
                .hex("start", *start)
                .hex("end", *end)
                .word("perms", perms)
                .hex("pgoff", *pgoff)
                .hex("anon_pgoff", *anon_pgoff)
                .id("anon_vma", *own)
                .number("chain", *chain as u64)
                .string("name", &names[name.0..name.1])
                .end(),
            Self::Avc {
                vma,
                anon_vma,
                own,
                here,
            } => text
                .record("avc")
                .hex("vma", *vma)
                .id("anon_vma", *anon_vma)
                .flag("own", *own)
                .flag("here", *here)
                .end(),
            Self::AnonVma { id, info, members } => text
                .record("anon_vma")
                .id("id", *id)
                .id("root", info.root)
                .id("parent", info.parent)
                .number("depth", info.depth.into())
                .number("children", info.children as u64)
                .number("active_vmas", info.active_vmas as u64)
                .signed("refcount", info.refcount.into())
                .number("members", *members as u64)
                .end(),
            Self::Member {
                anon_vma,
                vma,
                owner,
            } => owner
                .tell(text.record("member").id("anon_vma", *anon_vma), vma.mm)
                .hex("start", vma.start)
                .hex("end", vma.end)
                .hex("anon_pgoff", vma.key)
                .end(),
        }
    }
}
