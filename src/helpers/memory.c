// SPDX-License-Identifier: GPL-2.0

/* What an entry of each level translates. bindgen evaluates constants, but no macros with casts. */
static const unsigned long RAVEL_P4D_SIZE = P4D_SIZE;
static const unsigned long RAVEL_PUD_SIZE = PUD_SIZE;
static const unsigned long RAVEL_PMD_SIZE = PMD_SIZE;

static const unsigned long RAVEL_VM_MAYSHARE = VM_MAYSHARE;

int ravel_helper_mmap_read_lock_killable(struct mm_struct *mm)
{
	return mmap_read_lock_killable(mm);
}

bool ravel_helper_mmap_lock_speculate_try_begin(struct mm_struct *mm, unsigned int *seq)
{
	return mmap_lock_speculate_try_begin(mm, seq);
}

bool ravel_helper_mmap_lock_speculate_retry(struct mm_struct *mm, unsigned int seq)
{
	return mmap_lock_speculate_retry(mm, seq);
}

bool ravel_helper_vma_start_read_locked(struct vm_area_struct *vma)
{
	return vma_start_read_locked(vma);
}

int ravel_helper_rwsem_is_locked(struct rw_semaphore *sem)
{
	return rwsem_is_locked(sem);
}

const struct path *ravel_helper_file_user_path(const struct file *file)
{
	return file_user_path(file);
}

unsigned long ravel_helper_file_count(struct file *file)
{
	return file_count(file);
}

pgd_t *ravel_helper_pgd_offset(struct mm_struct *mm, unsigned long address)
{
	return pgd_offset(mm, address);
}

bool ravel_helper_pgd_present(pgd_t pgd)
{
	return pgd_present(pgd);
}

p4d_t *ravel_helper_p4d_offset(pgd_t *pgd, unsigned long address)
{
	return p4d_offset(pgd, address);
}

bool ravel_helper_p4d_present(p4d_t p4d)
{
	return p4d_present(p4d);
}

pud_t *ravel_helper_pud_offset(p4d_t *p4d, unsigned long address)
{
	return pud_offset(p4d, address);
}

bool ravel_helper_pud_present(pud_t pud)
{
	return pud_present(pud);
}

bool ravel_helper_pud_leaf(pud_t pud)
{
	return pud_leaf(pud);
}

unsigned long ravel_helper_pud_pfn(pud_t pud)
{
	return pud_pfn(pud);
}

spinlock_t *ravel_helper_pud_lockptr(struct mm_struct *mm, pud_t *pud)
{
	return pud_lockptr(mm, pud);
}

pmd_t *ravel_helper_pmd_offset(pud_t *pud, unsigned long address)
{
	return pmd_offset(pud, address);
}

pmd_t ravel_helper_pmdp_get_lockless(pmd_t *pmd)
{
	return pmdp_get_lockless(pmd);
}

bool ravel_helper_pmd_none(pmd_t pmd)
{
	return pmd_none(pmd);
}

bool ravel_helper_pmd_present(pmd_t pmd)
{
	return pmd_present(pmd);
}

bool ravel_helper_pmd_leaf(pmd_t pmd)
{
	return pmd_leaf(pmd);
}

bool ravel_helper_pmd_bad(pmd_t pmd)
{
	return pmd_bad(pmd);
}

unsigned long ravel_helper_pmd_pfn(pmd_t pmd)
{
	return pmd_pfn(pmd);
}

spinlock_t *ravel_helper_pmd_lockptr(struct mm_struct *mm, pmd_t *pmd)
{
	return pmd_lockptr(mm, pmd);
}

pte_t *ravel_helper_pte_offset_kernel(pmd_t *pmd, unsigned long address)
{
	return pte_offset_kernel(pmd, address);
}

spinlock_t *ravel_helper_pte_lockptr(struct mm_struct *mm, pmd_t *pmd)
{
	return pte_lockptr(mm, pmd);
}

bool ravel_helper_pte_none(pte_t pte)
{
	return pte_none(pte);
}

bool ravel_helper_pte_present(pte_t pte)
{
	return pte_present(pte);
}

bool ravel_helper_pte_special(pte_t pte)
{
	return pte_special(pte);
}

bool ravel_helper_pte_write(pte_t pte)
{
	return pte_write(pte);
}

bool ravel_helper_pte_dirty(pte_t pte)
{
	return pte_dirty(pte);
}

bool ravel_helper_pte_young(pte_t pte)
{
	return pte_young(pte);
}

unsigned long ravel_helper_pte_pfn(pte_t pte)
{
	return pte_pfn(pte);
}

bool ravel_helper_is_zero_pfn(unsigned long pfn)
{
	return is_zero_pfn(pfn);
}

bool ravel_helper_pfn_valid(unsigned long pfn)
{
	return pfn_valid(pfn);
}

struct page *ravel_helper_pfn_to_page(unsigned long pfn)
{
	return pfn_to_page(pfn);
}

struct folio *ravel_helper_pfn_folio(unsigned long pfn)
{
	return pfn_folio(pfn);
}

softleaf_t ravel_helper_softleaf_from_pte(pte_t pte)
{
	return softleaf_from_pte(pte);
}

softleaf_t ravel_helper_softleaf_from_pmd(pmd_t pmd)
{
	return softleaf_from_pmd(pmd);
}

enum softleaf_type ravel_helper_softleaf_type(softleaf_t entry)
{
	return softleaf_type(entry);
}

unsigned long ravel_helper_softleaf_to_pfn(softleaf_t entry)
{
	return softleaf_to_pfn(entry);
}

unsigned int ravel_helper_swp_type(swp_entry_t entry)
{
	return swp_type(entry);
}

unsigned long ravel_helper_swp_offset(swp_entry_t entry)
{
	return swp_offset(entry);
}
