// SPDX-License-Identifier: GPL-2.0
//! `ravel watch`, on the live module.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::netevents::alone;
use super::packets::LOOP;
use super::packets_probes::probed;
use super::peers::wait_for;
use super::wire::{in_a_namespace, run};
use crate::module;
use crate::stream::client;
use crate::sys;
use crate::tier::scale;
use crate::{check, check_eq, tests};

tests!("cli_watch":
    rows_can_be_read_on_their_own [120 s],
    packets_are_printed_as_they_come [60 s],
    only_what_is_dropped_is_printed [60 s],
    process_has_its_sockets_packets_and_no_others [60 s],
    capture_is_read_by_tshark [120 s],
    stream_is_removed_by_a_signal [60 s],
    signal_ends_it_in_a_flood [60 s],
    flood_of_20000_datagrams_is_told_whole [300 s],
    no_probe_stays_when_it_is_killed [60 s],
    it_sleeps_while_there_is_nothing_to_tell [60 s],
    what_cannot_be_watched_is_a_sentence_and_exit_1,
);

/// Begins, and waits until its stream is there.
fn begin(args: &[&str]) -> Result<Child> {
    let child = Command::new(module::beside("ravel")?)
        .arg("watch")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let name = format!("watch-{}", child.id());
    wait_for("its stream", || {
        Ok(client()
            .streams()?
            .streams
            .iter()
            .any(|stream| stream.name == name))
    })?;
    Ok(child)
}

/// Its stdout, where it ended well and said nothing else.
fn end(child: Child) -> Result<String> {
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && errors.is_empty(),
        "{}: {errors}",
        output.status
    );
    check_eq!(client().streams()?.streams, [], "streams at the end");
    Ok(String::from_utf8(output.stdout)?)
}

fn packets_are_printed_as_they_come() -> Result<()> {
    sys::run_on(0)?;
    alone()?;
    let (one, two) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    let port = two.local_addr()?.port().to_string();
    for json in [false, true] {
        let mut args = vec!["--port", &port, "--count", "3"];
        args.extend(json.then_some("--json"));
        let child = begin(&args)?;
        for _ in 0..3 {
            one.send_to(&[7; 30_000], two.local_addr()?)?;
            two.recv(&mut [0; 40_000])?;
        }
        let text = end(child)?;
        if !json {
            let rows: Vec<Vec<&str>> = text
                .lines()
                .map(|line| line.split_whitespace().collect())
                .collect();
            check_eq!(rows[0][..3], ["PACKET", "TIME", "POINT"], "the head");
            let points: Vec<&str> = rows
                .iter()
                .filter(|row| row[0] == "2")
                .map(|row| row[2])
                .collect();
            check_eq!(
                points[..7],
                [
                    "output",
                    "queue",
                    "transmit",
                    "receive",
                    "ip",
                    "transport",
                    "copy"
                ],
                "points of the second: {text}"
            );
            check!(
                text.contains(&format!("→ 127.0.0.1:{port}")),
                "no ends: {text}"
            );
            check!(text.contains("30000 bytes read"), "no bytes: {text}");
            continue;
        }
        let rows: Vec<Value> = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        let second: Vec<&Value> = rows.iter().filter(|row| row["packet"] == 2).collect();
        check_eq!(second[0]["origin"], "own", "origin");
        check_eq!(second[0]["first"], true, "first");
        let network = second[0]["network"]["raw"].as_u64().context("no offset")?;
        let at = |point: &str| {
            second
                .iter()
                .find(|row| row["point"] == point)
                .context("no such point")
        };
        check_eq!(at("transport")?["data"], network + 20, "data at transport");
        check_eq!(at("copy")?["copied"], 30_000, "copied");
    }
    Ok(())
}

