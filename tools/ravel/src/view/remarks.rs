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

/// Something worth mentioning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// In a sentence without its end.
    pub text: String,
    /// Whether something is wrong or about to be.
    pub warns: bool,
}

/// What is worth mentioning of a socket; nothing of one that is simply open.
pub fn remarks(socket: &Socket) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let mut add = |text: String, warns| remarks.push(Remark { text, warns });
    let Some(detail) = &socket.detail else {
        add(
            "its lock was held for as long as ravel waits".to_owned(),
            false,
        );
        return remarks;
    };
    if let Some(ending) = ending(socket, detail) {
        let text = match detail.rx_bytes {
            0 => ending,
            bytes => format!("{ending}; {} unread", count(bytes, "byte", "bytes")),
        };
        add(text, true);
    }
    if detail.sk_state == SkState::Listen && detail.rx_packets > 0 {
        let full = detail.rx_packets > detail.backlog;
        let gone = socket
            .waiting
            .iter()
            .filter(|waiting| is_gone(socket, waiting))
            .count();
        let mut text = match full {
            true => "accept queue full".to_owned(),
            false => {
                let number = count(detail.rx_packets, "connection waits", "connections wait");
                format!("{number} for accept()")
            }
        };
        if gone > 0 {
            text.push_str(&format!("; {gone} of {} peers closed", detail.rx_packets));
        }
        text.push_str(&who_waits(&socket.waiting));
        add(text, full || gone > 0);
    }
    if let Some(text) = detail.tcp.as_ref().and_then(timers) {
        add(text, true);
    }
    if is_tcp(socket) && detail.linger == Linger::Seconds(0) {
        add(
            "SO_LINGER is 0 seconds: close() resets the connection".to_owned(),
            false,
        );
    }
    if let Some(drops @ 1..) = detail.memory.as_ref().map(|memory| memory.drops) {
        let dropped = match detail.sk_state {
            SkState::Listen => count(drops, "connection", "connections"),
            _ => count(drops, "packet", "packets"),
        };
        add(format!("{dropped} dropped"), true);
    }
    for (what, number) in [
        ("pending error", detail.err),
        ("soft error", detail.soft_err),
    ] {
        if number != 0 {
            add(format!("{what} {}", errno(number)), true);
        }
    }
    remarks
}

/// Whether the peer of a connection that waits for accept() has closed.
pub fn is_gone(socket: &Socket, waiting: &Waiting) -> bool {
    let unix = socket.family == Family::Unix;
    waiting.sk_state == SkState::CloseWait || (unix && waiting.peer_inode == 0)
}

/// An errno by its name, where it is one that sockets have.
pub fn errno(number: i32) -> String {
    let name = match number {
        4 => "EINTR",
        9 => "EBADF",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        22 => "EINVAL",
        32 => "EPIPE",
        71 => "EPROTO",
        90 => "EMSGSIZE",
        92 => "ENOPROTOOPT",
        95 => "EOPNOTSUPP",
        98 => "EADDRINUSE",
        99 => "EADDRNOTAVAIL",
        100 => "ENETDOWN",
        101 => "ENETUNREACH",
        102 => "ENETRESET",
        103 => "ECONNABORTED",
        104 => "ECONNRESET",
        105 => "ENOBUFS",
        106 => "EISCONN",
        107 => "ENOTCONN",
        110 => "ETIMEDOUT",
        111 => "ECONNREFUSED",
        112 => "EHOSTDOWN",
        113 => "EHOSTUNREACH",
        114 => "EALREADY",
        115 => "EINPROGRESS",
        _ => return io::Error::from_raw_os_error(number).to_string(),
    };
    name.to_owned()
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
        list.push(format!("{} more", waiting.len() - SHOWN));
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
            "the peer has no room for {} that wait; probes again {soon}",
            count(tcp.unsent, "byte", "bytes")
        )),
        TcpTimer::Retransmit if tcp.retransmits > 0 => Some(format!(
            "no answer to {}; retransmits {soon}",
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
        SkState::FinWait1 => "sent FIN (WR shut down), which the peer has not acknowledged",
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
                 the peer is not informed"
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
