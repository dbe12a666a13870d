//! Paths of unix sockets: the files that a path leads to, and the sockets that are bound to them.
//!
//! The kernel keeps the path of bind() as it was given: relative to a directory that nobody knows
//! any more, through symbolic links, or in the root directory of a container. The file that it led
//! to identifies the socket.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ravel_records::{Family, SkState, SocketKind};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, fstatfs, openat2};

use super::socket::{Sock, Unix};
use crate::proc::{Proc, Subject, Unread, exited};

/// A file that a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A process in whose root directory it was found; none for that of this program.
    pub root: Option<u32>,
    /// Its inode, as sock_diag numbers it.
    pub inode: u32,
    /// Its device, as the kernel numbers it.
    pub device: u32,
    /// Whether it is a socket.
    pub is_socket: bool,
    /// The file system has other device numbers for stat() than for the kernel.
    pub has_layers: bool,
}

/// Magic numbers of such file systems (`linux/magic.h`): overlayfs and btrfs.
const LAYERED: [u64; 2] = [0x794c_7630, 0x9123_683e];

impl Place {
    fn of(root: Option<u32>, file: impl AsFd) -> io::Result<Self> {
        let stat = fstat(&file)?;
        let system = fstatfs(&file)?.f_type as u64;
        let (major, minor) = (
            rustix::fs::major(stat.st_dev),
            rustix::fs::minor(stat.st_dev),
        );
        Ok(Self {
            root,
            // The rest of the number is not reported.
            inode: stat.st_ino as u32,
            device: (major << 20) | minor,
            is_socket: rustix::fs::FileType::from_raw_mode(stat.st_mode)
                == rustix::fs::FileType::Socket,
            has_layers: LAYERED.contains(&system),
        })
    }
}

/// The files that a path leads to: here, and if it is absolute in the root directory of each of
/// these processes.
pub fn places(path: &Path, proc: &Proc, roots: &[u32], unread: &mut Unread) -> Vec<Place> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut found: Vec<Place> = Vec::new();
    let mut add = |place: Place| {
        let same = |of: &Place| (of.inode, of.device) == (place.inode, place.device);
        if !found.iter().any(same) {
            found.push(place);
        }
    };
    let here = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::empty());
    if let Ok(place) = here
        .map_err(Into::into)
        .and_then(|file| Place::of(None, file))
    {
        add(place);
    }
    if !path.is_absolute() {
        return found;
    }
    for pid in roots {
        let within = File::open(proc.root(*pid)).and_then(|root| {
            Ok(openat2(
                &root,
                path,
                flags,
                Mode::empty(),
                ResolveFlags::IN_ROOT,
            )?)
        });
        match within.and_then(|file| Place::of(Some(*pid), file)) {
            Ok(place) => add(place),
            Err(error) if exited(&error) || error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => unread.add(Subject::Root, *pid, error),
        }
    }
    found
}

/// Why a unix socket matches a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// It is bound to the file.
    ToFile,
    /// It is bound to a file of the same name, which is not there any more.
    ToFormerFile,
}

/// A unix socket that matches a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathMatch {
    /// Its place in the list of sockets.
    pub at: usize,
    /// Why.
    pub bound: Bound,
    /// Which of the files it is bound to.
    pub place: Option<usize>,
    /// connect() with this path gets to it.
    pub is_reached: bool,
}

/// The sockets that are bound to these files, and those that were bound to this path before.
pub fn matches(socks: &[Sock], path: &Path, places: &[Place]) -> Vec<PathMatch> {
    let spelled = absolute(path);
    let mut found = Vec::new();
    for (at, sock) in socks.iter().enumerate() {
        let Some(unix) = sock.unix.as_ref().filter(|_| sock.family == Family::Unix) else {
            continue;
        };
        let place = places.iter().position(|place| is_bound(unix, place, path));
        if let Some(place) = place {
            found.push(PathMatch {
                at,
                bound: Bound::ToFile,
                place: Some(place),
                is_reached: places[place].root.is_none() && is_connectable(sock),
            });
        } else if is_named(unix, &spelled, path) {
            found.push(PathMatch {
                at,
                bound: Bound::ToFormerFile,
                place: None,
                is_reached: false,
            });
        }
    }
    found.sort_by_key(|of| {
        (
            !of.is_reached,
            of.bound,
            of.place,
            !socks[of.at].listens(),
            of.at,
        )
    });
    found
}

/// Whether a socket is bound to a file. Where devices cannot be compared, the names of the files
/// are.
fn is_bound(unix: &Unix, place: &Place, path: &Path) -> bool {
    match unix.file {
        Some((inode, _)) if inode != place.inode => false,
        Some((_, device)) if device == place.device => true,
        Some(_) if place.has_layers => {
            let name = unix.name.as_deref().map(OsStr::from_bytes);
            name.is_some_and(|name| Path::new(name).file_name() == path.file_name())
        }
        _ => false,
    }
}

