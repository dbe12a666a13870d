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
#define RAVEL_EVENT_KINDS 9

/* What probes hang on: tracepoints, then functions. */
#define RAVEL_HOOK_FORK 0
#define RAVEL_HOOK_EXEC 1
#define RAVEL_HOOK_EXIT 2
#define RAVEL_HOOK_TCP_STATE 3
#define RAVEL_HOOK_RESET_SENT 4
#define RAVEL_HOOK_RESET_RECEIVED 5
#define RAVEL_HOOK_DROP 6
#define RAVEL_TRACEPOINTS 7
#define RAVEL_HOOK_SHUTDOWN 7
#define RAVEL_HOOK_CLOSE 8
#define RAVEL_HOOK_RELEASE 9
#define RAVEL_HOOKS 10

/* How many parents an event names. */
#define RAVEL_EVENT_LINE 8

/* Bytes of the file's name that an exec event has room for. */
#define RAVEL_EVENT_FILE 62

/* What an event of a process has. */
struct ravel_lineage {
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

/* What an event of the network has. */
struct ravel_net {
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

/* Which of the two it is, the event's kind says. */
union ravel_part {
	struct ravel_lineage lineage;
	struct ravel_net net;
};

/* An event as it lies in a ring: 160 bytes, no pointers. */
struct ravel_event {
	u64 time;		/* CLOCK_BOOTTIME, nanoseconds */
	u32 kind;
	u32 cpu;
	u64 born;		/* when the process was made */
	u32 pid;		/* the process, in the initial pid namespace; 0 where no process did it */
	u32 tid;		/* the thread */
	u8 comm[16];
	union ravel_part part;
};

/* Which sockets a sink is told of; what is 0 lets all pass. */
struct ravel_net_filter {
	struct sock *sock;	/* a reference is held, as on the next */
	struct cgroup *cgroup;	/* or one below it */
	u8 address[16];		/* of either end; IPv4 as IPv6 maps it */
	u16 port;		/* likewise */
	bool has_address;
};

struct ravel_function;

/* A tracepoint of the kernel by its name; NULL if this kernel has none. May sleep. */
void *ravel_tracepoint(const char *name);

/* Has a hook's probe called with this sink, or not any more. */
int ravel_probe_register(void *tracepoint, u32 hook, void *sink);
void ravel_probe_unregister(void *tracepoint, u32 hook, void *sink);
void ravel_probe_synchronize(void);

/* The same for a function; -EOPNOTSUPP where it cannot be probed. And how often its probe could not run. */
int ravel_function_find(const char *name);
struct ravel_function *ravel_function_register(const char *name, u32 hook, void *sink);
void ravel_function_unregister(struct ravel_function *function);
u64 ravel_function_missed(const struct ravel_function *function);

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
void ravel_event_push(void *sink, struct ravel_event *event);
extern void *const ravel_net_probes[RAVEL_TRACEPOINTS];

struct ravel_waker *ravel_waker_new(void);
void ravel_waker_free(struct ravel_waker *waker);
void ravel_waker_from_anywhere(struct ravel_waker *waker);
void ravel_waker_now(struct ravel_waker *waker);
void ravel_waker_at(struct ravel_waker *waker, u64 time);
void ravel_waker_wait(struct ravel_waker *waker, struct file *file, struct poll_table_struct *table);

/* Rust's. Interrupts are off in ravel_sink_push(). */
bool ravel_sink_wants(const void *sink, u32 kind, u32 pid);
bool ravel_sink_forked(const void *sink, u32 parent, u32 child);
const struct ravel_net_filter *ravel_sink_net_filter(const void *sink);
void ravel_sink_push(const void *sink, u32 cpu, struct ravel_event *event);
void ravel_sink_missed(const void *sink);

#endif /* RAVEL_EVENTS_H */
