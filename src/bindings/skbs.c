// SPDX-License-Identifier: GPL-2.0

#include <linux/errqueue.h>
#include <linux/if_vlan.h>
#include <linux/ktime.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <linux/udp.h>
#include <net/af_unix.h>
#include <net/inet_connection_sock.h>
#include <net/request_sock.h>
#include <net/sock.h>
#include <net/tcp.h>

/* What a queued sk_buff of a unix socket carries: no header of include/ has it. */
#include <../net/unix/af_unix.h>

#include "skbs.h"

static_assert(sizeof_field(struct net_device, name) == 16);

static u32 skb_bits(const struct sk_buff *skb)
{
	u32 bits = 0;

	if (skb->nohdr)
		bits |= RAVEL_SKB_NOHDR;
	if (skb->peeked)
		bits |= RAVEL_SKB_PEEKED;
	if (skb->head_frag)
		bits |= RAVEL_SKB_HEAD_FRAG;
	if (skb->pfmemalloc)
		bits |= RAVEL_SKB_PFMEMALLOC;
	if (skb->pp_recycle)
		bits |= RAVEL_SKB_RECYCLE;
	if (skb->encapsulation)
		bits |= RAVEL_SKB_ENCAPSULATION;
	if (skb->l4_hash)
		bits |= RAVEL_SKB_L4_HASH;
	if (skb->sw_hash)
		bits |= RAVEL_SKB_SW_HASH;
	if (skb->csum_valid)
		bits |= RAVEL_SKB_CSUM_VALID;
	if (!skb_frags_readable(skb))
		bits |= RAVEL_SKB_UNREADABLE;
	if (skb->ignore_df)
		bits |= RAVEL_SKB_IGNORE_DF;
	if (skb->slow_gro)
		bits |= RAVEL_SKB_SLOW_GRO;
	return bits;
}

static s64 clock_now(u8 clock)
{
	switch (clock) {
	case SKB_CLOCK_MONOTONIC:
		return ktime_get_ns();
	case SKB_CLOCK_TAI:
		return ktime_get_clocktai_ns();
	default:
		return ktime_get_real_ns();
	}
}

static void snapshot_cb(const struct sk_buff *skb, u8 cb, struct ravel_skb *out)
{
	switch (cb) {
	case RAVEL_CB_TCP_IN:
	case RAVEL_CB_TCP_OUT: {
		const struct tcp_skb_cb *tcb = TCP_SKB_CB(skb);

		out->seq = tcb->seq;
		out->end_seq = tcb->end_seq;
		out->ack_seq = tcb->ack_seq;
		out->tcp_flags = tcb->tcp_flags;
		out->sacked = tcb->sacked;
		break;
	}
	case RAVEL_CB_UNIX: {
		/*
		 * A stream's reader takes the descriptors away without the queue's lock, but takes that lock
		 * before it frees their list: what is read here stays until the lock is given back.
		 */
		const struct scm_fp_list *fpl = READ_ONCE(UNIXCB(skb).fp);

		out->consumed = READ_ONCE(UNIXCB(skb).consumed);
		out->fds = fpl ? fpl->count : 0;
		break;
	}
	case RAVEL_CB_ERROR: {
		const struct sock_extended_err *ee = &SKB_EXT_ERR(skb)->ee;

		out->ee_errno = ee->ee_errno;
		out->ee_origin = ee->ee_origin;
		out->ee_type = ee->ee_type;
		out->ee_code = ee->ee_code;
		out->ee_info = ee->ee_info;
		out->ee_data = ee->ee_data;
		break;
	}
	}
}

