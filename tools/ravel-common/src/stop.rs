//! Signals that ask this program to end once it has done what it is at, and waits that they cut short.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// Does something that no signal interrupts: in a thread of its own, since the kernel gives a process' signals to its
/// first thread. An answer that is under way would be lost else, and with it what was taken from a queue.
pub fn undisturbed<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let done = thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Whether this program was asked to end.
#[derive(Debug)]
pub struct Stop {
    /// Has a byte for each signal that has come since it was read.
    signals: UnixStream,
    asked: Cell<u32>,
}

impl Stop {
    /// From now on SIGTERM, SIGINT and SIGHUP do not end this program, but tell it to.
    pub fn listen() -> io::Result<Self> {
        let (signals, told) = UnixStream::pair()?;
        signals.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            pipe::register(signal, told.try_clone()?)?;
        }
        Ok(Self {
            signals,
            asked: Cell::new(0),
        })
    }

    /// How often it was asked.
    pub fn asked(&self) -> u32 {
        let mut bytes = [0; 64];
        loop {
            match (&self.signals).read(&mut bytes) {
                Ok(0) => break,
                Ok(read) => self.asked.set(self.asked.get() + read as u32),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.asked.get()
    }

    /// Waits until there is something to read, a signal has come that nobody has asked about yet, or the time is
    /// over.
    pub fn wait(&self, for_what: Option<BorrowedFd<'_>>, time: Option<Duration>) -> io::Result<()> {
        let for_what = for_what.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN));
        self.wait_for(for_what.as_slice(), time)
    }

    /// The same, until something else is so.
    pub fn wait_for(&self, for_what: &[PollFd<'_>], time: Option<Duration>) -> io::Result<()> {
        let until = time.map(|time| Instant::now() + time);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
            fds.extend(for_what.iter().cloned());
            match poll(&mut fds, left.as_ref()) {
                Err(Errno::INTR) => {}
                polled => return Ok(polled.map(drop)?),
            }
        }
    }

    /// Waits that long, or until a signal comes.
    pub fn sleep(&self, time: Duration) {
        // What fails here is a shorter sleep.
        let _ = self.wait(None, Some(time));
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};

    #[test]
    fn signals_are_counted_and_cut_a_wait_short() {
        let stop = Stop::listen().unwrap();
        assert_eq!(stop.asked(), 0);
        stop.wait(None, Some(Duration::from_millis(1))).unwrap();
        assert_eq!(stop.asked(), 0);
        kill_process(getpid(), Signal::TERM).unwrap();
        let start = Instant::now();
        stop.wait(None, Some(Duration::from_secs(60))).unwrap();
        assert!(start.elapsed() < Duration::from_secs(30));
        assert_eq!(stop.asked(), 1);
        kill_process(getpid(), Signal::INT).unwrap();
        stop.wait(None, None).unwrap();
        assert_eq!(stop.asked(), 2);
    }
}
