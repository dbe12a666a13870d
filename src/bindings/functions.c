// SPDX-License-Identifier: GPL-2.0

/*
 * Probes of functions, where the kernel has no tracepoint. They are called by ftrace, at a function's first
 * instruction, and not as kprobes: the kernel passes over a kprobe on a CPU that runs another just then, and an
 * interrupt that receives a packet amid one that is sent is nothing rare. A call costs less, too.
 *
 * All streams share one caller of ftrace's, which stays registered from the first that needs it to the module's end. To
 * unregister it waits, with a lock held that all of ftrace needs, until each task has slept or left the kernel; to
 * change which functions it is called for does not. While nobody watches, that is a function of ravel's own, which
 * nobody calls.
 */

#include <linux/bitops.h>
#include <linux/err.h>
#include <linux/ftrace.h>
#include <linux/hash.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "events.h"

/* A function. Once it has a place, it keeps it; padded, so that the place is found by a shift. */
struct target {
	unsigned long ip;		/* 0: there is none */
	ravel_enter_fn *enter;
	unsigned long listeners;	/* who is told of it, as bits */
	void *only;			/* the sink of the one that there mostly is; NULL: see listeners */
} __aligned(4 * sizeof(long));

struct listener {
	void *sink;			/* NULL: there is none */
	ravel_enter_fn *enter;		/* NULL: that of the function */
};

/* Each function stands where its address hashes to, or, where two do to the same, in one of the next places. */
#define PLACE_BITS 10
#define PLACES (1U << PLACE_BITS)
static_assert(PLACES > 2 * RAVEL_FUNCTIONS);

/* Guards all that follows against changes; probes only read. */
static DEFINE_MUTEX(lock);
static struct target targets[PLACES];
static struct listener listeners[BITS_PER_LONG];
static bool registered;

/* Where functions were found, by their names. */
static struct place {
	const char *name;	/* NULL: there is none */
	unsigned long ip;
} places[RAVEL_FUNCTIONS];

/* Where a function mostly stands. */
static __always_inline struct target *first_place(unsigned long ip)
{
	struct target *target = &targets[hash_long(ip, PLACE_BITS)];

	/* An address from here on, which would else be worked out twice. */
	OPTIMIZER_HIDE_VAR(target);
	return target;
}

/* That of a function, or a free place for it; NULL: there is neither. */
static noinline notrace struct target *target_of(unsigned long ip)
{
	struct target *target = first_place(ip);
	u32 i;

	for (i = 0; i < PLACES; i++) {
		unsigned long its = READ_ONCE(target->ip);

		if (its == ip || !its)
			return target;
		if (++target == targets + PLACES)
			target = targets;
	}
	return NULL;
}

static noinline notrace void tell_all(const struct target *target, struct ftrace_regs *regs)
{
	unsigned long told;

	/* Pairs with the first in set_listeners(). */
	for (told = smp_load_acquire(&target->listeners); told; told &= told - 1) {
		const struct listener *listener = listeners + __ffs(told);

		(listener->enter ?: target->enter)(listener->sink, regs);
	}
}

static __always_inline void tell(const struct target *target, struct ftrace_regs *regs)
{
	void *only;

	/* For who takes a listener away, and waits for RCU. */
	preempt_disable_notrace();
	/* Pairs with the other in set_listeners(). */
	only = smp_load_acquire(&target->only);
	if (likely(only))
		target->enter(only, regs);
	else
		tell_all(target, regs);
	preempt_enable_notrace();
}

static noinline notrace void entered_elsewhere(unsigned long ip, struct ftrace_regs *regs)
{
	const struct target *target = target_of(ip);

	if (target)
		tell(target, regs);
}

/*
 * Any context; no function that is called from here has a probe of ravel's. What is called as rarely as this is often
 * is left to others, so that nothing has to be kept on the stack.
 */
static void notrace entered(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *regs)
{
	const struct target *target = first_place(ip);

	if (likely(READ_ONCE(target->ip) == ip))
		tell(target, regs);
	else
		entered_elsewhere(ip, regs);
}

