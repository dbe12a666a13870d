// SPDX-License-Identifier: GPL-2.0

/*
 * Probes of where packets come by. They run in any context but an NMI, with whatever locks held, mostly for
 * packets that nobody asked for: what can be told from a few bytes is told before anything is put together.
 *
 * An sk_buff is looked at only where who called the probe has it. That is why there is no point behind the driver's
 * ndo_start_xmit() (net_dev_xmit): by then it may be gone, and another in its place. Its device is looked at only
 * where the kernel is sure to have one there: in a queue, the same bytes serve for something else.
 */

#include <linux/cgroup.h>
#include <linux/ftrace.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netdevice.h>
#include <linux/rcupdate.h>
#include <linux/skbuff.h>
#include <linux/string.h>
#include <linux/tcp.h>
#include <linux/tracepoint.h>
#include <linux/unaligned.h>
#include <net/dst.h>
#include <net/inet_sock.h>
#include <net/ip.h>
#include <net/ip6_route.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/udp.h>
#include <trace/events/napi.h>
#include <trace/events/net.h>
#include <trace/events/skb.h>

#include "events.h"
#include "packets.h"

static_assert(sizeof(struct ravel_packet) == sizeof(union ravel_part));

/* What a header's offset is while no layer has set it. */
#define UNSET ((u16)~0U)

static void find_ports(struct ravel_ends *ends, const u8 *at, const u8 *end)
{
	switch (ends->protocol) {
	case IPPROTO_TCP:
		if (at + 8 <= end)
			ends->sequence = get_unaligned_be32(at + 4);
		fallthrough;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
		if (at + 4 <= end) {
			ends->has_ports = true;
			ends->from_port = get_unaligned_be16(at);
			ends->to_port = get_unaligned_be16(at + 2);
		}
	}
}

bool ravel_find_ends(struct ravel_ends *ends, const struct sk_buff *skb, u32 network)
{
	const u8 *end = skb_tail_pointer(skb), *at = skb->head + network;

	*ends = (struct ravel_ends) {};
	/* 0 is that of an sk_buff which never had one. */
	if (!skb->head || !network || network == UNSET)
		return false;
	if (skb->protocol == htons(ETH_P_IP)) {
		const struct iphdr *ip = (const struct iphdr *)at;

		if (at + sizeof(*ip) > end || ip->version != 4 || ip->ihl < 5)
			return false;
		ends->family = AF_INET;
		ends->from = (const u8 *)&ip->saddr;
		ends->to = (const u8 *)&ip->daddr;
		ends->protocol = ip->protocol;
		ends->is_fragment = ip_is_fragment(ip);
		/* The ports are in the first fragment. */
		if (!(ip->frag_off & htons(IP_OFFSET)))
			find_ports(ends, at + ip->ihl * 4, end);
		return true;
	}
	if (skb->protocol == htons(ETH_P_IPV6)) {
		const struct ipv6hdr *ip = (const struct ipv6hdr *)at;

		if (at + sizeof(*ip) > end || ip->version != 6)
			return false;
		ends->family = AF_INET6;
		ends->from = (const u8 *)&ip->saddr;
		ends->to = (const u8 *)&ip->daddr;
		/* Behind other headers there may be more; what is the next is told, whatever it is. */
		ends->protocol = ip->nexthdr;
		ends->is_fragment = ip->nexthdr == NEXTHDR_FRAGMENT;
		find_ports(ends, at + sizeof(*ip), end);
		return true;
	}
	return false;
}

/* An address as IPv6 has it. */
static bool is_address(u16 family, const u8 *end, const u8 *wanted)
{
	static const u8 mapped[12] = { [10] = 0xff, [11] = 0xff };

	if (family == AF_INET)
		return !memcmp(wanted, mapped, 12) && !memcmp(wanted + 12, end, 4);
	return !memcmp(wanted, end, 16);
}

bool ravel_ends_pass(const struct ravel_net_filter *filter, const struct ravel_ends *ends)
{
	if (filter->protocol && (!ends->from || ends->protocol != filter->protocol))
		return false;
	if (filter->port && (!ends->has_ports || (htons(ends->from_port) != filter->port &&
						  htons(ends->to_port) != filter->port)))
		return false;
	return !filter->has_address || (ends->from &&
					(is_address(ends->family, ends->from, filter->address) ||
					 is_address(ends->family, ends->to, filter->address)));
}

