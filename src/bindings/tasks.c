// SPDX-License-Identifier: GPL-2.0

#include <linux/cgroup_namespace.h>
#include <linux/cred.h>
#include <linux/ipc_namespace.h>
#include <linux/nsproxy.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/ptrace.h>
#include <linux/rculist.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/time_namespace.h>
#include <linux/user_namespace.h>
#include <linux/utsname.h>
#include <net/net_namespace.h>

#include "tasks.h"

/* The first thread that has not begun to exit; the main thread if there is none. */
struct task_struct *ravel_running_thread(struct task_struct *leader)
{
	struct task_struct *t;

	for_each_thread(leader, t)
		if (!(READ_ONCE(t->flags) & PF_EXITING))
			return t;
	return leader;
}

void ravel_task_snapshot(struct task_struct *leader, struct ravel_task *out)
{
	struct task_struct *tracer = ptrace_parent(leader);
	struct pid *pid = READ_ONCE(leader->thread_pid);
	u32 flags = READ_ONCE(leader->flags);

	*out = (struct ravel_task) {
		.born = leader->start_boottime,
		.pid = leader->tgid,
		.ns_pid = pid ? pid_nr_ns(pid, ns_of_pid(pid)) : 0,
		.parent = task_tgid_nr_ns(rcu_dereference(leader->real_parent), &init_pid_ns),
		.tracer = tracer ? task_tgid_nr_ns(tracer, &init_pid_ns) : 0,
		.threads = READ_ONCE(leader->signal->nr_threads),
		.exited = !!(READ_ONCE(ravel_running_thread(leader)->flags) & PF_EXITING),
		.exec = !(flags & PF_FORKNOEXEC),
		/* A kernel thread has something else there. */
		.vfork = !(flags & PF_KTHREAD) && READ_ONCE(leader->vfork_done),
		.init = pid && is_child_reaper(pid),
		.subreaper = leader->signal->is_child_subreaper,
	};
}

/* Kinds of namespaces that the kernel was built without have none, or but the initial one. */
#define inum_of(space) ((space) ? (space)->ns.inum : 0)

void ravel_task_namespaces(struct task_struct *task, struct ravel_namespaces *out)
{
	struct pid_namespace *active = task_active_pid_ns(task);
	const struct nsproxy *proxy;

	*out = (struct ravel_namespaces) {
		.pid = active ? active->ns.inum : 0,
		.user = __task_cred(task)->user_ns->ns.inum,
	};
	/* Others look at a task's nsproxy under its lock (see linux/nsproxy.h). */
	task_lock(task);
	proxy = task->nsproxy;
	if (proxy) {
		out->cgroup = inum_of(proxy->cgroup_ns);
		out->ipc = inum_of(proxy->ipc_ns);
		out->net = inum_of(proxy->net_ns);
		out->pid_for_children = inum_of(proxy->pid_ns_for_children);
		out->time = inum_of(proxy->time_ns);
		out->time_for_children = inum_of(proxy->time_ns_for_children);
		out->uts = inum_of(proxy->uts_ns);
	}
	task_unlock(task);
}

struct task_struct *ravel_next_thread(struct task_struct *leader, struct task_struct *after)
{
	struct list_head *head = &leader->signal->thread_head;

	return list_next_or_null_rcu(head, after ? &after->thread_node : head, struct task_struct,
				     thread_node);
}
