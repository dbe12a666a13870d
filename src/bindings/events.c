// SPDX-License-Identifier: GPL-2.0

#include <linux/binfmts.h>
#include <linux/bitops.h>
#include <linux/cgroup.h>
#include <linux/hrtimer.h>
#include <linux/irq_work.h>
#include <linux/lockdep.h>
#include <linux/pid.h>
#include <linux/poll.h>
#include <linux/preempt.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/timekeeping.h>
#include <linux/tracepoint.h>
#include <linux/wait.h>
#include <trace/events/sched.h>

#include "events.h"

/* What readers of a stream wait on. */
struct ravel_waker {
	wait_queue_head_t wait;
	struct irq_work work;
	struct hrtimer timer;
};

u64 ravel_boot_ns(void)
{
	return ktime_get_boot_fast_ns();
}

/* RCU is held, and `task` kept. The group leader of its parent; NULL at the line's end, or where it is cut. */
static struct task_struct *parent_of(struct task_struct *task)
{
	struct task_struct *parent;

	/* A task that was released may have a stale parent; see descends() in object/process.rs. */
	if (!pid_alive(task))
		return NULL;
	parent = READ_ONCE(rcu_dereference(task->real_parent)->group_leader);
	return parent == task ? NULL : parent;
}

void ravel_event_who(struct ravel_event *event, u32 kind)
{
	struct ravel_who *who = &event->part.who;

	*event = (struct ravel_event) { .kind = kind };
	who->pid = current->tgid;
	who->tid = current->pid;
	rcu_read_lock();
	who->born = READ_ONCE(current->group_leader)->start_boottime;
	/* Another thread may rename itself at any time; the last byte is always 0. */
	memcpy(who->comm, READ_ONCE(current->group_leader)->comm, sizeof(who->comm));
	rcu_read_unlock();
}

static void fill(struct ravel_event *event, u32 kind)
{
	struct ravel_lineage *lineage = &event->part.lineage;
	struct task_struct *parent;

	ravel_event_who(event, kind);
	rcu_read_lock();
	for (parent = parent_of(current); parent && parent->tgid; parent = parent_of(parent)) {
		lineage->line[lineage->lines++] = parent->tgid;
		if (lineage->lines == RAVEL_EVENT_LINE)
			break;
	}
	rcu_read_unlock();
}

/*
 * The end of a writer's section. Wakes who waits, whatever locks are held here: looks without one whether somebody does,
 * and leaves the waking, which takes one, to an interrupt of its own.
 */
static __always_inline void leave(struct ravel_sink *sink, struct ravel_ring *ring)
{
	struct ravel_waker *waker = sink->waker;

	smp_store_release(&ring->section, ring->section + 1);
	/* Has a barrier: who begins to wait now sees what there is. */
	if (wq_has_sleeper(&waker->wait))
		irq_work_queue(&waker->work);
}

/*
 * The writer's side of a ring. An event of an interrupt on this CPU comes before or after this one, never amid. Of an
 * NMI, which could come amid, there is none to be expected; it would be counted.
 */
struct ravel_event *ravel_event_begin(struct ravel_sink *sink)
{
	u32 cpu = smp_processor_id();
	struct ravel_ring *ring = &sink->rings[cpu];
	struct ravel_event *event;
	struct ravel_cell *cell;
	u64 time;

	lockdep_assert_irqs_disabled();
	if (unlikely(in_nmi())) {
		atomic64_inc((atomic64_t *)&sink->missed);
		return NULL;
	}
	if (!READ_ONCE(sink->is_open))
		return NULL;
	WRITE_ONCE(ring->section, ring->section + 1);
	smp_mb();
	time = max(ktime_get_boot_fast_ns(), ring->time);
	ring->time = time;
	/* What the reader gave up, it no longer reads. */
	cell = &ring->cells[smp_load_acquire(&ring->epoch) & 1];
	if (likely(!READ_ONCE(cell->count) && ring->head - smp_load_acquire(&ring->tail) < ring->size)) {
		event = &ring->slots[ring->head % ring->size];
		event->time = time;
		event->cpu = cpu;
		return event;
	}
	if (!cell->count) {
		WRITE_ONCE(cell->first, time);
		WRITE_ONCE(cell->at, ring->head);
	}
	WRITE_ONCE(cell->last, time);
	smp_store_release(&cell->count, cell->count + 1);
	leave(sink, ring);
	return NULL;
}

void ravel_event_end(struct ravel_sink *sink)
{
	struct ravel_ring *ring = &sink->rings[smp_processor_id()];

	smp_store_release(&ring->head, ring->head + 1);
	leave(sink, ring);
}

void ravel_event_push(void *sink, const struct ravel_event *event)
{
	struct ravel_event *place;
	unsigned long flags;

	local_irq_save(flags);
	place = ravel_event_begin(sink);
	if (place) {
		place->kind = event->kind;
		place->part = event->part;
		ravel_event_end(sink);
	}
	local_irq_restore(flags);
}

/* Whether current is in the cgroup that the sink is told of. */
static bool in_cgroup(const void *sink)
{
	const struct ravel_net_filter *filter = ravel_sink_net_filter(sink);
	bool is_in = true;

	if (filter->cgroup) {
		rcu_read_lock();
		is_in = cgroup_is_descendant(task_dfl_cgroup(current), filter->cgroup);
		rcu_read_unlock();
	}
	return is_in;
}

static bool wanted(const void *sink, u32 kind)
{
	return ravel_sink_wants(sink, kind, current->tgid) && in_cgroup(sink);
}

