// SPDX-License-Identifier: GPL-2.0
//! Who may ask, what is told to whom, and that no address of the kernel is ever told.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::peers::pair;
use crate::harness::say;
use crate::module::{self, Answer, BUFFER, DIR, REPORTS, attach, query, read_file, write_errno};
use crate::process::{Area, Child, Link};
use crate::report::anon;
use crate::sys::{self, Pid};
use crate::{check, check_eq, tests};

tests!("privilege":
    user_without_privileges_opens_nothing,
    root_of_a_user_namespace_opens_nothing,
    root_without_capabilities_opens_nothing,
    root_of_a_user_namespace_cannot_mount_debugfs,
    descriptor_carries_the_right_of_who_opened_it,
    root_in_a_pid_namespace_names_its_own_processes,
    no_output_holds_a_kernel_address [120 s],
);

const FILES: &[&str] = &[
    "version", "attached", "attach", "detach", "locks", "query", "sources", "streams",
];

/// Tries all files in each way: all must be refused with one of these errnos.
fn check_refused(folder: Pid, errnos: &[i32]) -> Result<()> {
    let reports = REPORTS.iter().map(|report| format!("{folder}/{report}"));
    for name in FILES.iter().map(|name| String::from(*name)).chain(reports) {
        let path = format!("{DIR}/{name}");
        for (read, write) in [(true, false), (false, true), (true, true)] {
            let opened = OpenOptions::new().read(read).write(write).open(&path);
            let error = opened.err().with_context(|| format!("{name} was opened"))?;
            check!(
                errnos.contains(&sys::errno(&error)),
                "opening {name}: {error}"
            );
        }
    }
    Ok(())
}

/// Runs a child in new namespaces; the second closure is ours, with its pid, before the first is its.
fn in_namespaces(
    flags: i32,
    prepare: impl FnOnce(Pid) -> Result<()>,
    f: impl FnOnce(&mut Link) -> Result<()>,
) -> Result<()> {
    let mut child = Child::spawn_with(flags as u64, None, |link| {
        link.wait()?;
        f(link)
    })?;
    prepare(child.pid)?;
    child.link.send("go")?;
    child.join()
}

/// Maps a user namespace's root to a user outside.
fn map_root(pid: Pid, outside: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/uid_map"), format!("0 {outside} 1"))?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("0 {outside} 1"))?;
    Ok(())
}

fn user_without_privileges_opens_nothing() -> Result<()> {
    let us = sys::getpid();
    attach(us)?;
    let mut child = Child::spawn(move |_| {
        sys::become_nobody()?;
        check_refused(us, &[libc::EACCES])?;
        let error = fs::read_dir(DIR).err().context("the folder was listed")?;
        check_eq!(
            sys::errno(&error),
            libc::EACCES,
            "errno of listing the folder"
        );
        Ok(())
    })?;
    child.join()?;
    module::detach(us)
}

fn root_of_a_user_namespace_opens_nothing() -> Result<()> {
    let us = sys::getpid();
    attach(us)?;
    // Whether it is a nobody outside, or even the very user that the files belong to.
    for (outside, errno) in [(65534, libc::EACCES), (0, libc::EPERM)] {
        in_namespaces(
            libc::CLONE_NEWUSER,
            |pid| map_root(pid, outside),
            move |_| {
                sys::become_root()?;
                check_refused(us, &[errno]).with_context(|| format!("uid {outside} outside"))
            },
        )?;
    }
    module::detach(us)
}

fn root_without_capabilities_opens_nothing() -> Result<()> {
    let us = sys::getpid();
    attach(us)?;
    let mut child = Child::spawn(move |_| {
        sys::drop_capabilities()?;
        check_refused(us, &[libc::EPERM, libc::EACCES])
    })?;
    child.join()?;
    module::detach(us)
}

fn root_of_a_user_namespace_cannot_mount_debugfs() -> Result<()> {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    in_namespaces(
        flags,
        |pid| map_root(pid, 0),
        |_| {
            let mounted = sys::mount("debugfs", Path::new("/mnt"), "debugfs", 0);
            let error = mounted.err().context("debugfs was mounted")?;
            check_eq!(sys::errno(&error), libc::EPERM, "errno of mounting debugfs");
            Ok(())
        },
    )
}

fn descriptor_carries_the_right_of_who_opened_it() -> Result<()> {
    let mut file = module::open_query()?;
    let parent = sys::getpid();
    let mut child = Child::spawn(move |_| {
        sys::become_nobody()?;
        for report in REPORTS {
            let request = format!("{report} {parent}");
            check_eq!(write_errno(&mut file, request.as_bytes()), 0, "write");
            Answer::read(&mut file, BUFFER).whole()?;
        }
        Ok(())
    })?;
    child.join()
}

