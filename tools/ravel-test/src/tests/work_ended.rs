// SPDX-License-Identifier: GPL-2.0
//! `ravel work` on a real Redis: what becomes of jobs when they, their worker or the server come to a bad end.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::work::{Notes, field, work, worker};
use crate::harness::say;
use crate::random::Random;
use crate::server::{Server, until};
use crate::sys;
use crate::tier::patience;
use crate::{check, check_eq, tests};

tests!("work" beside:
    longer_than_its_reservation_runs_once [120 s],
    killed_worker_s_job_runs_again_and_never_twice_at_once [120 s],
    time_limit_ends_all_that_it_started,
    memory_limit_ends_it,
    kept_command_does_job_after_job,
    kept_command_is_begun_anew_between_jobs,
    signal_ends_it_after_its_job_and_two_give_it_back,
    signal_at_any_moment_leaves_nothing_reserved [120 s],
    lost_runs_are_bounded [120 s],
    server_killed_amid_jobs [180 s],
    workers_killed_at_any_moment [240 s],
);

fn longer_than_its_reservation_runs_once() -> Result<()> {
    let server = Server::redis(6404)?;
    let notes = Notes::new()?;
    server.push("q", b"{\"id\":\"slow\",\"attempts\":0}")?;
    let script = format!(
        "echo begin >>{0}; sleep 12; echo end >>{0}",
        notes.file("runs")
    );
    let mut first = worker(&server, "--count 1 --retry-after 5", &script)?.spawn()?;
    let mut second = worker(&server, "--retry-after 5", &script)?.spawn()?;
    // One of the two has it.
    until("it has ended", || Ok(notes.read("runs").contains("end")))?;
    until("it is gone", || Ok(server.counts("q")? == [0, 0, 0, 0]))?;
    thread::sleep(Duration::from_secs(7));
    check_eq!(notes.lines("runs"), ["begin", "end"], "runs");
    for worker in [&mut first, &mut second] {
        if worker.try_wait()?.is_none() {
            sys::kill(worker.id() as i32, libc::SIGTERM)?;
        }
        check_eq!(worker.wait()?.code(), Some(0), "exit code");
    }
    Ok(())
}

fn killed_worker_s_job_runs_again_and_never_twice_at_once() -> Result<()> {
    let server = Server::redis(6405)?;
    let notes = Notes::new()?;
    server.push("q", b"{\"id\":\"one\",\"maxTries\":1,\"attempts\":0}")?;
    // A grandchild, too, in the background.
    let script = format!("sleep 1000 & echo $! $$ >>{}; wait", notes.file("pids"));
    let mut first = worker(&server, "--retry-after 5", &script)?.spawn()?;
    until("it runs", || Ok(!notes.lines("pids").is_empty()))?;
    first.kill()?;
    first.wait()?;
    let pids: Vec<i32> = notes
        .read("pids")
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    check_eq!(pids.len(), 2, "processes of the run");
    until("they are gone", || {
        Ok(!pids.iter().any(|pid| is_alive(*pid)))
    })?;
    check_eq!(server.counts("q")?[2], 1, "reserved");
    let out = notes.file("again");
    let said = worker(
        &server,
        "--retry-after 5 --count 1 --tries 1",
        &format!("echo $RAVEL_ATTEMPT >>{out}"),
    )?
    .output()?;
    ensure!(said.status.success(), "{said:?}");
    check_eq!(notes.lines("again"), ["2"], "attempts of the second run");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    Ok(())
}

fn time_limit_ends_all_that_it_started() -> Result<()> {
    let server = Server::redis(6409)?;
    let notes = Notes::new()?;
    server.push("q", b"{\"id\":\"late\",\"timeout\":1}")?;
    // It takes no hint.
    let script = format!(
        "trap '' TERM; sleep 1000 & echo $! $$ >>{}; wait",
        notes.file("pids")
    );
    let start = Instant::now();
    let said = work(&server, "--tries 1", &script)?;
    check!(
        start.elapsed() > Duration::from_secs(5),
        "no time to end by itself"
    );
    check!(said.contains("longer than 1 s"), "it says {said:?}");
    check_eq!(server.counts("q")?, [0, 0, 0, 1], "jobs at the end");
    for pid in notes.read("pids").split_whitespace() {
        check!(!is_alive(pid.parse()?), "{pid} is alive");
    }
    // One that takes it is not waited for.
    server.push("q", b"{\"id\":\"late\",\"failOnTimeout\":true}")?;
    let start = Instant::now();
    work(&server, "--tries 9 --timeout 1", "exec sleep 1000")?;
    check!(
        start.elapsed() < patience(5),
        "it took {:?}",
        start.elapsed()
    );
    check_eq!(server.counts("q")?[3], 2, "failed");
    // Nor does one that leaves the group of processes.
    server.push("q", b"{\"id\":\"away\",\"timeout\":1}")?;
    let script = format!("echo $$ >{}; exec setsid sleep 1000", notes.file("away"));
    work(&server, "--tries 1", &script)?;
    check_eq!(server.counts("q")?[3], 3, "failed");
    check!(!is_alive(notes.read("away").trim().parse()?), "it is alive");
    Ok(())
}

