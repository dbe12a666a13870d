// SPDX-License-Identifier: GPL-2.0

/*
 * Probes of functions, where the kernel has no tracepoint. They are called by ftrace, at a function's first
 * instruction, and not as kprobes: the kernel passes over a kprobe on a CPU that runs another just then, and an
 * interrupt that receives a packet amid one that is sent is nothing rare. A call costs less, too.
 */

#include <linux/err.h>
#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/skbuff.h>
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

/* The freeing of one sk_buff, of ours. */
struct trial {
	struct ftrace_ops ops;
	const struct sk_buff *skb;
	bool seen;
};

static void notrace seen(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *regs)
{
	struct trial *trial = container_of(ops, struct trial, ops);

	if ((const void *)ftrace_regs_get_argument(regs, 0) == trial->skb)
		WRITE_ONCE(trial->seen, true);
}

static int try_to_free(struct trial *trial, struct sk_buff *skb)
{
	unsigned long at;
	int err;

	trial->skb = skb;
	trial->ops.func = seen;
	trial->ops.flags = FTRACE_OPS_FL_SAVE_ARGS;
	err = locate("skb_release_head_state", &at) ?:
	      plain(ftrace_set_filter_ip(&trial->ops, at, 0, 0) ?: register_ftrace_function(&trial->ops));
	consume_skb(skb);
	if (!err)
		unregister_ftrace_function(&trial->ops);
	ftrace_free_filter(&trial->ops);
	return err;
}

int ravel_free_is_inlined(void)
{
	/* It stays as it is until the next kernel. */
	static int known = -1;
	struct trial *trial;
	struct sk_buff *skb;
	int err = -ENOMEM;

	if (READ_ONCE(known) >= 0)
		return known;
	trial = kzalloc(sizeof(*trial), GFP_KERNEL | __GFP_NOWARN);
	skb = alloc_skb(1, GFP_KERNEL | __GFP_NOWARN);
	if (trial && skb) {
		err = try_to_free(trial, skb);
		skb = NULL;
		if (!err) {
			err = !trial->seen;
			WRITE_ONCE(known, err);
		}
	}
	kfree_skb(skb);
	kfree(trial);
	return err;
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
