// SPDX-License-Identifier: GPL-2.0

//! Tracepoints and functions of the kernel, found by name, and the probes that hang on them while a stream asks
//! for it.
//!
//! C headers: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h),
//! [`include/linux/ftrace.h`](srctree/include/linux/ftrace.h)

use super::{
    gfp,
    process::Process,
    ring::{Filter, Sink},
};
use crate::bindings;
use core::{ffi::c_void, ptr::NonNull};
use kernel::{error::to_result, ffi, prelude::*, str::CStrExt, sync::Arc};

/// Where events come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A process made another.
    Fork,
    /// A process began another program.
    Exec,
    /// A process ended.
    Exit,
    /// A TCP socket went to another state.
    TcpState,
    /// A TCP connection was reset.
    Reset,
    /// A packet was dropped.
    Drop,
    /// shutdown() was called.
    Shutdown,
    /// A descriptor of a socket was given up.
    Close,
    /// The last reference to a socket was.
    Release,
    /// A packet came by one of the points that are watched.
    Packet,
}

/// What a source hangs on.
#[derive(Clone, Copy)]
pub(crate) struct Hook {
    id: u32,
    name: &'static CStr,
}

const fn hook(id: u32, name: &'static CStr) -> Hook {
    Hook { id, name }
}

impl Hook {
    /// Its name in the kernel.
    pub(crate) fn name(&self) -> &'static CStr {
        self.name
    }

    /// Whether it is a function; else a tracepoint.
    pub(crate) fn is_function(&self) -> bool {
        self.id >= bindings::RAVEL_TRACEPOINTS
    }

    fn tracepoint(&self) -> Option<NonNull<c_void>> {
        // SAFETY: The name is a string. Found are tracepoints of the kernel proper, which stay.
        NonNull::new(unsafe { bindings::ravel_tracepoint(self.name.as_char_ptr()) })
    }
}

/// The functions among hooks, as C wants them.
fn functions<'h>(hooks: impl Iterator<Item = &'h Hook>) -> Result<KVec<bindings::ravel_function>> {
    let mut functions = KVec::new();
    for hook in hooks.filter(|hook| hook.is_function()) {
        let function = bindings::ravel_function {
            name: hook.name.as_char_ptr(),
            hook: hook.id,
        };
        functions.push(function, gfp())?;
    }
    Ok(functions)
}

/// Which functions skb_release_head_state() is part of, where a compiler has put it into its callers.
const FREE_CALLERS: [Hook; 3] = [
    hook(bindings::RAVEL_HOOK_PACKET_FREE, c"skb_release_all"),
    hook(bindings::RAVEL_HOOK_PACKET_FREE, c"__kfree_skb"),
    hook(
        bindings::RAVEL_HOOK_PACKET_FREE_STOLEN,
        c"kfree_skb_partial",
    ),
];

/// Whether it has.
fn free_is_inlined() -> Result<bool> {
    // SAFETY: May be called by any process; may sleep.
    Ok(to_count(unsafe { bindings::ravel_free_is_inlined() })? != 0)
}

/// A number, or an errno.
fn to_count(result: ffi::c_int) -> Result<u64> {
    u64::try_from(result).map_err(|_| Error::from_errno(result))
}

impl Source {
    /// All of them.
    pub(crate) const ALL: [Self; bindings::RAVEL_EVENT_KINDS as usize] = [
        Self::Fork,
        Self::Exec,
        Self::Exit,
        Self::TcpState,
        Self::Reset,
        Self::Drop,
        Self::Shutdown,
        Self::Close,
        Self::Release,
        Self::Packet,
    ];

