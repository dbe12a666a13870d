//! What a socket's state means, in sentences.

use std::io;

use ravel_records::{
    Family, Linger, Protocol, Shutdown, SkState, Socket, SocketDetail, SocketKind, Tcp, TcpTimer,
    Timer, Waiting,
};

use crate::screen::{count, plain};

/// Whether one direction is over while the other is not.
pub fn half_closed(detail: &SocketDetail) -> bool {
    matches!(detail.shutdown, Shutdown::Rd | Shutdown::Wr)
}

/// What is worth saying of a socket; nothing of one that is simply open.
pub fn remarks(socket: &Socket) -> Vec<String> {
    let Some(detail) = &socket.detail else {
        return vec!["busy: whoever uses it held its lock for as long as ravel waits".to_owned()];
    };
    let mut remarks = Vec::new();
    if let Some(ending) = ending(socket, detail) {
        remarks.push(match detail.rx_bytes {
            0 => ending,
            bytes => format!("{ending}; {} unread", count(bytes, "byte", "bytes")),
        });
    }
    if detail.sk_state == SkState::Listen && detail.rx_packets > 0 {
        let waiting = count(detail.rx_packets, "connection waits", "connections wait");
        remarks.push(format!(
            "{waiting} for accept(){}",
            who_waits(&socket.waiting)
        ));
    }
    if let Some(tcp) = &detail.tcp {
        remarks.extend(timers(tcp));
    }
    if is_tcp(socket) && detail.linger == Linger::Seconds(0) {
        remarks.push("SO_LINGER is 0 seconds: close() resets the connection".to_owned());
    }
    for (what, errno) in [
        ("pending error", detail.err),
        ("last passing error", detail.soft_err),
    ] {
        if errno != 0 {
            let text = io::Error::from_raw_os_error(errno).to_string();
            let text = text.replace("os error", "errno");
            remarks.push(format!("{what}: {text}"));
        }
    }
    remarks
}

/// The first of those that wait for accept().
fn who_waits(waiting: &[Waiting]) -> String {
    const SHOWN: usize = 4;
    let who = |waiting: &Waiting| {
        let remote = match waiting.remote.is_empty() {
            true => format!("inode {}", waiting.peer_inode),
            false => plain(&waiting.remote),
        };
        match waiting.rx_bytes {
            0 => remote,
            bytes => format!("{remote} ({} sent)", count(bytes, "byte", "bytes")),
        }
    };
    let mut list: Vec<String> = waiting.iter().take(SHOWN).map(who).collect();
    if waiting.len() > SHOWN {
        list.push("...".to_owned());
    }
    match list.is_empty() {
        true => String::new(),
        false => format!(": {}", list.join(", ")),
    }
}

/// What TCP's timers wait for, where that is no good sign.
fn timers(tcp: &Tcp) -> Option<String> {
    let soon = match tcp.timer_ms {
        Timer::Ms(ms) => format!("in {}.{:03} s", ms / 1000, ms % 1000),
        Timer::Off => return None,
    };
    match tcp.timer {
        TcpTimer::Probe => Some(format!(
            "the peer has no room for {} that wait; asks again {soon}",
            count(tcp.unsent, "byte", "bytes")
        )),
        TcpTimer::Retransmit if tcp.retransmits > 0 => Some(format!(
            "no answer to {}; sends again {soon}",
            count(tcp.retransmits, "retransmission", "retransmissions")
        )),
        _ => None,
    }
}

fn is_tcp(socket: &Socket) -> bool {
    socket.protocol == Protocol::Tcp && matches!(socket.family, Family::Inet | Family::Inet6)
}

/// How far a socket is from open to closed, where it has left open.
fn ending(socket: &Socket, detail: &SocketDetail) -> Option<String> {
    let shutdown = &detail.shutdown;
    let text = match &detail.sk_state {
        _ if !is_tcp(socket) => return plain_ending(socket, shutdown),
        SkState::FinWait1 => "sends FIN (WR shut down), which the peer has not acknowledged",
        SkState::FinWait2 if shutdown.rd() => {
            "sent FIN (RD and WR shut down), which the peer acknowledged; \
             data that arrives now is answered by a reset"
        }
        SkState::FinWait2 => {
            "sent FIN (WR shut down), which the peer acknowledged; the peer may still send"
        }
        SkState::CloseWait => "the peer sent FIN (RD shut down); this side may still send",
        SkState::LastAck => "the peer sent FIN, then this side; its own FIN is not acknowledged",
        SkState::Closing => "both sides sent FIN at once; its own is not acknowledged",
        SkState::Close if shutdown.rd() && shutdown.wr() => "the connection is over",
        _ => match shutdown {
            Shutdown::Rd => {
                "reading was shut down on this side (RD): reads end when nothing is unread, \
                 the peer is not told"
            }
            Shutdown::Wr => "WR shut down",
            Shutdown::RdWr => "RD and WR shut down",
            Shutdown::None => return None,
            Shutdown::Other(word) => return Some(format!("shut down: {word}")),
        },
    };
    Some(text.to_owned())
}

/// The same without TCP's states.
fn plain_ending(socket: &Socket, shutdown: &Shutdown) -> Option<String> {
    let pair = socket.family == Family::Unix && socket.r#type != SocketKind::Dgram;
    let text = match (shutdown, pair) {
        (Shutdown::None, _) => return None,
        (Shutdown::Rd, true) => "takes nothing more: RD shut down here, or WR by the peer",
        (Shutdown::Wr, true) => "sends nothing more: WR shut down here, or RD by the peer",
        (Shutdown::RdWr, true) => "both directions shut down, or the peer has closed",
        (Shutdown::Rd, false) => "takes nothing more (RD shut down)",
        (Shutdown::Wr, false) => "sends nothing more (WR shut down)",
        (Shutdown::RdWr, false) => "takes and sends nothing more (RD and WR shut down)",
        (Shutdown::Other(word), _) => return Some(format!("shut down: {word}")),
    };
    Some(text.to_owned())
}
