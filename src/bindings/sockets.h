/* SPDX-License-Identifier: GPL-2.0 */

/* What Rust cannot say of sockets. As in shims.h: no shim decides anything. */

#ifndef RAVEL_SOCKETS_H
#define RAVEL_SOCKETS_H

#include <linux/types.h>

struct file;
struct sock;
struct task_struct;

/* sk_state of a listener, in whatever family (enum, which bindgen would name otherwise). */
#define RAVEL_LISTEN 10

/* Flags of a socket (`sk_flags`), and TCP's repair mode. */
#define RAVEL_SOCK_DEAD 1
#define RAVEL_SOCK_DONE 2
#define RAVEL_SOCK_URGINLINE 4
#define RAVEL_SOCK_LINGER 8
#define RAVEL_SOCK_KEEPOPEN 16
#define RAVEL_SOCK_REPAIR 32

/* How far this side's FIN is. */
#define RAVEL_FIN_NONE 0
#define RAVEL_FIN_QUEUED 1
#define RAVEL_FIN_SENT 2
#define RAVEL_FIN_ACKED 3
#define RAVEL_FIN_UNKNOWN 4

/* A timer that is not set, where milliseconds would stand. */
#define RAVEL_NO_TIMER -1

/* The other end. */
struct ravel_peer {
	unsigned long sock;	/* address, to be named, not followed; 0: none on this machine */
	u64 inode;		/* 0: nobody has it open */
	u32 rx_bytes;
	u32 rx_packets;
	u8 state;
	u8 shutdown;
};

/* A socket as it stands. Sequence numbers and byte counts are TCP's. */
struct ravel_sock {
	u64 netns;
	u64 inode;
	u64 linger;		/* seconds */
	u32 rx_packets;
	u32 rx_bytes;
	u32 tx_packets;
	u32 tx_bytes;
	u32 tx_missed;		/* sk_buffs past the bound of the walk */
	u32 wmem;
	u32 soft_err;
	u32 err;
	u16 family;
	u16 type;
	u16 protocol;
	u8 state;
	u8 socket_state;
	u8 shutdown;
	u8 flags;
	u8 has_address;
	u8 is_tcp;
	u8 is_udp;
	u8 has_peer;
	u16 local_port;		/* host order */
	u16 remote_port;
	u8 local[16];		/* network order; IPv4 in the first four */
	u8 remote[16];
	s64 inq;		/* -1: the ioctl would fail */
	s64 outq;
	u32 backlog;
	u8 unread;		/* close() would throw away something that nobody has read */
	/* TCP. */
	u8 fin;
	u8 fin_received;
	u8 timer;		/* ICSK_TIME_*, 0 for none */
	u8 retransmits;
	u8 probes;
	u8 backoff;
	u32 requests;
	u32 unsent;
	u32 unacked;
	u32 window;
	u32 cwnd;
	u32 in_flight;
	s64 timer_ms;
	s64 ack_ms;
	s64 keepalive_ms;
	s64 fin_timeout_ms;	/* -1: none, but a reset */
	s64 silent_ms;		/* since the last acknowledgement; -1: there was none */
	struct ravel_peer peer;
	u8 last;
};

/* A connection that nobody has accepted. */
struct ravel_waiting {
	unsigned long sock;	/* address, likewise */
	u64 peer_inode;		/* unix */
	u32 rx_bytes;
	u16 family;
	u8 state;
	u8 shutdown;
	u16 remote_port;
	u8 remote[16];
};

bool ravel_sock_trylock(struct sock *sk);
void ravel_sock_unlock(struct sock *sk);
u16 ravel_sock_family(const struct sock *sk);
bool ravel_sock_is_tcp(const struct sock *sk);
bool ravel_sock_is_udp(const struct sock *sk);
void ravel_sock_ident(struct sock *sk, struct ravel_sock *out);
void ravel_sock_snapshot(struct sock *sk, struct ravel_sock *out);
void ravel_tcp_peer(struct sock *sk, struct ravel_peer *out);
u32 ravel_waiting(struct sock *sk, struct ravel_waiting *out, u32 max, u32 *found);
int ravel_sock_name(struct file *file, char *out, int len, bool peer);
long ravel_unix_inq(struct sock *sk);
bool ravel_unix_unread(struct sock *sk);
void ravel_unix_lock(struct sock *sk);
void ravel_unix_unlock(struct sock *sk);
struct sock *ravel_unix_peer(struct sock *sk);
void ravel_unix_peer_state(struct sock *peer, struct ravel_peer *out);
int ravel_unix_name(struct sock *sk, const char **path);

/* Who holds an open file. */
struct task_struct *ravel_next_task(int *nr);
int ravel_task_tgid(struct task_struct *task);
unsigned long ravel_task_files(struct task_struct *task);
bool ravel_file_is_watched(struct file *file);
u32 ravel_unix_messages(struct file *unix_file, const struct file *wanted, u32 *missed);
bool ravel_file_is_ring(const struct file *file);
long ravel_ring_slots(struct file *ring, const struct file *wanted);

#endif /* RAVEL_SOCKETS_H */