static struct ftrace_ops ops = { .func = entered, .flags = FTRACE_OPS_FL_SAVE_ARGS };

/* What is watched while nothing is. */
static noinline __used void ravel_nobody_watches(void)
{
	barrier();
}

/*
 * That of a function that was found before, if it is still there: the name of what is at an address is told at once,
 * while one that is searched for is compared with those of all modules.
 */
static unsigned long known_place(const char *name)
{
	char symbol[KSYM_SYMBOL_LEN];
	const struct place *place;
	size_t len;

	for (place = places; place < places + RAVEL_FUNCTIONS && place->name; place++) {
		if (strcmp(place->name, name))
			continue;
		sprint_symbol(symbol, place->ip);
		len = str_has_prefix(symbol, name);
		return len && symbol[len] == '+' ? place->ip : 0;
	}
	return 0;
}

static void keep_place(const char *name, unsigned long ip)
{
	struct place *place;

	for (place = places; place < places + RAVEL_FUNCTIONS; place++) {
		if (!place->name || !strcmp(place->name, name)) {
			*place = (struct place) { .name = name, .ip = ip };
			return;
		}
	}
}

/*
 * Where the functions' first instructions are; 0: this kernel has no such function, or does not let it be probed.
 * Kprobes know functions by their names, and which may be probed; one that is registered, but never armed, changes
 * nothing in the kernel's text.
 */
static int locate(const struct ravel_function *functions, u32 count, unsigned long *ips)
{
	struct search {
		struct kprobe *found[RAVEL_FUNCTIONS];
		struct kprobe probes[RAVEL_FUNCTIONS];
	} *search;
	u32 i, unknown = 0, found = 0;
	int err = 0;

	if (count > RAVEL_FUNCTIONS)
		return -ENOSPC;
	for (i = 0; i < count; i++) {
		ips[i] = known_place(functions[i].name);
		unknown += !ips[i];
	}
	if (!unknown)
		return 0;
	search = kzalloc(sizeof(*search), GFP_KERNEL | __GFP_NOWARN);
	if (!search)
		return -ENOMEM;
	for (i = 0; i < count && err != -ENOMEM; i++) {
		struct kprobe *probe = &search->probes[i];

		if (ips[i])
			continue;
		probe->symbol_name = functions[i].name;
		probe->flags = KPROBE_FLAG_DISABLED;
		err = register_kprobe(probe);
		if (err)
			continue;
		search->found[found++] = probe;
		if (!kprobe_ftrace(probe))
			continue;
		ips[i] = (unsigned long)probe->addr;
		keep_place(functions[i].name, ips[i]);
	}
	/* All at once: it waits for RCU. */
	unregister_kprobes(search->found, found);
	kfree(search);
	return err == -ENOMEM ? err : 0;
}

int ravel_functions_missing(const struct ravel_function *functions, u32 count)
{
	unsigned long ips[RAVEL_FUNCTIONS];
	int missing = 0, err;
	u32 i;

	if (!count)
		return 0;
	guard(mutex)(&lock);
	err = locate(functions, count, ips);
	if (err)
		return err;
	for (i = 0; i < count; i++)
		missing += !ips[i];
	return missing;
}

/* Has ftrace call for those functions that somebody is told of, and for no other. */
static int watch(void)
{
	unsigned long ips[RAVEL_FUNCTIONS];
	u32 i, count = 0;
	int err;

	for (i = 0; i < PLACES; i++) {
		if (!targets[i].listeners)
			continue;
		if (count == RAVEL_FUNCTIONS)
			return -ENOSPC;
		ips[count++] = targets[i].ip;
	}
	if (!count && !registered)
		return 0;
	/* None would be all that there are. */
	if (!count)
		ips[count++] = (unsigned long)ravel_nobody_watches;
	err = ftrace_set_filter_ips(&ops, ips, count, 0, 1);
	if (!err && !registered) {
		err = register_ftrace_function(&ops);
		registered = !err;
	}
	return err;
}

static void stop(void)
{
	if (registered)
		unregister_ftrace_function(&ops);
	registered = false;
}