    /// Its name, and its events'.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::TcpState => "tcp_state",
            Self::Reset => "reset",
            Self::Drop => "drop",
            Self::Shutdown => "shutdown",
            Self::Close => "close",
            Self::Release => "release",
            Self::Packet => "packet",
        }
    }

    /// The source of that name.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|source| source.name().as_bytes() == name)
    }

    /// Everything that it hangs on.
    pub(crate) fn hooks(self) -> &'static [Hook] {
        match self {
            Self::Fork => &const { [hook(bindings::RAVEL_HOOK_FORK, c"sched_process_fork")] },
            Self::Exec => &const { [hook(bindings::RAVEL_HOOK_EXEC, c"sched_process_exec")] },
            Self::Exit => &const { [hook(bindings::RAVEL_HOOK_EXIT, c"sched_process_exit")] },
            Self::TcpState => {
                &const { [hook(bindings::RAVEL_HOOK_TCP_STATE, c"inet_sock_set_state")] }
            }
            Self::Reset => {
                &const {
                    [
                        hook(bindings::RAVEL_HOOK_RESET_SENT, c"tcp_send_reset"),
                        hook(bindings::RAVEL_HOOK_RESET_RECEIVED, c"tcp_receive_reset"),
                    ]
                }
            }
            Self::Drop => &const { [hook(bindings::RAVEL_HOOK_DROP, c"kfree_skb")] },
            Self::Shutdown => {
                &const {
                    [
                        hook(bindings::RAVEL_HOOK_SHUTDOWN, c"inet_shutdown"),
                        hook(bindings::RAVEL_HOOK_SHUTDOWN, c"unix_shutdown"),
                    ]
                }
            }
            Self::Close => &const { [hook(bindings::RAVEL_HOOK_CLOSE, c"locks_remove_posix")] },
            Self::Release => &const { [hook(bindings::RAVEL_HOOK_RELEASE, c"sock_close")] },
            Self::Packet => {
                &const {
                    [
                        hook(bindings::RAVEL_HOOK_PACKET_GRO, c"napi_gro_receive_entry"),
                        hook(bindings::RAVEL_HOOK_PACKET_GRO, c"napi_gro_frags_entry"),
                        hook(bindings::RAVEL_HOOK_PACKET_RECEIVE, c"netif_receive_skb"),
                        hook(bindings::RAVEL_HOOK_PACKET_COPY, c"skb_copy_datagram_iovec"),
                        hook(bindings::RAVEL_HOOK_PACKET_QUEUE, c"net_dev_queue"),
                        hook(bindings::RAVEL_HOOK_PACKET_TRANSMIT, c"net_dev_start_xmit"),
                        hook(bindings::RAVEL_HOOK_PACKET_CONSUME, c"consume_skb"),
                        hook(bindings::RAVEL_HOOK_PACKET_DROP, c"kfree_skb"),
                        hook(bindings::RAVEL_HOOK_PACKET_IP, c"ip_rcv"),
                        hook(bindings::RAVEL_HOOK_PACKET_IP, c"ipv6_rcv"),
                        hook(bindings::RAVEL_HOOK_PACKET_IP_LIST, c"ip_list_rcv"),
                        hook(bindings::RAVEL_HOOK_PACKET_IP_LIST, c"ipv6_list_rcv"),
                        hook(bindings::RAVEL_HOOK_PACKET_TRANSPORT, c"tcp_v4_rcv"),
                        hook(bindings::RAVEL_HOOK_PACKET_TRANSPORT, c"tcp_v6_rcv"),
                        hook(bindings::RAVEL_HOOK_PACKET_TRANSPORT, c"udp_rcv"),
                        hook(bindings::RAVEL_HOOK_PACKET_TRANSPORT, c"udpv6_rcv"),
                        hook(bindings::RAVEL_HOOK_PACKET_OUTPUT, c"ip_output"),
                        hook(bindings::RAVEL_HOOK_PACKET_OUTPUT, c"ip_mc_output"),
                        hook(bindings::RAVEL_HOOK_PACKET_OUTPUT, c"ip6_output"),
                        hook(bindings::RAVEL_HOOK_PACKET_COPY_UDP, c"skb_consume_udp"),
                        hook(bindings::RAVEL_HOOK_PACKET_FREE, c"skb_release_head_state"),
                    ]
                }
            }
        }
    }

    /// How many of these this kernel lacks, or does not let be probed.
    pub(crate) fn missing(self) -> Result<u64> {
        let tracepoints = self.hooks().iter().filter(|hook| !hook.is_function());
        let missing = tracepoints.filter(|hook| hook.tracepoint().is_none());
        let functions = functions(self.hooks().iter())?;
        // SAFETY: There are that many, and their names are strings.
        let functions = unsafe {
            bindings::ravel_functions_missing(functions.as_ptr(), functions.len() as u32)
        };
        Ok(missing.count() as u64 + to_count(functions)?)
    }

    /// The kind of its events.
    pub(crate) fn kind(self) -> u32 {
        match self {
            Self::Fork => bindings::RAVEL_EVENT_FORK,
            Self::Exec => bindings::RAVEL_EVENT_EXEC,
            Self::Exit => bindings::RAVEL_EVENT_EXIT,
            Self::TcpState => bindings::RAVEL_EVENT_TCP_STATE,
            Self::Reset => bindings::RAVEL_EVENT_RESET,
            Self::Drop => bindings::RAVEL_EVENT_DROP,
            Self::Shutdown => bindings::RAVEL_EVENT_SHUTDOWN,
            Self::Close => bindings::RAVEL_EVENT_CLOSE,
            Self::Release => bindings::RAVEL_EVENT_RELEASE,
            Self::Packet => bindings::RAVEL_EVENT_PACKET,
        }
    }

    /// Whether its events are about a socket or a packet.
    pub(crate) fn is_of_network(self) -> bool {
        !matches!(self, Self::Fork | Self::Exec | Self::Exit)
    }

    /// Whether its events say which process did it. The others happen to a socket, whoever runs just then.
    pub(crate) fn names_process(self) -> bool {
        !matches!(
            self,
            Self::TcpState | Self::Reset | Self::Drop | Self::Packet
        )
    }
}

