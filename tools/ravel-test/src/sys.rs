// SPDX-License-Identifier: GPL-2.0
//! System calls that std has no safe form of. All unsafe code of this program is here.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use libc::{c_int, c_void};

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

/// clone3() like fork(), in new namespaces (`flags`), and with a chosen pid where `set_tid` is given.
pub fn fork_with(flags: u64, set_tid: Option<Pid>) -> io::Result<Forked> {
    let tid = set_tid.unwrap_or(0);
    // SAFETY: All-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { zeroed() };
    args.flags = flags;
    args.exit_signal = libc::SIGCHLD as u64;
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

/// Keeps a descriptor open over exec().
pub fn keep_over_exec(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) }).map(drop)
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

// Memory. Addresses are numbers: what is mapped here is for the kernel to look at.

/// mmap() of private anonymous memory at any address.
pub fn map_anon(len: usize, prot: c_int) -> io::Result<usize> {
    map(
        0,
        len,
        prot,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        None,
        0,
    )
}

/// mmap(). With MAP_FIXED only over what the caller mapped itself.
pub fn map(
    addr: usize,
    len: usize,
    prot: c_int,
    flags: c_int,
    file: Option<&File>,
    offset: usize,
) -> io::Result<usize> {
    let fd = file.map_or(-1, |f| f.as_raw_fd());
    // SAFETY: The callers replace only mappings of their own that no reference points to.
    let p = unsafe {
        libc::mmap(
            addr as *mut c_void,
            len,
            prot,
            flags,
            fd,
            offset as libc::off_t,
        )
    };
    if p == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(p as usize)
    }
}

/// munmap().
pub fn unmap(addr: usize, len: usize) -> io::Result<()> {
    // SAFETY: As in map().
    cvt(unsafe { libc::munmap(addr as *mut c_void, len) }).map(drop)
}

/// mprotect().
pub fn protect(addr: usize, len: usize, prot: c_int) -> io::Result<()> {
    // SAFETY: As in map().
    cvt(unsafe { libc::mprotect(addr as *mut c_void, len, prot) }).map(drop)
}

/// mremap() of a whole mapping to a chosen address.
pub fn remap(addr: usize, len: usize, to: usize) -> io::Result<()> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: As in map().
    let p = unsafe { libc::mremap(addr as *mut c_void, len, len, flags, to as *mut c_void) };
    if p == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Writes one byte.
pub fn poke(addr: usize, value: u8) {
    // SAFETY: Used with addresses that the caller has mapped writable.
    unsafe { ptr::write_volatile(addr as *mut u8, value) }
}

/// Reads one byte.
pub fn peek(addr: usize) -> u8 {
    // SAFETY: Used with addresses that the caller has mapped readable.
    unsafe { ptr::read_volatile(addr as *const u8) }
}

// userfaultfd: memory whose first touch waits for us.

const UFFDIO_API: libc::Ioctl = 0xc018_aa3f_u32 as libc::Ioctl;
const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00_u32 as libc::Ioctl;
const UFFDIO_ZEROPAGE: libc::Ioctl = 0xc020_aa04_u32 as libc::Ioctl;

/// A userfaultfd over a range: who touches a page there waits for zero_page(). The descriptor is
/// readable as soon as somebody waits.
pub fn userfault(addr: usize, len: usize) -> io::Result<OwnedFd> {
    // SAFETY: The structures are those that the ioctls take: uffdio_api, uffdio_register.
    unsafe {
        let fd = cvt_long(libc::syscall(
            libc::SYS_userfaultfd,
            libc::O_CLOEXEC | libc::O_NONBLOCK,
        ))?;
        let fd = OwnedFd::from_raw_fd(fd as RawFd);
        let mut api: [u64; 3] = [0xaa, 0, 0];
        cvt(libc::ioctl(fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()))?;
        let mut register: [u64; 4] = [addr as u64, len as u64, 1, 0];
        cvt(libc::ioctl(
            fd.as_raw_fd(),
            UFFDIO_REGISTER,
            register.as_mut_ptr(),
        ))?;
        Ok(fd)
    }
}

