// SPDX-License-Identifier: GPL-2.0
//! The command `ravel`, on the live module.

use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use ravel_records::{AnonVmaReport, SkbsReport, SocketsReport};
use serde_json::Value;

use super::anon::Folder;
use crate::module::{self, report_text};
use crate::process::{Area, Child, Puppet, Stage};
use crate::report::{chain, own_socket, parse_anon, parse_skbs, parse_sockets, vma};
use crate::sys::{self, Pid};
use crate::{check, check_eq, tests};

tests!("cli":
    json_of_anon_is_the_report,
    json_of_sockets_is_the_report,
    json_of_skbs_is_the_report,
    skb_is_found_and_drawn,
    json_names_fields_as_the_format_does,
    tables_tell_of_the_area_and_the_child,
    tables_are_plain_where_nobody_looks,
    tables_carry_no_escape_of_a_process_name,
    saved_report_is_shown_like_a_live_one,
    pid_of_nobody_is_a_sentence_and_exit_3,
    kernel_thread_is_a_sentence_and_exit_1,
    no_pid_at_all_is_exit_2,
    thread_id_names_the_process,
    version_tells_of_the_module,
    doctor_finds_all_that_is_needed,
    without_the_module_all_say_what_is_missing,
    unprivileged_user_is_told_so,
    reader_that_goes_away_is_no_error,
);

/// Runs `ravel` with its output piped.
fn ravel(args: &[&str]) -> Result<Output> {
    command(args)?.output().context("run ravel")
}

fn command(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(module::beside("ravel")?);
    command
        .args(args)
        .stdin(Stdio::null())
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR_FORCE");
    Ok(command)
}

/// Its stdout, where it went well and said nothing else.
fn out_of(args: &[&str]) -> Result<Vec<u8>> {
    let output = ravel(args)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{args:?}: {}: {errors}",
        output.status
    );
    check_eq!(errors, "", "stderr of {args:?}");
    Ok(output.stdout)
}

/// Its stdout as text.
fn text_of(args: &[&str]) -> Result<String> {
    Ok(String::from_utf8(out_of(args)?)?)
}

/// A process that stands still and shares memory and a socket with a child of its own.
struct Scene {
    parent: Puppet,
    child: Puppet,
    area: Area,
    _kept: (UnixStream, UnixStream),
}

impl Scene {
    fn new() -> Result<Self> {
        let (mut one, two) = UnixStream::pair()?;
        one.write_all(b"unread")?;
        for fd in [one.as_fd(), two.as_fd()] {
            sys::keep_over_exec(&fd, true)?;
        }
        let mut parent = Stage::new(2)?.start()?;
        parent.exec()?;
        // Those that we start ourselves must not have them.
        for fd in [one.as_fd(), two.as_fd()] {
            sys::keep_over_exec(&fd, false)?;
        }
        let area = parent.map_written(1, 3)?[0];
        let child = parent.fork()?;
        parent.settle()?;
        child.settle()?;
        Ok(Self {
            parent,
            child,
            area,
            _kept: (one, two),
        })
    }

    fn pid(&self) -> String {
        self.parent.pid.to_string()
    }

    fn text(&self, report: &str) -> Result<Vec<u8>> {
        report_text(report, self.parent.pid)
    }
}

fn json_of_anon_is_the_report() -> Result<()> {
    let scene = Scene::new()?;
    let json = out_of(&["anon", "--json", &scene.pid()])?;
    let shown: AnonVmaReport = serde_json::from_slice(&json)?;
    let read = parse_anon(&scene.text("anon_vma")?)?;
    check_eq!(shown.header, read.header, "header");
    check_eq!(shown.vmas, read.vmas, "VMAs");
    check_eq!(shown.anon_vmas, read.anon_vmas, "anon_vmas");
    check_eq!(
        shown.summary.members,
        read.summary.members,
        "members in the summary"
    );
    Ok(())
}

fn json_of_sockets_is_the_report() -> Result<()> {
    let scene = Scene::new()?;
    let json = out_of(&["sockets", &scene.pid(), "--json"])?;
    let shown: SocketsReport = serde_json::from_slice(&json)?;
    let read = parse_sockets(&scene.text("sockets")?)?;
    check_eq!(shown.sockets, read.sockets, "sockets");
    check_eq!(shown.sockets.len(), 2, "sockets of the pair");
    Ok(())
}

