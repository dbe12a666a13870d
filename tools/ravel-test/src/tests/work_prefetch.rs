// SPDX-License-Identifier: GPL-2.0
//! `ravel work --keep --prefetch` on a real Redis: jobs that a worker has ahead are nobody's fault, and nobody's loss.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::work::{Notes, field, worker};
use crate::server::{Server, laravel, until};
use crate::sys;
use crate::{check, check_eq, tests};

tests!("work" beside:
    job_at_hand_alone_is_to_blame,
    time_limit_begins_with_a_job_s_turn,
    jobs_ahead_stay_reserved [120 s],
    job_ahead_that_is_lost_is_not_run [120 s],
    large_jobs_are_written_as_there_is_room,
    large_command_does_what_it_has,
    count_is_never_exceeded,
    equal_jobs_ahead_are_as_many_as_they_are,
    attempts_are_found_wherever_they_stand,
    queue_is_shared_with_laravel,
);

/// Does what a job's id says, and notes it: once it is begun, and once it is done.
pub(super) const DEEDS: &str = r#"echo $$ >>$0/starts
while read -r job; do
	id=${job#*\"id\":\"}
	id=${id%%\"*}
	echo "$id" >>$0/begun
	case $id in
	bad) echo "failed so it is"; continue ;;
	die) exit 3 ;;
	hang) sleep 1000 ;;
	0kill) kill -9 $PPID; sleep 1000 ;;
	odd) echo well; sleep 1000 ;;
	slow?) sleep 2 ;;
	long) sleep 9 ;;
	wait) while ! test -e $0/go; do sleep 0.1; done ;;
	eats) x=x; while [ ${#x} -lt 40000000 ]; do x=$x$x; done ;;
	esac
	printf '%s\n' "$job" >>$0/jobs
	echo "$id" >>$0/done
	echo done
done
echo end >>$0/ends"#;

pub(super) fn ahead(server: &Server, notes: &Notes, options: &str) -> Result<Command> {
    let mut command = worker(server, &format!("--keep {options}"), DEEDS)?;
    command.arg(&notes.0).stderr(Stdio::piped());
    Ok(command)
}

/// Works off what there is: what it says.
fn work(server: &Server, notes: &Notes, options: &str) -> Result<String> {
    let output = ahead(server, notes, &format!("--no-wait {options}"))?.output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(said)
}

fn job(id: &str) -> String {
    format!("{{\"id\":\"{id}\",\"attempts\":0}}")
}

pub(super) fn push(server: &Server, ids: &[&str]) -> Result<()> {
    ids.iter()
        .try_for_each(|id| server.push("q", job(id).as_bytes()))
}

/// The jobs that are ready, by their ids, where each is as it was pushed.
pub(super) fn ready(server: &Server) -> Result<Vec<String>> {
    let id = |text: Vec<u8>| -> Result<String> {
        let text = String::from_utf8(text)?;
        let id = text.split('"').nth(3).unwrap_or_default().to_owned();
        // White space tells reservations apart.
        check!(
            text.trim_end().starts_with(&format!("{{\"id\":\"{id}\","))
                && text.contains("\"attempts\":0}"),
            "{text:?} has changed"
        );
        Ok(id)
    };
    server.ready("q")?.into_iter().map(id).collect()
}

fn job_at_hand_alone_is_to_blame() -> Result<()> {
    let server = Server::redis(6461)?;
    let notes = Notes::new()?;
    push(
        &server,
        &[
            "1", "bad", "2", "die", "3", "4", "hang", "5", "odd", "6", "7",
        ],
    )?;
    let said = work(&server, &notes, "--prefetch 20 --tries 1 --timeout 2")?;
    for part in [
        "\"bad\" so it is;",
        "\"die\" it ended without an answer;",
        "\"hang\" it took longer than 2 s;",
        "\"odd\" it answered \"well\";",
    ] {
        check!(said.contains(part), "no {part:?} in {said}");
    }
    check_eq!(said.lines().count(), 4, "lines of {said}");
    check_eq!(server.counts("q")?, [0, 0, 0, 4], "jobs at the end");
    check_eq!(
        notes.lines("done"),
        ["1", "2", "3", "4", "5", "6", "7"],
        "jobs done, in their order"
    );
    let wanted: Vec<_> = notes
        .lines("done")
        .iter()
        .map(|id| job(id).replace(":0}", ":1}"))
        .collect();
    check_eq!(notes.lines("jobs"), wanted, "what those had who read them");
    check_eq!(notes.lines("starts").len(), 4, "starts");
    Ok(())
}

fn time_limit_begins_with_a_job_s_turn() -> Result<()> {
    let server = Server::redis(6462)?;
    let notes = Notes::new()?;
    push(&server, &["slow1", "slow2", "slow3", "slow4"])?;
    // Those behind have waited for longer than they may take.
    let said = work(&server, &notes, "--prefetch 4 --tries 1 --timeout 5")?;
    check_eq!(said, "", "what it says");
    check_eq!(notes.lines("done").len(), 4, "jobs done");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    Ok(())
}

fn jobs_ahead_stay_reserved() -> Result<()> {
    let server = Server::redis(6463)?;
    let notes = Notes::new()?;
    let ids = ["long", "1", "2", "3"];
    push(&server, &ids)?;
    let first = ahead(&server, &notes, "--prefetch 4 --count 4 --retry-after 5")?.spawn()?;
    until("it has all of them", || Ok(server.counts("q")?[2] == 4))?;
    let mut second = ahead(&server, &notes, "--prefetch 4 --retry-after 5")?.spawn()?;
    let output = first.wait_with_output()?;
    ensure!(output.status.success(), "{output:?}");
    check_eq!(notes.lines("done"), ids, "jobs, each once");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    sys::kill(second.id() as i32, libc::SIGTERM)?;
    check_eq!(second.wait()?.code(), Some(0), "exit code");
    Ok(())
}

fn job_ahead_that_is_lost_is_not_run() -> Result<()> {
    let server = Server::redis(6464)?;
    let notes = Notes::new()?;
    push(&server, &["wait", "1", "2", "3"])?;
    let working = ahead(&server, &notes, "--prefetch 4 --count 4 --retry-after 5")?.spawn()?;
    until("it is at work", || Ok(!notes.lines("begun").is_empty()))?;
    // Another has the third.
    let lost = server.ask::<Vec<Vec<u8>>>("ZRANGE queues:q:reserved 0 -1")?;
    let lost = lost.iter().find(|job| job.starts_with(b"{\"id\":\"2\""));
    let mut command = redis::cmd("ZREM");
    command.arg("queues:q:reserved").arg(lost);
    check_eq!(command.query::<u32>(&mut server.connect()?)?, 1, "removed");
    until("the first is begun anew", || {
        Ok(notes.lines("begun").len() == 2)
    })?;
    fs::write(notes.file("go"), "")?;
    let output = working.wait_with_output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.success(), "{said}");
    check_eq!(notes.lines("done"), ["wait", "1", "3"], "jobs done");
    check!(
        said.starts_with("ravel: job \"2\" was given up: ") && said.lines().count() == 1,
        "it says {said}"
    );
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    Ok(())
}

/// A job that a pipe has room for once, but not twice.
pub(super) fn large(id: &str, len: usize) -> String {
    let data = "x".repeat(len);
    format!("{{\"id\":\"{id}\",\"data\":\"{data}\",\"attempts\":0}}")
}

fn large_jobs_are_written_as_there_is_room() -> Result<()> {
    let server = Server::redis(6465)?;
    let notes = Notes::new()?;
    let ids: Vec<String> = (0..12).map(|at| at.to_string()).collect();
    for (at, id) in ids.iter().enumerate() {
        let len = [10, 40_000, 150_000][at % 3];
        server.push("q", large(id, len).as_bytes())?;
    }
    let said = work(&server, &notes, "--prefetch 8")?;
    check_eq!(said, "", "what it says");
    check_eq!(notes.lines("done"), ids, "jobs done");
    let lengths: Vec<usize> = notes.lines("jobs").iter().map(String::len).collect();
    let wanted: Vec<usize> = (0..12)
        .map(|at| large(&ids[at], [10, 40_000, 150_000][at % 3]).len())
        .collect();
    check_eq!(lengths, wanted, "bytes of the jobs");
    // More than it takes at once.
    for id in &ids {
        server.push("q", large(id, 400_000).as_bytes())?;
    }
    let mut working = ahead(&server, &notes, "--prefetch 12")?.spawn()?;
    until("it has some", || Ok(server.counts("q")?[2] > 0))?;
    let most = server.counts("q")?[2];
    check!(most <= 3, "it took {most} of 400 KB at once");
    for _ in 0..2 {
        sys::kill(working.id() as i32, libc::SIGTERM)?;
        thread::sleep(Duration::from_millis(100));
    }
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    check_eq!(server.counts("q")?[2], 0, "reserved");
    Ok(())
}

fn large_command_does_what_it_has() -> Result<()> {
    let server = Server::redis(6466)?;
    let notes = Notes::new()?;
    let ids = ["1", "eats", "2", "3", "4", "5", "6", "7"];
    push(&server, &ids)?;
    let said = work(
        &server,
        &notes,
        "--prefetch 4 --memory 30 --timeout 0 --tries 1",
    )?;
    check_eq!(said, "", "what it says");
    check_eq!(notes.lines("done"), ids, "jobs done");
    check_eq!(notes.lines("begun"), ids, "jobs begun");
    check_eq!(notes.lines("starts").len(), 2, "starts");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    Ok(())
}

fn count_is_never_exceeded() -> Result<()> {
    let server = Server::redis(6470)?;
    let notes = Notes::new()?;
    let ids: Vec<String> = (0..20).map(|at| at.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    push(&server, &ids)?;
    for (prefetch, count, done) in [(5, 7, 7), (100, 3, 10), (2, 1, 11)] {
        let options = format!("--prefetch {prefetch} --count {count}");
        check_eq!(work(&server, &notes, &options)?, "", "what it says");
        check_eq!(notes.lines("done"), ids[..done], "jobs done");
        check_eq!(ready(&server)?, ids[done..], "what is ready");
        check_eq!(server.counts("q")?[2], 0, "reserved");
    }
    Ok(())
}

fn equal_jobs_ahead_are_as_many_as_they_are() -> Result<()> {
    let server = Server::redis(6471)?;
    let notes = Notes::new()?;
    push(&server, &["wait"; 5])?;
    let mut working = ahead(&server, &notes, "--prefetch 5 --count 5")?.spawn()?;
    until("all are reserved", || Ok(server.counts("q")?[2] == 5))?;
    check_eq!(server.counts("q")?, [0, 0, 5, 0], "jobs by their states");
    fs::write(notes.file("go"), "")?;
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    check_eq!(notes.lines("done").len(), 5, "runs");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    Ok(())
}

fn attempts_are_found_wherever_they_stand() -> Result<()> {
    let server = Server::redis(6472)?;
    let notes = Notes::new()?;
    let far = "y".repeat(300);
    let jobs = [
        // Where Laravel's stand, old and new.
        (
            "{\"id\":\"a\",\"attempts\":0}",
            "{\"id\":\"a\",\"attempts\":1}",
        ),
        (
            "{\"id\":\"a\",\"attempts\":0,\"createdAt\":1,\"delay\":null}",
            "{\"id\":\"a\",\"attempts\":1,\"createdAt\":1,\"delay\":null}",
        ),
        // In another object, in a list, in a string.
        (
            "{\"id\":\"a\",\"b\":{\"c\":1,\"attempts\":7}}",
            "{\"id\":\"a\",\"b\":{\"c\":1,\"attempts\":7},\"attempts\":1}",
        ),
        (
            "{\"id\":\"a\",\"attempts\":0,\"b\":[{\"attempts\":7}]}",
            "{\"id\":\"a\",\"attempts\":1,\"b\":[{\"attempts\":7}]}",
        ),
        (
            "{\"id\":\"a\",\"b\":\"{,\\\"attempts\\\":7\"}",
            "{\"id\":\"a\",\"b\":\"{,\\\"attempts\\\":7\",\"attempts\":1}",
        ),
        (
            "{\"id\":\"a\",\"attempts\":0,\"b\":\"}]{[\\\\\"}",
            "{\"id\":\"a\",\"attempts\":1,\"b\":\"}]{[\\\\\"}",
        ),
        // There twice, with blanks, with other values.
        (
            "{\"id\":\"a\",\"attempts\":0,\"attempts\":0}",
            "{\"id\":\"a\",\"attempts\":0,\"attempts\":1}",
        ),
        (
            "{\"id\":\"a\", \"attempts\" : 0 , \"b\":1 }",
            "{\"id\":\"a\", \"attempts\" : 1 , \"b\":1 }",
        ),
        (
            "{\"id\":\"a\",\"attempts\":0,\"my-attempts\":5}",
            "{\"id\":\"a\",\"attempts\":1,\"my-attempts\":5}",
        ),
        (
            "{\"id\":\"a\",\"attempts\":\"0\"}",
            "{\"id\":\"a\",\"attempts\":\"0\",\"attempts\":1}",
        ),
        (
            "{\"id\":\"a\",\"attempts\":1.5}",
            "{\"id\":\"a\",\"attempts\":1.5,\"attempts\":1}",
        ),
    ];
    for (pushed, _) in jobs {
        server.push("q", pushed.as_bytes())?;
    }
    server.push(
        "q",
        format!("{{\"id\":\"a\",\"attempts\":0,\"far\":\"{far}\"}}").as_bytes(),
    )?;
    let said = work(&server, &notes, "--prefetch 20")?;
    check_eq!(said, "", "what it says");
    let mut wanted: Vec<String> = jobs
        .iter()
        .map(|(_, wanted)| (*wanted).to_owned())
        .collect();
    wanted.push(format!("{{\"id\":\"a\",\"attempts\":1,\"far\":\"{far}\"}}"));
    check_eq!(notes.lines("jobs"), wanted, "what the runs read");
    // What ends like a job, and is none, stays as it was.
    for bad in [
        "{\"b\":{\"c\":1,\"attempts\":0}",
        "{\"b\":1],\"attempts\":0}",
        "{\"b\":\"x,\"attempts\":0}",
    ] {
        server.push("q", bad.as_bytes())?;
        work(&server, &notes, "--prefetch 20")?;
        let failed = server.failed("q")?;
        let last = &failed[failed.len() - 1];
        check_eq!(field(last, "job")?, bad.as_bytes(), "what was stored");
    }
    Ok(())
}

fn queue_is_shared_with_laravel() -> Result<()> {
    let server = Server::redis(6476)?;
    let notes = Notes::new()?;
    push(&server, &["hang"])?;
    let pushed = laravel("push", &server, "q", &["0", "20", "0"])?.status()?;
    ensure!(pushed.success(), "Laravel cannot push");
    let mut working = ahead(&server, &notes, "--prefetch 15 --timeout 0")?
        .stderr(Stdio::null())
        .spawn()?;
    until("it hangs", || Ok(!notes.lines("begun").is_empty()))?;
    check_eq!(server.counts("q")?, [6, 0, 15, 0], "jobs by their states");
    for _ in 0..2 {
        sys::kill(working.id() as i32, libc::SIGTERM)?;
        thread::sleep(Duration::from_millis(100));
    }
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    let first: String = server.ask("LPOP queues:q")?;
    check!(first.starts_with(&job("hang")), "the first is {first:?}");
    check_eq!(
        work(&server, &notes, "--prefetch 3 --count 5")?,
        "",
        "what it says"
    );
    check_eq!(notes.lines("done").len(), 5, "jobs done");
    // Those that were given back are jobs like any other to Laravel's, with all their tries.
    let theirs = notes.file("theirs");
    let worked = laravel("work", &server, "q", &[&theirs, "90", "1"])?.status()?;
    ensure!(worked.success(), "Laravel cannot work");
    let mut numbers = Vec::new();
    for line in notes.lines("theirs") {
        let line: Value = serde_json::from_str(&line)?;
        check_eq!(line["attempts"], 1, "attempts as Laravel counts them");
        numbers.push(line["data"]["number"].as_u64());
    }
    check_eq!(
        numbers,
        (5..20).map(Some).collect::<Vec<_>>(),
        "in their order"
    );
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    Ok(())
}
