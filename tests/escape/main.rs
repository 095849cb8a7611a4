//! The project's own corpus of attempts to escape: an adversary's work, in classes.
//!
//! Each attempt is made twice: outside of any sandbox, where it must succeed (or it proves nothing), and inside, where
//! it must be refused, with an errno, an event in the log, and its object as it was. Both as an ordinary user and as
//! root without capabilities. Prints a table by class; `--table` prints what docs/security.md says about it.
#![allow(
    unsafe_code,
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test target without the standard harness; classes use their part of what attempts are made of"
)]

#[path = "../bed/mod.rs"]
mod bed;

mod attempt;
mod creation;
mod egress;
mod exec;
mod inside;
mod ipc;
mod machine;
mod metadata;
mod names;
mod namespaces;
mod privileges;
mod processes;
mod ring;
mod routes;
mod session;
mod settings;
mod sockets;
mod stage;
mod surroundings;
mod sys;
mod table;
mod unix;
mod uring;

use std::{collections::BTreeSet, ffi::OsString, process::ExitCode};

use attempt::Attempt;
use session::{User, Verdict};

/// Attempts that share a session.
const SESSION_MAX: usize = 100;

/// The whole corpus, class by class.
fn corpus() -> Vec<Attempt> {
    let all: Vec<Attempt> = [
        names::attempts(),
        settings::attempts(),
        egress::attempts(),
        privileges::attempts(),
        namespaces::attempts(),
        sockets::attempts(),
        unix::attempts(),
        processes::attempts(),
        ipc::attempts(),
        exec::attempts(),
        uring::attempts(),
        metadata::attempts(),
        metadata::learned(),
        creation::attempts(),
        routes::attempts(),
        surroundings::attempts(),
        machine::attempts(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let names: BTreeSet<&str> = all.iter().map(|attempt| attempt.name.as_str()).collect();
    assert_eq!(names.len(), all.len(), "two attempts of one name");
    all
}

/// Leaves root without capabilities out: the kernel's hooks meet the same calls, and an emulated processor is slow.
const AS_USER: &str = "--as-user";

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    match words.first().and_then(|word| word.to_str()) {
        Some(inside::DRIVER) => {
            inside::drive(&words[1..], &corpus());
            return ExitCode::SUCCESS;
        }
        Some(inside::PROGRAM) => {
            inside::program(&words[1..], &corpus());
            return ExitCode::SUCCESS;
        }
        Some("--table") => {
            print!("{}", table::of(&corpus()));
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let words: Vec<String> = words.into_iter().map(|word| word.into_string().unwrap()).collect();
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|part| name.contains(part.as_str()));
    let corpus = corpus();
    let chosen: Vec<&Attempt> =
        corpus.iter().filter(|attempt| wanted(&format!("escape::{}", attempt.name))).collect();
    if words.iter().any(|word| word == "--list") {
        chosen.iter().for_each(|attempt| println!("escape::{}: test", attempt.name));
        return ExitCode::SUCCESS;
    }
    assert!(rustix::process::geteuid().is_root(), "the attempts need root, to set up what they find");
    bed::net::private_network(&["10.77.0.1/32", "10.77.0.9/32", "10.78.0.1/32", "fd77::1/128"]);
    let mut failures = Vec::new();
    if filters.is_empty() {
        failures.extend(table::check(&corpus));
        failures.iter().for_each(|failure| println!("FAILED {failure}"));
    }
    let mut tally = table::Tally::default();
    let users = if words.iter().any(|word| word == AS_USER) { &User::ALL[..1] } else { &User::ALL };
    for user in users.iter().copied() {
        for policy in chosen.iter().map(|attempt| attempt.policy).collect::<BTreeSet<_>>() {
            let batch: Vec<&Attempt> =
                chosen.iter().copied().filter(|attempt| attempt.policy == policy).collect();
            // Not too many at once: on an emulated processor a session has its time.
            let verdicts = batch.chunks(SESSION_MAX).flat_map(|part| session::run(user, part));
            for (attempt, verdict) in batch.iter().zip(verdicts) {
                tally.count(attempt.class, user, &verdict);
                if let Verdict::Failed(how) = verdict {
                    let Attempt { name, what, source, .. } = attempt;
                    let failure = format!("{name} ({}; {what}, {source}): {how}", user.title());
                    println!("FAILED {failure}");
                    failures.push(failure);
                }
            }
        }
    }
    tally.print(users);
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {} passed; {} failed", tally.good(), failures.len());
    if failures.is_empty() && !chosen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