/* A socket refers to the cgroup in which it was made. */
bool ravel_cgroup_passes(const struct ravel_net_filter *filter, const struct sock *sk)
{
#ifdef CONFIG_SOCK_CGROUP_DATA
	struct cgroup *its;

	if (!filter->cgroup)
		return true;
	if (!sk || !sk_fullsock(sk))
		return false;
	its = sk->sk_cgrp_data.cgroup;
	return its && cgroup_is_descendant(its, filter->cgroup);
#else
	return !filter->cgroup;
#endif
}

/*
 * Whether a packet from `here` to `there` is one that this socket sends, by the same comparison as the kernel's own
 * look-up; it may be connected anew just now. A TCP socket that is not connected sends none, and what it receives
 * makes connections.
 */
static bool is_from(const struct sock *sk, const struct ravel_ends *ends, const u8 *here, u16 here_port,
		    const u8 *there, u16 there_port)
{
	u16 port = ntohs(READ_ONCE(sk->sk_dport));

	if (READ_ONCE(sk->sk_num) != here_port || (port ? port != there_port : sk_is_tcp(sk)))
		return false;
	if (ends->family == AF_INET) {
		__be32 local = READ_ONCE(sk->sk_rcv_saddr);

		if (READ_ONCE(sk->sk_family) == AF_INET6 && ipv6_only_sock(sk))
			return false;
		if (local && local != get_unaligned((const __be32 *)here))
			return false;
		return !port || READ_ONCE(sk->sk_daddr) == get_unaligned((const __be32 *)there);
	}
#if IS_ENABLED(CONFIG_IPV6)
	if (READ_ONCE(sk->sk_family) == AF_INET6) {
		struct in6_addr local = data_race(sk->sk_v6_rcv_saddr), remote = data_race(sk->sk_v6_daddr);

		if (!ipv6_addr_any(&local) && memcmp(&local, here, 16))
			return false;
		return !port || !memcmp(&remote, there, 16);
	}
#endif
	return false;
}

/* Whether a packet goes to that socket or comes from it, by its ends. */
static bool is_of_socket(const struct sock *sk, const struct ravel_ends *ends)
{
	u16 family = READ_ONCE(sk->sk_family);

	if ((family != AF_INET && family != AF_INET6) || READ_ONCE(sk->sk_protocol) != ends->protocol)
		return false;
	return ends->has_ports && (is_from(sk, ends, ends->from, ends->from_port, ends->to, ends->to_port) ||
				   is_from(sk, ends, ends->to, ends->to_port, ends->from, ends->from_port));
}

/* A packet at a point, and what its probe knows of it. */
struct crossing {
	const struct sk_buff *skb;
	const struct net_device *dev;	/* may be looked at; NULL: none is known */
	const struct net *net;		/* likewise */
	const struct sock *rx_sk;	/* that was to have it; not looked at */
	unsigned long location;
	u32 reason;
	u32 copied;
	u8 point;
};

/*
 * Where the network header is, from head. On its way in, data begins with it, and network_header may be that of
 * somewhere else.
 */
static __always_inline u32 network_at(const struct sk_buff *skb, u8 point)
{
	if (point == RAVEL_POINT_GRO || point == RAVEL_POINT_RECEIVE)
		return skb->data - skb->head;
	return skb->network_header;
}

