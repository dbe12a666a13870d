/* SPDX-License-Identifier: GPL-2.0 */

/*
 * The kernel's headers: for helpers, for bindgen, which generates what the kernel crate lacks or
 * has as opaque types, and for the checks of layouts.
 */

#include <linux/anon_inodes.h>
#include <linux/audit.h>
#include <linux/binfmts.h>
#include <linux/cgroup.h>
#include <linux/cgroup_namespace.h>
#include <linux/cred.h>
#include <linux/errqueue.h>
#include <linux/etherdevice.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/filelock.h>
#include <linux/fs.h>
#include <linux/ftrace.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_vlan.h>
#include <linux/hrtimer.h>
#include <linux/io_uring_types.h>
#include <linux/ipc_namespace.h>
#include <linux/irq_work.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/percpu-refcount.h>
#include <linux/mm.h>
#include <linux/page-flags.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/mmap_lock.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/nsproxy.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/poll.h>
#include <linux/rmap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/skbuff.h>
#include <linux/skmsg.h>
#include <linux/swap.h>
/* Before 7.3, it needs swap.h first. */
#include <linux/leafops.h>
#include <linux/tcp.h>
#include <linux/time_namespace.h>
#include <linux/tracepoint.h>
#include <linux/udp.h>
#include <linux/user_namespace.h>
#include <linux/utsname.h>
#include <net/af_unix.h>
#include <net/af_vsock.h>
#include <net/dropreason.h>
#include <net/inet6_hashtables.h>
#include <net/inet_common.h>
#include <net/inet_connection_sock.h>
#include <net/inet_hashtables.h>
#include <net/inet_sock.h>
#include <net/ip.h>
#include <net/ip6_route.h>
#include <net/ipv6.h>
#include <net/net_namespace.h>
#include <net/request_sock.h>
#include <net/rstreason.h>
#include <net/scm.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/udp.h>
#include <trace/events/napi.h>
#include <trace/events/net.h>
#include <trace/events/skb.h>
#include <trace/events/sock.h>
#include <trace/events/tcp.h>


/* See unwatched.c. */
void ravel_nobody_watches(void);

/* A constant that bindgen cannot read from its macro. */
static const unsigned long RAVEL_THREAD_SIZE = THREAD_SIZE;
