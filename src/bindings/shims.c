// SPDX-License-Identifier: GPL-2.0

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/mm.h>
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
#include <linux/skbuff.h>
#include <linux/udp.h>
#include <linux/utsname.h>
#include <net/af_unix.h>
#include <net/inet_sock.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "shims.h"

#ifndef CONFIG_MEMCG
#error "ravel needs CONFIG_MEMCG: without it mm_struct has no owner, and a mapping cannot be named"
#endif
#ifndef CONFIG_64BIT
#error "ravel knows 64-bit kernels only"
#endif

static_assert(RAVEL_LISTEN == TCP_LISTEN);

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
		.ravel_sock_inq = offsetof(struct ravel_sock, inq),
		.ravel_skb_size = sizeof(struct ravel_skb),
		.ravel_skb_end_seq = offsetof(struct ravel_skb, end_seq),
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

/*
 * Takes the socket's spinlock if no process owns the socket: until it is given back nobody can become
 * the owner (lock_sock() begins with this lock) and softirqs keep off, so that what lock_sock() guards
 * stands still. Unlike lock_sock(), nobody's packets go to the backlog meanwhile.
 */
bool ravel_sock_trylock(struct sock *sk)
{
	spin_lock_bh(&sk->sk_lock.slock);
	if (!sock_owned_by_user_nocheck(sk))
		return true;
	spin_unlock_bh(&sk->sk_lock.slock);
	return false;
}

void ravel_sock_unlock(struct sock *sk)
{
	spin_unlock_bh(&sk->sk_lock.slock);
}

/* What never changes in a socket, or may be read at any time. A reference to its file is held. */
void ravel_sock_ident(struct sock *sk, struct ravel_sock *out)
{
	*out = (struct ravel_sock) {
		.netns = sock_net(sk)->ns.inum,
		.family = READ_ONCE(sk->sk_family),
		.type = READ_ONCE(sk->sk_type),
		.protocol = READ_ONCE(sk->sk_protocol),
		.is_tcp = sk_is_tcp(sk),
		.is_udp = sk_is_udp(sk),
		.inq = -1,
		.outq = -1,
	};
}

static void snapshot_inet(const struct sock *sk, struct ravel_sock *out)
{
	const struct inet_sock *inet = inet_sk(sk);

	out->has_address = 1;
	out->local_port = ntohs(inet->inet_sport);
	out->remote_port = ntohs(inet->inet_dport);
	out->has_peer = inet->inet_dport != 0;
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6) {
		memcpy(out->local, &sk->sk_v6_rcv_saddr, 16);
		memcpy(out->remote, &sk->sk_v6_daddr, 16);
		return;
	}
#endif
	/* As getsockname(): the address bound to, else the one that packets are sent from. */
	memcpy(out->local, inet->inet_rcv_saddr ? &inet->inet_rcv_saddr : &inet->inet_saddr, 4);
	memcpy(out->remote, &inet->inet_daddr, 4);
}

static void snapshot_tcp(struct sock *sk, struct ravel_sock *out)
{
	const struct tcp_sock *tp = tcp_sk(sk);
	struct sk_buff *skb;
	u32 seen = 0;

	if (sk->sk_state == TCP_LISTEN) {
		out->rx_packets = READ_ONCE(sk->sk_ack_backlog);
		return;
	}
	out->inq = tcp_inq(sk);
	out->rx_packets = skb_queue_len(&sk->sk_receive_queue);
	out->outq = 0;
	if ((1 << sk->sk_state) & (TCPF_SYN_SENT | TCPF_SYN_RECV))
		return;

	out->rx_bytes = tp->rcv_nxt - tp->copied_seq;
	/* A FIN takes a sequence number; it is not data. */
	if (out->rx_bytes && sock_flag(sk, SOCK_DONE))
		out->rx_bytes--;

	out->tx_bytes = tp->write_seq - tp->snd_una;
	out->outq = out->tx_bytes;
	if (out->tx_bytes &&
	    ((1 << sk->sk_state) & (TCPF_FIN_WAIT1 | TCPF_CLOSING | TCPF_LAST_ACK)))
		out->tx_bytes--;

	out->tx_packets = skb_queue_len(&sk->sk_write_queue);
	skb_rbtree_walk(skb, &sk->tcp_rtx_queue) {
		if (seen++ == RAVEL_QUEUE_WALK) {
			out->tx_missed = 1;
			break;
		}
		out->tx_packets++;
	}
}

