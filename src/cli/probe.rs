//! Which adapters wgpu reaches, asked by a child process: graphics drivers are loaded into the process that asks, and one
//! that crashes or hangs must not take a run down that does not need it. What drivers print is not printed.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::say;
use crate::backend::Device;
use crate::backend::devices::{self, Choice};
use crate::backend::{cuda, wgpu};
use crate::error::{Error, Result};

/// The command of the child, which is this program.
pub(super) const COMMAND: &str = "probe";

/// How long drivers may take to answer; some wake a GPU up for it.
const LIMIT: Duration = Duration::from_secs(20);

/// What the child does: prints its adapters as JSON.
pub(super) fn run() -> Result<()> {
    say(&serde_json::json!(wgpu::adapters()).to_string())
}

/// The adapters, or how drivers failed.
fn ask() -> std::result::Result<Vec<Device>, String> {
    let Ok(program) = std::env::current_exe() else { return Ok(wgpu::adapters()) };
    let text = answer(Command::new(program).arg(COMMAND), LIMIT)?;
    serde_json::from_slice(&text).map_err(|e| format!("a graphics driver printed something of its own ({e})"))
}

/// Every device, the CPU last, and what is wrong with a graphics driver if something is: its adapters are not listed then.
pub(super) fn all() -> (Vec<(Choice, Device)>, Option<String>) {
    match ask() {
        Ok(adapters) => (devices::among(adapters), None),
        Err(why) => (devices::among(Vec::new()), Some(why)),
    }
}

/// The device that is meant, which is not [`Choice::Auto`], and what is wrong with a graphics driver that is left out.
///
/// # Errors
/// If the device is an adapter, and drivers fail.
pub(super) fn choose(choice: Choice) -> Result<(Choice, Option<String>)> {
    match choice {
        // Nothing else would be preferred.
        Choice::Auto if cuda::usable().is_empty() => {
            let (all, wrong) = all();
            Ok((devices::preferred(&all), wrong.map(|why| format!("{why}; {REMEDY}"))))
        }
        Choice::Auto => Ok((devices::preferred(&devices::among(Vec::new())), None)),
        Choice::Wgpu(_) => match ask() {
            Ok(_) => Ok((choice, None)),
            Err(found) => Err(Error::Device { wanted: choice.to_string(), found, remedy: REMEDY.into() }),
        },
        _ => Ok((choice, None)),
    }
}

const REMEDY: &str = "update the driver, or name another in VK_DRIVER_FILES; `--device cpu` needs none";

/// What a command prints to its standard output within `limit`, or why nothing.
fn answer(command: &mut Command, limit: Duration) -> std::result::Result<Vec<u8>, String> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.map_err(|e| format!("graphics drivers were not asked: {e}"))?;
    let mut output = child.stdout.take().expect("it is a pipe");
    let (sender, answered) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = sender.send(output.read_to_end(&mut text).map(|_| text));
    });
    let failed = |e: std::io::Error| format!("graphics drivers gave no answer: {e}");
    match answered.recv_timeout(limit) {
        Ok(text) => {
            let status = child.wait().map_err(failed)?;
            if status.success() { text.map_err(failed) } else { Err(format!("a graphics driver crashed ({status})")) }
        }
        Err(_) => {
            // Not waited for: a driver may keep a process from ending.
            let _ = child.kill();
            Err(format!("a graphics driver did not answer within {} s", limit.as_secs_f32()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_child_that_answers_crashes_or_hangs() {
        let shell =
            |script: &str, millis| answer(Command::new("sh").args(["-c", script]), Duration::from_millis(millis));
        assert_eq!(shell("echo chatter >&2; printf here", 20_000), Ok(b"here".to_vec()));
        let crashed = shell("printf here; kill -ABRT $$", 20_000).unwrap_err();
        assert!(crashed.starts_with("a graphics driver crashed (signal: 6"), "{crashed}");
        let hangs = shell("exec sleep 60", 200).unwrap_err();
        assert_eq!(hangs, "a graphics driver did not answer within 0.2 s");
        let missing = answer(&mut Command::new("/nonexistent/program"), LIMIT).unwrap_err();
        assert!(missing.contains("were not asked"), "{missing}");
    }
}
