//! Completions and manual pages.

use crate::bed::Bed;

#[test]
fn completions_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = Bed::new().run(&["completions", shell]);
        assert_eq!(ran.status, Some(0), "{ran:?}");
        assert!(
            ["approve", "doctor", "refuse", "unload"].iter().all(|name| ran.out.contains(name)),
            "{shell}"
        );
    }
}

#[test]
fn the_manual_has_a_page_for_each_subcommand() {
    let ran = Bed::new().run(&["man"]);
    assert_eq!(ran.status, Some(0), "{ran:?}");
    for page in [
        "govsandbox",
        "govsandbox-approve",
        "govsandbox-refuse",
        "govsandbox-doctor",
        "govsandbox-policy-check",
    ] {
        assert!(ran.out.contains(&format!(".TH {page} ")), "{page}");
    }
}