fn json_of_skbs_is_the_report() -> Result<()> {
    let scene = Scene::new()?;
    let json = out_of(&["skbs", &scene.pid(), "--json"])?;
    let shown: SkbsReport = serde_json::from_slice(&json)?;
    let read = parse_skbs(&scene.text("skbs")?)?;
    check_eq!(shown.sockets, read.sockets, "sockets and queues");
    check_eq!(shown.summary.skbs, 1, "skbs in the summary");
    Ok(())
}

fn skb_is_found_and_drawn() -> Result<()> {
    let (one, two) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    one.send_to(&[0x5a; 100], two.local_addr()?)?;
    super::peers::wait_for("the packet", || Ok(own_socket(&two)?.1.rx_packets == 1))?;
    let (us, fd) = (sys::getpid().to_string(), two.as_raw_fd().to_string());
    let json: SkbsReport = serde_json::from_slice(&out_of(&["skbs", &us, &fd, "--json"])?)?;
    check_eq!(json.sockets.len(), 1, "sockets, where one is asked for");
    let queues = &json.sockets[0].queues;
    let skb = queues
        .iter()
        .find_map(|queue| queue.skbs.first())
        .context("no sk_buff")?;
    let id = skb.id.to_string();
    check!(
        text_of(&["skbs", &us, &fd, "--ids"])?.contains(&id),
        "{id} is not among the ids"
    );
    for args in [
        &["skb", &id, "--draw"][..],
        &["skb", &id, "--draw", "--pid", &us],
    ] {
        let drawn = text_of(args)?;
        let words = [
            format!("fd {fd} of "),
            format!("^ data {}", skb.data),
            format!("transport {}: UDP", skb.transport.raw),
            format!("network {}: IPv4", skb.network.raw),
            "127.0.0.1 → 127.0.0.1, UDP, 128 bytes".to_owned(),
            format!(
                "{} → {}, 108 bytes",
                one.local_addr()?.port(),
                two.local_addr()?.port()
            ),
        ];
        for word in words {
            check!(drawn.contains(&word), "`{word}` is not in:\n{drawn}");
        }
        // To scale: the columns of headers and data are as their bytes are to the buffer's.
        let bar = drawn
            .lines()
            .find(|line| line.contains('#'))
            .context("no drawing")?
            .trim();
        let count = |what: char| bar.chars().filter(|column| *column == what).count() as u64;
        let width = bar.chars().count() as u64;
        for (what, bytes) in [('H', skb.data - u64::from(skb.mac.raw)), ('#', skb.len)] {
            let want = bytes * width / skb.end;
            check!(
                count(what).abs_diff(want) <= 2,
                "{} columns of {what}, not {want}:\n{drawn}",
                count(what)
            );
        }
    }
    let json: Value = serde_json::from_slice(&out_of(&["skb", &id, "--json"])?)?;
    check_eq!(json["layers"][2]["name"], "UDP", "the third layer");
    check_eq!(json["skb"]["id"], id, "id");
    check_eq!(json["holders"][0]["fd"], two.as_raw_fd(), "fd");
    two.recv(&mut [0; 200])?;
    for (args, says) in [
        (
            &["skb", "0000000000000001"][..],
            "no queue holds such an sk_buff now",
        ),
        (&["skbs", &us, "0"], "descriptor 0 is no socket"),
    ] {
        let output = ravel(args)?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        check!(
            !output.status.success() && text.contains(says),
            "{args:?}: {text}"
        );
        check!(text.contains("\n  try: "), "no remedy: {text}");
    }
    Ok(())
}

