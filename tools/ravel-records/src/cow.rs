//! The report `cow`: how much of a process' private memory is its own, and who shares the rest.

use serde::{Deserialize, Serialize};

use crate::body::{Body, check};
use crate::line::record;
use crate::{Error, Header, Hex, Id, MemberState, Relation, ReportName, Text};

/// A whole report `cow`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CowReport {
    /// Whose it is.
    pub header: Header,
    /// The private mappings, in address order.
    pub vmas: Vec<Cow>,
    /// The counts.
    pub summary: CowSummary,
}

record! {
    /// Numbers of pages, by what the entries of a page table hold.
    #[derive(Default)]
    PageCounts {
        /// Pages of anonymous memory.
        anon: u64,
        /// Of these, mapped by this entry alone.
        exclusive: u64,
        /// Of these, mapped by others too.
        shared: u64,
        /// Of `anon`, first written in this VMA, or copied into it since the fork.
        own: u64,
        /// Of `anon`, in the VMA's own anon_vma, which fork() may have taken over from an ancestor that has exited:
        /// one of `own` or `inherited`. None of a module that counts them as `own`.
        unknown: Option<u64>,
        /// Of `anon`, from before the fork.
        inherited: u64,
        /// Of `anon`, mapped by a pmd.
        huge: u64,
        /// Pages of the mapped file, not copied.
        file: u64,
        /// The page of zeroes.
        zero: u64,
        /// Anonymous memory that KSM has merged.
        ksm: u64,
        /// Swapped out.
        swap: u64,
        /// Being moved.
        migration: u64,
        /// Anything else that is not empty.
        other: u64,
    }
}

record! {
    /// A private mapping.
    Cow {
        /// First address.
        start: Hex,
        /// First address behind it.
        end: Hex,
        /// `rwxp` as in /proc/PID/maps.
        perms: String,
        /// Times that it had changed when the module came back to it.
        moved: u64,
        /// The mapped file, `[heap]`, `[stack]`, `[anon:NAME]`, or empty for anonymous memory.
        name: Text,
    }
    plus {
        /// What is there; in JSON these keys stand among the others.
        #[serde(flatten)]
        pages: PageCounts,
        /// With whom the shared pages are shared.
        shares: Vec<Share>,
    }
}

record! {
    /// Another address space that maps some of a VMA's pages.
    Share {
        /// The VMA's first address, in the process asked for.
        vma: Hex,
        /// The process that owns the address space; 0 unless `state` is `live`.
        pid: u32,
        /// Its name; empty where it is exiting.
        comm: Text,
        /// Whether it can be named.
        state: MemberState,
        /// The address space.
        mm: Id,
        /// What its process is to the one asked for.
        relation: Relation,
        /// How many of the pages.
        pages: u64,
    }
}

record! {
    /// The counts of a report `cow`.
    CowSummary {
        /// The report's name.
        report: ReportName,
        /// All VMAs of the process.
        vmas: u64,
        /// cow records.
        told: u64,
        /// Shared mappings, which are passed over.
        public: u64,
        /// Private mappings of hugetlbfs, which are passed over.
        hugetlb: u64,
        /// Times that a VMA had changed when the module came back to it.
        moved: u64,
        /// Pages of sharers that a bound left out.
        cut: u64,
    }
    plus {
        /// The sums; in JSON these keys stand among the others.
        #[serde(flatten)]
        pages: PageCounts,
    }
}

impl CowReport {
    /// Parses a whole report; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (header, mut body) = Body::open(text, &ReportName::Cow)?;
        let mut vmas: Vec<Cow> = Vec::new();
        let mut sum = PageCounts::default();
        let mut moved = 0u64;
        while let Some(line) = body.next()? {
            match line.kind {
                "cow" => {
                    let mut vma = Cow::from_line(line)?;
                    vma.pages = PageCounts::from_line(line)?;
                    sum.add(&vma.pages);
                    moved = moved.saturating_add(vma.moved);
                    vmas.push(vma);
                }
                "share" => {
                    let share = Share::from_line(line)?;
                    let vma = vmas.last_mut().filter(|vma| vma.start == share.vma);
                    vma.ok_or_else(|| line.error("a `share` not under its `cow`"))?
                        .shares
                        .push(share);
                }
                _ => {}
            }
        }
        let last = body.summary()?;
        let mut summary = CowSummary::from_line(&last)?;
        summary.pages = PageCounts::from_line(&last)?;
        check(&last, "cow records", summary.told, vmas.len(), 0)?;
        let seen = [summary.told, summary.public, summary.hugetlb];
        let seen = seen.into_iter().fold(0, u64::saturating_add);
        let sums = summary.pages.numbers().into_iter().zip(sum.numbers());
        let rest = [
            ("VMAs", (summary.vmas, seen)),
            ("moved", (summary.moved, moved)),
        ];
        let pages = sums.map(|((key, stated), (_, found))| (key, (stated, found)));
        for (key, (stated, found)) in pages.chain(rest) {
            if stated != found {
                return Err(last.error(format!(
                    "the summary counts {stated} {key}, the report has {found}"
                )));
            }
        }
        Ok(Self {
            header,
            vmas,
            summary,
        })
    }

    /// The private mapping that holds an address.
    pub fn vma_at(&self, address: u64) -> Option<&Cow> {
        self.vmas
            .iter()
            .find(|vma| (vma.start.0..vma.end.0).contains(&address))
    }
}

impl Cow {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0)
    }
}

impl PageCounts {
    /// Pages that are in memory.
    pub fn present(&self) -> u64 {
        [self.anon, self.file, self.zero, self.ksm]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// All numbers, under their keys.
    pub fn numbers(&self) -> [(&'static str, u64); 12] {
        [
            ("anon", self.anon),
            ("exclusive", self.exclusive),
            ("shared", self.shared),
            ("own", self.own),
            ("inherited", self.inherited),
            ("huge", self.huge),
            ("file", self.file),
            ("zero", self.zero),
            ("ksm", self.ksm),
            ("swap", self.swap),
            ("migration", self.migration),
            ("other", self.other),
        ]
    }

    /// Adds other counts.
    pub fn add(&mut self, more: &Self) {
        for (sum, (_, number)) in [
            &mut self.anon,
            &mut self.exclusive,
            &mut self.shared,
            &mut self.own,
            &mut self.inherited,
            &mut self.huge,
            &mut self.file,
            &mut self.zero,
            &mut self.ksm,
            &mut self.swap,
            &mut self.migration,
            &mut self.other,
        ]
        .into_iter()
        .zip(more.numbers())
        {
            *sum = sum.saturating_add(number);
        }
        self.unknown = match (self.unknown, more.unknown) {
            (None, None) => None,
            (one, other) => Some(one.unwrap_or(0).saturating_add(other.unwrap_or(0))),
        };
    }
}
