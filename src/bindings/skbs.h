/* SPDX-License-Identifier: GPL-2.0 */

/* What Rust cannot say of sk_buffs and their queues. As in shims.h: no shim decides anything. */

#ifndef RAVEL_SKBS_H
#define RAVEL_SKBS_H

#include <linux/types.h>

struct sk_buff;
struct sk_buff_head;
struct sock;

/* How many sk_buffs of one queue ravel looks at in one hold of its lock. */
#define RAVEL_QUEUE_WALK 16384

/* Which lock guards a socket's receive queue. */
#define RAVEL_BY_QUEUE 0	/* the queue's own */
#define RAVEL_BY_SOCKET 1	/* the socket's */

/* Whose private area an sk_buff's control block (`cb`) is, by the queue it is in. */
#define RAVEL_CB_NONE 0
#define RAVEL_CB_TCP_IN 1
#define RAVEL_CB_TCP_OUT 2
#define RAVEL_CB_UNIX 3
#define RAVEL_CB_ERROR 4

/* Bits of an sk_buff. */
#define RAVEL_SKB_NOHDR 0x1
#define RAVEL_SKB_PEEKED 0x2
#define RAVEL_SKB_HEAD_FRAG 0x4
#define RAVEL_SKB_PFMEMALLOC 0x8
#define RAVEL_SKB_RECYCLE 0x10
#define RAVEL_SKB_ENCAPSULATION 0x20
#define RAVEL_SKB_L4_HASH 0x40
#define RAVEL_SKB_SW_HASH 0x80
#define RAVEL_SKB_CSUM_VALID 0x100
#define RAVEL_SKB_UNREADABLE 0x200
#define RAVEL_SKB_IGNORE_DF 0x400
#define RAVEL_SKB_SLOW_GRO 0x800

/* One sk_buff. Offsets count from skb->head; multi-byte fields of packets are in host order. */
struct ravel_skb {
	u64 tstamp;
	s64 age_ns;		/* where tstamp is not 0: since then, by the clock that it is of */
	u32 len;
	u32 data_len;
	u32 truesize;
	u32 data;
	u32 tail;
	u32 end;
	u32 users;
	u32 dataref;
	u32 csum;		/* CHECKSUM_COMPLETE */
	u32 priority;
	u32 mark;
	u32 hash;
	u32 gso_type;
	u32 flags;		/* RAVEL_SKB_* */
	s32 iif;
	u16 mac;
	u16 network;
	u16 transport;
	u16 inner_mac;
	u16 inner_network;
	u16 inner_transport;
	u16 mac_len;
	u16 hdr_len;
	u16 protocol;
	u16 inner_protocol;	/* an EtherType, or with inner_is_ip an IP protocol */
	u16 vlan_proto;
	u16 vlan_tci;
	u16 gso_size;
	u16 gso_segs;
	u16 csum_start;		/* CHECKSUM_PARTIAL */
	u16 csum_offset;
	u8 cloned;
	u8 fclone;
	u8 nr_frags;
	u8 frag_list;
	u8 pkt_type;
	u8 ip_summed;
	u8 csum_level;
	u8 has_vlan;
	u8 inner_is_ip;
	u8 clock;		/* of tstamp: SKB_CLOCK_* */
	u8 cb;			/* RAVEL_CB_*: which of these are there */
	/* TCP. */
	u8 sacked;
	u16 tcp_flags;
	u32 seq;
	u32 end_seq;
	u32 ack_seq;
	/* unix. */
	u32 consumed;
	u32 fds;
	/* Error queues. */
	u32 ee_errno;
	u32 ee_info;
	u32 ee_data;
	u8 ee_origin;
	u8 ee_type;
	u8 ee_code;
	u8 last;
};

/* A piece of an sk_buff outside its linear part. */
struct ravel_frag {
	unsigned long at;	/* address of the page, or of an sk_buff in the frag_list; to be named only */
	u32 offset;		/* in the page; of an sk_buff: its data_len */
	u32 size;
};

void ravel_skb_snapshot(struct sk_buff *skb, u8 cb, struct ravel_skb *out);
u32 ravel_skb_frags(const struct sk_buff *skb, struct ravel_frag *out, u32 max);
u32 ravel_skb_parts(const struct sk_buff *skb, struct ravel_frag *out, u32 max, u32 *missed);
u32 ravel_skb_bytes(const struct sk_buff *skb, u32 from, u8 *out, u32 len);
bool ravel_dev_name(const struct sock *sk, int ifindex, char out[16]);

int ravel_receive_guard(const struct sock *sk);
struct sk_buff_head *ravel_receive_queue(struct sock *sk);
struct sk_buff_head *ravel_udp_reader_queue(struct sock *sk);
struct sk_buff_head *ravel_write_queue(struct sock *sk);
struct sk_buff_head *ravel_error_queue(struct sock *sk);
void ravel_queue_lock(struct sk_buff_head *queue);
void ravel_queue_unlock(struct sk_buff_head *queue);
unsigned long ravel_queue_lock_irq(struct sk_buff_head *queue);
void ravel_queue_unlock_irq(struct sk_buff_head *queue, unsigned long flags);
struct sk_buff *ravel_queue_next(struct sk_buff_head *queue, struct sk_buff *after);
u32 ravel_queue_len(struct sk_buff_head *queue);
u32 ravel_queue_bytes(struct sk_buff_head *queue, u32 *packets, u32 *first_len, u32 *missed);
struct sk_buff *ravel_rtx_next(struct sock *sk, struct sk_buff *after);
struct sk_buff *ravel_ofo_next(struct sock *sk, struct sk_buff *after);
void ravel_backlog_lock(struct sock *sk);
void ravel_backlog_unlock(struct sock *sk);
struct sk_buff *ravel_backlog_next(struct sock *sk, struct sk_buff *after);

u32 ravel_children(struct sock *sk, struct sock **out, u32 max, u32 *found);
void ravel_child_put(struct sock *child);

#endif /* RAVEL_SKBS_H */
