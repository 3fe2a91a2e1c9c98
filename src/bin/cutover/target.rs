//! Which instance is meant: the options that all verbs share.

use std::path::PathBuf;

use clap::Args;
use cutover::{Control, ControlError};

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The name of the instance. Not needed if only one runs.
    #[arg(long, value_name = "NAME", conflicts_with = "control")]
    name: Option<String>,
    /// The path of the control socket of the instance, where it is in none of the usual folders.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

impl Target {
    pub(crate) fn control(&self) -> Result<Control, ControlError> {
        match &self.control {
            Some(path) => Ok(Control::at(path)),
            None => Control::find(self.name.as_deref()),
        }
    }
}