fn json_names_fields_as_the_format_does() -> Result<()> {
    // Read by names alone, as a script would.
    let scene = Scene::new()?;
    let document: Value = serde_json::from_slice(&out_of(&["anon", "--json", &scene.pid()])?)?;
    check_eq!(document["header"]["pid"], scene.parent.pid, "header.pid");
    let start = format!("{:#x}", scene.area.start);
    let vmas = document["vmas"].as_array().context("no vmas")?;
    let vma = vmas
        .iter()
        .find(|vma| vma["start"] == start.as_str())
        .context("no such vma")?;
    check_eq!(
        vma["end"],
        format!("{:#x}", scene.area.end()).as_str(),
        "end"
    );
    check_eq!(
        vma["anon_pgoff"],
        format!("{:#x}", scene.area.start >> 12).as_str(),
        "anon_pgoff"
    );
    check_eq!(vma["chain"], 1, "chain");
    let id = vma["anon_vma"].as_str().context("no anon_vma")?;
    let group = &document["anon_vmas"][id];
    check_eq!(
        (&group["members"], &group["children"]),
        (&Value::from(2), &Value::from(2)),
        "group"
    );
    let members = group["member"].as_array().context("no member")?;
    let mut found: Vec<(i64, &str)> = Vec::new();
    for member in members {
        let relation = member["relation"].as_str().context("no relation")?;
        found.push((member["pid"].as_i64().context("no pid")?, relation));
    }
    found.sort_unstable();
    let mut want = vec![
        (scene.parent.pid.into(), "self"),
        (scene.child.pid.into(), "descendant"),
    ];
    want.sort_unstable();
    check_eq!(found, want, "pid and relation of the members");

    let document: Value = serde_json::from_slice(&out_of(&["skbs", "--json", &scene.pid()])?)?;
    let sockets = document["sockets"].as_array().context("no sockets")?;
    let waiting: Vec<&Value> = sockets
        .iter()
        .flat_map(|socket| socket["queues"].as_array().into_iter().flatten())
        .flat_map(|queue| queue["skbs"].as_array().into_iter().flatten())
        .collect();
    check_eq!(waiting.len(), 1, "skbs");
    check_eq!(waiting[0]["len"], 6, "len");
    check_eq!(waiting[0]["mac"]["set"], false, "mac.set");
    check_eq!(waiting[0]["mac"]["raw"], 65535, "mac.raw");
    check_eq!(
        sockets[0]["rx_bytes"]
            .as_u64()
            .or(sockets[1]["rx_bytes"].as_u64())
            .is_some(),
        true,
        "rx_bytes"
    );
    Ok(())
}

fn tables_tell_of_the_area_and_the_child() -> Result<()> {
    let scene = Scene::new()?;
    let answer = text_of(&["anon", &scene.pid()])?;
    check!(
        answer.lines().count() <= 40,
        "more than a screen:\n{answer}"
    );
    let first = answer.lines().next().unwrap_or_default();
    check!(
        first.contains(&scene.pid()) && first.contains(&scene.child.pid.to_string()),
        "the first line: {first}"
    );
    let table = text_of(&["anon", "--vmas", &scene.pid()])?;
    for part in [
        scene.pid(),
        scene.child.pid.to_string(),
        format!("{:x}", scene.area.start),
        "self".into(),
        "descendant".into(),
        "[stack]".into(),
    ] {
        check!(
            table.contains(&part),
            "{part} is not in the table:\n{table}"
        );
    }
    let report = parse_anon(&scene.text("anon_vma")?)?;
    let ids = text_of(&["anon", "--ids", &scene.pid()])?;
    for group in chain(&report, scene.area)? {
        check!(
            ids.contains(&group.id.to_string()),
            "id {} is not in the table",
            group.id
        );
    }
    let table = text_of(&["sockets", &scene.pid()])?;
    let report = parse_sockets(&scene.text("sockets")?)?;
    for socket in &report.sockets {
        let inode = socket.inode.to_string();
        check!(
            table.contains(&inode),
            "inode {inode} is not in the table:\n{table}"
        );
    }
    let table = text_of(&["skbs", &scene.pid()])?;
    check!(
        table.contains("receive"),
        "no receive queue in the table:\n{table}"
    );
    let raw = text_of(&["skbs", "--raw", &scene.pid()])?;
    check!(
        raw.contains("65535") && !table.contains("65535"),
        "raw offsets:\n{raw}\n{table}"
    );
    Ok(())
}