/* Puts it together where it will lie; all of it has to be set. */
static __always_inline void fill(struct ravel_packet *packet, const struct crossing *at, const struct ravel_ends *ends,
				 const struct sock *owner)
{
	const struct sk_buff *skb = at->skb;
	u8 flags = skb->cloned ? RAVEL_PACKET_CLONED : 0;

	packet->skb = (unsigned long)skb;
	packet->head = (unsigned long)skb->head;
	packet->sock = (unsigned long)(at->rx_sk ?: owner);
	packet->inode = owner && packet->sock == (unsigned long)owner && sk_fullsock(owner) ? sock_i_ino(owner) : 0;
	packet->location = at->location;
	packet->netns = at->net ? at->net->ns.inum : 0;
	packet->reason = at->reason;
	packet->device = at->dev ? READ_ONCE(at->dev->ifindex) : 0;
	packet->len = skb->len;
	packet->data_len = skb->data_len;
	packet->copied = at->copied;
	packet->mac = skb->mac_header;
	packet->network = skb->network_header;
	packet->transport = skb->transport_header;
	packet->inner_mac = skb->inner_mac_header;
	packet->inner_network = skb->inner_network_header;
	packet->inner_transport = skb->inner_transport_header;
	packet->ethertype = ntohs(skb->protocol);
	packet->point = at->point;
	packet->fclone = skb->fclone;
	packet->truesize = skb->truesize;
	if (likely(skb->head)) {
		packet->data = skb->data - skb->head;
		packet->tail = skb_tail_pointer(skb) - skb->head;
		packet->end = skb_end_offset(skb);
		packet->gso_size = skb_shinfo(skb)->gso_size;
		packet->gso_segs = skb_shinfo(skb)->gso_segs;
		if (skb_cloned(skb))
			flags |= RAVEL_PACKET_SHARED;
	} else {
		packet->data = packet->tail = packet->end = 0;
		packet->gso_size = packet->gso_segs = 0;
	}
	memset(packet->from, 0, sizeof(packet->from));
	memset(packet->to, 0, sizeof(packet->to));
	if (ends->from) {
		flags |= RAVEL_PACKET_ADDRESS;
		if (ends->family == AF_INET) {
			memcpy(packet->from, ends->from, 4);
			memcpy(packet->to, ends->to, 4);
		} else {
			memcpy(packet->from, ends->from, 16);
			memcpy(packet->to, ends->to, 16);
		}
		if (ends->is_fragment)
			flags |= RAVEL_PACKET_FRAGMENT;
		if (ends->has_ports)
			flags |= RAVEL_PACKET_PORTS;
	}
	packet->family = ends->family;
	packet->protocol = ends->protocol;
	packet->sequence = ends->sequence;
	packet->from_port = ends->from_port;
	packet->to_port = ends->to_port;
	packet->flags = flags;
}

static noinline void record(struct ravel_sink *sink, const struct crossing *at, const struct ravel_ends *ends,
			    const struct sock *owner)
{
	struct ravel_event *event;
	unsigned long flags;

	local_irq_save(flags);
	event = ravel_event_begin(sink);
	if (event) {
		event->kind = RAVEL_EVENT_PACKET;
		fill(&event->part.packet, at, ends, owner);
		ravel_event_end(sink);
	}
	local_irq_restore(flags);
}

/* Whether there is a port that one end has to have, and neither has. */
static __always_inline bool lacks_port(const __be16 *ports, __be16 port)
{
	return port && get_unaligned(ports) != port && get_unaligned(ports + 1) != port;
}

/* The same of the port of a socket whose packets are asked for, unless the packet is said to be its. */
static __always_inline bool lacks_port_of_socket(const __be16 *ports, const struct ravel_net_filter *filter,
						 const struct sk_buff *skb, const struct sock *rx_sk)
{
	const struct sock *sk = filter->sock;

	return sk && skb->sk != sk && rx_sk != sk && lacks_port(ports, htons(READ_ONCE(sk->sk_num)));
}

/*
 * Whether a filter is sure to let nothing pass that has this header: most packets are nobody's who watches, and this
 * is what they cost. The offset may be none, and behind it anything, of which no ends are found later on. Looked at is
 * the header that nearly all have: IPv4's without options, in the probe itself, and IPv6's, one call further on. What
 * mostly rejects comes first. Where the bytes of another protocol look like IP's, it is rejected rightly: it has no
 * port, protocol or address, and is a socket's only if it belongs to it.
 */
static __always_inline bool is_rejected(const struct ravel_sink *sink, const struct sk_buff *skb, u8 point,
					const struct sock *rx_sk)
{
	const struct ravel_net_filter *filter = &sink->filter;
	u32 network = network_at(skb, point), tail = skb_tail_pointer(skb) - skb->head;
	const struct iphdr *ip = (const struct iphdr *)(skb->head + network);
	const __be16 *ports = (const __be16 *)(ip + 1);

	if (network + sizeof(*ip) + 2 * sizeof(*ports) > tail || *(const u8 *)ip != 0x45)
		return false;
	if (lacks_port(ports, filter->port))
		return true;
	if (filter->protocol && ip->protocol != filter->protocol)
		return true;
	if (filter->has_address) {
		__be32 address = get_unaligned((const __be32 *)(filter->address + 12));

		if (ip->saddr != address && ip->daddr != address)
			return true;
	}
	return lacks_port_of_socket(ports, filter, skb, rx_sk);
}

