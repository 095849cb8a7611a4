//! What is said on stderr when a run has ended.

use super::{review::Found, session::Session};
use crate::{audit::recorder::Summary, diagnostic::tell};

/// Tells of a log that ended the run, whatever was asked for; unless `quiet`, of files to look at and of denials.
pub(super) fn tell_end(summary: &Summary, review: &Found, fatal: bool, quiet: bool, session: &Session) {
    if fatal {
        tell(&format!(
            "the audit log {} could not be written and the policy requires it: the run was ended",
            summary.log.display()
        ));
    }
    if summary.lost > 0 {
        tell(&format!(
            "{} events are not in the audit log {}: no room in memory, or its disk took nothing more",
            summary.lost,
            summary.log.display()
        ));
    }
    if quiet {
        return;
    }
    review.lines(&session.fields.session.0, &summary.log).iter().for_each(|line| tell(line));
    let denied = summary.denied();
    if denied > 0 {
        let noun = if denied == 1 { "action was" } else { "actions were" };
        tell(&format!(
            "{denied} {noun} denied; see: govsandbox audit show {} --outcome denied --log {}",
            session.fields.session,
            summary.log.display()
        ));
    }
}