fn tables_are_plain_where_nobody_looks() -> Result<()> {
    let scene = Scene::new()?;
    for report in ["anon", "sockets", "skbs"] {
        let plain = text_of(&[report, &scene.pid()])?;
        check!(!plain.contains('\x1b'), "colours in a pipe: {plain:?}");
        let coloured = text_of(&["--color", "always", report, &scene.pid()])?;
        check!(
            coloured.contains('\x1b'),
            "no colours with --color always: {coloured:?}"
        );
        let output = command(&[report, &scene.pid()])?
            .env("NO_COLOR", "1")
            .output()?;
        check!(!output.stdout.contains(&0x1b), "colours with NO_COLOR");
    }
    Ok(())
}

fn tables_carry_no_escape_of_a_process_name() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.parent.set_comm(b"\x1b[31mred\x07\n\"")?;
    for report in ["anon", "sockets", "skbs"] {
        let table = out_of(&[report, &scene.pid()])?;
        check!(
            !table.contains(&0x1b) && !table.contains(&7),
            "control bytes in {report}"
        );
    }
    let document: Value = serde_json::from_slice(&out_of(&["anon", "--json", &scene.pid()])?)?;
    check_eq!(
        document["header"]["comm"],
        "\x1b[31mred\x07\n\"",
        "comm in JSON"
    );
    let origin = &document["ravel"];
    let read = |path: &str| std::fs::read_to_string(path);
    for (key, path) in [
        ("kernel", "/proc/sys/kernel/osrelease"),
        ("host", "/proc/sys/kernel/hostname"),
        ("boot_id", "/proc/sys/kernel/random/boot_id"),
    ] {
        check_eq!(origin[key], read(path)?.trim(), "{key}");
    }
    let uptime = read("/proc/uptime")?;
    let seconds: f64 = uptime.split(' ').next().unwrap_or_default().parse()?;
    let boot = origin["boot_ns"].as_u64().context("no boot_ns")? as f64 / 1e9;
    // The kernel cuts the uptime to hundredths.
    check!(
        (boot - 0.01..boot + 60.0).contains(&seconds),
        "{boot} s of {seconds} s"
    );
    check!(
        origin["time"]
            .as_str()
            .is_some_and(|time| time.starts_with("20") && time.ends_with('Z')),
        "{origin}"
    );
    Ok(())
}

fn saved_report_is_shown_like_a_live_one() -> Result<()> {
    let scene = Scene::new()?;
    for (command_name, report) in [
        ("anon", "anon_vma"),
        ("sockets", "sockets"),
        ("skbs", "skbs"),
    ] {
        let mut saved = command(&[command_name, "--from", "-", "--json"])?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        saved
            .stdin
            .take()
            .context("no stdin")?
            .write_all(&scene.text(report)?)?;
        let output = saved.wait_with_output()?;
        check!(
            output.status.success(),
            "{command_name} --from -: {}",
            output.status
        );
        let mut saved: Value = serde_json::from_slice(&output.stdout)?;
        let mut live: Value =
            serde_json::from_slice(&out_of(&[command_name, "--json", &scene.pid()])?)?;
        // Who the processes are is looked up in /proc, for live reports only.
        check!(saved["processes"].is_null(), "{command_name}: processes");
        // It tells how long locks were held, each time anew.
        for document in [&mut saved, &mut live] {
            document["summary"] = Value::Null;
            document["ravel"] = Value::Null;
            document["processes"] = Value::Null;
        }
        check_eq!(saved, live, "{command_name} saved and live");
    }
    Ok(())
}

/// Checks that it fails with that exit code, says so in one sentence or more, and shows nothing.
fn check_fails(args: &[&str], code: i32) -> Result<String> {
    let output = ravel(args)?;
    let errors = String::from_utf8(output.stderr)?;
    check_eq!(
        output.status.code(),
        Some(code),
        "exit code of {args:?}: {errors}"
    );
    check_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "stdout of {args:?}"
    );
    check!(
        errors.split_whitespace().count() >= 4,
        "no sentence: {errors:?}"
    );
    check!(!errors.contains("panicked"), "{errors}");
    Ok(errors)
}

