//! All sockets of the machine, of every network namespace, and everything that has or uses each.
//!
//! The kernel's own lists come first (sock_diag in each namespace, /proc/net where that is
//! missing); then the descriptors of all processes, and of threads that have tables of their own,
//! are attached. Nothing is locked from one list to the next: a socket that is made or closed
//! meanwhile may be missed, or be found without an owner.

pub mod address;
pub mod calls;
mod diag;
pub mod holders;
pub mod kernel;
mod netlink;
pub mod netns;
pub mod paths;
pub mod peers;
mod procnet;
pub mod queues;
pub mod socket;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use ravel_records::Protocol;
use serde::Serialize;

use crate::proc::{Proc, Subject, Unread};
use holders::Holders;
use kernel::Device;
use netlink::Netlink;
use netns::{Name, Namespace, Namespaces};
use procnet::Translated;
use socket::Sock;

/// A network namespace, as answers name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Its inode.
    pub inode: u64,
    /// Its name.
    #[serde(flatten)]
    pub name: Name,
    /// A process that is in it.
    pub pid: Option<u32>,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Census {
    /// All sockets.
    pub socks: Vec<Sock>,
    /// The places in `socks` of each inode.
    places: BTreeMap<u64, Vec<usize>>,
    /// Who has descriptors.
    pub holders: Holders,
    /// The namespaces.
    pub namespaces: Namespaces,
    /// Inode of the namespace of this program.
    pub here: u64,
    /// The devices of each namespace.
    pub devices: BTreeMap<u64, Vec<Device>>,
    /// What could not be read.
    pub unread: Unread,
}

/// What one namespace has.
#[derive(Default)]
struct Listed {
    socks: Vec<Sock>,
    devices: Vec<Device>,
    gaps: Vec<String>,
}

impl Census {
    /// Takes the census of this machine.
    pub fn take(proc: &Proc) -> io::Result<Self> {
        let mut census = Self::default();
        let (namespaces, unread) = (&mut census.namespaces, &mut census.unread);
        let own = Namespace::open(Path::new("/proc/self/ns/net"), None)?;
        census.here = own.inode;
        namespaces.insert(own.inode, own);
        census.holders = Holders::scan(proc, namespaces, unread)?;
        netns::add_mounted(namespaces, proc, &census.holders.roots);
        census.list();
        // Sockets may be the only ones that have a namespace.
        let strangers = census.strangers(proc);
        if !strangers.is_empty() {
            census.namespaces.extend(strangers);
            census.list();
        }
        netns::name(&mut census.namespaces, proc);
        Ok(census)
    }

    /// Lists the sockets of the namespaces that are not listed yet.
    fn list(&mut self) {
        for (inode, namespace) in &self.namespaces {
            if self.devices.contains_key(inode) {
                continue;
            }
            let listed = namespace.enter(|| list(*inode));
            let pid = namespace.pid.unwrap_or(0);
            let listed = listed.unwrap_or_else(|error| Listed {
                gaps: vec![format!("cannot enter it: {error}")],
                ..Listed::default()
            });
            for gap in listed.gaps {
                self.unread.add(Subject::Namespace, pid, gap);
            }
            self.devices.insert(*inode, listed.devices);
            for sock in listed.socks {
                if sock.inode != 0 {
                    let places = self.places.entry(sock.inode).or_default();
                    places.push(self.socks.len());
                }
                self.socks.push(sock);
            }
        }
        self.mark_subflows();
    }

    /// The namespaces of sockets that some process has and no namespace that is known lists.
    fn strangers(&self, proc: &Proc) -> Namespaces {
        let mut found = Namespaces::new();
        for (inode, held) in &self.holders.descriptors {
            if self.places.contains_key(inode) {
                continue;
            }
            // Of a family that no list has, or of a namespace in which no process is.
            let Some(one) = held.first() else {
                continue;
            };
            let namespace = one.namespace(proc);
            found.extend(
                namespace
                    .filter(|namespace| !self.namespaces.contains_key(&namespace.inode))
                    .map(|namespace| (namespace.inode, namespace)),
            );
        }
        found
    }

    /// Marks the TCP sockets that have the inode of an MPTCP socket: listeners do not say what they
    /// are.
    fn mark_subflows(&mut self) {
        let is_mptcp = |sock: &&Sock| sock.protocol == Protocol::Mptcp;
        let inodes: Vec<u64> = self
            .socks
            .iter()
            .filter(is_mptcp)
            .map(|sock| sock.inode)
            .filter(|inode| *inode != 0)
            .collect();
        for inode in inodes {
            for at in self.places.get(&inode).into_iter().flatten() {
                let sock = &mut self.socks[*at];
                sock.is_subflow |= sock.protocol == Protocol::Tcp;
            }
        }
    }

