// SPDX-License-Identifier: GPL-2.0

//! Records of the reports on memory: `anon_vma`, `page`, `cow`, `chains`.

use super::common::{Bounds, Owner, ReportName};
use super::{Flag, Hex, Id, Maybe, Number, Signed, Str};

record! {
    /// A VMA that has an anon_vma chain.
    Vma = 20 "vma" {
        /// Bounds and permissions.
        bounds: Bounds,
        /// The offset in the file (`vm_pgoff`).
        pgoff: Hex [pages],
        /// Its key in the anon_vma trees (`vma_start_anon_pgoff()`); it differs from `pgoff` for
        /// private file mappings.
        anon_pgoff: Hex [pages],
        /// The anon_vma of its new pages (`vma->anon_vma`).
        anon_vma: Id,
        /// anon_vmas in its chain, which is the number of `avc` records.
        chain: Number,
        /// The path of the mapped file, `[path too long]` if it has more than 4095 bytes, `[heap]`,
        /// `[stack]`, `[anon:NAME]`, or empty for anonymous memory.
        name: Str,
    }

    /// An anon_vma in the chain of the `vma` before it.
    Avc = 21 "avc" {
        /// The start of the VMA.
        vma: Hex,
        /// The anon_vma.
        anon_vma: Id,
        /// It is the VMA's own anon_vma, not that of an ancestor.
        own: Flag,
        /// The `anon_vma` record follows.
        here: Flag,
    }

    /// An anon_vma.
    AnonVma = 22 "anon_vma" {
        /// Its id.
        id: Id,
        /// The root anon_vma of the tree, whose lock protects it; equals `id` at the root.
        root: Id,
        /// Its parent; equals `id` at the root.
        parent: Id,
        /// Steps from it to the root along `parent`; 0 at the root.
        depth: Number,
        /// anon_vmas whose parent it is (`num_children`); the root counts itself.
        children: Number,
        /// VMAs whose own anon_vma it is (`num_active_vmas`).
        active_vmas: Number,
        /// 1, plus one for each other anon_vma whose root it is, plus temporary users (`refcount`).
        refcount: Signed,
        /// VMAs in its tree when its first chunk was generated; its `member` records follow.
        members: Number,
    }

    /// A VMA in the tree of an anon_vma.
    Member = 23 "member" {
        /// The anon_vma.
        anon_vma: Id,
        /// Who owns the address space.
        owner: Owner,
        /// The start of the VMA in that address space.
        start: Hex,
        /// Its end there, exclusive.
        end: Hex,
        /// Its key in the tree.
        anon_pgoff: Hex [pages],
    }

    /// The counts of the report `anon_vma`.
    AnonVmaSummary = 24 "summary" {
        /// `anon_vma`.
        report: ReportName,
        /// All VMAs of the process.
        vmas: Number,
        /// `vma` records.
        chained: Number,
        /// `avc` records.
        avcs: Number,
        /// `anon_vma` records.
        anon_vmas: Number,
        /// `member` records.
        members: Number,
        /// Positions that no longer existed when the next chunk continued there (a VMA that was
        /// unmapped or merged, an anon_vma that left its chain, members that exited), and VMAs that
        /// grew over a range that was already reported.
        moved: Number,
        /// Always 0.
        cut: Number,
    }

    /// A page table entry, and the page that it maps, if it maps one.
    Page = 25 "page" {
        /// The address.
        address: Hex,
        /// What the page table entry contains.
        kind: PageKind,
        /// Where it is swapped out; only if `kind` is `swap`.
        swap: Maybe<Swap>,
        /// The page frame number; 0 if there is none, or the reader lacks `CAP_SYS_ADMIN`.
        pfn: Number,
        /// log2 of the number of pages in its folio.
        order: Number,
        /// Its index in its folio, from 0.
        place: Number,
        /// Its offset in its anon_vma or file; 0 if it has neither.
        index: Hex [pages],
        /// Page table entries of all processes that map this page.
        mapcount: Number,
        /// Page table entries that map any page of its folio.
        folio_mapcount: Number,
        /// A write here needs no copy (`PageAnonExclusive`); `anon` only.
        exclusive: Flag,
        /// A pmd maps it, with the rest of a huge page.
        huge: Flag,
        /// The entry allows writing.
        writable: Flag,
        /// The page was written through the entry.
        dirty: Flag,
        /// The page was accessed through the entry since the kernel last asked.
        accessed: Flag,
        /// Its anon_vma, as in `anon_vma`, or the address_space of its file.
        mapping: Id,
        /// Flags of its folio.
        flags: FolioFlags,
        /// The reverse map was walked: for `anon` through its anon_vma, for `file` through the file
        /// of the VMA (`i_mmap`). This is not possible for a page that a driver has mapped from
        /// another file (`moved` is also set), nor for a `ksm` page, whose reverse map is not
        /// accessible to modules.
        walked: Flag,
        /// Candidates: VMAs in that tree that cover the page.
        visited: Number,
        /// Page table entries that map it: `mapper` records follow, at most 4096.
        found: Number,
        /// `found` and `mapcount` differ, or the entry changed in the meantime: the page was being
        /// mapped or unmapped.
        moved: Flag,
    }

