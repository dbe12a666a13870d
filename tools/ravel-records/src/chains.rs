//! The report `chains`: a process' own side of its anon_vma chains, and where its anonymous pages are.

use serde::{Deserialize, Serialize};

use crate::body::{Body, check, split};
use crate::line::record;
use crate::{Error, Header, Hex, Id, ReportName, Text};

/// A whole report `chains`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainsReport {
    /// Whose it is.
    pub header: Header,
    /// The process' VMAs that have a chain, in address order.
    pub vmas: Vec<Chain>,
    /// The counts.
    pub summary: ChainsSummary,
}

record! {
    /// A VMA that has a chain, and the chain's beginning.
    Chain {
        /// First address.
        start: Hex,
        /// First address behind it.
        end: Hex,
        /// `rwxp` as in /proc/PID/maps.
        perms: String,
        /// Its key in the anon_vma trees, in pages.
        anon_pgoff: Hex,
        /// The anon_vma where its new pages go.
        anon_vma: Id,
        /// The root of all anon_vmas in its chain.
        root: Id,
        /// Links in its chain.
        links: u64,
        /// The mapped file, `[heap]`, `[stack]`, `[anon:NAME]`, or empty for anonymous memory.
        name: Text,
    }
    plus {
        /// Its chain, in no promised order.
        link: Vec<Link>,
        /// Its anonymous pages, in address order.
        run: Vec<Run>,
    }
}

record! {
    /// An anon_vma_chain, and what the anon_vma behind it says of itself.
    Link {
        /// The VMA's first address.
        vma: Hex,
        /// The anon_vma.
        anon_vma: Id,
        /// Whether it is the VMA's own, not an ancestor's.
        own: bool,
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
    }
}

record! {
    /// Anonymous pages at addresses that follow each other, of one anon_vma, and mapped as often.
    Run {
        /// The VMA's first address.
        vma: Hex,
        /// The first of them.
        address: Hex,
        /// How many.
        pages: u64,
        /// Their anon_vma.
        anon_vma: Id,
        /// Page table entries, anywhere, that map each.
        mapcount: u64,
    }
}

record! {
    /// The counts of a report `chains`.
    ChainsSummary {
        /// The report's name.
        report: ReportName,
        /// The address space.
        mm: Id,
        /// All VMAs of the process.
        vmas: u64,
        /// Those that have a chain.
        chained: u64,
        /// link records.
        links: u64,
        /// run records.
        runs: u64,
        /// Pages in them.
        pages: u64,
        /// Entries of their page tables that are not empty and hold no anonymous page.
        other: u64,
        /// VMAs of hugetlbfs among them, whose pages are not read.
        hugetlb: u64,
        /// Bytes of one `struct anon_vma` in this kernel.
        anon_vma_bytes: u64,
        /// Bytes of one `struct anon_vma_chain`.
        avc_bytes: u64,
        /// Times that something was not found again after a pause.
        moved: u64,
        /// Records that a bound left out.
        cut: u64,
    }
}

impl ChainsReport {
    /// Parses a whole report; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (header, mut body) = Body::open(text, &ReportName::Chains)?;
        let mut vmas: Vec<Chain> = Vec::new();
        let (mut links, mut runs, mut pages) = (0, 0, 0u64);
        while let Some(line) = body.next()? {
            let under = |vmas: &mut Vec<Chain>, start: Hex| {
                let at = vmas.len().checked_sub(1);
                at.filter(|at| vmas[*at].start == start)
                    .ok_or_else(|| line.error(format!("a `{}` not under its `chain`", line.kind)))
            };
            match line.kind {
                "chain" => vmas.push(Chain::from_line(line)?),
                "link" => {
                    let link = Link::from_line(line)?;
                    let at = under(&mut vmas, link.vma)?;
                    vmas[at].link.push(link);
                    links += 1;
                }
                "run" => {
                    let run = Run::from_line(line)?;
                    let at = under(&mut vmas, run.vma)?;
                    let bytes = run.pages.checked_mul(PAGE);
                    let end = bytes.and_then(|bytes| run.address.0.checked_add(bytes));
                    if run.address < vmas[at].start || end.is_none_or(|end| end > vmas[at].end.0) {
                        return Err(line.error("a `run` outside its `chain`"));
                    }
                    pages = pages.saturating_add(run.pages);
                    vmas[at].run.push(run);
                    runs += 1;
                }
                _ => {}
            }
        }
        let last = body.summary()?;
        let summary = ChainsSummary::from_line(&last)?;
        let cut = summary.cut;
        check(&last, "chained", summary.chained, vmas.len(), cut)?;
        check(&last, "links", summary.links, links, cut)?;
        check(&last, "runs", summary.runs, runs, cut)?;
        if summary.cut == 0 && summary.pages != pages {
            let stated = summary.pages;
            return Err(last.error(format!(
                "the summary counts {stated} pages, the report has {pages}"
            )));
        }
        Ok(Self {
            header,
            vmas,
            summary,
        })
    }

    /// Parses several reports that stand one behind the other, such as those on a family of processes.
    pub fn parse_all(text: &[u8]) -> Result<Vec<Self>, Error> {
        split(text)?.into_iter().map(Self::parse).collect()
    }
}

/// Bytes of a page.
const PAGE: u64 = 4096;

impl Chain {
    /// Its size in pages.
    pub fn pages(&self) -> u64 {
        self.end.0.saturating_sub(self.start.0) / PAGE
    }

    /// Where a run begins in its anon_vma, in pages.
    pub fn index(&self, run: &Run) -> u64 {
        let offset = run.address.0.saturating_sub(self.start.0) / PAGE;
        self.anon_pgoff.0.saturating_add(offset)
    }
}
