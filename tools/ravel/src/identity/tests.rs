//! Identities of processes whose files are made here.

use super::*;

const ID: &str = "4f1c0d3e9a2b5c6d7e8f90112233445566778899aabbccddeeff001122334455";
const POD: &str = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";

fn place(text: &str) -> Place {
    Place::parse(text.as_bytes())
}

#[test]
fn units() {
    for (text, unit) in [
        ("0::/system.slice/web.service/worker\n", Some("web.service")),
        (
            "0::/user.slice/user-1000.slice/session-1.scope\n",
            Some("session-1.scope"),
        ),
        (
            "0::/user.slice/user-7.slice/user@7.service/app.slice/a.service\n",
            Some("a.service"),
        ),
        (
            "0::/system.slice/system-getty.slice/getty@tty1.service\n",
            Some("getty@tty1.service"),
        ),
        // A machine with both hierarchies.
        (
            "4:memory:/x\n1:name=systemd:/system.slice/old.service\n0::/\n",
            Some("old.service"),
        ),
        ("0::/\n", None),
        ("", None),
        ("nonsense\n0:\n", None),
    ] {
        let found = place(text);
        assert_eq!((found.unit.as_deref(), found.container), (unit, None));
    }
}

#[test]
fn containers_of_every_runtime() {
    let under = POD.replace('-', "_");
    let slice =
        format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice");
    for (path, runtime, id, pod) in [
        (
            format!("/system.slice/docker-{ID}.scope"),
            "docker",
            ID,
            None,
        ),
        (format!("/docker/{ID}"), "docker", ID, None),
        (format!("/docker/{ID}/init"), "docker", ID, None),
        (
            format!("/machine.slice/libpod-{ID}.scope/container"),
            "podman",
            ID,
            None,
        ),
        (
            format!("/user.slice/user-9.slice/user@9.service/user.slice/libpod-{ID}.scope"),
            "podman",
            ID,
            None,
        ),
        (format!("/libpod_parent/libpod-{ID}"), "podman", ID, None),
        (format!("/default/{ID}"), "container", ID, None),
        (
            format!("/system.slice/nerdctl-{ID}.scope"),
            "containerd",
            ID,
            None,
        ),
        (
            format!("/system.slice:nerdctl:{ID}"),
            "containerd",
            ID,
            None,
        ),
        (
            format!("{slice}/cri-containerd-{ID}.scope"),
            "containerd",
            ID,
            Some(POD),
        ),
        (
            format!("{slice}/crio-{ID}.scope/container"),
            "cri-o",
            ID,
            Some(POD),
        ),
        (
            format!("{slice}:cri-containerd:{ID}"),
            "containerd",
            ID,
            Some(POD),
        ),
        (
            format!("/kubepods/besteffort/pod{POD}/{ID}"),
            "kubernetes",
            ID,
            Some(POD),
        ),
        (format!("/lxc/web/{}", "init.scope"), "lxc", "web", None),
        (
            "/lxc.payload.web/system.slice/nginx.service".to_owned(),
            "lxc",
            "web",
            None,
        ),
        ("/lxc.payload/db".to_owned(), "lxc", "db", None),
        (
            "/machine.slice/machine-a\\x2db.scope/payload".to_owned(),
            "machine",
            "a-b",
            None,
        ),
        (
            "/machine.slice/systemd-nspawn@a\\x2db.service/payload".to_owned(),
            "machine",
            "a-b",
            None,
        ),
    ] {
        let text = format!("0::{path}\n");
        let found = place(&text).container;
        let found = found.unwrap_or_else(|| panic!("no container in {path}"));
        assert_eq!((found.runtime, found.id.as_str()), (runtime, id), "{path}");
        assert_eq!(found.pod.as_deref(), pod, "{path}");
    }
}

#[test]
fn what_watches_a_container_is_not_in_it() {
    for path in [
        format!("/machine.slice/libpod-conmon-{ID}.scope"),
        format!("/system.slice/crio-conmon-{ID}.scope"),
        "/lxc.monitor.web".to_owned(),
        "/system.slice/docker.service".to_owned(),
        "/system.slice/containerd.service".to_owned(),
        "/kubepods.slice".to_owned(),
    ] {
        assert_eq!(place(&format!("0::{path}\n")).container, None, "{path}");
    }
}

#[test]
fn a_unit_in_a_container_is_the_unit() {
    let found = place(&format!(
        "0::/system.slice/docker-{ID}.scope/system.slice/nginx.service\n"
    ));
    assert_eq!(found.unit.as_deref(), Some("nginx.service"));
    assert!(!found.is_container_unit());
    let own = place(&format!("0::/system.slice/docker-{ID}.scope\n"));
    assert!(own.is_container_unit());
    assert_eq!(own.container.unwrap().to_string(), "docker 4f1c0d3e9a2b");
}

