//! One sandbox for many attempts: stages them, runs the controls, then the session, and judges.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, process::Stdio, time::Instant};

use crate::{
    attempt::{Answer, Attempt, Control, Expected, Goal, Told},
    bed::{self, Event, Run, TestBed, args},
    inside::{self, Outcome},
    stage::Stage,
};

/// Who tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Ordinary,
    /// Uid 0 without any capability.
    Root,
}

impl User {
    pub(crate) const ALL: [Self; 2] = [Self::Ordinary, Self::Root];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Ordinary => "user",
            Self::Root => "root",
        }
    }
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Held,
    /// It reached its object, as docs/security.md says that it does.
    NotHeld,
    /// The kernel is older than what the attempt needs, and its control failed.
    NotThere,
    /// A hole, or an attempt that proves nothing.
    Failed(String),
}

/// The ids of an attempt's own rules.
type Rules = Vec<String>;

/// Runs attempts that share a policy.
pub(crate) fn run(user: User, attempts: &[&Attempt]) -> Vec<Verdict> {
    let bed = TestBed::new("escape");
    let uid = if user == User::Root { 0 } else { bed.uid() };
    if user == User::Root {
        for folder in [bed.project(), bed.home(), bed.tmp(), bed.outside()] {
            std::os::unix::fs::chown(&folder, Some(0), Some(0)).unwrap();
        }
    }
    let stage = |attempt: &Attempt| Stage::build(attempt, &bed.project(), &bed.outside(), uid);
    let (begin, mut controls) = (Instant::now(), BTreeMap::new());
    for kind in [Control::Same, Control::Root] {
        let own: Vec<&Attempt> = attempts.iter().copied().filter(|attempt| attempt.control == kind).collect();
        if own.is_empty() {
            continue;
        }
        let stages: Vec<Stage> = own.iter().map(|attempt| stage(attempt)).collect();
        let before: Vec<_> = own.iter().zip(&stages).map(|(attempt, stage)| stage.guarded(attempt)).collect();
        let outcomes = control(&bed, user, kind, &own);
        for ((attempt, stage), before) in own.iter().zip(&stages).zip(&before) {
            let outcome = outcomes.get(&attempt.name);
            let reached = reached(attempt, stage, outcome, before);
            controls.insert(attempt.name.clone(), (reached, outcome.cloned()));
        }
    }
    let (bare, begin) = (begin.elapsed(), Instant::now());
    let stages: Vec<Stage> = attempts.iter().map(|attempt| stage(attempt)).collect();
    let before: Vec<_> =
        attempts.iter().zip(&stages).map(|(attempt, stage)| stage.guarded(attempt)).collect();
    let (policy, rules) = policy(&bed, attempts);
    let mut start = bed.start(&[&policy], driver(&bed, attempts));
    if user == User::Root {
        start = start.by_root();
    }
    let (staged, begin) = (begin.elapsed(), Instant::now());
    let run = start.finish();
    let outcomes: BTreeMap<_, _> = inside::outcomes(&run.stdout).into_iter().collect();
    let (held, begin) = (begin.elapsed(), Instant::now());
    let verdicts = attempts.iter().enumerate().map(|(place, attempt)| {
        let (stage, before) = (&stages[place], &before[place]);
        let outcome = outcomes.get(&attempt.name);
        let (control, how) = &controls[&attempt.name];
        if !control {
            let absent = matches!(how, Some(Outcome::Errno(number)) if attempt.absent.contains(number));
            return if absent || kernel() < attempt.since {
                Verdict::NotThere
            } else {
                Verdict::Failed(format!("the control proves nothing: {how:?}"))
            };
        }
        judge(attempt, stage, outcome, before, &run, &rules[place])
    });
    let verdicts: Vec<Verdict> = verdicts.collect();
    if verdicts.iter().any(|verdict| matches!(verdict, Verdict::Failed(_))) && !run.status.success() {
        println!("the session itself: {run}");
    }
    println!(
        "measured: {} attempts as {}: controls {bare:.1?}, stage {staged:.1?}, session {held:.1?}, verdicts {:.1?}",
        attempts.len(),
        user.title(),
        begin.elapsed()
    );
    verdicts
}

/// Did it get there?
fn reached(attempt: &Attempt, stage: &Stage, outcome: Option<&Outcome>, before: &[String]) -> bool {
    let Some(Outcome::Reached(text)) = outcome else { return false };
    match attempt.goal {
        Goal::Read => text.contains(&attempt.canary_text()),
        Goal::Change => stage.guarded(attempt) != before,
        Goal::Act => stage.watched().unwrap_or(true),
    }
}

