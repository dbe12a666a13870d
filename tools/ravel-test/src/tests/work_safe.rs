// SPDX-License-Identifier: GPL-2.0
//! `ravel work` and `ravel jobs`: workers that hang, servers that do not answer or refuse, scripts, passwords.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::work::{Notes, work, worker};
use super::work_ended::{fill, is_alive, runs};
use crate::module;
use crate::server::{Server, until};
use crate::sys;
use crate::tier::patience;
use crate::{check, check_eq, tests};

tests!("work" beside:
    stopped_worker_s_job_ends_before_another_runs_it [120 s],
    silent_server_s_job_ends_before_its_reservation [120 s],
    worker_that_hangs_on_its_output_loses_its_job [120 s],
    guard_is_there_after_an_upgrade,
    scripts_change_nothing_where_they_fail,
    long_queue_costs_nothing,
    scripts_are_sent_again_and_again,
    passwords_are_taken_in_every_form_and_never_shown,
    replica_is_not_waited_for,
    jobs_are_listed_by_state,
    retry_is_bounded,
    shared_memory_counts_once,
);

/// The pids that a run has noted, one a line.
fn pids(notes: &Notes, name: &str) -> Result<Vec<i32>> {
    let lines = notes.lines(name);
    Ok(lines
        .iter()
        .map(|line| line.parse())
        .collect::<Result<_, _>>()?)
}

/// A script that notes its pid and one of a child's, and whether an earlier run is alive; then waits.
fn lasting(notes: &Notes) -> String {
    format!(
        "for p in $(cat {0} 2>/dev/null); do \
         case $(cut -d' ' -f3 /proc/$p/stat 2>/dev/null) in ''|Z|X) ;; *) echo $p >>{1} ;; esac; done; \
         sleep 1000 & echo $! >>{0}; echo $$ >>{0}; test $RAVEL_ATTEMPT = 1 || exit 0; wait",
        notes.file("pids"),
        notes.file("alive"),
    )
}

fn stopped_worker_s_job_ends_before_another_runs_it() -> Result<()> {
    let server = Server::redis(6571)?;
    let notes = Notes::new()?;
    server.push("q", b"{\"id\":\"one\",\"attempts\":0}")?;
    let script = lasting(&notes);
    let first = worker(&server, "--retry-after 5", &script)?
        .stderr(Stdio::piped())
        .spawn()?;
    until("it runs", || Ok(notes.lines("pids").len() == 2))?;
    // At a moment in the middle of a renewal, or not.
    sys::kill(first.id() as i32, libc::SIGSTOP)?;
    let of_first = pids(&notes, "pids")?;
    let mut second = worker(&server, "--retry-after 5 --count 1", &script)?.spawn()?;
    check_eq!(second.wait()?.code(), Some(0), "exit code of the second");
    check_eq!(notes.lines("pids").len(), 4, "processes of two runs");
    check_eq!(notes.read("alive"), "", "alive when the second run began");
    for pid in of_first {
        check!(!is_alive(pid), "{pid} is alive");
    }
    sys::kill(first.id() as i32, libc::SIGCONT)?;
    sys::kill(first.id() as i32, libc::SIGTERM)?;
    let said = first.wait_with_output()?;
    check_eq!(said.status.code(), Some(0), "exit code of the first");
    let said = String::from_utf8(said.stderr)?;
    check!(said.contains("was given up"), "it says {said:?}");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    Ok(())
}

