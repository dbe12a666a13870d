// SPDX-License-Identifier: GPL-2.0

#include <linux/file.h>
#include <linux/net.h>
#include <linux/netlink.h>
#include <linux/if_packet.h>
#include <linux/udp.h>
#include <net/af_unix.h>
#include <net/af_vsock.h>
#include <net/inet6_hashtables.h>
#include <net/inet_hashtables.h>
#include <net/inet_sock.h>
#include <net/net_namespace.h>
#include <net/request_sock.h>
#include <net/sock.h>
#include <net/tcp.h>

/* What a queued sk_buff of a unix socket carries: no header of include/ has it. */
#include <../net/unix/af_unix.h>

#include "skbs.h"
#include "sockets.h"

static_assert(RAVEL_LISTEN == TCP_LISTEN);

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

u16 ravel_sock_family(const struct sock *sk)
{
	return READ_ONCE(sk->sk_family);
}

bool ravel_sock_is_tcp(const struct sock *sk)
{
	return sk_is_tcp(sk);
}

bool ravel_sock_is_udp(const struct sock *sk)
{
	return sk_is_udp(sk);
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
		.timer_ms = RAVEL_NO_TIMER,
		.ack_ms = RAVEL_NO_TIMER,
		.keepalive_ms = RAVEL_NO_TIMER,
		.silent_ms = RAVEL_NO_TIMER,
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

static s64 ms_until(unsigned long when)
{
	return jiffies_delta_to_msecs(when - jiffies);
}

/* As inet_sk_diag_fill() looks at them, but each. */
static void snapshot_timers(const struct sock *sk, struct ravel_sock *out)
{
	const struct inet_connection_sock *icsk = inet_csk(sk);

	out->timer = smp_load_acquire(&icsk->icsk_pending);
	if (out->timer)
		out->timer_ms = ms_until(tcp_timeout_expires(sk));
	if ((READ_ONCE(icsk->icsk_ack.pending) & ICSK_ACK_TIMER) &&
	    timer_pending(&icsk->icsk_delack_timer))
		out->ack_ms = ms_until(icsk_delack_timeout(icsk));
	if (timer_pending(&icsk->icsk_keepalive_timer))
		out->keepalive_ms = ms_until(icsk->icsk_keepalive_timer.expires);
	out->retransmits = icsk->icsk_retransmits;
	out->probes = icsk->icsk_probes_out;
	out->backoff = icsk->icsk_backoff;
}

/* What tcp_close() would count as unread: the last sk_buff ends behind what was read, its FIN left out. */
static bool tcp_unread(const struct sock *sk)
{
	const struct sk_buff *skb = skb_peek_tail(&sk->sk_receive_queue);
	u32 end_seq;

	if (!skb)
		return false;
	end_seq = TCP_SKB_CB(skb)->end_seq;
	if (TCP_SKB_CB(skb)->tcp_flags & TCPHDR_FIN)
		end_seq--;
	return after(end_seq, tcp_sk(sk)->copied_seq);
}

/* A FIN takes a sequence number, and is the last to do so. */
static void snapshot_fin(const struct sock *sk, struct ravel_sock *out)
{
	const struct tcp_sock *tp = tcp_sk(sk);

	out->fin_received = sock_flag(sk, SOCK_DONE);
	switch (sk->sk_state) {
	case TCP_FIN_WAIT1:
	case TCP_CLOSING:
	case TCP_LAST_ACK:
		if (tp->snd_nxt == tp->write_seq) {
			out->fin = RAVEL_FIN_SENT;
			out->unacked--;
		} else {
			out->fin = RAVEL_FIN_QUEUED;
			out->unsent--;
		}
		out->tx_bytes--;
		break;
	case TCP_FIN_WAIT2:
		out->fin = RAVEL_FIN_ACKED;
		break;
	case TCP_CLOSE:
		/* Sequence numbers begin with a connection, and stay behind. */
		out->fin = tp->write_seq ? RAVEL_FIN_UNKNOWN : RAVEL_FIN_NONE;
		break;
	default:
		out->fin = RAVEL_FIN_NONE;
	}
}

static void snapshot_tcp(struct sock *sk, struct ravel_sock *out)
{
	const struct tcp_sock *tp = tcp_sk(sk);
	struct sk_buff *skb;
	u32 seen = 0;

	if (tp->repair)
		out->flags |= RAVEL_SOCK_REPAIR;
	out->fin_timeout_ms = RAVEL_NO_TIMER;
	if (tp->linger2 >= 0)
		out->fin_timeout_ms = jiffies_to_msecs(tcp_fin_time(sk));
	snapshot_timers(sk, out);
	if (sk->sk_state == TCP_LISTEN) {
		out->rx_packets = READ_ONCE(sk->sk_ack_backlog);
		out->requests = inet_csk_reqsk_queue_len(sk);
		return;
	}
	/* connect() sets it, too; it stays 0 in what never was a connection. */
	if (tp->rcv_tstamp)
		out->silent_ms = jiffies_to_msecs(tcp_jiffies32 - tp->rcv_tstamp);
	out->inq = tcp_inq(sk);
	out->rx_packets = skb_queue_len(&sk->sk_receive_queue);
	out->unread = tcp_unread(sk);
	out->cwnd = tcp_snd_cwnd(tp);
	out->in_flight = tcp_packets_in_flight(tp);
	out->outq = 0;
	/* Until the SYN is acknowledged, it is all that is on its way. */
	if ((1 << sk->sk_state) & (TCPF_SYN_SENT | TCPF_SYN_RECV))
		return;

	out->window = tp->snd_wnd;
	out->rx_bytes = tp->rcv_nxt - tp->copied_seq;
	/* A FIN takes a sequence number; it is not data. */
	if (out->rx_bytes && sock_flag(sk, SOCK_DONE))
		out->rx_bytes--;

	out->tx_bytes = tp->write_seq - tp->snd_una;
	out->outq = out->tx_bytes;
	out->unsent = tp->write_seq - tp->snd_nxt;
	out->unacked = tp->snd_nxt - tp->snd_una;
	snapshot_fin(sk, out);

	out->tx_packets = skb_queue_len(&sk->sk_write_queue);
	skb_rbtree_walk(skb, &sk->tcp_rtx_queue) {
		if (seen++ == RAVEL_QUEUE_WALK) {
			out->tx_missed = 1;
			break;
		}
		out->tx_packets++;
	}
}

static u8 snapshot_flags(const struct sock *sk)
{
	u8 flags = 0;

	if (sock_flag(sk, SOCK_DEAD))
		flags |= RAVEL_SOCK_DEAD;
	if (sock_flag(sk, SOCK_DONE))
		flags |= RAVEL_SOCK_DONE;
	if (sock_flag(sk, SOCK_URGINLINE))
		flags |= RAVEL_SOCK_URGINLINE;
	if (sock_flag(sk, SOCK_LINGER))
		flags |= RAVEL_SOCK_LINGER;
	if (sock_flag(sk, SOCK_KEEPOPEN))
		flags |= RAVEL_SOCK_KEEPOPEN;
	return flags;
}

/* ravel_sock_ident() came first, and the socket is held by ravel_sock_trylock(). */
void ravel_sock_snapshot(struct sock *sk, struct ravel_sock *out)
{
	struct socket *sock = sk->sk_socket;

	out->state = READ_ONCE(sk->sk_state);
	out->socket_state = sock ? READ_ONCE(sock->state) : SS_FREE;
	out->shutdown = READ_ONCE(sk->sk_shutdown) & SHUTDOWN_MASK;
	out->flags = snapshot_flags(sk);
	out->linger = READ_ONCE(sk->sk_lingertime) / HZ;
	out->err = abs(READ_ONCE(sk->sk_err));
	out->soft_err = abs(READ_ONCE(sk->sk_err_soft));
	out->wmem = sk_wmem_alloc_get(sk);
	if (out->state == TCP_LISTEN)
		out->backlog = READ_ONCE(sk->sk_max_ack_backlog);
	if (sk_is_inet(sk))
		snapshot_inet(sk, out);
	if (out->is_tcp)
		snapshot_tcp(sk, out);
}

/* What others may read of a socket at any time. It is kept by a reference, or by its queue's lock. */
static void snapshot_peer(const struct sock *sk, struct ravel_peer *out)
{
	out->sock = (unsigned long)sk;
	out->state = READ_ONCE(sk->sk_state);
	out->shutdown = READ_ONCE(sk->sk_shutdown) & SHUTDOWN_MASK;
	out->inode = sock_i_ino(sk);
	out->rx_packets = skb_queue_len_lockless(&sk->sk_receive_queue);
}

/*
 * Looks for the other end of a TCP connection in the socket's own network namespace. No lock of the socket
 * is held, or needed: its addresses change only where its state does.
 */
void ravel_tcp_peer(struct sock *sk, struct ravel_peer *out)
{
	const struct inet_sock *inet = inet_sk(sk);
	int dif = READ_ONCE(sk->sk_rx_dst_ifindex);
	struct sock *peer;

	/* A connection that has ended keeps its addresses, which others may have now. */
	if (!inet->inet_dport || (1 << READ_ONCE(sk->sk_state)) & (TCPF_CLOSE | TCPF_LISTEN))
		return;
	rcu_read_lock();
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6 && !ipv6_addr_v4mapped(&sk->sk_v6_daddr))
		peer = __inet6_lookup_established(sock_net(sk), &sk->sk_v6_rcv_saddr,
						  inet->inet_sport, &sk->sk_v6_daddr,
						  ntohs(inet->inet_dport), dif, 0);
	else
#endif
		peer = __inet_lookup_established(sock_net(sk), inet->inet_saddr, inet->inet_sport,
						 inet->inet_daddr, ntohs(inet->inet_dport), dif, 0);
	if (peer && sk_fullsock(peer)) {
		snapshot_peer(peer, out);
		out->rx_bytes = READ_ONCE(tcp_sk(peer)->rcv_nxt) - READ_ONCE(tcp_sk(peer)->copied_seq);
		if (out->rx_bytes && sock_flag(peer, SOCK_DONE))
			out->rx_bytes--;
	} else if (peer) {
		/* What is left of it, or not yet more of it: TIME_WAIT, or a request. */
		out->sock = (unsigned long)peer;
		out->state = READ_ONCE(peer->sk_state);
	}
	if (peer)
		sock_gen_put(peer);
	rcu_read_unlock();
}