/* ravel_sock_ident() came first, and the socket is held by ravel_sock_trylock(). */
void ravel_sock_snapshot(struct sock *sk, struct ravel_sock *out)
{
	struct socket *sock = sk->sk_socket;

	out->state = READ_ONCE(sk->sk_state);
	out->socket_state = sock ? READ_ONCE(sock->state) : SS_FREE;
	out->shutdown = READ_ONCE(sk->sk_shutdown) & SHUTDOWN_MASK;
	out->lingers = sock_flag(sk, SOCK_LINGER);
	out->linger = READ_ONCE(sk->sk_lingertime) / HZ;
	out->err = abs(READ_ONCE(sk->sk_err));
	out->soft_err = abs(READ_ONCE(sk->sk_err_soft));
	out->wmem = sk_wmem_alloc_get(sk);
	if (sk_is_inet(sk))
		snapshot_inet(sk, out);
	if (out->is_tcp)
		snapshot_tcp(sk, out);
}

/* The queue's lock is held. */
u32 ravel_queue_bytes(struct sk_buff_head *queue, u32 *packets, u32 *first_len, u32 *missed)
{
	const struct sk_buff *skb;
	u32 bytes = 0, seen = 0;

	*packets = skb_queue_len(queue);
	*missed = 0;
	*first_len = 0;
	skb_queue_walk(queue, skb) {
		if (seen == RAVEL_QUEUE_WALK) {
			*missed = *packets - seen;
			break;
		}
		if (!seen++)
			*first_len = skb->len;
		bytes += skb->len;
	}
	return bytes;
}

struct sk_buff_head *ravel_udp_reader_queue(struct sock *sk)
{
	return &udp_sk(sk)->reader_queue;
}

long ravel_unix_inq(struct sock *sk)
{
	return READ_ONCE(sk->sk_state) == TCP_LISTEN ? -1 : READ_ONCE(unix_sk(sk)->inq_len);
}

void ravel_unix_lock(struct sock *sk)
{
	unix_state_lock(sk);
}

void ravel_unix_unlock(struct sock *sk)
{
	unix_state_unlock(sk);
}

/* unix_state_lock() is held: the peer cannot be given up, and this socket's reference keeps it. */
struct sock *ravel_unix_peer(struct sock *sk)
{
	return unix_peer(sk);
}

/* The address is set once and lives as long as the socket. Returns its length, 0 for none. */
int ravel_unix_name(struct sock *sk, const char **path)
{
	const struct unix_address *addr = smp_load_acquire(&unix_sk(sk)->addr);
	int len;

	if (!addr)
		return 0;
	len = addr->len - offsetof(struct sockaddr_un, sun_path);
	*path = addr->name->sun_path;
	/* A path is counted with the NUL that ends it; an abstract name begins with one. */
	if (len > 0 && (*path)[0])
		len = strnlen(*path, len);
	return len;
}

void ravel_skb_snapshot(struct sk_buff *skb, bool tcp, struct ravel_skb *out)
{
	*out = (struct ravel_skb) {
		.len = skb->len,
		.data_len = skb->data_len,
		.truesize = skb->truesize,
		.data = skb_headroom(skb),
		.tail = skb_tail_pointer(skb) - skb->head,
		.end = skb_end_offset(skb),
		.mac = skb->mac_header,
		.network = skb->network_header,
		.transport = skb->transport_header,
		.protocol = ntohs(skb->protocol),
		.cloned = skb->cloned,
		.nr_frags = skb_shinfo(skb)->nr_frags,
		.frag_list = skb_has_frag_list(skb),
	};
	if (tcp) {
		out->seq = TCP_SKB_CB(skb)->seq;
		out->end_seq = TCP_SKB_CB(skb)->end_seq;
	}
}

struct sk_buff_head *ravel_receive_queue(struct sock *sk)
{
	return &sk->sk_receive_queue;
}

struct sk_buff_head *ravel_write_queue(struct sock *sk)
{
	return &sk->sk_write_queue;
}

void ravel_queue_lock(struct sk_buff_head *queue)
{
	spin_lock_bh(&queue->lock);
}

void ravel_queue_unlock(struct sk_buff_head *queue)
{
	spin_unlock_bh(&queue->lock);
}

/* The lock that guards the queue is held. NULL begins, and ends. */
struct sk_buff *ravel_queue_next(struct sk_buff_head *queue, struct sk_buff *after)
{
	return after ? skb_peek_next(after, queue) : skb_peek(queue);
}

u32 ravel_queue_len(struct sk_buff_head *queue)
{
	return skb_queue_len(queue);
}

/* The socket is held by ravel_sock_trylock(). */
struct sk_buff *ravel_rtx_next(struct sock *sk, struct sk_buff *after)
{
	return after ? skb_rb_next(after) : tcp_rtx_queue_head(sk);
}

MODULE_VERSION(RAVEL_VERSION);
