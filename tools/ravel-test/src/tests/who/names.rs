// SPDX-License-Identifier: GPL-2.0
//! Unix sockets by paths in every spelling, and by abstract names: compared with what connect()
//! reaches.

use std::env;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{chroot, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{code, holders, run, who};
use crate::process::Child;
use crate::sys::{self, Address};
use crate::{check, check_eq, tests};

tests!("who":
    paths_in_every_spelling,
    path_in_another_root_directory,
    path_that_was_bound_twice,
    file_without_a_socket_is_said,
    abstract_names_with_nuls,
    what_is_shown_can_be_asked_for,
);

struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("ravel-test-names-{}", sys::getpid()));
        fs::create_dir_all(&path)?;
        Ok(Self(fs::canonicalize(path)?))
    }

    fn text(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn listen(path: &str) -> Result<OwnedFd> {
    let socket = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    sys::bind(&socket, &Address::unix(path.as_bytes())).with_context(|| path.to_owned())?;
    sys::listen(&socket, 4)?;
    Ok(socket)
}

/// The answer to a word in a directory.
fn inside(folder: &Path, word: &str) -> Result<Vec<Value>> {
    let out = Command::new(crate::module::beside("ravel")?)
        .args(["who", "--json", word])
        .current_dir(folder)
        .output()?;
    let errors = String::from_utf8_lossy(&out.stderr);
    let told: Value =
        serde_json::from_slice(&out.stdout).with_context(|| format!("{word}: {errors}"))?;
    Ok(told["sockets"].as_array().context("no sockets")?.clone())
}

fn check_reached(told: &[Value], fd: &OwnedFd, what: &str) -> Result<()> {
    let reached: Vec<&Value> = told
        .iter()
        .filter(|socket| socket["path"]["is_reached"] == true)
        .collect();
    check_eq!(
        reached.len(),
        1,
        "{what}: sockets that connect() reaches, of {told:?}"
    );
    check_eq!(
        holders(&reached[0]["holders"]),
        [(sys::getpid(), fd.as_raw_fd())],
        "{what}"
    );
    Ok(())
}

fn paths_in_every_spelling() -> Result<()> {
    let folder = Folder::new()?;
    fs::create_dir(folder.0.join("real"))?;
    symlink("real", folder.0.join("link"))?;
    let before = env::current_dir()?;
    env::set_current_dir(&folder.0)?;
    let relative = listen("a.sock");
    env::set_current_dir(before)?;
    let relative = relative?;
    let doubled = listen(&format!("{}//b.sock", folder.0.display()))?;
    let linked = listen(&folder.text("link/c.sock"))?;
    symlink("link/c.sock", folder.0.join("to-c"))?;
    for (words, fd) in [
        (&["a.sock", "./a.sock", "real/../a.sock"][..], &relative),
        (&["b.sock", ".//b.sock"], &doubled),
        (
            &[
                "real/c.sock",
                "link/c.sock",
                "./link/../real/c.sock",
                "./to-c",
            ],
            &linked,
        ),
    ] {
        for word in words {
            check_reached(&inside(&folder.0, word)?, fd, word)?;
            let path = folder.text(word);
            check_reached(&who(&path)?, fd, &path)?;
        }
    }
    Ok(())
}

fn path_in_another_root_directory() -> Result<()> {
    let folder = Folder::new()?;
    let root = folder.0.clone();
    let mut child = Child::spawn(move |link| {
        chroot(&root)?;
        env::set_current_dir("/")?;
        let listener = listen("/e.sock")?;
        link.send(&listener.as_raw_fd().to_string())?;
        link.wait().map(drop)
    })?;
    let fd: i32 = child.link.recv()?.parse()?;
    let told = who(&folder.text("e.sock"))?;
    check_eq!(told.len(), 1, "sockets");
    check_eq!(holders(&told[0]["holders"]), [(child.pid, fd)], "who");
    check_eq!(told[0]["path"]["is_reached"], true, "connect() reaches it");
    // By its name in there.
    let told = who("/e.sock")?;
    check_eq!(told.len(), 1, "sockets of the other root directory");
    check_eq!(holders(&told[0]["holders"]), [(child.pid, fd)], "who");
    check_eq!(
        told[0]["path"]["is_reached"],
        false,
        "connect() does not reach it"
    );
    check!(
        told[0]["path"]["root_of"].is_u64(),
        "whose root directory: {}",
        told[0]
    );
    Ok(())
}

fn path_that_was_bound_twice() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.text("twice.sock");
    let first = listen(&path)?;
    fs::remove_file(&path)?;
    let second = listen(&path)?;
    let told = who(&path)?;
    check_eq!(told.len(), 2, "sockets: {told:?}");
    check_reached(&told, &second, "the second")?;
    let former = told
        .iter()
        .find(|socket| socket["path"]["is_former"] == true);
    let former = former.context("the first is not told")?;
    check_eq!(
        holders(&former["holders"]),
        [(sys::getpid(), first.as_raw_fd())],
        "the first"
    );
    // The other way about: the second file goes, and comes back under the name of the first.
    fs::rename(&path, folder.text("moved.sock"))?;
    check_reached(&who(&folder.text("moved.sock"))?, &second, "after rename()")
}

