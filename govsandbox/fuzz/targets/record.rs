//! Records as the kernel's ring buffers bring them, one after the other: each is an event or refused, and what the log
//! says of an event is read back as it was.
//!
//! Each record: a byte, two lengths, an `EventRecord`, its texts, a line feed. The byte's lowest bit has the lengths in
//! the record put right; the next hands it in as a verdict thread's refusal.
#![no_main]

use std::sync::{Arc, LazyLock};

use govsandbox::{
    backend::perform::PERFORMED,
    event::{
        decode::Decoder,
        model::{Event, Object, Process},
        privilege::{CallName, Filter, Refused},
        text::misleads,
    },
    launch::seccomp::{self, SeccompPlan},
    policy::{
        Context, automaton,
        check::{self, Found},
        compile::{self, Compiled, Layer, PathTable},
        merge::{self, Unit},
        parse::{self, Format},
        repositories::Repositories,
    },
};
use govsandbox_ebpf::abi::event::EventRecord;
use libfuzzer_sys::fuzz_target;
use miette::NamedSource;
use zerocopy::{FromBytes as _, IntoBytes as _};

const POLICY: &str = "version = 1\n[filesystem]\nwrite = [\"/app\"]\ndeny = [\"/home/u/.ssh\", \"**/*.pem\"]\n\
    protect = [\"/app/.git/hooks\"]\n[network]\nallow = [\"localhost:443\", \"10.0.0.0/8\"]\n";

static COMPILED: LazyLock<(Arc<Compiled>, PathTable)> = LazyLock::new(|| {
    let source = Arc::new(NamedSource::new("policy", POLICY.to_owned()));
    let raw = parse::parse(&source, Format::Toml).unwrap_or_else(|problem| panic!("{problem}"));
    let found = Found { layer: Layer::Session, file: None, stem: "policy".to_owned(), source };
    let (policy, _) = check::check(&raw, found).unwrap_or_else(|problems| panic!("{problems:?}"));
    let context = Context {
        project: "/app".into(),
        project_given: true,
        home: "/home/u".into(),
        tmp: vec!["/tmp".into()],
        runtime: "/run/user/7".into(),
        repositories: Repositories::default(),
        state: "/var/lib/govsandbox/7".into(),
        etc: "/etc/govsandbox".into(),
    };
    let layered = merge::layer(Unit::join("policy".to_owned(), vec![policy]), Vec::new());
    let compiled =
        compile::compile(&layered, &context).unwrap_or_else(|problems| panic!("{problems:?}")).compiled;
    let table = automaton::build(&compiled.paths.globs).unwrap_or_else(|error| panic!("{error}"));
    (Arc::new(compiled), table)
});

fn filter() -> Filter {
    let program = seccomp::program(&SeccompPlan { performed: PERFORMED, ..SeccompPlan::FANOTIFY });
    Filter(Box::new(move |attempt| {
        let (number, arguments) = (attempt.number, attempt.arguments);
        let (foreign, errno) = (attempt.foreign, attempt.errno);
        let refused = seccomp::refusal(&program, &seccomp::Attempt { number, arguments, foreign, errno })?;
        let call =
            CallName::parse(refused.call).expect("every call that the filter knows has a name for the log");
        Some(Refused { call, rule: "filter", detail: refused.detail })
    }))
}

fuzz_target!(|data: &[u8]| {
    let (compiled, table) = &*COMPILED;
    let mut decoder =
        Decoder::new(Arc::clone(compiled), table.clone(), "/nonexistent/root".into(), true, filter());
    let mut rest = data;
    while let Some(([steer, first, second], after)) = rest.split_first_chunk::<3>() {
        let Ok((mut head, after)) = EventRecord::read_from_prefix(after) else { return };
        let end = after.iter().position(|byte| *byte == b'\n').unwrap_or(after.len());
        let (texts, after) = after.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        let (path, others) = texts.split_at(usize::from(*first).min(texts.len()));
        let (target, argv) = others.split_at(usize::from(*second).min(others.len()));
        if steer & 1 == 1 {
            [head.path_len, head.second_len, head.argv_len] =
                [path, target, argv].map(|text| text.len() as u32);
        }
        if steer & 2 == 2 {
            tell(&decoder.refusal(&head, path, target, argv));
        } else if let Ok(Some(event)) = decoder.record(&[head.as_bytes(), texts].concat()) {
            tell(&event);
        }
    }
});

/// What of it comes from inside goes into the log and comes out the same; a terminal draws it.
fn tell(event: &Event) {
    let text = serde_json::to_string(&event.object).expect("an object can be written");
    assert_eq!(serde_json::from_str::<Object>(&text).as_ref().ok(), Some(&event.object), "{text}");
    let text = serde_json::to_string(&event.process).expect("a process can be written");
    assert_eq!(serde_json::from_str::<Option<Process>>(&text).as_ref().ok(), Some(&event.process), "{text}");
    for path in [&event.object.path, &event.object.target].into_iter().flatten() {
        assert!(!path.for_terminal().contains(misleads), "{path:?}");
    }
    assert!(event.errno.is_none_or(|errno| errno > 0));
}