fn silent_server_s_job_ends_before_its_reservation() -> Result<()> {
    let server = Server::redis(6572)?;
    let notes = Notes::new()?;
    server.push("q", b"{\"id\":\"one\",\"attempts\":0}")?;
    let mut working = worker(&server, "--retry-after 5", &lasting(&notes))?
        .stderr(Stdio::null())
        .spawn()?;
    until("it runs", || Ok(notes.lines("pids").len() == 2))?;
    // It takes connections, and says nothing.
    let pid = server.pid().context("no server")? as i32;
    let ends = |server: &Server| -> Result<f64> {
        let all: Vec<(Vec<u8>, f64)> = server.ask("ZRANGE queues:q:reserved 0 -1 WITHSCORES")?;
        Ok(all.first().context("nothing is reserved")?.1)
    };
    let end = ends(&server)?;
    let now = || -> Result<f64> {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        Ok(time.as_secs_f64())
    };
    sys::kill(pid, libc::SIGSTOP)?;
    until("its processes are gone", || {
        Ok(!pids(&notes, "pids")?.into_iter().any(is_alive))
    })?;
    let late = now()? - end;
    sys::kill(pid, libc::SIGCONT)?;
    // It may have been renewed once more in between, which takes its end further still.
    check!(
        late.is_sign_negative(),
        "they ended {late:.2} s after their reservation"
    );
    until("another run has ended it", || {
        Ok(server.counts("q")? == [0, 0, 0, 0])
    })?;
    check_eq!(notes.read("alive"), "", "alive when the second run began");
    sys::kill(working.id() as i32, libc::SIGTERM)?;
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    Ok(())
}

fn worker_that_hangs_on_its_output_loses_its_job() -> Result<()> {
    let server = Server::redis(6573)?;
    let notes = Notes::new()?;
    // It says something of each, until the pipe that nobody reads is full; the last one lasts.
    let long = "x".repeat(150);
    for at in 0..600 {
        let job = format!("{{\"id\":\"{at}{long}\",\"attempts\":0,\"maxTries\":1,\"bad\":1}}");
        server.push("q", job.as_bytes())?;
    }
    let script = format!(
        "echo $$ >>{}; while read -r job; do echo failed; done",
        notes.file("pids")
    );
    let mut working = worker(&server, "--retry-after 5 --keep --prefetch 100", &script)?
        .stderr(Stdio::piped())
        .spawn()?;
    // The pipe is full once nothing is done any more.
    let mut before = server.counts("q")?;
    let mut since = Instant::now();
    until("it hangs", || {
        let now = server.counts("q")?;
        if now != before {
            (before, since) = (now, Instant::now());
        }
        Ok(before[3] > 0 && since.elapsed() > Duration::from_secs(2))
    })?;
    check!(before[0] + before[2] > 0, "it has never hung");
    let pids = pids(&notes, "pids")?;
    until("its command is gone", || {
        Ok(!pids.iter().any(|pid| is_alive(*pid)))
    })?;
    working.kill()?;
    working.wait()?;
    Ok(())
}

fn guard_is_there_after_an_upgrade() -> Result<()> {
    let server = Server::redis(6574)?;
    let notes = Notes::new()?;
    for name in ["ravel", "ravel-queue"] {
        fs::copy(module::beside(name)?, notes.file(name))?;
    }
    let mut working = Command::new(notes.file("ravel"))
        .args(["work", "--queue", "q", "--redis", &server.url()])
        .args(["--count", "1", "--", "true"])
        .spawn()?;
    until("it waits", || {
        Ok(server.ask::<u64>("EXISTS queues:q:ravel:workers")? == 1)
    })?;
    for name in ["ravel", "ravel-queue"] {
        fs::remove_file(notes.file(name))?;
    }
    server.push("q", b"{\"id\":\"one\",\"attempts\":0}")?;
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    Ok(())
}

