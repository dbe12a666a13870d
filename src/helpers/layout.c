// SPDX-License-Identifier: GPL-2.0

/*
 * Where the C compiler that built the kernel puts the fields that Rust reads, listed in
 * layout.list. bindgen asks libclang, which can differ from it. This is compiled to assembly; Kbuild
 * makes generated_layout.rs of the marked lines, with one assertion for each, so that a difference
 * fails the build. The idea is that of asm-offsets.c.
 */

#include "bindings.h"

#include <trace/events/sched.h>

#define MARK(text, ...) asm volatile("\n.ascii \"->" text ";\"" : : __VA_ARGS__)
#define SIZEOF_FIELD(type, field) "i"(sizeof(((struct type *)0)->field))
#define SIZE(type) MARK("size!(" #type ", %c0)", "i"(sizeof(struct type)))
#define FIELD(type, field, path) \
	MARK("field!(" #type ", " #path ", %c0, %c1)", "i"(offsetof(struct type, field)), \
	     SIZEOF_FIELD(type, field))
#define FIELD_OF_GROUP(type, group, rust, field, path) \
	MARK("field!(" #rust ", " #path ", %c0, %c1)", \
	     "i"(offsetof(struct type, field) - offsetof(struct type, group)), SIZEOF_FIELD(type, field))

void ravel_layout(void);
void ravel_layout(void)
{
#include "generated_layout.h"

	/* Arguments are saved in any case. */
	static_assert(FTRACE_OPS_FL_SAVE_ARGS == 0);
#ifdef CONFIG_X86
	/* arch/x86.rs changes the preemption count with instructions of this size. */
	static_assert(sizeof(__preempt_count) ==
		      (IS_ENABLED(CONFIG_HAS_SEPARATE_PREEMPT_RESCHED_BITS) ? sizeof(u64) : sizeof(u32)));
#endif
}

/* The prototypes of probes in Rust are those of their tracepoints. */
void ravel_layout_probes(void);
void ravel_layout_probes(void)
{
	check_trace_callback_type_sched_process_fork(
		(void (*)(void *, struct task_struct *, struct task_struct *))NULL);
	check_trace_callback_type_sched_process_exec(
		(void (*)(void *, struct task_struct *, pid_t, struct linux_binprm *))NULL);
	check_trace_callback_type_sched_process_exit((void (*)(void *, struct task_struct *, bool))NULL);
}
