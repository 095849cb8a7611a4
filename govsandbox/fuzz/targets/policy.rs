//! A policy file, from its bytes to the tables: whatever is in it, it is compiled or refused, in bounded time and memory.
#![no_main]

use std::sync::Arc;

use govsandbox::policy::{
    Context, automaton,
    check::{self, Found},
    compile::{self, Layer},
    merge::{self, Unit},
    parse::{self, Format},
    repositories::Repositories,
};
use libfuzzer_sys::fuzz_target;
use miette::NamedSource;

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let format = if first & 1 == 0 { Format::Toml } else { Format::Json };
    let layer = if first & 2 == 0 { Layer::Session } else { Layer::Project };
    let source = Arc::new(NamedSource::new("fuzzed", text.to_owned()));
    let raw = match parse::parse(&source, format) {
        Ok(raw) => raw,
        Err(problem) => return drop((problem.to_string(), problem.line_and_column())),
    };
    let found = Found { layer, file: None, stem: "fuzzed".to_owned(), source };
    let policy = match check::check(&raw, found) {
        Ok((policy, _)) => policy,
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            return problems
                .iter()
                .for_each(|problem| drop((problem.to_string(), problem.line_and_column())));
        }
    };
    let context = Context {
        project: "/home/u/app".into(),
        project_given: false,
        home: "/home/u".into(),
        tmp: vec!["/tmp".into(), "/var/tmp".into()],
        runtime: "/run/user/7".into(),
        repositories: Repositories::default(),
        state: "/var/lib/govsandbox/7".into(),
        etc: "/etc/govsandbox".into(),
    };
    let layered = merge::layer(Unit::join("fuzzed".to_owned(), vec![policy]), Vec::new());
    let Ok(outcome) = compile::compile(&layered, &context) else { return };
    let _ = automaton::build(&outcome.compiled.paths.globs);
});