fn pid_of_nobody_is_a_sentence_and_exit_3() -> Result<()> {
    let mut child = Child::idle()?;
    child.kill()?;
    for report in ["anon", "sockets", "skbs"] {
        for json in [&[][..], &["--json"]] {
            let pid = child.pid.to_string();
            let errors = check_fails(&[&[report, &pid], json].concat(), 3)?;
            check!(errors.starts_with("ravel: "), "{errors}");
            check!(errors.contains("process"), "{errors}");
        }
    }
    Ok(())
}

fn kernel_thread_is_a_sentence_and_exit_1() -> Result<()> {
    let errors = check_fails(&["anon", "2"], 1)?;
    check!(errors.contains("kernel thread"), "{errors}");
    Ok(())
}

fn no_pid_at_all_is_exit_2() -> Result<()> {
    for pid in ["0", "-1", "4194305", "2147483648", "x", "", "1 2"] {
        check_fails(&["anon", pid], 2)?;
    }
    check_fails(&["anon"], 2)?;
    check_fails(&["nothing", "1"], 2).map(drop)
}

fn thread_id_names_the_process() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    let area = puppet.map_written(1, 2)?[0];
    let thread = puppet.add_thread()?;
    let json = out_of(&["anon", "--json", &thread.to_string()])?;
    let report: AnonVmaReport = serde_json::from_slice(&json)?;
    check_eq!(report.header.pid as Pid, puppet.pid, "pid");
    vma(&report, area).map(drop)
}

fn version_tells_of_the_module() -> Result<()> {
    let text = text_of(&["version"])?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let module = std::fs::read_to_string("/sys/module/ravel/version")?;
    for part in [release.trim(), module.trim(), "format 1"] {
        check!(text.contains(part), "{part} is not in {text:?}");
    }
    Ok(())
}

fn doctor_finds_all_that_is_needed() -> Result<()> {
    let output = ravel(&["doctor"])?;
    let text = String::from_utf8_lossy(&output.stdout);
    check_eq!(output.status.code(), Some(0), "exit code: {text}");
    check!(
        text.lines().count() >= 3,
        "hardly anything was looked at: {text}"
    );
    Ok(())
}

fn without_the_module_all_say_what_is_missing() -> Result<()> {
    module::remove()?;
    let checked = (|| -> Result<()> {
        let errors = check_fails(&["anon", "1"], 1)?;
        check!(
            errors.contains("not loaded") || errors.contains("insmod"),
            "{errors}"
        );
        let output = ravel(&["doctor", "--exit-code"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        check_eq!(output.status.code(), Some(4), "exit code of doctor: {text}");
        for args in [&["stuck"][..], &["who", "80"], &["skb", "0000000000000001"]] {
            check_fails(args, 1)?;
        }
        check!(
            text.contains("insmod") || text.contains("modprobe"),
            "{text}"
        );
        Ok(())
    })();
    module::insert()?;
    checked
}

fn unprivileged_user_is_told_so() -> Result<()> {
    // Where it lies only root may look.
    let folder = Folder::new()?;
    let copy = folder.path().join("ravel");
    std::fs::copy(module::beside("ravel")?, &copy)?;
    let mut child = Child::spawn(|link| {
        sys::become_nobody()?;
        let pid = sys::getpid().to_string();
        let output = Command::new(&copy)
            .args(["anon", &pid])
            .output()
            .context("run ravel")?;
        let errors = String::from_utf8(output.stderr)?;
        check_eq!(output.status.code(), Some(1), "exit code: {errors}");
        check!(
            errors.contains("root") || errors.contains("sudo"),
            "{errors}"
        );
        link.send("done")
    })?;
    check_eq!(child.link.recv()?, "done", "what the child says");
    child.join()
}

fn reader_that_goes_away_is_no_error() -> Result<()> {
    let scene = Scene::new()?;
    let (read, write) = sys::pipe(false)?;
    check!(write.as_raw_fd() > 2, "descriptor of the pipe");
    drop(read);
    let output = command(&["anon", &scene.pid()])?
        .stdout(write)
        .stderr(Stdio::piped())
        .output()?;
    check_eq!(String::from_utf8_lossy(&output.stderr), "", "stderr");
    check_eq!(output.status.code(), Some(0), "exit code");
    Ok(())
}
