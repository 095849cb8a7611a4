//! `filesystem.*`: where a pattern begins, and what it stands for once the variables are known.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use govsandbox_ebpf::abi::PATH_BYTES_MAX;

use super::glob::{self, GlobError, Segment};
use crate::policy::{
    context::Context,
    git_config::{KeyError, Keys},
    suggest,
};

/// Folders above a file at most (`PATH_DEPTH_MAX` of the kernel's programs): what lies deeper is refused.
const PATH_DEPTH_MAX: usize = 64;
/// `NAME_MAX` of limits.h.
const NAME_BYTES_MAX: usize = 255;
/// Names of the variables.
const VARIABLES: [&str; 8] = ["git", "git-files", "git-hooks", "home", "project", "runtime", "state", "tmp"];

/// What a pattern begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anchor {
    Root,
    Home,
    Project,
    Tmp,
    Runtime,
    State,
    Git,
    GitHooks,
    GitFiles,
}

/// A path pattern that makes sense; where its variables lie is not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    anchor: Anchor,
    segments: Vec<Segment>,
    /// Of a protected git config: what may change in it all the same.
    keys: Option<Keys>,
}

/// What a pattern stands for on this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExpandedPath {
    /// One path, absolute.
    Literal(PathBuf),
    /// An absolute pattern with wildcards, in the grammar of [`glob`].
    Glob(Vec<u8>),
}

/// Why a path pattern makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum PathError {
    /// `""`
    #[error("an empty pattern names nothing")]
    #[diagnostic(code(policy::path::empty), help("everything is `/`"))]
    Empty,
    /// `a/b`
    #[error("`{pattern}` does not say where it begins")]
    #[diagnostic(
        code(policy::path::unanchored),
        help("begin with `/`, `~/` or a variable, as in `{proposal}`; `**/…` matches at any depth")
    )]
    Unanchored {
        /// As written.
        pattern: String,
        /// The same below the project.
        proposal: String,
    },
    /// `~name`
    #[error("`{user}`: the homes of other users can't be named this way")]
    #[diagnostic(
        code(policy::path::tilde_name),
        help("`~/` is the home of the user the command runs as; write other paths in full")
    )]
    TildeName {
        /// `~name`.
        user: String,
    },
    /// `{nope}`
    #[error("unknown variable `{{{name}}}`")]
    #[diagnostic(code(policy::path::unknown_variable))]
    UnknownVariable {
        /// As written.
        name: String,
        /// The nearest, or all.
        #[help]
        help: String,
    },
    /// `{tmp}x`
    #[error("a variable stands for a whole folder, so a slash must follow `{variable}`")]
    #[diagnostic(code(policy::path::variable_in_name), help("write `{variable}/…`"))]
    VariableInName {
        /// With its braces.
        variable: String,
    },
    /// Longer than any path.
    #[error("a pattern of {length} bytes matches no path; the longest has {PATH_BYTES_MAX}")]
    #[diagnostic(code(policy::path::too_long))]
    TooLong {
        /// In bytes.
        length: usize,
    },
    /// More folders than the kernel's programs look through.
    #[error(
        "a pattern of {depth} components is deeper than the kernel's programs look; they go up {PATH_DEPTH_MAX}"
    )]
    #[diagnostic(
        code(policy::path::too_deep),
        help("name a folder further up: a match covers all that is below")
    )]
    TooDeep {
        /// How many.
        depth: usize,
    },
    /// A name that no file can have.
    #[error("a name of {length} bytes matches no file; the longest has {NAME_BYTES_MAX}")]
    #[diagnostic(code(policy::path::name_too_long))]
    NameTooLong {
        /// In bytes.
        length: usize,
    },
    /// Wildcards, braces, brackets.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Glob(#[from] GlobError),
    /// `{project}` in a working directory that is nobody's project.
    #[error("`{{project}}` would be `{}`, which is more than a project", path.display())]
    #[diagnostic(
        code(policy::path::project),
        help("change to the project's folder, or name it: `--project DIR`")
    )]
    ProjectTooWide {
        /// Where it would lie.
        path: PathBuf,
    },
}