/* The lock that guards the queue is held. @cb: what its owner keeps in `cb`. */
void ravel_skb_snapshot(struct sk_buff *skb, u8 cb, struct ravel_skb *out)
{
	const struct skb_shared_info *shared = skb_shinfo(skb);

	*out = (struct ravel_skb) {
		.tstamp = ktime_to_ns(skb->tstamp),
		.len = skb->len,
		.data_len = skb->data_len,
		.truesize = skb->truesize,
		.data = skb_headroom(skb),
		.tail = skb_tail_pointer(skb) - skb->head,
		.end = skb_end_offset(skb),
		.users = refcount_read(&skb->users),
		.dataref = atomic_read(&shared->dataref) & SKB_DATAREF_MASK,
		.priority = skb->priority,
		.mark = skb->mark,
		.hash = skb->hash,
		.gso_size = shared->gso_size,
		.gso_segs = shared->gso_segs,
		.gso_type = shared->gso_type,
		.flags = skb_bits(skb),
		.iif = skb->skb_iif,
		.mac = skb->mac_header,
		.network = skb->network_header,
		.transport = skb->transport_header,
		.inner_mac = skb->inner_mac_header,
		.inner_network = skb->inner_network_header,
		.inner_transport = skb->inner_transport_header,
		.mac_len = skb->mac_len,
		.hdr_len = skb->hdr_len,
		.protocol = ntohs(skb->protocol),
		.inner_is_ip = skb->inner_protocol_type == ENCAP_TYPE_IPPROTO,
		.inner_protocol = skb->inner_protocol_type == ENCAP_TYPE_IPPROTO ?
				  skb->inner_ipproto : ntohs(skb->inner_protocol),
		.cloned = skb->cloned,
		.fclone = skb->fclone,
		.nr_frags = shared->nr_frags,
		.frag_list = skb_has_frag_list(skb),
		.pkt_type = skb->pkt_type,
		.ip_summed = skb->ip_summed,
		.csum_level = skb->csum_level,
		.has_vlan = skb_vlan_tag_present(skb),
		.clock = skb->tstamp_type,
		.cb = cb,
	};
	if (out->has_vlan) {
		out->vlan_proto = ntohs(skb->vlan_proto);
		out->vlan_tci = skb_vlan_tag_get(skb);
	}
	if (out->ip_summed == CHECKSUM_PARTIAL) {
		out->csum_start = skb->csum_start;
		out->csum_offset = skb->csum_offset;
	} else if (out->ip_summed == CHECKSUM_COMPLETE) {
		out->csum = (__force u32)skb->csum;
	}
	/* When TCP last sent it, whatever the clock of its packets. */
	if (cb == RAVEL_CB_TCP_OUT)
		out->clock = SKB_CLOCK_MONOTONIC;
	if (out->tstamp)
		out->age_ns = clock_now(out->clock) - (s64)out->tstamp;
	snapshot_cb(skb, cb, out);
}

/* The pages behind the linear part; returns how many of them are in @out. */
u32 ravel_skb_frags(const struct sk_buff *skb, struct ravel_frag *out, u32 max)
{
	const struct skb_shared_info *shared = skb_shinfo(skb);
	u32 i, count = min_t(u32, shared->nr_frags, max);

	for (i = 0; i < count; i++) {
		const skb_frag_t *frag = &shared->frags[i];

		out[i] = (struct ravel_frag) {
			/* Never followed: it may be a device's memory, which has no page. */
			.at = (__force unsigned long)skb_frag_netmem(frag),
			.offset = skb_frag_off(frag),
			.size = skb_frag_size(frag),
		};
	}
	return count;
}

/* The sk_buffs of its frag_list, likewise; @missed: how many more there are. */
u32 ravel_skb_parts(const struct sk_buff *skb, struct ravel_frag *out, u32 max, u32 *missed)
{
	const struct sk_buff *part;
	u32 count = 0;

	*missed = 0;
	skb_walk_frags(skb, part) {
		if (count == max) {
			if (++*missed == RAVEL_QUEUE_WALK)
				break;
			continue;
		}
		out[count++] = (struct ravel_frag) {
			.at = (unsigned long)part,
			.offset = part->data_len,
			.size = part->len,
		};
	}
	return count;
}

/*
 * Copies bytes of the packet from @from on, which counts from skb->head and may lie in front of skb->data,
 * wherever they are; returns how many, @len or as many as there are.
 */
u32 ravel_skb_bytes(const struct sk_buff *skb, u32 from, u8 *out, u32 len)
{
	int offset = (int)from - (int)skb_headroom(skb);
	u32 behind = skb->len - offset;

	if (offset > (int)skb->len)
		return 0;
	/* Behind the linear part only what the CPU can read. */
	if (!skb_frags_readable(skb))
		behind = offset < (int)skb_headlen(skb) ? skb_headlen(skb) - offset : 0;
	len = min(len, behind);
	return len && !skb_copy_bits(skb, offset, out, len) ? len : 0;
}

/* The name that a device has now in the socket's network namespace. The socket is held. */
bool ravel_dev_name(const struct sock *sk, int ifindex, char out[16])
{
	const struct net_device *dev;

	rcu_read_lock();
	dev = dev_get_by_index_rcu(sock_net(sk), ifindex);
	if (dev)
		strscpy(out, dev->name, IFNAMSIZ);
	rcu_read_unlock();
	return dev;
}

