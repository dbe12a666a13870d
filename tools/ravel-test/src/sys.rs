// SPDX-License-Identifier: GPL-2.0
//! System calls that std has no safe form of. All unsafe code of this program is here and below.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_void};

mod link;
mod memory;
mod net;
mod sockmap;
mod wait;
pub use {link::*, memory::*, net::*, sockmap::*, wait::*};

/// A process or thread id.
pub type Pid = i32;

/// Bytes in a page.
pub const PAGE: usize = 4096;

fn cvt(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn cvt_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The errno of an error, or 0.
pub fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// CLOCK_MONOTONIC, in nanoseconds.
pub fn monotonic_ns() -> io::Result<u64> {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since boot, suspended time too.
pub fn boot_ns() -> io::Result<u64> {
    clock_ns(libc::CLOCK_BOOTTIME)
}

/// Nanoseconds of a process on a CPU, of all of its threads, those that have ended, too.
pub fn cpu_ns(pid: Pid) -> io::Result<u64> {
    let mut clock = 0;
    // SAFETY: There is room for one.
    match unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } {
        0 => clock_ns(clock),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn clock_ns(clock: libc::clockid_t) -> io::Result<u64> {
    // SAFETY: All-zero is a valid timespec, and there is room for one.
    unsafe {
        let mut now: libc::timespec = zeroed();
        cvt(libc::clock_gettime(clock, &raw mut now))?;
        Ok(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }
}

// Processes.

/// Which side of a fork() we are.
pub enum Forked {
    /// The parent, with the child's pid.
    Parent(Pid),
    /// The child.
    Child,
}

/// fork(). Only while the process has one thread.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: The callers have one thread, so the child can go on as any program.
    match cvt(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid)),
    }
}

/// A child that shares our memory, as after vfork(), and exits at once: far cheaper than fork() where only its
/// life counts.
pub fn brief_child(code: u8) -> io::Result<Pid> {
    extern "C" fn exit_with(code: *mut c_void) -> c_int {
        code.addr() as c_int
    }
    let mut stack = [0u128; 256];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let code = ptr::without_provenance_mut(code.into());
    // SAFETY: The child runs that function alone, on a stack of its own, which CLONE_VFORK has us keep until it
    // is gone.
    cvt(unsafe { libc::clone(exit_with, stack.as_mut_ptr_range().end.cast(), flags, code) })
}

/// clone3() like fork(), with flags (none that share memory), and with a chosen pid where `set_tid` is given.
pub fn fork_with(flags: u64, set_tid: Option<Pid>) -> io::Result<Forked> {
    let tid = set_tid.unwrap_or(0);
    // SAFETY: All-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { zeroed() };
    args.flags = flags;
    // With CLONE_PARENT the child takes ours, and clone3() none.
    if flags & libc::CLONE_PARENT as u64 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if set_tid.is_some() {
        args.set_tid = &raw const tid as u64;
        args.set_tid_size = 1;
    }
    // SAFETY: Without CLONE_VM this is a fork; `args` and `tid` live during the call.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const args,
            size_of::<libc::clone_args>(),
        )
    };
    match cvt_long(pid)? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as Pid)),
    }
}

struct SharedChild {
    wait_on: RawFd,
    tell: RawFd,
}

extern "C" fn shared_child(arg: *mut c_void) -> c_int {
    // SAFETY: `arg` is the SharedChild that clone_vm() leaked for this child; only raw system calls
    // are made here, since the parent's memory, thread-local storage too, is ours as well.
    unsafe {
        let child = &*arg.cast::<SharedChild>();
        let pid: Pid = libc::syscall(libc::SYS_getpid) as Pid;
        libc::syscall(
            libc::SYS_write,
            child.tell,
            &raw const pid,
            size_of::<Pid>(),
        );
        let mut byte = 0u8;
        libc::syscall(libc::SYS_read, child.wait_on, &raw mut byte, 1usize);
        libc::syscall(libc::SYS_exit, 0);
    }
    0
}

/// Makes a child that shares our address space (CLONE_VM, and `flags`). It writes its pid, four
/// bytes, to `tell`, waits for one byte from `wait_on`, and exits. With CLONE_VFORK we come back
/// only then.
pub fn clone_vm(flags: c_int, wait_on: RawFd, tell: RawFd) -> io::Result<Pid> {
    let arg = Box::leak(Box::new(SharedChild { wait_on, tell }));
    let stack = Box::leak(vec![0u8; 8 * 1024].into_boxed_slice());
    // SAFETY: The stack and the argument are leaked, so they outlive the child.
    cvt(unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast();
        let arg = ptr::from_mut(arg).cast();
        libc::clone(
            shared_child,
            top,
            libc::CLONE_VM | libc::SIGCHLD | flags,
            arg,
        )
    })
}

/// _exit().
pub fn exit_now(code: c_int) -> ! {
    // SAFETY: Always allowed.
    unsafe { libc::_exit(code) }
}

/// Ends the calling thread only, even where it is the main thread. Its stack stays.
pub fn exit_thread() -> ! {
    // SAFETY: Nothing in this thread runs any more, and its stack is never freed.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("SYS_exit returned")
}

