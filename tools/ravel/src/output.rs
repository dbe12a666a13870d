//! Where output goes: standard output, as text or JSON, and files that only their owner may read.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ravel_records::{FORMAT, json};
use serde::Serialize;

use crate::Failure;
use crate::clock::{Clock, utc};
use crate::machine::Machine;

/// What a document says about its origin.
#[derive(Debug, Serialize)]
struct Origin {
    /// This program's version.
    version: &'static str,
    /// Version of the report format.
    format: u64,
    /// Whether the module was asked now; otherwise a saved report is shown, and what follows is null.
    live: bool,
    kernel: Option<String>,
    host: Option<String>,
    boot_id: Option<String>,
    /// Wall-clock time of this document, in UTC.
    time: Option<String>,
    /// The same in nanoseconds since boot.
    boot_ns: Option<u64>,
}

impl Origin {
    fn of(live: bool) -> Self {
        let clock = Clock::now();
        let machine = Machine::here();
        let here = |text: Option<String>| text.filter(|_| live);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            format: FORMAT,
            live,
            kernel: here(machine.release()),
            host: here(machine.host()),
            boot_id: here(machine.boot_id()),
            time: live.then(|| utc(clock.now_ns())),
            boot_ns: live.then_some(clock.boot_ns),
        }
    }
}

/// A document, with its origin.
#[derive(Serialize)]
struct Document<'m, M> {
    ravel: Origin,
    #[serde(flatten)]
    model: &'m M,
}

/// Prints one JSON document, a piece at a time.
pub fn print_json(model: &impl Serialize, live: bool) -> Result<(), Failure> {
    print_document(model, live, |to, document| {
        json::write_document(to, document)
    })
}

/// Prints one JSON document on a line of its own, for a stream of documents.
pub fn print_json_line(model: &impl Serialize, live: bool) -> Result<(), Failure> {
    print_document(model, live, |to, document| json::write_line(to, document))
}

fn print_document<M: Serialize>(
    model: &M,
    live: bool,
    write: impl FnOnce(&mut BufWriter<io::StdoutLock<'_>>, &Document<'_, M>) -> io::Result<()>,
) -> Result<(), Failure> {
    let document = Document {
        ravel: Origin::of(live),
        model,
    };
    let mut to = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    write(&mut to, &document)
        .and_then(|()| to.flush())
        .map_err(Failure::Output)
}

/// Prints text with colours or without, as standard output wants it.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    let written = match is_ascii_locale() {
        true => out.write_all(ascii(text).as_bytes()),
        false => out.write_all(text.as_bytes()),
    };
    written.and_then(|()| out.flush()).map_err(Failure::Output)
}

/// Writes bytes as they are.
pub fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

/// Whether standard output wants colours.
pub fn has_colours() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// Whether the locale is one that is not UTF-8. None at all is taken for UTF-8.
pub fn is_ascii_locale() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty());
    set.is_some_and(|value| {
        let value = value.to_ascii_lowercase().replace('-', "");
        !value.contains("utf8")
    })
}

/// The text in ASCII, each character as wide as before.
pub fn ascii(text: &str) -> String {
    let letter = |letter: char| match letter {
        '\0'..='\x7f' => letter,
        '→' => '>',
        '─' | '–' => '-',
        '├' | '│' => '|',
        '└' => '`',
        '×' => 'x',
        '…' => '~',
        _ => '?',
    };
    text.chars().map(letter).collect()
}

/// Creates a file that only its owner may read and write, whatever the umask says, or empties the one that is there.
/// The mode of an existing file stays as it is.
pub fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_the_owner_s_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        create_private(&path).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        create_private(&path).unwrap();
        assert_eq!(mode(&path), 0o640);
    }

    #[test]
    fn ascii_keeps_columns() {
        assert_eq!(ascii("├─ a → b…"), "|- a > b~");
    }
}