fn root_in_a_pid_namespace_names_its_own_processes() -> Result<()> {
    let outside = sys::getpid();
    let mut child = Child::spawn_with(
        (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64,
        None,
        |link| {
            let us: Pid = link.wait()?.parse()?;
            sys::mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE)?;
            sys::mount("debugfs", Path::new("/mnt"), "debugfs", 0)?;
            let grandchild = Child::idle()?;
            check_eq!(
                (sys::getpid(), grandchild.pid),
                (1, 2),
                "pids in the namespace"
            );
            // Numbers are taken in the writer's namespace, and told in the initial one.
            check_eq!(anon(1)?.header.pid as Pid, us, "pid told of pid 1");
            check!(anon(2)?.header.pid > 2, "pid told of pid 2");
            let mut file = OpenOptions::new().write(true).open("/mnt/ravel/attach")?;
            check_eq!(write_errno(&mut file, b"1"), 0, "attach of 1");
            check_eq!(module::folders()?, [us], "folders");
            // Who is outside has no number here...
            for pid in [outside, us] {
                let (errno, _) = query(format!("sockets {pid}").as_bytes())?;
                check_eq!(errno, libc::ESRCH, "errno for a number of outside");
            }
            // ... but a folder's name will do to remove it.
            module::detach(us)
        },
    )?;
    child.link.send(&child.pid.to_string())?;
    child.join()
}

/// Values of a text, outside of quotes: key and value.
fn values(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().flat_map(|line| {
        let unquoted = line.split('"').step_by(2);
        unquoted.flat_map(|part| part.split(' ').filter_map(|pair| pair.split_once('=')))
    })
}

/// A number, decimal or hex; what is none has none.
fn as_number(value: &str) -> Option<i128> {
    let value = value.split(':').next().unwrap_or(value);
    match value.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}

/// Sixteen hex digits.
fn as_id(value: &str) -> Option<u64> {
    (value.len() == 16).then(|| u64::from_str_radix(value, 16).ok())?
}

/// Addresses that the kernel itself tells root: of its symbols, and of sockets where it still does.
fn known_addresses() -> Result<BTreeSet<u64>> {
    let mut known = BTreeSet::new();
    for name in [
        "kallsyms",
        "net/unix",
        "net/netlink",
        "net/packet",
        "net/tcp",
        "modules",
    ] {
        let text = fs::read(format!("/proc/{name}")).unwrap_or_default();
        for word in text
            .split(|b| !b.is_ascii_hexdigit())
            .filter(|word| word.len() == 16)
        {
            let address = u64::from_str_radix(std::str::from_utf8(word)?, 16)?;
            if address >= 1 << 63 {
                known.insert(address);
            }
        }
    }
    Ok(known)
}

fn no_output_holds_a_kernel_address() -> Result<()> {
    let us = sys::getpid();
    let stream = pair()?;
    let datagrams = UnixDatagram::pair()?;
    datagrams.0.send(b"datagram")?;
    let _kept = (
        TcpListener::bind("[::1]:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
        stream,
    );
    let _raw = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    for _ in 0..20 {
        Area::map(1)?.touch();
    }
    let child = Child::idle()?;
    attach(child.pid)?;
    let before = fs::read_to_string("/proc/sys/kernel/kptr_restrict")?;
    let (mut ids, mut numbers, mut bytes) = (BTreeSet::new(), 0, 0);
    let mut known = BTreeSet::new();
    for setting in ["0", "1", "2"] {
        fs::write("/proc/sys/kernel/kptr_restrict", setting)?;
        known.append(&mut known_addresses()?);
        let mut texts = vec![query(b"rubbish")?.1.text];
        for name in ["version", "attached", "locks"] {
            texts.push(read_file(name)?.whole()?);
        }
        for report in REPORTS {
            texts.push(module::report_text(report, us)?);
            texts.push(read_file(&format!("{}/{report}", child.pid))?.whole()?);
            texts.push(query(format!("{report} 2").as_bytes())?.1.text);
            texts.push(query(format!("{report} 4194304").as_bytes())?.1.text);
        }
        for text in texts {
            let text = String::from_utf8(text)?;
            bytes += text.len();
            for (key, value) in values(&text) {
                if let Some(id) = as_id(value) {
                    ids.insert(id);
                } else if let Some(number) = as_number(value) {
                    // User space ends at 2^56; the kernel's addresses are above 2^63.
                    check!(
                        number.abs() < 1 << 56,
                        "{key}={value} may be a kernel address"
                    );
                    numbers += 1;
                }
            }
        }
    }
    fs::write("/proc/sys/kernel/kptr_restrict", before)?;
    module::detach(child.pid)?;
    ids.remove(&0);
    check!(ids.len() > 50, "only {} ids", ids.len());
    check!(
        known.len() > 10_000,
        "only {} addresses to compare with",
        known.len()
    );
    let told: Vec<_> = ids.intersection(&known).collect();
    check!(told.is_empty(), "ids that are addresses: {told:x?}");
    // Addresses begin with 16 ones and are multiples of 8; what is hashed seldom does, and seldom is.
    let like = ids.iter().filter(|id| **id >> 48 == 0xffff).count();
    let aligned = ids.iter().filter(|id| **id % 8 == 0).count();
    check!(
        like <= 1 && aligned < ids.len() / 2,
        "of {} ids {like} begin and {aligned} end as addresses do",
        ids.len()
    );
    let log = Command::new("dmesg").output().context("dmesg")?;
    for line in String::from_utf8_lossy(&log.stdout).lines() {
        let raw = line.contains("ravel") && line.contains("ffff");
        check!(!raw, "in the kernel log: {line}");
    }
    say(format_args!(
        "{bytes} bytes of output under kptr_restrict 0, 1 and 2: {numbers} numbers and {} ids, none of them one of {} \
         known addresses",
        ids.len(),
        known.len()
    ));
    Ok(())
}
