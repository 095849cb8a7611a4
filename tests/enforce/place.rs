//! Symlinks in the place of folders: none where a rule names what lies below, and any elsewhere.

use std::{ffi::OsString, fs, path::Path};

use crate::bed::{DENIED_CHANGE, TestBed, args, sh};

const RULE: &str = "builtin/symlink-in-place";
const POLICY: &str = "[filesystem]\nwrite = [\"{project}\"]\n\
    protect = [\"**/.tool/settings*.json\", \"**/*.lock\", \"{project}/not/yet/file\", \"{project}/*/sealed\"]\n";

/// Each way to have a symlink at `place`.
fn ways(project: &Path, place: &Path) -> Vec<OsString> {
    let (one, two) = (project.join("way/one"), project.join("way/two"));
    args!["symlink", "elsewhere", place, "rename", &one, place, "link", &two, place]
}

fn stage(bed: &TestBed) {
    bed.file("way/.file", "");
    for name in ["one", "two"] {
        let link = bed.project().join("way").join(name);
        fs::remove_file(&link).ok(); // moved away by the attempt before
        std::os::unix::fs::symlink("../elsewhere", &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(bed.uid()), Some(bed.uid())).unwrap();
    }
}

#[test]
fn a_symlink_takes_no_place_of_a_folder_that_a_rule_is_about() {
    let bed = TestBed::new("place");
    let project = bed.project();
    let policy = bed.policy("test", POLICY);
    for place in [".tool", "deep/.tool", "not", "any"].map(|name| project.join(name)) {
        stage(&bed);
        bed.file("deep/.file", "");
        let (run, answers) = bed.run_steps(&policy, ways(&project, &place));
        assert!(answers.iter().all(|answer| answer == "EPERM"), "{}: {answers:?}: {run}", place.display());
        assert!(place.symlink_metadata().is_err(), "{run}");
        let denied = run.log.all_denied("file.change");
        assert_eq!(denied.len(), 3, "{run}");
        assert!(denied.iter().all(|event| event.rule() == Some(RULE)), "{run}");
        // Positive control.
        for way in ways(&project, &place).chunks(3) {
            assert_eq!(bed.bare_steps(way.to_vec()), ["ok"], "{way:?}");
            fs::remove_file(&place).unwrap();
        }
    }
}

#[test]
fn a_symlink_stands_anywhere_else() {
    let bed = TestBed::new("place-free");
    let project = bed.project();
    let policy = bed.policy("test", POLICY);
    bed.file(".tool/.file", "");
    for place in [".tool/agents", ".tools", "deep/not", "way/plain"].map(|name| project.join(name)) {
        // A folder of any name may hold what `*/sealed` names, so the project itself holds folders alone.
        let place = if place.parent() == Some(&project) { project.join("way").join(".tools") } else { place };
        stage(&bed);
        bed.file("deep/.file", "");
        for way in ways(&project, &place).chunks(3) {
            let (run, answers) = bed.run_steps(&policy, way.to_vec());
            assert_eq!(answers, ["ok"], "{way:?}: {run}");
            fs::remove_file(&place).unwrap();
        }
    }
}

/// What package managers, virtual environments, builds and git make in a project, under the profiles that are shipped.
#[test]
fn everyday_symlinks_are_made_under_the_shipped_profiles() {
    let bed = TestBed::new("place-everyday");
    let script = "set -e; mkdir -p node_modules/.bin node_modules/.pnpm/a@1/node_modules/a packages/b .venv/bin build; \
        ln -s ../a/cli.js node_modules/.bin/a; ln -s .pnpm/a@1/node_modules/a node_modules/a; ln -sfn ../packages/b node_modules/b; \
        ln -s /usr/bin/python3 .venv/bin/python; ln -s lib .venv/lib64; ln -s build latest; ln -sfn packages/b latest; \
        ln -s nothing .link.new; mv -T .link.new latest; ln -s AGENTS.md CLAUDE.md; ln -s ../../shared .vscode.d; \
        mkdir -p .claude; ln -s ../shared .claude/skills; cp -a node_modules copied; mv copied moved; \
        git init -q r; ln -s ../f r/link; git -C r add link; git -C r -c user.name=a -c user.email=a@b commit -qm 1; \
        git clone -q r cloned; readlink cloned/link";
    for profile in ["claude", "default"] {
        let mut start = bed.start(&[Path::new(profile)], sh(script));
        start.process.current_dir(bed.project());
        let run = start.finish();
        assert_eq!((run.status.code(), run.out().as_str()), (Some(0), "../f\n"), "{profile}: {run}");
        assert!(run.log.events.iter().all(|event| event.rule() != Some(RULE)), "{profile}: {run}");
        let made = bed.bare(sh("rm -rf ./* .venv .claude .vscode.d"));
        assert!(made.status.success(), "{made:?}");
    }
    let mut start =
        bed.start(&[Path::new("claude")], sh("ln -s x .claude; ln -s x .cursor; ln -s x .vscode"));
    start.process.current_dir(bed.project());
    let run = start.finish();
    assert_eq!(run.log.all_denied("file.change").len(), 3, "{run}");
}

#[test]
fn the_way_to_a_missing_path_stays_as_it_is() {
    let bed = TestBed::new("place-way");
    let project = bed.project();
    // `conf` leads by way of `store` to `real`, where the file is not yet; `dangling` to where nothing is.
    bed.file("real/.file", "");
    bed.file("above/.file", "");
    for (target, link) in [("../store", "above/conf"), ("real", "store"), ("real/later", "dangling")] {
        std::os::unix::fs::symlink(target, project.join(link)).unwrap();
    }
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\n\
         protect = [\"{project}/above/conf/file\", \"{project}/dangling\"]\n",
    );
    let at = |name: &str| project.join(name);
    let (run, answers) = bed.run_steps(
        &policy,
        args![
            "unlink",
            &at("above/conf"),
            "rename",
            &at("store"),
            &at("s"),
            "unlink",
            &at("store"),
            "rename",
            &at("above"),
            &at("a"),
            "unlink",
            &at("dangling"),
            "create",
            &at("real/file"),
            "create",
            &at("real/later")
        ],
    );
    assert!(answers.iter().all(|answer| DENIED_CHANGE.contains(&answer.as_str())), "{answers:?}: {run}");
    let denied = [run.log.all_denied("file.change"), run.log.all_denied("file.open")].concat();
    assert_eq!(denied.len(), answers.len(), "{run}");
    // Positive control.
    for name in ["real/file", "real/later"] {
        fs::remove_file(at(name)).ok(); // a refused open leaves an empty file on `fanotify`
    }
    let bare = bed.bare_steps(args![
        "create",
        &at("real/later"),
        "create",
        &at("real/file"),
        "unlink",
        &at("dangling"),
        "rename",
        &at("above"),
        &at("a"),
        "unlink",
        &at("store")
    ]);
    assert!(bare.iter().all(|answer| answer == "ok"), "{bare:?}");
}
