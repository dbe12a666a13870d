// SPDX-License-Identifier: GPL-2.0
//! `ravel who`: everyone on the machine who holds a socket, compared with what the test itself shared out.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::peers::pair;
use crate::process::Child;
use crate::report::own_socket;
use crate::sys::{self, Pid};
use crate::{check, check_eq, tests};

mod addresses;
mod elsewhere;
mod hidden;
mod names;
pub use addresses::TESTS as ADDRESSES;
pub use elsewhere::TESTS as ELSEWHERE;
pub use hidden::TESTS as HIDDEN;
pub use names::TESTS as NAMES;

tests!("who":
    by_port_and_address,
    by_inode_with_the_other_end,
    by_path_and_abstract_name,
    messages_and_calls_under_way_are_told,
    nothing_found_is_said,
);

/// Its exit code.
fn code(words: &[&str]) -> Result<Option<i32>> {
    let out = Command::new(crate::module::beside("ravel")?)
        .arg("who")
        .args(words)
        .output()?;
    Ok(out.status.code())
}

fn run(words: &[&str]) -> Result<(bool, String, String)> {
    let out = Command::new(crate::module::beside("ravel")?)
        .arg("who")
        .args(words)
        .output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((out.status.success(), text(&out.stdout), text(&out.stderr)))
}

/// The sockets that are told.
fn who(socket: &str) -> Result<Vec<Value>> {
    let (well, out, err) = run(&["--json", socket])?;
    check!(well, "who {socket}: {err}");
    let answer: Value = serde_json::from_str(&out)?;
    let sockets = answer["sockets"].as_array().context("no sockets in it")?;
    Ok(sockets.clone())
}

/// (pid, descriptor) of each holder.
fn holders(list: &Value) -> Vec<(Pid, i32)> {
    let number = |value: &Value| value.as_i64().unwrap_or(-1) as i32;
    let list = list.as_array().into_iter().flatten();
    list.map(|holder| (number(&holder["pid"]), number(&holder["fd"])))
        .collect()
}

fn check_holders(told: &Value, mut want: Vec<(Pid, i32)>) -> Result<()> {
    want.sort_unstable();
    check_eq!(holders(&told["holders"]), want, "holders of {told}");
    check_eq!(told["unnamed"], 0, "references not named in {told}");
    check_eq!(
        told["others"],
        Value::Array(vec![]),
        "other holders in {told}"
    );
    Ok(())
}

fn by_port_and_address() -> Result<()> {
    let us = sys::getpid();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (fd, port) = (listener.as_raw_fd(), address.port());
    let child = Child::idle()?;
    let both = vec![(us, fd), (child.pid, fd)];
    for words in [port.to_string(), format!(":{port}"), address.to_string()] {
        let told = who(&words)?;
        check_eq!(told.len(), 1, "sockets of {words}: {told:?}");
        check_holders(&told[0], both.clone())?;
        check_eq!(told[0]["sk_state"], "listen", "state");
    }
    check!(!run(&[&format!("127.0.0.2:{port}")])?.0, "another address");
    // An accepted connection has the port as well; who connected is its other end.
    let client = TcpStream::connect(address)?;
    let (server, _) = listener.accept()?;
    let told = who(&port.to_string())?;
    check_eq!(told.len(), 2, "sockets: {told:?}");
    let accepted = told.iter().find(|told| told["sk_state"] == "established");
    let accepted = accepted.context("no connection")?;
    check_holders(accepted, vec![(us, server.as_raw_fd())])?;
    check_eq!(
        holders(&accepted["peer_holders"]),
        [(us, client.as_raw_fd())],
        "who connected"
    );
    let (_, text, _) = run(&[&port.to_string()])?;
    for holder in [(us, fd), (child.pid, fd), (us, client.as_raw_fd())] {
        let said = format!("{} fd {}", holder.0, holder.1);
        check!(text.contains(&said), "no {said:?} in {text}");
    }
    Ok(())
}

fn by_inode_with_the_other_end() -> Result<()> {
    let us = sys::getpid();
    let (one, two) = sys::socketpair(libc::SOCK_SEQPACKET)?;
    let child = Child::idle()?;
    let copy = two.try_clone()?;
    let inode = own_socket(&one)?.0.inode;
    for words in [format!("inode:{inode}"), format!("socket:[{inode}]")] {
        let told = who(&words)?;
        check_eq!(told.len(), 1, "sockets of {words}");
        let fd = one.as_raw_fd();
        check_holders(&told[0], vec![(us, fd), (child.pid, fd)])?;
        let mut want = vec![
            (us, two.as_raw_fd()),
            (us, copy.as_raw_fd()),
            (child.pid, two.as_raw_fd()),
        ];
        want.sort_unstable();
        check_eq!(holders(&told[0]["peer_holders"]), want, "other end");
    }
    Ok(())
}

fn by_path_and_abstract_name() -> Result<()> {
    let us = sys::getpid();
    let path = std::env::temp_dir().join(format!("ravel-test-who-{us}"));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    let client = UnixStream::connect(&path)?;
    let (server, _) = listener.accept()?;
    let path = path.to_str().context("not UTF-8")?;
    let told = who(path)?;
    std::fs::remove_file(path)?;
    check_eq!(told.len(), 2, "sockets: {told:?}");
    for told in &told {
        let (fd, peer): (_, &[_]) = match told["sk_state"] == "listen" {
            true => (listener.as_raw_fd(), &[]),
            false => (server.as_raw_fd(), &[(us, client.as_raw_fd())]),
        };
        check_holders(told, vec![(us, fd)])?;
        check_eq!(holders(&told["peer_holders"]), peer, "other end of {told}");
    }
    let name = format!("\0ravel-test who {us}");
    let socket = sys::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    sys::bind(&socket, &sys::Address::unix(name.as_bytes()))?;
    let told = who(&name.replace('\0', "@"))?;
    check_eq!(told.len(), 1, "sockets of an abstract name");
    check_holders(&told[0], vec![(us, socket.as_raw_fd())])
}

fn messages_and_calls_under_way_are_told() -> Result<()> {
    let us = sys::getpid();
    let (to, from): (OwnedFd, OwnedFd) = sys::socketpair(libc::SOCK_STREAM)?;
    let (sent, _peer) = pair()?;
    sys::send_descriptor(&to, &sent)?;
    let inode = own_socket(&sent)?.0.inode;
    let told = who(&format!("inode:{inode}"))?;
    check_eq!(told.len(), 1, "sockets");
    check_eq!(
        holders(&told[0]["holders"]),
        [(us, sent.as_raw_fd())],
        "descriptors"
    );
    check_eq!(
        holders(&told[0]["others"]),
        [(us, from.as_raw_fd())],
        "messages"
    );
    check_eq!(told[0]["others"][0]["holds"], "message", "how");
    check_eq!(told[0]["unnamed"], 0, "references not named");
    Ok(())
}

fn nothing_found_is_said() -> Result<()> {
    let (well, out, err) = run(&["inode:1"])?;
    check!(!well && out.is_empty(), "{out}");
    check!(
        err.contains("no socket has inode 1") && err.contains("try: "),
        "{err}"
    );
    check_eq!(
        code(&["inode:1"])?,
        Some(3),
        "exit code of what is not there"
    );
    for bad in ["", "x", "70000", "inode:x"] {
        let (well, _, err) = run(&[bad])?;
        check!(!well && err.contains("error: "), "{bad:?}: {err}");
    }
    Ok(())
}
