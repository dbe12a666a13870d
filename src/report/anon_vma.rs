// SPDX-License-Identifier: GPL-2.0

//! The report `anon_vma`: a process' anon_vma chains, and every VMA that hangs in their trees.

#![deny(unsafe_code)]

use super::{
    text::{Line, Text},
    walk::{self, Head, InChain, VmaReport, Walked},
    Fault, Step,
};
use crate::object::{
    anon_vma::{AnonVma, AnonVmaInfo, Mark, Member, Token},
    id::Id,
    mm::{MemberVma, VmaExt},
    process::Owner,
};
use kernel::{mm::virt::VmaRef, prelude::*};

/// How many members are visited in one hold of a root's lock, to find out where each anon_vma is told,
/// before the next chunk begins. One anon_vma alone may have more: then a hold is as long as the kernel's
/// own, when it looks for a page's mappings there.
const CHUNK_VISITS: usize = 65536;

/// How many of the members last told are remembered, where there are more with the same key than a chunk
/// holds: the walk goes on after the last of them that is still there.
const MARKS: usize = 32;

/// What was collected, in the order it is told.
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

/// A place among an anon_vma's members, which are ordered by key, and by age where keys are equal.
#[derive(Default)]
struct Place {
    /// All members with lesser keys were told.
    key: usize,
    /// The last members told that have this key: from older to newer.
    last: [Option<Mark>; MARKS],
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

/// The VMA at hand, and what was told.
#[derive(Default)]
pub(crate) struct Members {
    chain: InChain,
    /// Where it stopped among the members of an anon_vma in the chain.
    place: Option<(Token, Place)>,
    totals: Totals,
}

impl VmaReport for Members {
    type Item = Item;
    const NAME: &'static [u8] = b"anon_vma";
    const ITEMS: usize = 2048;
    const ROOM: usize = 1;

    fn new() -> Result<Self, Fault> {
        Ok(Self::default())
    }

    /// Its chain is what matters, wherever it ends by now.
    fn is_same(_head: &Head, _vma: &VmaRef) -> bool {
        true
    }

    fn begin(&mut self, vma: &VmaRef, head: &Head, chunk: &mut Chunk<'_>) -> Result {
        self.place = None;
        if let Some(root) = self.chain.begin(vma)? {
            chunk.push(Item::Vma {
                head: head.clone(),
                pgoff: vma.pgoff(),
                anon_pgoff: vma.anon_pgoff(),
                own: root.own().id(),
                chain: self.chain.len(),
            });
        }
        Ok(())
    }

    fn go_on(&mut self, vma: &VmaRef, chunk: &mut Chunk<'_>) -> Result<Step> {
        let at = &mut self.place;
        let mut visits = 0;
        self.chain.go_on(vma, chunk, |anon_vma, root, chunk| {
            let token = anon_vma.token();
            let mut place = at.take().filter(|(of, _)| *of == token);
            if place.is_none() {
                if chunk.room() < 3 || visits >= CHUNK_VISITS {
                    return Step::More;
                }
                let (here, visited) = anon_vma.is_first(vma, chunk.space);
                visits += visited;
                chunk.push(Item::Avc {
                    vma: vma.start(),
                    anon_vma: anon_vma.id(),
                    own: token == root.own().token(),
                    here,
                });
                if here {
                    chunk.push(Item::AnonVma {
                        id: anon_vma.id(),
                        info: anon_vma.info(),
                        members: anon_vma.members().count(),
                    });
                    place = Some((token, Place::default()));
                }
            }
            let Some((_, mut place)) = place else {
                return Step::Done;
            };
            let step = place.tell_members(anon_vma, chunk);
            if step == Step::More {
                *at = Some((token, place));
            }
            step
        })
    }

    fn tell(&mut self, item: &Item, names: &[u8], text: &mut Text) -> Result {
        self.totals.count(item);
        item.tell(names, text)
    }

    fn sum_up<'t>(&self, line: Line<'t>, walked: &Walked) -> Line<'t> {
        let totals = &self.totals;
        line.number("vmas", walked.vmas)
            .number("chained", totals.chained)
            .number("avcs", totals.avcs)
            .number("anon_vmas", totals.anon_vmas)
            .number("members", totals.members)
            .number("moved", walked.moved)
            .number("cut", 0)
    }
}

impl Place {
    /// Tells an anon_vma's members from the place on. More: there is no room.
    ///
    /// Members with the same key are told in one hold, so that the key alone says where to go on; only
    /// where they are more than a chunk holds must the last of them be found again.
    fn tell_members(&mut self, anon_vma: &AnonVma<'_>, chunk: &mut Chunk<'_>) -> Step {
        let mut among = self.last.iter().any(Option::is_some);
        let mut told = 0;
        if among {
            told = self.find(anon_vma).unwrap_or_else(|| {
                // All that was told last is gone, and with it the place. Those that are left with this
                // key are passed over.
                chunk.walked.moved += 1;
                usize::MAX
            });
        }
        let mut recent: [Option<Member<'_>>; MARKS] = [const { None }; MARKS];
        // Where the members begin that have the key at hand.
        let mut group = chunk.len();
        let mut count = 0;
        for member in anon_vma.members_from(self.key) {
            let vma = member.linked.values();
            if vma.key != self.key {
                self.key = vma.key;
                self.last = Default::default();
                among = false;
                told = 0;
                group = chunk.len();
                count = 0;
            }
            if told > 0 {
                told -= 1;
                continue;
            }
            if chunk.room() == 0 {
                if !among && group > 0 {
                    // The next chunk begins with all of them.
                    chunk.truncate(group);
                    self.last = Default::default();
                } else {
                    self.remember(&recent, count);
                }
                return Step::More;
            }
            chunk.push(Item::Member {
                anon_vma: anon_vma.id(),
                vma,
                owner: member.linked.owner(chunk.view, chunk.space),
            });
            recent[count % MARKS] = Some(member);
            count += 1;
        }
        Step::Done
    }

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
                head,
                pgoff,
                anon_pgoff,
                own,
                chain,
            } => {
                let line = head
                    .tell(text, "vma")
                    .hex("pgoff", *pgoff)
                    .hex("anon_pgoff", *anon_pgoff)
                    .id("anon_vma", *own)
                    .number("chain", *chain as u64);
                head.tell_name(line, names)
            }
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