fn rows_can_be_read_on_their_own() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let child = begin(&["--port", &port, "--count", "4"])?;
    let mut one = TcpStream::connect(listener.local_addr()?)?;
    let (mut two, _) = listener.accept()?;
    one.write_all(b"data")?;
    two.read_exact(&mut [0; 4])?;
    drop((one, two));
    let text = end(child)?;
    let mut last = 0;
    let mut flags = Vec::new();
    for row in text.lines().skip(1) {
        let words: Vec<&str> = row.split_whitespace().collect();
        check!(
            row.contains("tcp 127.0.0.1:") && row.contains(" → ") && row.contains(", win "),
            "no addresses or no numbers: {row}"
        );
        check!(!row.contains("netns"), "its own namespace: {row}");
        if matches!(words[2], "transmit" | "receive") {
            check_eq!(words[3], "lo", "device of {row}");
        }
        let number: u64 = words[0].parse()?;
        check!(number <= last + 1, "numbers jump from {last}: {row}");
        last = last.max(number);
        let begin = row.find("Flags [").context("no flags")?;
        let (of, _) = row[begin + 7..].split_once(']').context("no end")?;
        flags.push(of.to_owned());
    }
    check_eq!(flags[0].contains('S'), true, "SYN in {flags:?}");
    check!(
        flags.iter().any(|of| of.contains("S.")),
        "no answer to it: {flags:?}"
    );
    check!(
        text.contains("], seq ") && text.contains(", ack "),
        "no numbers: {text}"
    );
    // Of another namespace, its number.
    let child = begin(&["--address", "10.79.7.1", "--count", "1"])?;
    in_a_namespace(|| {
        run("ip addr add 10.79.7.1/32 dev lo")?;
        let two = UdpSocket::bind("10.79.7.1:0")?;
        two.send_to(b"data", two.local_addr()?)?;
        two.recv(&mut [0; 4])?;
        Ok(())
    })?;
    let text = end(child)?;
    let row = text.lines().find(|row| row.contains(" transmit "));
    let row = row.context("no row of its device")?;
    check!(row.contains(", netns "), "no namespace: {row}");
    Ok(())
}

fn only_what_is_dropped_is_printed() -> Result<()> {
    sys::run_on(0)?;
    alone()?;
    let (one, two) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    let free = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let child = begin(&["--dropped", "--count", "1", "--address", "127.0.0.1"])?;
    for _ in 0..5 {
        one.send_to(b"read", two.local_addr()?)?;
        two.recv(&mut [0; 20])?;
    }
    one.send_to(b"nobody", free)?;
    let text = end(child)?;
    check!(text.contains("NO_SOCKET in "), "no reason: {text}");
    check!(text.contains(&format!("→ {free}")), "no ends: {text}");
    check!(
        !text.contains(&two.local_addr()?.to_string()),
        "what was read: {text}"
    );
    check_eq!(
        text.lines()
            .filter(|line| line.contains(" output "))
            .count(),
        1,
        "ways"
    );
    Ok(())
}

fn process_has_its_sockets_packets_and_no_others() -> Result<()> {
    sys::run_on(0)?;
    alone()?;
    // It has nothing of ours: what we have is made afterwards.
    let mut process = crate::process::Child::spawn(|link| {
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        link.send(&udp.local_addr()?.to_string())?;
        for _ in 0..10 {
            udp.recv(&mut [0; 9])?;
        }
        let address = link.wait()?;
        let mut tcp = TcpStream::connect(address)?;
        tcp.write_all(b"new")?;
        link.send(&tcp.local_addr()?.to_string())?;
        link.wait().map(drop)
    })?;
    let its: SocketAddr = process.link.wait()?.parse()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (one, other) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    let mut child = begin(&["--json", "--pid", &process.pid.to_string()])?;
    for _ in 0..10 {
        one.send_to(b"its", its)?;
        one.send_to(b"other", other.local_addr()?)?;
        other.recv(&mut [0; 9])?;
    }
    // By a socket that it has not yet.
    process.link.send(&listener.local_addr()?.to_string())?;
    let (mut end_of_it, address) = listener.accept()?;
    end_of_it.read_exact(&mut [0; 3])?;
    check_eq!(process.link.wait()?, address.to_string(), "its address");
    // Both directions of the connection are printed.
    let (tcp, at) = (address.to_string(), listener.local_addr()?.to_string());
    let both =
        [[&tcp, &at], [&at, &tcp]].map(|[from, to]| format!(r#""from":"{from}","to":"{to}""#));
    let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
    let mut text = String::new();
    while !both.iter().all(|ends| text.contains(ends)) {
        let read = stdout.read_line(&mut text)?;
        check!(read > 0, "it ends: {text}");
    }
    sys::kill(child.id() as i32, libc::SIGINT)?;
    stdout.read_to_string(&mut text)?;
    end(child)?;
    process.kill()?;
    let rows: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let wanted = |from: String, to: String| (Value::from(from), Value::from(to));
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row["from"].clone(), row["to"].clone()))
        .collect();
    let ends = [
        wanted(one.local_addr()?.to_string(), its.to_string()),
        wanted(tcp.clone(), at.clone()),
        wanted(at, tcp),
    ];
    for end in &ends {
        check!(told.contains(end), "nothing of {end:?}: {text}");
    }
    for row in &told {
        check!(ends.contains(row), "of others: {row:?}");
    }
    let datagrams = rows
        .iter()
        .filter(|row| row["point"] == "output" && row["carries"] == "udp");
    check_eq!(datagrams.count(), 10, "datagrams");
    Ok(())
}

