// SPDX-License-Identifier: GPL-2.0
//! `ravel work --keep --prefetch` on a real Redis: what becomes of jobs ahead when their worker, the server or another
//! job comes to a bad end.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::work::{Notes, field, worker};
use super::work_ended::{fill, kill_two_workers, runs};
use super::work_prefetch::{DEEDS, ahead, large, push, ready};
use crate::harness::say;
use crate::random::Random;
use crate::server::{Server, until};
use crate::sys;
use crate::{check, check_eq, tests};

tests!("work" beside:
    signal_gives_back_what_is_not_written,
    two_signals_give_back_what_is_not_answered,
    signal_at_any_moment_leaves_no_job_ahead_reserved [180 s],
    poison_takes_no_innocents_with_it [180 s],
    server_killed_amid_jobs_ahead [180 s],
    workers_with_jobs_ahead_killed_at_any_moment [240 s],
);

fn signal_gives_back_what_is_not_written() -> Result<()> {
    let server = Server::redis(6467)?;
    let notes = Notes::new()?;
    // The first two are in the pipe, the second in part.
    let ids = ["wait", "1", "2", "3", "4", "5", "6"];
    for id in ids {
        server.push("q", large(id, 60_000).as_bytes())?;
    }
    // It reads none of them.
    let script = format!("while ! test -e $0/go; do sleep 0.1; done\n{DEEDS}");
    let mut command = worker(&server, "--keep --prefetch 5", &script)?;
    let mut working = command.arg(&notes.0).spawn()?;
    until("it has five", || Ok(server.counts("q")?[2] == 5))?;
    // They are written a moment later.
    thread::sleep(Duration::from_millis(500));
    sys::kill(working.id() as i32, libc::SIGTERM)?;
    until("some are given back", || Ok(server.counts("q")?[2] < 5))?;
    check_eq!(server.counts("q")?, [5, 0, 2, 0], "jobs after a signal");
    check_eq!(ready(&server)?, ids[2..], "what is ready, in its order");
    check_eq!(server.ask::<u64>("LLEN queues:q:notify")?, 3, "tokens");
    fs::write(notes.file("go"), "")?;
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    check_eq!(notes.lines("done"), ids[..2], "jobs done");
    check_eq!(server.counts("q")?, [5, 0, 0, 0], "jobs at the end");
    Ok(())
}

fn two_signals_give_back_what_is_not_answered() -> Result<()> {
    let server = Server::redis(6468)?;
    let notes = Notes::new()?;
    let ids = ["1", "2", "hang", "3", "4", "5", "6"];
    push(&server, &ids)?;
    let working = ahead(&server, &notes, "--prefetch 5 --timeout 0")?.spawn()?;
    until("it hangs", || Ok(notes.lines("begun").len() == 3))?;
    for _ in 0..2 {
        sys::kill(working.id() as i32, libc::SIGTERM)?;
        thread::sleep(Duration::from_millis(100));
    }
    let output = working.wait_with_output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.success(), "{said}");
    check!(
        said.starts_with("ravel: job \"hang\" was ended, and given back")
            && said.lines().count() == 1,
        "it says {said}"
    );
    check_eq!(notes.lines("begun"), ids[..3], "jobs begun");
    check_eq!(server.counts("q")?, [5, 0, 0, 0], "jobs at the end");
    check_eq!(ready(&server)?, ids[2..], "what is ready, in its order");
    Ok(())
}

