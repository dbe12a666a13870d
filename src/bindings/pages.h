/* SPDX-License-Identifier: GPL-2.0 */

#ifndef RAVEL_PAGES_H
#define RAVEL_PAGES_H

#include <linux/types.h>

struct mm_struct;
struct vm_area_struct;

/* What a page table entry holds that is not empty. */
#define RAVEL_PAGE_ANON		1
#define RAVEL_PAGE_FILE		2
#define RAVEL_PAGE_KSM		3
#define RAVEL_PAGE_ZERO		4
#define RAVEL_PAGE_SPECIAL	5	/* no struct page, or none to speak of */
#define RAVEL_PAGE_SWAP		6
#define RAVEL_PAGE_MIGRATION	7
#define RAVEL_PAGE_DEVICE	8	/* in a device's own memory */
#define RAVEL_PAGE_HWPOISON	9
#define RAVEL_PAGE_MARKER	10	/* a guard region, or userfaultfd's */
#define RAVEL_PAGE_KERNEL	11	/* of no file: the kernel's, a driver's, or cut off a file */

/* Flags of the folio. */
#define RAVEL_FLAG_LOCKED	0x001
#define RAVEL_FLAG_REFERENCED	0x002
#define RAVEL_FLAG_UPTODATE	0x004
#define RAVEL_FLAG_DIRTY	0x008
#define RAVEL_FLAG_LRU		0x010
#define RAVEL_FLAG_ACTIVE	0x020
#define RAVEL_FLAG_SWAPBACKED	0x040
#define RAVEL_FLAG_SWAPCACHE	0x080
#define RAVEL_FLAG_WRITEBACK	0x100
#define RAVEL_FLAG_UNEVICTABLE	0x200
#define RAVEL_FLAG_MLOCKED	0x400

/* A page table entry, as it was under the table's lock. */
struct ravel_page {
	u64 address;
	u64 pfn;
	u64 folio_pfn;
	u64 mapping;		/* address of the anon_vma or address_space */
	u64 index;		/* in the mapping, in pages */
	u64 swap_offset;
	u32 mapcount;		/* entries that map this page */
	u32 folio_mapcount;	/* entries that map any of the folio's pages */
	u32 flags;
	u8 kind;
	u8 order;
	u8 swap_type;
	u8 exclusive;
	u8 huge;		/* the entry is a pmd */
	u8 writable;
	u8 dirty;
	u8 accessed;
};

/*
 * Reads the entries from addr on that are not empty, and says where it stopped: at end, or where out was
 * full. anon: the VMA is anonymous. For what must be held, see pages.c.
 */
u32 ravel_walk_pages(struct mm_struct *mm, unsigned long addr, unsigned long end, bool anon,
		     struct ravel_page *out, u32 room, unsigned long *stopped);
bool ravel_vma_is_hugetlb(const struct vm_area_struct *vma);
bool ravel_vma_is_anonymous(const struct vm_area_struct *vma);

#endif /* RAVEL_PAGES_H */
