// SPDX-License-Identifier: GPL-2.0

/*
 * Helpers: inline functions and macros of the kernel that Rust cannot call, one each, and named
 * after it. Rust sees ravel_helper_NAME() as bindings::NAME(), as it sees those of rust/helpers. A
 * helper is one statement, and decides nothing; whatever loops, compares or fills in a structure is
 * Rust.
 *
 * bindgen reads this file.
 *
 * Some are called from probes: none of them is traced (see Kbuild).
 */

#include "bindings.h"

#include "memory.c"
#include "net.c"
#include "process.c"
#include "trace.c"