fn scripts_change_nothing_where_they_fail() -> Result<()> {
    let server = Server::redis(6575)?;
    let _: u32 = server.ask("ZADD queues:q:delayed 1 {\"id\":1} 1 {\"id\":2}")?;
    let _: u32 = server.ask("RPUSH queues:q {\"id\":3}")?;
    for (key, with) in [
        ("queues:q:notify", "SADD queues:q:notify x"),
        ("queues:q:reserved", "SADD queues:q:reserved x"),
        ("queues:q:ravel:serial", "SADD queues:q:ravel:serial x"),
    ] {
        let _: u32 = server.ask(&format!("DEL {key}"))?;
        let _: u32 = server.ask(with)?;
        for _ in 0..2 {
            let output = worker(&server, "--no-wait", "true")?.output()?;
            check_eq!(output.status.code(), Some(1), "exit code with {key}");
            let said = String::from_utf8(output.stderr)?;
            check!(
                said.contains("WRONGTYPE") && said.contains(key) && !said.contains("script"),
                "it says {said:?}"
            );
        }
        let _: u32 = server.ask(&format!("DEL {key}"))?;
        check_eq!(server.counts("q")?, [1, 2, 0, 0], "jobs with {key}");
    }
    let _: String = server.ask("SET queues:q:ravel:serial x")?;
    let output = worker(&server, "--no-wait", "true")?.output()?;
    check_eq!(output.status.code(), Some(1), "exit code without a number");
    check_eq!(server.counts("q")?, [1, 2, 0, 0], "jobs without a number");
    let _: u32 = server.ask("DEL queues:q:ravel:serial")?;
    work(&server, "", "exit 0")?;
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    Ok(())
}

/// Whatever a worker has the server do takes no time for jobs that it does not move.
fn long_queue_costs_nothing() -> Result<()> {
    let server = Server::start("redis-server", 6576, &["--appendonly", "no"])?;
    let notes = Notes::new()?;
    let mut fill = redis::pipe();
    for at in 0..20_000 {
        let job = format!("{{\"id\":\"{at}\",\"attempts\":0}}");
        fill.cmd("RPUSH").arg("queues:q").arg(job).ignore();
    }
    fill.query::<()>(&mut server.connect()?)?;
    // One that is done when its reservation has been given to another, one that was lost, one that fails.
    let script = format!(
        "echo x >>{0}; sleep 2; test $(wc -l <{0}) != 2",
        notes.file("runs")
    );
    let mut working = worker(&server, "--count 3 --backoff 0", &script)?
        .stderr(Stdio::null())
        .spawn()?;
    until("it runs", || Ok(server.counts("q")?[2] == 1))?;
    let job: Vec<Vec<u8>> = server.ask("ZRANGE queues:q:reserved 0 0")?;
    let mut connection = server.connect()?;
    redis::cmd("ZREM")
        .arg("queues:q:reserved")
        .arg(&job[0])
        .query::<u32>(&mut connection)?;
    let lost = "{\"id\":\"lost\",\"attempts\":1}";
    let _: u32 = server.ask(&format!("ZADD queues:q:reserved 1 {lost}"))?;
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    let stats: String = server.ask("INFO commandstats")?;
    for name in ["lrem", "lpos", "linsert", "zscan", "zrank", "lindex"] {
        check!(
            !stats.contains(&format!("cmdstat_{name}:")),
            "{name}: {stats}"
        );
    }
    Ok(())
}

fn scripts_are_sent_again_and_again() -> Result<()> {
    let server = Server::redis(6577)?;
    let notes = Notes::new()?;
    fill(&server, 300)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let forgetting = scope.spawn(|| -> Result<u64> {
            let (mut connection, mut times) = (server.connect()?, 0);
            while !over.load(Ordering::Relaxed) {
                redis::cmd("SCRIPT")
                    .arg("FLUSH")
                    .query::<()>(&mut connection)?;
                times += 1;
            }
            Ok(times)
        });
        let script = format!(
            "while read -r job; do n=${{job#*:\\\"}}; echo ${{n%%\\\"*}} >>{}; echo done; done",
            notes.file("done")
        );
        let said = work(&server, "--keep --prefetch 3", &script);
        over.store(true, Ordering::Relaxed);
        let times = forgetting.join().map_err(|_| anyhow::anyhow!("panic"))??;
        check_eq!(said?, "", "what it says");
        check!(times > 100, "scripts were forgotten {times} times");
        Ok(())
    })?;
    check_eq!(runs(&notes, 300)?, vec![1; 300], "runs of each");
    Ok(())
}

