// SPDX-License-Identifier: GPL-2.0
//! `ravel forward`: what happened in the kernel is in a queue, once, whoever was killed on the way.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::say;
use crate::module;
use crate::random::Random;
use crate::server::{Server, laravel, until};
use crate::stream::{Forker, Made};
use crate::sys;
use crate::tier::{patience, scale};
use crate::{check, check_eq, tests};

tests!("forward" beside:
    every_event_is_a_job_once,
    silent_server_gets_nothing_acknowledged [120 s],
    killed_at_any_moment_loses_and_doubles_nothing [240 s],
    server_killed_loses_and_doubles_nothing [240 s],
    flood_is_pushed_or_counted [120 s],
    on_the_disk_if_asked_for,
    laravel_runs_its_jobs,
    from_the_kernel_to_a_command,
    cluster_of_valkey [120 s],
    what_cannot_be_is_a_sentence_and_exit_1,
);

fn forward(server: &Server, stream: &str, queue: &str, options: &str) -> Result<Command> {
    let mut command = Command::new(module::beside("ravel")?);
    command
        .args([
            "forward",
            "--stream",
            stream,
            "--queue",
            queue,
            "--redis",
            &server.url(),
        ])
        .args(options.split_whitespace())
        .stdin(Stdio::null());
    Ok(command)
}

/// Forwards what there is.
fn forward_all(server: &Server, stream: &str) -> Result<()> {
    let output = forward(server, stream, "q", "--no-wait")?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    check_eq!(said, "", "what it says");
    Ok(())
}

fn start(server: &Server, stream: &str) -> Result<Child> {
    let mut command = forward(server, stream, "q", "")?;
    command.stderr(Stdio::null()).spawn().context("start ravel")
}

fn end(child: &mut Child) -> Result<()> {
    sys::kill(child.id() as i32, libc::SIGTERM)?;
    check_eq!(child.wait()?.code(), Some(0), "exit code");
    Ok(())
}

fn number(data: &Value, key: &str) -> Result<u64> {
    let text = data[key]
        .as_str()
        .with_context(|| format!("no {key} in {data}"))?;
    Ok(text.parse()?)
}

/// The data of all jobs in the queue, in the order of their numbers, which are from 1 on without a gap: with how
/// many events were lost.
fn all(server: &Server, queue: &str, upto: u64) -> Result<(Vec<Value>, u64)> {
    let mut all = Vec::new();
    for job in server.ready(queue)? {
        let job: Value = serde_json::from_slice(&job)?;
        all.push(job["data"].clone());
    }
    all.sort_by_key(|data| number(data, "seq").unwrap_or(0));
    let (mut next, mut lost) = (1, 0);
    for data in &all {
        check_eq!(number(data, "seq")?, next, "the number of a job");
        let count = match data["event"] == "loss" {
            true => number(data, "count")?,
            false => 1,
        };
        lost += if data["event"] == "loss" { count } else { 0 };
        next += count;
    }
    check_eq!(next, upto + 1, "the number behind the last");
    Ok((all, lost))
}

fn children(all: &[Value]) -> Result<Vec<u32>> {
    all.iter()
        .map(|data| Ok(number(data, "child")? as u32))
        .collect()
}

fn every_event_is_a_job_once() -> Result<()> {
    let server = Server::redis(6421)?;
    let mut forker = Forker::new(None)?;
    let stream = Made::new("once", &format!("sources=fork tree={}", forker.pid()))?;
    let pids = forker.fork(60)?;
    forward_all(&server, "once")?;
    forward_all(&server, "once")?;
    check_eq!(stream.state()?.acked, 60, "acknowledged");
    let (data, _) = all(&server, "q", 60)?;
    check_eq!(children(&data)?, pids, "children");
    check_eq!(server.ask::<u64>("LLEN queues:q:notify")?, 60, "tokens");
    let job: Value = serde_json::from_slice(&server.ready("q")?[0])?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
    for (key, wanted) in [
        ("host", name.trim()),
        ("boot", boot.trim()),
        ("stream", "once"),
        ("event", "fork"),
        ("seq", "1"),
        ("pid", &forker.pid().to_string()),
    ] {
        check_eq!(job["data"][key], *wanted, "{key}");
    }
    check_eq!(job["attempts"], 0, "attempts");
    check_eq!(
        job["id"].as_str().map(str::len),
        Some(32),
        "letters of the id"
    );
    // Names of what is acknowledged are not kept.
    let kept: Vec<String> = server.ask("KEYS queues:q:ravel:pushed:*")?;
    check!(kept.is_empty(), "names are kept: {kept:?}");
    Ok(())
}

