//! The command line program: parse, run, say what went wrong, exit.

use std::process::ExitCode;

use cascade_rt::cli;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::note(&format!("error: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}
