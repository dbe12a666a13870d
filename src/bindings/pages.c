// SPDX-License-Identifier: GPL-2.0

/*
 * Page tables, read as page_vma_mapped_walk() reads them (mm/page_vma_mapped.c), which is not exported.
 * Nothing is faulted in and no accessed bit changes.
 *
 * The caller keeps the tables of the range from being freed as a whole: it holds the mm's mmap_lock, or
 * the lock of a reverse map in which the VMA is linked (free_pgtables() unlinks VMAs first). Single page
 * table pages may still go (PT_RECLAIM, collapse into a huge page): hence RCU, and the second look at the
 * pmd under the page table's lock, as in pte_offset_map_lock().
 */

#include <linux/hugetlb.h>
#include <linux/leafops.h>
#include <linux/mm.h>
#include <linux/page-flags.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>

#include "pages.h"

struct walk {
	struct mm_struct *mm;
	struct ravel_page *out;
	u32 room;
	u32 used;
};

static u32 page_bits(const struct folio *folio)
{
	u32 bits = 0;

	if (folio_test_locked(folio))
		bits |= RAVEL_FLAG_LOCKED;
	if (folio_test_referenced(folio))
		bits |= RAVEL_FLAG_REFERENCED;
	if (folio_test_uptodate(folio))
		bits |= RAVEL_FLAG_UPTODATE;
	if (folio_test_dirty(folio))
		bits |= RAVEL_FLAG_DIRTY;
	if (folio_test_lru(folio))
		bits |= RAVEL_FLAG_LRU;
	if (folio_test_active(folio))
		bits |= RAVEL_FLAG_ACTIVE;
	if (folio_test_swapbacked(folio))
		bits |= RAVEL_FLAG_SWAPBACKED;
	if (folio_test_swapcache(folio))
		bits |= RAVEL_FLAG_SWAPCACHE;
	if (folio_test_writeback(folio))
		bits |= RAVEL_FLAG_WRITEBACK;
	if (folio_test_unevictable(folio))
		bits |= RAVEL_FLAG_UNEVICTABLE;
	if (folio_test_mlocked(folio))
		bits |= RAVEL_FLAG_MLOCKED;
	return bits;
}

/* How many page table entries map this very page. It is mapped: its page table's lock is held. */
static u32 page_mappings(const struct folio *folio, const struct page *page)
{
	int mapcount;

	if (!folio_test_large(folio))
		return folio_mapcount(folio);
	mapcount = atomic_read(&page->_mapcount) + 1;
	if (page_mapcount_is_type(mapcount))
		mapcount = 0;
	return mapcount + folio_entire_mapcount(folio);
}

/* What maps the page begins at the frame first: that of a pmd's first page, which has the bit for all of them. */
static void fill_present(struct ravel_page *out, unsigned long pfn, unsigned long first)
{
	struct page *page = pfn_to_page(pfn);
	struct folio *folio = page_folio(page);
	unsigned long mapping = (unsigned long)READ_ONCE(folio->mapping);

	out->folio_pfn = folio_pfn(folio);
	out->order = folio_order(folio);
	out->index = page_pgoff(folio, page);
	out->mapcount = page_mappings(folio, page);
	out->folio_mapcount = folio_mapcount(folio);
	out->flags = page_bits(folio);
	if ((mapping & FOLIO_MAPPING_FLAGS) == FOLIO_MAPPING_KSM) {
		out->kind = RAVEL_PAGE_KSM;
	} else if (mapping & FOLIO_MAPPING_ANON) {
		out->kind = RAVEL_PAGE_ANON;
		out->mapping = mapping & ~FOLIO_MAPPING_FLAGS;
		out->exclusive = PageAnonExclusive(pfn_to_page(first));
	} else if (mapping) {
		out->kind = RAVEL_PAGE_FILE;
		out->mapping = mapping;
	} else {
		out->kind = RAVEL_PAGE_KERNEL;
	}
}

static void fill_leaf(struct ravel_page *out, softleaf_t entry)
{
	if (softleaf_is_swap(entry)) {
		out->kind = RAVEL_PAGE_SWAP;
		out->swap_type = swp_type(entry);
		out->swap_offset = swp_offset(entry);
	} else if (softleaf_is_migration(entry)) {
		out->kind = RAVEL_PAGE_MIGRATION;
		out->pfn = softleaf_to_pfn(entry);
	} else if (softleaf_is_device_private(entry)) {
		out->kind = RAVEL_PAGE_DEVICE;
		out->pfn = softleaf_to_pfn(entry);
	} else if (softleaf_is_hwpoison(entry)) {
		out->kind = RAVEL_PAGE_HWPOISON;
	} else {
		out->kind = RAVEL_PAGE_MARKER;
	}
}

static void fill_pte(struct ravel_page *out, unsigned long addr, pte_t pte)
{
	*out = (struct ravel_page) { .address = addr };
	if (!pte_present(pte)) {
		fill_leaf(out, softleaf_from_pte(pte));
		return;
	}
	out->pfn = pte_pfn(pte);
	out->writable = pte_write(pte);
	out->dirty = pte_dirty(pte);
	out->accessed = pte_young(pte);
	if (is_zero_pfn(out->pfn))
		out->kind = RAVEL_PAGE_ZERO;
	else if (pte_special(pte) || !pfn_valid(out->pfn))
		out->kind = RAVEL_PAGE_SPECIAL;
	else
		fill_present(out, out->pfn, out->pfn);
}