/// A /proc with process 7.
fn example() -> (tempfile::TempDir, Process) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("7");
    fs::create_dir(&folder).unwrap();
    let stat = format!("7 (a) b) S 1 7 7 0{} 250 0\n", " 0".repeat(14));
    for (name, text) in [
        ("comm", "web\x1b\n"),
        ("cmdline", "/usr/bin/web\0--name\0a b\0\0"),
        ("cgroup", "0::/system.slice/web.service\n"),
        (
            "status",
            "Name:\tweb\nUid:\t0\t33\t0\t0\nNSpid:\t7\t21\t3\n",
        ),
        ("stat", stat.as_str()),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    fs::write(
        root.path().join("passwd"),
        "root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n",
    )
    .unwrap();
    let users = Users::read(&root.path().join("passwd"));
    let proc = Proc::at(root.path());
    let clock = Clock::with_offset(1_000_000_000);
    let read = Process::read(&proc, &users, clock, 7).unwrap();
    (root, read)
}

#[test]
fn everything_that_proc_has() {
    let (_root, process) = example();
    let words = ["/usr/bin/web", "--name", "a b", ""].map(Text::from);
    let want = Process {
        pid: 7,
        comm: "web\x1b".into(),
        command_line: Some(words.to_vec()),
        uid: Some(33),
        user: Some("www-data".into()),
        place: Place {
            unit: Some("web.service".into()),
            container: None,
        },
        started_ns: Some(2_500_000_000),
        started: Some("1970-01-01T00:00:03.500000000Z".into()),
        ns_pids: vec![21, 3],
    };
    assert_eq!(process, want);
    let wide = Screen { width: None };
    assert_eq!(
        process.line(2, &wide),
        "  web\\u{1b} 7: user www-data, unit web.service, pid 3 in its namespace, \
         since 1970-01-01 00:00:03Z: /usr/bin/web --name 'a b' ''"
    );
    let narrow = process.line(2, &Screen { width: Some(20) });
    assert_eq!(narrow, "  web\\u{1b} 7: user…");
    let json = serde_json::to_value(&process).unwrap();
    assert_eq!(json["unit"], "web.service");
    assert_eq!(json["container"], serde_json::Value::Null);
    assert_eq!(json["command_line"][2], "a b");
}

#[test]
fn what_cannot_be_read_is_left_out() {
    let (root, _) = example();
    let proc = Proc::at(root.path());
    let read = |proc: &Proc, pid| Process::read(proc, &Users::default(), Clock::now(), pid);
    assert_eq!(read(&proc, 8), None);
    for name in ["cmdline", "cgroup", "status", "stat"] {
        fs::remove_file(root.path().join("7").join(name)).unwrap();
    }
    let bare = read(&proc, 7).unwrap();
    assert_eq!(bare.particulars(), Vec::<String>::new());
    assert_eq!(bare.command(), "[web\\u{1b}]");
    assert_eq!((bare.uid, bare.command_line), (None, None));
}

#[test]
fn processes_are_chosen() {
    let (_root, process) = example();
    let mut contained = process.clone();
    contained.place = place(&format!("0::/kubepods/pod{POD}/{ID}\n"));
    contained.user = None;
    let is = |of: &Process, key: &str, value: &str| {
        let value = Some(value.to_owned());
        let mut wanted = ProcessFilter::default();
        match key {
            "unit" => wanted.unit = value,
            "container" => wanted.container = value,
            _ => wanted.user = value,
        }
        wanted.has(of)
    };
    assert!(is(&process, "unit", "web") && is(&process, "unit", "web.service"));
    assert!(!is(&process, "unit", "we") && !is(&contained, "unit", "web"));
    assert!(is(&process, "user", "www-data") && is(&process, "user", "33"));
    assert!(!is(&process, "user", "3") && is(&contained, "user", "33"));
    assert!(is(&contained, "container", &ID[..6]) && is(&contained, "container", &POD[..8]));
    assert!(!is(&contained, "container", "") && !is(&process, "container", &ID[..6]));
    let known = Processes(BTreeMap::from([(7, process)]));
    assert!(ProcessFilter::default().has_any(&known, []));
    let wanted = ProcessFilter {
        unit: Some("web".into()),
        ..ProcessFilter::default()
    };
    assert!(wanted.has_any(&known, [3, 7]) && !wanted.has_any(&known, [3]));
}
