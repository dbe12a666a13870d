// SPDX-License-Identifier: GPL-2.0
//! Sockets of other network namespaces, and of the kernel itself.

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::peers::wait_for;
use super::super::stuck::elsewhere::{PORT, THERE, Wire, elsewhere, ip};
use super::{code, holders, run, who};
use crate::process::Child;
use crate::sys::{self, Pid};
use crate::{check, check_eq, tests};

tests!("who":
    port_of_several_namespaces_and_the_other_end,
    namespaces_are_named,
    namespace_that_only_a_socket_has,
    tunnels_of_the_kernel_are_named,
);

/// The inode of a task's network namespace.
fn netns(pid: Pid) -> Result<u64> {
    Ok(fs::metadata(format!("/proc/{pid}/ns/net"))?.ino())
}

fn of(told: &[Value], netns: u64, state: &str) -> Result<Value> {
    let found = told
        .iter()
        .find(|socket| socket["netns"] == netns && socket["sk_state"] == state);
    found
        .cloned()
        .with_context(|| format!("no {state} in {netns} of {told:?}"))
}

fn port_of_several_namespaces_and_the_other_end() -> Result<()> {
    // In the namespace of the tests, too.
    let here = TcpListener::bind(("0.0.0.0", PORT))?;
    let ours = sys::getpid();
    let host = netns(ours)?;
    let (fd, port) = (here.as_raw_fd(), PORT.to_string());
    elsewhere(move || {
        let us = sys::getpid();
        let mut wire = Wire::lay()?;
        let (stream, server) = wire.connect()?;
        let (near, far) = (netns(us)?, netns(wire.there.pid)?);
        let told = who(&port)?;
        // The scene's process has a copy of the listener of the tests.
        let listeners = of(&told, host, "listen")?;
        check!(
            holders(&listeners["holders"]).contains(&(ours, fd)),
            "{listeners}"
        );
        check_eq!(listeners["namespace"]["kind"], "host", "name of {host}");
        of(&told, far, "listen")?;
        let accepted = of(&told, far, "established")?;
        check_eq!(
            holders(&accepted["holders"]),
            [(wire.there.pid, server)],
            "server"
        );
        check_eq!(
            holders(&accepted["peer_holders"]),
            [(us, stream.as_raw_fd())],
            "client"
        );
        check_eq!(
            accepted["peer"]["namespace"]["inode"],
            near,
            "where the client is"
        );
        // The address is one of that namespace alone.
        let told = who(&format!("{THERE}:{PORT}"))?;
        check!(told.iter().all(|socket| socket["netns"] == far), "{told:?}");
        check_eq!(told[0]["order"], 1, "the listener receives");
        // And the other way about.
        let local = stream.local_addr()?;
        let told = who(&local.to_string())?;
        check_eq!(told.len(), 1, "sockets of {local}");
        check_eq!(
            holders(&told[0]["peer_holders"]),
            [(wire.there.pid, server)],
            "server"
        );
        // Each namespace has a loopback address of its own: here nothing is reached by it.
        check_eq!(code(&[&format!("127.0.0.1:{PORT}")])?, Some(3), "exit code");
        Ok(())
    })
}

fn namespaces_are_named() -> Result<()> {
    let name = format!("ravel-test-{}", sys::getpid());
    ip(&format!("netns add {name}"))?;
    let checked = (|| -> Result<()> {
        let path = format!("/run/netns/{name}");
        let inode = fs::metadata(&path)?.ino();
        ip(&format!("netns exec {name} ip link set lo up"))?;
        let mut server = Command::new("ip")
            .args(["netns", "exec", &name, "nc", "-l", "127.0.0.1", "7777"])
            .stdin(Stdio::null())
            .spawn()?;
        let mut told = Vec::new();
        let found = wait_for("a listener", || {
            told = match code(&["7777"])? {
                Some(0) => who("7777")?,
                _ => Vec::new(),
            };
            Ok(!told.is_empty())
        });
        let seen = found.and_then(|()| run(&["7777"]));
        server.kill()?;
        server.wait()?;
        let (_, text, _) = seen?;
        check_eq!(told[0]["netns"], inode, "namespace");
        check_eq!(told[0]["namespace"]["kind"], "mounted", "kind of name");
        check_eq!(told[0]["namespace"]["name"], name.as_str(), "name");
        check_eq!(holders(&told[0]["holders"]).len(), 1, "who");
        check!(text.lines().any(|line| line.starts_with(&name)), "{text}");
        // Without a process it is searched as well.
        check_eq!(code(&["7777"])?, Some(3), "exit code of a free port");
        Ok(())
    })();
    ip(&format!("netns del {name}"))?;
    checked
}

fn namespace_that_only_a_socket_has() -> Result<()> {
    // A child makes a namespace and a listener in it, passes the listener on, and exits.
    let (to, from) = sys::socketpair(libc::SOCK_STREAM)?;
    let mut child = Child::spawn(|link| {
        sys::unshare(libc::CLONE_NEWNET)?;
        sys::loopback_up()?;
        let listener = TcpListener::bind("127.0.0.1:7778")?;
        let left = netns(sys::getpid())?;
        sys::send_descriptor(&to, &listener)?;
        link.send(&left.to_string())
    })?;
    let inode: u64 = child.link.recv()?.parse()?;
    child.join()?;
    let message = sys::recv_message(&from, 0)?;
    let rights = message
        .control(libc::SOL_SOCKET, libc::SCM_RIGHTS)
        .context("no descriptor came")?;
    let fd = i32::from_ne_bytes(rights[..4].try_into()?);
    let listener = sys::file_from(fd);
    // Else the command would have it, too.
    sys::keep_over_exec(&listener, false)?;
    let told = who("7778")?;
    check_eq!(told.len(), 1, "sockets: {told:?}");
    check_eq!(told[0]["netns"], inode, "namespace");
    check_eq!(
        holders(&told[0]["holders"]),
        [(sys::getpid(), listener.as_raw_fd())],
        "who"
    );
    Ok(())
}

fn tunnels_of_the_kernel_are_named() -> Result<()> {
    elsewhere(|| {
        sys::unshare(libc::CLONE_NEWNET)?;
        sys::loopback_up()?;
        ip("link add vx0 type vxlan id 42 dstport 8472 local 127.0.0.1")?;
        ip("link set vx0 up")?;
        ip("link add wg0 type wireguard")?;
        ip("link set wg0 up")?;
        let here = netns(sys::getpid())?;
        let told = who("8472")?;
        check_eq!(told.len(), 1, "sockets: {told:?}");
        check_eq!(told[0]["kernel"]["kind"], "vxlan", "what it is");
        check_eq!(told[0]["kernel"]["name"], "vx0", "device");
        check_eq!(told[0]["netns"], here, "namespace");
        check_eq!(holders(&told[0]["holders"]), [], "descriptors");
        check_eq!(code(&["8472"])?, Some(0), "exit code");
        // WireGuard chooses its port: the other one that ss lists.
        let ss = Command::new("ss").args(["-lunH"]).output()?;
        let text = String::from_utf8_lossy(&ss.stdout).into_owned();
        let ports = text
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3)?.rsplit_once(':'));
        let port = ports.map(|(_, port)| port).find(|port| *port != "8472");
        let port = port.with_context(|| format!("no port in {text}"))?;
        for told in who(port)? {
            check_eq!(told["kernel"]["kind"], "wireguard", "what it is");
            check_eq!(told["kernel"]["name"], "wg0", "device");
        }
        Ok(())
    })
}
