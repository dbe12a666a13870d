// SPDX-License-Identifier: GPL-2.0

#include <asm/syscall.h>
#include <linux/audit.h>
#include <linux/fs.h>
#include <linux/io_uring_types.h>
#include <linux/kallsyms.h>
#include <linux/net.h>
#include <linux/pid.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/sched/task_stack.h>
#include <linux/wait.h>
#include <net/af_unix.h>
#include <net/sock.h>

/* No header of include/ has this one. */
#include <../io_uring/poll.h>

#include "waiters.h"

static_assert(RAVEL_SYMBOL_LEN >= KSYM_SYMBOL_LEN);

/* Where those wait who want something from the socket. It is part of the socket, and so of the file's inode. */
struct wait_queue_head *ravel_socket_waiters(struct file *file)
{
	return &sock_from_file(file)->wq.wait;
}

/* Where those wait who would lock the socket while somebody uses it. */
struct wait_queue_head *ravel_lock_waiters(struct sock *sk)
{
	return &sk->sk_lock.wq;
}

/* Where those wait who have something for this socket, and no room in its queue. The socket is a unix_sock. */
struct wait_queue_head *ravel_unix_room_waiters(struct sock *sk)
{
	return &unix_sk(sk)->peer_wait;
}

/* As f_getown(), but in the initial pid namespace. */
void ravel_file_owner(struct file *file, struct ravel_owner *out)
{
	struct fown_struct *owner = file_f_owner(file);

	*out = (struct ravel_owner) { .async_ = !!(READ_ONCE(file->f_flags) & FASYNC) };
	if (!owner)
		return;
	out->signal = READ_ONCE(owner->signum);
	read_lock_irq(&owner->lock);
	if (owner->pid) {
		rcu_read_lock();
		if (pid_task(owner->pid, owner->pid_type))
			out->pid = pid_nr(owner->pid);
		rcu_read_unlock();
		switch (owner->pid_type) {
		case PIDTYPE_PID:
			out->kind = RAVEL_OWNER_THREAD;
			break;
		case PIDTYPE_PGID:
			out->kind = RAVEL_OWNER_GROUP;
			break;
		default:
			out->kind = RAVEL_OWNER_PROCESS;
		}
	}
	read_unlock_irq(&owner->lock);
}

/* Wake-ups come from interrupts, too. */
void ravel_wait_lock(struct wait_queue_head *queue)
{
	spin_lock_irq(&queue->lock);
}

void ravel_wait_unlock(struct wait_queue_head *queue)
{
	spin_unlock_irq(&queue->lock);
}

struct wait_queue_entry *ravel_wait_next(struct wait_queue_head *queue,
					 struct wait_queue_entry *after)
{
	struct list_head *next = after ? after->entry.next : queue->head.next;

	return next == &queue->head ? NULL : list_entry(next, struct wait_queue_entry, entry);
}

unsigned long ravel_wait_function(const struct wait_queue_entry *entry)
{
	return (unsigned long)entry->func;
}

bool ravel_wait_exclusive(const struct wait_queue_entry *entry)
{
	return entry->flags & WQ_FLAG_EXCLUSIVE;
}

/*
 * A task that an entry would wake, and so cannot be gone. @frame is of the entry's: where it lies on the task's own
 * stack, that stands as well, and with it the registers with which the task came into the kernel. It has not
 * gone back, for it takes the entry out first.
 */
static void snapshot_task(struct task_struct *task, const void *frame, struct ravel_waiter *out)
{
	const void *stack = task_stack_page(task);

	out->pid = task->tgid;
	out->tid = task->pid;
	out->syscall = RAVEL_NO_SYSCALL;
	out->worker = !!(READ_ONCE(task->flags) & (PF_KTHREAD | PF_USER_WORKER));
	if (out->worker || frame < stack || frame >= stack + THREAD_SIZE)
		return;
	out->syscall = syscall_get_nr(task, task_pt_regs(task));
	out->i386 = syscall_get_arch(task) == AUDIT_ARCH_I386;
}

/* The function ends in default_wake_function(): a task is what the entry is about. */
struct task_struct *ravel_wait_task(const struct wait_queue_entry *entry, struct ravel_waiter *out)
{
	struct task_struct *task = entry->private;

	snapshot_task(task, entry, out);
	return task;
}

/* The function is pollwake(): select(), poll() and the like. */
struct task_struct *ravel_wait_poll(const struct wait_queue_entry *entry, struct ravel_waiter *out)
{
	const struct poll_wqueues *table = entry->private;

	snapshot_task(table->polling_task, table, out);
	out->events = (__force u32)container_of_const(entry, struct poll_table_entry, wait)->key;
	return table->polling_task;
}

/*
 * The function is io_poll_wake(). A request is taken out of the queue before it ends, and until then has a reference
 * to the task that made it, which keeps what io_uring knows of the task. The lowest bits mark a second entry.
 */
struct task_struct *ravel_wait_request(const struct wait_queue_entry *entry, struct ravel_waiter *out)
{
	const unsigned long marks = __alignof__(struct io_kiocb) - 1;
	const struct io_kiocb *req = (const void *)((unsigned long)entry->private & ~marks);
	struct task_struct *task = req->tctx->task;

	out->pid = task->tgid;
	out->tid = task->pid;
	out->syscall = RAVEL_NO_SYSCALL;
	out->events = (__force u32)READ_ONCE(container_of_const(entry, struct io_poll, wait)->events);
	out->opcode = req->opcode;
	out->user_data = req->cqe.user_data;
	out->object = (unsigned long)req->ctx;
	return task;
}

/*
 * The function is unix_dgram_peer_wake_relay(): the entry is part of a unix_sock that is connected to this one and
 * was polled for room. It takes the entry out before it goes.
 */
void ravel_wait_relay(const struct wait_queue_entry *entry, struct ravel_waiter *out)
{
	const struct unix_sock *from = container_of_const(entry, struct unix_sock, peer_wake);

	out->object = (unsigned long)&from->sk;
	out->inode = sock_i_ino(&from->sk);
	out->syscall = RAVEL_NO_SYSCALL;
}