impl PathPattern {
    /// Checks a pattern.
    ///
    /// # Errors
    /// [`PathError`], but for [`PathError::ProjectTooWide`].
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong { length: text.len() });
        }
        let (anchor, rest) = anchor(text)?;
        let mut segments = glob::segments(rest.as_bytes())?;
        if segments.len() > PATH_DEPTH_MAX {
            return Err(PathError::TooDeep { depth: segments.len() });
        }
        let longest = segments.iter().filter_map(Segment::literal).map(|name| name.len()).max().unwrap_or(0);
        if longest > NAME_BYTES_MAX {
            return Err(PathError::NameTooLong { length: longest });
        }
        if anchor == Anchor::Root && !text.starts_with('/') && !segments.is_empty() {
            // A name alone, at any depth; `**/x` has its `**` already.
            if segments.first() != Some(&Segment::AnyDepth) {
                segments.insert(0, Segment::AnyDepth);
            }
        }
        Ok(Self { text: text.to_owned(), anchor, segments, keys: None })
    }

    /// The same for a git config of which some keys may change.
    ///
    /// # Errors
    /// [`KeyError::NotAConfig`]: it is not the name of one.
    pub fn with_keys(self, keys: Keys) -> Result<Self, KeyError> {
        let name = self.segments.last().and_then(Segment::literal).unwrap_or_default();
        if self.is_literal() && (name == b"config" || name == b".gitconfig") {
            Ok(Self { keys: Some(keys), ..self })
        } else {
            Err(KeyError::NotAConfig(self.text))
        }
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Keys of the git config that may change although it is protected.
    #[must_use]
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.as_ref()
    }

    /// `true`: no wildcard in it (a trailing `/**` aside).
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.segments.iter().all(|segment| segment.literal().is_some())
    }

    /// `true`: it names one file, whatever the variables are.
    #[must_use]
    pub fn is_one_path(&self) -> bool {
        let is_one = self.anchor != Anchor::Tmp && !self.names_repositories();
        is_one && self.is_literal() && !self.segments.is_empty()
    }

    /// `true`: it stands for something in each repository of the project, and for nothing where there is none.
    #[must_use]
    pub fn names_repositories(&self) -> bool {
        matches!(self.anchor, Anchor::Git | Anchor::GitHooks | Anchor::GitFiles)
    }

    /// `true`: a name at any depth, or a pattern from the root; no folder that a variable stands for.
    #[must_use]
    pub fn is_name(&self) -> bool {
        self.anchor == Anchor::Root
    }

    /// What it stands for: one path or pattern for each folder that its variable stands for.
    ///
    /// # Errors
    /// [`PathError::ProjectTooWide`].
    pub fn expand(&self, context: &Context) -> Result<Vec<ExpandedPath>, PathError> {
        let root = Path::new("/");
        let one = |path| vec![path];
        let repositories = &context.repositories;
        let bases: Vec<&Path> = match self.anchor {
            Anchor::Root => one(root),
            Anchor::Home => one(&context.home),
            Anchor::Project => one(context.project().map_err(|path| PathError::ProjectTooWide { path })?),
            Anchor::Tmp => all(&context.tmp),
            Anchor::Git => all(&repositories.folders),
            Anchor::GitHooks => all(&repositories.hooks),
            Anchor::GitFiles => all(&repositories.files),
            Anchor::Runtime => one(&context.runtime),
            Anchor::State => one(&context.state),
        };
        Ok(bases.into_iter().map(|base| self.below(base)).collect())
    }

    fn below(&self, base: &Path) -> ExpandedPath {
        let names: Option<Vec<_>> = self.segments.iter().map(Segment::literal).collect();
        if let Some(names) = names {
            let mut path = base.to_owned();
            path.extend(names.into_iter().map(OsString::from_vec));
            return ExpandedPath::Literal(path);
        }
        let base = base.as_os_str().as_bytes();
        let mut pattern = glob::quote(base.strip_suffix(b"/").unwrap_or(base));
        for segment in &self.segments {
            pattern.push(b'/');
            segment.write(&mut pattern);
        }
        ExpandedPath::Glob(pattern)
    }
}

fn all(paths: &[PathBuf]) -> Vec<&Path> {
    paths.iter().map(PathBuf::as_path).collect()
}

/// Splits a pattern into what it begins with and the rest.
fn anchor(text: &str) -> Result<(Anchor, &str), PathError> {
    if text.starts_with('/') || text.starts_with("**/") {
        return Ok((Anchor::Root, text));
    }
    if let Some(rest) = text.strip_prefix('~') {
        if rest.is_empty() || rest.starts_with('/') {
            return Ok((Anchor::Home, rest));
        }
        let user = text.split('/').next().unwrap_or(text).to_owned();
        return Err(PathError::TildeName { user });
    }
    if let Some(variable) = variable(text) {
        let (name, rest) = variable;
        let anchor = match name {
            "home" => Anchor::Home,
            "project" => Anchor::Project,
            "tmp" => Anchor::Tmp,
            "runtime" => Anchor::Runtime,
            "state" => Anchor::State,
            "git" => Anchor::Git,
            "git-hooks" => Anchor::GitHooks,
            "git-files" => Anchor::GitFiles,
            unknown => {
                let known = VARIABLES.map(|name| format!("{{{name}}}"));
                let known: Vec<_> = known.iter().map(String::as_str).collect();
                let help = suggest::among("the variables", &format!("{{{unknown}}}"), &known);
                return Err(PathError::UnknownVariable { name: unknown.to_owned(), help });
            }
        };
        if !rest.is_empty() && !rest.starts_with('/') {
            return Err(PathError::VariableInName { variable: format!("{{{name}}}") });
        }
        return Ok((anchor, rest));
    }
    let name = text.strip_suffix('/').unwrap_or(text);
    if name == "." || name == ".." || name.contains('/') {
        let below = text.trim_start_matches("./").trim_start_matches("../");
        let proposal = if below == "." || below == ".." {
            "{project}".to_owned()
        } else {
            format!("{{project}}/{below}")
        };
        return Err(PathError::Unanchored { pattern: text.to_owned(), proposal });
    }
    Ok((Anchor::Root, text))
}