/// The probes of a sink. Once this is dropped, none of them runs any more.
///
/// # Invariants
///
/// Each of the tracepoints, by its hook, has a probe that is registered with `sink`, which is kept.
pub(crate) struct Probes {
    tracepoints: KVec<(NonNull<c_void>, u32)>,
    /// Dropped before the sink is.
    _functions: Option<Functions>,
    sink: Arc<Sink>,
}

// SAFETY: Tracepoints are locked by the kernel, and probes may be unregistered from any thread.
unsafe impl Send for Probes {}

/// A sink is told of functions until this is dropped.
///
/// # Invariants
///
/// The sink is registered.
struct Functions(*mut c_void);

impl Functions {
    /// # Safety
    ///
    /// The sink lives until this is dropped. The functions' names are strings that stay, and each hook is that of such a
    /// function.
    unsafe fn register(sink: *mut c_void, functions: &[bindings::ravel_function]) -> Result<Self> {
        // SAFETY: There are that many; the rest is the caller's promise.
        to_result(unsafe {
            bindings::ravel_functions_register(sink, functions.as_ptr(), functions.len() as u32)
        })?;
        // INVARIANT: Just registered.
        Ok(Self(sink))
    }
}

impl Drop for Functions {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant; may sleep.
        unsafe { bindings::ravel_functions_unregister(self.0) };
    }
}

/// What probes of functions leave behind until the module goes; dropped after all [`Probes`].
pub(crate) struct Ftrace;

impl Drop for Ftrace {
    fn drop(&mut self) {
        // SAFETY: May be called at any time; may sleep.
        unsafe { bindings::ravel_functions_exit() };
    }
}

impl Probes {
    /// Has a sink told of its kinds of events from now on.
    ///
    /// Where its filter is a tree, `root` is that tree's: the processes that descend from it now are put in.
    /// `EOPNOTSUPP` where the kernel lacks a tracepoint or a function, or does not let it be probed.
    pub(crate) fn new(sink: Arc<Sink>, root: Option<&Process>) -> Result<Self> {
        let mut all = Self {
            tracepoints: KVec::new(),
            _functions: None,
            sink,
        };
        let mut hooks = KVec::new();
        for source in Source::ALL {
            // Forks tell what becomes of process numbers.
            let filters = source == Source::Fork && !matches!(all.sink.filter(), Filter::All);
            if all.sink.has_kind(source.kind()) || filters {
                hooks.extend_from_slice(source.hooks(), gfp())?;
            }
            if all.sink.has_kind(source.kind()) && source == Source::Packet && free_is_inlined()? {
                hooks.extend_from_slice(&FREE_CALLERS, gfp())?;
            }
        }
        for hook in hooks.iter().filter(|hook| !hook.is_function()) {
            all.add(hook)?;
        }
        if let (Filter::Tree(pids), Some(root)) = (all.sink.filter(), root) {
            // Forks are watched by now, so who is made meanwhile is not missed.
            pids.set(root.nr() as u32, true);
            root.mark_descendants(pids);
        }
        let functions = functions(hooks.iter())?;
        if !functions.is_empty() {
            // SAFETY: This has the sink, and drops what is registered before. Hooks have the names that are theirs.
            all._functions = Some(unsafe { Functions::register(all.raw_sink(), &functions) }?);
        }
        // Not before all watch: of what happens meanwhile, some would tell and others not.
        all.sink.open();
        Ok(all)
    }

    fn raw_sink(&self) -> *mut c_void {
        Arc::as_ptr(&self.sink).cast_mut().cast()
    }

    fn add(&mut self, hook: &Hook) -> Result {
        self.tracepoints.reserve(1, gfp())?;
        let tracepoint = hook.tracepoint().ok_or(EOPNOTSUPP)?;
        // SAFETY: The tracepoint is the hook's, and stays. The sink lives until the probe is unregistered and waited
        // for.
        to_result(unsafe {
            bindings::ravel_probe_register(tracepoint.as_ptr(), hook.id, self.raw_sink())
        })?;
        // INVARIANT: Just registered.
        Ok(self.tracepoints.push((tracepoint, hook.id), gfp())?)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for (tracepoint, hook) in &self.tracepoints {
            // SAFETY: By the type's invariant.
            unsafe {
                bindings::ravel_probe_unregister(tracepoint.as_ptr(), *hook, self.raw_sink());
            }
        }
        // SAFETY: May sleep, and may be called at any time.
        unsafe { bindings::ravel_probe_synchronize() };
    }
}
