/* SPDX-License-Identifier: GPL-2.0 */

/*
 * Events: what a tracepoint's probe hands to a stream, and what wakes a stream's readers. The probes put
 * fields together; what becomes of them is decided in Rust (object/ring.rs).
 */

#ifndef RAVEL_EVENTS_H
#define RAVEL_EVENTS_H

#include <linux/types.h>

struct file;
struct pid;
struct poll_table_struct;
struct ravel_waker;

/* Kinds of events; also bits of a sink's mask, by 1 << kind. */
#define RAVEL_EVENT_FORK 0
#define RAVEL_EVENT_EXEC 1
#define RAVEL_EVENT_EXIT 2
#define RAVEL_EVENT_KINDS 3

/* How many parents an event names. */
#define RAVEL_EVENT_LINE 8

/* Bytes of the file's name that an exec event has room for. */
#define RAVEL_EVENT_FILE 62

/* An event as it lies in a ring: 160 bytes, no pointers. */
struct ravel_event {
	u64 time;		/* CLOCK_BOOTTIME, nanoseconds */
	u64 born;		/* when the process was made */
	u64 child_born;		/* fork */
	u32 kind;
	u32 cpu;
	u32 pid;		/* the process, in the initial pid namespace */
	u32 tid;		/* the thread */
	u32 child;		/* fork */
	u32 status;		/* exit: as wait() gives it */
	u32 line[RAVEL_EVENT_LINE];	/* its parents, nearest first */
	u8 comm[16];
	u8 lines;		/* how many of line[] */
	u8 file_cut;		/* exec: the name was longer */
	u8 file[RAVEL_EVENT_FILE];	/* exec: ends at the first 0 */
};

/* A tracepoint of the kernel by its name; NULL if this kernel has none. May sleep. */
void *ravel_tracepoint(const char *name);

/* Has a kind's probe called with this sink, or not any more. */
int ravel_probe_register(void *tracepoint, u32 kind, void *sink);
void ravel_probe_unregister(void *tracepoint, u32 kind, void *sink);
void ravel_probe_synchronize(void);

/* Marks the processes that descend from `root`'s now, by their pids. */
void ravel_mark_descendants(struct pid *root, unsigned long *pids, u32 bits);

u64 ravel_boot_ns(void);

struct ravel_waker *ravel_waker_new(void);
void ravel_waker_free(struct ravel_waker *waker);
void ravel_waker_from_anywhere(struct ravel_waker *waker);
void ravel_waker_now(struct ravel_waker *waker);
void ravel_waker_at(struct ravel_waker *waker, u64 time);
void ravel_waker_wait(struct ravel_waker *waker, struct file *file, struct poll_table_struct *table);

/* Rust's. Interrupts are off in the last. */
bool ravel_sink_wants(const void *sink, u32 kind, u32 pid);
bool ravel_sink_forked(const void *sink, u32 parent, u32 child);
void ravel_sink_push(const void *sink, u32 cpu, struct ravel_event *event);

#endif /* RAVEL_EVENTS_H */