/* The listeners are there before anybody finds them, and so is what is called for them. */
static void set_listeners(struct target *target, unsigned long told)
{
	const struct listener *first = told ? listeners + __ffs(told) : NULL;
	bool is_only = first && !(told & (told - 1)) && !first->enter;

	smp_store_release(&target->listeners, told);
	smp_store_release(&target->only, is_only ? first->sink : NULL);
}

static int add(u32 number, const struct ravel_function *function, unsigned long ip)
{
	struct target *target = target_of(ip);

	if (!target)
		return -ENOSPC;
	if (!target->listeners) {
		target->enter = ravel_net_enters[function->hook] ?: ravel_packet_enters[function->hook];
		WRITE_ONCE(target->ip, ip);
	}
	set_listeners(target, target->listeners | BIT(number));
	return 0;
}

static void silence(u32 number)
{
	bool is_watched = false;
	u32 i;

	for (i = 0; i < PLACES; i++) {
		if (targets[i].listeners & BIT(number))
			set_listeners(&targets[i], targets[i].listeners & ~BIT(number));
		is_watched |= targets[i].listeners;
	}
	/* It takes memory. Without any, functions that nobody is told of are watched for as long as others are. */
	if (watch() && !is_watched)
		stop();
	/* Whoever has found it is done. */
	synchronize_rcu();
	listeners[number] = (struct listener) {};
}

static int find_listener(const void *sink)
{
	u32 i;

	for (i = 0; i < BITS_PER_LONG; i++) {
		if (listeners[i].sink == sink)
			return i;
	}
	return -ENOSPC;
}

static int listen(void *sink, ravel_enter_fn *enter, const struct ravel_function *functions, u32 count)
{
	unsigned long ips[RAVEL_FUNCTIONS];
	int number, err;
	u32 i;

	guard(mutex)(&lock);
	err = locate(functions, count, ips);
	if (err)
		return err;
	number = find_listener(NULL);
	if (number < 0)
		return number;
	listeners[number] = (struct listener) { .sink = sink, .enter = enter };
	for (i = 0; i < count && !err; i++)
		err = ips[i] ? add(number, &functions[i], ips[i]) : -EOPNOTSUPP;
	err = err ?: watch();
	if (err)
		silence(number);
	/* There may be many reasons for which ftrace does not call. */
	return !err || err == -ENOMEM ? err : -EOPNOTSUPP;
}

int ravel_functions_register(void *sink, const struct ravel_function *functions, u32 count)
{
	return listen(sink, NULL, functions, count);
}

void ravel_functions_unregister(void *sink)
{
	guard(mutex)(&lock);
	silence(find_listener(sink));
}

/* Nobody listens any more: else those functions would be watched again with the next who does. */
void ravel_functions_exit(void)
{
	guard(mutex)(&lock);
	stop();
	ftrace_free_filter(&ops);
}

/* The freeing of one sk_buff, of ours. */
struct trial {
	const struct sk_buff *skb;
	bool seen;
};

static void enter_trial(void *sink, struct ftrace_regs *regs)
{
	struct trial *trial = sink;

	if ((const void *)ftrace_regs_get_argument(regs, 0) == trial->skb)
		WRITE_ONCE(trial->seen, true);
}

int ravel_free_is_inlined(void)
{
	static const struct ravel_function free = { .name = "skb_release_head_state", .hook = RAVEL_HOOK_PACKET_FREE };
	/* It stays as it is until the next kernel. */
	static int known = -1;
	struct trial trial = {};
	struct sk_buff *skb;
	int err;

	if (READ_ONCE(known) >= 0)
		return known;
	skb = alloc_skb(1, GFP_KERNEL | __GFP_NOWARN);
	if (!skb)
		return -ENOMEM;
	trial.skb = skb;
	err = listen(&trial, enter_trial, &free, 1);
	consume_skb(skb);
	if (err)
		return err;
	ravel_functions_unregister(&trial);
	WRITE_ONCE(known, !READ_ONCE(trial.seen));
	return known;
}