/// Whether connect() finds the socket by its file: it does not find what accept() returned.
fn is_connectable(sock: &Sock) -> bool {
    match sock.kind {
        SocketKind::Dgram => true,
        _ => sock.state == SkState::Listen,
    }
}

/// Whether a socket was bound to a path that is spelled the same.
fn is_named(unix: &Unix, absolute: &Path, given: &Path) -> bool {
    let Some(name) = unix.name.as_deref().filter(|name| name.first() != Some(&0)) else {
        return false;
    };
    let name = Path::new(OsStr::from_bytes(name));
    // Components() takes `//` and `/./` for `/`.
    unix.file.is_some() && name.is_absolute() && (name == absolute || name == given)
}

/// A path from the root on, without following the link that it may be itself.
fn absolute(path: &Path) -> PathBuf {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or(Path::new(".")));
    match (folder, path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// Whether a name that was asked for, such as `@name`, means that of a socket: exactly, or (true)
/// with NULs behind it that bind() was given as a part of the name.
pub fn is_abstract(unix: &Unix, wanted: &[u8]) -> Option<bool> {
    let name = unix.name.as_deref()?.strip_prefix(&[0])?;
    let rest = name.strip_prefix(wanted)?;
    rest.iter()
        .all(|byte| *byte == 0)
        .then_some(!rest.is_empty())
}

/// The bytes of a name in which NULs and others are written as `\0`, `\x00` or `\u{0}`; `\0{100}`
/// are 100 NULs.
pub fn unescaped(name: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = name;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let (code, after) = rest.split_first().ok_or("a `\\` at its end")?;
        rest = after;
        match code {
            b'\\' => bytes.push(b'\\'),
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'r' => bytes.push(b'\r'),
            b'0' => match braced(rest) {
                Some((count, after)) => {
                    let count: usize = count.parse().map_err(|_| "`\\0{N}` without a number")?;
                    // No name is longer.
                    bytes.resize(bytes.len() + count.min(108), 0);
                    rest = after;
                }
                None => bytes.push(0),
            },
            b'x' => {
                let digits = rest
                    .get(..2)
                    .and_then(|digits| std::str::from_utf8(digits).ok());
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(byte.ok_or("`\\x` without two digits")?);
                rest = &rest[2..];
            }
            b'u' => {
                let (digits, after) = braced(rest).ok_or("`\\u` without `{HEX}`")?;
                let letter = u32::from_str_radix(digits, 16)
                    .ok()
                    .and_then(char::from_u32);
                let letter = letter.ok_or("`\\u{HEX}` without a character")?;
                bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
            other => return Err(format!("`\\{}` is no escape", char::from(*other))),
        }
    }
    Ok(bytes)
}

/// What stands in braces at the beginning, and what follows.
fn braced(text: &[u8]) -> Option<(&str, &[u8])> {
    let inner = text.strip_prefix(b"{")?;
    let end = inner.iter().position(|byte| *byte == b'}')?;
    Some((std::str::from_utf8(&inner[..end]).ok()?, &inner[end + 1..]))
}

/// A name as [`unescaped`] takes it: what a terminal would act on as `\u{HEX}`, NULs as `\0`, many
/// of them as `\0{N}`.
pub fn escaped(name: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = name;
    while !rest.is_empty() {
        let nuls = rest.iter().take_while(|byte| **byte == 0).count();
        match nuls {
            0 => {
                let end = rest
                    .iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(rest.len());
                let part = String::from_utf8_lossy(&rest[..end]).replace('\\', "\\\\");
                text.push_str(&ravel_records::visible(&part));
                rest = &rest[end..];
                continue;
            }
            1..=3 => text.push_str(&"\\0".repeat(nuls)),
            _ => text.push_str(&format!("\\0{{{nuls}}}")),
        }
        rest = &rest[nuls..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::socket::What;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::os::unix::net::UnixListener;

    fn unix(kind: SocketKind, state: SkState, name: &[u8], file: Option<(u32, u32)>) -> Sock {
        Sock {
            netns: 1,
            inode: 7,
            family: Family::Unix,
            kind,
            protocol: "0".into(),
            state,
            what: What::Socket,
            ends: None,
            unix: Some(Unix {
                name: Some(name.to_vec()),
                file,
                ..Unix::default()
            }),
            uid: None,
            waiting: 0,
            is_subflow: false,
        }
    }

    #[test]
    fn every_spelling_leads_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        fs::create_dir(&real).unwrap();
        symlink("real", folder.path().join("link")).unwrap();
        symlink("real/a.sock", folder.path().join("to")).unwrap();
        let _listener = UnixListener::bind(real.join("a.sock")).unwrap();
        let inode = fs::metadata(real.join("a.sock")).unwrap().ino() as u32;
        let spelled = |name: &str| {
            let path = folder.path().join(name);
            let mut unread = Unread::default();
            places(&path, &Proc::default(), &[], &mut unread)
        };
        for name in ["real/a.sock", "link/a.sock", "to", "real/../link//./a.sock"] {
            let found = spelled(name);
            assert_eq!(found.len(), 1, "{name}");
            assert_eq!(
                (found[0].inode, found[0].is_socket),
                (inode, true),
                "{name}"
            );
        }
        assert_eq!(spelled("none"), []);
        assert!(!spelled("real")[0].is_socket);
    }

    #[test]
    fn connect_reaches_one_of_those_that_are_bound() {
        let path = Path::new("/run/a.sock");
        let here = Place {
            root: None,
            inode: 5,
            device: 9,
            is_socket: true,
            has_layers: false,
        };
        let there = Place {
            root: Some(77),
            inode: 6,
            ..here.clone()
        };
        let file = Some((5, 9));
        let socks = [
            unix(
                SocketKind::Stream,
                SkState::Listen,
                b"/run/a.sock",
                Some((4, 9)),
            ),
            unix(
                SocketKind::Stream,
                SkState::Established,
                b"/run/a.sock",
                file,
            ),
            unix(SocketKind::Stream, SkState::Listen, b"../run/a.sock", file),
            unix(
                SocketKind::Stream,
                SkState::Listen,
                b"/run/a.sock",
                Some((6, 9)),
            ),
            unix(SocketKind::Stream, SkState::Listen, b"\0/run/a.sock", None),
            unix(
                SocketKind::Stream,
                SkState::Listen,
                b"/run/b.sock",
                Some((5, 8)),
            ),
        ];
        let found = matches(&socks, path, &[here, there]);
        let found: Vec<_> = found
            .iter()
            .map(|of| (of.at, of.bound, of.is_reached))
            .collect();
        assert_eq!(
            found,
            [
                (2, Bound::ToFile, true),
                (1, Bound::ToFile, false),
                (3, Bound::ToFile, false),
                (0, Bound::ToFormerFile, false),
            ]
        );
    }

    #[test]
    fn names_are_compared_where_devices_cannot_be() {
        let place = Place {
            root: None,
            inode: 5,
            device: 30,
            is_socket: true,
            has_layers: true,
        };
        let named = |name: &[u8]| Unix {
            name: Some(name.to_vec()),
            file: Some((5, 29)),
            ..Unix::default()
        };
        let path = Path::new("/run/a.sock");
        assert!(is_bound(&named(b"a.sock"), &place, path));
        assert!(!is_bound(&named(b"/run/b.sock"), &place, path));
        let plain = Place {
            has_layers: false,
            ..place
        };
        assert!(!is_bound(&named(b"a.sock"), &plain, path));
    }

    #[test]
    fn abstract_names_may_have_nuls_behind_them() {
        let named = |name: &[u8]| Unix {
            name: Some(name.to_vec()),
            ..Unix::default()
        };
        assert_eq!(is_abstract(&named(b"\0a"), b"a"), Some(false));
        assert_eq!(is_abstract(&named(b"\0a\0\0"), b"a"), Some(true));
        assert_eq!(is_abstract(&named(b"\0a\0\0"), b"a\0\0"), Some(false));
        for (name, wanted) in [
            (&b"\0a\0b"[..], &b"a"[..]),
            (b"\0a", b"a\0"),
            (b"a", b"a"),
            (b"\0ab", b"a"),
        ] {
            assert_eq!(is_abstract(&named(name), wanted), None, "{name:?}");
        }
    }

    #[test]
    fn names_survive_being_written() {
        for name in [
            &b"a"[..],
            b"a\0b",
            b"\0",
            b"a\\0",
            b"a\x1b[2J",
            "é\u{202e}".as_bytes(),
        ] {
            assert_eq!(unescaped(escaped(name).as_bytes()).as_deref(), Ok(name));
        }
        let padded = [&b"varnish"[..], &[0; 100]].concat();
        assert_eq!(escaped(&padded), "varnish\\0{100}");
        for written in [
            "varnish\\0{100}".to_owned(),
            format!("varnish{}", "\\u{0}".repeat(100)),
        ] {
            assert_eq!(unescaped(written.as_bytes()).unwrap(), padded);
        }
        assert_eq!(unescaped(b"a\\x00b").unwrap(), b"a\0b");
        for bad in ["\\", "\\q", "\\x0", "\\u{}", "\\u{110000}", "\\0{x}"] {
            assert!(unescaped(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
