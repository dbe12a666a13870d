// SPDX-License-Identifier: GPL-2.0

#include <asm/syscall.h>

/* RAVEL_VERSION: the version that modinfo shows, from tools/Cargo.toml. */
#include "generated_version.h"
#ifndef __BINDGEN__
MODULE_VERSION(RAVEL_VERSION);
#endif

bool ravel_helper_fatal_signal_pending(struct task_struct *task)
{
	return fatal_signal_pending(task);
}

void ravel_helper_cond_resched(void)
{
	cond_resched();
}

struct pid *ravel_helper_get_pid(struct pid *pid)
{
	return get_pid(pid);
}

struct pid_namespace *ravel_helper_ns_of_pid(struct pid *pid)
{
	return ns_of_pid(pid);
}

bool ravel_helper_is_child_subreaper(const struct signal_struct *signal)
{
	return data_race(!!signal->is_child_subreaper);
}

struct new_utsname *ravel_helper_init_utsname(void)
{
	return init_utsname();
}

#define NAMESPACE_INUM(type, name) \
	u32 ravel_helper_##name##_inum(const struct type *space) { return space->ns.inum; }
NAMESPACE_INUM(cgroup_namespace, cgroup_ns)
NAMESPACE_INUM(ipc_namespace, ipc_ns)
NAMESPACE_INUM(net, net_ns)
NAMESPACE_INUM(pid_namespace, pid_ns)
NAMESPACE_INUM(time_namespace, time_ns)
NAMESPACE_INUM(user_namespace, user_ns)
NAMESPACE_INUM(uts_namespace, uts_ns)

int ravel_helper_task_syscall_nr(struct task_struct *task)
{
	return syscall_get_nr(task, task_pt_regs(task));
}

int ravel_helper_syscall_get_arch(struct task_struct *task)
{
	return syscall_get_arch(task);
}