/// Gives zeroes to who waits for the pages of a userfaultfd's range.
pub fn zero_page(fd: &OwnedFd, addr: usize, len: usize) -> io::Result<()> {
    let mut zero: [u64; 4] = [addr as u64, len as u64, 0, 0];
    // SAFETY: The structure is uffdio_zeropage.
    cvt(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_ZEROPAGE, zero.as_mut_ptr()) }).map(drop)
}

// Sockets.

/// socket().
pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: The descriptor is ours.
    unsafe {
        let fd = cvt(libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// socketpair() of unix sockets.
pub fn socketpair(kind: c_int) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: Room for two descriptors, which are then ours.
    unsafe {
        cvt(libc::socketpair(
            libc::AF_UNIX,
            kind | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        ))?;
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

/// An address to bind or to connect to.
pub struct Address {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl Address {
    fn new<T: Copy>(value: T, len: usize) -> Self {
        // SAFETY: All-zero is a valid sockaddr_storage, and every sockaddr_* fits into it.
        let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
        unsafe { ptr::write((&raw mut storage).cast::<T>(), value) };
        Self {
            storage,
            len: len as libc::socklen_t,
        }
    }

    /// 127.0.0.1 and a port.
    pub fn loopback(port: u16) -> Self {
        Self::inet([127, 0, 0, 1], port)
    }

    /// An IPv4 address.
    pub fn inet(ip: [u8; 4], port: u16) -> Self {
        let addr = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(ip),
            },
            sin_zero: [0; 8],
        };
        Self::new(addr, size_of::<libc::sockaddr_in>())
    }

    /// A unix address: a path, or an abstract name where the first byte is 0.
    pub fn unix(name: &[u8]) -> Self {
        let mut addr = libc::sockaddr_un {
            sun_family: libc::AF_UNIX as libc::sa_family_t,
            sun_path: [0; 108],
        };
        for (to, from) in addr.sun_path.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        let end = if name.first() == Some(&0) { 0 } else { 1 };
        Self::new(addr, size_of::<libc::sa_family_t>() + name.len() + end)
    }

    /// A netlink address with that port id.
    pub fn netlink(port: u32) -> Self {
        // SAFETY: All-zero is a valid sockaddr_nl.
        let mut addr: libc::sockaddr_nl = unsafe { zeroed() };
        addr.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        addr.nl_pid = port;
        Self::new(addr, size_of::<libc::sockaddr_nl>())
    }

    fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }
}

/// bind().
pub fn bind(fd: &impl AsRawFd, address: &Address) -> io::Result<()> {
    // SAFETY: The address lives during the call, and its length is right.
    cvt(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr(), address.len) }).map(drop)
}

/// connect().
pub fn connect(fd: &impl AsRawFd, address: &Address) -> io::Result<()> {
    // SAFETY: As in bind().
    cvt(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr(), address.len) }).map(drop)
}

/// The port that an IPv4 socket is bound to.
pub fn port_of(fd: &impl AsRawFd) -> io::Result<u16> {
    // SAFETY: All-zero is a valid sockaddr_in, and there is room for one.
    unsafe {
        let mut addr: libc::sockaddr_in = zeroed();
        let mut len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        cvt(libc::getsockname(
            fd.as_raw_fd(),
            (&raw mut addr).cast(),
            &raw mut len,
        ))?;
        Ok(u16::from_be(addr.sin_port))
    }
}

/// Sends one byte over a unix socket, and a copy of a descriptor with it (SCM_RIGHTS).
pub fn send_descriptor(over: &impl AsRawFd, fd: &impl AsRawFd) -> io::Result<()> {
    let mut byte = 1u8;
    let mut control = [0u64; 4];
    // SAFETY: All pointers of the message lead to what lives during the call; the control buffer is
    // aligned, and has room for one descriptor (CMSG_SPACE(4) is 24).
    unsafe {
        let mut part = libc::iovec {
            iov_base: (&raw mut byte).cast(),
            iov_len: 1,
        };
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast(), fd.as_raw_fd());
        cvt_long(libc::sendmsg(over.as_raw_fd(), &raw const message, 0) as libc::c_long).map(drop)
    }
}