fn file_without_a_socket_is_said() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.text("stale.sock");
    drop(listen(&path)?);
    fs::write(folder.0.join("plain"), "")?;
    for (word, said) in [
        (path, "ECONNREFUSED"),
        (folder.text("plain"), "no socket"),
        (folder.text("none"), "there is no file"),
    ] {
        let (_, out, err) = run(&[&word])?;
        check!(out.is_empty() && err.contains(said), "{word}: {err}");
        check_eq!(code(&[&word])?, Some(3), "exit code of {word}");
    }
    Ok(())
}

fn abstract_names_with_nuls() -> Result<()> {
    let us = sys::getpid();
    let base = format!("ravel-test-{us}");
    let named = |name: &[u8]| -> Result<OwnedFd> {
        let socket = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
        sys::bind(&socket, &Address::unix(&[b"\0", name].concat()))?;
        sys::listen(&socket, 4)?;
        Ok(socket)
    };
    let padding = 107 - base.len();
    let padded = named(&[base.as_bytes(), &vec![0; padding]].concat())?;
    let within = named(&[base.as_bytes(), b"\0b"].concat())?;
    let plain = named(format!("{base}-plain").as_bytes())?;
    let client = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    sys::connect(
        &client,
        &Address::unix(&[b"\0", base.as_bytes(), b"\0b"].concat()),
    )?;
    let server = sys::accept(&within)?;
    for (word, fd) in [
        (format!("@{base}"), &padded),
        (format!("@{base}\\0{{{padding}}}"), &padded),
        (format!("@{base}{}", "\\u{0}".repeat(padding)), &padded),
        (format!("@{base}-plain"), &plain),
    ] {
        let told = who(&word)?;
        check_eq!(told.len(), 1, "sockets of {word}: {told:?}");
        check_eq!(
            holders(&told[0]["holders"]),
            [(us, fd.as_raw_fd())],
            "{word}"
        );
    }
    let waiting = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let at = [b"\0", base.as_bytes(), b"-plain"].concat();
    sys::connect(&waiting, &Address::unix(&at))?;
    let told = who(&format!("@{base}-plain"))?;
    let clients = holders(&told[0]["clients"]);
    check_eq!(
        clients,
        [(us, waiting.as_raw_fd())],
        "clients that are not accepted"
    );
    let told = who(&format!("@{base}\\0b"))?;
    check_eq!(told.len(), 2, "listener and connection: {told:?}");
    check_eq!(
        holders(&told[0]["holders"]),
        [(us, within.as_raw_fd())],
        "listener"
    );
    check_eq!(
        holders(&told[1]["holders"]),
        [(us, server.as_raw_fd())],
        "connection"
    );
    check_eq!(
        holders(&told[1]["peer_holders"]),
        [(us, client.as_raw_fd())],
        "its client"
    );
    let (_, _, err) = run(&["@ravel-test-"])?;
    check!(err.contains("begins like that"), "{err}");
    Ok(())
}

fn what_is_shown_can_be_asked_for() -> Result<()> {
    let us = sys::getpid();
    let name = [
        b"\0ravel-test\0\x1b[2J".as_slice(),
        us.to_string().as_bytes(),
        &[0; 40],
    ]
    .concat();
    let socket = sys::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    sys::bind(&socket, &Address::unix(&name))?;
    let inode = crate::report::own_socket(&socket)?.0.inode;
    let (_, text, _) = run(&["--columns", "local", &format!("inode:{inode}")])?;
    let shown = text.lines().find(|line| line.starts_with('@'));
    let shown = shown.context("no name in it")?.split_whitespace().next();
    let shown = shown.context("no name")?;
    check!(shown.is_ascii() && !shown.contains('\x1b'), "{shown:?}");
    let told = who(shown)?;
    check_eq!(told.len(), 1, "sockets of {shown}");
    check_eq!(told[0]["inode"], inode, "inode");
    Ok(())
}
