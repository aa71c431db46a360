//! Ctrl-C, SIGTERM and SIGHUP.
//!
//! While pictures are made, the first of these signals lets the current step finish, and then the run stops. The
//! second ends the process at once. At any other time, also while a file is written, the first one does. As of any
//! POSIX program, a shell is told that the process died of the signal, and a signal that the process was started to
//! ignore, as by `nohup`, stays ignored.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};

use super::{no_handler, note};
use crate::error::{Error, Result};

/// Whether somebody looks at [`asked`] after every step.
static MAKING: AtomicBool = AtomicBool::new(false);
/// Whether a signal came while pictures were made.
static ASKED: AtomicBool = AtomicBool::new(false);
/// What the first signal does in a program that ends by itself when it is asked to.
static INSTEAD: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();
/// The signal that came.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// Installs the handler of the signals. Files appear whole or not at all: the process does not end while one is
/// being put in place.
///
/// # Errors
/// If the system refuses the handler.
pub(super) fn install() -> Result<()> {
    system::listen(|signal| {
        SIGNAL.store(signal, SeqCst);
        if let Some(stop) = INSTEAD.get().filter(|_| !ASKED.swap(true, SeqCst)) {
            return stop();
        }
        if MAKING.load(SeqCst) && !ASKED.swap(true, SeqCst) {
            return note("\ninterrupted: stopping after this step; interrupt again to stop at once");
        }
        let _whole = crate::output::output_guard();
        note(&format!("\nerror: {}", Error::Interrupted));
        die();
    })
    .map_err(|e| no_handler(&e.to_string()))
}

/// Lets the first signal call `stop`, instead of what it does elsewhere. The next one ends the process.
#[cfg(feature = "serve")]
pub(super) fn instead(stop: impl Fn() + Send + Sync + 'static) {
    // Nothing else sets it.
    let _ = INSTEAD.set(Box::new(stop));
}

/// Ends the process of the signal that came.
pub fn die() -> ! {
    system::die(SIGNAL.load(SeqCst));
    std::process::exit(Error::Interrupted.exit_code().into());
}

#[cfg(unix)]
#[allow(unsafe_code, reason = "what the process was started to ignore can only be asked of the system")]
mod system {
    use std::ffi::c_int;
    use std::{io, thread};

    use nix::sys::signal::{SigHandler, Signal, signal};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;

    /// Calls `stop` with every signal of those that end a program, unless it is ignored.
    pub fn listen(stop: impl Fn(c_int) + Send + 'static) -> io::Result<()> {
        // A write beyond a limit on the size of files then fails, and is reported like a full disk.
        ignore(Signal::SIGXFSZ)?;
        let mut heeded = Vec::new();
        for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let before = ignore(number)?;
            if !matches!(before, SigHandler::SigIgn) {
                // SAFETY: as in `ignore`; nothing but the default action has been there before.
                unsafe { signal(number, before)? };
                heeded.push(number as c_int);
            }
        }
        let mut signals = Signals::new(heeded)?;
        let listen = move || signals.forever().for_each(stop);
        thread::Builder::new().name("signals".to_owned()).spawn(listen).map(drop)
    }

    /// Ignores a signal from now on, and says what it did before.
    fn ignore(number: Signal) -> nix::Result<SigHandler> {
        // SAFETY: to ignore a signal runs no code.
        unsafe { signal(number, SigHandler::SigIgn) }
    }

    /// Does what the signal does to a program without a handler.
    pub fn die(signal: c_int) {
        // If the system refuses, the caller exits.
        let _ = emulate_default_handler(signal);
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;

    pub fn listen(stop: impl Fn(i32) + Send + 'static) -> io::Result<()> {
        ctrlc::set_handler(move || stop(0)).map_err(io::Error::other)
    }

    pub fn die(_: i32) {}
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
