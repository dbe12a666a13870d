// SPDX-License-Identifier: GPL-2.0

/*
 * Probes of sockets, and of drops. Those of tracepoints run in any context but an NMI, with whatever locks held; those
 * of functions in that of a process. None may sleep, lock or allocate. Whose event it is, is decided by the
 * socket: who runs just now has mostly nothing to do with it.
 */

#include <linux/bitfield.h>
#include <linux/cgroup.h>
#include <linux/file.h>
#include <linux/filelock.h>
#include <linux/kallsyms.h>
#include <linux/net.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/tracepoint.h>
#include <linux/udp.h>
#include <net/af_unix.h>
#include <net/dropreason.h>
#include <net/inet_common.h>
#include <net/inet_sock.h>
#include <net/net_namespace.h>
#include <net/rstreason.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <trace/events/skb.h>
#include <trace/events/sock.h>
#include <trace/events/tcp.h>

#include "events.h"
#include "packets.h"

static_assert(sizeof(struct ravel_event) == 160);

static void begin(struct ravel_event *event, u32 kind)
{
	*event = (struct ravel_event) { .kind = kind };
}

/*
 * What every kind of socket begins with, what is left of one in TIME_WAIT and what a request is, too. Nobody
 * keeps it from changing, so an address may be half of one connection and half of the next where a
 * program connects again just now.
 */
static void fill_common(struct ravel_net *net, const struct sock *sk)
{
	net->sock = (unsigned long)sk;
	net->netns = sock_net(sk)->ns.inum;
	net->family = READ_ONCE(sk->sk_family);
	net->state = READ_ONCE(sk->sk_state);
	if (net->family != AF_INET && net->family != AF_INET6)
		return;
	net->flags |= RAVEL_NET_ADDRESS | RAVEL_NET_PORTS;
	net->local_port = READ_ONCE(sk->sk_num);
	net->remote_port = ntohs(READ_ONCE(sk->sk_dport));
#if IS_ENABLED(CONFIG_IPV6)
	if (net->family == AF_INET6) {
		data_race(memcpy(net->local, &sk->sk_v6_rcv_saddr, 16));
		data_race(memcpy(net->remote, &sk->sk_v6_daddr, 16));
		return;
	}
#endif
	data_race(memcpy(net->local, &sk->sk_rcv_saddr, 4));
	data_race(memcpy(net->remote, &sk->sk_daddr, 4));
}

static void fill_sock(struct ravel_net *net, const struct sock *sk)
{
	fill_common(net, sk);
	if (!sk_fullsock(sk)) {
		net->protocol = IPPROTO_TCP;
		return;
	}
	net->protocol = READ_ONCE(sk->sk_protocol);
	net->inode = sock_i_ino(sk);
	net->shutdown = READ_ONCE(sk->sk_shutdown) & SHUTDOWN_MASK;
	if (!(net->flags & RAVEL_NET_ADDRESS))
		return;
	/* That which sk_num was, before the port was given up. */
	net->local_port = ntohs(READ_ONCE(inet_sk(sk)->inet_sport));
	/* As getsockname(): the address bound to, else the one that packets are sent from. */
	if (net->family == AF_INET && !READ_ONCE(sk->sk_rcv_saddr))
		data_race(memcpy(net->local, &inet_sk(sk)->inet_saddr, 4));
}

/* A FIN takes a sequence number, but is no data. */
static u32 without_fin(u32 bytes, bool fin)
{
	return bytes && fin ? bytes - 1 : bytes;
}

