/* SPDX-License-Identifier: GPL-2.0 */

/*
 * Events: what a tracepoint's probe hands to a stream, and what wakes a stream's readers. The probes put
 * fields together; what becomes of them is decided in Rust (object/ring.rs).
 */

#ifndef RAVEL_EVENTS_H
#define RAVEL_EVENTS_H

#include <linux/types.h>

struct cgroup;
struct file;
struct ftrace_regs;
struct pid;
struct poll_table_struct;
struct ravel_waker;
struct sock;

/* Kinds of events; also bits of a sink's mask, by 1 << kind. */
#define RAVEL_EVENT_FORK 0
#define RAVEL_EVENT_EXEC 1
#define RAVEL_EVENT_EXIT 2
#define RAVEL_EVENT_TCP_STATE 3
#define RAVEL_EVENT_RESET 4
#define RAVEL_EVENT_DROP 5
#define RAVEL_EVENT_SHUTDOWN 6
#define RAVEL_EVENT_CLOSE 7
#define RAVEL_EVENT_RELEASE 8
#define RAVEL_EVENT_PACKET 9
#define RAVEL_EVENT_KINDS 10

/* What probes hang on: tracepoints, then functions. */
#define RAVEL_HOOK_FORK 0
#define RAVEL_HOOK_EXEC 1
#define RAVEL_HOOK_EXIT 2
#define RAVEL_HOOK_TCP_STATE 3
#define RAVEL_HOOK_RESET_SENT 4
#define RAVEL_HOOK_RESET_RECEIVED 5
#define RAVEL_HOOK_DROP 6
#define RAVEL_HOOK_PACKET_GRO 7
#define RAVEL_HOOK_PACKET_RECEIVE 8
#define RAVEL_HOOK_PACKET_COPY 9
#define RAVEL_HOOK_PACKET_QUEUE 10
#define RAVEL_HOOK_PACKET_TRANSMIT 11
#define RAVEL_HOOK_PACKET_CONSUME 12
#define RAVEL_HOOK_PACKET_DROP 13
#define RAVEL_TRACEPOINTS 14
#define RAVEL_HOOK_SHUTDOWN 14
#define RAVEL_HOOK_CLOSE 15
#define RAVEL_HOOK_RELEASE 16
#define RAVEL_HOOK_PACKET_IP 17
#define RAVEL_HOOK_PACKET_IP_LIST 18
#define RAVEL_HOOK_PACKET_TRANSPORT 19
#define RAVEL_HOOK_PACKET_OUTPUT 20
#define RAVEL_HOOK_PACKET_FREE 21
#define RAVEL_HOOK_PACKET_FREE_STOLEN 22
#define RAVEL_HOOK_PACKET_COPY_UDP 23
#define RAVEL_HOOKS 24

/* Where a packet is, in the order in which one that goes over the loopback device comes by. */
#define RAVEL_POINT_OUTPUT 0
#define RAVEL_POINT_QUEUE 1
#define RAVEL_POINT_TRANSMIT 2
#define RAVEL_POINT_GRO 3
#define RAVEL_POINT_RECEIVE 4
#define RAVEL_POINT_IP 5
#define RAVEL_POINT_TRANSPORT 6
#define RAVEL_POINT_COPY 7
#define RAVEL_POINT_CONSUME 8
#define RAVEL_POINT_DROP 9
#define RAVEL_POINT_FREE 10

/* How many functions can be watched: all that there are. */
#define RAVEL_FUNCTIONS 20

/* How many parents an event names. */
#define RAVEL_EVENT_LINE 8

/* Bytes of the file's name that an exec event has room for. */
#define RAVEL_EVENT_FILE 62

/* The process that did it. */
struct ravel_who {
	u64 born;		/* when it was made */
	u32 pid;		/* in the initial pid namespace */
	u32 tid;		/* the thread */
	u8 comm[16];
};

/* What an event of a process has. */
struct ravel_lineage {
	struct ravel_who who;
	u64 child_born;		/* fork */
	u32 child;		/* fork */
	u32 status;		/* exit: as wait() gives it */
	u32 line[RAVEL_EVENT_LINE];	/* its parents, nearest first */
	u8 lines;		/* how many of line[] */
	u8 file_cut;		/* exec: the name was longer */
	u8 file[RAVEL_EVENT_FILE];	/* exec: ends at the first 0 */
};

