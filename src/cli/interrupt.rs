//! Ctrl-C, SIGTERM and SIGHUP.
//!
//! While pictures are made, the first of these signals lets the current step finish, and then the run stops. The
//! second ends the process at once. At any other time, also while a file is written, the first one does.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::{no_handler, note};
use crate::error::{Error, Result};

/// Whether somebody looks at [`asked`] after every step.
static MAKING: AtomicBool = AtomicBool::new(false);
/// Whether a signal came while pictures were made.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Installs the handler of the signals. Files appear whole or not at all: the process does not end while one is
/// being put in place.
///
/// # Errors
/// If the system refuses the handler.
pub(super) fn install() -> Result<()> {
    let stop = || {
        if MAKING.load(SeqCst) && !ASKED.swap(true, SeqCst) {
            return note("\ninterrupted: stopping after this step; interrupt again to stop at once");
        }
        let _whole = crate::output::output_guard();
        note(&format!("\nerror: {}", Error::Interrupted));
        std::process::exit(Error::Interrupted.exit_code().into());
    };
    ctrlc::set_handler(stop).map_err(|e| no_handler(&e.to_string()))
}

/// Whether the run is to stop.
pub(super) fn asked() -> bool {
    ASKED.load(SeqCst)
}

/// Runs what makes pictures and looks at [`asked`] after every step.
///
/// # Errors
/// [`Error::Interrupted`] if a signal came before, and those of `make`.
pub(super) fn after_a_step<T>(make: impl FnOnce() -> Result<T>) -> Result<T> {
    with(true, make)
}

/// Runs what does not look at [`asked`], in the middle of what does: writing a file may take for ever, where it
/// is a pipe that nobody reads.
///
/// # Errors
/// [`Error::Interrupted`] if a signal came before, and those of `write`.
pub(super) fn at_once<T>(write: impl FnOnce() -> Result<T>) -> Result<T> {
    with(false, write)
}

fn with<T>(making: bool, work: impl FnOnce() -> Result<T>) -> Result<T> {
    // In this order, a signal either ends the process at once or is seen here.
    let before = MAKING.swap(making, SeqCst);
    let result = if asked() { Err(Error::Interrupted) } else { work() };
    MAKING.store(before, SeqCst);
    result
}