fn judge(
    attempt: &Attempt,
    stage: &Stage,
    outcome: Option<&Outcome>,
    before: &[String],
    run: &Run,
    rules: &Rules,
) -> Verdict {
    let Some(outcome) = outcome else { return Verdict::Failed("the session has no answer".to_owned()) };
    let Expected { answer, told } = attempt.expected();
    let after = stage.guarded(attempt);
    let watched = stage.watched() == Some(true);
    let text = format!("{outcome:?}");
    match answer {
        Answer::NotHeld(_) if reached(attempt, stage, Some(outcome), before) => return Verdict::NotHeld,
        Answer::NotHeld(words) => {
            return Verdict::Failed(format!("docs/security.md says `{words}`, and it is held: {text}"));
        }
        Answer::Refused(_) if text.contains(&attempt.canary_text()) => {
            return Verdict::Failed(format!("HOLE, the canary came out: {text}"));
        }
        Answer::Refused(_) if (after != before && attempt.goal != Goal::Read) || watched => {
            let changed: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
            return Verdict::Failed(format!("HOLE, got there: {text} {changed:?} was {before:?}"));
        }
        Answer::Refused(errnos) => match outcome {
            Outcome::Errno(number) if errnos.contains(number) => {}
            Outcome::Reached(_) => return Verdict::Failed(format!("HOLE, not refused: {text}")),
            _ => return Verdict::Failed(format!("refused by {text}, not by one of {errnos:?}")),
        },
    }
    match missing_event(attempt, stage, told, run, rules) {
        Some(missing) => Verdict::Failed(format!("{text}, and no event: {missing}")),
        None => Verdict::Held,
    }
}

/// What the log should tell and does not.
fn missing_event(attempt: &Attempt, stage: &Stage, told: &Told, run: &Run, rules: &Rules) -> Option<String> {
    let denied = run.log.events.iter().filter(|event| event.text("outcome") == "denied");
    match told {
        Told::Nothing(_) => None,
        Told::OwnRule => {
            let folder = bed::log::written(stage.folder.as_os_str().as_encoded_bytes());
            let is_own = |event: &&Event| {
                let kind = event.kind() == "file.open" || event.kind() == "file.change";
                let rule = event.rule().is_some_and(|rule| rules.iter().any(|own| own == rule));
                let about = ["path", "target"].iter().any(|field| event.object(field).starts_with(&folder));
                kind && rule && about
            };
            if denied.clone().any(|event| is_own(&event)) {
                return None;
            }
            let about: Vec<_> = denied.filter(|event| event.0.to_string().contains(&folder)).collect();
            Some(format!("by {rules:?}; there are {about:?}"))
        }
        Told::Event { kind, rule, about } => {
            let about = stage.fill(about, &attempt.name);
            let mut of_kind = denied.filter(|event| event.kind() == *kind);
            let is_it = |event: &Event| {
                event.rule().unwrap_or_default().starts_with(rule) && event.0.to_string().contains(&about)
            };
            let found = of_kind.clone().any(is_it);
            (!found).then(|| {
                let last: Vec<_> = of_kind.by_ref().take(5).map(|event| event.0.to_string()).collect();
                format!("{kind} by {rule} with `{about}`; there are {last:?}")
            })
        }
    }
}

fn control(bed: &TestBed, user: User, kind: Control, attempts: &[&Attempt]) -> BTreeMap<String, Outcome> {
    let command = driver(bed, attempts);
    let mut process = match (user, kind) {
        (User::Ordinary, Control::Same) => bed.bare_command(command),
        (User::Root, Control::Same) => {
            let without = args!["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--clear-groups"];
            bed.root_command([without, command].concat())
        }
        (_, Control::Root) => bed.root_command(command),
    };
    let output = process.stderr(Stdio::inherit()).output().unwrap();
    inside::outcomes(&output.stdout).into_iter().collect()
}

fn driver(bed: &TestBed, attempts: &[&Attempt]) -> Vec<OsString> {
    let mut words = bed.program_of_tests(inside::DRIVER);
    words.push(bed.project().into());
    words.extend(attempts.iter().map(|attempt| OsString::from(&attempt.name)));
    words
}

/// One policy for all; the ids of each one's rules.
fn policy(bed: &TestBed, attempts: &[&Attempt]) -> (PathBuf, Vec<Rules>) {
    let (mut lists, mut ids) = ([Vec::new(), Vec::new()], Vec::new());
    for attempt in attempts {
        let mut own = Vec::new();
        for (list, (key, patterns)) in
            lists.iter_mut().zip([("deny", &attempt.deny), ("protect", &attempt.protect)])
        {
            for pattern in patterns {
                let whole = if pattern.starts_with('/') || pattern.starts_with("**/") {
                    pattern.clone()
                } else {
                    format!("{{project}}/{}/{pattern}", attempt.name)
                };
                // A pattern may be many attempts': what patterns cost grows with each.
                let entry = bed::toml_string(&whole);
                let place = list.iter().position(|one| *one == entry).unwrap_or(list.len());
                if place == list.len() {
                    list.push(entry);
                }
                own.push(format!("test/filesystem.{key}/{place}"));
            }
        }
        ids.push(own);
    }
    let [deny, protect] = lists.map(|list| list.join(", "));
    let text = format!(
        "[filesystem]\nwrite = [\"{{project}}\"]\ndeny = [{deny}]\nprotect = [{protect}]\n{}\n",
        attempts[0].policy
    );
    (bed.policy("test", &text), ids)
}

/// The running kernel's version.
pub(crate) fn kernel() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