/// How a child ended: `Ok(code)`, or `Err(signal)`.
pub type Exit = Result<i32, i32>;

fn decode(status: c_int) -> Exit {
    if libc::WIFEXITED(status) {
        Ok(libc::WEXITSTATUS(status))
    } else {
        Err(libc::WTERMSIG(status))
    }
}

/// waitpid(): waits for that child to end.
pub fn wait(pid: Pid) -> io::Result<Exit> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is ours.
        match cvt(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }) {
            Ok(_) => return Ok(decode(status)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// wait4(): waits for that child to end; the CPU time it took, and the kilobytes it had at most.
pub fn wait_usage(pid: Pid) -> io::Result<(Exit, Duration, u64)> {
    let mut status = 0;
    // SAFETY: All zeroes are a valid value.
    let mut usage: libc::rusage = unsafe { zeroed() };
    // SAFETY: Both are ours.
    cvt(unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) })?;
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    let cpu = time(usage.ru_utime) + time(usage.ru_stime);
    Ok((decode(status), cpu, usage.ru_maxrss as u64))
}

/// Reaps any child that has ended already: its pid, `None` where none has.
pub fn reap_any() -> io::Result<Option<(Pid, Exit)>> {
    let mut status = 0;
    // SAFETY: `status` is ours.
    let pid = cvt(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) })?;
    Ok((pid != 0).then(|| (pid, decode(status))))
}

/// Waits until a child has ended, and leaves it a zombie.
pub fn wait_zombie(pid: Pid) -> io::Result<()> {
    // SAFETY: All-zero is a valid siginfo_t, and it is ours.
    let flags = libc::WEXITED | libc::WNOWAIT;
    let mut info: libc::siginfo_t = unsafe { zeroed() };
    cvt(unsafe { libc::waitid(libc::P_PID, pid as u32, &raw mut info, flags) }).map(drop)
}

/// kill().
pub fn kill(pid: Pid, signal: c_int) -> io::Result<()> {
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// A prctl() with one number as its argument.
pub fn prctl(option: c_int, arg: u64) -> io::Result<()> {
    // SAFETY: Used with options that take a number.
    cvt(unsafe { libc::prctl(option, arg, 0, 0, 0) }).map(drop)
}

/// Sets the name of the calling thread, up to 15 bytes.
pub fn set_comm(name: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: The name ends with a NUL, and the kernel copies it.
    cvt(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) }).map(drop)
}

/// getpid(), from the kernel.
pub fn getpid() -> Pid {
    std::process::id() as Pid
}

/// getppid().
pub fn getppid() -> Pid {
    std::os::unix::process::parent_id() as Pid
}

/// gettid().
pub fn gettid() -> Pid {
    // SAFETY: Always allowed.
    unsafe { libc::gettid() }
}

/// Has the calling thread run on one CPU only.
pub fn run_on(cpu: usize) -> io::Result<()> {
    // SAFETY: All-zero is an empty set, and it is ours.
    unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        libc::CPU_SET(cpu, &mut set);
        cvt(libc::sched_setaffinity(
            0,
            size_of_val(&set),
            &raw const set,
        ))
        .map(drop)
    }
}

/// What of `events` the descriptor has within `timeout_ms`, and what poll() tells unasked.
pub fn poll_for(fd: &impl AsRawFd, events: i16, timeout_ms: i32) -> io::Result<i16> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: One pollfd, ours.
    cvt(unsafe { libc::poll(&raw mut poll, 1, timeout_ms) })?;
    Ok(poll.revents)
}

/// A descriptor that is readable once the process has ended.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: No memory is involved; a descriptor that the kernel gave is ours.
    unsafe {
        let fd = cvt_long(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Whether the descriptor has one of `events` within `timeout_ms`.
pub fn poll(fd: &impl AsRawFd, events: i16, timeout_ms: i32) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: One pollfd, ours.
    Ok(cvt(unsafe { libc::poll(&raw mut poll, 1, timeout_ms) })? > 0)
}

/// Gives a signal its default effect.
pub fn default_signal(signal: c_int) -> io::Result<()> {
    // SAFETY: No handler is set.
    let before = unsafe { libc::signal(signal, libc::SIG_DFL) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// getpgid() of ourselves.
pub fn group() -> io::Result<Pid> {
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::getpgid(0) })
}

/// Begins to trace a process, and lets it run on.
pub fn ptrace_seize(pid: Pid) -> io::Result<()> {
    let none = ptr::null_mut::<c_void>();
    // SAFETY: No memory is involved.
    cvt_long(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) }).map(drop)
}

/// What kcmp() compares of two processes.
#[derive(Clone, Copy, Debug)]
pub enum Kcmp {
    /// The open files behind two descriptors.
    File(RawFd, RawFd),
    /// Address spaces.
    Vm,
    /// Tables of descriptors.
    Files,
    /// Root, working directory and umask.
    Fs,
}

