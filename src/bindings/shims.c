// SPDX-License-Identifier: GPL-2.0

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/hrtimer.h>
#include <linux/mmap_lock.h>
#include <linux/module.h>
#include <linux/mm_inline.h>
#include <linux/net.h>
#include <linux/netdevice.h>
#include <linux/pid.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/utsname.h>

#include "shims.h"
#include "skbs.h"
#include "sockets.h"

#ifndef CONFIG_MEMCG
#error "ravel needs CONFIG_MEMCG: without it mm_struct has no owner, and a mapping cannot be named"
#endif
#ifndef CONFIG_64BIT
#error "ravel knows 64-bit kernels only"
#endif

void ravel_layout(struct ravel_layout *out)
{
	*out = (struct ravel_layout) {
		.anon_vma_size = sizeof(struct anon_vma),
		.anon_vma_root = offsetof(struct anon_vma, root),
		.anon_vma_rwsem = offsetof(struct anon_vma, rwsem),
		.anon_vma_refcount = offsetof(struct anon_vma, refcount),
		.anon_vma_num_children = offsetof(struct anon_vma, num_children),
		.anon_vma_num_active_vmas = offsetof(struct anon_vma, num_active_vmas),
		.anon_vma_parent = offsetof(struct anon_vma, parent),
		.anon_vma_rb_root = offsetof(struct anon_vma, rb_root),
		.avc_size = sizeof(struct anon_vma_chain),
		.avc_vma = offsetof(struct anon_vma_chain, vma),
		.avc_anon_vma = offsetof(struct anon_vma_chain, anon_vma),
		.avc_same_vma = offsetof(struct anon_vma_chain, same_vma),
		.avc_rb = offsetof(struct anon_vma_chain, rb),
		.avc_rb_subtree_last = offsetof(struct anon_vma_chain, rb_subtree_last),
		.vma_size = sizeof(struct vm_area_struct),
		.vma_vm_mm = offsetof(struct vm_area_struct, vm_mm),
		.vma_anon_vma_chain = offsetof(struct vm_area_struct, anon_vma_chain),
		.vma_anon_vma = offsetof(struct vm_area_struct, anon_vma),
		.vma_vm_file = offsetof(struct vm_area_struct, vm_file),
		.task_size = sizeof(struct task_struct),
		.task_real_parent = offsetof(struct task_struct, real_parent),
		.task_group_leader = offsetof(struct task_struct, group_leader),
		.task_signal = offsetof(struct task_struct, signal),
		.task_comm = offsetof(struct task_struct, comm),
		.task_tgid = offsetof(struct task_struct, tgid),
		.ravel_sock_size = sizeof(struct ravel_sock),
		.ravel_sock_last = offsetof(struct ravel_sock, last),
		.ravel_waiting_size = sizeof(struct ravel_waiting),
		.ravel_skb_size = sizeof(struct ravel_skb),
		.ravel_skb_last = offsetof(struct ravel_skb, last),
		.ravel_frag_size = sizeof(struct ravel_frag),
	};
}

const char *ravel_kernel_release(void)
{
	return init_utsname()->release;
}

/* Takes a reference to the process' pid (that of its main thread), given any of its threads'. */
struct pid *ravel_get_tgid_pid(struct pid *pid)
{
	struct task_struct *task;
	struct pid *tgid = NULL;

	rcu_read_lock();
	task = pid_task(pid, PIDTYPE_PID);
	if (task)
		tgid = get_pid(task_tgid(task));
	rcu_read_unlock();
	return tgid;
}

/* Takes a reference to a thread that has not begun to exit. */
struct task_struct *ravel_get_live_thread(struct pid *tgid)
{
	struct task_struct *leader, *t, *found = NULL;

	rcu_read_lock();
	leader = pid_task(tgid, PIDTYPE_TGID);
	if (leader) {
		for_each_thread(leader, t) {
			if (!(READ_ONCE(t->flags) & PF_EXITING)) {
				found = get_task_struct(t);
				break;
			}
		}
	}
	rcu_read_unlock();
	return found;
}

/* Takes a reference to the main thread, be it alive or a zombie. */
struct task_struct *ravel_get_leader(struct pid *tgid)
{
	return get_pid_task(tgid, PIDTYPE_TGID);
}

bool ravel_is_kthread(const struct task_struct *task)
{
	return READ_ONCE(task->flags) & PF_KTHREAD;
}

