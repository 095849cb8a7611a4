//! Counting: the results of a run by class, and the table in docs/security.md, which is of the corpus as it stands.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use crate::{
    attempt::{Answer, Attempt, Class},
    bed,
    session::{User, Verdict},
};

/// Around the table in docs/security.md.
const BEGIN: &str = "<!-- escape: begin -->\n";
const END: &str = "<!-- escape: end -->";

/// Results of a run.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<Class, Row>);

#[derive(Default, Clone, Copy)]
struct Row {
    attempts: usize,
    held: usize,
    stated: usize,
    absent: usize,
    failed: usize,
}

impl Row {
    fn add(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.held += other.held;
        self.stated += other.stated;
        self.absent += other.absent;
        self.failed += other.failed;
    }
}

impl Tally {
    pub(crate) fn count(&mut self, class: Class, _: User, verdict: &Verdict) {
        let mut one = Row { attempts: 1, ..Row::default() };
        match verdict {
            Verdict::Held => one.held = 1,
            Verdict::NotHeld => one.stated = 1,
            Verdict::NotThere => one.absent = 1,
            Verdict::Failed(_) => one.failed = 1,
        }
        self.0.entry(class).or_default().add(one);
    }

    /// How many came out as promised.
    pub(crate) fn good(&self) -> usize {
        self.0.values().map(|row| row.attempts - row.failed).sum()
    }

    /// The table of the run; each attempt counts once for each user.
    pub(crate) fn print(&self, users: &[User]) {
        let (major, minor) = crate::session::kernel();
        let users: Vec<&str> = users.iter().map(|user| user.title()).collect();
        println!("\nbackend {}, kernel {major}.{minor}, as {}", bed::backend(), users.join(" and as "));
        println!(
            "{:<32}{:>9}{:>8}{:>20}{:>10}{:>8}",
            "class", "attempts", "held", "not held, as stated", "not there", "FAILED"
        );
        let mut sum = Row::default();
        for (class, row) in &self.0 {
            line(class.title(), row);
            sum.add(*row);
        }
        line("all", &sum);
    }
}

fn line(title: &str, row: &Row) {
    let Row { attempts, held, stated, absent, failed } = row;
    println!("{title:<32}{attempts:>9}{held:>8}{stated:>20}{absent:>10}{failed:>8}");
}

/// The table for docs/security.md: attempts by class, and how many of them each backend holds.
pub(crate) fn of(corpus: &[Attempt]) -> String {
    let mut text =
        "| what is tried | attempts | held by `lsm` | held by `fanotify` |\n|---|---|---|---|\n".to_owned();
    let mut row = |title: &str, of: &[&Attempt]| {
        let held = |answer: fn(&Attempt) -> &Answer| {
            of.iter().filter(|attempt| matches!(answer(attempt), Answer::Refused(_))).count()
        };
        let (lsm, fanotify) = (held(|attempt| &attempt.lsm.answer), held(|attempt| &attempt.fanotify.answer));
        writeln!(text, "| {title} | {} | {lsm} | {fanotify} |", of.len()).unwrap();
    };
    for class in Class::ALL {
        let of: Vec<&Attempt> = corpus.iter().filter(|attempt| attempt.class == class).collect();
        if !of.is_empty() {
            row(class.title(), &of);
        }
    }
    row("all", &corpus.iter().collect::<Vec<_>>());
    text
}

/// What docs/security.md says and is not so.
pub(crate) fn check(corpus: &[Attempt]) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let table = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map(|(table, _)| table);
    let mut wrong = Vec::new();
    if table != Some(of(corpus).as_str()) {
        wrong.push(
            "the table in docs/security.md is not of this corpus: run `cargo xtask escape --table`"
                .to_owned(),
        );
    }
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = words(&text);
    for attempt in corpus {
        for answer in [&attempt.lsm.answer, &attempt.fanotify.answer] {
            if let Answer::NotHeld(statement) = answer
                && !said.contains(&words(statement))
            {
                wrong.push(format!("{}: docs/security.md does not say `{statement}`", attempt.name));
            }
        }
    }
    wrong
}