const PASSWORD: &str = "p@ss/w:rd#%1?&= +x";
const ESCAPED: &str = "p%40ss%2Fw%3Ard%23%251%3F%26%3D%20%2Bx";

fn passwords_are_taken_in_every_form_and_never_shown() -> Result<()> {
    let notes = Notes::new()?;
    let socket = notes.file("socket");
    let server = Guarded::start(&notes)?;
    let (port, path) = (Guarded::PORT, notes.file("password"));
    fs::write(&path, format!("{PASSWORD}\n"))?;
    let ravel = |url: &str| -> Result<Command> {
        let mut command = Command::new(module::beside("ravel")?);
        command.args(["jobs", "--queue", "q", "--redis", url]);
        Ok(command)
    };
    let shows = |output: &Output| {
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let parts = ["p@ss", "w:rd", "p%40ss", "#%1", "rd%23"];
        (parts.iter().any(|part| said.contains(part)), said)
    };
    let plain = format!("redis://127.0.0.1:{port}/");
    let mut by_file = ravel(&plain)?;
    by_file.args(["--password-file", &path]);
    let mut by_variable = ravel(&plain)?;
    by_variable.env("RAVEL_REDIS_PASSWORD", PASSWORD);
    for mut command in [
        ravel(&format!("redis://:{ESCAPED}@127.0.0.1:{port}"))?,
        ravel(&format!("redis://default:{ESCAPED}@127.0.0.1:{port}/0"))?,
        ravel(&format!("redis+unix://{socket}?pass={ESCAPED}"))?,
        by_file,
        by_variable,
    ] {
        let output = command.output()?;
        let (_, said) = shows(&output);
        check_eq!(output.status.code(), Some(0), "exit code: {said}");
    }
    for (url, part) in [
        (format!("redis://:{PASSWORD}@127.0.0.1:{port}/"), "%2F"),
        (format!("redis://:p@ss@127.0.0.1:{port}/"), "%40"),
        (format!("redis+unix://{socket}?password={ESCAPED}"), "pass="),
        (
            format!("redis+unix://{socket}?pass={ESCAPED}x"),
            "WRONGPASS",
        ),
        (format!("redis://:{ESCAPED}x@127.0.0.1:{port}"), "WRONGPASS"),
        (format!("redis://:{ESCAPED}@127.0.0.1:1"), "refused"),
        (format!("redis+unix:///none?pass={ESCAPED}"), "No such file"),
        (plain.clone(), "--password-file"),
    ] {
        let output = ravel(&url)?.output()?;
        let (shown, said) = shows(&output);
        check_eq!(output.status.code(), Some(1), "exit code of {url}");
        check!(!shown, "{url}: the password is shown: {said}");
        check!(
            said.contains(part) && said.contains("try: "),
            "{url}: {said}"
        );
    }
    // Not in the list of processes, nor in a job's environment.
    server.push("{\"id\":\"one\",\"attempts\":0}")?;
    let out = notes.file("environment");
    let mut working = Command::new(module::beside("ravel")?)
        .args(["work", "--queue", "q", "--redis", &plain, "--no-wait"])
        .args([
            "--",
            "sh",
            "-c",
            &format!("env >{out}; cat /proc/$PPID/cmdline >>{out}"),
        ])
        .env("RAVEL_REDIS_PASSWORD", PASSWORD)
        .spawn()?;
    check_eq!(working.wait()?.code(), Some(0), "exit code of the worker");
    let text = notes.read("environment");
    check!(text.contains("RAVEL_JOB=one"), "it was not run: {text}");
    check!(!text.contains("p@ss"), "the password is in {text}");
    Ok(())
}

/// A server with a password.
struct Guarded(std::process::Child);

impl Guarded {
    const PORT: u16 = 6578;

