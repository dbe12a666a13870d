// SPDX-License-Identifier: GPL-2.0

/*
 * Probes of functions, where the kernel has no tracepoint. They are called by ftrace, at a function's first
 * instruction, and not as kprobes: the kernel passes over a kprobe on a CPU that runs another just then, and an
 * interrupt that receives a packet amid one that is sent is nothing rare. A call costs less, too.
 */

#include <linux/err.h>
#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/slab.h>

#include "events.h"

/* What one sink is told of. */
struct ravel_functions {
	struct ftrace_ops ops;
	void *sink;
	u32 count;
	bool registered;
	unsigned long at[RAVEL_FUNCTIONS];
	ravel_enter_fn *enter[RAVEL_FUNCTIONS];
};

/* Any context; no function that is called from here has a probe of ravel's. */
static void notrace entered(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *regs)
{
	const struct ravel_functions *functions = container_of(ops, struct ravel_functions, ops);
	u32 i;

	for (i = 0; i < functions->count; i++) {
		if (functions->at[i] == ip) {
			functions->enter[i](functions->sink, regs);
			return;
		}
	}
}

/* There may be many reasons for which a function cannot be probed. */
static int plain(int err)
{
	return !err || err == -ENOMEM ? err : -EOPNOTSUPP;
}

/*
 * Where a function's first instruction is. Kprobes know functions by their names, and which of them may be probed; one
 * that is registered, but never armed, changes nothing in the kernel's text.
 */
static int locate(const char *name, unsigned long *at)
{
	struct kprobe probe = { .symbol_name = name, .flags = KPROBE_FLAG_DISABLED };
	int err = register_kprobe(&probe);

	if (err)
		return plain(err);
	*at = (unsigned long)probe.addr;
	if (!kprobe_ftrace(&probe))
		err = -EOPNOTSUPP;
	unregister_kprobe(&probe);
	return err;
}

int ravel_function_find(const char *name)
{
	unsigned long at;

	return locate(name, &at);
}

struct ravel_functions *ravel_functions_new(void *sink)
{
	struct ravel_functions *functions = kzalloc(sizeof(*functions), GFP_KERNEL | __GFP_NOWARN);

	if (functions) {
		functions->sink = sink;
		functions->ops.func = entered;
		functions->ops.flags = FTRACE_OPS_FL_SAVE_ARGS;
	}
	return functions;
}

int ravel_functions_add(struct ravel_functions *functions, const char *name, u32 hook)
{
	u32 i = functions->count;
	int err;

	if (i == RAVEL_FUNCTIONS)
		return -ENOSPC;
	err = locate(name, &functions->at[i]) ?:
	      plain(ftrace_set_filter_ip(&functions->ops, functions->at[i], 0, 0));
	if (err)
		return err;
	functions->enter[i] = ravel_net_enters[hook] ?: ravel_packet_enters[hook];
	functions->count++;
	return 0;
}

int ravel_functions_register(struct ravel_functions *functions)
{
	int err = register_ftrace_function(&functions->ops);

	functions->registered = !err;
	return plain(err);
}

void ravel_functions_free(struct ravel_functions *functions)
{
	/* Waits for whoever runs the probes. */
	if (functions->registered)
		unregister_ftrace_function(&functions->ops);
	ftrace_free_filter(&functions->ops);
	kfree(functions);
}
