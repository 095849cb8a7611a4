//! Everyday work under the shipped `claude` profile: what developers' tools do goes through.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::bed::{Run, TestBed, sh, toml_string};

/// Bare, in one folder; then in the sandbox, in another. Neither may fail, and no event may be a denial.
#[track_caller]
fn works(bed: &TestBed, script: &str, left: &str) -> Run {
    let bare = bed.bare(sh(format!("set -e; mkdir bare; cd bare; {script}")));
    assert!(bare.status.success(), "the positive control: {}", String::from_utf8_lossy(&bare.stderr));
    assert!(bed.project().join("bare").join(left).exists(), "{bare:?}");
    let run = bed.run(Path::new("claude"), sh(format!("set -e; mkdir held; cd held; {script}")));
    assert_eq!(run.status.code(), Some(0), "{run}");
    assert!(bed.project().join("held").join(left).exists(), "{run}");
    let denied: Vec<_> = run.log.events.iter().filter(|event| event.text("outcome") == "denied").collect();
    assert!(denied.is_empty(), "{run}");
    run
}

#[test]
fn git_init_commit_clone_and_rebase() {
    let bed = TestBed::new("work-git");
    let script = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b; \
        git init -q -b main source; cd source; \
        for n in 1 2 3; do mkdir -p d$n; echo $n > d$n/file; git add .; git commit -qm $n; done; \
        git checkout -qb side HEAD~2; echo s > side; git add side; git commit -qm side; git rebase -q main; cd ..; \
        git clone -q file://$PWD/source copy; cd copy; git status --short; git log --oneline | wc -l; \
        git mv d1 moved; git commit -qam moved; git gc -q; git push -q origin HEAD:pushed";
    works(&bed, script, "copy/moved/file");
}

/// The toolchain may lie in a folder that only its owner can enter: then the owner works here.
#[test]
fn cargo_builds_and_tests_a_crate() {
    let bed = TestBed::new("work-cargo");
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().expect("`rustc` is missing");
    let bin = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim()).join("bin");
    let script = format!(
        "export PATH={}:$PATH CARGO_HOME=$HOME/.cargo; mkdir -p tiny/src; cd tiny; \
         printf '[package]\\nname = \"tiny\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n' > Cargo.toml; \
         printf 'fn main() {{ println!(\"built\"); }}\\n#[test]\\nfn adds() {{ assert_eq!(1 + 1, 2); }}\\n' > src/main.rs; \
         cargo build --offline 2>&1; ./target/debug/tiny; cargo test --offline 2>&1",
        bin.display()
    );
    let reachable = bed.bare(sh(format!("{}/cargo --version", bin.display())));
    if reachable.status.success() {
        let run = works(&bed, &script, "tiny/target/debug/tiny");
        assert!(run.out().contains("built") && run.out().contains("1 passed"), "{run}");
        return;
    }
    for folder in [bed.project(), bed.home(), bed.tmp()] {
        std::os::unix::fs::chown(folder, Some(0), Some(0)).unwrap();
    }
    let bare = Command::new("/bin/sh")
        .args(["-ec", &script])
        .current_dir(bed.home())
        .env_clear()
        .env("HOME", bed.home())
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(bare.status.success(), "{bare:?}");
    let run = bed.start(&[Path::new("claude")], sh(format!("set -e; {script}"))).by_root().finish();
    assert_eq!(run.status.code(), Some(0), "{run}");
    assert!(run.out().contains("built") && run.out().contains("1 passed"), "{run}");
}

#[test]
fn npm_installs_from_a_folder() {
    let bed = TestBed::new("work-npm");
    let script = "export npm_config_offline=true npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false; \
        mkdir -p library app; printf '{\"name\":\"library\",\"version\":\"1.0.0\",\"main\":\"index.js\"}' > library/package.json; \
        printf 'module.exports = () => \"from the library\";' > library/index.js; cd app; \
        printf '{\"name\":\"app\",\"version\":\"1.0.0\",\"scripts\":{\"start\":\"node main.js\"}}' > package.json; \
        printf 'console.log(require(\"library\")());' > main.js; npm install ../library; npm run --silent start";
    let run = works(&bed, script, "app/node_modules/library/index.js");
    assert!(run.out().contains("from the library"), "{run}");
}

#[test]
fn python_makes_a_virtual_environment() {
    let bed = TestBed::new("work-venv");
    let script = "/usr/bin/python3 -m venv --without-pip bare-venv; ./bare-venv/bin/python -c 'print(\"in the venv\")'; \
        /usr/bin/python3 -m venv venv; ./venv/bin/pip --version";
    let run = works(&bed, script, "venv/bin/pip");
    assert!(run.out().contains("in the venv") && run.out().contains("pip "), "{run}");
}

#[test]
fn vim_edits_a_file() {
    let bed = TestBed::new("work-vim");
    let script = "printf 'one\\ntwo\\n' > file; \
        vim -Nu NONE -i NONE -es -c 'set backup undofile undodir=.' -c '%s/two/three/' -c 'wq' file; grep three file";
    works(&bed, script, "file");
}

#[test]
fn shells_pipes_fifos_and_temporary_files_work() {
    let bed = TestBed::new("work-shell");
    let script = "bash -c 'diff <(echo a) <(echo a); cat <<< here; exec 3<>/dev/null; mkfifo fifo; (echo through > fifo &); cat fifo'; \
        t=$(mktemp); echo x > $t; rm $t; tar cf archive.tar fifo; cp -a /etc/hostname copied 2>/dev/null || touch copied; \
        find . -name copied | xargs ls -l; sort -o sorted copied; : > /dev/null; head -c 10 /dev/urandom | wc -c";
    works(&bed, script, "copied");
}

/// The profile's own word: what it protects in the project stays as it was.
#[test]
fn the_profile_denies_what_it_says() {
    let bed = TestBed::new("work-profile");
    let env = bed.file(".env", "CANARY");
    let key = bed.file(bed.home().join(".ssh/id_ed25519"), "CANARY");
    let hook = bed.file(".git/hooks/pre-commit", "as it was");
    let run = bed.run(
        Path::new("claude"),
        sh("cat .env ~/.ssh/id_ed25519; echo evil >> .git/hooks/pre-commit; echo over"),
    );
    assert_eq!(run.out(), "over\n", "{run}");
    assert_eq!(fs::read_to_string(hook).unwrap(), "as it was", "{run}");
    for path in [&env, &key] {
        let events = run.log.denied("file.open", path);
        assert_eq!(events.len(), 1, "{} {run}", toml_string(path.to_str().unwrap()));
        assert!(events[0].rule().unwrap().contains("/filesystem.deny/"), "{run}");
    }
}
