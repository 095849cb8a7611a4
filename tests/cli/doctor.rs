//! `doctor`, on whatever machine and for whomever the tests run.

use serde_json::Value;

use crate::bed::Bed;

fn report() -> (Option<i32>, Value) {
    let ran = Bed::new().run(&["doctor", "--format", "json"]);
    let report = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    (ran.status, report)
}

#[test]
fn the_status_says_whether_a_run_would_start() {
    let (status, report) = report();
    let starts = report["starts"].as_bool().unwrap();
    assert_eq!(status, Some(if starts { 0 } else { 1 }), "{report}");
    if starts {
        assert!(["lsm", "fanotify"].contains(&report["backend"].as_str().unwrap()), "{report}");
    }
    if !rustix::process::geteuid().is_root() {
        assert_eq!(report["backend"], Value::Null, "{report}");
    }
}

#[test]
fn what_is_wrong_comes_with_what_to_do() {
    let (_, report) = report();
    for check in report["checks"].as_array().unwrap() {
        let status = check["status"].as_str().unwrap();
        assert!(["ok", "missing", "degraded", "unknown"].contains(&status), "{check}");
        assert_ne!(check["found"], "", "{check}");
        if ["missing", "degraded"].contains(&status) {
            assert!(check["mend"].is_string(), "{check}");
        }
    }
    for name in ["btf", "bpf-lsm", "landlock", "cgroup-v2", "fanotify", "capabilities"] {
        assert!(report["checks"].as_array().unwrap().iter().any(|check| check["name"] == name), "{name}");
    }
}

#[test]
fn a_guarantee_has_a_layer_or_a_reason() {
    let (_, report) = report();
    let rows = report["guarantees"].as_array().unwrap();
    assert!(rows.len() > 8, "{report}");
    for row in rows {
        assert!(!row["held_by"].as_array().unwrap().is_empty() || row["note"].is_string(), "{row}");
    }
    let backend_is_known = report["backend"].is_string();
    assert_eq!(backend_is_known, !report["not_held"].as_array().unwrap().is_empty(), "{report}");
}

#[test]
fn the_text_ends_with_the_verdict() {
    let ran = Bed::new().run(&["doctor"]);
    assert!(ran.out.lines().last().unwrap().starts_with("A run would "), "{ran:?}");
}
