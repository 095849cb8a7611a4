//! Where the variables of path patterns lie: for whom, in which project.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{load::SYSTEM_DIR, repositories::Repositories};
use crate::sys::account;

/// Whom the command runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Real user id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Login name.
    pub name: String,
    /// Home as passwd has it.
    pub home_passwd: PathBuf,
}

impl User {
    /// Whom `run` would run as when this process calls it: through sudo its caller, else oneself.
    ///
    /// # Errors
    /// [`ContextError::User`].
    pub fn of_caller() -> Result<Self, ContextError> {
        let own = rustix::process::geteuid();
        let by_sudo = env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()).filter(|_| own.is_root());
        let uid = by_sudo.unwrap_or_else(|| own.as_raw());
        let account = account::by_uid(uid).map_err(|source| ContextError::User { uid, source })?;
        Ok(match account {
            Some(account) => {
                let name = account.name.to_string_lossy().into_owned();
                Self { uid, gid: account.gid, name, home_passwd: account.home }
            }
            // A container may run as a uid without an account.
            None => {
                let gid = rustix::process::getegid().as_raw();
                Self { uid, gid, name: uid.to_string(), home_passwd: PathBuf::from("/") }
            }
        })
    }
}

/// What the variables stand for. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// `{project}`.
    pub project: PathBuf,
    /// It was named by `--project`, so that `/` or the home may be meant.
    pub project_given: bool,
    /// `~`, `{home}`.
    pub home: PathBuf,
    /// `{tmp}`: several folders.
    pub tmp: Vec<PathBuf>,
    /// `{runtime}`.
    pub runtime: PathBuf,
    /// `{state}`.
    pub state: PathBuf,
    /// `{git}`, `{git-hooks}`, `{git-files}`: found when a policy names them.
    pub repositories: Repositories,
    /// Folder of the machine's own policies, normally `/etc/govsandbox`.
    pub etc: PathBuf,
}

/// What [`Context::discover_in`] looks at instead of this process's surroundings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Working directory, absolute.
    pub working_dir: PathBuf,
    /// `$HOME`.
    pub home: Option<OsString>,
    /// `$TMPDIR`.
    pub tmpdir: Option<OsString>,
    /// `$XDG_STATE_HOME`.
    pub xdg_state_home: Option<OsString>,
    /// The supervisor has effective uid 0.
    pub supervisor_is_root: bool,
}