/* Flags of an event of the network. */
#define RAVEL_NET_ADDRESS 1	/* local[] and remote[] are known; of a drop, where it came from and goes to */
#define RAVEL_NET_PORTS 2	/* and the ports */
#define RAVEL_NET_SENT 4	/* reset */
#define RAVEL_NET_EXITING 8	/* close: by the end of the process */

/* What an event of a socket, and a drop, has. */
struct ravel_net {
	struct ravel_who who;	/* shutdown, close, release; else 0 */
	u64 sock;		/* address, to be named, not followed; 0: none */
	u64 inode;		/* 0: nobody has it open */
	u64 location;		/* drop: an address in the kernel's text, to be named */
	u32 netns;		/* 0: no socket */
	u32 reason;		/* reset, drop */
	u32 len;		/* drop: the packet's */
	u32 iif;		/* drop: the device that it came in by, or 0 */
	u32 refs;		/* close: references on the open file that stay */
	u32 rx_bytes;		/* shutdown, close, release: these and the next, as in ravel_sock */
	u32 rx_packets;
	u32 tx_bytes;
	u32 unsent;
	u32 wmem;
	u16 family;
	u16 protocol;
	u16 ethertype;		/* drop */
	u16 local_port;		/* host order */
	u16 remote_port;
	u8 local[16];		/* network order; IPv4 in the first four */
	u8 remote[16];
	u8 old_state;		/* tcp_state */
	u8 state;		/* 0: no socket */
	u8 shutdown;		/* directions that are shut */
	u8 how;			/* shutdown: as it was called with, cut to 8 bits */
	u8 flags;
	u8 last;
};

/* Flags of a packet. */
#define RAVEL_PACKET_ADDRESS 1	/* from[] and to[] are known */
#define RAVEL_PACKET_PORTS 2	/* and the ports */
#define RAVEL_PACKET_CLONED 4	/* the buffer is, or was, another sk_buff's, too */
#define RAVEL_PACKET_SHARED 8	/* it is another's now */
#define RAVEL_PACKET_FRAGMENT 16	/* one of IP's */

/* What a packet's crossing of a point has. */
struct ravel_packet {
	u64 skb;		/* addresses, to be named, not followed */
	u64 head;
	u64 sock;		/* 0: none is known */
	u64 inode;		/* 0: not known */
	u64 location;		/* drop: an address in the kernel's text, to be named */
	u32 netns;		/* 0: not known */
	u32 reason;		/* drop */
	u32 device;		/* 0: none is known */
	u32 len;
	u32 data_len;
	u32 copied;		/* copy: bytes */
	u32 data;		/* these, and the headers, are bytes from head */
	u32 tail;
	u32 end;
	u32 sequence;		/* TCP */
	u16 mac;		/* as the kernel keeps it, as the next */
	u16 network;
	u16 transport;
	u16 inner_mac;
	u16 inner_network;
	u16 inner_transport;
	u16 ethertype;
	u16 family;
	u16 from_port;		/* host order */
	u16 to_port;
	u8 from[16];		/* network order; IPv4 in the first four */
	u8 to[16];
	u8 protocol;		/* what IP carries */
	u8 point;
	u8 flags;
	u8 fclone;		/* SKB_FCLONE_* */
	u32 truesize;
	u16 gso_size;		/* bytes of data in each packet that it stands for; 0: it is one */
	u16 gso_segs;		/* how many these are, where the kernel has counted them */
};

/*
 * Which of them it is, the event's kind says. The first is as long as any, so to set it to 0 does so to all.
 */
union ravel_part {
	struct ravel_packet packet;
	struct ravel_lineage lineage;
	struct ravel_net net;
	struct ravel_who who;	/* with which these two begin */
};

/* An event as it lies in a ring: 160 bytes, no pointers. */
struct ravel_event {
	u64 time;		/* CLOCK_BOOTTIME, nanoseconds */
	u32 kind;
	u32 cpu;
	union ravel_part part;
};

/* Which sockets a sink is told of; what is 0 lets all pass. */
struct ravel_net_filter {
	struct sock *sock;	/* a reference is held, as on the next */
	struct cgroup *cgroup;	/* or one below it */
	u8 address[16];		/* of either end; IPv4 as IPv6 maps it */
	__be16 port;		/* likewise, in network order */
	u8 protocol;		/* what IP carries */
	bool has_address;
};

/* What a CPU could not put into its ring. */
struct ravel_cell {
	u64 count;
	u64 first;		/* when that was, and the last */
	u64 last;
	u64 at;			/* `head` when it began */
};

