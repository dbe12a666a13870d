// SPDX-License-Identifier: GPL-2.0

//! Tracepoints and functions of the kernel, found by name, and the probes that hang on them while a
//! stream asks for it.
//!
//! C headers: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h),
//! [`include/linux/ftrace.h`](srctree/include/linux/ftrace.h)

use crate::bindings;
use crate::object::trace::event::{hook, kind};
use crate::object::{
    compat::EOPNOTSUPP,
    gfp,
    process::Process,
    trace::{
        functions::{self, Listening},
        net_probes, packet_probes,
        sink::{Filter, Sink},
        task,
    },
};
use core::{
    ffi::c_void,
    ptr::{self, NonNull},
};
use kernel::{error::to_result, prelude::*, str::CStrExt, sync::Arc};

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
        self.id >= hook::TRACEPOINTS
    }

    /// Finds its tracepoint, among those of the kernel proper: they never go away.
    fn tracepoint(&self) -> Option<NonNull<bindings::tracepoint>> {
        let mut search = Search {
            name: self.name,
            found: None,
        };
        // SAFETY: The callback gets the search, which nobody else uses meanwhile.
        unsafe {
            bindings::for_each_kernel_tracepoint(Some(compare), (&raw mut search).cast());
        }
        search.found
    }

    /// Returns what is called for it, if it is a function: an [`Enter`](functions::Enter).
    pub(super) fn enter(&self) -> *const () {
        net_probes::enter(self.id)
            .or_else(|| packet_probes::enter(self.id))
            .map_or(ptr::null(), |enter| enter as *const ())
    }

    /// Returns its probe, if it is a tracepoint.
    fn probe(&self) -> *mut c_void {
        match self.id {
            hook::FORK => task::fork as *const () as *mut c_void,
            hook::EXEC => task::exec as *const () as *mut c_void,
            hook::EXIT => task::exit as *const () as *mut c_void,
            hook => net_probes::probe(hook)
                .or_else(|| packet_probes::probe(hook))
                .map_or(ptr::null_mut(), |probe| probe.cast_mut().cast()),
        }
    }
}

/// A search for a tracepoint.
struct Search {
    name: &'static CStr,
    found: Option<NonNull<bindings::tracepoint>>,
}

/// # Safety
///
/// `tracepoint` is one, and `search` a [`Search`] that nobody else uses.
unsafe extern "C" fn compare(tracepoint: *mut bindings::tracepoint, search: *mut c_void) {
    // SAFETY: By this function's contract; a tracepoint's name is a string.
    let (search, name) = unsafe {
        (
            &mut *search.cast::<Search>(),
            CStr::from_char_ptr((*tracepoint).name),
        )
    };
    if name == search.name {
        search.found = NonNull::new(tracepoint);
    }
}

/// Returns the functions among hooks.
fn functions<'h>(hooks: impl Iterator<Item = &'h Hook>) -> Result<KVec<Hook>> {
    let mut functions = KVec::new();
    for hook in hooks.filter(|hook| hook.is_function()) {
        functions.push(*hook, gfp())?;
    }
    Ok(functions)
}

/// Which functions skb_release_head_state() is part of, where a compiler has put it into its
/// callers.
const FREE_CALLERS: [Hook; 3] = [
    hook(hook::PACKET_FREE, c"skb_release_all"),
    hook(hook::PACKET_FREE, c"__kfree_skb"),
    hook(hook::PACKET_FREE_STOLEN, c"kfree_skb_partial"),
];

/// The function itself.
const FREE: Hook = hook(hook::PACKET_FREE, c"skb_release_head_state");

