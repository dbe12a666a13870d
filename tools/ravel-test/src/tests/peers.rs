// SPDX-License-Identifier: GPL-2.0
//! Connections to look at, and `ss` to compare with.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use ravel_records::{Shutdown, SkState, SocketDetail, TcpTimer, Timer};

use crate::report::own_socket;
use crate::tier::patience;
use crate::{check_eq, ss, sys};

/// Two ends of a TCP connection on loopback.
pub fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let (two, _) = listener.accept()?;
    Ok((one, two))
}

/// Waits until the kernel's other side has done its part: a packet on loopback takes a moment.
pub fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > patience(30) {
            bail!("{what} does not come");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// ss's name for a state.
fn ss_name(state: &SkState) -> &'static str {
    match state {
        SkState::Established => "ESTAB",
        SkState::SynSent => "SYN-SENT",
        SkState::FinWait1 => "FIN-WAIT-1",
        SkState::FinWait2 => "FIN-WAIT-2",
        SkState::CloseWait => "CLOSE-WAIT",
        SkState::LastAck => "LAST-ACK",
        SkState::Closing => "CLOSING",
        SkState::Listen => "LISTEN",
        SkState::Close => "UNCONN",
        _ => "?",
    }
}

/// What stands still in a socket: its timers do not.
pub fn still(detail: &SocketDetail) -> SocketDetail {
    let mut still = detail.clone();
    if let Some(tcp) = &mut still.tcp {
        (tcp.timer_ms, tcp.ack_ms, tcp.keepalive_ms) = (Timer::Off, Timer::Off, Timer::Off);
        tcp.silent_ms = Timer::Off;
        (tcp.timer, tcp.probes, tcp.backoff, tcp.retransmits) = (TcpTimer::None, 0, 0, 0);
    }
    still
}

/// A socket of ours, as the report, ss and the ioctls agree on it: state, shutdown, and queue
/// lengths. Asks anew where the report was another after ss than before it.
pub fn agreed(fd: &impl AsRawFd, family: &str) -> Result<SocketDetail> {
    for _ in 0..50 {
        let (socket, detail) = own_socket(fd)?;
        let other = ss::socket(family, socket.inode)?;
        let (inq, outq) = (sys::inq(fd), sys::outq(fd));
        if still(&own_socket(fd)?.1) != still(&detail) {
            continue;
        }
        let shown = &other.line;
        check_eq!(
            ss_name(&detail.sk_state),
            other.state,
            "state, by ss: {shown}"
        );
        let bits = (detail.shutdown.rd(), detail.shutdown.wr());
        check_eq!(bits, other.shutdown, "shutdown RD and WR, by ss: {shown}");
        check_eq!(
            detail.inq,
            inq.map_or(-1, i64::from),
            "inq by ioctl SIOCINQ"
        );
        check_eq!(
            detail.outq,
            outq.map_or(-1, i64::from),
            "outq by ioctl SIOCOUTQ"
        );
        if let Some((recv, send)) = ss_queues(family, &detail) {
            check_eq!(recv, other.recv_q as i64, "Recv-Q, by ss: {shown}");
            check_eq!(send, other.send_q as i64, "Send-Q, by ss: {shown}");
        }
        return Ok(detail);
    }
    bail!("descriptor {} does not stand still", fd.as_raw_fd())
}

/// What ss should show as Recv-Q and Send-Q, where that follows from the report.
fn ss_queues(family: &str, detail: &SocketDetail) -> Option<(i64, i64)> {
    match (family, &detail.sk_state) {
        // Connections not accepted, and the backlog, which the report does not tell.
        (_, SkState::Listen) => None,
        // tcp_diag_get_info(): a SYN or FIN counts as a byte for ss, not for the ioctl.
        ("-t", SkState::SynSent) => Some((detail.inq, detail.outq + 1)),
        ("-t", SkState::CloseWait | SkState::LastAck | SkState::Closing) => {
            Some((detail.inq + 1, detail.outq))
        }
        ("-t" | "-x", _) => Some((detail.inq, detail.outq)),
        _ => None,
    }
}

/// A TCP listener of ours: connections not accepted, as the report and ss agree.
pub fn agreed_listener(fd: &impl AsRawFd, family: &str) -> Result<SocketDetail> {
    let detail = agreed(fd, family)?;
    let (socket, _) = own_socket(fd)?;
    let other = ss::socket(family, socket.inode)?;
    check_eq!(
        detail.rx_packets,
        other.recv_q,
        "rx_packets, by ss: {}",
        other.line
    );
    Ok(detail)
}

/// Waits for states, then checks states and shutdown of both ends, in agreement with ss.
pub fn check_ends(
    family: &str,
    ends: [&dyn AsRawFd; 2],
    want: [(SkState, Shutdown); 2],
) -> Result<()> {
    let fds = ends.map(|end| end.as_raw_fd());
    for (fd, (state, shutdown)) in fds.iter().zip(want) {
        // What does not come shows below.
        let _ = wait_for("a state", || Ok(own_socket(fd)?.1.sk_state == state));
        let detail = agreed(fd, family)?;
        check_eq!(
            (detail.sk_state, detail.shutdown),
            (state, shutdown),
            "state and shutdown"
        );
    }
    Ok(())
}

/// Writes until nothing more fits: the bytes written.
pub fn fill(stream: &mut TcpStream) -> Result<u64> {
    stream.set_nonblocking(true)?;
    let data = vec![0x5a; 64 << 10];
    let mut total = 0;
    loop {
        match stream.write(&data) {
            Ok(n) => total += n as u64,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                // What is on its way may make room for a little more.
                std::thread::sleep(Duration::from_millis(20));
                match stream.write(&data) {
                    Ok(n) => total += n as u64,
                    Err(_) => return Ok(total),
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// A connection whose second end reads nothing, and whose first end's queue is full.
pub fn full_pair() -> Result<(TcpStream, TcpStream, u64)> {
    let (mut one, two) = pair()?;
    // Small buffers, so that it does not take long; autotuning is off with them.
    sys::set_option(&two, libc::SOL_SOCKET, libc::SO_RCVBUF, 20_000)?;
    sys::set_option(&one, libc::SOL_SOCKET, libc::SO_SNDBUF, 40_000)?;
    let written = fill(&mut one)?;
    Ok((one, two, written))
}

/// Waits until that many bytes wait to be read.
pub fn wait_bytes(fd: &impl AsRawFd, bytes: u64) -> Result<()> {
    wait_for(&format!("byte {bytes}"), || {
        Ok(own_socket(fd)?.1.rx_bytes == bytes)
    })
}
