//! Where the variables of path patterns lie: for whom, in which project.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::load::SYSTEM_DIR;

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
        Ok(Self { project, project_given, home, tmp, runtime, state, etc: PathBuf::from(SYSTEM_DIR) })
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
