//! git at work in a project whose repositories the shipped profiles protect: it goes on, and what it runs stays.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::bed::{DENIED_CHANGE, Run, TestBed, args, sh};

/// Who commits, and that git takes nothing from the machine.
const SURROUNDINGS: &str = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b \
    GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0; set -e; ";

/// A project `app` with an origin, a submodule, a worktree and a repository inside, made by the real git.
fn bed_with_repositories(name: &str) -> TestBed {
    let bed = TestBed::new(name);
    let made = bed.bare(sh(format!(
        "{SURROUNDINGS} g='git -c protocol.file.allow=always'; \
         for n in part origin; do git init -q -b main $n; cd $n; echo 1 > f; git add f; git commit -qm 1; cd ..; done; \
         cd origin; $g submodule --quiet add $PWD/../part part; git commit -qm part; git branch side; cd ..; \
         $g clone -q --recurse-submodules $PWD/origin app; cd app; git worktree add -q tree; \
         git init -q -b main vendor/inner; cd vendor/inner; echo 1 > f; git add f; git commit -qm 1"
    )));
    assert!(made.status.success(), "git is needed here: {}", String::from_utf8_lossy(&made.stderr));
    bed
}

/// A script in `app`, under the profile that a developer has.
fn in_app(bed: &TestBed, command: Vec<std::ffi::OsString>) -> Run {
    let mut start = bed.start(&[Path::new("claude")], command);
    start.process.current_dir(bed.project().join("app"));
    start.finish()
}

#[test]
fn everyday_git_goes_on_in_a_protected_repository() {
    let bed = bed_with_repositories("git-work");
    let script = "git status --short; git checkout -q -b new; echo 2 > f; git commit -qam 2; git stash list; \
        git worktree add -q tree2; git -C tree2 commit -q --allow-empty -m in-worktree; git worktree remove tree2; \
        git init -q fresh; git -C fresh commit -q --allow-empty -m fresh; git -C fresh config core.pager cat; \
        git clone -q $PWD cloned; git -C cloned checkout -q -b follows origin/new; git fetch -q; \
        git -C part checkout -q -b here; \
        git checkout -q main; git merge -q new; git rebase -q main new; git gc -q; git tag v1;\
        git checkout -q main; git -C vendor/inner commit -q --allow-empty -m inner";
    let run = in_app(&bed, sh(format!("{SURROUNDINGS} {script}")));
    assert_eq!(run.status.code(), Some(0), "{run}");
    assert!(bed.project().join("app/cloned/.git/config").exists(), "{run}");
    let denied = run.log.events.iter().filter(|event| event.text("outcome") == "denied");
    // git tries hard links and takes copies; it tries to remove a folder that is in use.
    let expected = |event: &&crate::bed::Event| ["link", "unlink"].contains(&event.text("action"));
    assert_eq!(denied.filter(|event| !expected(event)).count(), 0, "{run}");
    // What came into being is told: two repositories, and the file of a worktree that is there no more is not.
    let told: Vec<_> = run.err().lines().filter(|line| line.contains("app/")).map(str::to_owned).collect();
    let config = |name: &str| format!("govsandbox:   {}", bed.project().join("app").join(name).display());
    assert_eq!(told, [config("cloned/.git/config"), config("fresh/.git/config")], "{run}");
}

#[test]
fn what_git_runs_is_not_changed_in_any_repository_that_was_there() {
    let bed = bed_with_repositories("git-held");
    let app = bed.project().join("app");
    let configs = [".git/config", ".git/modules/part/config", "vendor/inner/.git/config"];
    let links = ["part/.git", "tree/.git", ".git/worktrees/tree/commondir"];
    let mut steps = Vec::new();
    for file in configs.iter().chain(&links) {
        let (file, other) = (app.join(file), app.join("other"));
        steps.extend(args![
            "append",
            &file,
            "rename",
            &other,
            &file,
            "unlink",
            &file,
            "link",
            &file,
            &app.join("l")
        ]);
    }
    for file in ["hooks/pre-commit", "modules/part/hooks/pre-commit", "commondir", "modules/part/commondir"] {
        steps.extend(args!["create", &app.join(".git").join(file)]);
    }
    for folder in [".git", ".git/hooks", ".git/modules", "vendor/inner/.git", "vendor", "vendor/inner"] {
        steps.extend(args!["rename", &app.join(folder), &app.join("moved")]);
    }
    bed.file(app.join("other"), "[core]\n\thooksPath = /tmp/evil\n");
    let before: Vec<_> = configs.iter().chain(&links).map(|file| fs::read(app.join(file)).unwrap()).collect();

    let run = in_app(&bed, bed.worker(steps.clone()));
    let answers = crate::bed::lines(&run.stdout);
    assert!(answers.len() >= 6 * 4 + 4 + 6, "{run}");
    for (at, answer) in answers.iter().enumerate() {
        assert!(DENIED_CHANGE.contains(&answer.as_str()), "step {at} came to {answer}: {steps:?}: {run}");
    }
    let after: Vec<_> = configs.iter().chain(&links).map(|file| fs::read(app.join(file)).unwrap()).collect();
    assert_eq!(before, after);
    assert!(!app.join(".git/hooks/pre-commit").metadata().is_ok_and(|hook| hook.len() > 0), "{run}");

    // Positive control: the same user may all of that outside.
    let bare = bed.bare_steps(args![
        "append",
        &app.join(configs[2]),
        "create",
        &app.join(".git/modules/part/hooks/pre-commit"),
        "append",
        &app.join("tree/.git"),
        "rename",
        &app.join("vendor/inner/.git"),
        &app.join("moved")
    ]);
    assert_eq!(bare, ["ok"; 4]);
}