fn signal_at_any_moment_leaves_no_job_ahead_reserved() -> Result<()> {
    let server = Server::redis(6469)?;
    let notes = Notes::new()?;
    let mut random = Random::new(Random::seed()?);
    let count = 400;
    fill(&server, count)?;
    let (mut rounds, mut amid, mut twice) = (0, 0, 0);
    while server.counts("q")?[0] > 0 {
        let options = format!("--prefetch {}", 2 + random.below(30));
        let mut working = ahead(&server, &notes, &options)?.spawn()?;
        let before = server.counts("q")?[0];
        until("it is at work", || Ok(server.counts("q")?[0] < before))?;
        thread::sleep(Duration::from_micros(random.below(60_000) as u64));
        sys::kill(working.id() as i32, libc::SIGTERM)?;
        if random.one_in(4) {
            // What is killed amid a job runs it again.
            thread::sleep(Duration::from_micros(random.below(20_000) as u64));
            twice += 1;
            let _ = sys::kill(working.id() as i32, libc::SIGTERM);
        }
        check_eq!(working.wait()?.code(), Some(0), "exit code");
        let [left, delayed, reserved, failed] = server.counts("q")?;
        check_eq!(
            [delayed, reserved, failed],
            [0, 0, 0],
            "jobs after a signal"
        );
        amid += usize::from(left > 0);
        rounds += 1;
        ready(&server)?;
    }
    check!(amid > 2, "it was never ended amid jobs");
    let runs = runs(&notes, count)?;
    let doubled = runs.iter().sum::<usize>() - count;
    check!(
        runs.iter().all(|runs| *runs > 0),
        "not all were run: {runs:?}"
    );
    check!(
        doubled <= twice,
        "{doubled} were run again, with {twice} second signals: {runs:?}"
    );
    say(format!(
        "{rounds} workers, {amid} of them ended amid {count} jobs, {twice} by two signals"
    ));
    Ok(())
}

fn poison_takes_no_innocents_with_it() -> Result<()> {
    let server = Server::redis(6473)?;
    let notes = Notes::new()?;
    push(&server, &["0", "1", "0kill", "2", "3", "4", "5", "6", "7"])?;
    let (mut killed, mut done) = (0, 0);
    until("all have come to an end", || {
        let options = "--prefetch 6 --lost 3 --retry-after 5 --no-wait --tries 1";
        let output = ahead(&server, &notes, options)?.output()?;
        killed += usize::from(!output.status.success());
        done += 1;
        Ok(server.counts("q")? == [0, 0, 0, 1])
    })?;
    check_eq!(killed, 3, "workers killed");
    let begun = notes.lines("begun");
    let kills = begun.iter().filter(|id| *id == "0kill").count();
    check_eq!(kills, 3, "runs of the one that kills");
    let failed = server.failed("q")?;
    check_eq!(field(&failed[0], "id")?, b"0kill", "what has failed");
    let runs = runs(&notes, 8)?;
    // Those in front of it may have been answered a moment before.
    check_eq!(runs[2..], [1; 6], "runs of those behind it");
    check!(
        runs[..2].iter().all(|runs| (1..=2).contains(runs)),
        "runs of those before it: {runs:?}"
    );
    say(format!("{killed} of {done} workers killed: {begun:?}"));
    Ok(())
}

fn server_killed_amid_jobs_ahead() -> Result<()> {
    let mut server = Server::redis(6474)?;
    let notes = Notes::new()?;
    let count = 600;
    fill(&server, count)?;
    let mut working = ahead(&server, &notes, "--prefetch 10 --retry-after 20")?
        .stderr(Stdio::null())
        .spawn()?;
    let mut random = Random::new(Random::seed()?);
    let mut kills = 0;
    until("it is at work", || Ok(!notes.lines("done").is_empty()))?;
    while kills < 6 && server.counts("q")?[0] > 0 {
        thread::sleep(Duration::from_millis(random.below(300) as u64));
        server.kill()?;
        kills += 1;
        thread::sleep(Duration::from_millis(random.below(600) as u64));
        server.again()?;
    }
    // Those taken by a turn whose answer was lost are reserved for nobody: their time comes.
    until("all is done", || Ok(server.counts("q")? == [0, 0, 0, 0]))?;
    sys::kill(working.id() as i32, libc::SIGTERM)?;
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    let runs = runs(&notes, count)?;
    // This worker lost none that it had: nothing is done again.
    check!(
        runs.iter().all(|runs| *runs == 1),
        "not each was run once: {runs:?}"
    );
    check_eq!(notes.lines("starts").len(), 1, "starts");
    say(format!(
        "{kills} kills of the server: {count} jobs, each done once"
    ));
    Ok(())
}

fn workers_with_jobs_ahead_killed_at_any_moment() -> Result<()> {
    let server = Server::redis(6475)?;
    let notes = Notes::new()?;
    fill(&server, 300)?;
    kill_two_workers(&server, &notes, [300, 8], 300, || {
        ahead(&server, &notes, "--prefetch 8 --retry-after 5")
    })
}
