/* SPDX-License-Identifier: GPL-2.0 */

/* Among C: what a packet's own bytes say of it, and which packets a filter lets through. */

#ifndef RAVEL_PACKETS_H
#define RAVEL_PACKETS_H

#include <linux/skbuff.h>
#include <net/sock.h>

#include "events.h"

/* Where a packet comes from and goes to. */
struct ravel_ends {
	const u8 *from;		/* addresses, network order; NULL: not known */
	const u8 *to;
	u32 sequence;		/* TCP */
	u16 family;
	u16 from_port;		/* host order */
	u16 to_port;
	u8 protocol;
	bool has_ports;
	bool is_fragment;	/* of IP's */
};

/*
 * Whether there are any, in the linear part, at an offset from head where the network header is said to begin;
 * there has to be one.
 */
bool ravel_find_ends(struct ravel_ends *ends, const struct sk_buff *skb, u32 network);

/* Whether a filter's protocol, address and port are the ends', and its cgroup the socket's, which may be NULL. */
bool ravel_ends_pass(const struct ravel_net_filter *filter, const struct ravel_ends *ends);
bool ravel_cgroup_passes(const struct ravel_net_filter *filter, const struct sock *sk);

/* The socket that an sk_buff belongs to, and keeps, but for one that was found before its time. */
static inline const struct sock *ravel_skb_owner(const struct sk_buff *skb)
{
	return skb->destructor && !skb_sk_is_prefetched((struct sk_buff *)skb) ? skb->sk : NULL;
}

#endif /* RAVEL_PACKETS_H */
