//! Rules where a file has another path besides: what they name on an overlay is held in its layers too, what they name in
//! a folder that a program shows once more in the folder itself, what they name in an image in the whole image.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::{
    compile::{GlobRule, LiteralRule, PathEffect, PathPlan},
    rule::glob,
    way::Way,
};
use crate::{
    id::RuleIndex,
    sys::layers::{Origin, Stacked},
};

/// Begins a pattern that means its name wherever it lies.
const ANYWHERE: &[u8] = b"/**/";

/// Has the rules hold there too.
pub(super) fn beneath(paths: &mut PathPlan, stacked: &[Stacked]) {
    let (mut literals, mut globs) = (Vec::new(), Vec::new());
    let origins = || stacked.iter().flat_map(|mount| mount.from.iter().map(|from| (&mount.point, from)));
    for (point, origin) in origins() {
        if let Origin::Folder(folder) = origin {
            let named = paths.literals.iter();
            literals.extend(named.filter_map(|literal| literal_below(literal, point, folder)));
            let patterns = paths.globs.iter();
            globs.extend(patterns.filter_map(|rule| glob_below(rule, point, folder)));
        }
    }
    paths.literals.extend(literals);
    paths.globs.extend(globs);
    // A layer may be an image.
    for (point, origin) in origins() {
        if let Origin::Image(image) = origin
            && let Some((effect, rule)) = rule_of_image(paths, point)
        {
            paths.literals.push(LiteralRule { path: image.clone(), effect, rule });
        }
    }
}

/// The same file by its path in `folder`, which is shown at `point`.
fn literal_below(literal: &LiteralRule, point: &Path, folder: &Path) -> Option<LiteralRule> {
    let path = Way::of(&literal.path).end;
    let there = match path.strip_prefix(point) {
        Ok(rest) if rest.as_os_str().is_empty() => folder.to_owned(),
        Ok(rest) => folder.join(rest),
        // All that is shown there lies below what the rule names.
        Err(_) if point.starts_with(&path) => folder.to_owned(),
        Err(_) => return None,
    };
    // Nor what holds the rule's own path, the root above all: that would be more than what it names.
    let is_apart = !there.starts_with(&path) && !path.starts_with(&there);
    is_apart.then(|| LiteralRule { path: there, ..literal.clone() })
}

fn glob_below(rule: &GlobRule, point: &Path, folder: &Path) -> Option<GlobRule> {
    let rest = pattern_below(&rule.pattern, point)?;
    let mut pattern = glob::quote(folder.as_os_str().as_bytes());
    pattern.extend(rest);
    Some(GlobRule { pattern, ..rule.clone() })
}

/// What of a pattern is left behind a folder and before a slash, if it is about what lies there alone.
fn pattern_below<'a>(pattern: &'a [u8], folder: &Path) -> Option<&'a [u8]> {
    if pattern.starts_with(ANYWHERE) {
        return None;
    }
    let quoted = glob::quote(folder.as_os_str().as_bytes());
    let rest = pattern.strip_prefix(quoted.strip_suffix(b"/").unwrap_or(&quoted))?;
    rest.starts_with(b"/").then_some(rest)
}