#[test]
fn git_itself_can_not_be_made_to_run_other_programs() {
    let bed = bed_with_repositories("git-config");
    let keys = ["core.hooksPath", "core.fsmonitor", "core.pager", "alias.st", "remote.origin.uploadpack"];
    let folders = ["app", "app/vendor/inner", "app/part"].map(|folder| bed.project().join(folder));
    let set = |folder: &Path, key: &str| format!("git -C {} config {key} x", folder.display());
    let each = folders.iter().flat_map(|folder| keys.iter().map(|key| set(folder, key)));
    let tries: Vec<_> = each.map(|set| format!("{set} && echo changed; ")).collect();
    let run = in_app(&bed, sh(format!("{SURROUNDINGS} set +e; {} true", tries.concat())));
    assert_eq!((run.status.code(), run.out().as_str()), (Some(0), ""), "{run}");
    assert_eq!(run.log.all_denied("file.change").len(), folders.len() * keys.len(), "{run}");
    // Positive control.
    for folder in &folders {
        assert!(bed.bare(sh(set(folder, keys[2]))).status.success());
    }
}

#[test]
fn keys_that_a_policy_leaves_open_change_and_no_others() {
    let bed = bed_with_repositories("git-keys");
    let config = bed.project().join("app/.git/config");
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\n\
         protect = [{ path = \"{project}/app/.git/config\", keys = [\"branch.*\", \"remote.*.fetch\"] }]\n",
    );
    let old = fs::read_to_string(&config).unwrap();
    let (inode, open) =
        (fs::metadata(&config).unwrap().ino(), "cd app; git checkout -q -b follows --track origin/side; ");
    let closed = "git config core.hooksPath /tmp/x; git config alias.st '!sh'; git config remote.origin.url /tmp/x; \
        mv -f f .git/config; ln -f f .git/config; rm -f .git/config; git config branch.follows.rebase true; ls .git/*.lock; true";
    let run = bed.run(&policy, sh(format!("{SURROUNDINGS} {open} set +e; {closed}")));
    let new = fs::read_to_string(&config).unwrap();
    assert_eq!(fs::metadata(&config).unwrap().ino(), inode, "{run}");
    assert!(!["hooksPath", "!sh", "/tmp/x"].iter().any(|text| new.contains(text)), "{new}: {run}");
    let added = new.strip_prefix(&old).unwrap_or_else(|| panic!("{new}: {run}"));
    let expected = ["[branch \"follows\"]", "remote = origin", "merge = refs/heads/side", "rebase = true"];
    assert!(expected.iter().all(|text| added.contains(text)), "{new}: {run}");
    assert!(run.out().lines().all(|line| !line.ends_with(".lock")), "a lock stayed: {run}");
    let denied = run.log.all_denied("file.change");
    let lock = format!("{}.lock", config.display());
    let by_git =
        denied.iter().filter(|event| event.text("action") == "rename" && event.object("path") == lock);
    assert_eq!(by_git.count(), 3, "a key each: {run}");
    assert!(denied.iter().all(|event| event.rule() == Some("test/filesystem.protect/0")), "{run}");
    // Positive control.
    let bare = bed.bare(sh(format!("{SURROUNDINGS} cd app; git config core.hooksPath /tmp/x")));
    assert!(bare.status.success() && fs::read_to_string(&config).unwrap().contains("hooksPath"), "{bare:?}");
}

/// What gets into the place of a config is the config that was there: whatever is renamed, and from wherever.
#[test]
fn a_config_with_open_keys_changes_by_no_other_way() {
    let bed = bed_with_repositories("git-keys-held");
    let app = bed.project().join("app");
    let config = app.join(".git/config");
    let old = fs::read_to_string(&config).unwrap();
    let new = format!("{old}[branch \"b\"]\n\tremote = origin\n");
    // As a change that may be: held by a rule of its own, in another folder, by way of a symlink, under two names.
    for file in [".git/held", "elsewhere", ".git/plain", ".git/first"] {
        bed.file(app.join(file), &new);
    }
    fs::hard_link(app.join(".git/plain"), app.join(".git/plain2")).unwrap();
    std::os::unix::fs::symlink("plain", app.join(".git/link")).unwrap();
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\nprotect = [\"{project}/app/.git/held\", \
         { path = \"{project}/app/.git/config\", keys = [\"branch.*\"] }]\n",
    );
    let sources = [".git/held", "elsewhere", ".git/link"];
    let steps: Vec<_> = sources.iter().flat_map(|from| args!["rename", &app.join(from), &config]).collect();
    let (run, answers) = bed.run_steps(&policy, steps.clone());
    assert!(answers.iter().all(|answer| DENIED_CHANGE.contains(&answer.as_str())), "{answers:?}: {run}");
    assert!(sources.iter().all(|file| app.join(file).symlink_metadata().is_ok()), "{run}");
    let inode = fs::metadata(&config).unwrap().ino();
    // Through a folder's descriptor and a link in the path it is the same config; what was renamed is gone.
    std::os::unix::fs::symlink("app/.git", bed.project().join("door")).unwrap();
    let door = bed.project().join("door");
    let (run, answers) = bed.run_steps(&policy, args!["rename", &door.join("first"), &door.join("config")]);
    assert_eq!(answers, ["ok"], "{run}");
    assert_eq!((fs::read_to_string(&config).unwrap(), fs::metadata(&config).unwrap().ino()), (new, inode));
    assert!(!app.join(".git/first").exists(), "{run}");
    assert!(run.log.events.iter().all(|event| !event.process("exe").ends_with("/govsandbox")), "{run}");
    // Positive control.
    assert_eq!(bed.bare_steps(steps), ["ok"; 3]);
}
