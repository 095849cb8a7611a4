//! Policies by name: those compiled in, the machine's, the user's.

use std::path::{Path, PathBuf};

use super::{compile::Layer, context::Context};

/// The profile that is used when no other fits.
pub(super) const DEFAULT: &str = "default";

/// `policies/` as it was when the binary was built.
const BUILTIN: [(&str, &str); 4] = [
    ("base", include_str!("../../../policies/base.toml")),
    ("ci", include_str!("../../../policies/ci.toml")),
    ("claude", include_str!("../../../policies/claude.toml")),
    ("default", include_str!("../../../policies/default.toml")),
];

/// Endings of policy files, in the order in which they are tried.
const ENDINGS: [&str; 2] = ["toml", "json"];

/// Where a name leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    /// Compiled in: its text.
    Builtin(&'static str),
    /// A file.
    File(Layer, PathBuf),
}

/// Finds the policy of that name. What is compiled in comes first: a file that the agent may have left in the user's
/// folder must not take its place.
#[must_use]
pub(super) fn find(name: &str, context: &Context) -> Option<Profile> {
    if let Some((_, text)) = BUILTIN.iter().find(|(builtin, _)| *builtin == name) {
        return Some(Profile::Builtin(text));
    }
    folders(context).into_iter().find_map(|(layer, folder)| {
        let files = ENDINGS.iter().map(|ending| folder.join(format!("{name}.{ending}")));
        // Whether it can be read is told when it is read.
        files.into_iter().find(|file| file.symlink_metadata().is_ok()).map(|file| Profile::File(layer, file))
    })
}

/// A file of the machine's or the user's with the name of a policy that is compiled in: nobody reads it.
#[must_use]
pub(super) fn shadowed(name: &str, context: &Context) -> Option<PathBuf> {
    let files = folders(context)
        .into_iter()
        .flat_map(|(_, folder)| ENDINGS.map(|ending| folder.join(format!("{name}.{ending}"))));
    files.into_iter().find(|file| file.symlink_metadata().is_ok())
}

/// All names that [`find`] finds, sorted.
#[must_use]
pub(super) fn names(context: &Context) -> Vec<String> {
    let mut names: Vec<_> = BUILTIN.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (_, folder) in folders(context) {
        let files = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        let policies = files
            .filter(|file| file.extension().is_some_and(|end| ENDINGS.iter().any(|known| end == *known)));
        names.extend(policies.filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned())));
    }
    names.sort();
    names.dedup();
    names
}

/// The folders with policies by name, in the order in which they are looked through.
fn folders(context: &Context) -> [(Layer, PathBuf); 2] {
    let user: &Path = &context.home;
    [(Layer::System, context.etc.join("policies")), (Layer::User, user.join(".config/govsandbox/policies"))]
}
