//! A command that does job after job: it reads each from a line, and answers each with a line.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Pid;

use super::guard::Guard;
use super::hold::Held;
use super::job::How;
use super::slot::{RunEnd, Slot, command};

/// Such a command, while it runs.
pub struct Kept {
    child: Child,
    /// None once it is to be given no more.
    input: Option<ChildStdin>,
    lines: Lines,
    output: ChildStdout,
    /// What it has said, of which so much is read.
    said: Vec<u8>,
    read: usize,
    /// How many jobs it has not answered.
    open: usize,
    closed: bool,
}

/// An answer that is longer is none.
const LONGEST: usize = 65_536;
/// From how many bytes on no more jobs are written at once.
const AT_ONCE: usize = 65_536;

impl Kept {
    /// Starts it.
    pub fn start(words: &[OsString], queue: &str, guard: &Guard) -> io::Result<Self> {
        let mut child = command(words, queue, guard)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let no = || io::Error::other("no pipe");
        let output = child.stdout.take().ok_or_else(no)?;
        let input = child.stdin.take().ok_or_else(no)?;
        // Our ends: it has others.
        fcntl_setfl(&output, fcntl_getfl(&output)? | OFlags::NONBLOCK)?;
        fcntl_setfl(&input, fcntl_getfl(&input)? | OFlags::NONBLOCK)?;
        Ok(Self {
            input: Some(input),
            lines: Lines::default(),
            output,
            child,
            said: Vec::new(),
            read: 0,
            open: 0,
            closed: false,
        })
    }

    /// Lets it read the end of its input, unless it is amid a job.
    fn end_input(&mut self) {
        if self.closed && self.lines.are_written() {
            self.input = None;
        }
    }
}

impl Drop for Kept {
    /// At the end of its input it ends by itself, or is ended a moment later.
    fn drop(&mut self) {
        drop(self.input.take());
        for _ in 0..100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }
}

