//! Load: what can't be written is counted, and denials are never among it.

use crate::bed::{TestBed, args};

const PROCESSES: usize = 8;
const OPENS_EACH: usize = 12_500;
const FILES: usize = 25;

#[test]
fn a_hundred_thousand_opens_are_in_the_log_or_counted_as_lost() {
    let bed = TestBed::new("flood");
    for number in 0..FILES {
        bed.file(format!("many/{number:02}"), "x");
    }
    let secret = bed.file("many/secret", "CANARY");
    let folder = bed.project().join("many");
    let steps = || args!["opens", &PROCESSES.to_string(), &OPENS_EACH.to_string(), &folder];
    // Positive control: nothing fails.
    assert_eq!(bed.bare_steps(steps()), ["ok 0"]);
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"{project}/many/secret\"]\n[trace]\nopens = \"all\"\n",
    );
    let (run, answers) = bed.run_steps(&policy, steps());
    // `secret` sorts behind the numbers: each process opens it once in every round of FILES + 1.
    let denied = PROCESSES * (OPENS_EACH / (FILES + 1));
    assert_eq!(answers, [format!("ok {denied}")], "{run}");
    // Denials first: each of them, once.
    let gaps: Vec<_> = run.log.of("audit.gap").iter().map(|gap| gap.0["object"].to_string()).collect();
    assert_eq!(run.log.denied("file.open", &secret).len(), denied, "gaps: {gaps:?} {run}");
    let opens = run.log.of("file.open");
    let below = folder.to_str().unwrap().to_owned() + "/";
    let told = opens.iter().filter(|event| event.object("path").starts_with(&below)).count();
    let lost = usize::try_from(run.log.lost("file.open")).unwrap();
    println!("{told} opens told, {lost} counted as lost");
    // The loader's own opens may be among the lost ones.
    let all = PROCESSES * OPENS_EACH;
    assert!(told <= all && told + lost >= all, "{told} told + {lost} lost of {all}: gaps: {gaps:?}");
    assert!(told + lost <= all + 200, "{told} told + {lost} lost of {all}: gaps: {gaps:?}");
    let counts = &run.log.of("session.end")[0].0["object"]["counts"];
    assert_eq!(counts["file.open.denied"], denied, "{counts}");
}

/// One thread, refused again and again while the log is behind: each refusal is told once.
#[test]
fn a_flood_of_refusals_is_told_once_each() {
    const OPENS: usize = 6000;
    let bed = TestBed::new("flood-denied");
    let secret = bed.file("only/secret", "CANARY");
    let folder = bed.project().join("only");
    let steps = || args!["opens", "1", &OPENS.to_string(), &folder];
    assert_eq!(bed.bare_steps(steps()), ["ok 0"]);
    let (run, answers) = bed.run_steps(&bed.deny(&["{project}/only/secret"]), steps());
    assert_eq!(answers, [format!("ok {OPENS}")], "{run}");
    let told = run.log.denied("file.open", &secret).len();
    assert_eq!((told, run.log.lost("file.open")), (OPENS, 0), "{run}");
}
