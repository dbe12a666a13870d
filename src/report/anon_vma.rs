// SPDX-License-Identifier: GPL-2.0

//! The report `anon_vma`: a process' anon_vma chains, and every VMA that hangs in their trees.

#![deny(unsafe_code)]

use super::{text::Text, Fault, Step};
use crate::object::{
    anon_vma::{AnonVma, AnonVmaInfo, RootGuard},
    id::Id,
    mm::{AddressSpace, MemberVma, MmapGuard, Name, VmaExt, PATH_MAX},
    process::{Owner, OwnerState, Process, Relation, Viewpoint},
};
use kernel::{mm::virt::VmaRef, prelude::*};

/// How many items are collected in one hold of `mmap_lock`, unless one VMA alone has more.
const CHUNK_ITEMS: usize = 2048;

/// How many VMAs are passed in one hold of `mmap_lock`.
const CHUNK_VMAS: usize = 1024;

/// How many members of one anon_vma are told.
const MAX_MEMBERS: usize = 65536;

/// How many items are told of one VMA, members of all its anon_vmas taken together.
const MAX_ITEMS: usize = 4 * MAX_MEMBERS;

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
        shown: usize,
    },
    Member {
        anon_vma: Id,
        vma: MemberVma,
        owner: Owner,
    },
}

/// Items in room that was made before the locks were taken.
struct Items {
    items: KVVec<Item>,
    /// How many there would be, had all of the VMA at hand found room.
    wanted: usize,
}

impl Items {
    fn push(&mut self, item: Item) {
        self.wanted += 1;
        // Past the room it is only counted: the VMA is then collected again, with more room.
        let _ = self.items.push_within_capacity(item);
    }

    fn overflowed(&self) -> bool {
        self.wanted > self.items.len()
    }

    /// Forgets all after the first `len`.
    fn truncate(&mut self, len: usize) {
        self.items.truncate(len);
        self.wanted = len;
    }
}

#[derive(Default)]
struct Totals {
    vmas: u64,
    chained: u64,
    avcs: u64,
    anon_vmas: u64,
    members: u64,
    cut: u64,
}