fn silent_server_gets_nothing_acknowledged() -> Result<()> {
    let server = Server::redis(6422)?;
    let mut forker = Forker::new(None)?;
    let stream = Made::new("silent", &format!("sources=fork tree={}", forker.pid()))?;
    let mut command = forward(&server, "silent", "q", "--lease 8")?;
    let mut forwarding = command.stderr(Stdio::null()).spawn()?;
    let first = forker.fork(1)?;
    until("one is through", || Ok(stream.state()?.acked == 1))?;
    let pid = server.pid().context("no server")? as i32;
    sys::kill(pid, libc::SIGSTOP)?;
    let pids = forker.fork(30)?;
    // Long enough for the lease to be given back, and for what was sent to be sent again.
    thread::sleep(patience(14));
    check_eq!(stream.state()?.acked, 1, "acknowledged while it was silent");
    sys::kill(pid, libc::SIGCONT)?;
    until("all are through", || Ok(stream.state()?.acked == 31))?;
    end(&mut forwarding)?;
    let (data, _) = all(&server, "q", 31)?;
    check_eq!(children(&data)?, [first, pids].concat(), "children");
    Ok(())
}

fn killed_at_any_moment_loses_and_doubles_nothing() -> Result<()> {
    let server = Server::redis(6423)?;
    let mut forker = Forker::new(None)?;
    let terms = format!("sources=fork bytes=8388608 tree={}", forker.pid());
    let stream = Made::new("killed", &terms)?;
    let seed = Random::seed()?;
    let mut random = Random::new(seed);
    let kills = scale(25, 10);
    let mut pids = Vec::new();
    for _ in 0..kills {
        forker.begin(random.below(40))?;
        let mut forwarding = start(&server, "killed")?;
        thread::sleep(Duration::from_micros(random.below(250_000) as u64));
        forwarding.kill()?;
        forwarding.wait()?;
        pids.extend(forker.end()?);
    }
    forward_all(&server, "killed")?;
    let state = stream.state()?;
    check_eq!(
        (state.events, state.acked),
        (pids.len() as u64, pids.len() as u64),
        "events (seed {seed})"
    );
    let (data, lost) = all(&server, "q", state.events)?;
    check_eq!(children(&data)?, pids, "children (seed {seed})");
    check_eq!(lost, 0, "lost");
    say(format!(
        "{kills} kills, {} events handed out {} times, each pushed once",
        state.events, state.attempts
    ));
    Ok(())
}

fn server_killed_loses_and_doubles_nothing() -> Result<()> {
    let mut server = Server::redis(6424)?;
    let mut forker = Forker::new(None)?;
    let terms = format!("sources=fork bytes=8388608 tree={}", forker.pid());
    let stream = Made::new("outage", &terms)?;
    let seed = Random::seed()?;
    let mut random = Random::new(seed);
    let kills = scale(10, 4);
    let mut forwarding = start(&server, "outage")?;
    let mut pids = forker.fork(1)?;
    // Where nobody answers at first, it ends.
    until("it is at work", || Ok(stream.state()?.acked == 1))?;
    for _ in 0..kills {
        forker.begin(random.below(40))?;
        thread::sleep(Duration::from_micros(random.below(300_000) as u64));
        server.kill()?;
        thread::sleep(Duration::from_micros(random.below(300_000) as u64));
        server.again()?;
        pids.extend(forker.end()?);
    }
    let happened = pids.len() as u64;
    until("all are through", || Ok(stream.state()?.acked == happened))?;
    end(&mut forwarding)?;
    let (data, lost) = all(&server, "q", happened)?;
    check_eq!(children(&data)?, pids, "children (seed {seed})");
    check_eq!(lost, 0, "lost");
    say(format!(
        "{kills} kills of the server, {happened} events, each pushed once"
    ));
    Ok(())
}