/// listen().
pub fn listen(fd: &impl AsRawFd, backlog: c_int) -> io::Result<()> {
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// accept().
pub fn accept(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: No address is asked for; the descriptor is ours.
    unsafe {
        let none = ptr::null_mut();
        let fd = libc::accept4(fd.as_raw_fd(), none, ptr::null_mut(), libc::SOCK_CLOEXEC);
        Ok(OwnedFd::from_raw_fd(cvt(fd)?))
    }
}

/// shutdown(), with SHUT_RD, SHUT_WR or SHUT_RDWR.
pub fn shutdown(fd: &impl AsRawFd, how: c_int) -> io::Result<()> {
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

/// send(), with MSG_NOSIGNAL.
pub fn send(fd: &impl AsRawFd, data: &[u8], flags: c_int) -> io::Result<usize> {
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: The data live during the call.
    let n = unsafe { libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), flags) };
    cvt_long(n as libc::c_long).map(|n| n as usize)
}

/// send() of memory at an address that only the kernel is to touch.
pub fn send_address(fd: &impl AsRawFd, addr: usize, len: usize) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL;
    // SAFETY: The kernel checks the address.
    let n = unsafe { libc::send(fd.as_raw_fd(), addr as *const c_void, len, flags) };
    cvt_long(n as libc::c_long).map(|n| n as usize)
}

/// recv() of at most `len` bytes.
pub fn recv(fd: &impl AsRawFd, len: usize, flags: c_int) -> io::Result<Vec<u8>> {
    let mut data = vec![0; len];
    // SAFETY: The buffer has that length.
    let n = unsafe { libc::recv(fd.as_raw_fd(), data.as_mut_ptr().cast(), len, flags) };
    data.truncate(cvt_long(n as libc::c_long)? as usize);
    Ok(data)
}

/// setsockopt() of a plain value.
pub fn set_option<T: Copy>(
    fd: &impl AsRawFd,
    level: c_int,
    name: c_int,
    value: T,
) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: The value lives during the call.
    cvt(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) })
        .map(drop)
}

/// getsockopt() of an int.
pub fn get_option(fd: &impl AsRawFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let (mut value, mut len) = (0, size_of::<c_int>() as libc::socklen_t);
    // SAFETY: Room for an int.
    cvt(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    })?;
    Ok(value)
}

/// SO_LINGER.
pub fn set_linger(fd: &impl AsRawFd, on: bool, seconds: c_int) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: on.into(),
        l_linger: seconds,
    };
    set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, linger)
}

fn ioctl_int(fd: &impl AsRawFd, request: libc::Ioctl) -> io::Result<c_int> {
    let mut value = MaybeUninit::<c_int>::zeroed();
    // SAFETY: Both requests store one int.
    unsafe {
        cvt(libc::ioctl(fd.as_raw_fd(), request, value.as_mut_ptr()))?;
        Ok(value.assume_init())
    }
}

/// ioctl SIOCINQ: bytes (or the first datagram) to be read.
pub fn inq(fd: &impl AsRawFd) -> io::Result<c_int> {
    ioctl_int(fd, libc::FIONREAD)
}

/// ioctl SIOCOUTQ: bytes not yet sent or acknowledged.
pub fn outq(fd: &impl AsRawFd) -> io::Result<c_int> {
    ioctl_int(fd, libc::TIOCOUTQ)
}

/// Brings the loopback device of our network namespace up.
pub fn loopback_up() -> io::Result<()> {
    let fd = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: All-zero is a valid ifreq; the requests read and write one.
    unsafe {
        let mut request: libc::ifreq = zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        cvt(libc::ioctl(
            fd.as_raw_fd(),
            libc::SIOCGIFFLAGS,
            &raw mut request,
        ))?;
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        cvt(libc::ioctl(
            fd.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            &raw mut request,
        ))?;
    }
    Ok(())
}
