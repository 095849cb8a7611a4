//! `network.unix`: sockets by path, or by a name that is not in the file system.

use super::path::{PathError, PathPattern};

/// `sun_path` without the byte that says that the name is abstract (unix(7)).
const ABSTRACT_BYTES_MAX: usize = 107;

/// Which sockets an entry names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnixPattern {
    /// By the path that they are bound to, or that of a folder above.
    Path(PathPattern),
    /// `@NAME`, as written.
    Abstract(String),
}

/// Why an entry makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum UnixError {
    /// The path.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Path(#[from] PathError),
    /// `"@"`, or longer than an address.
    #[error("an abstract socket has a name of 1 to {ABSTRACT_BYTES_MAX} bytes, this one of {length}")]
    #[diagnostic(code(policy::unix::abstract_name), help("`@` and the whole name, as `ss -xl` shows it"))]
    AbstractLength {
        /// In bytes.
        length: usize,
    },
    /// `"@dbus-*"`
    #[error("`{0}`: an abstract name has no wildcards")]
    #[diagnostic(
        code(policy::unix::abstract_wildcard),
        help("whoever comes first has the name: write it in full")
    )]
    AbstractWildcard(String),
}

impl UnixPattern {
    /// Checks an entry.
    ///
    /// # Errors
    /// [`UnixError`].
    pub fn parse(text: &str) -> Result<Self, UnixError> {
        let Some(name) = text.strip_prefix('@') else { return Ok(Self::Path(PathPattern::parse(text)?)) };
        if !(1..=ABSTRACT_BYTES_MAX).contains(&name.len()) {
            return Err(UnixError::AbstractLength { length: name.len() });
        }
        if name.contains('*') {
            return Err(UnixError::AbstractWildcard(text.to_owned()));
        }
        Ok(Self::Abstract(text.to_owned()))
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Path(path) => path.text(),
            Self::Abstract(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_path_or_a_whole_abstract_name() {
        assert!(matches!(UnixPattern::parse("{runtime}/pulse/native"), Ok(UnixPattern::Path(_))));
        assert!(matches!(UnixPattern::parse("/tmp/.X11-unix/X*"), Ok(UnixPattern::Path(_))));
        let name = UnixPattern::parse("@/tmp/.X11-unix/X0").unwrap();
        assert_eq!(name, UnixPattern::Abstract("@/tmp/.X11-unix/X0".to_owned()));
        assert!(matches!(UnixPattern::parse("run/x"), Err(UnixError::Path(_))));
        assert_eq!(UnixPattern::parse("@"), Err(UnixError::AbstractLength { length: 0 }));
        let long = format!("@{}", "x".repeat(ABSTRACT_BYTES_MAX + 1));
        assert!(matches!(UnixPattern::parse(&long), Err(UnixError::AbstractLength { .. })));
        assert!(UnixPattern::parse(&long[..=ABSTRACT_BYTES_MAX]).is_ok());
        assert!(matches!(UnixPattern::parse("@dbus-*"), Err(UnixError::AbstractWildcard(_))));
    }
}
