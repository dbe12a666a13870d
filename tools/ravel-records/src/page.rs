//! The report `page`: what stands at some addresses of a process, and who else maps each page.

use serde::{Deserialize, Serialize};

use crate::body::{Body, check};
use crate::line::record;
use crate::{Error, Header, Hex, Id, MemberState, PageKind, Relation, ReportName, Text};

/// A whole report `page`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageReport {
    /// Whose it is.
    pub header: Header,
    /// The addresses that are not empty, in their order.
    pub pages: Vec<Page>,
    /// The counts.
    pub summary: PageSummary,
}

record! {
    /// A page table entry, and the page that it maps, if it does.
    Page {
        /// The address.
        address: Hex,
        /// What the entry holds.
        kind: PageKind,
        /// Swap: the device.
        swap_type: Option<u64>,
        /// Swap: the slot.
        swap_offset: Option<u64>,
        /// The page frame; 0 where there is none, or it is hidden from the reader.
        pfn: u64,
        /// log2 of how many pages its folio has.
        order: u64,
        /// Where it stands in its folio, from 0.
        place: u64,
        /// Its offset in its anon_vma or file, in pages.
        index: Hex,
        /// Entries, anywhere, that map this page.
        mapcount: u64,
        /// Entries, anywhere, that map any page of its folio.
        folio_mapcount: u64,
        /// Whether the kernel knows that a write here needs no copy.
        exclusive: bool,
        /// Whether a pmd maps it.
        huge: bool,
        /// Whether it can be written without a fault.
        writable: bool,
        /// Whether it was written through this entry.
        dirty: bool,
        /// Whether it was used through this entry since the kernel last asked.
        accessed: bool,
        /// Its anon_vma, or its file's address_space.
        mapping: Id,
        /// Flags of its folio, with commas between, or `none`: see [`Page::flags`].
        flags: String,
        /// Whether others that map it were looked for.
        walked: bool,
        /// VMAs that could map it, and whose page tables were read.
        visited: u64,
        /// Entries that do map it: those told are in `mappers`.
        found: u64,
        /// Whether it was being mapped or unmapped meanwhile.
        moved: bool,
    }
    plus {
        /// Who maps it.
        mappers: Vec<Mapper>,
    }
}

record! {
    /// An entry, in whatever process, that maps a page.
    Mapper {
        /// The page's address in the process asked for.
        page: Hex,
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
        /// Where the page is, in that address space.
        at: Hex,
        /// Whether it can be written there without a fault.
        writable: bool,
        /// Whether it was written there.
        dirty: bool,
        /// Whether it was used there since the kernel last asked.
        accessed: bool,
    }
}

record! {
    /// The counts of a report `page`.
    PageSummary {
        /// The report's name.
        report: ReportName,
        /// page records.
        pages: u64,
        /// Pages of a VMA without an entry.
        empty: u64,
        /// Pages of no VMA.
        unmapped: u64,
        /// Pages of hugetlbfs, which are not read.
        hugetlb: u64,
        /// mapper records.
        mappers: u64,
        /// Pages that were being mapped or unmapped meanwhile.
        moved: u64,
        /// Mappers that a bound left out.
        cut: u64,
    }
}

impl PageReport {
    /// Parses a whole report; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (header, mut body) = Body::open(text, &ReportName::Page)?;
        let mut pages: Vec<Page> = Vec::new();
        while let Some(line) = body.next()? {
            match line.kind {
                "page" => pages.push(Page::from_line(line)?),
                "mapper" => {
                    let mapper = Mapper::from_line(line)?;
                    let page = pages.last_mut().filter(|page| page.address == mapper.page);
                    page.ok_or_else(|| line.error("a `mapper` not under its `page`"))?
                        .mappers
                        .push(mapper);
                }
                _ => {}
            }
        }
        let last = body.summary()?;
        let summary = PageSummary::from_line(&last)?;
        let cut = summary.cut;
        let mappers = pages.iter().map(|page| page.mappers.len()).sum();
        let moved = pages.iter().filter(|page| page.moved).count();
        let found = pages
            .iter()
            .map(|page| page.found)
            .fold(0, u64::saturating_add);
        check(&last, "pages", summary.pages, pages.len(), 0)?;
        check(&last, "mappers", summary.mappers, mappers, 0)?;
        check(&last, "mappers by `found`", found, mappers, cut)?;
        check(&last, "moved", summary.moved, moved, 0)?;
        Ok(Self {
            header,
            pages,
            summary,
        })
    }

    /// What stands at the page of an address; none where it is empty.
    pub fn page_at(&self, address: u64) -> Option<&Page> {
        let start = Hex(address & !0xfff);
        let at = self.pages.binary_search_by_key(&start, |page| page.address);
        at.ok().map(|at| &self.pages[at])
    }
}

impl Page {
    /// The flags of its folio.
    pub fn flags(&self) -> impl Iterator<Item = &str> {
        self.flags.split(',').filter(|flag| *flag != "none")
    }
}