    /// A page table entry, in any process, that maps the `page` before it.
    Mapper = 26 "mapper" {
        /// The address of the page in the requested process.
        page: Hex,
        /// Who maps it.
        owner: Owner,
        /// The address in that address space.
        at: Hex,
        /// The entry there allows writing.
        writable: Flag,
        /// The page was written through that entry.
        dirty: Flag,
        /// The page was accessed through that entry since the kernel last asked.
        accessed: Flag,
    }

    /// The counts of the report `page`.
    PageSummary = 27 "summary" {
        /// `page`.
        report: ReportName,
        /// `page` records.
        pages: Number,
        /// Pages of a VMA that have no entry.
        empty: Number,
        /// Pages outside of any VMA.
        unmapped: Number,
        /// Pages of hugetlbfs, which are not read.
        hugetlb: Number,
        /// `mapper` records.
        mappers: Number,
        /// Pages that were being mapped or unmapped.
        moved: Number,
        /// Omitted mappers.
        cut: Number,
    }

    /// A private mapping.
    Cow = 28 "cow" {
        /// Bounds and permissions, as in `vma`.
        bounds: Bounds,
        /// Numbers of pages.
        counts: PageCounts,
        /// The VMA was split, merged or unmapped before its end was reached, or was merged with a
        /// range that was already reported, or a page changed its anon_vma: how often.
        moved: Number,
        /// As in `vma`.
        name: Str,
    }

    /// Another address space that maps some of the shared pages of the `cow` before it.
    Share = 29 "share" {
        /// The start of the VMA.
        vma: Hex,
        /// Who owns the address space.
        owner: Owner,
        /// Pages that it maps.
        pages: Number [pages],
    }

    /// The counts of the report `cow`.
    CowSummary = 30 "summary" {
        /// `cow`.
        report: ReportName,
        /// All VMAs.
        vmas: Number,
        /// `cow` records.
        told: Number,
        /// Shared mappings, which are skipped.
        public: Number,
        /// Private mappings of hugetlbfs, which are skipped.
        hugetlb: Number,
        /// The sums of the numbers of pages.
        counts: PageCounts,
        /// The sum of `moved`.
        moved: Number,
        /// Pages of omitted sharers.
        cut: Number,
    }

    /// A VMA that has an anon_vma chain.
    Chain = 31 "chain" {
        /// Bounds and permissions, as in `vma`.
        bounds: Bounds,
        /// As in `vma`.
        anon_pgoff: Hex [pages],
        /// As in `vma`.
        anon_vma: Id,
        /// The root of all anon_vmas in the chain.
        root: Id,
        /// anon_vmas in the chain, which is the number of `link` records.
        links: Number,
        /// As in `vma`.
        name: Str,
    }

    /// An anon_vma_chain of the `chain` before it, and its anon_vma.
    Link = 32 "link" {
        /// The start of the VMA.
        vma: Hex,
        /// The anon_vma.
        anon_vma: Id,
        /// It is the VMA's own anon_vma.
        own: Flag,
        /// Its parent, as in `anon_vma`.
        parent: Id,
        /// Its depth, as in `anon_vma`.
        depth: Number,
        /// Its children, as in `anon_vma`.
        children: Number,
        /// VMAs whose own anon_vma it is, as in `anon_vma`.
        active_vmas: Number,
        /// Its reference count, as in `anon_vma`.
        refcount: Signed,
    }