static __always_inline bool is_rejected_ipv6(const struct ravel_sink *sink, const struct sk_buff *skb, u8 point,
					     const struct sock *rx_sk)
{
	const struct ravel_net_filter *filter = &sink->filter;
	u32 network = network_at(skb, point), tail = skb_tail_pointer(skb) - skb->head;
	const struct ipv6hdr *ip = (const struct ipv6hdr *)(skb->head + network);
	const __be16 *ports = (const __be16 *)(ip + 1);

	if (network + sizeof(*ip) + 2 * sizeof(*ports) > tail || *(const u8 *)ip >> 4 != 6)
		return false;
	if (lacks_port(ports, filter->port))
		return true;
	if (filter->protocol && ip->nexthdr != filter->protocol)
		return true;
	if (filter->has_address && memcmp(&ip->saddr, filter->address, 16) && memcmp(&ip->daddr, filter->address, 16))
		return true;
	return lacks_port_of_socket(ports, filter, skb, rx_sk);
}

static void look(struct ravel_sink *sink, struct crossing *at)
{
	const struct ravel_net_filter *filter = &sink->filter;
	const struct sk_buff *skb = at->skb;
	const struct sock *owner;
	struct ravel_ends ends;

	ravel_find_ends(&ends, skb, network_at(skb, at->point));
	if (!ravel_ends_pass(filter, &ends))
		return;
	owner = ravel_skb_owner(skb);
	if (!at->net && at->dev)
		at->net = dev_net(at->dev);
	if (!at->net && owner)
		at->net = sock_net(owner);
	if (filter->sock && owner != filter->sock && at->rx_sk != filter->sock &&
	    ((at->net && at->net != sock_net(filter->sock)) || !is_of_socket(filter->sock, &ends)))
		return;
	if (!ravel_cgroup_passes(filter, owner))
		return;
	record(sink, at, &ends, owner);
}

/* What most points know of a packet. */
static noinline void cross_at(void *sink, const struct sk_buff *skb, u8 point, const struct net_device *dev)
{
	look(sink, &(struct crossing) { .skb = skb, .point = point, .dev = dev });
}

/* By itself, since what makes a crossing begins by setting up its stack. */
static noinline void cross(void *sink, const struct sk_buff *skb, u8 point, const struct net_device *dev)
{
	if (!is_rejected_ipv6(sink, skb, point, NULL))
		cross_at(sink, skb, point, dev);
}

static void probe_gro(void *sink, const struct sk_buff *skb)
{
	if (!is_rejected(sink, skb, RAVEL_POINT_GRO, NULL))
		cross(sink, skb, RAVEL_POINT_GRO, skb->dev);
}

static void probe_receive(void *sink, struct sk_buff *skb)
{
	if (!is_rejected(sink, skb, RAVEL_POINT_RECEIVE, NULL))
		cross(sink, skb, RAVEL_POINT_RECEIVE, skb->dev);
}

static void probe_queue(void *sink, struct sk_buff *skb)
{
	if (!is_rejected(sink, skb, RAVEL_POINT_QUEUE, NULL))
		cross(sink, skb, RAVEL_POINT_QUEUE, skb->dev);
}

static void probe_transmit(void *sink, const struct sk_buff *skb, const struct net_device *dev)
{
	if (!is_rejected(sink, skb, RAVEL_POINT_TRANSMIT, NULL))
		cross(sink, skb, RAVEL_POINT_TRANSMIT, dev);
}

/*
 * Of what ends, all that a layer of the network has had. sk_buffs of other kinds end there, too: those of netlink and of
 * unix sockets, and those that TCP keeps of what it has sent, while their clones go.
 */
static bool was_on_its_way(const struct sk_buff *skb)
{
	return skb->mac_header != UNSET || (skb->network_header && skb->network_header != UNSET);
}

/* Whether a filter may let an end pass. An sk_buff may have no buffer by then. */
static __always_inline bool may_end(const struct ravel_sink *sink, const struct sk_buff *skb, u8 point,
				    const struct sock *rx_sk)
{
	return skb->head && !is_rejected(sink, skb, point, rx_sk) && was_on_its_way(skb);
}

static noinline void copied(void *sink, const struct sk_buff *skb, int len)
{
	if (is_rejected_ipv6(sink, skb, RAVEL_POINT_COPY, NULL))
		return;
	look(sink, &(struct crossing) { .skb = skb, .point = RAVEL_POINT_COPY, .copied = len });
}

