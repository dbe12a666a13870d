// SPDX-License-Identifier: GPL-2.0
//! The kernel's packetdrill scripts (`net/packetdrill`) that are about the end of a TCP connection, over each version
//! of IP: each played alone and then again while who plays it is read by every report, and the machine by `stuck`.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::{Found, Verdict, are_there, passes_while_read};
use crate::module;
use crate::{check, check_eq, tests};

tests!("selftests" when are_there:
    packetdrill_close_local_then_remote_fin [120 s],
    packetdrill_close_on_syn_sent [120 s],
    packetdrill_close_after_remote_fin [120 s],
    packetdrill_close_without_reset [120 s],
    packetdrill_fin_out_of_order_in_fin_wait [120 s],
    packetdrill_fin_into_a_closed_window [120 s],
    packetdrill_time_stamp_of_a_fin [120 s],
    packetdrill_resets_in_syn_recv [120 s],
    packetdrill_fast_open_fin_and_close [120 s],
    packetdrill_fast_open_reset_after_accept [120 s],
    packetdrill_fast_open_reset_before_accept [120 s],
    packetdrill_fast_open_reset_and_close_unread [120 s],
    packetdrill_fast_open_reset_without_fast_open [120 s],
    packetdrill_fast_open_listener_closed [120 s],
    packetdrill_fast_open_connected_anew [120 s],
    packetdrill_fast_open_closed_unread [120 s],
    packetdrill_notices_each_wrong_line [120 s],
);

macro_rules! scripts {
    ($($test:ident: $script:literal),* $(,)?) => {
        $(fn $test() -> Result<()> {
            plays_while_read($script)
        })*
    };
}

scripts!(
    packetdrill_close_local_then_remote_fin: "tcp_close_close-local-close-then-remote-fin",
    packetdrill_close_on_syn_sent: "tcp_close_close-on-syn-sent",
    packetdrill_close_after_remote_fin: "tcp_close_close-remote-fin-then-close",
    packetdrill_close_without_reset: "tcp_close_no_rst",
    packetdrill_fin_out_of_order_in_fin_wait: "tcp_disorder_fin_in_FIN_WAIT",
    packetdrill_fin_into_a_closed_window: "tcp_rcv_zero_wnd_fin",
    packetdrill_time_stamp_of_a_fin: "tcp_ts_recent_fin_tsval",
    packetdrill_resets_in_syn_recv: "tcp_rfc5961_rst-syn-recv",
    packetdrill_fast_open_fin_and_close: "tcp_fastopen_server_fin-close-socket",
    packetdrill_fast_open_reset_after_accept: "tcp_fastopen_server_reset-after-accept",
    packetdrill_fast_open_reset_before_accept: "tcp_fastopen_server_reset-before-accept",
    packetdrill_fast_open_reset_and_close_unread: "tcp_fastopen_server_reset-close-with-unread-data",
    packetdrill_fast_open_reset_without_fast_open: "tcp_fastopen_server_reset-non-tfo-socket",
    packetdrill_fast_open_listener_closed: "tcp_fastopen_server_trigger-rst-listener-closed",
    packetdrill_fast_open_connected_anew: "tcp_fastopen_server_trigger-rst-reconnect",
    packetdrill_fast_open_closed_unread: "tcp_fastopen_server_trigger-rst-unread-data-closed",
);

fn plays_while_read(script: &str) -> Result<()> {
    let file = module::beside(&format!("net/packetdrill/{script}.pkt"))?;
    let player = std::env::current_exe()?;
    let play = || {
        let mut command = Command::new(&player);
        command.arg("--packetdrill").arg(&file);
        Ok(command)
    };
    let ravel = module::beside("ravel")?;
    let stuck = |_| {
        let output = Command::new(&ravel).args(["stuck", "--json"]).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        check!(output.status.success(), "ravel stuck: {errors}");
        Ok(())
    };
    let alone = passes_while_read(script, play, stuck)?;
    check!(
        alone.count(Verdict::Passed) == 3,
        "not over each version of IP, alone:\n{}",
        alone.text
    );
    Ok(())
}

/// A line with something wrong in it, if it is one that says what has to happen.
fn spoil(line: &str) -> Option<String> {
    let expects = line.split_whitespace().nth(1) == Some(">");
    if let (true, Some((before, ack))) = (expects, line.rsplit_once("ack ")) {
        let (number, rest) = ack.split_once(' ').unwrap_or((ack, ""));
        let number: u32 = number.parse().ok()?;
        return Some(format!("{before}ack {} {rest}", number + 1));
    }
    if expects {
        return Some(line.replacen("> R", "> F", 1));
    }
    let (call, result) = line.rsplit_once("read(4, ..., 1000) = ")?;
    Some(format!("{call}read(4, ..., 1000) = 7{result}"))
}

fn packetdrill_notices_each_wrong_line() -> Result<()> {
    let folder = module::beside("net/packetdrill")?;
    let text = fs::read_to_string(folder.join("tcp_close_close-remote-fin-then-close.pkt"))?;
    let lines: Vec<&str> = text.lines().collect();
    let mut spoilt = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some(wrong) = spoil(line) else {
            continue;
        };
        check!(wrong != *line, "{line:?} is not spoilt");
        let mut script = lines.clone();
        script[at] = &wrong;
        let path = folder.join("wrong.pkt");
        fs::write(&path, script.join("\n"))?;
        let output = Command::new(std::env::current_exe()?)
            .arg("--packetdrill")
            .arg(&path)
            .output()?;
        let found = Found::parse(String::from_utf8_lossy(&output.stdout).into_owned());
        let want = format!("line {}", at + 1);
        check_eq!(
            (found.count(Verdict::Passed), found.count(Verdict::Failed)),
            (0, 3),
            "passed and failed with {wrong:?}"
        );
        check!(
            found.text.matches(&want).count() == 3,
            "another line than {want}: {}",
            found.text
        );
        spoilt += 1;
    }
    check_eq!(spoilt, 5, "lines that were spoilt");
    Ok(())
}
