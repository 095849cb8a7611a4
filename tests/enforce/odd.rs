//! Odd names: every byte that a file name can have survives, and rules see through it.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use crate::bed::{DENIED, TestBed, args};

const CANARY: &str = "CANARY-odd";

fn odd_names() -> Vec<OsString> {
    let mut names: Vec<Vec<u8>> = [
        &b"new\nline.pem"[..],
        b"\x1b[31mred\x07.pem",
        b"\xff\xfe\x80.pem",
        b"half\xc3.pem",
        b"back\\slash.pem",
        b"\\xFF.pem",
        b"quote\"'$(id).pem",
        b" .pem",
        b"-rf.pem",
        b"\xe2\x80\xae right-to-left.pem",
        b"*?[a].pem",
        b"\x7f\x01.pem",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    names.push([vec![b'n'; 251], b".pem".to_vec()].concat());
    names.push([vec![0xff; 251], b".pem".to_vec()].concat());
    names.into_iter().map(OsString::from_vec).collect()
}

#[test]
fn rules_hold_whatever_bytes_a_name_has_and_the_log_keeps_them() {
    let bed = TestBed::new("odd-names");
    let policy = bed.deny(&["*.pem"]);
    let denied: Vec<PathBuf> =
        odd_names().into_iter().map(|name| bed.file(Path::new("denied").join(name), CANARY)).collect();
    let free: Vec<PathBuf> = odd_names()
        .iter()
        .map(|name| {
            bed.file(Path::new("free").join(OsStr::from_bytes(&name.as_bytes()[..name.len() - 1])), "free")
        })
        .collect();
    let steps = || denied.iter().chain(&free).flat_map(|path| args!["read", path]).collect::<Vec<_>>();
    let bare = bed.bare_steps(steps());
    assert!(bare[..denied.len()].iter().all(|answer| *answer == format!("ok {CANARY}")), "{bare:?}");
    let (run, answers) = bed.run_steps(&policy, steps());
    for (path, answer) in denied.iter().zip(&answers) {
        assert!(DENIED.contains(&answer.as_str()), "{path:?}: {answer}: {run}");
        run.assert_denied_once("file.open", path, "test/filesystem.deny/0");
        let event = run.log.denied("file.open", path)[0];
        let bytes = path.as_os_str().as_bytes();
        let escaped = event.0["escaped"].as_array().map(Vec::as_slice).unwrap_or_default();
        let said = escaped.iter().any(|field| field == "object.path");
        assert_eq!(
            said,
            str::from_utf8(bytes).is_err() || bytes.contains(&b'\\'),
            "escaped: {escaped:?} for {path:?}"
        );
    }
    for (path, answer) in free.iter().zip(&answers[denied.len()..]) {
        assert_eq!(answer, "ok free", "{path:?}: {run}");
        assert_eq!(run.log.about("file.open", path).len(), 1, "the open of {path:?} is told: {run}");
    }
}

#[test]
fn arguments_with_odd_bytes_are_told_as_they_were() {
    let bed = TestBed::new("odd-argv");
    let odd = OsStr::from_bytes(b"\xff\x1b[0m\n\\").to_owned();
    let run = bed.run(&bed.deny(&[]), args!["/bin/true", &odd, ""]);
    let execs = run.log.of("process.exec");
    assert_eq!(execs.len(), 1, "{execs:?}");
    assert_eq!(execs[0].argv(), ["/bin/true", "\\xff\u{1b}[0m\n\\\\", ""], "{execs:?}");
}

#[test]
fn a_path_of_4000_bytes_is_held() {
    let bed = TestBed::new("odd-long");
    let mut folder = bed.project();
    while folder.as_os_str().len() < 3780 {
        folder = folder.join("f".repeat(199));
    }
    let rest = 4000 - folder.as_os_str().len() - 1 - ".pem".len();
    let (secret, public) = (
        bed.file(folder.join("n".repeat(rest) + ".pem"), CANARY),
        bed.file(folder.join("n".repeat(rest) + ".txt"), "free"),
    );
    assert_eq!(secret.as_os_str().len(), 4000);
    let steps = || args!["read", &secret, "read", &public];
    assert_eq!(bed.bare_steps(steps()), [format!("ok {CANARY}"), "ok free".to_owned()]);
    for pattern in ["*.pem", "{project}/fff*/**/*.pem"] {
        let (run, answers) = bed.run_steps(&bed.deny(&[pattern]), steps());
        assert!(DENIED.contains(&answers[0].as_str()), "{pattern}: {answers:?}: {run}");
        assert_eq!(answers[1], "ok free", "{pattern}: {run}");
        let denied = run.log.all_denied("file.open");
        assert_eq!(denied.len(), 1, "{run}");
        // A path that is longer than a record is told by its end.
        let (told, whole) = (denied[0].object("path"), secret.to_str().unwrap());
        let cut = denied[0].0["object"]["path_truncated"] == true;
        assert!(if cut { whole.ends_with(told) && told.len() > 200 } else { told == whole }, "{cut} {told}");
    }
}

#[test]
fn a_folder_forty_levels_deep_is_held() {
    let bed = TestBed::new("odd-deep");
    let mut folder = PathBuf::from("vault");
    for level in 0..40 {
        folder = folder.join(format!("level{level}"));
    }
    let secret = bed.file(folder.join("secret"), CANARY);
    assert_eq!(bed.bare_steps(args!["read", &secret]), [format!("ok {CANARY}")]);
    for pattern in ["{project}/vault", "vault"] {
        let (run, answers) = bed.run_steps(&bed.deny(&[pattern]), args!["read", &secret]);
        assert!(DENIED.contains(&answers[0].as_str()), "{pattern}: {answers:?}: {run}");
        assert!(!fs::read(&secret).unwrap().is_empty());
    }
}