/*
 * SCTP, MPTCP and TIPC use it under lock_sock() or the socket's spinlock, as TCP does, and not under the queue's
 * own. All others put sk_buffs there, and take them out, under the queue's.
 */
int ravel_receive_guard(const struct sock *sk)
{
	u16 protocol = READ_ONCE(sk->sk_protocol);

	if (sk_is_inet(sk) && (protocol == IPPROTO_SCTP || protocol == IPPROTO_MPTCP))
		return RAVEL_BY_SOCKET;
	return sk_is_tcp(sk) || sk->sk_family == AF_TIPC ? RAVEL_BY_SOCKET : RAVEL_BY_QUEUE;
}

struct sk_buff_head *ravel_receive_queue(struct sock *sk)
{
	return &sk->sk_receive_queue;
}

struct sk_buff_head *ravel_udp_reader_queue(struct sock *sk)
{
	return &udp_sk(sk)->reader_queue;
}

struct sk_buff_head *ravel_write_queue(struct sock *sk)
{
	return &sk->sk_write_queue;
}

struct sk_buff_head *ravel_error_queue(struct sock *sk)
{
	return &sk->sk_error_queue;
}

void ravel_queue_lock(struct sk_buff_head *queue)
{
	spin_lock_bh(&queue->lock);
}

void ravel_queue_unlock(struct sk_buff_head *queue)
{
	spin_unlock_bh(&queue->lock);
}

/* For an error queue: a device's interrupt may put a time stamp there. */
unsigned long ravel_queue_lock_irq(struct sk_buff_head *queue)
{
	unsigned long flags;

	spin_lock_irqsave(&queue->lock, flags);
	return flags;
}

void ravel_queue_unlock_irq(struct sk_buff_head *queue, unsigned long flags)
{
	spin_unlock_irqrestore(&queue->lock, flags);
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

/* The socket is held by ravel_sock_trylock(). */
struct sk_buff *ravel_rtx_next(struct sock *sk, struct sk_buff *after)
{
	return after ? skb_rb_next(after) : tcp_rtx_queue_head(sk);
}

/* Likewise. In the order of sequence numbers. */
struct sk_buff *ravel_ofo_next(struct sock *sk, struct sk_buff *after)
{
	return after ? skb_rb_next(after) : skb_rb_first(&tcp_sk(sk)->out_of_order_queue);
}

/* The backlog is what came while a process owns the socket: the spinlock alone guards it, owned or not. */
void ravel_backlog_lock(struct sock *sk)
{
	spin_lock_bh(&sk->sk_lock.slock);
}

void ravel_backlog_unlock(struct sock *sk)
{
	spin_unlock_bh(&sk->sk_lock.slock);
}

struct sk_buff *ravel_backlog_next(struct sock *sk, struct sk_buff *after)
{
	return after ? after->next : sk->sk_backlog.head;
}

/*
 * References to the connections that wait to be accepted, the first @max of them. Their own locks are taken
 * when the listener's is given back: a connection is put into the queue with its own held.
 */
u32 ravel_children(struct sock *sk, struct sock **out, u32 max, u32 *found)
{
	u32 told = 0;

	*found = 0;
	if (sk->sk_family == AF_UNIX) {
		const struct sk_buff *skb;

		spin_lock_bh(&sk->sk_receive_queue.lock);
		if (READ_ONCE(sk->sk_state) == TCP_LISTEN) {
			*found = skb_queue_len(&sk->sk_receive_queue);
			skb_queue_walk(&sk->sk_receive_queue, skb) {
				if (told == max)
					break;
				sock_hold(skb->sk);
				out[told++] = skb->sk;
			}
		}
		spin_unlock_bh(&sk->sk_receive_queue.lock);
	} else if (sk_is_tcp(sk)) {
		struct request_sock_queue *queue = &inet_csk(sk)->icsk_accept_queue;
		const struct request_sock *req;

		spin_lock_bh(&queue->rskq_lock);
		for (req = queue->rskq_accept_head; req && told < max; req = req->dl_next) {
			sock_hold(req->sk);
			out[told++] = req->sk;
		}
		*found = req ? max_t(u32, READ_ONCE(sk->sk_ack_backlog), told) : told;
		spin_unlock_bh(&queue->rskq_lock);
	}
	return told;
}

void ravel_child_put(struct sock *child)
{
	sock_put(child);
}