impl Source {
    /// All of them.
    pub(crate) const ALL: [Self; kind::COUNT as usize] = [
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
            Self::Fork => &const { [hook(hook::FORK, c"sched_process_fork")] },
            Self::Exec => &const { [hook(hook::EXEC, c"sched_process_exec")] },
            Self::Exit => &const { [hook(hook::EXIT, c"sched_process_exit")] },
            Self::TcpState => &const { [hook(hook::TCP_STATE, c"inet_sock_set_state")] },
            Self::Reset => {
                &const {
                    [
                        hook(hook::RESET_SENT, c"tcp_send_reset"),
                        hook(hook::RESET_ACTIVE, c"tcp_send_active_reset"),
                        hook(hook::RESET_RECEIVED, c"tcp_receive_reset"),
                    ]
                }
            }
            Self::Drop => &const { [hook(hook::DROP, c"kfree_skb")] },
            Self::Shutdown => {
                &const {
                    [
                        hook(hook::SHUTDOWN, c"inet_shutdown"),
                        hook(hook::SHUTDOWN, c"unix_shutdown"),
                    ]
                }
            }
            Self::Close => &const { [hook(hook::CLOSE, c"locks_remove_posix")] },
            Self::Release => &const { [hook(hook::RELEASE, c"sock_close")] },
            Self::Packet => {
                &const {
                    [
                        hook(hook::PACKET_GRO, c"napi_gro_receive_entry"),
                        hook(hook::PACKET_GRO, c"napi_gro_frags_entry"),
                        hook(hook::PACKET_RECEIVE, c"netif_receive_skb"),
                        hook(hook::PACKET_COPY, c"skb_copy_datagram_iovec"),
                        hook(hook::PACKET_QUEUE, c"net_dev_queue"),
                        hook(hook::PACKET_TRANSMIT, c"net_dev_start_xmit"),
                        hook(hook::PACKET_CONSUME, c"consume_skb"),
                        hook(hook::PACKET_DROP, c"kfree_skb"),
                        hook(hook::PACKET_IP, c"ip_rcv"),
                        hook(hook::PACKET_IP, c"ipv6_rcv"),
                        hook(hook::PACKET_IP_LIST, c"ip_list_rcv"),
                        hook(hook::PACKET_IP_LIST, c"ipv6_list_rcv"),
                        hook(hook::PACKET_TRANSPORT, c"tcp_v4_rcv"),
                        hook(hook::PACKET_TRANSPORT, c"tcp_v6_rcv"),
                        hook(hook::PACKET_TRANSPORT, c"udp_rcv"),
                        hook(hook::PACKET_TRANSPORT, c"udpv6_rcv"),
                        hook(hook::PACKET_OUTPUT, c"ip_output"),
                        hook(hook::PACKET_OUTPUT, c"ip_mc_output"),
                        hook(hook::PACKET_OUTPUT, c"ip6_output"),
                        hook(hook::PACKET_COPY_UDP, c"skb_consume_udp"),
                        FREE,
                    ]
                }
            }
        }
    }

    /// How many of these this kernel lacks, or does not let be probed.
    pub(crate) fn missing(self) -> Result<u64> {
        let tracepoints = self.hooks().iter().filter(|hook| !hook.is_function());
        let missing = tracepoints.filter(|hook| hook.tracepoint().is_none());
        let functions = functions::missing(&functions(self.hooks().iter())?)?;
        Ok(missing.count().saturating_add(functions) as u64)
    }

    /// The kind of its events.
    pub(crate) fn kind(self) -> u32 {
        match self {
            Self::Fork => kind::FORK,
            Self::Exec => kind::EXEC,
            Self::Exit => kind::EXIT,
            Self::TcpState => kind::TCP_STATE,
            Self::Reset => kind::RESET,
            Self::Drop => kind::DROP,
            Self::Shutdown => kind::SHUTDOWN,
            Self::Close => kind::CLOSE,
            Self::Release => kind::RELEASE,
            Self::Packet => kind::PACKET,
        }
    }

    /// Whether its events are about a socket or a packet.
    pub(crate) fn is_of_network(self) -> bool {
        !matches!(self, Self::Fork | Self::Exec | Self::Exit)
    }

    /// Whether its events say which process did it. The others happen to a socket, whoever runs
    /// just then.
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
/// Each of the tracepoints has its hook's probe, which is registered with `sink`, which is kept.
pub(crate) struct Probes {
    tracepoints: KVec<(NonNull<bindings::tracepoint>, Hook)>,
    /// Dropped before the sink is.
    _functions: Option<Listening>,
    sink: Arc<Sink>,
}

// SAFETY: Tracepoints are locked by the kernel, and probes may be unregistered from any thread.
unsafe impl Send for Probes {}

impl Probes {
    /// Makes a sink receive its kinds of events from now on.
    ///
    /// Where its filter is a tree, `root` is that tree's: the processes that descend from it now
    /// are put in. `EOPNOTSUPP` where the kernel lacks a tracepoint or a function, or does not let
    /// it be probed.
    pub(crate) fn new(sink: Arc<Sink>, root: Option<&Process>) -> Result<Self> {
        let mut all = Self {
            tracepoints: KVec::new(),
            _functions: None,
            sink,
        };
        let mut hooks = KVec::new();
        for source in Source::ALL {
            // Forks show which process a number belongs to.
            let filters = source == Source::Fork && !matches!(all.sink.filter(), Filter::All);
            if all.sink.has_kind(source.kind()) || filters {
                hooks.extend_from_slice(source.hooks(), gfp())?;
            }
            if all.sink.has_kind(source.kind())
                && source == Source::Packet
                && functions::is_inlined(FREE)?
            {
                hooks.extend_from_slice(&FREE_CALLERS, gfp())?;
            }
        }
        for hook in hooks.iter().filter(|hook| !hook.is_function()) {
            all.add(hook)?;
        }
        if let (Filter::Tree(pids), Some(root)) = (all.sink.filter(), root) {
            // Forks are watched by now, so who is made meanwhile is not missed.
            pids.set(root.nr() as u32, true);
            task::mark_descendants(root, pids);
        }
        let functions = functions(hooks.iter())?;
        if !functions.is_empty() {
            // SAFETY: This has the sink, and drops what is registered before.
            all._functions = Some(unsafe { Listening::new(all.raw_sink(), &functions) }?);
        }
        // Not before all watch: of what happens meanwhile, some would be recorded and some not.
        all.sink.open();
        Ok(all)
    }

    fn raw_sink(&self) -> *mut c_void {
        Arc::as_ptr(&self.sink).cast_mut().cast()
    }

    fn add(&mut self, hook: &Hook) -> Result {
        self.tracepoints.reserve(1, gfp())?;
        let tracepoint = hook.tracepoint().ok_or(EOPNOTSUPP)?;
        // SAFETY: The tracepoint is the hook's, as its probe is, and stays. The sink lives until
        // the probe is unregistered and waited for.
        to_result(unsafe {
            bindings::tracepoint_probe_register(tracepoint.as_ptr(), hook.probe(), self.raw_sink())
        })?;
        // INVARIANT: Just registered.
        Ok(self.tracepoints.push((tracepoint, *hook), gfp())?)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for (tracepoint, hook) in &self.tracepoints {
            // SAFETY: By the type's invariant.
            unsafe {
                bindings::tracepoint_probe_unregister(
                    tracepoint.as_ptr(),
                    hook.probe(),
                    self.raw_sink(),
                );
            }
        }
        // Waits until none runs any more.
        // SAFETY: May sleep, and may be called at any time.
        unsafe { bindings::tracepoint_synchronize_unregister() };
    }
}