static void snapshot_waiting(const struct sock *child, struct ravel_waiting *out)
{
	const struct inet_sock *inet = inet_sk(child);

	*out = (struct ravel_waiting) {
		.sock = (unsigned long)child,
		.family = READ_ONCE(child->sk_family),
		.state = READ_ONCE(child->sk_state),
		.shutdown = READ_ONCE(child->sk_shutdown) & SHUTDOWN_MASK,
	};
	if (out->family == AF_UNIX) {
		/* Its peer is set before it is queued; who takes it away has taken it from the queue. */
		const struct sock *peer = READ_ONCE(unix_sk(child)->peer);

		out->rx_bytes = READ_ONCE(unix_sk(child)->inq_len);
		out->peer_inode = peer ? sock_i_ino(peer) : 0;
		return;
	}
	out->rx_bytes = READ_ONCE(tcp_sk(child)->rcv_nxt) - READ_ONCE(tcp_sk(child)->copied_seq);
	if (out->rx_bytes && sock_flag(child, SOCK_DONE))
		out->rx_bytes--;
	out->remote_port = ntohs(inet->inet_dport);
#if IS_ENABLED(CONFIG_IPV6)
	if (out->family == AF_INET6) {
		memcpy(out->remote, &child->sk_v6_daddr, 16);
		return;
	}
#endif
	memcpy(out->remote, &inet->inet_daddr, 4);
}

