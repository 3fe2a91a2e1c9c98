//! The source and the documents of the project.

mod defaults;
mod docs;
mod layering;
