//! Streams of events, as their readers handle them.

use std::time::Duration;

use ravel_records::Error;
use ravel_records::client::Client;
use rustix::io::Errno;

use crate::machine::Machine;
use crate::output::warn;
use crate::remedy::{Remedy, explain};

/// How long to wait before failed records are looked for again.
pub const FAILED_AGAIN: Duration = Duration::from_secs(10);

/// Warns that a batch could no longer be acknowledged.
pub fn late() {
    warn(
        "a batch went out after its deadline: another reader may forward it, too\n  \
         try: a longer --lease",
    );
}

/// Replays the failed records of a stream. Returns whether there were any.
pub fn again(client: &Client, stream: &str) -> Result<bool, Error> {
    let streams = client.streams()?.streams;
    let failed = |of: &ravel_records::Stream| of.name == stream && of.failed > 0;
    if !streams.iter().any(failed) {
        return Ok(false);
    }
    client.mend(stream, "replay")?;
    Ok(true)
}

/// Returns the error number of an error of the module.
pub fn errno(error: &Error) -> Option<Errno> {
    match error {
        Error::Io { source, .. } => Errno::from_io_error(source),
        _ => None,
    }
}

/// Explains why a stream could not be created, read or removed.
pub fn refused(stream: &str, error: Error) -> Remedy {
    let machine = Machine::here();
    let none = || {
        Remedy::new(
            format!("there is no stream {stream:?}, or no such record in it"),
            "ravel events list",
        )
    };
    // Without the module, its files are missing, too.
    let usable = machine.is_root && machine.module_loaded();
    match errno(&error) {
        Some(Errno::NOENT) if usable => none(),
        Some(Errno::EXIST) => Remedy::new(
            format!("there is a stream {stream:?} already"),
            format!("ravel events remove {stream}"),
        ),
        Some(Errno::NOSPC) => Remedy::new(
            "there are as many streams as there can be",
            "ravel events list, and remove one",
        ),
        Some(Errno::SRCH) => Remedy::new(
            "no process has this pid",
            "ps -e, for the processes there are now",
        ),
        Some(Errno::OPNOTSUPP) => {
            Remedy::new("this kernel lacks what a source hangs on", "ravel doctor")
        }
        Some(Errno::INVAL) => Remedy::new(
            format!("the module takes no such request for a stream {stream:?}"),
            "a name of at most 31 letters, digits, `_` and `-`, and more --bytes on a machine of many CPUs",
        ),
        Some(Errno::BUSY) => Remedy::new(
            format!("stream {stream:?} has as many readers as there can be"),
            "end one of them",
        ),
        Some(Errno::IO) => Remedy::new(
            format!("stream {stream:?} was removed"),
            "ravel events list",
        ),
        Some(Errno::NOMEM) => Remedy::new("the kernel has no memory for that", "fewer --bytes"),
        _ => explain(&error, &machine),
    }
}
