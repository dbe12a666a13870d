//! What the kernel itself has sockets for: tunnel devices, and file systems and services of the
//! network.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_generic::GenlMessage;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoGeneve, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_wireguard::nlas::WgDeviceAttrs;
use netlink_packet_wireguard::{Wireguard, WireguardCmd};
use ravel_records::{Protocol, visible};
use serde::Serialize;

use super::netlink::Netlink;
use super::socket::Sock;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind, if it is one of software.
    pub kind: String,
    /// The UDP port that it receives at.
    pub port: Option<u16>,
}

/// A part of the kernel that has a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelOwner {
    /// What it is, such as `vxlan` or `nfs`.
    pub kind: String,
    /// Its name: that of a device, or where a file system is mounted.
    pub name: Option<String>,
    /// It was found by elimination: nothing else is known to have the socket.
    pub is_inferred: bool,
}

/// The devices of the namespace of a connection to rtnetlink. Of tunnels, the port is that of their
/// configuration.
pub fn devices(route: &mut Netlink) -> io::Result<Vec<Device>> {
    let mut found = Vec::new();
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    route.ask(NLM_F_DUMP, request, |message| {
        if let RouteNetlinkMessage::NewLink(link) = message {
            found.push(device(&link));
        }
    })?;
    Ok(found)
}

fn device(link: &LinkMessage) -> Device {
    let mut found = Device {
        index: link.header.index,
        name: String::new(),
        kind: String::new(),
        port: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(InfoKind::Other(kind)) => found.kind.clone_from(kind),
                        LinkInfo::Kind(kind) => found.kind = kind.to_string(),
                        LinkInfo::Data(InfoData::Vxlan(data)) => {
                            found.port = data.iter().find_map(|of| match of {
                                InfoVxlan::Port(port) => Some(*port),
                                _ => None,
                            });
                        }
                        LinkInfo::Data(InfoData::Geneve(data)) => {
                            found.port = data.iter().find_map(|of| match of {
                                InfoGeneve::Port(port) => Some(*port),
                                _ => None,
                            });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// Adds the ports of WireGuard's devices, which rtnetlink does not report.
pub fn add_wireguard(generic: &mut Netlink, devices: &mut [Device]) -> io::Result<()> {
    let is_wireguard = |device: &&mut Device| device.kind == "wireguard";
    let mut devices: Vec<&mut Device> = devices.iter_mut().filter(is_wireguard).collect();
    if devices.is_empty() {
        return Ok(());
    }
    let mut family = None;
    let mut request = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("wireguard".to_owned())],
    });
    request.finalize();
    generic.ask(0, request, |message: GenlMessage<GenlCtrl>| {
        family = message.payload.nlas.iter().find_map(|of| match of {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
    })?;
    let family = family.ok_or_else(|| io::Error::other("WireGuard has no netlink family"))?;
    for device in &mut devices {
        let mut request = GenlMessage::from_payload(Wireguard {
            cmd: WireguardCmd::GetDevice,
            nlas: vec![WgDeviceAttrs::IfName(device.name.clone())],
        });
        request.set_resolved_family_id(family);
        request.finalize();
        let asked = generic.ask(NLM_F_DUMP, request, |message: GenlMessage<Wireguard>| {
            let port = message.payload.nlas.iter().find_map(|of| match of {
                WgDeviceAttrs::ListenPort(port) => Some(*port),
                _ => None,
            });
            device.port = device.port.or(port.filter(|port| *port != 0));
        });
        // The device may have been removed meanwhile.
        if let Err(error) = asked {
            if error.raw_os_error() != Some(rustix::io::Errno::NODEV.raw_os_error()) {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// The device that receives at a socket's port.
pub fn tunnel(sock: &Sock, devices: &[Device]) -> Option<KernelOwner> {
    if sock.protocol != Protocol::Udp {
        return None;
    }
    let device = devices
        .iter()
        .find(|of| of.port.is_some() && of.port == sock.port())?;
    Some(KernelOwner {
        kind: device.kind.clone(),
        name: Some(visible(&device.name)),
        is_inferred: false,
    })
}

/// Services of the kernel that listen at a port of their own: their names, the ports, and the
/// kernel threads that they have.
const SERVICES: [(&str, u16, &str); 5] = [
    ("nfsd", 2049, "nfsd"),
    ("lockd", 0, "lockd"),
    ("ksmbd", 445, "ksmbd"),
    ("iscsi", 3260, "iscsi_np"),
    ("dlm", 21064, "dlm_"),
];

/// The service of the kernel that a socket is likely to belong to, by its port and the names of
/// threads.
pub fn service(sock: &Sock, threads: &[String]) -> Option<KernelOwner> {
    let port = sock.port()?;
    let is_there = |name: &str| threads.iter().any(|thread| thread.starts_with(name));
    let (kind, ..) = SERVICES
        .iter()
        .find(|(_, own, thread)| *own == port && is_there(thread))?;
    Some(KernelOwner {
        kind: (*kind).to_owned(),
        name: None,
        is_inferred: true,
    })
}

/// A file system of the network, of a line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    kind: String,
    server: IpAddr,
    target: String,
}

/// The file systems of the network that a mountinfo lists with their server's address.
pub fn mounts(mountinfo: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let target = line.split(' ').nth(4)?.to_owned();
        let mut rest = line.split_once(" - ")?.1.split(' ');
        let kind = rest.next()?.to_owned();
        let options = rest.nth(1)?;
        let is_ours = matches!(kind.as_str(), "nfs" | "nfs4" | "cifs" | "smb3" | "ceph");
        let server = options.split(',').find_map(|of| of.strip_prefix("addr="))?;
        let server = server.parse().ok()?;
        is_ours.then_some(Mount {
            kind,
            server,
            target,
        })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// The file system that a connection to its server is likely to belong to.
pub fn file_system(sock: &Sock, mounts: &[Mount]) -> Option<KernelOwner> {
    let remote = sock.ends?.remote?.ip().to_canonical();
    let mount = mounts.iter().find(|mount| mount.server == remote)?;
    Some(KernelOwner {
        kind: mount.kind.clone(),
        name: Some(visible(&mount.target)),
        is_inferred: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_with_a_server() {
        let text = "40 26 0:40 / /mnt/a rw shared:1 - nfs4 server:/a rw,vers=4.2,\
                    addr=10.0.0.9,clientaddr=10.0.0.1\n\
                    41 26 0:41 / /b rw - ext4 /dev/sda rw\n\
                    42 26 0:42 / /c rw - cifs //s/c rw,addr=fd00::9\n";
        let found = mounts(text);
        let found: Vec<_> = found
            .iter()
            .map(|mount| {
                (
                    mount.kind.as_str(),
                    mount.server.to_string(),
                    mount.target.as_str(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("nfs4", "10.0.0.9".to_owned(), "/mnt/a"),
                ("cifs", "fd00::9".to_owned(), "/c"),
            ]
        );
    }
}
