//! The network namespaces of the machine: where each was found, and its name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;

use crate::proc::Proc;

/// Where `ip netns` and container runtimes mount namespaces under their names.
const FOLDERS: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    /// Its inode.
    pub inode: u64,
    /// A descriptor of it, which keeps it.
    file: OwnedFd,
    /// A process that is in it.
    pub pid: Option<u32>,
    /// Its name.
    pub name: Name,
}

/// What a namespace is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "name")]
pub enum Name {
    /// That of process 1.
    Host,
    /// The name under which it is mounted, such as `ip netns` does.
    Mounted(String),
    /// That of the container that its processes are in.
    Container(String),
    /// It has no name but its number.
    #[default]
    Unnamed,
}

impl Name {
    /// The name in a column.
    pub fn shown(&self, inode: u64) -> String {
        match self {
            Self::Host => "host".to_owned(),
            Self::Mounted(name) | Self::Container(name) => ravel_records::visible(name),
            Self::Unnamed => inode.to_string(),
        }
    }
}

impl Namespace {
    /// A namespace by a file of nsfs.
    pub fn open(path: &Path, pid: Option<u32>) -> io::Result<Self> {
        Self::of(File::open(path)?.into(), pid)
    }

    /// A namespace by a descriptor of it.
    pub fn of(file: OwnedFd, pid: Option<u32>) -> io::Result<Self> {
        let file = File::from(file);
        let inode = file.metadata()?.ino();
        Ok(Self {
            inode,
            file: file.into(),
            pid,
            name: Name::default(),
        })
    }

    /// Runs a function in a thread that is in the namespace.
    pub fn enter<R: Send>(&self, inside: impl FnOnce() -> R + Send) -> io::Result<R> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(inside())
            });
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })
    }
}

/// The namespaces that were found, by their inodes.
pub type Namespaces = BTreeMap<u64, Namespace>;

/// Adds the namespaces that are mounted, in any mount namespace that a process is in: `roots` are a
/// process of each.
pub fn add_mounted(all: &mut Namespaces, proc: &Proc, roots: &[u32]) {
    for pid in roots {
        let Ok(text) = proc.read(*pid, "mountinfo") else {
            continue;
        };
        for line in String::from_utf8_lossy(&text).lines() {
            let Some((inode, target)) = mounted(line) else {
                continue;
            };
            if !all.contains_key(&inode) {
                let path = proc.root(*pid).join(target.trim_start_matches('/'));
                let found = Namespace::open(&path, None).ok();
                all.extend(
                    found
                        .filter(|found| found.inode == inode)
                        .map(|found| (inode, found)),
                );
            }
        }
    }
}

/// The inode and the mount point of a network namespace, of a line of mountinfo.
fn mounted(line: &str) -> Option<(u64, String)> {
    let mut words = line.split(' ');
    let root = words.nth(3)?;
    let target = words.next()?;
    let kind = line.split_once(" - ")?.1.split(' ').next()?;
    let inode = root.strip_prefix("net:[")?.strip_suffix(']')?.parse();
    (kind == "nsfs").then_some((inode.ok()?, unescaped(target)))
}