/// Some fields of each packet of a capture file, as tshark has them.
fn tshark(file: &Path, fields: &[&str]) -> Result<Vec<Vec<String>>> {
    let output = Command::new("tshark")
        .arg("-r")
        .arg(file)
        .args(["-T", "fields"])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .output()
        .context("run tshark")?;
    ensure!(
        output.status.success(),
        "tshark: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let row = |line: &str| line.split('\t').map(str::to_owned).collect();
    Ok(text.lines().map(row).collect())
}

fn capture_is_read_by_tshark() -> Result<()> {
    sys::run_on(0)?;
    let netns = alone()?;
    let file = Path::new("/tmp/ravel-watch.pcapng");
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (one, two) = (UdpSocket::bind(address)?, UdpSocket::bind(address)?);
        let (from, to) = (one.local_addr()?, two.local_addr()?);
        let port = to.port().to_string();
        let name = file.to_str().context("no name")?;
        let child = begin(&["--port", &port, "--count", "2", "--json", "-w", name])?;
        for _ in 0..2 {
            one.send_to(b"capture", to)?;
            two.recv(&mut [0; 9])?;
        }
        let rows: Vec<Value> = end(child)?
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        let family = if from.is_ipv4() { "ipv4" } else { "ipv6" };
        let packets = tshark(
            file,
            &[
                "frame.comment",
                &format!("exported_pdu.{family}_src"),
                &format!("exported_pdu.{family}_dst"),
                "exported_pdu.src_port",
                "exported_pdu.dst_port",
                "frame.interface_name",
            ],
        )?;
        check_eq!(packets.len(), rows.len(), "crossings");
        for (packet, row) in packets.iter().zip(&rows) {
            let comment = &packet[0];
            let ends = [
                from.ip().to_string(),
                to.ip().to_string(),
                from.port().to_string(),
                to.port().to_string(),
            ];
            check_eq!(packet[1..5], ends, "ends");
            let interface = match row["device"].as_u64() {
                Some(0) => "none".to_owned(),
                _ => format!("device 1 of netns {netns}"),
            };
            check_eq!(packet[5], interface, "interface");
            let point = row["point"].as_str().context("no point")?;
            for want in [
                format!("packet={} point={point} ", row["packet"]),
                format!(" len={} data={} ", row["len"], row["data"]),
                format!(" network={} ", row["network"]["raw"]),
            ] {
                check!(format!("{comment} ").contains(&want), "{want}: {comment}");
            }
        }
        std::fs::remove_file(file)?;
    }
    Ok(())
}

fn stream_is_removed_by_a_signal() -> Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let mut child = begin(&["--port", "9"])?;
        // It has begun to wait once the head is out.
        let mut head = String::new();
        BufReader::new(child.stdout.as_mut().context("no stdout")?).read_line(&mut head)?;
        sys::kill(child.id() as i32, signal)?;
        end(child)?;
    }
    Ok(())
}

fn signal_ends_it_in_a_flood() -> Result<()> {
    sys::run_on(0)?;
    alone()?;
    let target = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let mut flood = crate::process::Child::spawn(move |_| {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        loop {
            socket.send_to(b"nobody", target)?;
        }
    })?;
    let mut child = begin(&["--port", &target.port().to_string()])?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let told = lines.any(|line| line.is_ok_and(|line| line.contains(" output ")));
    check!(told, "nothing was told");
    sys::kill(child.id() as i32, libc::SIGINT)?;
    // What it still has to say.
    lines.for_each(drop);
    let status = child.wait()?;
    flood.kill()?;
    check!(status.success(), "{status}");
    check_eq!(client().streams()?.streams, [], "streams");
    Ok(())
}

