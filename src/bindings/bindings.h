/* SPDX-License-Identifier: GPL-2.0 */

/* What bindgen reads: the kernel's structs that kernel::bindings lacks, and ravel's own shims. */

#include <linux/anon_inodes.h>
#include <linux/kallsyms.h>
#include <linux/mm.h>
#include <linux/rmap.h>

#include "events.h"
#include "pages.h"
#include "shims.h"
#include "skbs.h"
#include "sockets.h"
#include "tasks.h"
#include "waiters.h"