fn flood_is_pushed_or_counted() -> Result<()> {
    let server = Server::redis(6425)?;
    let mut forker = Forker::new(None)?;
    let terms = format!("sources=fork,exit bytes=16384 tree={}", forker.pid());
    let stream = Made::new("flood", &terms)?;
    let mut random = Random::new(Random::seed()?);
    let mut forked = 0;
    for _ in 0..scale(5, 3) {
        forker.begin(80)?;
        let mut forwarding = start(&server, "flood")?;
        thread::sleep(Duration::from_micros(random.below(250_000) as u64));
        forwarding.kill()?;
        forwarding.wait()?;
        forked += forker.end()?.len();
    }
    forward_all(&server, "flood")?;
    let happened = stream.state()?.events;
    check_eq!(happened, 2 * forked as u64, "events that happened");
    let (data, lost) = all(&server, "q", happened)?;
    let told = data.iter().filter(|data| data["event"] != "loss").count() as u64;
    check_eq!(told + lost, happened, "delivered and lost");
    check!(lost > 0, "nothing was lost: the test shows nothing");
    say(format!(
        "{happened} events: {told} delivered, {lost} lost and counted"
    ));
    Ok(())
}

fn on_the_disk_if_asked_for() -> Result<()> {
    let options = ["--appendonly", "yes", "--appendfsync", "everysec"];
    let server = Server::start("redis-server", 6426, &options)?;
    let mut forker = Forker::new(None)?;
    let _stream = Made::new("disk", &format!("sources=fork tree={}", forker.pid()))?;
    let pids = forker.fork(5)?;
    let output = forward(&server, "disk", "q", "--durable --no-wait")?.output()?;
    ensure!(output.status.success(), "{output:?}");
    check_eq!(children(&all(&server, "q", 5)?.0)?, pids, "children");
    let calls: String = server.ask("INFO commandstats")?;
    check!(
        calls.contains("cmdstat_waitaof:calls=1,"),
        "nobody waited: {calls}"
    );
    drop(server);
    let server = Server::start("redis-server", 6426, &["--appendonly", "no"])?;
    forker.fork(1)?;
    let output = forward(&server, "disk", "q", "--durable --no-wait")?.output()?;
    check_eq!(
        output.status.code(),
        Some(1),
        "exit code without such a file"
    );
    let said = String::from_utf8_lossy(&output.stderr);
    check!(
        said.contains("appendonly") && said.contains("try: "),
        "it says {said}"
    );
    Ok(())
}

fn laravel_runs_its_jobs() -> Result<()> {
    let server = Server::redis(6427)?;
    let mut forker = Forker::new(None)?;
    let _stream = Made::new("php", &format!("sources=fork tree={}", forker.pid()))?;
    let pids = forker.fork(20)?;
    forward_all(&server, "php")?;
    let jobs = server.ready("q")?;
    let out = "/tmp/laravel-out";
    let _ = fs::remove_file(out);
    let output = laravel("work", &server, "q", &[out, "90", "1"])?.output()?;
    ensure!(output.status.success(), "Laravel's worker: {output:?}");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    let mut ran = Vec::new();
    for (line, job) in fs::read_to_string(out)?.lines().zip(&jobs) {
        let line: Value = serde_json::from_str(line)?;
        let job: Value = serde_json::from_slice(job)?;
        check_eq!(line["id"], job["id"], "id");
        check_eq!(line["data"], job["data"], "data");
        check_eq!(line["attempts"], 1, "attempts");
        ran.push(line["data"].clone());
    }
    check_eq!(children(&ran)?, pids, "children");
    Ok(())
}

