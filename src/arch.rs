// SPDX-License-Identifier: GPL-2.0

//! What the kernel's headers do inline and probes cannot afford to call: on a kernel built by gcc
//! each helper in C, and each atomic access of the kernel crate, is a call.

mod x86;

pub(crate) use x86::{
    argument, cpu, current_task, in_nmi, init, smp_mb, IrqsOff, PreemptOff, Shared,
};