    fn start(notes: &Notes) -> Result<Self> {
        let child = Command::new("redis-server")
            .args(["--port", &Self::PORT.to_string(), "--save", ""])
            .args(["--unixsocket", &notes.file("socket")])
            .args(["--requirepass", PASSWORD, "--loglevel", "warning"])
            .stdout(Stdio::null())
            .spawn()?;
        let server = Self(child);
        until("it answers", || Ok(server.ask(&["PING"])? == "PONG\n"))?;
        Ok(server)
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("redis-cli")
            .args(["-p", &Self::PORT.to_string(), "--no-auth-warning"])
            .args(["-a", PASSWORD])
            .args(words)
            .output()?;
        Ok(String::from_utf8(output.stdout)?)
    }

    fn push(&self, job: &str) -> Result<()> {
        let said = self.ask(&["RPUSH", "queues:q", job])?;
        ensure!(said == "1\n", "it says {said:?}");
        Ok(())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn replica_is_not_waited_for() -> Result<()> {
    let server = Server::start("redis-server", 6579, &["--appendonly", "no"])?;
    server.push("q", b"{\"id\":\"one\",\"attempts\":0}")?;
    let _: String = server.ask("REPLICAOF 127.0.0.1 1")?;
    let start = Instant::now();
    let output = worker(&server, "--no-wait", "true")?.output()?;
    check!(
        start.elapsed() < patience(30),
        "it took {:?}",
        start.elapsed()
    );
    check_eq!(output.status.code(), Some(1), "exit code");
    let said = String::from_utf8(output.stderr)?;
    check!(
        said.contains("a replica (READONLY)")
            && !said.contains("script")
            && !said.contains("again\nravel: Redis"),
        "it says {said:?}"
    );
    // Without that option it is waited for, and recovery is said once it is there.
    let mut working = worker(&server, "--count 1", "true")?
        .stderr(Stdio::piped())
        .spawn()?;
    thread::sleep(Duration::from_secs(2));
    let _: String = server.ask("REPLICAOF NO ONE")?;
    check_eq!(working.wait()?.code(), Some(0), "exit code of the second");
    let said = String::from_utf8(working.wait_with_output()?.stderr)?;
    check_eq!(said.matches("READONLY").count(), 1, "refusals in {said:?}");
    check_eq!(
        said.matches("answers again").count(),
        1,
        "recoveries in {said:?}"
    );
    Ok(())
}

fn jobs_are_listed_by_state() -> Result<()> {
    let server = Server::redis(6480)?;
    let notes = Notes::new()?;
    for id in 1..=5 {
        let job = format!(
            "{{\"uuid\":\"u{id}\",\"displayName\":\"App\\\\Test\",\"id\":\"id{id}\",\"attempts\":0}}"
        );
        server.push("q", job.as_bytes())?;
    }
    let _: u32 = server.ask("ZADD queues:q:delayed 4000000000 {\"id\":\"id6\",\"attempts\":0}")?;
    let script = format!("echo $RAVEL_JOB >>{}; sleep 1000", notes.file("runs"));
    let mut working = worker(&server, "--retry-after 15", &script)?.spawn()?;
    until("it runs", || Ok(!notes.lines("runs").is_empty()))?;
    check_eq!(notes.lines("runs"), ["id1"], "RAVEL_JOB");
    let jobs = |options: &[&str]| -> Result<String> {
        let output = Command::new(module::beside("ravel")?)
            .args(["jobs", "--queue", "q", "--redis", &server.url()])
            .args(options)
            .output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let shown = jobs(&[])?;
    check!(
        shown.starts_with("q: 4 ready, 1 reserved, 1 delayed, 0 failed\n"),
        "it shows {shown}"
    );
    let pid = working.id();
    for part in [
        "id6",
        "due in ",
        "id1",
        "expires in 1",
        &format!("by pid {pid} on {}", host.trim()),
    ] {
        check!(shown.contains(part), "no {part:?} in {shown}");
    }
    let all: Vec<Value> = jobs(&["--json"])?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let of = |state: &str| {
        all.iter()
            .filter(|job| job["state"] == state)
            .collect::<Vec<_>>()
    };
    check_eq!(of("ready").len(), 4, "ready");
    check_eq!(of("ready")[3]["id"], "id5", "the last that is ready");
    check_eq!(of("delayed")[0]["due_at"], 4_000_000_000_u64, "due");
    let reserved = of("reserved")[0];
    let set: Vec<(Vec<u8>, u64)> = server.ask("ZRANGE queues:q:reserved 0 -1 WITHSCORES")?;
    check!(
        reserved["expires_at"]
            .as_u64()
            .is_some_and(|end| end <= set[0].1 && end + 15 > set[0].1),
        "{reserved} and {set:?}"
    );
    check_eq!(reserved["pid"], pid, "pid");
    check_eq!(reserved["host"], host.trim(), "host");
    check_eq!(reserved["attempts"], 1, "attempts");
    check_eq!(
        reserved["job"],
        "{\"uuid\":\"u1\",\"displayName\":\"App\\\\Test\",\"id\":\"id1\",\"attempts\":1}",
        "job"
    );
    check_eq!(
        jobs(&["--state", "ready", "--json", "--limit", "2"])?
            .lines()
            .count(),
        2,
        "lines"
    );
    check!(
        jobs(&["--limit", "1"])?.contains("+ 3 more ready"),
        "what is left out is not named"
    );
    working.kill()?;
    working.wait()?;
    Ok(())
}

fn retry_is_bounded() -> Result<()> {
    let server = Server::redis(6481)?;
    let notes = Notes::new()?;
    for at in 0..150 {
        let mut command = redis::cmd("XADD");
        command.arg("queues:q:ravel:failed").arg("*").arg("job");
        command.arg(format!("{{\"id\":\"{at}\",\"attempts\":1}}"));
        command.query::<String>(&mut server.connect()?)?;
    }
    let script = format!(
        "while read -r job; do echo x >>{}; echo failed; done",
        notes.file("runs")
    );
    let options = "--tries 1 --keep --prefetch 100";
    let mut working = worker(&server, options, &script)?
        .stderr(Stdio::null())
        .spawn()?;
    let output = Command::new(module::beside("ravel")?)
        .args(["jobs", "--queue", "q", "--redis", &server.url(), "--retry"])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    until("all have failed again", || {
        Ok(server.counts("q")? == [0, 0, 0, 150])
    })?;
    sys::kill(working.id() as i32, libc::SIGTERM)?;
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    check_eq!(notes.lines("runs").len(), 150, "runs");
    Ok(())
}

fn shared_memory_counts_once() -> Result<()> {
    let server = Server::redis(6482)?;
    let notes = Notes::new()?;
    server.push("q", b"{\"id\":\"family\",\"attempts\":0}")?;
    let script = format!(
        "exec python3 -c '\nimport os, time\nx = b\"x\" * 60000000\nfor _ in range(5):\n  if os.fork() == 0:\n    time.sleep(3)\n    os._exit(0)\ntime.sleep(2)\nopen(\"{}\", \"w\").write(\"whole\")\n'",
        notes.file("done")
    );
    let said = work(&server, "--tries 1 --memory 150", &script)?;
    check_eq!(said, "", "what it says");
    check_eq!(notes.read("done"), "whole", "what it wrote");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    // What is each one's own counts for each.
    server.push("q", b"{\"id\":\"own\",\"attempts\":0}")?;
    let script = "exec python3 -c '\nimport os, time\nfor _ in range(5):\n  if os.fork() == 0:\n    x = b\"x\" * 60000000\n    time.sleep(1000)\ntime.sleep(1000)\n'";
    let said = work(&server, "--tries 1 --memory 150", script)?;
    check!(
        said.contains("MiB of memory, more than 150"),
        "it says {said:?}"
    );
    Ok(())
}
