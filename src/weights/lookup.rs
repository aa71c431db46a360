//! Components that text to image does without.

use super::component::Component;
use super::paths::PartFiles;
use super::variant::Variant;
use crate::error::{Error, Result};
use crate::files::Location;

/// Where the files of a component may be that text to image does without. They are searched for when something needs
/// them, so that files that are missing or damaged hinder nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    pub(super) component: &'static Component,
    pub(super) given: Option<Location>,
    pub(super) roots: Vec<Location>,
    pub(super) variant: Variant,
    /// The component whose file may hold this one as well.
    pub(super) inside: PartFiles,
}

impl Lookup {
    /// Whether somebody named its files.
    pub fn is_given(&self) -> bool {
        self.given.is_some()
    }

    /// The files.
    ///
    /// # Errors
    /// Those of [`ModelPaths::find`](super::paths::ModelPaths::find).
    pub fn find(&self) -> Result<PartFiles> {
        let Self { component, given, roots, variant, inside } = self;
        match component.find(given.as_ref(), roots, variant, Some(inside)) {
            // No folder was given to look in.
            Err(Error::Request { .. }) if roots.is_empty() => Err(Error::ModelMissing {
                path: inside.weights.path().to_owned(),
                missing: format!("{} in this file", component.what),
                remedy: format!("set their file with `{}`", component.field),
            }),
            found => found,
        }
    }
}