/// Why the folders can't be found.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ContextError {
    /// The working directory is gone.
    #[error("cannot tell the working directory")]
    #[diagnostic(
        code(policy::context::working_dir),
        help("change to a folder that exists, or name the project: `--project DIR`")
    )]
    WorkingDir(#[source] io::Error),
    /// The user database can't be read.
    #[error("cannot look up user {uid}")]
    #[diagnostic(code(policy::context::user))]
    User {
        /// Whom.
        uid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `--project` names nothing.
    #[error("cannot use `{}` as the project", path.display())]
    #[diagnostic(code(policy::context::project), help("`--project` takes an existing folder"))]
    Project {
        /// As given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Surroundings {
    /// Those of this process.
    ///
    /// # Errors
    /// [`ContextError::WorkingDir`].
    pub fn current() -> Result<Self, ContextError> {
        Ok(Self {
            working_dir: env::current_dir().map_err(ContextError::WorkingDir)?,
            home: env::var_os("HOME"),
            tmpdir: env::var_os("TMPDIR"),
            xdg_state_home: env::var_os("XDG_STATE_HOME"),
            supervisor_is_root: rustix::process::geteuid().is_root(),
        })
    }
}

impl Context {
    /// Finds the folders for `user`; `project` is what `--project` says.
    ///
    /// # Errors
    /// [`ContextError`].
    pub fn discover(user: &User, project: Option<&Path>) -> Result<Self, ContextError> {
        Self::discover_in(&Surroundings::current()?, user, project)
    }

    /// The same in given surroundings.
    ///
    /// # Errors
    /// [`ContextError::Project`].
    pub fn discover_in(
        surroundings: &Surroundings,
        user: &User,
        project: Option<&Path>,
    ) -> Result<Self, ContextError> {
        let home = home(surroundings, user);
        let project_given = project.is_some();
        let project = match project {
            Some(given) => named_project(surroundings, given)?,
            None => found_project(&surroundings.working_dir, &home),
        };
        let tmp = tmp(surroundings, user, &project, &home);
        let state = if surroundings.supervisor_is_root {
            Path::new("/var/lib/govsandbox").join(user.uid.to_string())
        } else {
            let base =
                surroundings.xdg_state_home.as_ref().map(PathBuf::from).filter(|path| path.is_absolute());
            base.unwrap_or_else(|| home.join(".local/state")).join("govsandbox")
        };
        let runtime = Path::new("/run/user").join(user.uid.to_string());
        let (repositories, etc) = (Repositories::default(), PathBuf::from(SYSTEM_DIR));
        Ok(Self { project, project_given, home, tmp, runtime, state, repositories, etc })
    }

    /// `{project}`, unless it came to be `/` or the home without anyone saying so.
    ///
    /// # Errors
    /// That folder.
    pub fn project(&self) -> Result<&Path, PathBuf> {
        let too_wide = self.project == Path::new("/") || self.home.starts_with(&self.project);
        if too_wide && !self.project_given { Err(self.project.clone()) } else { Ok(&self.project) }
    }
}

/// `$HOME` if it is the user's own (sudo may leave the caller's or root's there), else passwd's.
fn home(surroundings: &Surroundings, user: &User) -> PathBuf {
    let from_env = surroundings.home.as_ref().map(PathBuf::from);
    let usable = |path: &PathBuf| *path != Path::new("/") && is_owned_folder(path, user);
    from_env.filter(usable).unwrap_or_else(|| user.home_passwd.clone())
}

fn named_project(surroundings: &Surroundings, given: &Path) -> Result<PathBuf, ContextError> {
    let found = fs::canonicalize(surroundings.working_dir.join(given))
        .and_then(|path| if path.is_dir() { Ok(path) } else { Err(io::ErrorKind::NotADirectory.into()) });
    found.map_err(|source| ContextError::Project { path: given.to_owned(), source })
}

/// The nearest ancestor with `.git`; the home and `/` don't count, there it would be someone's dotfiles.
fn found_project(working_dir: &Path, home: &Path) -> PathBuf {
    let mut candidates = working_dir.ancestors().filter(|path| !home.starts_with(path));
    candidates.find(|path| path.join(".git").exists()).unwrap_or(working_dir).to_owned()
}

fn tmp(surroundings: &Surroundings, user: &User, project: &Path, home: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<_> = ["/tmp", "/var/tmp", "/dev/shm"].map(PathBuf::from).into();
    let from_env = surroundings.tmpdir.as_ref().map(PathBuf::from);
    let usable = |path: &PathBuf| {
        is_owned_folder(path, user)
            // Compared as it really is: a link to the home would open the home.
            && fs::canonicalize(path)
                .is_ok_and(|real| real != Path::new("/") && !project.starts_with(&real) && !home.starts_with(&real))
    };
    folders.extend(
        from_env
            .filter(usable)
            .filter(|path| !["/tmp", "/var/tmp", "/dev/shm"].iter().any(|known| path == Path::new(known))),
    );
    folders
}

fn is_owned_folder(path: &Path, user: &User) -> bool {
    path.is_absolute() && fs::metadata(path).is_ok_and(|folder| folder.is_dir() && folder.uid() == user.uid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// A home with a project in it, owned by whoever runs the test.
    struct Bed {
        _root: TempDir,
        home: PathBuf,
        user: User,
    }

    impl Bed {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let home = root.path().canonicalize().unwrap().join("home");
            fs::create_dir_all(home.join("app/src/deep")).unwrap();
            let uid = rustix::process::geteuid().as_raw();
            let user = User { uid, gid: uid, name: "u".into(), home_passwd: "/passwd/home".into() };
            Self { _root: root, home, user }
        }

        fn surroundings(&self, working_dir: &str) -> Surroundings {
            Surroundings {
                working_dir: self.home.join(working_dir),
                home: Some(self.home.clone().into()),
                tmpdir: None,
                xdg_state_home: None,
                supervisor_is_root: false,
            }
        }

        fn discover(&self, surroundings: &Surroundings) -> Context {
            Context::discover_in(surroundings, &self.user, None).unwrap()
        }
    }

    #[test]
    fn the_project_is_the_nearest_folder_with_git() {
        let bed = Bed::new();
        assert_eq!(bed.discover(&bed.surroundings("app/src/deep")).project, bed.home.join("app/src/deep"));
        fs::create_dir(bed.home.join("app/.git")).unwrap();
        assert_eq!(bed.discover(&bed.surroundings("app/src/deep")).project, bed.home.join("app"));
        // A worktree has a file there.
        fs::write(bed.home.join("app/src/.git"), "gitdir: elsewhere").unwrap();
        assert_eq!(bed.discover(&bed.surroundings("app/src/deep")).project, bed.home.join("app/src"));
    }

    #[test]
    fn a_home_under_git_makes_nothing_below_its_project() {
        let bed = Bed::new();
        fs::create_dir(bed.home.join(".git")).unwrap();
        assert_eq!(bed.discover(&bed.surroundings("app/src")).project, bed.home.join("app/src"));
        let in_home = bed.discover(&bed.surroundings(""));
        assert!(in_home.project().is_err());
    }

    #[test]
    fn a_named_project_must_be_a_folder() {
        let bed = Bed::new();
        fs::write(bed.home.join("file"), "").unwrap();
        let surroundings = bed.surroundings("");
        let named = |name: &str| Context::discover_in(&surroundings, &bed.user, Some(Path::new(name)));
        assert!(named("absent").is_err());
        assert!(named("file").is_err());
        assert_eq!(named("app/src").unwrap().project, bed.home.join("app/src"));
        let home = named(".").unwrap();
        assert_eq!(home.project().unwrap().canonicalize().unwrap(), bed.home);
    }

    #[test]
    fn home_is_the_environments_only_if_it_is_the_users() {
        let bed = Bed::new();
        let mut surroundings = bed.surroundings("app");
        assert_eq!(bed.discover(&surroundings).home, bed.home);
        let stranger = User { uid: bed.user.uid + 1, ..bed.user.clone() };
        let of_stranger = Context::discover_in(&surroundings, &stranger, None).unwrap();
        assert_eq!(of_stranger.home, Path::new("/passwd/home"));
        for not_a_home in ["/", "relative", "/no/such/folder"] {
            surroundings.home = Some(not_a_home.into());
            assert_eq!(bed.discover(&surroundings).home, Path::new("/passwd/home"), "{not_a_home}");
        }
    }

    #[test]
    fn tmpdir_counts_unless_it_opens_home_or_project() {
        let bed = Bed::new();
        let mut surroundings = bed.surroundings("app");
        let own = bed.home.join("tmp");
        fs::create_dir(&own).unwrap();
        surroundings.tmpdir = Some(own.clone().into());
        assert_eq!(bed.discover(&surroundings).tmp.last(), Some(&own));
        let link = bed.home.join("link");
        symlink(&bed.home, &link).unwrap();
        for refused in
            [bed.home.clone(), bed.home.join("app"), link, "/".into(), "/no/such".into(), "/tmp".into()]
        {
            surroundings.tmpdir = Some(refused.clone().into());
            assert_eq!(bed.discover(&surroundings).tmp.len(), 3, "{}", refused.display());
        }
    }

    #[test]
    fn state_lies_with_who_supervises() {
        let bed = Bed::new();
        let mut surroundings = bed.surroundings("app");
        assert_eq!(bed.discover(&surroundings).state, bed.home.join(".local/state/govsandbox"));
        surroundings.xdg_state_home = Some("/xdg".into());
        assert_eq!(bed.discover(&surroundings).state, Path::new("/xdg/govsandbox"));
        surroundings.supervisor_is_root = true;
        let expected = Path::new("/var/lib/govsandbox").join(bed.user.uid.to_string());
        assert_eq!(bed.discover(&surroundings).state, expected);
    }
}
