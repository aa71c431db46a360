//! The command line program: parse, run, say what went wrong, exit.
#![allow(unsafe_code, reason = "only an allocator is told that memory has run out")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::process::ExitCode;

use cascade_rt::cli;
use cascade_rt::error::Error;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::note(&format!("error: {error}"));
            if matches!(error, Error::Interrupted) {
                cli::interrupt::die();
            }
            ExitCode::from(error.exit_code())
        }
    }
}

#[global_allocator]
static ALLOCATOR: OrExit = OrExit;

/// The system's allocator. Where it has no memory left, the process ends with a message and the exit code of a
/// request that does not fit, rather than with an abort.
struct OrExit;

// SAFETY: every call is passed on to the system's allocator as it is, and so is every result but null, with which no
// call returns.
unsafe impl GlobalAlloc for OrExit {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        or_exit(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        or_exit(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        or_exit(unsafe { System.realloc(memory, layout, size) }, size)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

fn or_exit(memory: *mut u8, size: usize) -> *mut u8 {
    if memory.is_null() {
        no_memory(size);
    }
    memory
}

/// Says so without any memory, and ends the process. Temporary files are left to the next run.
#[cold]
fn no_memory(size: usize) -> ! {
    let _ = writeln!(
        std::io::stderr(),
        "error: the system has no memory left, {} MiB were asked for at once; make smaller pictures or fewer at a time, \
         or raise the limit (`ulimit -v`)",
        size.div_ceil(1 << 20)
    );
    signal_hook::low_level::exit(4)
}