fn memory_limit_ends_it() -> Result<()> {
    let server = Server::redis(6410)?;
    server.push("q", b"{\"id\":\"large\"}")?;
    let script = "x=$(head -c 50000000 /dev/zero | tr '\\0' x); sleep 1000";
    let said = work(&server, "--tries 1 --memory 30 --timeout 50", script)?;
    check!(
        said.contains("MiB of memory, more than 30"),
        "it says {said:?}"
    );
    check_eq!(server.counts("q")?, [0, 0, 0, 1], "jobs at the end");
    Ok(())
}

fn kept_command_does_job_after_job() -> Result<()> {
    let server = Server::redis(6419)?;
    let notes = Notes::new()?;
    let large = format!(
        "{{\"id\":\"large\",\"data\":\"{}\",\"attempts\":0}}",
        "x".repeat(200_000)
    );
    let jobs = [
        "{\"id\":\"1\",\"attempts\":0}",
        "{\"id\":\"bad\"}",
        "{\"id\":\"2\",\"attempts\":0}",
        "{\"id\":\"die\"}",
        "{\"id\":\n\"3\",\n\"attempts\":0}\n",
        "{\"id\":\"hang\",\"timeout\":1}",
        "{\"id\":\"odd\"}",
        &large,
    ];
    for job in jobs {
        server.push("q", job.as_bytes())?;
    }
    let output = kept(&server, &notes, "--no-wait --tries 1")?.output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.success(), "{said}");
    check_eq!(server.counts("q")?, [0, 0, 0, 4], "jobs at the end");
    for part in [
        "\"bad\" so it is;",
        "\"die\" it ended without an answer;",
        "\"hang\" it took longer than 1 s;",
        "\"odd\" it answered \"well\";",
    ] {
        check!(said.contains(part), "no {part:?} in {said}");
    }
    let lengths = [jobs[0].len(), jobs[2].len(), jobs[4].len() - 1, large.len()];
    check_eq!(
        notes.lines("done"),
        lengths.map(|len| len.to_string()),
        "bytes of the jobs that were done"
    );
    // It died, hung and said something odd.
    check_eq!(notes.lines("starts").len(), 4, "starts");
    check_eq!(notes.lines("ends"), ["end"], "ends of the input");
    Ok(())
}

fn kept_command_is_begun_anew_between_jobs() -> Result<()> {
    let server = Server::redis(6420)?;
    let notes = Notes::new()?;
    for id in ["1", "eats", "2", "3"] {
        server.push("q", format!("{{\"id\":\"{id}\"}}").as_bytes())?;
    }
    let output = kept(&server, &notes, "--no-wait --memory 30 --timeout 0")?.output()?;
    check_eq!(String::from_utf8(output.stderr)?, "", "what it says");
    check_eq!(
        notes.lines("done").len(),
        3,
        "jobs done besides the large one"
    );
    check_eq!(notes.lines("starts").len(), 2, "starts");
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    // Killed between two jobs, or amid one: it goes with its worker.
    let mut working = kept(&server, &notes, "--retry-after 5")?.spawn()?;
    server.push("q", b"{\"id\":\"hang\",\"maxTries\":1}")?;
    until("it hangs", || {
        Ok(server.counts("q")?[2] == 1 && notes.lines("starts").len() == 3)
    })?;
    working.kill()?;
    working.wait()?;
    let pid = notes.lines("starts")[2].parse()?;
    until("it is gone", || Ok(!is_alive(pid)))?;
    Ok(())
}