static void fill_tcp_queues(struct ravel_net *net, const struct sock *sk)
{
	const struct tcp_sock *tp = tcp_sk(sk);
	u32 write_seq = READ_ONCE(tp->write_seq);
	bool fin = (1 << net->state) & (TCPF_FIN_WAIT1 | TCPF_CLOSING | TCPF_LAST_ACK);

	if (net->state == TCP_LISTEN) {
		net->rx_packets = READ_ONCE(sk->sk_ack_backlog);
		return;
	}
	/* Until the SYN is acknowledged, it is all that is on its way. */
	if ((1 << net->state) & (TCPF_SYN_SENT | TCPF_SYN_RECV))
		return;
	net->rx_bytes = without_fin(READ_ONCE(tp->rcv_nxt) - READ_ONCE(tp->copied_seq),
				    sock_flag(sk, SOCK_DONE));
	/* What was queued is thrown away with the connection; its numbers stay. */
	if (net->state == TCP_CLOSE)
		return;
	net->tx_bytes = without_fin(write_seq - READ_ONCE(tp->snd_una), fin);
	net->unsent = without_fin(write_seq - READ_ONCE(tp->snd_nxt), fin);
}

/* Read without the socket's lock: of a moment only where nothing arrives or is sent meanwhile. */
static void fill_queues(struct ravel_net *net, const struct sock *sk)
{
	net->rx_packets = skb_queue_len_lockless(&sk->sk_receive_queue);
	net->wmem = sk_wmem_alloc_get(sk);
	if (sk_is_tcp(sk))
		fill_tcp_queues(net, sk);
	else if (sk_is_udp(sk))
		net->rx_packets += skb_queue_len_lockless(&udp_sk(sk)->reader_queue);
	else if (sk_is_unix(sk) && sk->sk_type == SOCK_STREAM && net->state != TCP_LISTEN)
		net->rx_bytes = READ_ONCE(unix_sk(sk)->inq_len);
}

static void copy_addresses(struct ravel_net *net, const u8 *local, const u8 *remote)
{
	u32 len = net->family == AF_INET ? 4 : 16;

	memcpy(net->local, local, len);
	memcpy(net->remote, remote, len);
}

/* Where a packet comes from (local) and goes to (remote); `reply`: the answer to it. */
static void fill_packet(struct ravel_net *net, const struct sk_buff *skb, bool reply)
{
	struct ravel_ends ends;

	if (!ravel_find_ends(&ends, skb, skb->network_header))
		return;
	net->family = ends.family;
	net->protocol = ends.protocol;
	net->flags |= RAVEL_NET_ADDRESS;
	if (ends.has_ports)
		net->flags |= RAVEL_NET_PORTS;
	if (reply) {
		swap(ends.from, ends.to);
		swap(ends.from_port, ends.to_port);
	}
	net->local_port = ends.from_port;
	net->remote_port = ends.to_port;
	copy_addresses(net, ends.from, ends.to);
}

/* `sk` is the event's socket, where it may be looked at; else NULL. */
static bool passes(const void *sink, const struct ravel_net *net, const struct sock *sk)
{
	const struct ravel_net_filter *filter = ravel_sink_net_filter(sink);
	const struct ravel_ends ends = {
		.from = net->flags & RAVEL_NET_ADDRESS ? net->local : NULL,
		.to = net->remote,
		.family = net->family,
		.protocol = net->protocol,
		.has_ports = net->flags & RAVEL_NET_PORTS,
		.from_port = net->local_port,
		.to_port = net->remote_port,
	};

	if (filter->sock && net->sock != (unsigned long)filter->sock)
		return false;
	return ravel_ends_pass(filter, &ends) && ravel_cgroup_passes(filter, sk);
}

static void push_if_wanted(void *sink, struct ravel_event *event, const struct sock *sk)
{
	if (passes(sink, &event->part.net, sk))
		ravel_event_push(sink, event);
}

static void probe_tcp_state(void *sink, const struct sock *sk, const int old, const int new)
{
	struct ravel_event event;

	begin(&event, RAVEL_EVENT_TCP_STATE);
	fill_sock(&event.part.net, sk);
	event.part.net.old_state = old;
	event.part.net.state = new;
	push_if_wanted(sink, &event, sk);
}