/* `parent`, as `task` in what follows, is current. The child is not yet awake. */
static void probe_fork(void *sink, struct task_struct *parent, struct task_struct *child)
{
	struct ravel_event event;

	if (child->tgid == parent->tgid)
		return;
	if (!ravel_sink_forked(sink, parent->tgid, child->tgid) || !in_cgroup(sink))
		return;
	fill(&event, RAVEL_EVENT_FORK);
	event.part.lineage.child = child->tgid;
	event.part.lineage.child_born = child->start_boottime;
	ravel_event_push(sink, &event);
}

static void probe_exec(void *sink, struct task_struct *task, pid_t old_pid, struct linux_binprm *bprm)
{
	struct ravel_event event;

	if (!wanted(sink, RAVEL_EVENT_EXEC))
		return;
	fill(&event, RAVEL_EVENT_EXEC);
	event.part.lineage.file_cut = strscpy((char *)event.part.lineage.file, bprm->filename,
					 sizeof(event.part.lineage.file)) < 0;
	ravel_event_push(sink, &event);
}

/* The process' last thread ends. The status is that which wait() will tell. */
static void probe_exit(void *sink, struct task_struct *task, bool group_dead)
{
	struct signal_struct *signal = task->signal;
	struct ravel_event event;

	if (!group_dead || !wanted(sink, RAVEL_EVENT_EXIT))
		return;
	fill(&event, RAVEL_EVENT_EXIT);
	event.part.lineage.status = signal->flags & SIGNAL_GROUP_EXIT ? signal->group_exit_code :
								   task->group_leader->exit_code;
	ravel_event_push(sink, &event);
}

/* The prototypes are the tracepoints' own. */
static void __maybe_unused check_prototypes(void)
{
	check_trace_callback_type_sched_process_fork(probe_fork);
	check_trace_callback_type_sched_process_exec(probe_exec);
	check_trace_callback_type_sched_process_exit(probe_exit);
}

static void *probe_of(u32 hook)
{
	switch (hook) {
	case RAVEL_HOOK_FORK:
		return probe_fork;
	case RAVEL_HOOK_EXEC:
		return probe_exec;
	case RAVEL_HOOK_EXIT:
		return probe_exit;
	default:
		return ravel_net_probes[hook] ?: ravel_packet_probes[hook];
	}
}

struct search {
	const char *name;
	struct tracepoint *found;
};

static void compare(struct tracepoint *tp, void *priv)
{
	struct search *search = priv;

	if (!strcmp(tp->name, search->name))
		search->found = tp;
}

/* Those of the kernel proper only: they never go away. */
void *ravel_tracepoint(const char *name)
{
	struct search search = { .name = name };

	for_each_kernel_tracepoint(compare, &search);
	return search.found;
}

int ravel_probe_register(void *tracepoint, u32 hook, void *sink)
{
	return tracepoint_probe_register(tracepoint, probe_of(hook), sink);
}

void ravel_probe_unregister(void *tracepoint, u32 hook, void *sink)
{
	tracepoint_probe_unregister(tracepoint, probe_of(hook), sink);
}

/* Waits until no probe runs that was unregistered before. */
void ravel_probe_synchronize(void)
{
	tracepoint_synchronize_unregister();
}

void ravel_mark_descendants(struct pid *root, unsigned long *pids, u32 bits)
{
	struct task_struct *process, *task;
	struct signal_struct *signal;

	rcu_read_lock();
	task = pid_task(root, PIDTYPE_TGID);
	if (!task)
		goto out;
	signal = task->signal;
	for_each_process(process) {
		int steps = 1024;

		for (task = process; task && steps--; task = parent_of(task)) {
			if (task->signal == signal) {
				if (process->tgid < bits)
					set_bit(process->tgid, pids);
				break;
			}
		}
	}
out:
	rcu_read_unlock();
}

static void wake(struct ravel_waker *waker)
{
	wake_up_interruptible_poll(&waker->wait, EPOLLIN | EPOLLRDNORM);
}

static void waker_work(struct irq_work *work)
{
	wake(container_of(work, struct ravel_waker, work));
}

static enum hrtimer_restart waker_timer(struct hrtimer *timer)
{
	wake(container_of(timer, struct ravel_waker, timer));
	return HRTIMER_NORESTART;
}

struct ravel_waker *ravel_waker_new(void)
{
	struct ravel_waker *waker = kzalloc(sizeof(*waker), GFP_KERNEL | __GFP_NOWARN);

	if (waker) {
		init_waitqueue_head(&waker->wait);
		init_irq_work(&waker->work, waker_work);
		hrtimer_setup(&waker->timer, waker_timer, CLOCK_BOOTTIME, HRTIMER_MODE_ABS_SOFT);
	}
	return waker;
}

/* Nobody waits any more, and nobody will wake. */
void ravel_waker_free(struct ravel_waker *waker)
{
	hrtimer_cancel(&waker->timer);
	irq_work_sync(&waker->work);
	kfree(waker);
}

void ravel_waker_now(struct ravel_waker *waker)
{
	wake(waker);
}

/* Wakes also who waits for nothing but the end. */
void ravel_waker_gone(struct ravel_waker *waker)
{
	wake_up_poll(&waker->wait, EPOLLHUP | EPOLLERR | EPOLLIN | EPOLLRDNORM);
}

/* Replaces the time set before; U64_MAX for never. */
void ravel_waker_at(struct ravel_waker *waker, u64 time)
{
	if (time > KTIME_MAX)
		hrtimer_try_to_cancel(&waker->timer);
	else
		hrtimer_start(&waker->timer, ns_to_ktime(time), HRTIMER_MODE_ABS_SOFT);
}

/* The caller looks afterwards whether there is something to wait for: poll_wait() has the barrier. */
void ravel_waker_wait(struct ravel_waker *waker, struct file *file, struct poll_table_struct *table)
{
	poll_wait(file, &waker->wait, table);
}
