//! Load: what can't be written is counted, and denials are never among it.

use crate::bed::{TestBed, args, sh};

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

/// Opens as fast as eight processes can, all recorded, and among them one that is refused, of another program.
#[test]
fn in_a_flood_of_opens_the_one_that_is_refused_is_told_with_its_path_and_program() {
    let opens = if crate::bed::is_emulated() { 2_500 } else { 20_000 };
    let bed = TestBed::new("flood-one");
    for number in 0..FILES {
        bed.file(format!("many/{number:02}"), "x");
    }
    let secret = bed.file("vault/secret", "CANARY");
    let worker = bed.worker(args![]);
    let script = |pause: &str| {
        sh(format!(
            "'{}' {} opens {PROCESSES} {opens} many & flood=$!; sleep {pause}; kill -0 $flood && cat vault/secret; wait",
            worker[0].display(),
            crate::bed::worker::MARK
        ))
    };
    let begin = std::time::Instant::now();
    let bare = String::from_utf8(bed.bare(script("0")).stdout).unwrap();
    let bare_time = begin.elapsed();
    assert!(bare.contains("CANARY") && bare.contains("ok 0\n"), "{bare}");
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"{project}/vault/*\"]\n[trace]\nopens = \"all\"\n",
    );
    let begin = std::time::Instant::now();
    let run = bed.run(&policy, script("0.2"));
    let all = PROCESSES * opens;
    let rate = all as f64 / begin.elapsed().as_secs_f64();
    assert_eq!(run.out(), "ok 0\n", "{run}");
    let told = run.log.denied("file.open", &secret);
    assert_eq!(told.len(), 1, "{run}");
    assert!(told[0].process("exe").ends_with("/cat") && told[0].argv() == ["cat", "vault/secret"], "{run}");
    assert_eq!(told[0].rule(), Some("test/filesystem.deny/0"), "{run}");
    // What was refused is told of in vain where nobody knows who that was.
    assert_eq!(
        (run.log.execs(&["cat", "vault/secret"]).len(), run.log.lost("process.exec")),
        (1, 0),
        "{run}"
    );
    let below = bed.project().join("many").to_str().unwrap().to_owned() + "/";
    let opened =
        run.log.of("file.open").iter().filter(|event| event.object("path").starts_with(&below)).count();
    let lost = usize::try_from(run.log.lost("file.open")).unwrap();
    println!("{all} opens, {rate:.0} a second (bare: {bare_time:?}): {opened} told, {lost} counted as lost");
    assert!(opened <= all && opened + lost >= all, "{opened} told + {lost} lost of {all}: {run}");
    // The loader's own, and the shell's.
    assert!(opened + lost <= all + 1000, "{opened} told + {lost} lost of {all}: {run}");
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

/// The worst that a sandbox can do to its own record: eight processes that are refused as fast as they can, each by
/// thousands of objects, and among them one refusal that counts, of another program.
#[test]
fn in_a_flood_of_refusals_the_one_that_counts_is_told_and_nothing_is_lost() {
    let opens = if crate::bed::is_emulated() { 400 } else { 6_000 };
    let bed = TestBed::new("flood-eight");
    for number in 0..40 {
        bed.file(format!("noise/{number:02}"), "x");
    }
    let secret = bed.file("vault/secret", "CANARY");
    let worker = bed.worker(args![]);
    let script = || {
        sh(format!(
            "'{}' {} opens {PROCESSES} {opens} noise & sleep 1; cat vault/secret; wait",
            worker[0].display(),
            crate::bed::worker::MARK
        ))
    };
    let bare = String::from_utf8(bed.bare(script()).stdout).unwrap();
    assert!(bare.contains("CANARY") && bare.contains("ok 0\n"), "{bare}");
    let policy = bed.policy(
        "test",
        "[filesystem]\nwrite = [\"{project}\"]\ndeny = [\"{project}/noise/*\", \"{project}/vault/secret\"]\n",
    );
    let begin = std::time::Instant::now();
    let run = bed.run(&policy, script());
    let all = PROCESSES * opens;
    assert_eq!(run.out(), format!("ok {all}\n"), "{run}");
    let told = run.log.denied("file.open", &secret);
    assert_eq!(told.len(), 1, "{run}");
    assert!(
        told[0].process("exe").ends_with("/cat") && told[0].argv() == ["cat", "vault/secret"],
        "{:?}",
        told[0].0
    );
    assert_eq!(told[0].rule(), Some("test/filesystem.deny/1"));
    let noise = bed.project().join("noise");
    let noise = noise.to_str().unwrap();
    let denied = run.log.all_denied("file.open");
    let others = denied.iter().filter(|event| event.object("path").starts_with(noise)).count();
    println!("{others} refusals told of {all} in {:?}", begin.elapsed());
    assert_eq!((others, run.log.of("audit.gap").len()), (all, 0), "{run}");
}

/// A supervisor that reads nothing: what finds no room is counted, exactly, and it is said what was first and last.
#[test]
fn refusals_that_nobody_can_read_are_counted() {
    let opens: u64 = if crate::bed::is_emulated() { 10_000 } else { 12_000 };
    let bed = TestBed::new("flood-unread");
    // Refused by Landlock: no verdict thread is asked, so a stopped supervisor holds nobody up.
    let outside = bed.outside().join("file");
    std::fs::write(&outside, "").unwrap();
    bed.give(&outside);
    let worker = bed.worker(args![]);
    let script = sh(format!(
        "while [ ! -e go ]; do sleep 0.05; done; '{}' {} writes {opens} '{}'; : > over; sleep 1",
        worker[0].display(),
        crate::bed::worker::MARK,
        outside.display()
    ));
    let mut start = bed.start(&[&bed.deny(&[])], script);
    let child = start.spawn();
    let up = || crate::bed::procs::of_user(bed.uid()).len() > 1;
    assert!(crate::bed::procs::until(std::time::Duration::from_secs(170), up), "it does not start");
    crate::bed::procs::signal(child.id(), rustix::process::Signal::STOP);
    bed.file("go", "");
    let over = bed.project().join("over");
    assert!(crate::bed::procs::until(std::time::Duration::from_secs(170), || over.exists()), "it hangs");
    crate::bed::procs::signal(child.id(), rustix::process::Signal::CONT);
    let run = start.read(crate::bed::procs::wait_with_output(child, std::time::Duration::from_secs(120)));
    assert_eq!(run.out(), format!("ok {opens}\n"), "{run}");
    let told = run.log.denied("file.open", &outside).len() as u64;
    let gaps = run.log.of("audit.gap");
    let lost: u64 = gaps.iter().map(|gap| gap.0["object"]["count"].as_u64().unwrap()).sum();
    println!("{told} told, {lost} counted");
    assert!(lost > 0 && told > 0, "the buffer was never full: {run}");
    assert_eq!(told + lost, opens, "{run}");
    let detail = gaps[0].object("detail");
    assert!(detail.contains("refusals") && detail.contains("worker"), "{detail}");
}
