//! The report `anon_vma`: which address spaces share anonymous memory, and along which tree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use crate::body::{Body, check};
use crate::line::record;
use crate::{Error, Header, Hex, Id, MemberState, Relation, ReportName, Text};

/// A whole report `anon_vma`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnonVmaReport {
    /// Whose it is.
    pub header: Header,
    /// The process' VMAs that have a chain, in address order.
    pub vmas: Vec<Vma>,
    /// Every anon_vma of these chains. One that went away, or moved, while the report was made
    /// may be missing; of one that was read twice the later reading stands here.
    #[serde(serialize_with = "by_id")]
    pub anon_vmas: BTreeMap<Id, AnonVma>,
    /// The counts.
    pub summary: AnonVmaSummary,
}

/// A map by ids, which are strings as keys: null cannot be a key.
fn by_id<S: Serializer>(map: &BTreeMap<Id, AnonVma>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter().map(|(id, group)| (id.to_string(), group)))
}

record! {
    /// A virtual memory area of the process.
    Vma {
        /// First address.
        start: Hex,
        /// First address behind it.
        end: Hex,
        /// `rwxp` as in /proc/PID/maps: `-` for what is missing, `s` where shared.
        perms: String,
        /// Offset in the file, in pages.
        pgoff: Hex,
        /// Its key in the anon_vma trees, in pages.
        anon_pgoff: Hex,
        /// The anon_vma where its new pages go.
        anon_vma: Id,
        /// anon_vmas in its chain.
        chain: u64,
        /// The mapped file, `[heap]`, `[stack]`, `[anon:NAME]`, or empty for anonymous memory.
        name: Text,
    }
    plus {
        /// Its chain, in no promised order: see [`AnonVmaReport::chain`].
        avcs: Vec<Avc>,
    }
}

record! {
    /// An anon_vma_chain: the link between a VMA and one anon_vma.
    Avc {
        /// The VMA's first address.
        vma: Hex,
        /// The anon_vma.
        anon_vma: Id,
        /// Whether it is the VMA's own, not an ancestor's.
        own: bool,
        /// Whether the anon_vma's record stood behind this one.
        here: bool,
    }
}

record! {
    /// An anon_vma: a group of VMAs, in one process or more, that may share pages.
    AnonVma {
        /// Its name.
        id: Id,
        /// The tree's first anon_vma, which holds the lock; its own id at the root.
        root: Id,
        /// Its own id at the root.
        parent: Id,
        /// Steps to the root along `parent`; 0 at the root.
        depth: u64,
        /// anon_vmas whose parent it is; the root counts itself.
        children: u64,
        /// VMAs whose own anon_vma it is.
        active_vmas: u64,
        /// Reference count.
        refcount: i64,
        /// VMAs in its tree when its telling began; those told are in `member`. The two differ where the
        /// tree changed while the report was made.
        members: u64,
    }
    plus {
        /// The VMAs in its tree.
        member: Vec<Member>,
    }
}

record! {
    /// A VMA, in whatever process, that hangs in an anon_vma's tree.
    Member {
        /// The anon_vma.
        anon_vma: Id,
        /// The process that owns the address space; 0 unless `state` is `live`.
        pid: u32,
        /// Its name; empty where it is exiting.
        comm: Text,
        /// Whether it can be named.
        state: MemberState,
        /// The address space.
        mm: Id,
        /// First address, in that address space.
        start: Hex,
        /// First address behind it.
        end: Hex,
        /// Its key in the tree, in pages.
        anon_pgoff: Hex,
        /// What its process is to the one asked for.
        relation: Relation,
    }
}

record! {
    /// The counts of a report `anon_vma`.
    AnonVmaSummary {
        /// The report's name.
        report: ReportName,
        /// All VMAs of the process.
        vmas: u64,
        /// Those that have a chain.
        chained: u64,
        /// Links of all chains.
        avcs: u64,
        /// anon_vma records.
        anon_vmas: u64,
        /// member records.
        members: u64,
        /// Places that were gone when the module came back to them after a chunk.
        moved: u64,
        /// Records that a bound left out.
        cut: u64,
    }
}

impl AnonVmaReport {
    /// Parses a whole report; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (header, mut body) = Body::open(text, &ReportName::AnonVma)?;
        let mut vmas: Vec<Vma> = Vec::new();
        let mut anon_vmas = BTreeMap::new();
        let mut open: Option<AnonVma> = None;
        let (mut avcs, mut groups, mut members) = (0, 0, 0);
        let mut close = |group: Option<AnonVma>| {
            if let Some(group) = group {
                anon_vmas.insert(group.id, group);
            }
        };
        while let Some(line) = body.next()? {
            match line.kind {
                "vma" => vmas.push(Vma::from_line(line)?),
                "avc" => {
                    let avc = Avc::from_line(line)?;
                    let vma = vmas.last_mut().filter(|vma| vma.start == avc.vma);
                    let vma = vma.ok_or_else(|| line.error("an `avc` not under its `vma`"))?;
                    vma.avcs.push(avc);
                    avcs += 1;
                }
                "anon_vma" => {
                    close(open.replace(AnonVma::from_line(line)?));
                    groups += 1;
                }
                "member" => {
                    let member = Member::from_line(line)?;
                    let group = open.as_mut().filter(|group| group.id == member.anon_vma);
                    let group =
                        group.ok_or_else(|| line.error("a `member` not under its `anon_vma`"))?;
                    group.member.push(member);
                    members += 1;
                }
                _ => {}
            }
        }
        close(open);
        let last = body.summary()?;
        let summary = AnonVmaSummary::from_line(&last)?;
        let cut = summary.cut;
        check(&last, "chained", summary.chained, vmas.len(), cut)?;
        check(&last, "avcs", summary.avcs, avcs, cut)?;
        check(&last, "anon_vmas", summary.anon_vmas, groups, cut)?;
        check(&last, "members", summary.members, members, cut)?;
        let linked: u64 = vmas
            .iter()
            .map(|vma| vma.chain)
            .fold(0, u64::saturating_add);
        if summary.moved == 0 {
            check(&last, "avcs by `chain`", linked, avcs, cut)?;
        }
        Ok(Self {
            header,
            vmas,
            anon_vmas,
            summary,
        })
    }

    /// The VMA, among those with a chain, that holds an address.
    pub fn vma_at(&self, address: u64) -> Option<&Vma> {
        self.vmas
            .iter()
            .find(|vma| (vma.start.0..vma.end.0).contains(&address))
    }

    /// A VMA's chain from the root to its own anon_vma; those not in the report are left out.
    pub fn chain(&self, vma: &Vma) -> Vec<&AnonVma> {
        let ids = vma.avcs.iter().map(|avc| avc.anon_vma);
        let mut chain: Vec<_> = ids.filter_map(|id| self.anon_vmas.get(&id)).collect();
        chain.sort_by_key(|group| (group.depth, group.id));
        chain
    }
}

impl Vma {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }
}
