//! A command that does job after job: it reads each from a line, and answers each with a line.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Pid;

use super::guard::Guard;
use super::job::How;
use super::run::{Outcome, Seat, command};

/// Such a command, while it runs.
pub struct Kept {
    child: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    /// What it has said since its last answer.
    said: Vec<u8>,
}

/// An answer that is longer is none.
const LONGEST: usize = 65_536;

impl Kept {
    /// Starts it.
    pub fn start(words: &[OsString], queue: &str, guard: &Guard) -> io::Result<Self> {
        let mut child = command(words, queue, guard)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let no = || io::Error::other("no pipe");
        let output = child.stdout.take().ok_or_else(no)?;
        fcntl_setfl(&output, fcntl_getfl(&output)? | OFlags::NONBLOCK)?;
        Ok(Self {
            input: child.stdin.take(),
            output,
            child,
            said: Vec::new(),
        })
    }

    /// Where it reads its jobs: a copy, for who feeds it while it is watched.
    pub fn feed(&self) -> io::Result<ChildStdin> {
        match &self.input {
            Some(input) => Ok(input.as_fd().try_clone_to_owned()?.into()),
            None => Err(io::Error::other("it reads no more")),
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // It is gone, perhaps: so much the better.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Kept {
    /// At the end of its input it ends by itself, or is ended a moment later.
    fn drop(&mut self) {
        drop(self.input.take());
        soon(|| !matches!(self.child.try_wait(), Ok(None)));
        self.kill();
    }
}

/// Waits a second for what should be so any moment: whether it is.
pub fn soon(mut so: impl FnMut() -> bool) -> bool {
    for _ in 0..100 {
        if so() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    so()
}

impl Seat for Kept {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    fn look(&mut self) -> io::Result<Option<Outcome>> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.said.drain(..=end).collect();
                return Ok(Some(answer(&line[..end])));
            }
            if self.said.len() > LONGEST {
                let why = "it answers with a line without an end".to_owned();
                return Ok(Some(Outcome::Failed(How::Ended, why)));
            }
            match self.output.read(&mut bytes) {
                Ok(0) => {
                    let why = "it ended without an answer".to_owned();
                    return Ok(Some(Outcome::Failed(How::Ended, why)));
                }
                Ok(read) => self.said.extend(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// What a line of its means.
fn answer(line: &[u8]) -> Outcome {
    let line = String::from_utf8_lossy(line);
    let plain =
        |text: &str| -> String { text.chars().filter(|letter| !letter.is_control()).collect() };
    match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
        ("done", "") => Outcome::Done,
        ("failed", why) => Outcome::Refused(plain(why)),
        // Nobody knows any more which answer is to which job.
        _ => Outcome::Failed(How::Ended, format!("it answered {:?}", plain(&line))),
    }
}

/// A job as a line: what ends lines in JSON is white space between its parts.
pub fn line(job: &[u8]) -> Vec<u8> {
    let flat = job.iter().map(|byte| match byte {
        b'\n' | b'\r' => b' ',
        other => *other,
    });
    flat.chain([b'\n']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert!(matches!(answer(b"done"), Outcome::Done));
        assert!(matches!(answer(b"done\r"), Outcome::Done));
        assert!(matches!(answer(b"failed"), Outcome::Refused(why) if why.is_empty()));
        assert!(
            matches!(answer(b"failed no \x1bmoney"), Outcome::Refused(why) if why == "no money")
        );
        for line in ["", "ok", "done well", "DONE"] {
            assert!(
                matches!(answer(line.as_bytes()), Outcome::Failed(..)),
                "{line}"
            );
        }
    }

    #[test]
    fn a_job_is_one_line() {
        assert_eq!(line(b"{\n\"a\":\r\n1}"), b"{ \"a\":  1}\n");
    }
}
