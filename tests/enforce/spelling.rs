//! File systems that find a name by other spellings: what a rule names stays held by each of them.
//!
//! A kernel that knows no such file system mounts none, and then there is nothing to hold: the mount has to fail.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::bed::{DENIED, DENIED_CHANGE, TestBed, args};

const MIB: usize = 1 << 20;

/// A file system in a file, mounted in the project.
struct Disk(PathBuf);

impl Disk {
    /// `None`: this kernel does not take it.
    fn mounted(bed: &TestBed, image: &Path, kind: &str, name: &str, known_by: &Path) -> Option<Self> {
        // Where they are modules, nothing but root's own call loads them.
        let _ = Command::new("modprobe").args(["-a", "loop", kind]).output();
        let point = bed.folder(name);
        let mounted = Command::new("mount")
            .args(["-n", "-o", "loop", "-t", kind])
            .args([image, &point])
            .output()
            .unwrap();
        let is_known = known_by.exists();
        assert_eq!(mounted.status.success(), is_known, "{mounted:?}");
        is_known.then(|| Self(point))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        assert!(Command::new("umount").args(["-n", "-l"]).arg(&self.0).status().unwrap().success());
    }
}

#[test]
fn a_folder_that_does_not_tell_cases_apart_is_held_by_every_spelling() {
    let bed = TestBed::new("spelling-folded");
    let image = bed.outside().join("image");
    fs::write(&image, vec![0; 16 * MIB]).unwrap();
    let made =
        Command::new("mkfs.ext4").args(["-q", "-O", "casefold", "-E", "encoding=utf8"]).arg(&image).status();
    assert!(made.unwrap().success());
    let known_by = Path::new("/sys/fs/ext4/features/casefold");
    let Some(disk) = Disk::mounted(&bed, &image, "ext4", "disk", known_by) else { return };
    for name in ["read", "work"] {
        let folder = disk.0.join(name);
        fs::create_dir(&folder).unwrap();
        assert!(Command::new("chattr").arg("+F").arg(&folder).status().unwrap().success());
        bed.give(&folder);
    }
    bed.file(disk.0.join("read/.env"), "CANARY");
    bed.folder(disk.0.join("work/.git"));
    bed.folder(disk.0.join("work/more"));
    bed.folder(disk.0.join("work/free"));
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}/disk/work\"]\ndeny = [\"**/.env\"]\nprotect = [\"**/.git/hooks\"]\n",
    );
    let at = |name: &str| disk.0.join(name);
    let reads = [".ENV", ".env", ".Env", ".e\u{200b}nv", "\u{feff}.env"];
    let read = || reads.iter().flat_map(|name| args!["read", at("read").join(name)]).collect::<Vec<_>>();
    // Both names of a thing that does not exist yet; in a folder of the agent's own making too.
    let makes = [
        "create",
        "work/.ENV",
        "mkdir",
        "work/.GIT/HOOKS",
        "mkdir",
        "work/.g\u{ad}it/hooks",
        "create",
        "work/more/.en\u{200d}v",
    ];
    let make = || makes.chunks(2).flat_map(|step| args![step[0], at(step[1])]).collect::<Vec<_>>();

    let bare = bed.bare_steps(read());
    assert!(bare.iter().all(|answer| answer == "ok CANARY"), "positive control: {bare:?}");
    // What is in memory bears the name by which it was found first.
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    let (run, answers) = bed.run_steps(&policy, [read(), make()].concat());
    for (name, answer) in reads.iter().zip(&answers) {
        assert!(DENIED.contains(&answer.as_str()), "{name:?}: {answers:?}: {run}");
    }
    for answer in &answers[reads.len()..] {
        assert!(DENIED_CHANGE.contains(&answer.as_str()), "{answers:?}: {run}");
    }
    let opens = run.log.all_denied("file.open");
    let by_rule = |rule: &str| opens.iter().filter(|event| event.rule() == Some(rule)).count();
    assert!(by_rule("test/filesystem.deny/0") > 0, "{run}");
    // `fanotify` tells twice of an open that was asked for by another name than the file is known by.
    assert!(by_rule("test/filesystem.deny/0") + by_rule("builtin/other-spellings") >= reads.len(), "{run}");
    let (run, answers) = bed.run_steps(&policy, args!["create", at("work/plain"), "mkdir", at("work/.GITX")]);
    assert_eq!(answers, ["ok"; 2], "neighbour control: {run}");
    for name in ["work/plain", "work/.GITX"] {
        assert!(at(name).exists());
    }
    let bare = bed.bare_steps(args!["create", at("work/free/.ENV"), "mkdir", at("work/.GIT/HOOKS")]);
    assert_eq!(bare, ["ok"; 2], "positive control");
}

/// The smallest there is: a boot sector, one table of 12 bits, sixteen entries.
fn fat_image() -> Vec<u8> {
    let mut image = vec![0; MIB];
    image[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
    image[3..11].copy_from_slice(b"mkfs.fat");
    // Bytes a sector, sectors a cluster, reserved, tables, entries, sectors, medium, sectors a table.
    image[11..24].copy_from_slice(&[0, 2, 1, 1, 0, 1, 16, 0, 0, 8, 0xf8, 6, 0]);
    image[38..62].copy_from_slice(b"\x29\x01\x02\x03\x04NO NAME    FAT12   ");
    image[510..515].copy_from_slice(&[0x55, 0xaa, 0xf8, 0xff, 0xff]);
    image
}

#[test]
fn what_has_short_names_too_is_denied_as_a_whole() {
    let bed = TestBed::new("spelling-short");
    let image = bed.outside().join("image");
    fs::write(&image, fat_image()).unwrap();
    let Some(disk) = Disk::mounted(&bed, &image, "vfat", "stick", Path::new("/sys/module/vfat")) else {
        return;
    };
    fs::write(disk.0.join(".env"), "CANARY").unwrap();
    let policy = bed.policy("test", "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"**/.env\"]\n");
    let names = [".env", ".ENV", ".env.", "ENV~1"];
    let read = || names.iter().flat_map(|name| args!["read", disk.0.join(name)]).collect::<Vec<_>>();
    let bare = bed.bare_steps(read());
    assert!(bare.iter().all(|answer| answer == "ok CANARY"), "positive control: {bare:?}");
    let (run, answers) =
        bed.run_steps(&policy, [read(), args!["list", &disk.0, "create", disk.0.join("x")]].concat());
    for answer in &answers {
        assert!(
            DENIED_CHANGE.contains(&answer.as_str()) || DENIED.contains(&answer.as_str()),
            "{answers:?}: {run}"
        );
    }
    assert!(
        run.log.all_denied("file.open").iter().any(|event| event.rule() == Some("builtin/other-spellings")),
        "{run}"
    );
    let (run, answers) = bed.run_steps(&policy, args!["create", bed.project().join("plain")]);
    assert_eq!(answers, ["ok"], "neighbour control: {run}");
}
