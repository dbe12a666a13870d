// SPDX-License-Identifier: GPL-2.0
//! `ravel work` on a real Redis: no job is lost, none runs twice without need, and all that Laravel's own
//! worker does to its queue is understood.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::module;
use crate::server::{Server, laravel, until};
use crate::sys;
use crate::tier::patience;
use crate::{check, check_eq, tests};

tests!("work" beside:
    what_is_no_job_is_kept_and_what_has_no_attempts_is_run,
    equal_jobs_are_as_many_as_they_are,
    every_byte_stays_over_all_attempts,
    producer_without_notify_is_served,
    due_jobs_move_in_chunks,
    fails_with_backoff_and_is_stored,
    laravel_s_jobs_are_run,
    what_cannot_be_is_a_sentence_and_exit_1,
);

/// A folder for what jobs write.
pub(super) struct Notes(pub(super) PathBuf);

impl Notes {
    pub(super) fn new() -> Result<Self> {
        let path = PathBuf::from(format!("/tmp/notes-{}", sys::getpid()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    pub(super) fn lines(&self, name: &str) -> Vec<String> {
        self.read(name).lines().map(str::to_owned).collect()
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A worker of queue `q` that runs a script of the shell for each job.
pub(super) fn worker(server: &Server, options: &str, script: &str) -> Result<Command> {
    let mut command = Command::new(module::beside("ravel")?);
    command
        .args(["work", "--queue", "q", "--redis", &server.url()])
        .args(options.split_whitespace())
        .args(["--", "sh", "-c", script])
        .stdin(Stdio::null());
    Ok(command)
}

/// What `ravel jobs` says.
fn jobs(server: &Server, options: &[&str]) -> Result<String> {
    let output = Command::new(module::beside("ravel")?)
        .args(["jobs", "--queue", "q", "--redis", &server.url()])
        .args(options)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Works off what there is: what it says.
pub(super) fn work(server: &Server, options: &str, script: &str) -> Result<String> {
    let output = worker(server, &format!("--no-wait {options}"), script)?.output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(said)
}

pub(super) fn field<'f>(fields: &'f [(String, Vec<u8>)], name: &str) -> Result<&'f [u8]> {
    let found = fields.iter().find(|(key, _)| key == name);
    Ok(&found.with_context(|| format!("no {name} in {fields:?}"))?.1)
}

fn what_is_no_job_is_kept_and_what_has_no_attempts_is_run() -> Result<()> {
    let server = Server::redis(6401)?;
    let notes = Notes::new()?;
    let bad: [&[u8]; 4] = [b"not json", b"[1,2]", b"{\"a\":", b"\x00\xff{}"];
    for job in bad {
        server.push("q", job)?;
    }
    server.push("q", b"{\"job\":\"x\",\"data\":[]}")?;
    server.push("q", b"{\"attempts\":null}")?;
    let out = notes.file("out");
    work(
        &server,
        "",
        &format!("cat >>{out}; echo >>{out}; echo $RAVEL_ATTEMPT >>{out}"),
    )?;
    let wanted = [
        "{\"job\":\"x\",\"data\":[],\"attempts\":1}",
        "1",
        "{\"attempts\":null,\"attempts\":1}",
        "1",
    ];
    check_eq!(notes.lines("out"), wanted, "what was run");
    check_eq!(server.counts("q")?, [0, 0, 0, 4], "jobs by their states");
    for (fields, job) in server.failed("q")?.iter().zip(bad) {
        check_eq!(field(fields, "job")?, job, "what was stored");
        let why = String::from_utf8_lossy(field(fields, "why")?).into_owned();
        check!(why.starts_with("it is no job: "), "why is {why:?}");
    }
    Ok(())
}

fn equal_jobs_are_as_many_as_they_are() -> Result<()> {
    let server = Server::redis(6402)?;
    let notes = Notes::new()?;
    for _ in 0..3 {
        server.push("q", b"{\"id\":\"same\",\"attempts\":0}")?;
    }
    // All reserved at once, then all delayed at once.
    let script = format!(
        "echo x >>{0}; while ! test -e {1}; do sleep 0.1; done; exit 1",
        notes.file("runs"),
        notes.file("go")
    );
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(worker(&server, "--count 1 --backoff 3600", &script)?.spawn()?);
    }
    until("three are reserved", || Ok(server.counts("q")?[2] == 3))?;
    fs::write(notes.file("go"), "")?;
    for worker in &mut workers {
        check_eq!(worker.wait()?.code(), Some(0), "exit code");
    }
    check_eq!(server.counts("q")?, [0, 3, 0, 0], "jobs by their states");
    // Their time has come.
    for job in server.ask::<Vec<Vec<u8>>>("ZRANGE queues:q:delayed 0 -1")? {
        let mut command = redis::cmd("ZADD");
        command.arg("queues:q:delayed").arg(1).arg(job);
        command.query::<u32>(&mut server.connect()?)?;
    }
    work(&server, "", &format!("echo x >>{}", notes.file("runs")))?;
    check_eq!(notes.lines("runs").len(), 6, "runs");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    Ok(())
}

fn every_byte_stays_over_all_attempts() -> Result<()> {
    let server = Server::redis(6403)?;
    let notes = Notes::new()?;
    let job = |numbers: &str| {
        format!(
            "{{\"z\":[],\"o\":{{}},\"n\":12345678901234567890,\"f\":0.10,\"u\":\"\\u00e9\\/é\", {numbers} }}"
        )
    };
    server.push("q", job("\"attempts\":0,\"a\":1").as_bytes())?;
    let out = notes.file("out");
    let script = format!("cat >>{out}; echo >>{out}; test $RAVEL_ATTEMPT = 3");
    work(&server, "--backoff 0", &script)?;
    let wanted = [
        job("\"attempts\":1,\"a\":1"),
        job("\"attempts\":2,\"a\":1").replace(" }", " ,\"failures\":1}"),
        job("\"attempts\":3,\"a\":1").replace(" }", " ,\"failures\":2}"),
    ];
    check_eq!(notes.lines("out"), wanted, "what the runs read");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    Ok(())
}

fn producer_without_notify_is_served() -> Result<()> {
    let server = Server::redis(6406)?;
    let notes = Notes::new()?;
    let mut waiting = worker(
        &server,
        "--count 2",
        &format!("echo x >>{}", notes.file("runs")),
    )?
    .spawn()?;
    thread::sleep(patience(2));
    let start = Instant::now();
    server.push("q", b"{\"id\":\"a\"}")?;
    until("it was run", || Ok(!notes.lines("runs").is_empty()))?;
    check!(
        start.elapsed() < patience(8),
        "it took {:?}",
        start.elapsed()
    );
    // And one whose time comes while the worker waits.
    let now: (u64, u64) = server.ask("TIME")?;
    let _: u32 = server.ask(&format!("ZADD queues:q:delayed {} {{\"id\":2}}", now.0 + 2))?;
    check_eq!(waiting.wait()?.code(), Some(0), "exit code");
    check_eq!(notes.lines("runs").len(), 2, "runs");
    check!(
        server.ask::<(u64, u64)>("TIME")?.0 >= now.0 + 2,
        "run before its time"
    );
    Ok(())
}

fn due_jobs_move_in_chunks() -> Result<()> {
    let server = Server::redis(6407)?;
    let mut fill = redis::pipe();
    for at in 0..250 {
        fill.zadd("queues:q:delayed", format!("{{\"id\":{at}}}"), 1)
            .ignore();
        fill.zadd(
            "queues:q:reserved",
            format!("{{\"id\":{at},\"attempts\":1}}"),
            1,
        )
        .ignore();
    }
    fill.query::<()>(&mut server.connect()?)?;
    work(&server, "--count 1", "exit 0")?;
    check_eq!(server.counts("q")?, [100, 150, 249, 0], "jobs after one");
    check_eq!(server.ask::<u64>("LLEN queues:q:notify")?, 100, "tokens");
    work(&server, "--count 2", "exit 0")?;
    check_eq!(server.counts("q")?, [250, 0, 247, 0], "jobs after three");
    Ok(())
}

fn fails_with_backoff_and_is_stored() -> Result<()> {
    let server = Server::redis(6408)?;
    let notes = Notes::new()?;
    server.push(
        "q",
        b"{\"uuid\":\"sad\",\"backoff\":\"1,3\",\"attempts\":0}",
    )?;
    let script = format!("date +%s.%N >>{}; exit 7", notes.file("times"));
    let mut working = worker(&server, "--tries 3", &script)?
        .stderr(Stdio::piped())
        .spawn()?;
    until("it has failed", || Ok(server.counts("q")?[3] == 1))?;
    sys::kill(working.id() as i32, libc::SIGTERM)?;
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    check_eq!(server.counts("q")?, [0, 0, 0, 1], "jobs at the end");
    let times: Vec<f64> = notes
        .lines("times")
        .iter()
        .map(|line| line.parse())
        .collect::<Result<_, _>>()?;
    check_eq!(times.len(), 3, "runs");
    // Seconds are counted whole, and so a pause may be one shorter.
    check!(
        times[1] - times[0] > 0.0 && times[2] - times[1] > 2.0,
        "times are {times:?}"
    );
    let failed = server.failed("q")?;
    let wanted = "{\"uuid\":\"sad\",\"backoff\":\"1,3\",\"attempts\":3,\"failures\":2}";
    check_eq!(field(&failed[0], "job")?, wanted.as_bytes(), "the job");
    for (name, wanted) in [("why", "exit code 7"), ("id", "sad"), ("attempts", "3")] {
        check_eq!(field(&failed[0], name)?, wanted.as_bytes(), "{name}");
    }
    // It is shown, and run again as if it were new.
    let shown = jobs(&server, &["--json"])?;
    let shown: Value = serde_json::from_str(&shown)?;
    check_eq!(shown["job"], wanted, "the job that is shown");
    let entry = shown["entry"].as_str().context("no entry")?;
    check!(
        jobs(&server, &[])?.contains("exit code 7"),
        "it is not shown"
    );
    check!(
        jobs(&server, &["--retry", "--id", "1-1"]).is_err(),
        "an entry that is not there"
    );
    check_eq!(
        jobs(&server, &["--retry", "--id", entry])?,
        "",
        "what is said of a retry"
    );
    check_eq!(server.counts("q")?, [1, 0, 0, 0], "jobs after the retry");
    let new = "{\"uuid\":\"sad\",\"backoff\":\"1,3\",\"attempts\":0,\"failures\":0}";
    check_eq!(server.ready("q")?, [new.as_bytes()], "the job");
    work(&server, "--tries 1", "exit 1")?;
    jobs(&server, &["--clear"])?;
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs after all");
    Ok(())
}

fn laravel_s_jobs_are_run() -> Result<()> {
    let server = Server::redis(6413)?;
    let notes = Notes::new()?;
    ensure!(
        laravel("push", &server, "q", &["0", "5", "0"])?
            .status()?
            .success(),
        "Laravel cannot push"
    );
    ensure!(
        laravel("push", &server, "q", &["5", "3", "1"])?
            .status()?
            .success(),
        "Laravel cannot push"
    );
    let out = notes.file("out");
    let script = format!("cat >>{out}; echo >>{out}; test $RAVEL_ATTEMPT != 1 || exit 1");
    let status = worker(&server, "--count 16 --backoff 1", &script)?
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "{status}");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    let mut seen = Vec::new();
    for line in notes.lines("out") {
        let job: Value = serde_json::from_str(&line)?;
        check_eq!(job["job"], "RavelEvent@handle", "handler");
        check!(
            line.contains("\"list\":[],\"large\":1234567890123456789}"),
            "it was changed: {line}"
        );
        let attempts = job["attempts"].as_u64().context("no attempts")?;
        seen.push((
            job["data"]["number"].as_u64().context("no number")?,
            attempts,
        ));
    }
    seen.sort_unstable();
    let wanted: Vec<(u64, u64)> = (0..8)
        .flat_map(|number| [(number, 1), (number, 2)])
        .collect();
    check_eq!(seen, wanted, "numbers and attempts");
    // A worker of Laravel's takes what ours gave back.
    ensure!(
        laravel("push", &server, "q", &["20", "1", "0"])?
            .status()?
            .success(),
        "Laravel cannot push"
    );
    work(&server, "--count 1 --backoff 0", "exit 1")?;
    let theirs = notes.file("theirs");
    ensure!(
        laravel("work", &server, "q", &[&theirs, "90", "3"])?
            .status()?
            .success(),
        "Laravel cannot work"
    );
    let line: Value = serde_json::from_str(&notes.read("theirs"))?;
    check_eq!(line["attempts"], 2, "attempts as Laravel counts them");
    check_eq!(line["data"]["number"], 20, "number");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the very end");
    Ok(())
}

fn what_cannot_be_is_a_sentence_and_exit_1() -> Result<()> {
    let server = Server::redis(6417)?;
    let _: u32 = server.ask("SADD queues:q x")?;
    let url = server.url();
    for (url, command, part) in [
        ("redis://127.0.0.1:1/", "true", "refused"),
        ("http://127.0.0.1/", "true", "--redis http://"),
        (&url, "true", "WRONGTYPE"),
    ] {
        let output = Command::new(module::beside("ravel")?)
            .args(["work", "--queue", "q", "--redis", url, "--", command])
            .output()?;
        check_eq!(output.status.code(), Some(1), "exit code of {url}");
        let said = String::from_utf8_lossy(&output.stderr);
        check!(
            said.contains(part) && said.contains("try: "),
            "no {part:?} or no remedy in {said}"
        );
    }
    for options in ["--prefetch 5", "--keep --prefetch 5 --lost 1"] {
        let output = worker(&server, options, "exit 0")?.output()?;
        check_eq!(output.status.code(), Some(1), "exit code of {options}");
        let said = String::from_utf8_lossy(&output.stderr);
        check!(
            said.contains("--prefetch") && said.contains("try: "),
            "no remedy in {said}"
        );
    }
    let _: u32 = server.ask("DEL queues:q")?;
    server.push("q", b"{\"attempts\":0}")?;
    let output = Command::new(module::beside("ravel")?)
        .args(["work", "--queue", "q", "--redis", &url, "--", "/none/such"])
        .output()?;
    check_eq!(output.status.code(), Some(1), "exit code of no command");
    let said = String::from_utf8_lossy(&output.stderr);
    check!(
        said.contains("cannot run \"/none/such\"") && said.contains("try: "),
        "it says {said}"
    );
    check_eq!(server.counts("q")?, [1, 0, 0, 0], "jobs: none was to blame");
    Ok(())
}