/// The report under way.
pub(crate) struct Walk {
    space: AddressSpace,
    /// The address at which it goes on.
    next: usize,
    items: Items,
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
            items: Items {
                items: KVVec::with_capacity(CHUNK_ITEMS, GFP_KERNEL)?,
                wanted: 0,
            },
            names: KVVec::new(),
            path: KBox::new([0; PATH_MAX], GFP_KERNEL)?,
            totals: Totals::default(),
        })
    }

    /// Collects as many VMAs as a chunk holds, then tells them.
    pub(crate) fn chunk(&mut self, process: &Process, text: &mut Text) -> Result<Step, Fault> {
        let step = loop {
            let view = process.viewpoint().ok_or(Fault::EXITED)?;
            if let Some(step) = self.collect(&view)? {
                break step;
            }
            // The VMA at hand alone has more than there is room for.
            let room = self.items.wanted;
            self.items.truncate(0);
            self.items.items.reserve(room, GFP_KERNEL)?;
        };
        text.reserve(self.items.items.len() * 128)?;
        for item in self.items.items.iter() {
            item.tell(&self.names, text)?;
        }
        if step == Step::Done {
            let totals = &self.totals;
            text.record("summary")
                .word("report", b"anon_vma")
                .number("vmas", totals.vmas)
                .number("chained", totals.chained)
                .number("avcs", totals.avcs)
                .number("anon_vmas", totals.anon_vmas)
                .number("members", totals.members)
                .number("cut", totals.cut)
                .end()?;
        }
        Ok(step)
    }

    /// None: not even one VMA found room.
    fn collect(&mut self, view: &Viewpoint) -> Result<Option<Step>, Fault> {
        self.items.truncate(0);
        self.names.clear();
        let user = self.space.user().ok_or(Fault::EXITED)?;
        let lock = MmapGuard::lock(&user)?;
        for _ in 0..CHUNK_VMAS {
            let Some(vma) = lock.find_vma(self.next) else {
                return Ok(Some(Step::Done));
            };
            let before = self.items.items.len();
            let chained = self.collect_vma(vma, view)?;
            if self.items.overflowed() {
                if before == 0 {
                    return Ok(None);
                }
                self.items.truncate(before);
                return Ok(Some(Step::More));
            }
            self.totals.count(vma, chained, &self.items.items[before..]);
            self.next = vma.end();
        }
        Ok(Some(Step::More))
    }

    /// False if the VMA has no chain.
    fn collect_vma(&mut self, vma: &VmaRef, view: &Viewpoint) -> Result<bool, Fault> {
        // Memory is allocated before the root's lock is taken.
        let from = self.names.len();
        let Some(root) = ({
            match vma.name(&mut self.path) {
                Name::None => {}
                Name::Path(name) | Name::Special(name) => {
                    self.names.extend_from_slice(name, GFP_KERNEL)?;
                }
                Name::TooLong => self
                    .names
                    .extend_from_slice(b"[path too long]", GFP_KERNEL)?,
                Name::Anon(name) => {
                    self.names.extend_from_slice(b"[anon:", GFP_KERNEL)?;
                    self.names.extend_from_slice(name, GFP_KERNEL)?;
                    self.names.extend_from_slice(b"]", GFP_KERNEL)?;
                }
            }
            RootGuard::lock(vma)?
        }) else {
            self.names.truncate(from);
            return Ok(false);
        };
        self.items.push(Item::Vma {
            start: vma.start(),
            end: vma.end(),
            perms: vma.perms(),
            pgoff: vma.pgoff(),
            anon_pgoff: vma.anon_pgoff(),
            own: root.own(),
            chain: root.anon_vmas().count(),
            name: (from, self.names.len()),
        });
        let mut budget = MAX_ITEMS;
        for anon_vma in root.anon_vmas() {
            let here = anon_vma.is_first(vma, &self.space);
            self.items.push(Item::Avc {
                vma: vma.start(),
                anon_vma: anon_vma.id(),
                own: anon_vma.id() == root.own(),
                here,
            });
            if here {
                let shown = self.collect_members(&anon_vma, view, budget.min(MAX_MEMBERS));
                budget -= shown;
            }
        }
        Ok(true)
    }

    /// Returns how many members are told.
    fn collect_members(&mut self, anon_vma: &AnonVma<'_>, view: &Viewpoint, most: usize) -> usize {
        let members = anon_vma.members().count();
        let shown = members.min(most);
        self.items.push(Item::AnonVma {
            id: anon_vma.id(),
            info: anon_vma.info(),
            members,
            shown,
        });
        for member in anon_vma.members().take(shown) {
            if self.items.overflowed() {
                self.items.wanted += 1;
                continue;
            }
            self.items.push(Item::Member {
                anon_vma: anon_vma.id(),
                vma: member.vma(),
                owner: member.owner(view, &self.space),
            });
        }
        shown
    }
}

impl Totals {
    fn count(&mut self, _vma: &VmaRef, chained: bool, items: &[Item]) {
        self.vmas += 1;
        self.chained += u64::from(chained);
        for item in items {
            match item {
                Item::Vma { .. } => {}
                Item::Avc { .. } => self.avcs += 1,
                Item::AnonVma { members, shown, .. } => {
                    self.anon_vmas += 1;
                    self.cut += (members - shown) as u64;
                }
                Item::Member { .. } => self.members += 1,
            }
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
            Self::AnonVma {
                id,
                info,
                members,
                shown,
            } => text
                .record("anon_vma")
                .id("id", *id)
                .id("root", info.root)
                .id("parent", info.parent)
                .number("depth", info.depth.into())
                .number("children", info.children as u64)
                .number("active_vmas", info.active_vmas as u64)
                .signed("refcount", info.refcount.into())
                .number("members", *members as u64)
                .number("shown", *shown as u64)
                .end(),
            Self::Member {
                anon_vma,
                vma,
                owner,
            } => text
                .record("member")
                .id("anon_vma", *anon_vma)
                .signed("pid", owner.pid.into())
                .string("comm", owner.comm.bytes())
                .word(
                    "state",
                    match owner.state {
                        OwnerState::Live => b"live",
                        OwnerState::Forking => b"forking",
                        OwnerState::Exiting => b"exiting",
                    },
                )
                .id("mm", vma.mm)
                .hex("start", vma.start)
                .hex("end", vma.end)
                .hex("anon_pgoff", vma.anon_pgoff)
                .word(
                    "relation",
                    match owner.relation {
                        Relation::Itself => b"self",
                        Relation::Ancestor => b"ancestor",
                        Relation::Descendant => b"descendant",
                        Relation::Other => b"other",
                        Relation::Unknown => b"unknown",
                    },
                )
                .end(),
        }
    }
}