/* `sk` is NULL where nobody has the port, and `skb` where no packet led to it. */
static void probe_reset_sent(void *sink, const struct sock *sk, const struct sk_buff *skb,
			     const enum sk_rst_reason reason)
{
	struct ravel_event event;

	begin(&event, RAVEL_EVENT_RESET);
	if (sk)
		fill_sock(&event.part.net, sk);
	/* A listener answers by a reset, too, and has no other end. */
	if (skb && (!sk || !event.part.net.remote_port))
		fill_packet(&event.part.net, skb, true);
	event.part.net.flags |= RAVEL_NET_SENT;
	event.part.net.reason = reason;
	event.part.net.protocol = IPPROTO_TCP;
	push_if_wanted(sink, &event, sk);
}

static void probe_reset_received(void *sink, struct sock *sk)
{
	struct ravel_event event;

	begin(&event, RAVEL_EVENT_RESET);
	fill_sock(&event.part.net, sk);
	push_if_wanted(sink, &event, sk);
}

/*
 * `rx_sk` may have been let go of by now: it tells which socket it was, and is not looked at. What the packet
 * itself belongs to, it keeps, but for a socket that was found before its time.
 */
static void probe_drop(void *sink, struct sk_buff *skb, void *location, enum skb_drop_reason reason,
		       const struct sock *rx_sk)
{
	const struct sock *owner = ravel_skb_owner(skb);
	struct ravel_event event;
	struct ravel_net *net = &event.part.net;

	begin(&event, RAVEL_EVENT_DROP);
	if (rx_sk && owner != rx_sk) {
		net->sock = (unsigned long)rx_sk;
	} else if (owner) {
		net->sock = (unsigned long)owner;
		net->netns = sock_net(owner)->ns.inum;
		net->inode = sk_fullsock(owner) ? sock_i_ino(owner) : 0;
	}
	fill_packet(net, skb, false);
	net->ethertype = ntohs(skb->protocol);
	net->location = (unsigned long)location;
	net->reason = reason;
	net->len = skb->len;
	net->iif = skb->skb_iif;
	push_if_wanted(sink, &event, rx_sk && owner != rx_sk ? NULL : owner);
}

static void shut(void *sink, u32 kind, struct sock *sk, int how, u32 refs, u8 flags)
{
	struct ravel_event event;

	if (!sk || !ravel_sink_wants(sink, kind, current->tgid))
		return;
	ravel_event_who(&event, kind);
	fill_sock(&event.part.net, sk);
	fill_queues(&event.part.net, sk);
	event.part.net.how = how;
	event.part.net.refs = refs;
	event.part.net.flags |= flags;
	push_if_wanted(sink, &event, sk);
}

/* inet_shutdown(struct socket *, int), and that of unix sockets, which has the same type as every protocol's. */
static void enter_shutdown(void *sink, struct ftrace_regs *regs)
{
	const struct socket *sock = (void *)ftrace_regs_get_argument(regs, 0);

	shut(sink, RAVEL_EVENT_SHUTDOWN, READ_ONCE(sock->sk), (int)ftrace_regs_get_argument(regs, 1), 0, 0);
}

/*
 * locks_remove_posix(struct file *, fl_owner_t): a table of descriptors, the owner, has one less of the file, by
 * close(), dup2(), execve() or exit(). That POSIX locks then end is what POSIX wants of every close(); no
 * other function is called for each and for nothing else. __fput() calls it with the file as the owner.
 */
static void enter_close(void *sink, struct ftrace_regs *regs)
{
	struct file *file = (void *)ftrace_regs_get_argument(regs, 0);
	const struct socket *sock = sock_from_file(file);
	bool exiting = current->flags & PF_EXITING;
	if (!sock || ftrace_regs_get_argument(regs, 1) == (unsigned long)file)
		return;
	/* One of the references is that which is being given up. */
	shut(sink, RAVEL_EVENT_CLOSE, READ_ONCE(sock->sk), 0, file_count(file) - 1,
	     exiting ? RAVEL_NET_EXITING : 0);
}

/* sock_close(struct inode *, struct file *), the release() of sockets' files. */
static void enter_release(void *sink, struct ftrace_regs *regs)
{
	const struct socket *sock = sock_from_file((void *)ftrace_regs_get_argument(regs, 1));

	if (sock)
		shut(sink, RAVEL_EVENT_RELEASE, READ_ONCE(sock->sk), 0, 0, 0);
}