/// A path of mountinfo, whose spaces and the like are octal numbers.
fn unescaped(path: &str) -> String {
    let mut parts = path.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match digits {
            Some(byte) => {
                text.push(byte.into());
                text.push_str(&part[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

/// Names namespaces: by process 1, by their mounts, by the containers of their processes.
pub fn name(all: &mut Namespaces, proc: &Proc) {
    let host = proc.netns(1).ok();
    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    for folder in FOLDERS {
        for (inode, name) in names_in(Path::new(folder)) {
            names.entry(inode).or_insert(name);
        }
    }
    for namespace in all.values_mut() {
        namespace.name = if host == Some(namespace.inode) {
            Name::Host
        } else if let Some(name) = names.remove(&namespace.inode) {
            Name::Mounted(name)
        } else {
            let cgroup = namespace.pid.and_then(|pid| proc.read(pid, "cgroup").ok());
            let cgroup = cgroup.map(|text| String::from_utf8_lossy(&text).into_owned());
            let named = cgroup.as_deref().and_then(container);
            named.map_or(Name::Unnamed, Name::Container)
        };
    }
}

fn names_in(folder: &Path) -> Vec<(u64, String)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = |entry: fs::DirEntry| {
        let inode = fs::metadata(entry.path()).ok()?.ino();
        Some((inode, entry.file_name().to_string_lossy().into_owned()))
    };
    entries.filter_map(named).collect()
}

/// The container of a process, by the lines of its /proc/PID/cgroup: the runtime and the beginning
/// of the container's id, or its name.
pub fn container(cgroup: &str) -> Option<String> {
    const RUNTIMES: [(&str, &str); 6] = [
        ("docker-", "docker"),
        ("libpod-", "podman"),
        ("cri-containerd-", "containerd"),
        ("crio-", "cri-o"),
        ("systemd-nspawn@", "nspawn"),
        ("machine-", "machine"),
    ];
    const PARENTS: [(&str, &str); 5] = [
        ("docker", "docker"),
        ("libpod_parent", "podman"),
        ("lxc", "lxc"),
        ("lxc.payload", "lxc"),
        ("containerd", "containerd"),
    ];
    for line in cgroup.lines() {
        let path = line.splitn(3, ':').nth(2)?;
        let mut above = "";
        for part in path.split('/') {
            let base = part
                .strip_suffix(".scope")
                .or(part.strip_suffix(".service"));
            if let Some(base) = base {
                for (prefix, runtime) in RUNTIMES {
                    let id = base
                        .strip_prefix(prefix)
                        .filter(|id| !id.starts_with("conmon"));
                    if let Some(id) = id {
                        return Some(format!("{runtime} {}", short(id)));
                    }
                }
            }
            if let Some(name) = part.strip_prefix("lxc.payload.") {
                return Some(format!("lxc {}", short(name)));
            }
            if let Some((_, runtime)) = PARENTS.iter().find(|(parent, _)| *parent == above) {
                if !part.is_empty() && base.is_none() {
                    let id = part.strip_prefix("libpod-").unwrap_or(part);
                    return Some(format!("{runtime} {}", short(id)));
                }
            }
            above = part;
        }
    }
    None
}

/// A container's id in the length in which its tools show it, or its name.
fn short(id: &str) -> &str {
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { &id[..12] } else { id }
}

/// The path of a descriptor's link in /proc.
pub fn descriptor(proc: &Proc, task: &str, fd: u32) -> PathBuf {
    proc.file(&format!("{task}/fd/{fd}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_namespaces() {
        let line = "36 26 0:4 net:[4026532201] /run/netns/a\\040b rw shared:19 - nsfs nsfs rw";
        assert_eq!(
            mounted(line),
            Some((4_026_532_201, "/run/netns/a b".to_owned()))
        );
        for other in [
            "36 26 0:4 mnt:[4026532201] /run/a rw - nsfs nsfs rw",
            "36 26 0:4 net:[4026532201] /run/a rw - ext4 nsfs rw",
            "25 1 0:23 / / rw - tmpfs tmpfs rw",
            "",
        ] {
            assert_eq!(mounted(other), None, "{other}");
        }
        assert_eq!(unescaped("a\\134b\\"), "a\\b\\");
    }

    #[test]
    fn containers_of_cgroups() {
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        for (path, name) in [
            (
                format!("/system.slice/docker-{id}.scope"),
                "docker 0123456789ab",
            ),
            (format!("/docker/{id}"), "docker 0123456789ab"),
            (
                format!("/machine.slice/libpod-{id}.scope/container"),
                "podman 0123456789ab",
            ),
            (
                format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
                "containerd 0123456789ab",
            ),
            (
                "/machine.slice/systemd-nspawn@web.service/payload".to_owned(),
                "nspawn web",
            ),
            ("/lxc.payload.web/init.scope".to_owned(), "lxc web"),
            ("/lxc/web".to_owned(), "lxc web"),
        ] {
            assert_eq!(container(&format!("0::{path}\n")).as_deref(), Some(name));
        }
        for path in [
            "/",
            "/system.slice/docker.service",
            "/user.slice/session-1.scope",
        ] {
            assert_eq!(container(&format!("0::{path}\n")), None, "{path}");
        }
        let conmon = format!("0::/machine.slice/libpod-conmon-{id}.scope\n");
        assert_eq!(container(&conmon), None);
    }

    #[test]
    fn a_thread_runs_inside() {
        let here = Namespace::open(Path::new("/proc/self/ns/net"), None).unwrap();
        // Without the capability, the answer is an error, and this thread stays where it is.
        match here.enter(|| 7) {
            Ok(seven) => assert_eq!(seven, 7),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
