//! What the command is left with.

use std::{ffi::OsString, os::unix::process::CommandExt, path::PathBuf};

use govsandbox::launch::{
    landlock::LandlockPlan,
    privilege::Origin,
    seccomp::{Namespaces, SeccompPlan},
};

use crate::bed::{Bed, UID, run};

pub(crate) const TESTS: &[(&str, fn())] = &[
    (
        "the_command_runs_as_the_user_without_any_capability",
        the_command_runs_as_the_user_without_any_capability,
    ),
    ("plain_root_has_no_capability_either", plain_root_has_no_capability_either),
    ("plain_root_reads_no_disk", plain_root_reads_no_disk),
    ("inherited_descriptors_are_closed", inherited_descriptors_are_closed),
    ("writes_outside_the_list_are_refused", writes_outside_the_list_are_refused),
    ("namespaces_and_mounts_are_refused", namespaces_and_mounts_are_refused),
    ("the_command_sees_only_its_own_processes", the_command_sees_only_its_own_processes),
    ("control_file_systems_are_read_only", control_file_systems_are_read_only),
];

fn the_command_runs_as_the_user_without_any_capability() {
    let bed = Bed::new();
    let outcome = bed.sh("id -u; id -G; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(
        lines.get(..2),
        Some(&[UID.to_string().as_str(), UID.to_string().as_str()][..]),
        "{outcome:?}"
    );
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(lines.contains(&format!("{set}:\t0000000000000000").as_str()), "{set}: {outcome:?}");
    }
    assert!(lines.contains(&"NoNewPrivs:\t1") && lines.contains(&"Seccomp:\t2"), "{outcome:?}");
}

fn plain_root_has_no_capability_either() {
    let bed = Bed::new();
    let mut plan = bed.plan(&["sh", "-c", "id -u; grep CapEff /proc/self/status; cat /etc/shadow >/dev/null && echo read; echo x >/proc/sys/kernel/core_pattern"]);
    (plan.identity.uid, plan.identity.gid, plan.identity.groups) = (0, 0, vec![0]);
    plan.identity.origin = Origin::PlainRoot;
    plan.landlock = LandlockPlan::default();
    let outcome = run(&plan);
    // Positive control: as uid 0 it still owns root's files.
    assert_eq!(outcome.stdout, "0\nCapEff:\t0000000000000000\nread\n", "{outcome:?}");
    assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
}

fn plain_root_reads_no_disk() {
    let node = std::path::PathBuf::from(format!("/dev/govsandbox-disk-{}", std::process::id()));
    // loop0: there without the driver, too, as a node; opened by nobody.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &node,
        rustix::fs::FileType::BlockDevice,
        rustix::fs::Mode::from_raw_mode(0o600),
        rustix::fs::makedev(7, 0),
    )
    .unwrap();
    let bed = Bed::new();
    let mut plan = bed.plan(&["head", "-c1", &node.display().to_string()]);
    (plan.identity.uid, plan.identity.gid, plan.identity.groups) = (0, 0, vec![0]);
    plan.identity.origin = Origin::PlainRoot;
    plan.landlock = LandlockPlan::default();
    let outcome = run(&plan);
    // Positive control: nothing but the sandbox answers "permission denied" to root.
    let bare = std::process::Command::new("head").arg("-c1").arg(&node).output().unwrap();
    std::fs::remove_file(&node).unwrap();
    assert!(!String::from_utf8_lossy(&bare.stderr).contains("Permission denied"), "{bare:?}");
    assert!(outcome.stderr.contains("Permission denied"), "{outcome:?}");
}

fn inherited_descriptors_are_closed() {
    let bed = Bed::new();
    let kept = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&kept, rustix::io::FdFlags::empty()).unwrap();
    let outcome = bed.sh("ls /proc/self/fd");
    // 3 is the folder that `ls` itself reads.
    assert_eq!(outcome.stdout, "0\n1\n2\n3\n", "{outcome:?}");
    // Positive control: without a sandbox it is inherited.
    let bare = std::process::Command::new("ls").arg("/proc/self/fd").output().unwrap();
    assert!(String::from_utf8_lossy(&bare.stdout).lines().count() > 4, "{bare:?}");
}

fn writes_outside_the_list_are_refused() {
    let (bed, outside) = (Bed::new(), Bed::new());
    let target = outside.file("file", "old");
    let script = format!("echo new > {}; echo inside > in; cat in", target.display());
    let outcome = bed.sh(&script);
    assert_eq!(outcome.stdout, "inside\n", "{outcome:?}");
    assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "old");
    // Positive control: with the folder in the list the same script writes.
    let mut plan = bed.plan(&["sh", "-c", &script]);
    plan.landlock.layers[0].write.push(outside.path());
    assert_eq!(run(&plan).stderr, "");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "new\n");
}

fn namespaces_and_mounts_are_refused() {
    let bed = Bed::new();
    let mut plan = bed.plan(&["unshare", "-U", "true"]);
    let refused = run(&plan);
    assert!(refused.status != 0 && refused.stderr.contains("Operation not permitted"), "{refused:?}");
    // Positive control: the plan that allows it gives what the kernel does without a sandbox (all is well there, except
    // in a chroot, which can make no user namespace).
    let bare = std::process::Command::new("unshare").args(["-U", "true"]).uid(UID).gid(UID).status().unwrap();
    plan.seccomp = SeccompPlan { namespaces: Namespaces::Allow, ..SeccompPlan::HOOKS };
    plan.landlock = LandlockPlan::default();
    assert_eq!(Some(run(&plan).status), bare.code());
}

fn the_command_sees_only_its_own_processes() {
    let bed = Bed::new();
    let outcome = bed.sh("echo $$; set -- /proc/[0-9]*; echo $#; cat /proc/1/comm; cat /proc/1/environ");
    // The init and the shell.
    assert!(outcome.stdout.starts_with("2\n2\ngovsandbox-init\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("Permission denied"), "the init can't be looked into: {outcome:?}");
}

fn control_file_systems_are_read_only() {
    let bed = Bed::new();
    let root = govsandbox::launch::cgroup::root().unwrap();
    let mut plan =
        bed.plan(&["sh", "-c", &format!("mkdir {0}/mine; echo $$ > {0}/cgroup.procs", root.display())]);
    (plan.identity.uid, plan.identity.gid, plan.identity.origin) = (0, 0, Origin::PlainRoot);
    plan.landlock = LandlockPlan::default();
    plan.env.push((OsString::from("LC_ALL"), OsString::from("C")));
    let outcome = run(&plan);
    assert_eq!(outcome.stderr.matches("Read-only file system").count(), 2, "{outcome:?}");
    // Positive control: outside it is writable.
    let made = PathBuf::from(&root).join(format!("confine-control-{}", std::process::id()));
    std::fs::create_dir(&made).unwrap();
    std::fs::remove_dir(&made).unwrap();
}
