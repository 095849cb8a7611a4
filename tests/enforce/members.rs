//! Membership when there is no room for it: who can't be entered does not run.

use std::path::Path;

use crate::{
    bed::{
        TestBed, args,
        machine::Machine,
        net::{Listener, private_network},
    },
    stale::Inside,
};

#[test]
fn a_child_that_finds_no_room_among_the_members_does_not_get_to_run() {
    private_network(&["10.77.0.1/32"]);
    let bed = TestBed::new("members-full");
    let outside = Listener::tcp("10.77.0.1");
    let to = outside.address.to_string();
    assert_eq!(bed.bare_steps(args!["orphan", "connect", &to]), ["ok"]);
    let machine = Machine::new();
    let mut inside = Inside::start_on(&bed, &bed.deny(&[]), &machine);
    let by_child = ["orphan", "connect", &to].map(Path::new);
    let itself = ["connect", &to].map(Path::new);
    assert_eq!(inside.step(&by_child), "EPERM");
    let mut members = machine.fill_members();
    assert_eq!(inside.step(&by_child), "", "the child did something");
    // Who was there before goes on, is held as before, and can have threads.
    assert_eq!(inside.step(&itself), "EPERM");
    assert_eq!(inside.step(&["threads", "3"].map(Path::new)), "ok 3");
    (1 << 30..1 << 30 | 8).for_each(|tgid| members.remove(&tgid).unwrap());
    assert_eq!(inside.step(&by_child), "EPERM");
    let run = inside.end();
    assert_eq!(outside.arrived(1), 1, "{run}");
    assert!(run.status.success(), "{run}");
}
