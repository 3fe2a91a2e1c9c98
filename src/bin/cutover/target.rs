//! The selection of an instance: the options that all verbs share.

use std::path::{Path, PathBuf};

use clap::Args;
use cutover::control::{Control, ControlError};

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The name of the instance. Not needed if only one runs.
    #[arg(long, value_name = "NAME", conflicts_with = "control")]
    name: Option<String>,
    /// The path of the control socket of the instance, where it is in none of the usual folders.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// The instance whose control socket lists the process that this PID file names. The file alone is no proof,
    /// because the process id may be that of another process by now: if no control socket lists the process, the exit
    /// status is 69.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "control"])]
    pid_file: Option<PathBuf>,
}

impl Target {
    pub(crate) async fn control(&self) -> Result<Control, ControlError> {
        match (&self.control, &self.pid_file) {
            (Some(path), _) => Ok(Control::at(path)),
            (None, Some(file)) => Control::of_pid_file(file).await,
            (None, None) => Control::find(self.name.as_deref()),
        }
    }

    pub(crate) fn pid_file(&self) -> Option<&Path> {
        self.pid_file.as_deref()
    }
}