/// `{name}` at the start: the name, and what follows.
fn variable(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.strip_prefix('{')?.split_once('}')?;
    let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    is_word.then_some((name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::repositories::Repositories;

    fn context() -> Context {
        Context {
            project: "/home/u/app".into(),
            project_given: false,
            home: "/home/u".into(),
            tmp: vec!["/tmp".into(), "/var/tmp".into()],
            runtime: "/run/user/7".into(),
            state: "/var/lib/govsandbox/7".into(),
            repositories: Repositories {
                folders: vec!["/home/u/app/.git".into(), "/x".into()],
                ..Default::default()
            },
            etc: "/etc/govsandbox".into(),
        }
    }

    fn expanded(pattern: &str) -> Vec<String> {
        let expanded = PathPattern::parse(pattern).unwrap().expand(&context()).unwrap();
        let text = |path| match path {
            ExpandedPath::Literal(path) => path.to_str().unwrap().to_owned(),
            ExpandedPath::Glob(pattern) => format!("glob {}", String::from_utf8(pattern).unwrap()),
        };
        expanded.into_iter().map(text).collect()
    }

    #[test]
    fn variables_stand_for_their_folders() {
        for (pattern, path) in [
            ("~", "/home/u"),
            ("~/.ssh/", "/home/u/.ssh"),
            ("{home}/x", "/home/u/x"),
            ("{project}", "/home/u/app"),
            ("{project}/**", "/home/u/app"),
            ("{runtime}/pulse", "/run/user/7/pulse"),
            ("{state}/audit.jsonl", "/var/lib/govsandbox/7/audit.jsonl"),
            ("/", "/"),
            ("**", "/"),
            (r"/a\*b", "/a*b"),
            ("{project}/*.rs", "glob /home/u/app/*.rs"),
        ] {
            assert_eq!(expanded(pattern), [path], "{pattern}");
        }
        assert_eq!(expanded("{tmp}/x"), ["/tmp/x", "/var/tmp/x"]);
        assert_eq!(expanded("{git}/config"), ["/home/u/app/.git/config", "/x/config"]);
        assert!(expanded("{git-hooks}").is_empty());
    }

    #[test]
    fn a_name_alone_is_at_any_depth() {
        assert_eq!(expanded(".env"), ["glob /**/.env"]);
        assert_eq!(expanded("secrets/"), expanded("**/secrets/**"));
        assert_eq!(expanded("{a,b}"), ["glob /**/{a,b}"]);
    }

    #[test]
    fn a_folder_with_wildcards_in_its_name_stays_itself() {
        let context = Context { project: "/w/[x]*".into(), ..context() };
        let pattern = PathPattern::parse("{project}/*.c").unwrap();
        assert_eq!(pattern.expand(&context).unwrap(), [ExpandedPath::Glob(br"/w/\[x\]\*/*.c".to_vec())]);
    }

    #[test]
    fn what_does_not_say_where_it_begins_is_refused_with_a_proposal() {
        for (pattern, proposed) in [
            ("a/b", "{project}/a/b"),
            ("./a", "{project}/a"),
            ("..", "{project}"),
            ("../x/y", "{project}/x/y"),
        ] {
            match PathPattern::parse(pattern) {
                Err(PathError::Unanchored { proposal, .. }) => assert_eq!(proposal, proposed, "{pattern}"),
                other => panic!("{pattern}: {other:?}"),
            }
        }
        assert!(matches!(PathPattern::parse("~bob/x"), Err(PathError::TildeName { user }) if user == "~bob"));
        assert!(matches!(PathPattern::parse("{projct}/x"), Err(PathError::UnknownVariable { .. })));
        assert!(matches!(PathPattern::parse("{tmp}x"), Err(PathError::VariableInName { .. })));
        assert!(matches!(PathPattern::parse("~/../x"), Err(PathError::Glob(GlobError::Parent))));
        assert!(matches!(PathPattern::parse(""), Err(PathError::Empty)));
        assert!(matches!(PathPattern::parse(&"x".repeat(5000)), Err(PathError::TooLong { length: 5000 })));
        assert!(matches!(PathPattern::parse(&"x".repeat(256)), Err(PathError::NameTooLong { length: 256 })));
        assert!(PathPattern::parse(&"x".repeat(255)).is_ok());
        assert!(matches!(PathPattern::parse(&"/x".repeat(65)), Err(PathError::TooDeep { depth: 65 })));
        assert!(PathPattern::parse(&"/x".repeat(64)).is_ok());
    }

    #[test]
    fn the_home_is_a_project_only_if_that_was_said() {
        let pattern = PathPattern::parse("{project}/x").unwrap();
        for wide in ["/", "/home", "/home/u"] {
            let context = Context { project: wide.into(), ..context() };
            assert!(matches!(pattern.expand(&context), Err(PathError::ProjectTooWide { .. })), "{wide}");
            assert!(pattern.expand(&Context { project_given: true, ..context }).is_ok(), "{wide}");
        }
    }
}
