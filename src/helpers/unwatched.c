// SPDX-License-Identifier: GPL-2.0

#include <linux/compiler.h>

void ravel_nobody_watches(void);

/*
 * What ftrace calls ravel for while nothing is watched: nobody calls it. It is in C because rustc
 * makes no function that can be traced, and apart from the helpers because those cannot be, either.
 */
noinline void ravel_nobody_watches(void)
{
	barrier();
}
