// SPDX-License-Identifier: GPL-2.0

/* No header of include/ has what these declare. */
#include <../io_uring/filetable.h>
#include <../io_uring/poll.h>
#include <../net/mptcp/protocol.h>
#include <../net/netlink/af_netlink.h>
#include <../net/packet/internal.h>
#include <../net/unix/af_unix.h>

#define RAVEL_NAME(reason) [SK_RST_REASON_##reason] = #reason,
#define RAVEL_NO_NAME(reason)
const char *const ravel_reset_reasons[] = { DEFINE_RST_REASON(RAVEL_NAME, RAVEL_NO_NAME) };

void ravel_helper_spin_lock_bh(spinlock_t *lock)
{
	spin_lock_bh(lock);
}

void ravel_helper_spin_unlock_bh(spinlock_t *lock)
{
	spin_unlock_bh(lock);
}

void ravel_helper_spin_lock_irq(spinlock_t *lock)
{
	spin_lock_irq(lock);
}

void ravel_helper_spin_unlock_irq(spinlock_t *lock)
{
	spin_unlock_irq(lock);
}

void ravel_helper_sock_spin_lock_bh(struct sock *sk)
{
	spin_lock_bh(&sk->sk_lock.slock);
}

void ravel_helper_sock_spin_unlock_bh(struct sock *sk)
{
	spin_unlock_bh(&sk->sk_lock.slock);
}

bool ravel_helper_sock_owned_by_user_nocheck(const struct sock *sk)
{
	return sock_owned_by_user_nocheck(sk);
}

void ravel_helper_sock_hold(struct sock *sk)
{
	sock_hold(sk);
}

void ravel_helper_sock_put(struct sock *sk)
{
	sock_put(sk);
}

int ravel_helper_sk_drops_read(const struct sock *sk)
{
	return sk_drops_read(sk);
}

struct sk_psock *ravel_helper_sk_psock(const struct sock *sk)
{
	return sk_psock(sk);
}

int ravel_helper_tcp_fin_time(const struct sock *sk)
{
	return tcp_fin_time(sk);
}

struct unix_address *ravel_helper_unix_sock_addr(const struct unix_sock *u)
{
	return smp_load_acquire(&u->addr);
}

u32 ravel_helper_unix_skb_consumed(const struct sk_buff *skb)
{
	return UNIXCB(skb).consumed;
}

u32 ravel_helper_netlink_portid(struct sock *sk)
{
	return READ_ONCE(nlk_sk(sk)->portid);
}

u32 ravel_helper_netlink_dst_portid(struct sock *sk)
{
	return READ_ONCE(nlk_sk(sk)->dst_portid);
}

struct sock *ravel_helper_mptcp_first(const struct sock *sk)
{
	return READ_ONCE(mptcp_sk(sk)->first);
}

struct mptcp_subflow_context *ravel_helper_mptcp_subflow_ctx(const struct sock *ssk)
{
	return mptcp_subflow_ctx(ssk);
}

struct sock *ravel_helper_mptcp_subflow_conn(const struct mptcp_subflow_context *subflow)
{
	return subflow->conn;
}

u64 ravel_helper_mptcp_unread(const struct sock *sk)
{
	return READ_ONCE(mptcp_sk(sk)->bytes_received) - READ_ONCE(mptcp_sk(sk)->bytes_consumed);
}

__be16 ravel_helper_packet_num(const struct sock *sk)
{
	return READ_ONCE(pkt_sk(sk)->num);
}

int ravel_helper_packet_ifindex(const struct sock *sk)
{
	return READ_ONCE(pkt_sk(sk)->ifindex);
}

u32 ravel_helper_packet_version(const struct sock *sk)
{
	return pkt_sk(sk)->tp_version;
}

bool ravel_helper_packet_has_rx_ring(const struct sock *sk)
{
	return pkt_sk(sk)->rx_ring.pg_vec;
}

u32 ravel_helper_packet_rx_ring_frames(const struct sock *sk)
{
	return pkt_sk(sk)->rx_ring.frame_max + 1;
}

void *ravel_helper_packet_rx_ring_frame(const struct sock *sk, u32 index)
{
	return pkt_sk(sk)->rx_ring.pg_vec[index / pkt_sk(sk)->rx_ring.frames_per_block].buffer +
	       index % pkt_sk(sk)->rx_ring.frames_per_block * pkt_sk(sk)->rx_ring.frame_size;
}

u32 ravel_helper_packet_rx_ring_blocks(const struct sock *sk)
{
	return pkt_sk(sk)->rx_ring.prb_bdqc.knum_blocks;
}

void *ravel_helper_packet_rx_ring_block(const struct sock *sk, u32 index)
{
	return pkt_sk(sk)->rx_ring.prb_bdqc.pkbdq[index].buffer;
}

void ravel_helper_cgroup_put(struct cgroup *cgrp)
{
	cgroup_put(cgrp);
}

u64 ravel_helper_cgroup_id(const struct cgroup *cgrp)
{
	return cgroup_id(cgrp);
}

bool ravel_helper_udp_skb_is_linear(struct sk_buff *skb)
{
	return udp_skb_is_linear(skb);
}

bool ravel_helper_udp_skb_csum_unnecessary(struct sk_buff *skb)
{
	return udp_skb_csum_unnecessary(skb);
}

bool ravel_helper_percpu_ref_tryget(struct percpu_ref *ref)
{
	return percpu_ref_tryget(ref);
}

void ravel_helper_percpu_ref_put(struct percpu_ref *ref)
{
	percpu_ref_put(ref);
}

struct percpu_ref *ravel_helper_io_ring_refs(struct io_ring_ctx *ctx)
{
	return &ctx->refs;
}

struct mutex *ravel_helper_io_ring_uring_lock(struct io_ring_ctx *ctx)
{
	return &ctx->uring_lock;
}

const struct io_rsrc_data *ravel_helper_io_ring_file_table(const struct io_ring_ctx *ctx)
{
	return &ctx->file_table.data;
}

struct file *ravel_helper_io_slot_file(struct io_rsrc_node *node)
{
	return io_slot_file(node);
}

struct scm_fp_list *ravel_helper_unix_skb_fp(const struct sk_buff *skb)
{
	return READ_ONCE(UNIXCB(skb).fp);
}

struct wait_queue_head *ravel_helper_sock_lock_waiters(struct sock *sk)
{
	return &sk->sk_lock.wq;
}

u32 ravel_helper_io_poll_events(const struct wait_queue_entry *entry)
{
	return (__force u32)READ_ONCE(container_of_const(entry, struct io_poll, wait)->events);
}

void ravel_helper_read_lock_irq(rwlock_t *lock)
{
	read_lock_irq(lock);
}

void ravel_helper_read_unlock_irq(rwlock_t *lock)
{
	read_unlock_irq(lock);
}
