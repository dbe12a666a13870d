// SPDX-License-Identifier: GPL-2.0

//! x86-64. C headers: [`arch/x86/include/asm/irqflags.h`](srctree/arch/x86/include/asm/irqflags.h),
//! [`arch/x86/include/asm/preempt.h`](srctree/arch/x86/include/asm/preempt.h),
//! [`arch/x86/include/asm/barrier.h`](srctree/arch/x86/include/asm/barrier.h)

use crate::bindings;
use core::{
    arch::asm,
    cell::UnsafeCell,
    marker::PhantomData,
    sync::atomic::{compiler_fence, Ordering},
};

/// The bit of EFLAGS that is set while interrupts are on.
const INTERRUPTS_ON: usize = 1 << 9;

/// The operand of an instruction that changes the preemption count. Where the kernel has room for
/// PREEMPT_NEED_RESCHED in a second word, it changes both words at once.
#[cfg(CONFIG_HAS_SEPARATE_PREEMPT_RESCHED_BITS)]
macro_rules! preempt_count {
    () => {
        "qword ptr gs:[rip + {count}]"
    };
}
#[cfg(not(CONFIG_HAS_SEPARATE_PREEMPT_RESCHED_BITS))]
macro_rules! preempt_count {
    () => {
        "dword ptr gs:[rip + {count}]"
    };
}

/// Bits of the preemption count that are set in an NMI.
const NMI_MASK: u32 = bindings::RAVEL_NMI_MASK;

/// Whether this is a guest of Xen whose kernel may not turn off interrupts by itself.
static IS_XEN_PV: Shared<bool> = Shared::new(false);

/// Looks at what machine this is. Called before everything else.
pub(crate) fn init() {
    // SAFETY: Reads a feature bit.
    IS_XEN_PV.store(unsafe { bindings::cpu_has_xenpv() });
}

/// Integers and pointers, which the machine loads and stores in one instruction.
pub(crate) trait Word: Copy {}

impl Word for bool {}
impl Word for u32 {}
impl Word for u64 {}
impl Word for usize {}
impl<T> Word for *mut T {}
impl<T> Word for *const T {}

/// A word that other CPUs, and interrupts, may access at the same time, as by READ_ONCE() and
/// WRITE_ONCE().
///
/// Stores are not reordered with stores, nor loads with loads, on this machine: acquire and release
/// are up to the compiler.
#[repr(transparent)]
pub(crate) struct Shared<T>(UnsafeCell<T>);

// SAFETY: It is only accessed by one instruction at a time.
unsafe impl<T: Word> Sync for Shared<T> {}
// SAFETY: As above. What a pointer points at is the business of whoever follows it.
unsafe impl<T: Word> Send for Shared<T> {}

impl<T: Word> Shared<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Loads it, in no order.
    #[inline(always)]
    pub(crate) fn load(&self) -> T {
        // SAFETY: It is valid as long as `self`, and accessed by one instruction.
        unsafe { self.0.get().read_volatile() }
    }

    /// Stores it, in no order.
    #[inline(always)]
    pub(crate) fn store(&self, value: T) {
        // SAFETY: As in load().
        unsafe { self.0.get().write_volatile(value) };
    }

    /// Loads it before whatever follows.
    #[inline(always)]
    pub(crate) fn load_acquire(&self) -> T {
        let value = self.load();
        compiler_fence(Ordering::Acquire);
        value
    }

    /// Stores it after whatever precedes.
    #[inline(always)]
    pub(crate) fn store_release(&self, value: T) {
        compiler_fence(Ordering::Release);
        self.store(value);
    }
}

/// A full barrier between what precedes and what follows.
#[inline(always)]
pub(crate) fn smp_mb() {
    // SAFETY: Adds 0 to memory that is free to be written: the kernel has no red zone. Counts as an
    // access of all memory.
    unsafe { asm!("lock add dword ptr [rsp - 4], 0", options(nostack)) };
}

/// Interrupts of this CPU are off as long as this lives, and so its number stays. Lockdep is not
/// informed: what runs meanwhile takes no lock.
pub(crate) struct IrqsOff {
    flags: usize,
    _of_this_cpu: PhantomData<*mut ()>,
}

impl IrqsOff {
    /// Turns them off.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        let mut flags: usize;
        if IS_XEN_PV.load() {
            // SAFETY: Can be called anywhere; undone by drop().
            flags = unsafe { bindings::arch_local_irq_save() };
        } else {
            // SAFETY: The stack is as before. Counts as an access of all memory. Undone by drop().
            unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags) };
        }
        flags &= INTERRUPTS_ON;
        Self {
            flags,
            _of_this_cpu: PhantomData,
        }
    }
}

