//! `ravel who`: each socket that is meant, with everyone who holds it and its other end.

use std::fmt::Write;

use ravel_records::{Holds, Sharer};

use super::sockets::{address, kind};
use crate::screen::{DIM, NAME, NOTE, STRONG, count, plain};
use crate::sweep::Holder;
use crate::who::{Answer, Known};

/// Draws the answer to what was asked for in these words.
pub fn draw(asked: &str, answer: &Answer) -> String {
    let kernel = plain(&answer.kernel);
    let mut text =
        format!("{STRONG}holders{STRONG:#} of {NAME}{asked}{NAME:#}, {DIM}Linux {kernel}{DIM:#}\n");
    for known in &answer.sockets {
        text.push('\n');
        draw_socket(&mut text, known);
    }
    let _ = writeln!(
        text,
        "\n{STRONG}{}{STRONG:#} among the descriptors of {}.",
        count(answer.sockets.len() as u64, "socket", "sockets"),
        count(answer.processes, "process", "processes"),
    );
    text
}

fn draw_socket(text: &mut String, known: &Known) {
    let socket = &known.held.socket;
    let _ = write!(text, "{STRONG}{}{STRONG:#}", kind(socket));
    match &socket.detail {
        Some(detail) => {
            let (local, remote) = (address(&detail.local), address(&detail.remote));
            let _ = write!(text, "  {}  {local} → {remote}", detail.sk_state);
        }
        None => {
            let _ = write!(text, "  {NOTE}busy{NOTE:#}");
        }
    }
    let _ = writeln!(
        text,
        "  {DIM}inode {}{DIM:#}  {}",
        socket.inode,
        count(
            u64::try_from(socket.file_refs).unwrap_or(0),
            "reference",
            "references"
        )
    );
    for holder in &known.held.holders {
        let _ = writeln!(text, "  {}", descriptor(holder));
    }
    for sharer in &known.others {
        let _ = writeln!(text, "  {}", other(sharer));
    }
    match known.unnamed {
        Some(0) => {}
        Some(unnamed) => {
            let _ = writeln!(
                text,
                "  {NOTE}{} not named{NOTE:#}: a system call under way, or held within the kernel",
                count(unnamed, "reference is", "references are")
            );
        }
        None => {
            let _ = writeln!(
                text,
                "  {NOTE}the descriptors found are not all references{NOTE:#}: ravel sharers names the others"
            );
        }
    }
    if let Some(detail) = &socket.detail {
        if let Some(peer) = &detail.other {
            let _ = write!(
                text,
                "  other end: inode {}  {}",
                peer.peer_inode, peer.peer_state
            );
            let holders: Vec<String> = known.peer_holders.iter().map(descriptor).collect();
            match (holders.is_empty(), peer.peer_inode) {
                (false, _) => {
                    let _ = write!(text, "  {}", holders.join(", "));
                }
                (true, 0) => text.push_str("  nobody has it open"),
                (true, _) => text.push_str("  no descriptor of it was found"),
            }
            text.push('\n');
        }
    }
}

/// A holder in short.
pub fn descriptor(holder: &Holder) -> String {
    let (comm, pid) = (plain(&holder.comm), holder.pid);
    format!("{comm} {pid} fd {}", holder.fd)
}

/// One who holds a reference that is no descriptor.
pub fn other(sharer: &Sharer) -> String {
    let (comm, pid, fd) = (plain(&sharer.comm), sharer.pid, sharer.fd);
    let how = match &sharer.holds {
        Holds::Message => "in messages that nobody has read from unix socket",
        Holds::Ring => "registered with the io_uring",
        _ => "held by",
    };
    format!("{comm} {pid} {how} fd {fd}")
}