/* True before do_exit() gives up the task's memory and files. */
bool ravel_is_exiting(const struct task_struct *task)
{
	return READ_ONCE(task->flags) & PF_EXITING;
}

bool ravel_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

void ravel_cond_resched(void)
{
	cond_resched();
}

bool ravel_may_see_frames(void)
{
	return capable(CAP_SYS_ADMIN);
}

/* RCU is held. False: unhashed; its pointers to other tasks may be stale. */
bool ravel_pid_alive(const struct task_struct *task)
{
	return pid_alive(task);
}

/*
 * RCU is held. While copy_process() has not yet given the task a pid of its own, it still carries a copy
 * of its parent's, pid, tgid and all: it is new, and its pid leads to another task.
 */
bool ravel_is_being_forked(struct task_struct *task)
{
	struct pid *pid = READ_ONCE(task->thread_pid);

	return READ_ONCE(task->__state) == TASK_NEW && pid && pid_task(pid, PIDTYPE_PID) != task;
}

/* RCU is held. */
struct task_struct *ravel_mm_owner(struct mm_struct *mm)
{
	return rcu_dereference(mm->owner);
}

/* RCU is held, and pid_alive() was seen under it. */
struct task_struct *ravel_real_parent(struct task_struct *task)
{
	return rcu_dereference(task->real_parent);
}

int ravel_mmap_read_lock_killable(struct mm_struct *mm)
{
	return mmap_read_lock_killable(mm);
}

bool ravel_mmap_is_contended(struct mm_struct *mm)
{
	return mmap_lock_is_contended(mm);
}

void ravel_rest(u64 ns)
{
	ktime_t timeout = ns_to_ktime(ns);

	set_current_state(TASK_KILLABLE);
	schedule_hrtimeout_range(&timeout, ns / 4, HRTIMER_MODE_REL);
}

/* Pairs with the smp_store_release() in __anon_vma_prepare(). */
struct anon_vma *ravel_vma_anon_vma(const struct vm_area_struct *vma)
{
	return smp_load_acquire(&vma->anon_vma);
}

unsigned long ravel_vma_anon_pgoff(const struct vm_area_struct *vma)
{
	return vma_start_anon_pgoff(vma);
}

/*
 * munmap() takes its VMAs out of the address space under mmap_lock held for writing, but out of the
 * anon_vmas only later, with the lock downgraded. False for such a one; mmap_lock is held for reading.
 */
bool ravel_vma_is_attached(struct vm_area_struct *vma)
{
#ifdef CONFIG_PER_VMA_LOCK
	return refcount_read(&vma->vm_refcnt) != 0;
#else
#error "ravel needs CONFIG_PER_VMA_LOCK: without it a VMA does not tell that it is being unmapped"
#endif
}

/* Whether somebody holds mmap_lock for writing; with PREEMPT_RT, in any way. */
bool ravel_mm_is_write_locked(const struct mm_struct *mm)
{
#ifdef CONFIG_PREEMPT_RT
	return rwsem_is_locked((struct rw_semaphore *)&mm->mmap_lock);
#else
	return atomic_long_read(&mm->mmap_lock.count) & RWSEM_WRITER_LOCKED;
#endif
}

/* mmap_lock is held. The name of a VMA without a file, as in /proc/PID/maps. */
const char *ravel_vma_special_name(const struct vm_area_struct *vma, const char **anon_name)
{
	*anon_name = NULL;
#ifdef CONFIG_ANON_VMA_NAME
	if (vma->anon_name) {
		*anon_name = vma->anon_name->name;
		return NULL;
	}
#endif
	if (vma->vm_ops && vma->vm_ops->name) {
		const char *name = vma->vm_ops->name((struct vm_area_struct *)vma);

		if (name)
			return name;
	}
	if (vma_is_initial_heap(vma))
		return "[heap]";
	if (vma_is_initial_stack(vma))
		return "[stack]";
	return NULL;
}

/* mmap_lock is held; the VMA has a file. As d_path(): the path ends at the buffer's end, or ERR_PTR. */
char *ravel_vma_path(const struct vm_area_struct *vma, char *buf, int len)
{
	return d_path(file_user_path(vma->vm_file), buf, len);
}

unsigned long ravel_file_count(struct file *file)
{
	return file_count(file);
}

unsigned long ravel_file_inode(struct file *file)
{
	return file_inode(file)->i_ino;
}

MODULE_VERSION(RAVEL_VERSION);