/* The prototypes are the tracepoints' own, and those of the functions that a header has. */
static void __maybe_unused check_prototypes(void)
{
	check_trace_callback_type_inet_sock_set_state(probe_tcp_state);
	check_trace_callback_type_tcp_send_reset(probe_reset_sent);
	check_trace_callback_type_tcp_receive_reset(probe_reset_received);
	check_trace_callback_type_kfree_skb(probe_drop);
	static_assert(__same_type(inet_shutdown, int (struct socket *, int)));
	static_assert(__same_type(locks_remove_posix, void (struct file *, fl_owner_t)));
	static_assert(__same_type(((struct proto_ops *)0)->shutdown, int (*)(struct socket *, int)));
	static_assert(__same_type(((struct file_operations *)0)->release,
				  int (*)(struct inode *, struct file *)));
}

void *const ravel_net_probes[RAVEL_TRACEPOINTS] = {
	[RAVEL_HOOK_TCP_STATE] = probe_tcp_state,
	[RAVEL_HOOK_RESET_SENT] = probe_reset_sent,
	[RAVEL_HOOK_RESET_RECEIVED] = probe_reset_received,
	[RAVEL_HOOK_DROP] = probe_drop,
};

ravel_enter_fn *const ravel_net_enters[RAVEL_HOOKS] = {
	[RAVEL_HOOK_SHUTDOWN] = enter_shutdown,
	[RAVEL_HOOK_CLOSE] = enter_close,
	[RAVEL_HOOK_RELEASE] = enter_release,
};

void ravel_sock_hold(struct sock *sk)
{
	sock_hold(sk);
}

void ravel_sock_put(struct sock *sk)
{
	sock_put(sk);
}

/* Whether sockets know their cgroup. */
bool ravel_has_sock_cgroups(void)
{
	return IS_ENABLED(CONFIG_SOCK_CGROUP_DATA);
}

struct cgroup *ravel_cgroup_get(u64 id)
{
	struct cgroup *cgroup = cgroup_get_from_id(id);

	return IS_ERR(cgroup) ? NULL : cgroup;
}

void ravel_cgroup_put(struct cgroup *cgroup)
{
	cgroup_put(cgroup);
}

u64 ravel_cgroup_id(const struct cgroup *cgroup)
{
	return cgroup_id(cgroup);
}

u32 ravel_drop_reason(u32 reason, char *name, u32 len)
{
	u32 subsystem = u32_get_bits(reason, SKB_DROP_REASON_SUBSYS_MASK);
	u32 at = reason & ~SKB_DROP_REASON_SUBSYS_MASK;
	const struct drop_reason_list *list = NULL;
	ssize_t copied = 0;

	rcu_read_lock();
	if (subsystem < SKB_DROP_REASON_SUBSYS_NUM)
		list = rcu_dereference(drop_reasons_by_subsys[subsystem]);
	if (list && at < list->n_reasons && list->reasons[at])
		copied = strscpy(name, list->reasons[at], len);
	rcu_read_unlock();
	return max(copied, 0);
}

#define NAME(reason) [SK_RST_REASON_##reason] = #reason,
#define NO_NAME(reason)

const char *ravel_reset_reason(u32 reason)
{
	static const char *const names[] = { DEFINE_RST_REASON(NAME, NO_NAME) };

	return reason < ARRAY_SIZE(names) ? names[reason] : NULL;
}

/* Function and offset; nothing where the kernel has no name for the address, which it would print then. */
u32 ravel_symbol(u64 address, char *name, u32 len)
{
	char text[KSYM_SYMBOL_LEN];
	char *end;

	if (!address)
		return 0;
	sprint_symbol(text, address);
	end = strchr(text, '/');
	if (!end || !strncmp(text, "0x", 2))
		return 0;
	*end = 0;
	return max(strscpy(name, text, len), 0);
}