/*
 * A listener's connections that wait to be accepted, the first @max of them. The accept queue's lock
 * keeps each from being taken out of it, and so from going away.
 */
u32 ravel_waiting(struct sock *sk, struct ravel_waiting *out, u32 max, u32 *found)
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
				snapshot_waiting(skb->sk, &out[told++]);
			}
		}
		spin_unlock_bh(&sk->sk_receive_queue.lock);
	} else {
		struct request_sock_queue *queue = &inet_csk(sk)->icsk_accept_queue;
		const struct request_sock *req;

		spin_lock_bh(&queue->rskq_lock);
		for (req = queue->rskq_accept_head; req && told < max; req = req->dl_next)
			snapshot_waiting(req->sk, &out[told++]);
		*found = req ? max_t(u32, READ_ONCE(sk->sk_ack_backlog), told) : told;
		spin_unlock_bh(&queue->rskq_lock);
	}
	return told;
}

/*
 * The address of a socket whose family is neither inet nor unix, as text; returns its length, 0 for none.
 * The file's reference keeps the socket; getname() of netlink and packet takes no lock that a user holds.
 */
int ravel_sock_name(struct file *file, char *out, int len, bool peer)
{
	struct socket *sock = sock_from_file(file);
	struct sockaddr_storage address = {};

	switch (sock->ops->family) {
	case AF_NETLINK: {
		const struct sockaddr_nl *nl = (const void *)&address;

		if (sock->ops->getname(sock, (struct sockaddr *)&address, peer) < 0 || !nl->nl_pid)
			return 0;
		return scnprintf(out, len, "%u", nl->nl_pid);
	}
	case AF_PACKET: {
		const struct sockaddr_ll *ll = (const void *)&address;

		if (peer || sock->ops->getname(sock, (struct sockaddr *)&address, 0) < 0 ||
		    (!ll->sll_protocol && !ll->sll_ifindex))
			return 0;
		return scnprintf(out, len, "0x%04x:%d", ntohs(ll->sll_protocol), ll->sll_ifindex);
	}
#if IS_ENABLED(CONFIG_VSOCKETS)
	case AF_VSOCK: {
		const struct vsock_sock *vsk = vsock_sk(sock->sk);
		const struct sockaddr_vm *vm = peer ? &vsk->remote_addr : &vsk->local_addr;
		u32 cid = READ_ONCE(vm->svm_cid), port = READ_ONCE(vm->svm_port);

		if (port == VMADDR_PORT_ANY)
			return 0;
		if (cid == VMADDR_CID_ANY)
			return scnprintf(out, len, "*:%u", port);
		return scnprintf(out, len, "%u:%u", cid, port);
	}
#endif
	default:
		return 0;
	}
}

long ravel_unix_inq(struct sock *sk)
{
	return READ_ONCE(sk->sk_state) == TCP_LISTEN ? -1 : READ_ONCE(unix_sk(sk)->inq_len);
}

/*
 * What unix_release_sock() would count as unread, in a stream or seqpacket socket: the first sk_buff that
 * is not one whose only byte was read out of band.
 */
bool ravel_unix_unread(struct sock *sk)
{
	struct sk_buff *skb;
	bool unread;

	spin_lock(&sk->sk_receive_queue.lock);
	skb = skb_peek(&sk->sk_receive_queue);
	if (skb && skb->len == UNIXCB(skb).consumed)
		skb = skb_peek_next(skb, &sk->sk_receive_queue);
	unread = skb;
	spin_unlock(&sk->sk_receive_queue.lock);
	return unread;
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

/* The same goes for the peer. */
void ravel_unix_peer_state(struct sock *peer, struct ravel_peer *out)
{
	snapshot_peer(peer, out);
	out->rx_bytes = peer->sk_type == SOCK_STREAM ? READ_ONCE(unix_sk(peer)->inq_len) : 0;
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