fn signal_ends_it_after_its_job_and_two_give_it_back() -> Result<()> {
    let server = Server::redis(6411)?;
    let notes = Notes::new()?;
    for id in ["first", "second"] {
        server.push(
            "q",
            format!("{{\"id\":\"{id}\",\"attempts\":0}}").as_bytes(),
        )?;
    }
    let script = format!(
        "echo begin >>{0}; sleep 3; echo end >>{0}",
        notes.file("runs")
    );
    let mut working = worker(&server, "", &script)?.spawn()?;
    until("it runs", || Ok(!notes.lines("runs").is_empty()))?;
    sys::kill(working.id() as i32, libc::SIGTERM)?;
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    check_eq!(notes.lines("runs"), ["begin", "end"], "runs");
    check_eq!(server.counts("q")?, [1, 0, 0, 0], "jobs after one signal");
    let mut working = worker(&server, "", &script)?
        .stderr(Stdio::null())
        .spawn()?;
    until("it runs", || Ok(notes.lines("runs").len() == 3))?;
    for _ in 0..2 {
        sys::kill(working.id() as i32, libc::SIGTERM)?;
        thread::sleep(Duration::from_millis(100));
    }
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    check_eq!(notes.lines("runs").len(), 3, "lines after two signals");
    check_eq!(server.counts("q")?, [1, 0, 0, 0], "jobs after two signals");
    let job = String::from_utf8(server.ready("q")?.remove(0))?;
    check!(
        job.starts_with("{\"id\":\"second\",\"attempts\":0}"),
        "the job is {job:?}"
    );
    Ok(())
}

fn signal_at_any_moment_leaves_nothing_reserved() -> Result<()> {
    let server = Server::redis(6418)?;
    let notes = Notes::new()?;
    let count = 60;
    fill(&server, count)?;
    let script = format!("echo $RAVEL_JOB >>{}", notes.file("done"));
    let mut random = Random::new(Random::seed()?);
    let (mut rounds, mut amid) = (0, 0);
    while server.counts("q")?[0] > 0 {
        let mut working = worker(&server, "", &script)?
            .stderr(Stdio::piped())
            .spawn()?;
        let before = server.counts("q")?[0];
        until("it is at work", || Ok(server.counts("q")?[0] < before))?;
        thread::sleep(Duration::from_micros(random.below(60_000) as u64));
        sys::kill(working.id() as i32, libc::SIGTERM)?;
        check_eq!(working.wait()?.code(), Some(0), "exit code");
        let [ready, delayed, reserved, failed] = server.counts("q")?;
        check_eq!(
            [delayed, reserved, failed],
            [0, 0, 0],
            "jobs after a signal"
        );
        amid += usize::from(ready > 0);
        rounds += 1;
    }
    check!(amid > 2, "it was never ended amid jobs");
    check_eq!(
        runs(&notes, count)?,
        vec![1; count],
        "how often each job was run"
    );
    say(format!(
        "{rounds} workers, {amid} of them ended amid {count} jobs"
    ));
    Ok(())
}

fn lost_runs_are_bounded() -> Result<()> {
    let server = Server::redis(6412)?;
    let notes = Notes::new()?;
    server.push("q", b"{\"id\":\"poison\",\"attempts\":0}")?;
    // It kills its worker: the shell's parent.
    let script = format!("echo x >>{}; kill -9 $PPID; sleep 1000", notes.file("runs"));
    for round in 1..=2 {
        let status = worker(&server, "--lost 2 --retry-after 5", &script)?.status()?;
        check_eq!(status.code(), None, "exit code of worker {round}");
    }
    until("its time has come", || {
        work(&server, "--lost 2 --retry-after 5", &script)?;
        Ok(server.counts("q")? == [0, 0, 0, 1])
    })?;
    check_eq!(notes.lines("runs").len(), 2, "runs");
    let why = field(&server.failed("q")?[0], "why")?.to_vec();
    check!(
        why.starts_with(b"2 of its runs never came to an end"),
        "why is {why:?}"
    );
    Ok(())
}