fn flood_of_20000_datagrams_is_told_whole() -> Result<()> {
    alone()?;
    let total = scale(20_000, 2_000);
    let one = UdpSocket::bind("127.0.0.1:0")?;
    // Nobody has it, so that all are dropped.
    let free = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let (port, count) = (free.port().to_string(), total.to_string());
    let bytes = (64 << 20).to_string();
    let child = begin(&["--port", &port, "--count", &count, "--bytes", &bytes])?;
    let text = std::thread::scope(|scope| -> Result<String> {
        let text = scope.spawn(|| end(child));
        for _ in 0..total {
            one.send_to(b"flood", free)?;
        }
        text.join().map_err(|_| anyhow!("it panicked"))?
    })?;
    let mut points: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let mut words = line.split_whitespace();
        let packet = words.next().context("an empty row")?;
        check!(packet.parse::<u64>().is_ok(), "not a packet's row: {line}");
        let point = words.nth(1).context("no point")?;
        points.entry(packet).or_default().push(point);
    }
    check_eq!(points.len(), total, "packets");
    for (packet, points) in &points {
        check_eq!(points[..6], LOOP, "points of packet {packet}");
    }
    Ok(())
}

fn no_probe_stays_when_it_is_killed() -> Result<()> {
    let mut child = begin(&["--port", "9"])?;
    check!(!probed()?.is_empty(), "no probe");
    child.kill()?;
    child.wait()?;
    check_eq!(client().streams()?.streams, [], "streams");
    check!(probed()?.is_empty(), "probes are left");
    Ok(())
}

/// By the kernel's own account of the time that it was on a CPU.
fn it_sleeps_while_there_is_nothing_to_tell() -> Result<()> {
    alone()?;
    let bind = || UdpSocket::bind("127.0.0.1:0");
    let (one, two, other) = (bind()?, bind()?, bind()?);
    let port = two.local_addr()?.port().to_string();
    let child = begin(&["--port", &port])?;
    let spent = || sys::cpu_ns(child.id() as i32);
    let settled = || {
        wait_for("it to sleep", || {
            let before = spent()?;
            std::thread::sleep(Duration::from_millis(200));
            Ok(spent()? == before)
        })
    };
    settled()?;
    let asleep = spent()?;
    for _ in 0..200 {
        one.send_to(b"of others", other.local_addr()?)?;
        other.recv(&mut [0; 16])?;
        std::thread::sleep(Duration::from_millis(5));
    }
    check_eq!(spent()?, asleep, "nanoseconds on a CPU");
    one.send_to(b"its own", two.local_addr()?)?;
    two.recv(&mut [0; 16])?;
    wait_for("it to wake", || Ok(spent()? > asleep))?;
    settled()?;
    sys::kill(child.id() as i32, libc::SIGINT)?;
    let text = end(child)?;
    let first: Vec<&str> = text
        .lines()
        .skip(1)
        .flat_map(str::split_whitespace)
        .collect();
    check_eq!(first.get(2), Some(&"output"), "what it told then: {text}");
    Ok(())
}

fn what_cannot_be_watched_is_a_sentence_and_exit_1() -> Result<()> {
    let pid = sys::getpid().to_string();
    let file = std::fs::File::open("/proc/self/status")?;
    let output = Command::new(module::beside("ravel")?)
        .args(["watch", "--pid", "4194304"])
        .stdin(Stdio::null())
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    check_eq!(output.status.code(), Some(3), "exit code: {errors}");
    check!(errors.contains("no process"), "{errors}");
    for (socket, sentence) in [
        (format!("{pid}:999"), "no such descriptor"),
        (format!("{pid}:{}", file.as_raw_fd()), "no socket"),
        ("4194304:0".to_owned(), "no process"),
    ] {
        let output = Command::new(module::beside("ravel")?)
            .args(["watch", "--socket", &socket])
            .stdin(Stdio::null())
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        check_eq!(
            output.status.code(),
            Some(1),
            "exit code of {socket}: {errors}"
        );
        check!(
            errors.contains(sentence) && errors.contains("try: "),
            "{socket}: {errors}"
        );
        check_eq!(output.stdout, b"", "stdout");
    }
    check_eq!(client().streams()?.streams, [], "streams");
    Ok(())
}
