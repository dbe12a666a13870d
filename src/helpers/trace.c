// SPDX-License-Identifier: GPL-2.0

/* bindgen evaluates constants, but no macros with casts. */
static const u32 RAVEL_NMI_MASK = NMI_MASK;
static_assert(NMI_MASK <= U32_MAX);

enum { RAVEL_KSYM_SYMBOL_LEN = KSYM_SYMBOL_LEN };

bool ravel_helper_cpu_has_xenpv(void)
{
	return cpu_feature_enabled(X86_FEATURE_XENPV);
}

unsigned long ravel_helper_arch_local_irq_save(void)
{
	return arch_local_irq_save();
}

void ravel_helper_arch_local_irq_restore(unsigned long flags)
{
	arch_local_irq_restore(flags);
}

struct cgroup *ravel_helper_task_dfl_cgroup(struct task_struct *task)
{
	return task_dfl_cgroup(task);
}

bool ravel_helper_cgroup_is_descendant(struct cgroup *cgrp, struct cgroup *ancestor)
{
	return cgroup_is_descendant(cgrp, ancestor);
}

void ravel_helper_tracepoint_synchronize_unregister(void)
{
	tracepoint_synchronize_unregister();
}