impl Drop for IrqsOff {
    #[inline(always)]
    fn drop(&mut self) {
        if IS_XEN_PV.load() {
            // SAFETY: The flags are those that were saved.
            unsafe { bindings::arch_local_irq_restore(self.flags) };
        } else if self.flags != 0 {
            // SAFETY: They were on before this was made. Counts as an access of all memory.
            unsafe { asm!("sti") };
        }
    }
}

/// Returns this CPU's number.
///
/// # Safety
///
/// To be of meaning, interrupts or preemption are to be off.
#[inline(always)]
pub(crate) unsafe fn cpu() -> u32 {
    let cpu: u32;
    // SAFETY: The variable is each CPU's own, and never changes.
    unsafe {
        asm!(
            "mov {cpu:e}, dword ptr gs:[rip + {variable}]",
            cpu = out(reg) cpu,
            variable = sym bindings::cpu_number,
            options(nostack, readonly, preserves_flags)
        );
    }
    cpu
}

/// Returns whether this is an NMI.
#[inline(always)]
pub(crate) fn in_nmi() -> bool {
    let count: u32;
    // SAFETY: The variable is each CPU's own, and has the same of these bits wherever a task goes.
    unsafe {
        asm!(
            "mov {count:e}, dword ptr gs:[rip + {variable}]",
            count = out(reg) count,
            variable = sym bindings::__preempt_count,
            options(nostack, readonly, preserves_flags)
        );
    }
    count & NMI_MASK != 0
}

/// Returns the current task.
#[inline(always)]
pub(crate) fn current_task() -> *mut bindings::task_struct {
    let task;
    // SAFETY: The variable is each CPU's own, and what it has of the current task is the same
    // wherever that goes.
    unsafe {
        asm!(
            "mov {task}, qword ptr gs:[rip + {variable}]",
            task = out(reg) task,
            variable = sym bindings::current_task,
            options(nostack, readonly, preserves_flags)
        );
    }
    task
}

/// The current task is not preempted as long as this lives, and so RCU waits for it. Not traced.
pub(crate) struct PreemptOff(PhantomData<*mut ()>);

#[cfg(CONFIG_PREEMPT_DYNAMIC)]
use bindings::__SCT__preempt_schedule_notrace as preempt_schedule_notrace;
#[cfg(all(CONFIG_PREEMPTION, not(CONFIG_PREEMPT_DYNAMIC)))]
use bindings::preempt_schedule_notrace_thunk as preempt_schedule_notrace;

impl PreemptOff {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        // SAFETY: Counts what drop() counts down. Counts as an access of all memory.
        #[cfg(CONFIG_PREEMPT_COUNT)]
        unsafe {
            asm!(
                concat!("inc ", preempt_count!()),
                count = sym bindings::__preempt_count,
                options(nostack)
            );
        }
        compiler_fence(Ordering::SeqCst);
        Self(PhantomData)
    }
}

impl Drop for PreemptOff {
    #[inline(always)]
    fn drop(&mut self) {
        compiler_fence(Ordering::SeqCst);
        // SAFETY: Counted by new(). The function that is called saves all registers, as
        // preempt_enable_notrace() demands of it. Counts as an access of all memory.
        #[cfg(CONFIG_PREEMPTION)]
        unsafe {
            asm!(
                concat!("dec ", preempt_count!()),
                "jnz 2f",
                "call {schedule}",
                "2:",
                count = sym bindings::__preempt_count,
                schedule = sym preempt_schedule_notrace,
            );
        }
        // SAFETY: Counted by new(). Counts as an access of all memory.
        #[cfg(all(CONFIG_PREEMPT_COUNT, not(CONFIG_PREEMPTION)))]
        unsafe {
            asm!(
                concat!("dec ", preempt_count!()),
                count = sym bindings::__preempt_count,
                options(nostack)
            );
        }
    }
}

/// Returns an argument of a function that ftrace has called for, by its place from 0 to 5.
///
/// # Safety
///
/// `regs` are those that ftrace gave its callback, which still runs.
#[inline(always)]
pub(crate) unsafe fn argument(regs: *const bindings::ftrace_regs, place: usize) -> usize {
    let regs = regs.cast::<bindings::pt_regs>();
    // SAFETY: What ftrace gives begins with pt_regs, in which it has saved the registers of
    // arguments.
    unsafe {
        match place {
            0 => (*regs).di,
            1 => (*regs).si,
            2 => (*regs).dx,
            3 => (*regs).cx,
            4 => (*regs).r8,
            _ => (*regs).r9,
        }
    }
}
