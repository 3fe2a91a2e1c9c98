//! The name of an instance, and its control socket.

use super::Server;
use crate::error::Error;
use crate::model::instance_name;
use crate::runtime::control::{Control, ControlTarget};
use crate::runtime::instance::{self, Naming};
use crate::runtime::role::Role;

impl Server {
    /// # Errors
    /// If the name is invalid: the name becomes a file name, which limits its characters and its length.
    pub(super) fn check_name(&self) -> Result<(), Error> {
        instance::check(self.config.name.as_deref())
    }

    /// The name of the instance, and its control socket if there is one: a new socket, or that of the previous
    /// generation.
    ///
    /// # Errors
    /// If the user gave a name that another running instance has.
    pub(super) fn control(
        &self,
        role: &Role,
        first: Option<String>,
        control_target: &ControlTarget,
    ) -> Result<(String, Option<Control>), Error> {
        if let Some(path) = role.spawn_info().and_then(|spawn_info| spawn_info.control.clone()) {
            let name = path.file_name().and_then(|file| file.to_str()).and_then(instance_name::of_file);
            let name = name.unwrap_or_default().to_owned();
            return Ok((name, Some(Control::later(path, control_target.clone()))));
        }
        let naming = Naming { given: self.config.name.as_deref(), first, control: self.config.control };
        instance::claim(&naming, &self.launch, control_target)
    }
}
