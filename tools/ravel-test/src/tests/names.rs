// SPDX-License-Identifier: GPL-2.0
//! Report sockets: addresses and unix names.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::Result;
use ravel_records::{SkState, SocketState};

use super::anon::Folder;
use crate::report::{detail, own_socket, socket, sockets};
use crate::sys::{self, Address};
use crate::{check_eq, tests};

tests!("names":
    unix_names,
    unix_peers_names,
    inet_addresses,
);

fn unix_names() -> Result<()> {
    let folder = Folder::new()?;
    let path = |name: &[u8]| {
        let mut path = folder.path().as_os_str().as_encoded_bytes().to_vec();
        path.push(b'/');
        path.extend_from_slice(name);
        path
    };
    let mut longest = path(b"");
    longest.resize(107, b'x');
    let names = [
        path(b"plain"),
        path(b"two words \"quoted\" \\ = ' @"),
        path(b"new\nline \xff\xfe"),
        longest,
        b"\0abstract".to_vec(),
        b"\0with\0zeros\0 and \"quotes\" \\\n\xff".to_vec(),
        b"\0@".to_vec(),
        [b"\0".as_slice(), &[b'a'; 107]].concat(),
    ];
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        for name in &names {
            let fd = sys::socket(libc::AF_UNIX, kind, 0)?;
            sys::bind(&fd, &Address::unix(name))?;
            let (_, detail) = own_socket(&fd)?;
            let mut want = name.clone();
            if want[0] == 0 {
                want[0] = b'@';
            } else {
                fs::remove_file(std::str::from_utf8(name).map_or_else(
                    |_| std::path::PathBuf::from(os_string(name)),
                    std::path::PathBuf::from,
                ))?;
            }
            let shown = String::from_utf8_lossy(name);
            check_eq!(detail.local.as_bytes(), want, "local name of {shown:?}");
            check_eq!(detail.remote, "", "remote name of {shown:?}");
        }
        let fd = sys::socket(libc::AF_UNIX, kind, 0)?;
        let (_, detail) = own_socket(&fd)?;
        check_eq!(
            (detail.local.as_bytes(), detail.remote.as_bytes()),
            (b"".as_slice(), b"".as_slice()),
            "names of an unnamed one"
        );
    }
    Ok(())
}

fn os_string(bytes: &[u8]) -> std::ffi::OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

fn unix_peers_names() -> Result<()> {
    let listener = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let name = format!("\0ravel-test {}", sys::getpid());
    let shown = name.replace('\0', "@");
    sys::bind(&listener, &Address::unix(name.as_bytes()))?;
    sys::listen(&listener, 5)?;
    let client = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    sys::connect(&client, &Address::unix(name.as_bytes()))?;
    let server = sys::accept(&listener)?;
    let report = sockets(sys::getpid())?;
    let names = |fd: &OwnedFd| -> Result<(String, String)> {
        let detail = detail(socket(&report, fd)?)?;
        Ok((detail.local.to_string(), detail.remote.to_string()))
    };
    check_eq!(
        names(&listener)?,
        (shown.clone(), String::new()),
        "names of the listener"
    );
    check_eq!(
        names(&client)?,
        (String::new(), shown.clone()),
        "names of the client"
    );
    check_eq!(
        names(&server)?,
        (shown, String::new()),
        "names of the accepted one"
    );
    let (one, two) = sys::socketpair(libc::SOCK_SEQPACKET)?;
    let report = sockets(sys::getpid())?;
    for fd in [&one, &two] {
        let detail = detail(socket(&report, fd)?)?;
        check_eq!(
            (detail.local.is_empty(), detail.remote.is_empty()),
            (true, true),
            "a pair's"
        );
        // unix_socketpair() leaves socket->state as it was.
        check_eq!(
            detail.socket_state,
            SocketState::Unconnected,
            "socket_state of a pair"
        );
        check_eq!(detail.sk_state, SkState::Established, "sk_state of a pair");
    }
    Ok(())
}

fn inet_addresses() -> Result<()> {
    for address in [
        "127.0.0.1:0",
        "127.1.2.3:0",
        "0.0.0.0:0",
        "[::1]:0",
        "[::]:0",
    ] {
        let socket = UdpSocket::bind(address)?;
        let (_, detail) = own_socket(&socket)?;
        check_eq!(
            detail.local.to_string(),
            socket.local_addr()?.to_string(),
            "local"
        );
        check_eq!(detail.remote, "", "remote of {address}, not connected");
        let listener = TcpListener::bind(address)?;
        let (_, detail) = own_socket(&listener)?;
        check_eq!(
            detail.local.to_string(),
            listener.local_addr()?.to_string(),
            "local, TCP"
        );
        check_eq!(detail.remote, "", "remote of a listener");
    }
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address)?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            check_addresses(stream, stream.local_addr()?, stream.peer_addr()?)?;
        }
        let (a, b) = (UdpSocket::bind(address)?, UdpSocket::bind(address)?);
        a.connect(b.local_addr()?)?;
        check_addresses(&a, a.local_addr()?, b.local_addr()?)?;
    }
    // An IPv4 client of an IPv6 listener: the kernel keeps a mapped address.
    let listener = TcpListener::bind("[::]:0")?;
    let port = listener.local_addr()?.port();
    let client = TcpStream::connect(("127.0.0.1", port))?;
    let (server, _) = listener.accept()?;
    let port_of_client = client.local_addr()?.port();
    let (_, detail) = own_socket(&server)?;
    check_eq!(
        detail.local.to_string(),
        format!("[::ffff:127.0.0.1]:{port}"),
        "mapped local"
    );
    check_eq!(
        detail.remote.to_string(),
        format!("[::ffff:127.0.0.1]:{port_of_client}"),
        "remote"
    );
    Ok(())
}

fn check_addresses(fd: &impl AsRawFd, local: SocketAddr, remote: SocketAddr) -> Result<()> {
    let (_, detail) = own_socket(fd)?;
    check_eq!(detail.local.to_string(), local.to_string(), "local");
    check_eq!(detail.remote.to_string(), remote.to_string(), "remote");
    Ok(())
}
