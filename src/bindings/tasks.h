/* SPDX-License-Identifier: GPL-2.0 */

/* Processes, as they stand in the tree of processes. */

#ifndef RAVEL_TASKS_H
#define RAVEL_TASKS_H

#include <linux/types.h>

struct task_struct;

/* A process, by its main thread. Pids are those of the initial namespace, 0 for none. */
struct ravel_task {
	u64 born;		/* nanoseconds since boot */
	s32 pid;
	s32 ns_pid;		/* in its own pid namespace */
	s32 parent;		/* the process of real_parent */
	s32 tracer;		/* the process that traces the main thread */
	u32 threads;
	u8 exited;		/* no thread runs any more */
	u8 exec;		/* it went through exec() since it was forked */
	u8 vfork;		/* its maker waits until it exits or goes through exec() */
	u8 init;		/* orphans of its pid namespace come to it */
	u8 subreaper;		/* orphans among its descendants come to it */
};

/* Inode numbers, as in /proc/PID/ns; 0: it has given that up. */
struct ravel_namespaces {
	u32 cgroup;
	u32 ipc;
	u32 net;
	u32 pid;
	u32 pid_for_children;
	u32 time;
	u32 time_for_children;
	u32 user;
	u32 uts;
};

/* RCU is held, and pid_alive() was seen under it. */
void ravel_task_snapshot(struct task_struct *leader, struct ravel_task *out);
struct task_struct *ravel_running_thread(struct task_struct *leader);
/* RCU is held. */
void ravel_task_namespaces(struct task_struct *task, struct ravel_namespaces *out);
/* The first thread, or the one behind another that this gave in the same RCU section. */
struct task_struct *ravel_next_thread(struct task_struct *leader, struct task_struct *after);

#endif /* RAVEL_TASKS_H */
