//! Networks that text to image does without.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::error::{Error, Result};
use crate::weights::{Checkpoint, Lookup, PartFiles};

/// A network that text to image does without. It is opened when something first needs it, so that a file that is missing
/// or damaged hinders nothing else.
#[derive(Debug)]
pub struct Extra<C> {
    place: Place,
    opened: OnceLock<(Checkpoint, C)>,
}

#[derive(Debug)]
enum Place {
    Files(Lookup),
    /// In no file; what is missing.
    Nowhere(&'static str),
}

impl<C> Extra<C> {
    /// The network in these files.
    pub(crate) fn at(lookup: &Lookup) -> Self {
        Self { place: Place::Files(lookup.clone()), opened: OnceLock::new() }
    }

    /// None, in a model that has no files; `what` is missing.
    pub(crate) fn nowhere(what: &'static str) -> Self {
        Self { place: Place::Nowhere(what), opened: OnceLock::new() }
    }

    /// The network, which `open` opens if nothing has before.
    pub(super) fn get(&self, open: impl FnOnce(&PartFiles) -> Result<(Checkpoint, C)>) -> Result<&(Checkpoint, C)> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let opened = match &self.place {
            Place::Files(lookup) => open(&lookup.find()?)?,
            Place::Nowhere(what) => {
                return Err(Error::ModelMissing {
                    path: PathBuf::from("synthetic"),
                    missing: (*what).to_owned(),
                    remedy: "use a model that is in files".to_owned(),
                });
            }
        };
        Ok(self.opened.get_or_init(|| opened))
    }

    /// The network, if it was opened, to change it.
    pub(super) fn opened_mut(&mut self) -> Option<&mut (Checkpoint, C)> {
        self.opened.get_mut()
    }

    /// The network, if it was opened.
    pub(crate) fn into_opened(self) -> Option<(Checkpoint, C)> {
        self.opened.into_inner()
    }
}