/* One page of what a huge pmd maps. */
static void fill_pmd(struct ravel_page *out, unsigned long addr, pmd_t pmd, bool anon)
{
	unsigned long at = (addr & ~PMD_MASK) >> PAGE_SHIFT;

	*out = (struct ravel_page) { .address = addr, .huge = 1 };
	if (!pmd_present(pmd)) {
		fill_leaf(out, softleaf_from_pmd(pmd));
		if (out->pfn)
			out->pfn += at;
		return;
	}
	out->pfn = pmd_pfn(pmd) + at;
	out->writable = pmd_write(pmd);
	out->dirty = pmd_dirty(pmd);
	out->accessed = pmd_young(pmd);
	/* The one special pmd that anonymous memory has is the huge zero page's. */
	if (pmd_special(pmd) || !pfn_valid(out->pfn))
		out->kind = anon ? RAVEL_PAGE_ZERO : RAVEL_PAGE_SPECIAL;
	else
		fill_present(out, out->pfn, pmd_pfn(pmd));
}

/* Returns where it stopped: at end, or where room ended. Holds the table's lock for at most 512 entries. */
static unsigned long walk_ptes(struct walk *walk, pmd_t *pmd, unsigned long addr, unsigned long end,
			       bool *again)
{
	spinlock_t *ptl;
	pmd_t pmdval;
	pte_t *pte;

	rcu_read_lock();
	pmdval = pmdp_get_lockless(pmd);
	if (pmd_none(pmdval) || !pmd_present(pmdval) || pmd_leaf(pmdval) || pmd_bad(pmdval)) {
		rcu_read_unlock();
		/* It was there a moment ago, as a table. Gone means empty; a leaf is looked at anew. */
		*again = !pmd_none(pmdval) && !pmd_bad(pmdval);
		return *again ? addr : end;
	}
	ptl = pte_lockptr(walk->mm, &pmdval);
	pte = pte_offset_kernel(&pmdval, addr);
	spin_lock(ptl);
	*again = !pmd_same(pmdval, pmdp_get_lockless(pmd));
	for (; !*again && addr != end; addr += PAGE_SIZE, pte++) {
		pte_t pteval = ptep_get(pte);

		if (pte_none(pteval))
			continue;
		if (walk->used == walk->room)
			break;
		fill_pte(&walk->out[walk->used++], addr, pteval);
	}
	spin_unlock(ptl);
	rcu_read_unlock();
	return addr;
}

static unsigned long walk_huge(struct walk *walk, pmd_t *pmd, unsigned long addr, unsigned long end,
			       bool anon, bool *again)
{
	spinlock_t *ptl = pmd_lock(walk->mm, pmd);
	pmd_t pmdval = pmdp_get(pmd);

	*again = pmd_present(pmdval) && !pmd_leaf(pmdval);
	if (pmd_none(pmdval))
		addr = end;
	for (; !*again && addr != end && walk->used < walk->room; addr += PAGE_SIZE)
		fill_pmd(&walk->out[walk->used++], addr, pmdval, anon);
	spin_unlock(ptl);
	return addr;
}

static bool is_huge(pmd_t pmd)
{
	return pmd_leaf(pmd) || (!pmd_present(pmd) && !pmd_none(pmd));
}

/*
 * Page tables, and gaps of their size or greater, that are looked at in one call, however few entries are in
 * them: whoever calls holds a lock.
 */
#define RAVEL_WALK_STEPS 256

u32 ravel_walk_pages(struct mm_struct *mm, unsigned long addr, unsigned long end, bool anon,
		     struct ravel_page *out, u32 room, unsigned long *stopped)
{
	struct walk walk = { .mm = mm, .out = out, .room = room };
	u32 tries = 0;
	u32 steps = 0;

	while (addr < end && walk.used < room && steps < RAVEL_WALK_STEPS) {
		unsigned long next;
		bool again = false;
		pgd_t *pgd = pgd_offset(mm, addr);
		p4d_t *p4d;
		pud_t *pud;
		pmd_t *pmd;

		next = pgd_addr_end(addr, end);
		if (!pgd_present(*pgd))
			goto skip;
		p4d = p4d_offset(pgd, addr);
		next = p4d_addr_end(addr, end);
		if (!p4d_present(*p4d))
			goto skip;
		pud = pud_offset(p4d, addr);
		next = pud_addr_end(addr, end);
		/* A leaf here is hugetlbfs' or a device's: neither is walked. */
		if (!pud_present(*pud) || pud_leaf(*pud))
			goto skip;
		pmd = pmd_offset(pud, addr);
		next = pmd_addr_end(addr, end);
		if (pmd_none(pmdp_get_lockless(pmd)))
			goto skip;
		if (is_huge(pmdp_get_lockless(pmd)))
			addr = walk_huge(&walk, pmd, addr, next, anon, &again);
		else
			addr = walk_ptes(&walk, pmd, addr, next, &again);
		/* It can be split and collapsed again and again, but not by us. */
		if (again && ++tries == 1000)
			addr = next;
		steps += !again;
		continue;
skip:
		addr = next;
		steps++;
	}
	*stopped = addr;
	return walk.used;
}

bool ravel_vma_is_hugetlb(const struct vm_area_struct *vma)
{
	return is_vm_hugetlb_page(vma);
}

bool ravel_vma_is_anonymous(const struct vm_area_struct *vma)
{
	return vma_is_anonymous(vma);
}