/// By which an image is held that is mounted at `point`: the first rule that names something there, deny before protect; or
/// that means names wherever they lie, where the policy lets something there be written.
fn rule_of_image(paths: &PathPlan, point: &Path) -> Option<(PathEffect, RuleIndex)> {
    let lists = paths.allow.iter().flat_map(|lists| &lists.write);
    let is_written =
        lists.into_iter().any(|entry| entry.path.starts_with(point) || point.starts_with(&entry.path));
    let named = paths.literals.iter().filter(|literal| Way::of(&literal.path).end.starts_with(point));
    let named = named.map(|literal| (literal.effect, literal.rule));
    let matched = paths.globs.iter().filter(|rule| {
        pattern_below(&rule.pattern, point).is_some() || (is_written && rule.pattern.starts_with(ANYWHERE))
    });
    let all: Vec<_> = named.chain(matched.map(|rule| (rule.effect, rule.rule))).collect();
    let of = |wanted| all.iter().copied().filter(move |(effect, _)| *effect == wanted);
    let first = |wanted| of(wanted).min_by_key(|(_, rule)| rule.0);
    first(PathEffect::Deny).or_else(|| first(PathEffect::Protect))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::policy::compile::{AllowLists, AllowedPath};

    fn literal(path: &str, effect: PathEffect, rule: u16) -> LiteralRule {
        LiteralRule { path: path.into(), effect, rule: RuleIndex(rule) }
    }

    fn glob(pattern: &str, effect: PathEffect, rule: u16) -> GlobRule {
        GlobRule { pattern: pattern.into(), effect, rule: RuleIndex(rule) }
    }

    fn plan(literals: Vec<LiteralRule>, globs: Vec<GlobRule>) -> PathPlan {
        PathPlan { literals, globs, ..PathPlan::default() }
    }

    fn shown(point: &str, from: Origin) -> [Stacked; 1] {
        [Stacked { point: point.into(), from: vec![from] }]
    }

    fn added(mut paths: PathPlan, stacked: &[Stacked]) -> (Vec<LiteralRule>, Vec<GlobRule>) {
        let (literals, globs) = (paths.literals.len(), paths.globs.len());
        beneath(&mut paths, stacked);
        (paths.literals.split_off(literals), paths.globs.split_off(globs))
    }

    #[test]
    fn what_is_named_on_an_overlay_is_held_in_its_layers() {
        use PathEffect::{Deny, Protect};
        let literals = vec![
            literal("/none/p/secret", Deny, 1),
            literal("/none/p", Protect, 2),
            literal("/none", Deny, 3),
            literal("/none/other/file", Deny, 4),
        ];
        let globs = vec![
            glob("/none/p/keys/*.pem", Deny, 5),
            glob("/**/.env", Deny, 6),
            glob("/none/pp/*", Deny, 7),
            glob("/none/p*/x", Deny, 8),
        ];
        let folder = Origin::Folder(PathBuf::from("/lay[er"));
        let (literals, globs) = added(plan(literals, globs), &shown("/none/p", folder));
        let expected =
            [literal("/lay[er/secret", Deny, 1), literal("/lay[er", Protect, 2), literal("/lay[er", Deny, 3)];
        assert_eq!(literals, expected);
        assert_eq!(globs, [glob("/lay\\[er/keys/*.pem", Deny, 5)]);
    }

    #[test]
    fn what_a_rule_covers_already_is_not_said_twice() {
        let rule = vec![literal("/none", PathEffect::Deny, 1)];
        let folder = Origin::Folder(PathBuf::from("/none/layer"));
        assert_eq!(added(plan(rule, Vec::new()), &shown("/none/p", folder)), (Vec::new(), Vec::new()));
    }

    #[test]
    fn an_image_is_held_by_what_is_named_in_it() {
        use PathEffect::{Deny, Protect};
        let image = shown("/none/p", Origin::Image(PathBuf::from("/image")));
        let of = |paths: PathPlan| added(paths, &image).0;
        let protected = vec![literal("/none/p/sealed", Protect, 1)];
        assert_eq!(of(plan(protected.clone(), Vec::new())), [literal("/image", Protect, 1)]);
        let matched = vec![glob("/none/p/*.pem", Deny, 2)];
        assert_eq!(of(plan(protected, matched)), [literal("/image", Deny, 2)]);
        let mut anywhere = plan(vec![literal("/none/other", Deny, 1)], vec![glob("/**/.env", Deny, 3)]);
        assert_eq!(of(anywhere.clone()), []);
        let write = vec![AllowedPath { path: "/none/p/work".into(), rule: RuleIndex(9) }];
        anywhere.allow.push(AllowLists { write, ..AllowLists::default() });
        assert_eq!(of(anywhere), [literal("/image", Deny, 3)]);
    }
}