    /// Anonymous pages at consecutive addresses, of one anon_vma, with the same mapcount.
    Run = 33 "run" {
        /// The start of the VMA.
        vma: Hex,
        /// The first address.
        address: Hex,
        /// Number of pages.
        pages: Number [pages],
        /// Their anon_vma.
        anon_vma: Id,
        /// Page table entries of all processes that map each page.
        mapcount: Number,
    }

    /// The counts of the report `chains`.
    ChainsSummary = 34 "summary" {
        /// `chains`.
        report: ReportName,
        /// The address space, as in `member`.
        mm: Id,
        /// All VMAs of the process.
        vmas: Number,
        /// `chain` records.
        chained: Number,
        /// `link` records.
        links: Number,
        /// `run` records.
        runs: Number,
        /// Pages in them.
        pages: Number [pages],
        /// Entries of the same page tables that are not empty and contain no anonymous page
        /// (swapped, of a file, zero, merged by KSM and others).
        other: Number,
        /// VMAs of hugetlbfs among them, whose pages are not read.
        hugetlb: Number,
        /// The size of `struct anon_vma` in this kernel.
        anon_vma_bytes: Number [bytes],
        /// The size of `struct anon_vma_chain` in this kernel.
        avc_bytes: Number [bytes],
        /// VMAs that were split, merged or unmapped before their end was reached, and links that no
        /// longer existed: a VMA that grew by a merge may be reported again from its start.
        moved: Number,
        /// Always 0.
        cut: Number,
    }
}

part! {
    /// A slot of a swap device.
    Swap {
        /// The swap device; only if `kind` is `swap`.
        swap_type: Number,
        /// The slot; only if `kind` is `swap`.
        swap_offset: Number,
    }

    /// Numbers of pages, by what page table entries contain.
    PageCounts {
        /// Anonymous pages.
        anon: Number [pages],
        /// Of `anon`, mapped by this entry only.
        exclusive: Number [pages],
        /// Of `anon`, also mapped by others.
        shared: Number [pages],
        /// Of `anon`, first written here, or copied here since the fork.
        own: Number [pages],
        /// Of `anon`, either `own` or `inherited`.
        unknown: Number [pages],
        /// Of `anon`, in the anon_vma of an ancestor.
        inherited: Number [pages],
        /// Of `anon`, mapped by a pmd.
        huge: Number [pages],
        /// Pages of the file that are not copied.
        file: Number [pages],
        /// The zero page.
        zero: Number [pages],
        /// Merged by KSM.
        ksm: Number [pages],
        /// Swapped out.
        swap: Number [pages],
        /// Under migration.
        migration: Number [pages],
        /// All other kinds of `page`.
        other: Number [pages],
    }
}

enumeration! {
    /// What a page table entry contains.
    PageKind else "kind_" {
        /// An anonymous page.
        ANON = 0 "anon",
        /// A page of a file or of tmpfs, in a private mapping one that is not copied.
        FILE = 1 "file",
        /// Merged by KSM.
        KSM = 2 "ksm",
        /// The zero page, or the huge zero page.
        ZERO = 3 "zero",
        /// Memory without a struct page, and the huge zero page of a DAX file system.
        SPECIAL = 4 "special",
        /// A slot of a swap device.
        SWAP = 5 "swap",
        /// A page under migration.
        MIGRATION = 6 "migration",
        /// A page in device memory, or in exclusive use by a device; counts as a mapping of the
        /// page.
        DEVICE = 7 "device",
        /// A page with a memory error.
        HWPOISON = 8 "hwpoison",
        /// A guard region or a userfaultfd marker.
        MARKER = 9 "marker",
        /// A page of the kernel or a driver, such as the vdso, or truncated from its file.
        KERNEL = 10 "kernel",
    }
}

bits! {
    /// Flags of a folio.
    FolioFlags {
        LOCKED = 0x1 "locked",
        REFERENCED = 0x2 "referenced",
        UPTODATE = 0x4 "uptodate",
        DIRTY = 0x8 "dirty",
        LRU = 0x10 "lru",
        ACTIVE = 0x20 "active",
        SWAPBACKED = 0x40 "swapbacked",
        SWAPCACHE = 0x80 "swapcache",
        WRITEBACK = 0x100 "writeback",
        UNEVICTABLE = 0x200 "unevictable",
        MLOCKED = 0x400 "mlocked",
    }
}