static void probe_copy(void *sink, const struct sk_buff *skb, int len)
{
	if (may_end(sink, skb, RAVEL_POINT_COPY, NULL))
		copied(sink, skb, len);
}

static noinline void consumed(void *sink, const struct sk_buff *skb, void *location)
{
	if (is_rejected_ipv6(sink, skb, RAVEL_POINT_CONSUME, NULL))
		return;
	look(sink, &(struct crossing) {
		.skb = skb, .point = RAVEL_POINT_CONSUME, .location = (unsigned long)location,
	});
}

static void probe_consume(void *sink, struct sk_buff *skb, void *location)
{
	if (may_end(sink, skb, RAVEL_POINT_CONSUME, NULL))
		consumed(sink, skb, location);
}

/* `rx_sk` may have been let go of by now. */
static noinline void dropped(void *sink, const struct sk_buff *skb, void *location, enum skb_drop_reason reason,
			     const struct sock *rx_sk)
{
	if (is_rejected_ipv6(sink, skb, RAVEL_POINT_DROP, rx_sk))
		return;
	look(sink, &(struct crossing) {
		.skb = skb, .point = RAVEL_POINT_DROP, .location = (unsigned long)location, .reason = reason,
		.rx_sk = rx_sk,
	});
}

static void probe_drop(void *sink, struct sk_buff *skb, void *location, enum skb_drop_reason reason,
		       const struct sock *rx_sk)
{
	if (may_end(sink, skb, RAVEL_POINT_DROP, rx_sk))
		dropped(sink, skb, location, reason, rx_sk);
}

/*
 * skb_consume_udp(struct sock *, struct sk_buff *, int): UDP has copied a datagram to who reads it, and is done with it.
 * The tracepoint has told of those in several pieces whose checksum was known, or had to be, since not all was read, or
 * it was only looked at; the number is negative then.
 */
static void enter_copied_udp(void *sink, struct ftrace_regs *regs)
{
	struct sk_buff *skb = (void *)ftrace_regs_get_argument(regs, 1);
	int len = ftrace_regs_get_argument(regs, 2);

	if (!udp_skb_is_linear(skb) && (len < 0 || udp_skb_csum_unnecessary(skb) || skb->csum_valid))
		return;
	if (!is_rejected(sink, skb, RAVEL_POINT_COPY, NULL))
		copied(sink, skb, abs(len));
}

static __always_inline void cross_ip(void *sink, const struct sk_buff *skb)
{
	if (!is_rejected(sink, skb, RAVEL_POINT_IP, NULL))
		cross(sink, skb, RAVEL_POINT_IP, skb->dev);
}

/* ip_rcv(struct sk_buff *, ...), and IPv6's. */
static void enter_ip(void *sink, struct ftrace_regs *regs)
{
	cross_ip(sink, (void *)ftrace_regs_get_argument(regs, 0));
}

/* ip_list_rcv(struct list_head *, ...), and IPv6's: each of a list, as the function itself will go through it. */
static void enter_ip_list(void *sink, struct ftrace_regs *regs)
{
	const struct list_head *list = (void *)ftrace_regs_get_argument(regs, 0);
	const struct sk_buff *skb;

	list_for_each_entry(skb, list, list)
		cross_ip(sink, skb);
}

/* tcp_v4_rcv(struct sk_buff *), udp_rcv(), and IPv6's. */
static void enter_transport(void *sink, struct ftrace_regs *regs)
{
	const struct sk_buff *skb = (void *)ftrace_regs_get_argument(regs, 0);

	if (!is_rejected(sink, skb, RAVEL_POINT_TRANSPORT, NULL))
		cross(sink, skb, RAVEL_POINT_TRANSPORT, skb->dev);
}

/* ip_output(struct net *, struct sock *, struct sk_buff *), that of multicast, and IPv6's. The device is that of the route. */
static noinline void put_out(void *sink, const struct sk_buff *skb, const struct net *net)
{
	if (is_rejected_ipv6(sink, skb, RAVEL_POINT_OUTPUT, NULL))
		return;
	rcu_read_lock();
	look(sink, &(struct crossing) {
		.skb = skb, .point = RAVEL_POINT_OUTPUT, .net = net,
		.dev = skb_dst(skb) ? READ_ONCE(skb_dst(skb)->dev) : NULL,
	});
	rcu_read_unlock();
}