    /// The sockets with an inode.
    pub fn with_inode(&self, inode: u64) -> &[usize] {
        self.places.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// How a namespace is named.
    pub fn place(&self, netns: u64) -> Place {
        let known = self.namespaces.get(&netns);
        Place {
            inode: netns,
            name: known.map(|known| known.name.clone()).unwrap_or_default(),
            pid: known.and_then(|known| known.pid),
        }
    }

    /// Whether an address is one of a namespace's own, so that what is sent there from within stays
    /// in it.
    pub fn is_local(&self, netns: u64, ip: IpAddr, device: Option<u32>) -> io::Result<bool> {
        let Some(namespace) = self.namespaces.get(&netns) else {
            return Ok(false);
        };
        namespace.enter(|| is_local(ip, device))?
    }

    /// The connections of a namespace that are translated.
    fn translated(&self, netns: u64) -> io::Result<Vec<Translated>> {
        match self.namespaces.get(&netns) {
            Some(namespace) => namespace.enter(procnet::translated)?,
            None => Ok(Vec::new()),
        }
    }
}

/// Lists the sockets of the namespace that this thread is in.
fn list(netns: u64) -> Listed {
    let mut listed = Listed::default();
    let mut diag = Netlink::new(NETLINK_SOCK_DIAG);
    let has_sctp = procnet::has_sctp();
    for of in &diag::PROTOCOLS {
        let protocol = &of.0;
        if *protocol == Protocol::Sctp && !has_sctp {
            continue;
        }
        let socks = match &mut diag {
            Ok(diag) => diag::inet(diag, netns, of),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        let socks = socks.or_else(|error| match protocol {
            Protocol::Tcp => procnet::tcp(netns),
            Protocol::Udp => procnet::udp(netns),
            // A kernel without the protocol has none of its sockets.
            _ if is_missing(&error) => Ok(Vec::new()),
            _ => Err(error),
        });
        listed.add(protocol.as_str(), socks);
    }
    let socks = match &mut diag {
        Ok(diag) => diag::unix(diag, netns),
        Err(error) => Err(io::Error::other(error.to_string())),
    };
    listed.add("unix", socks.or_else(|_| procnet::unix(netns)));
    listed.add("/proc/net", procnet::others(netns));
    if let Ok(diag) = diag {
        if diag.unparsed > 0 {
            listed.gaps.push(format!(
                "{} entries of sock_diag have another form",
                diag.unparsed
            ));
        }
    }
    match devices() {
        Ok(devices) => listed.devices = devices,
        Err(error) => listed.gaps.push(format!("its devices: {error}")),
    }
    listed
}

impl Listed {
    fn add(&mut self, what: &str, socks: io::Result<Vec<Sock>>) {
        match socks {
            Ok(socks) => self.socks.extend(socks),
            Err(error) => self.gaps.push(format!("its {what} sockets: {error}")),
        }
    }
}

/// Whether an error means that the kernel has no such protocol, or no list of its sockets.
fn is_missing(error: &io::Error) -> bool {
    let missing = [
        rustix::io::Errno::NOENT,
        rustix::io::Errno::OPNOTSUPP,
        rustix::io::Errno::INVAL,
    ];
    missing
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn devices() -> io::Result<Vec<Device>> {
    let mut devices = kernel::devices(&mut Netlink::new(NETLINK_ROUTE)?)?;
    kernel::add_wireguard(&mut Netlink::new(NETLINK_GENERIC)?, &mut devices)?;
    Ok(devices)
}

/// Whether the namespace that this thread is in delivers an address to itself.
fn is_local(ip: IpAddr, device: Option<u32>) -> io::Result<bool> {
    let ip = ip.to_canonical();
    let mut request = RouteMessage::default();
    request.header.address_family = match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    request.header.destination_prefix_length = if ip.is_ipv4() { 32 } else { 128 };
    let target = RouteAttribute::Destination(RouteAddress::from(ip));
    request.attributes.push(target);
    request.attributes.extend(device.map(RouteAttribute::Oif));
    let mut is_local = false;
    let request = RouteNetlinkMessage::GetRoute(request);
    let asked = Netlink::new(NETLINK_ROUTE)?.ask(0, request, |message| {
        if let RouteNetlinkMessage::NewRoute(route) = message {
            let kinds = [RouteType::Local, RouteType::Anycast];
            is_local = kinds.contains(&route.header.kind);
        }
    });
    match asked {
        Ok(()) => Ok(is_local),
        // There is no way to it.
        Err(error) if is_unreachable(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_unreachable(error: &io::Error) -> bool {
    let unreachable = [
        rustix::io::Errno::NETUNREACH,
        rustix::io::Errno::HOSTUNREACH,
        rustix::io::Errno::ACCESS,
        rustix::io::Errno::INVAL,
        rustix::io::Errno::NODEV,
    ];
    unreachable
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
