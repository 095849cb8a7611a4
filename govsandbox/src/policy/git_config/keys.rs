//! Which keys of a protected config a policy lets change, and which it can't.

use std::fmt;

use super::read::Name;

/// Sections that are closed as a whole: they name programs, files and addresses that git uses later, outside.
const CLOSED_SECTIONS: [&str; 49] = [
    "alias",
    "browser",
    "bundle",
    "core",
    "credential",
    "diff",
    "difftool",
    "extensions",
    "fetch",
    "filter",
    "format",
    "fsck",
    "fsmonitor",
    "gc",
    "gitcvs",
    "gitweb",
    "gpg",
    "guitool",
    "hook",
    "http",
    "https",
    "imap",
    "include",
    "includeif",
    "init",
    "instaweb",
    "interactive",
    "lfs",
    "maintenance",
    "man",
    "merge",
    "mergetool",
    "pager",
    "protocol",
    "receive",
    "safe",
    "scalar",
    "sendemail",
    "sequence",
    "ssh",
    "svn",
    "svn-remote",
    "tar",
    "trace2",
    "trailer",
    "transfer",
    "uploadpack",
    "url",
    "web",
];

/// Of these sections only these keys can be opened, each in a subsection: the others say where to, through what and by
/// which program. A submodule's address is named by .gitmodules as well, a file of the project.
const OPEN_KEYS: [(&str, &[&str]); 2] = [
    ("remote", &["fetch", "prune", "prunetags", "skipdefaultupdate", "skipfetchall", "tagopt"]),
    ("submodule", &["active", "branch", "fetchrecursesubmodules", "ignore", "shallow", "url"]),
];

/// Closed in every section, those of other tools too: by their names they are programs, options of programs or places
/// that are used later.
const CLOSED_NAMES: [&str; 34] = [
    "askpass",
    "binary",
    "clean",
    "cmd",
    "command",
    "driver",
    "editor",
    "exec",
    "executable",
    "external",
    "extraheader",
    "gpgprogram",
    "helper",
    "hook",
    "hooks",
    "hookspath",
    "include",
    "insteadof",
    "mergeoptions",
    "pager",
    "path",
    "process",
    "program",
    "prog",
    "proxy",
    "pushinsteadof",
    "script",
    "shell",
    "smudge",
    "sshcommand",
    "template",
    "templatedir",
    "textconv",
    "tool",
];

/// Keys that may differ: one pattern of each list has to match, since several rules may hold one config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    lists: Vec<Vec<KeyPattern>>,
}

/// `SECTION.KEY`, `SECTION.*`, `SECTION.SUBSECTION.KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyPattern {
    /// Lower case.
    section: String,
    sub: SubPattern,
    /// Lower case; `None`: all.
    key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum SubPattern {
    /// `SECTION.*`: with or without one.
    Any,
    /// `SECTION.KEY`.
    Absent,
    /// `SECTION.*.KEY`.
    Each,
    Is(Vec<u8>),
}

/// Why a pattern of a key makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum KeyError {
    /// `keys = []`
    #[error("no key is named")]
    #[diagnostic(
        code(policy::git_key::none),
        help("leave `keys` out: then nothing of the file can be changed")
    )]
    None,
    /// `branch`, `*.x`
    #[error("`{0}` names no key of a git config")]
    #[diagnostic(
        code(policy::git_key::malformed),
        help(
            "write `section.key`, `section.*`, `section.*.key` or `section.name.key`; only `*` for a whole part"
        )
    )]
    Malformed(String),
    /// `core.hooksPath`
    #[error("`{0}` can't be opened: through it a file in the project runs programs outside the sandbox")]
    #[diagnostic(
        code(policy::git_key::closed),
        help("`branch.*` and `remote.*.fetch` are what git needs for branches")
    )]
    Closed(String),
    /// `{ path = "~/.bashrc", keys = […] }`
    #[error("`{0}` is no git config, so it has no keys")]
    #[diagnostic(
        code(policy::git_key::not_a_config),
        help("`keys` goes with one path that ends in `config` or `.gitconfig`, without wildcards")
    )]
    NotAConfig(String),
}

impl Keys {
    /// Checks the patterns of one rule.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, KeyError> {
        let list = patterns.into_iter().map(KeyPattern::parse).collect::<Result<Vec<_>, _>>()?;
        if list.is_empty() { Err(KeyError::None) } else { Ok(Self { lists: vec![list] }) }
    }

    /// What two rules on one config allow together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for list in &other.lists {
            if !both.lists.contains(list) {
                both.lists.push(list.clone());
            }
        }
        both
    }

    pub(super) fn allow(&self, name: &Name) -> bool {
        !is_closed(&name.section.name, name.section.sub.is_some(), &name.key)
            && self.lists.iter().all(|list| list.iter().any(|pattern| pattern.matches(name)))
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.lists.iter().flatten().enumerate() {
            write!(out, "{}{pattern}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Display for KeyPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.as_deref().unwrap_or("*");
        match &self.sub {
            SubPattern::Any => write!(out, "{}.*", self.section),
            SubPattern::Absent => write!(out, "{}.{key}", self.section),
            SubPattern::Each => write!(out, "{}.*.{key}", self.section),
            SubPattern::Is(sub) => write!(out, "{}.{}.{key}", self.section, String::from_utf8_lossy(sub)),
        }
    }
}

impl KeyPattern {
    fn parse(text: &str) -> Result<Self, KeyError> {
        let malformed = || KeyError::Malformed(text.to_owned());
        let (section, rest) = text.split_once('.').ok_or_else(malformed)?;
        let (sub, key) = match rest.rsplit_once('.') {
            Some(("*", key)) => (SubPattern::Each, key),
            Some((sub, key)) => (SubPattern::Is(sub.as_bytes().to_owned()), key),
            None if rest == "*" => (SubPattern::Any, rest),
            None => (SubPattern::Absent, rest),
        };
        let is_word = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !is_word(section) || !(key == "*" || is_word(key)) {
            return Err(malformed());
        }
        let section = section.to_ascii_lowercase();
        let key = (key != "*").then(|| key.to_ascii_lowercase());
        let closed = match &key {
            Some(key) => is_closed(&section, sub != SubPattern::Absent, key),
            None => CLOSED_SECTIONS.contains(&section.as_str()),
        };
        if closed { Err(KeyError::Closed(text.to_owned())) } else { Ok(Self { section, sub, key }) }
    }

    fn matches(&self, name: &Name) -> bool {
        let sub = match &self.sub {
            SubPattern::Any => true,
            SubPattern::Absent => name.section.sub.is_none(),
            SubPattern::Each => name.section.sub.is_some(),
            SubPattern::Is(sub) => name.section.sub.as_ref() == Some(sub),
        };
        sub && self.section == name.section.name && self.key.as_ref().is_none_or(|key| *key == name.key)
    }
}

/// Whether a key stays as it is, whatever a policy says. Names are in lower case.
fn is_closed(section: &str, has_sub: bool, key: &str) -> bool {
    let open = OPEN_KEYS.iter().find(|(name, _)| *name == section);
    CLOSED_SECTIONS.contains(&section)
        || CLOSED_NAMES.contains(&key)
        || open.is_some_and(|(_, keys)| !has_sub || !keys.contains(&key))
}