static void enter_output(void *sink, struct ftrace_regs *regs)
{
	const struct sk_buff *skb = (void *)ftrace_regs_get_argument(regs, 2);

	if (!is_rejected(sink, skb, RAVEL_POINT_OUTPUT, NULL))
		put_out(sink, skb, (void *)ftrace_regs_get_argument(regs, 0));
}

/*
 * skb_release_head_state(struct sk_buff *), or skb_release_all() and __kfree_skb(), which it may be part of: nearly all
 * that end come by here, and hardly any other; EVENTS.md names the rest. What is attached to the sk_buff is still there.
 */
static void enter_free(void *sink, struct ftrace_regs *regs)
{
	const struct sk_buff *skb = (void *)ftrace_regs_get_argument(regs, 0);

	if (may_end(sink, skb, RAVEL_POINT_FREE, NULL))
		cross(sink, skb, RAVEL_POINT_FREE, NULL);
}

/* kfree_skb_partial(struct sk_buff *, bool): where another has its buffer by now, this frees it by itself. */
static void enter_free_stolen(void *sink, struct ftrace_regs *regs)
{
	if ((bool)ftrace_regs_get_argument(regs, 1))
		enter_free(sink, regs);
}

/* The prototypes are the tracepoints' own, and those of the functions. */
static void __maybe_unused check_prototypes(void)
{
	check_trace_callback_type_napi_gro_receive_entry(probe_gro);
	check_trace_callback_type_napi_gro_frags_entry(probe_gro);
	check_trace_callback_type_netif_receive_skb(probe_receive);
	check_trace_callback_type_skb_copy_datagram_iovec(probe_copy);
	check_trace_callback_type_net_dev_queue(probe_queue);
	check_trace_callback_type_net_dev_start_xmit(probe_transmit);
	check_trace_callback_type_consume_skb(probe_consume);
	check_trace_callback_type_kfree_skb(probe_drop);
	static_assert(__same_type(((struct packet_type *)0)->func,
				  int (*)(struct sk_buff *, struct net_device *, struct packet_type *,
					  struct net_device *)));
	static_assert(__same_type(((struct packet_type *)0)->list_func,
				  void (*)(struct list_head *, struct packet_type *, struct net_device *)));
	static_assert(__same_type(ip_rcv, *((struct packet_type *)0)->func));
	static_assert(__same_type(ip_list_rcv, *((struct packet_type *)0)->list_func));
	static_assert(__same_type(tcp_v4_rcv, int (struct sk_buff *)));
	static_assert(__same_type(udp_rcv, int (struct sk_buff *)));
	static_assert(__same_type(ip_output, int (struct net *, struct sock *, struct sk_buff *)));
	static_assert(__same_type(ip_mc_output, ip_output));
	static_assert(__same_type(ip6_output, ip_output));
	static_assert(__same_type(skb_consume_udp, void (struct sock *, struct sk_buff *, int)));
	static_assert(__same_type(skb_release_head_state, void (struct sk_buff *)));
	static_assert(__same_type(__kfree_skb, void (struct sk_buff *)));
	static_assert(__same_type(kfree_skb_partial, void (struct sk_buff *, bool)));
}

void *const ravel_packet_probes[RAVEL_TRACEPOINTS] = {
	[RAVEL_HOOK_PACKET_GRO] = probe_gro,
	[RAVEL_HOOK_PACKET_RECEIVE] = probe_receive,
	[RAVEL_HOOK_PACKET_COPY] = probe_copy,
	[RAVEL_HOOK_PACKET_QUEUE] = probe_queue,
	[RAVEL_HOOK_PACKET_TRANSMIT] = probe_transmit,
	[RAVEL_HOOK_PACKET_CONSUME] = probe_consume,
	[RAVEL_HOOK_PACKET_DROP] = probe_drop,
};

ravel_enter_fn *const ravel_packet_enters[RAVEL_HOOKS] = {
	[RAVEL_HOOK_PACKET_IP] = enter_ip,
	[RAVEL_HOOK_PACKET_IP_LIST] = enter_ip_list,
	[RAVEL_HOOK_PACKET_TRANSPORT] = enter_transport,
	[RAVEL_HOOK_PACKET_OUTPUT] = enter_output,
	[RAVEL_HOOK_PACKET_COPY_UDP] = enter_copied_udp,
	[RAVEL_HOOK_PACKET_FREE] = enter_free,
	[RAVEL_HOOK_PACKET_FREE_STOLEN] = enter_free_stolen,
};