/// kcmp(): whether two processes have the same object.
pub fn kcmp(one: Pid, other: Pid, what: Kcmp) -> io::Result<bool> {
    let (kind, first, second) = match what {
        Kcmp::File(first, second) => (0, first, second),
        Kcmp::Vm => (1, 0, 0),
        Kcmp::Files => (2, 0, 0),
        Kcmp::Fs => (3, 0, 0),
    };
    let (first, second) = (first as libc::c_ulong, second as libc::c_ulong);
    // SAFETY: No memory is involved.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one, other, kind, first, second) };
    Ok(cvt_long(order)? == 0)
}

/// unshare().
pub fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::unshare(flags) }).map(drop)
}

/// Gives up root: uid and gid 65534, no other groups.
pub fn become_nobody() -> io::Result<()> {
    // SAFETY: No memory is involved.
    unsafe {
        cvt(libc::setgroups(0, ptr::null()))?;
        cvt(libc::setresgid(65534, 65534, 65534))?;
        cvt(libc::setresuid(65534, 65534, 65534)).map(drop)
    }
}

/// Takes uid and gid 0 of our user namespace.
pub fn become_root() -> io::Result<()> {
    // SAFETY: No memory is involved.
    unsafe {
        cvt(libc::setresgid(0, 0, 0))?;
        cvt(libc::setresuid(0, 0, 0)).map(drop)
    }
}

/// Gives up all capabilities, and stays who we are.
pub fn drop_capabilities() -> io::Result<()> {
    // _LINUX_CAPABILITY_VERSION_3, and the calling thread.
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    // SAFETY: The structures are those that this version takes.
    cvt_long(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }).map(drop)
}

/// Allows `count` open descriptors.
pub fn allow_descriptors(count: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: count,
    };
    // SAFETY: The limit is ours.
    cvt(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

// Files.

/// A pipe: the read end and the write end, kept over exec() where `keep`.
pub fn pipe(keep: bool) -> io::Result<(File, File)> {
    let mut fds = [0; 2];
    // SAFETY: Room for two descriptors, which are then ours.
    unsafe {
        cvt(libc::pipe2(
            fds.as_mut_ptr(),
            if keep { 0 } else { libc::O_CLOEXEC },
        ))?;
        Ok((File::from_raw_fd(fds[0]), File::from_raw_fd(fds[1])))
    }
}

/// Has exec() keep a descriptor open, or close it.
pub fn keep_over_exec(fd: &impl AsRawFd, keep: bool) -> io::Result<()> {
    let flags = if keep { 0 } else { libc::FD_CLOEXEC };
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) }).map(drop)
}

/// dup2(): a descriptor becomes a copy of another, and what it was is closed.
pub fn dup_over(of: &impl AsRawFd, over: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: No memory is involved; both descriptors stay open.
    cvt(unsafe { libc::dup2(of.as_raw_fd(), over.as_raw_fd()) }).map(drop)
}

/// Locks a file for this open file alone (flock()), and waits until it can be.
pub fn lock_file(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX) }).map(drop)
}

/// Copies a descriptor to the first free number from `from` on.
pub fn dup_from(fd: &impl AsRawFd, from: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: No memory is involved; the descriptor that the kernel gave is ours.
    unsafe {
        let copy = cvt(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, from))?;
        Ok(OwnedFd::from_raw_fd(copy))
    }
}

/// Takes over a descriptor by its number.
pub fn file_from(fd: RawFd) -> File {
    // SAFETY: Used for numbers that came from another program's command line, for us to own.
    unsafe { File::from_raw_fd(fd) }
}

/// A file in memory.
pub fn memfd(name: &str) -> io::Result<File> {
    let name = CString::new(name)?;
    // SAFETY: The name ends with a NUL; the descriptor is ours.
    unsafe {
        Ok(File::from_raw_fd(cvt(libc::memfd_create(
            name.as_ptr(),
            0,
        ))?))
    }
}

/// read() to an address that may be bad: the bytes read.
pub fn read_to_address(file: &File, address: usize, len: usize) -> io::Result<usize> {
    // SAFETY: Used with addresses in memory that nothing else uses, or that nothing is mapped at.
    let n = unsafe { libc::read(file.as_raw_fd(), address as *mut c_void, len) };
    cvt_long(n as libc::c_long).map(|n| n as usize)
}

/// write() from an address that may be bad: the bytes written.
pub fn write_from_address(file: &File, address: usize, len: usize) -> io::Result<usize> {
    // SAFETY: The kernel checks the address.
    let n = unsafe { libc::write(file.as_raw_fd(), address as *const c_void, len) };
    cvt_long(n as libc::c_long).map(|n| n as usize)
}

/// mount().
pub fn mount(source: &str, target: &Path, kind: &str, flags: u64) -> io::Result<()> {
    let (source, kind) = (CString::new(source)?, CString::new(kind)?);
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: All strings end with a NUL.
    cvt(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            ptr::null(),
        )
    })
    .map(drop)
}

// The module.

/// finit_module().
pub fn insert_module(file: &File) -> io::Result<()> {
    // SAFETY: The parameters are an empty string.
    cvt_long(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) })
        .map(drop)
}

/// delete_module() with O_NONBLOCK.
pub fn delete_module(name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: The name ends with a NUL.
    cvt_long(unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) })
        .map(drop)
}
