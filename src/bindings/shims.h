/* SPDX-License-Identifier: GPL-2.0 */

/*
 * What Rust cannot say: inline functions and macros of the kernel, and fields that only the C compiler
 * can place. No shim decides anything; locks are named where one is taken, or must be held.
 */

#ifndef RAVEL_SHIMS_H
#define RAVEL_SHIMS_H

#include <linux/types.h>

/* modinfo's version; tools and README name the same. */
#define RAVEL_VERSION "0.1.0"

struct anon_vma;
struct file;
struct mm_struct;
struct pid;
struct task_struct;
struct vm_area_struct;

/* The C compiler's word on the structs that Rust reads: see object/layout.rs. */
struct ravel_layout {
	u32 anon_vma_size;
	u32 anon_vma_root;
	u32 anon_vma_rwsem;
	u32 anon_vma_refcount;
	u32 anon_vma_num_children;
	u32 anon_vma_num_active_vmas;
	u32 anon_vma_parent;
	u32 anon_vma_rb_root;
	u32 avc_size;
	u32 avc_vma;
	u32 avc_anon_vma;
	u32 avc_same_vma;
	u32 avc_rb;
	u32 avc_rb_subtree_last;
	u32 vma_size;
	u32 vma_vm_mm;
	u32 vma_anon_vma_chain;
	u32 vma_anon_vma;
	u32 vma_vm_file;
	u32 task_size;
	u32 task_real_parent;
	u32 task_group_leader;
	u32 task_signal;
	u32 task_comm;
	u32 task_tgid;
	u32 ravel_sock_size;
	u32 ravel_sock_last;
	u32 ravel_waiting_size;
	u32 ravel_skb_size;
	u32 ravel_skb_last;
	u32 ravel_frag_size;
};

void ravel_layout(struct ravel_layout *out);
const char *ravel_kernel_release(void);

/* Processes. */
struct pid *ravel_get_tgid_pid(struct pid *pid);
struct task_struct *ravel_get_live_thread(struct pid *tgid);
struct task_struct *ravel_get_leader(struct pid *tgid);
bool ravel_is_kthread(const struct task_struct *task);
bool ravel_is_exiting(const struct task_struct *task);
bool ravel_fatal_signal_pending(void);
void ravel_cond_resched(void);
bool ravel_may_see_frames(void);
bool ravel_pid_alive(const struct task_struct *task);
bool ravel_is_being_forked(struct task_struct *task);
struct task_struct *ravel_mm_owner(struct mm_struct *mm);
struct task_struct *ravel_real_parent(struct task_struct *task);

/* Address spaces. mmap_lock is held for reading, or stronger. */
int ravel_mmap_read_lock_killable(struct mm_struct *mm);
bool ravel_mmap_is_contended(struct mm_struct *mm);
/* Sleeps for so many nanoseconds, or until a fatal signal. */
void ravel_rest(u64 ns);
struct anon_vma *ravel_vma_anon_vma(const struct vm_area_struct *vma);
bool ravel_vma_is_attached(struct vm_area_struct *vma);
bool ravel_mm_is_write_locked(const struct mm_struct *mm);
unsigned long ravel_vma_anon_pgoff(const struct vm_area_struct *vma);
const char *ravel_vma_special_name(const struct vm_area_struct *vma, const char **anon_name);
char *ravel_vma_path(const struct vm_area_struct *vma, char *buf, int len);

/* Open files. */
unsigned long ravel_file_count(struct file *file);
unsigned long ravel_file_inode(struct file *file);

#endif /* RAVEL_SHIMS_H */