impl Slot for Kept {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn events(&self) -> Vec<PollFd<'_>> {
        let mut events = vec![PollFd::from_borrowed_fd(self.output.as_fd(), PollFlags::IN)];
        if let Some(input) = &self.input {
            if !self.lines.are_written() {
                events.push(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::OUT));
            }
        }
        events
    }

    fn feed(&mut self, jobs: &mut dyn Iterator<Item = &Held>) -> usize {
        let closed = self.closed;
        let Some(input) = &mut self.input else {
            return 0;
        };
        let jobs = jobs.take_while(|_| !closed).map(|held| held.reserved.job());
        let begun = self.lines.write(input, jobs, self.open == 0);
        self.open += begun;
        self.end_input();
        begun
    }

    fn look(&mut self) -> io::Result<Option<RunEnd>> {
        let mut bytes = [0; 4096];
        loop {
            let new = &self.said[self.read..];
            if let Some(end) = new.iter().position(|byte| *byte == b'\n') {
                let outcome = answer(&new[..end]);
                self.read += end + 1;
                self.open = self.open.saturating_sub(1);
                return Ok(Some(match self.open == 0 && !self.lines.are_written() {
                    true => failed("it answered before it had read the job"),
                    false => outcome,
                }));
            }
            if new.len() > LONGEST {
                return Ok(Some(failed("it answers with a line without an end")));
            }
            self.said.drain(..self.read);
            self.read = 0;
            match self.output.read(&mut bytes) {
                Ok(0) => return Ok(Some(failed("it ended without an answer"))),
                Ok(read) => self.said.extend(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.end_input();
    }

    fn is_over(&self) -> bool {
        self.closed
    }

    fn kill(&mut self) {
        // It is gone, perhaps: so much the better.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Jobs on their way into a pipe that does not make us wait.
#[derive(Default)]
struct Lines {
    /// What is left of the one that was begun last.
    left: Vec<u8>,
}

impl Lines {
    fn are_written(&self) -> bool {
        self.left.is_empty()
    }

    /// Writes what is left, and jobs as far as there is room, one at least where the reader is `idle`: how many were
    /// begun.
    fn write<'a>(
        &mut self,
        input: &mut impl Write,
        jobs: impl Iterator<Item = &'a [u8]>,
        idle: bool,
    ) -> usize {
        let mut bytes = std::mem::take(&mut self.left);
        // Where each line ends, that which is left among them.
        let mut ends = vec![bytes.len()];
        for job in jobs {
            line(job, &mut bytes);
            ends.push(bytes.len());
            if bytes.len() >= AT_ONCE {
                break;
            }
        }
        let written = write_some(input, &bytes);
        let begun = ends[..ends.len() - 1]
            .iter()
            .filter(|start| **start < written)
            .count();
        let begun = begun.max(usize::from(idle && ends.len() > 1));
        bytes.truncate(ends[begun]);
        self.left = bytes.split_off(written.min(ends[begun]));
        begun
    }
}

/// How many bytes could be written.
fn write_some(input: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match input.write(&bytes[written..]) {
            Ok(some) => written += some,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Who has gone is found out by what he does not say.
            Err(_) => return bytes.len(),
        }
    }
    written
}

fn failed(why: &str) -> RunEnd {
    RunEnd::Failed(How::Ended, why.to_owned())
}

/// What a line of its means.
fn answer(line: &[u8]) -> RunEnd {
    let line = String::from_utf8_lossy(line);
    let plain =
        |text: &str| -> String { text.chars().filter(|letter| !letter.is_control()).collect() };
    match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
        ("done", "") => RunEnd::Done,
        ("failed", why) => RunEnd::Refused(plain(why)),
        // Nobody knows any more which answer is to which job.
        _ => RunEnd::Failed(How::Ended, format!("it answered {:?}", plain(&line))),
    }
}

/// Adds a job as a line: what ends lines in JSON is white space between its parts.
fn line(job: &[u8], to: &mut Vec<u8>) {
    let flat = job.iter().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        other => *other,
    });
    to.extend(flat.chain([b'\n']));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn answers() {
        assert!(matches!(answer(b"done"), RunEnd::Done));
        assert!(matches!(answer(b"done\r"), RunEnd::Done));
        assert!(matches!(answer(b"failed"), RunEnd::Refused(why) if why.is_empty()));
        assert!(
            matches!(answer(b"failed no \x1bmoney"), RunEnd::Refused(why) if why == "no money")
        );
        for line in ["", "ok", "done well", "DONE"] {
            assert!(
                matches!(answer(line.as_bytes()), RunEnd::Failed(..)),
                "{line}"
            );
        }
    }

    /// A pipe with so much room.
    struct Pipe {
        room: usize,
        bytes: Vec<u8>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Not all at once.
            let some = bytes.len().min(self.room).min(3);
            self.room -= some;
            self.bytes.extend(&bytes[..some]);
            match some {
                0 => Err(ErrorKind::WouldBlock.into()),
                some => Ok(some),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn jobs_are_lines_as_far_as_there_is_room() {
        let jobs: [&[u8]; 3] = [b"{\n\"a\":\r\n1}", b"{}", b"{ }"];
        let all = b"{ \"a\":  1}\n{}\n{ }\n";
        for room in 0..all.len() + 2 {
            for more in 1..all.len() {
                let (mut lines, mut begun) = (Lines::default(), 0);
                let (mut pipe, mut writes) = (
                    Pipe {
                        room,
                        bytes: vec![],
                    },
                    0,
                );
                while begun < jobs.len() || !lines.are_written() {
                    let rest = jobs[begun..].iter().copied();
                    begun += lines.write(&mut pipe, rest, writes == 0);
                    let started = [0, 11, 14].iter().filter(|at| **at < pipe.bytes.len());
                    assert_eq!(begun, started.count().max(1), "{room} {more}");
                    pipe.room += more;
                    writes += 1;
                }
                assert_eq!(pipe.bytes, all, "{room} {more}");
            }
        }
    }

    #[test]
    fn who_is_gone_takes_all() {
        let (reader, mut writer) = UnixStream::pair().unwrap();
        drop(reader);
        let mut lines = Lines::default();
        let jobs: [&[u8]; 2] = [b"{}", b"{}"];
        assert_eq!(lines.write(&mut writer, jobs.into_iter(), true), 2);
        assert!(lines.are_written());
    }
}