fn server_killed_amid_jobs() -> Result<()> {
    let mut server = Server::redis(6414)?;
    let notes = Notes::new()?;
    fill(&server, 20)?;
    let script = format!("sleep 0.1; echo $RAVEL_JOB >>{}", notes.file("done"));
    let mut working = worker(&server, "--count 20 --retry-after 20", &script)?
        .stderr(Stdio::piped())
        .spawn()?;
    let mut random = Random::new(Random::seed()?);
    let mut kills = 0;
    // Where nobody answers at first, it ends.
    until("it is at work", || Ok(!notes.lines("done").is_empty()))?;
    while working.try_wait()?.is_none() && kills < 4 {
        thread::sleep(Duration::from_millis(300 + random.below(700) as u64));
        server.kill()?;
        kills += 1;
        thread::sleep(Duration::from_millis(random.below(600) as u64));
        server.again()?;
    }
    check_eq!(working.wait()?.code(), Some(0), "exit code");
    // A pop whose answer was lost has its job reserved for nobody: its time comes.
    until("all is done", || {
        work(&server, "--retry-after 20", &script)?;
        Ok(server.counts("q")? == [0, 0, 0, 0])
    })?;
    let runs = runs(&notes, 20)?;
    check!(
        runs.iter().all(|runs| *runs >= 1),
        "not all were run: {runs:?}"
    );
    let doubled = runs.iter().sum::<usize>() - 20;
    check!(
        doubled <= kills,
        "{doubled} were run again, with {kills} kills: {runs:?}"
    );
    say(format!(
        "{kills} kills of the server: 20 jobs, {doubled} run again"
    ));
    Ok(())
}

fn workers_killed_at_any_moment() -> Result<()> {
    let server = Server::redis(6415)?;
    let notes = Notes::new()?;
    fill(&server, 30)?;
    let script = format!("sleep 0.05; echo $RAVEL_JOB >>{}", notes.file("done"));
    kill_two_workers(&server, &notes, [30, 1], 500, || {
        worker(&server, "--retry-after 5", &script)
    })
}

/// Has two workers do numbered jobs, each of which holds at most so many, and kills either again and again, after up to
/// so many milliseconds: each job is done, and no more are done again than could be.
pub(super) fn kill_two_workers(
    server: &Server,
    notes: &Notes,
    [count, holds]: [usize; 2],
    pause: usize,
    command: impl Fn() -> Result<Command>,
) -> Result<()> {
    let start = || {
        let mut command = command()?;
        command.stderr(Stdio::null()).spawn().context("start")
    };
    let mut workers: Vec<Child> = (0..2).map(|_| start()).collect::<Result<_>>()?;
    let mut random = Random::new(Random::seed()?);
    let kills = 12;
    for _ in 0..kills {
        thread::sleep(Duration::from_millis(random.below(pause) as u64));
        let which = random.below(2);
        workers[which].kill()?;
        workers[which].wait()?;
        workers[which] = start()?;
    }
    until("all is done", || Ok(server.counts("q")?[..3] == [0, 0, 0]))?;
    for worker in &mut workers {
        sys::kill(worker.id() as i32, libc::SIGTERM)?;
        check_eq!(worker.wait()?.code(), Some(0), "exit code");
    }
    check_eq!(server.counts("q")?, [0, 0, 0, 0], "jobs at the end");
    let runs = runs(notes, count)?;
    check!(
        runs.iter().all(|runs| *runs >= 1),
        "not all were run: {runs:?}"
    );
    let doubled = runs.iter().sum::<usize>() - count;
    check!(
        doubled <= kills * holds,
        "{doubled} were run again, with {kills} kills"
    );
    say(format!(
        "{kills} kills of workers: {count} jobs, {doubled} run again"
    ));
    Ok(())
}

/// Whether a process runs, or may again.
pub(super) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

/// Pushes numbered jobs.
pub(super) fn fill(server: &Server, count: usize) -> Result<()> {
    (0..count).try_for_each(|at| {
        server.push(
            "q",
            format!("{{\"id\":\"{at}\",\"attempts\":0}}").as_bytes(),
        )
    })
}

/// How often each of them was run to its end.
pub(super) fn runs(notes: &Notes, count: usize) -> Result<Vec<usize>> {
    let mut runs = vec![0; count];
    for line in notes.lines("done") {
        runs[line.parse::<usize>()?] += 1;
    }
    Ok(runs)
}

fn kept(server: &Server, notes: &Notes, options: &str) -> Result<Command> {
    let mut command = worker(server, &format!("--keep {options}"), KEPT)?;
    command.arg(&notes.0).stderr(Stdio::piped());
    Ok(command)
}

/// Logs and answers each line by what stands in it.
const KEPT: &str = r#"echo $$ >>$0/starts
while read -r job; do
	case $job in
	*bad*) echo "failed so it is" ;;
	*die*) exit 3 ;;
	*hang*) sleep 1000 ;;
	*odd*) echo "well" ;;
	*eats*) x=x; while [ ${#x} -lt 40000000 ]; do x=$x$x; done; echo done ;;
	*) echo "${#job}" >>$0/done; echo done ;;
	esac
done
echo end >>$0/ends"#;
