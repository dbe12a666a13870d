// SPDX-License-Identifier: GPL-2.0

#include <linux/dcache.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/io_uring_types.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/pid.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <net/af_unix.h>
#include <net/scm.h>
#include <net/sock.h>

/* No header of include/ has these two. */
#include <../io_uring/filetable.h>
#include <../net/unix/af_unix.h>

#include "skbs.h"
#include "sockets.h"

/*
 * Takes a reference to the first task from number *@nr on that may have a table of descriptors that no
 * task before it in its process has, and moves *@nr behind it. NULL: that was the last.
 */
struct task_struct *ravel_next_task(int *nr)
{
	struct task_struct *task;
	struct pid *pid;

	for (;;) {
		rcu_read_lock();
		pid = find_ge_pid(*nr, &init_pid_ns);
		if (!pid) {
			rcu_read_unlock();
			return NULL;
		}
		*nr = pid_nr(pid) + 1;
		task = pid_task(pid, PIDTYPE_PID);
		if (task && !(READ_ONCE(task->flags) & (PF_KTHREAD | PF_EXITING)) &&
		    (thread_group_leader(task) ||
		     READ_ONCE(task->files) != READ_ONCE(task->group_leader->files))) {
			get_task_struct(task);
			rcu_read_unlock();
			return task;
		}
		rcu_read_unlock();
		cond_resched();
		if (fatal_signal_pending(current))
			return NULL;
	}
}

/* In the initial pid namespace. A reference to the task is held. */
int ravel_task_tgid(struct task_struct *task)
{
	return task_tgid_nr(task);
}

/* The address of the task's table of descriptors, to be named, not followed; 0 if it has given it up. */
unsigned long ravel_task_files(struct task_struct *task)
{
	unsigned long files;

	task_lock(task);
	files = (unsigned long)task->files;
	task_unlock(task);
	return files;
}

/* Whether an epoll set watches the file, which holds no reference to it. */
bool ravel_file_is_watched(struct file *file)
{
	const struct hlist_head *sets;
	bool watched;

	spin_lock(&file->f_lock);
	sets = READ_ONCE(file->f_ep);
	watched = sets && !hlist_empty(sets);
	spin_unlock(&file->f_lock);
	return watched;
}

/* The queue's lock is held. */
static u32 count_messages(const struct sk_buff_head *queue, const struct file *wanted, u32 *missed)
{
	const struct sk_buff *skb;
	u32 found = 0, seen = 0;

	skb_queue_walk(queue, skb) {
		const struct scm_fp_list *fpl = UNIXCB(skb).fp;
		int i;

		if (seen++ == RAVEL_QUEUE_WALK) {
			*missed += skb_queue_len(queue) - RAVEL_QUEUE_WALK;
			break;
		}
		for (i = 0; fpl && i < fpl->count; i++)
			found += fpl->fp[i] == wanted;
	}
	return found;
}

/*
 * How often @wanted is on its way in what @unix_file, if it is a unix socket, has received, or in what the
 * connections have that nobody has accepted from it. A reference to @unix_file is held.
 */
u32 ravel_unix_messages(struct file *unix_file, const struct file *wanted, u32 *missed)
{
	struct socket *sock = sock_from_file(unix_file);
	struct sk_buff_head *queue;
	const struct sk_buff *skb;
	struct sock *sk;
	u32 found = 0, seen = 0;

	*missed = 0;
	sk = sock ? READ_ONCE(sock->sk) : NULL;
	if (!sk || sk->sk_family != AF_UNIX)
		return 0;
	queue = &sk->sk_receive_queue;
	if (READ_ONCE(sk->sk_state) != TCP_LISTEN) {
		if (!atomic_read(&unix_sk(sk)->scm_stat.nr_fds))
			return 0;
		spin_lock(&queue->lock);
		found = count_messages(queue, wanted, missed);
		spin_unlock(&queue->lock);
		return found;
	}
	spin_lock(&queue->lock);
	/* Whoever stopped to listen meanwhile has thrown these away: a socket that listened never receives. */
	if (READ_ONCE(sk->sk_state) == TCP_LISTEN) {
		skb_queue_walk(queue, skb) {
			struct sk_buff_head *inner = &skb->sk->sk_receive_queue;

			if (seen >= RAVEL_QUEUE_WALK) {
				(*missed)++;
				continue;
			}
			seen += 1 + skb_queue_len_lockless(inner);
			if (!atomic_read(&unix_sk(skb->sk)->scm_stat.nr_fds))
				continue;
			/* The listener's first, then that of who waits, as everywhere. */
			spin_lock_nested(&inner->lock, SINGLE_DEPTH_NESTING);
			found += count_messages(inner, wanted, missed);
			spin_unlock(&inner->lock);
		}
	}
	spin_unlock(&queue->lock);
	return found;
}

/* io_uring does not say which its files are, but in their name, which nobody can choose. */
bool ravel_file_is_ring(const struct file *file)
{
	const struct dentry *dentry = file->f_path.dentry;

	return !strcmp(dentry->d_sb->s_type->name, "anon_inodefs") &&
	       !strcmp(dentry->d_name.name, "[io_uring]");
}

/* How many registered files of a ring are @wanted; -1: somebody is just using the ring. */
long ravel_ring_slots(struct file *ring, const struct file *wanted)
{
	struct io_ring_ctx *ctx = ring->private_data;
	struct io_rsrc_data *table;
	long found = 0;
	unsigned int i;

	if (!mutex_trylock(&ctx->uring_lock))
		return -1;
	table = &ctx->file_table.data;
	for (i = 0; i < table->nr; i++)
		found += table->nodes[i] && io_slot_file(table->nodes[i]) == wanted;
	mutex_unlock(&ctx->uring_lock);
	return found;
}
