// SPDX-License-Identifier: GPL-2.0
//! `ss` from iproute2: what the kernel tells others of a socket.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// A socket as `ss -e` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SsSocket {
    /// State, by ss's names.
    pub state: String,
    /// Recv-Q.
    pub recv_q: u64,
    /// Send-Q.
    pub send_q: u64,
    /// Shutdown bits: receive, send.
    pub shutdown: (bool, bool),
    /// The whole line.
    pub line: String,
}

/// The socket with that inode; `family` is `-t`, `-u`, `-x`, `-w`, `-0` or `-f netlink`.
pub fn socket(family: &str, inode: u64) -> Result<SsSocket> {
    let out = Command::new("ss")
        .args(["-H", "-O", "-a", "-e", "-n", family])
        .output();
    let out = out.context("run ss")?;
    ensure!(
        out.status.success(),
        "ss: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let text = String::from_utf8_lossy(&out.stdout);
    let unix = family == "-x";
    let Some(line) = text.lines().find(|line| has_inode(line, inode, unix)) else {
        bail!("ss {family} does not show inode {inode}:\n{text}");
    };
    parse(line, unix).with_context(|| line.to_owned())
}

fn has_inode(line: &str, inode: u64, unix: bool) -> bool {
    if unix {
        // Netid State Recv-Q Send-Q NAME INODE PEER-NAME PEER-INODE
        line.split_whitespace().nth(5) == Some(&inode.to_string())
    } else {
        line.split_whitespace()
            .any(|word| word == format!("ino:{inode}"))
    }
}

fn parse(line: &str, unix: bool) -> Result<SsSocket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let skip = usize::from(unix);
    let number = |i: usize| -> Result<u64> { Ok(words.get(i).context("too few words")?.parse()?) };
    let mut shutdown = None;
    for word in &words[skip + 3..] {
        shutdown = match *word {
            "<->" => Some((false, false)),
            "-->" => Some((true, false)),
            "<--" => Some((false, true)),
            "---" => Some((true, true)),
            _ => shutdown,
        };
    }
    Ok(SsSocket {
        state: words.get(skip).context("no state")?.to_string(),
        recv_q: number(skip + 1)?,
        send_q: number(skip + 2)?,
        shutdown: shutdown.context("no shutdown bits: is the diag module there?")?,
        line: line.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ss() {
        let tcp = "CLOSE-WAIT 6 0 127.0.0.1:5000 127.0.0.1:6000 ino:77 sk:1 cgroup:/ -->";
        assert!(has_inode(tcp, 77, false) && !has_inode(tcp, 7, false));
        let socket = parse(tcp, false).unwrap();
        assert_eq!((socket.state.as_str(), socket.recv_q), ("CLOSE-WAIT", 6));
        assert_eq!(socket.shutdown, (true, false));
        let unix = "u_str ESTAB 0 0 * 4711 * 4712 <--";
        assert!(has_inode(unix, 4711, true) && !has_inode(unix, 4712, true));
        assert_eq!(parse(unix, true).unwrap().shutdown, (false, true));
    }
}