fn from_the_kernel_to_a_command() -> Result<()> {
    let server = Server::redis(6428)?;
    let mut forker = Forker::new(None)?;
    let _stream = Made::new("way", &format!("sources=fork tree={}", forker.pid()))?;
    let mut forwarding = start(&server, "way")?;
    let out = "/tmp/way-out";
    let _ = fs::remove_file(out);
    let mut working = Command::new(module::beside("ravel")?)
        .args([
            "work",
            "--queue",
            "q",
            "--redis",
            &server.url(),
            "--count",
            "15",
        ])
        .args(["--", "sh", "-c", &format!("cat >>{out}; echo >>{out}")])
        .spawn()?;
    let pids = forker.fork(15)?;
    check_eq!(working.wait()?.code(), Some(0), "exit code of the worker");
    end(&mut forwarding)?;
    let data: Result<Vec<Value>, _> = fs::read_to_string(out)?
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).map(|job| job["data"].clone()))
        .collect();
    check_eq!(children(&data?)?, pids, "children");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    Ok(())
}

fn cluster_of_valkey() -> Result<()> {
    let options = [
        "--cluster-enabled",
        "yes",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
    ];
    let ports = [6431, 6432, 6433];
    let nodes: Vec<Server> = ports
        .iter()
        .map(|port| Server::start("valkey-server", *port, &options))
        .collect::<Result<_>>()?;
    for (node, slots) in nodes.iter().zip(["0 5460", "5461 10922", "10923 16383"]) {
        let _: String = node.ask(&format!("CLUSTER ADDSLOTSRANGE {slots}"))?;
        let _: String = node.ask(&format!("CLUSTER MEET 127.0.0.1 {}", nodes[0].port()))?;
    }
    until("the cluster is one", || {
        let whole = |node: &Server| -> Result<bool> {
            let info: String = node.ask("CLUSTER INFO")?;
            Ok(info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3"))
        };
        Ok(nodes
            .iter()
            .map(whole)
            .collect::<Result<Vec<_>>>()?
            .iter()
            .all(|whole| *whole))
    })?;
    let mut forker = Forker::new(None)?;
    let stream = Made::new("fleet", &format!("sources=fork tree={}", forker.pid()))?;
    // One of them has the keys; every one of them leads there.
    for (node, queue) in nodes.iter().zip(["{a}", "{b}", "x{c}y"]) {
        let pids = forker.fork(5)?;
        let output = forward(node, "fleet", queue, "--no-wait")?.output()?;
        ensure!(output.status.success(), "forward: {output:?}");
        let out = "/tmp/fleet-out";
        let _ = fs::remove_file(out);
        let output = Command::new(module::beside("ravel")?)
            .args([
                "work",
                "--queue",
                queue,
                "--redis",
                &node.url(),
                "--no-wait",
            ])
            .args(["--", "sh", "-c", &format!("cat >>{out}; echo >>{out}")])
            .output()?;
        ensure!(output.status.success(), "work: {output:?}");
        let data: Result<Vec<Value>, _> = fs::read_to_string(out)?
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).map(|job| job["data"].clone()))
            .collect();
        check_eq!(children(&data?)?, pids, "children by {queue}");
    }
    check_eq!(stream.state()?.acked, 15, "acknowledged");
    let output = forward(&nodes[0], "fleet", "plain", "--no-wait")?.output()?;
    check_eq!(
        output.status.code(),
        Some(1),
        "exit code of a queue without braces"
    );
    let said = String::from_utf8_lossy(&output.stderr);
    check!(
        said.contains("in one slot") && said.contains("braces"),
        "it says {said}"
    );
    Ok(())
}

fn what_cannot_be_is_a_sentence_and_exit_1() -> Result<()> {
    let server = Server::redis(6429)?;
    let mut forker = Forker::new(None)?;
    let stream = Made::new("kept", &format!("sources=fork tree={}", forker.pid()))?;
    forker.fork(3)?;
    let _: u32 = server.ask("SADD queues:set x")?;
    for (stream, queue, part) in [
        ("none", "q", "there is no stream \"none\""),
        ("kept", "set", "WRONGTYPE"),
    ] {
        let output = forward(&server, stream, queue, "--no-wait")?.output()?;
        check_eq!(
            output.status.code(),
            Some(1),
            "exit code of {stream} to {queue}"
        );
        let said = String::from_utf8_lossy(&output.stderr);
        check!(
            said.contains(part) && said.contains("try: "),
            "no {part:?} or no remedy in {said}"
        );
    }
    let state = stream.state()?;
    check_eq!(
        (state.ready, state.reserved, state.acked),
        (3, 0, 0),
        "events after all that"
    );
    Ok(())
}