/* One CPU's ring. Who writes and who reads what of it, and when, is told in object/ring.rs. */
struct ravel_ring {
	u64 section;		/* odd while a writer is at work */
	u64 head;
	u64 time;		/* of the last event: of two on one CPU the later is never the earlier by the clock */
	u64 size;		/* how many slots there are */
	struct ravel_event *slots;
	struct ravel_cell cells[2];
	/* What the reader alone writes, on a cache line of its own. */
	u64 tail __attribute__((aligned(64)));
	u64 epoch;
} __attribute__((aligned(64)));

/* What probes have of a sink. */
struct ravel_sink {
	struct ravel_net_filter filter;
	struct ravel_ring *rings;	/* of each CPU that there can be */
	struct ravel_waker *waker;
	u64 missed;		/* events that happened where none can be taken in */
	u32 is_open;		/* events are taken in */
};

/* A tracepoint of the kernel by its name; NULL if this kernel has none. May sleep. */
void *ravel_tracepoint(const char *name);

/* Has a hook's probe called with this sink, or not any more. */
int ravel_probe_register(void *tracepoint, u32 hook, void *sink);
void ravel_probe_unregister(void *tracepoint, u32 hook, void *sink);
void ravel_probe_synchronize(void);

/* A function by its name, and the hook that it is. */
struct ravel_function {
	const char *name;	/* stays */
	u32 hook;
};

/*
 * The same for functions, of which there may be RAVEL_FUNCTIONS, of all sinks together. How many of them cannot be
 * probed; and -EOPNOTSUPP where one cannot. When a sink's are unregistered, none of its probes runs any more.
 */
int ravel_functions_missing(const struct ravel_function *functions, u32 count);
int ravel_functions_register(void *sink, const struct ravel_function *functions, u32 count);
void ravel_functions_unregister(void *sink);
void ravel_functions_exit(void);

/*
 * Whether skb_release_head_state() is part of those that call it in this kernel, as a compiler may choose: then it is
 * not reached as a function. An errno where that cannot be tried.
 */
int ravel_free_is_inlined(void);

/* Marks the processes that descend from `root`'s now, by their pids. */
void ravel_mark_descendants(struct pid *root, unsigned long *pids, u32 bits);

/* References for a filter. The cgroup is of version 2, by its id; NULL: there is none that the caller may see. */
void ravel_sock_hold(struct sock *sk);
void ravel_sock_put(struct sock *sk);
bool ravel_has_sock_cgroups(void);
struct cgroup *ravel_cgroup_get(u64 id);
void ravel_cgroup_put(struct cgroup *cgroup);
u64 ravel_cgroup_id(const struct cgroup *cgroup);

u64 ravel_boot_ns(void);

/* Names, of at most `len` bytes with the 0 at the end; returned is the length, 0 for none. */
u32 ravel_drop_reason(u32 reason, char *name, u32 len);
const char *ravel_reset_reason(u32 reason);
u32 ravel_symbol(u64 address, char *name, u32 len);

/* Among C: what an event has of the process that is current, and its way into a sink. */
void ravel_event_who(struct ravel_event *event, u32 kind);
void ravel_event_push(void *sink, const struct ravel_event *event);

/*
 * The same without a copy: the place for an event, of which all but its time and its CPU is to be filled in; NULL: there
 * is none. Interrupts are off from the first to the second.
 */
struct ravel_event *ravel_event_begin(struct ravel_sink *sink);
void ravel_event_end(struct ravel_sink *sink);

extern void *const ravel_net_probes[RAVEL_TRACEPOINTS];
extern void *const ravel_packet_probes[RAVEL_TRACEPOINTS];
typedef void ravel_enter_fn(void *sink, struct ftrace_regs *regs);
extern ravel_enter_fn *const ravel_net_enters[RAVEL_HOOKS];
extern ravel_enter_fn *const ravel_packet_enters[RAVEL_HOOKS];

static inline const struct ravel_net_filter *ravel_sink_net_filter(const struct ravel_sink *sink)
{
	return &sink->filter;
}

struct ravel_waker *ravel_waker_new(void);
void ravel_waker_free(struct ravel_waker *waker);
void ravel_waker_now(struct ravel_waker *waker);
void ravel_waker_gone(struct ravel_waker *waker);
void ravel_waker_at(struct ravel_waker *waker, u64 time);
void ravel_waker_wait(struct ravel_waker *waker, struct file *file, struct poll_table_struct *table);

/* Rust's. */
bool ravel_sink_wants(const void *sink, u32 kind, u32 pid);
bool ravel_sink_forked(const void *sink, u32 parent, u32 child);

#endif /* RAVEL_EVENTS_H */
