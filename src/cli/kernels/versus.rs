//! `cascade-rt kernels --bench --shaders`: the shaders of two folders, or of one and the built-in ones, timed against each other.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::Args;
use super::check::Verdicts;
use crate::backend::{Backend, wgpu};
use crate::cli::{note, say};
use crate::error::{Error, Result};
use crate::measure::task::Task;
use crate::measure::{Spread, human_seconds};
use crate::registry::Kernel;

/// How often both sides are timed, in turns, so that what changes on the machine meanwhile falls on both.
const ROUNDS: usize = 15;

/// How long a side is timed in a round.
const BUDGET: Duration = Duration::from_millis(20);

/// A folder of shaders on the device.
struct Side {
    name: String,
    backend: Box<dyn Backend>,
    verdicts: Verdicts,
}

/// A kernel on one shape.
#[derive(Debug, Serialize)]
struct Entry {
    op: &'static str,
    kernel: &'static str,
    operands: String,
    /// Calls in one batch.
    calls: usize,
    /// Seconds of a call, of each side's rounds.
    seconds: [Spread; 2],
    /// What the second side takes of the time of the first, of each round.
    ratio: Spread,
    verdict: &'static str,
}

/// What a ratio of times says of the second side: nothing while half of the rounds, those in the middle, fall on both sides of 1.
fn verdict(ratio: &Spread) -> &'static str {
    match ratio {
        _ if ratio.upper < 1.0 => "faster",
        _ if ratio.lower > 1.0 => "slower",
        _ => "within the spread",
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let folders: [Option<&Path>; 2] = match &args.shaders[..] {
        [one] => [None, Some(one)],
        [one, other] => [Some(one), Some(other)],
        more => {
            return Err(Error::Request {
                what: "--shaders".into(),
                expected: "one folder, or two".into(),
                found: more.len().to_string(),
            });
        }
    };
    let mut changed = BTreeSet::new();
    for folder in folders.into_iter().flatten() {
        changed.extend(wgpu::changed(folder)?);
    }
    let open = |folder: Option<&Path>| {
        let name = folder.map_or("built-in".into(), |folder| folder.display().to_string());
        Ok(Side { name, backend: args.subject.setup.open_with(folder)?, verdicts: Verdicts::default() })
    };
    let mut sides: [Side; 2] = [open(folders[0])?, open(folders[1])?];
    let device = sides[0].backend.device().clone();
    let plan = args.plan()?;
    if !args.json {
        say(&format!("A: {}, B: {}, on {}", sides[0].name, sides[1].name, device.name))?;
    }
    let mut entries = Vec::new();
    for (task, calls) in args.tasks(&plan, device.stores_bf16())? {
        for kernel in task.kernels(device.target()).into_iter().filter(|kernel| changed.contains(kernel.name)) {
            if let Some(entry) = compare(&task, calls, kernel, &mut sides, args.json)? {
                entries.push(entry);
            }
        }
    }
    let names = sides.each_ref().map(|side| side.name.clone());
    if args.json {
        say(&json!({ "device": device.name, "sides": names, "shapes": entries }).to_string())?;
    } else {
        let count = |what| entries.iter().filter(|entry| entry.verdict == what).count();
        say(&format!(
            "of {} shapes, B is faster at {}, slower at {}; the others are within the spread",
            entries.len(),
            count("faster"),
            count("slower")
        ))?;
    }
    sides.iter().try_for_each(|side| side.verdicts.conclude(&format!("{} with {}", device.name, side.name)))?;
    match entries.is_empty() {
        false => Ok(()),
        true => Err(Error::Request {
            what: "--shaders".into(),
            expected: "shaders that this device would use for the model's shapes".into(),
            found: changed.into_iter().collect::<Vec<_>>().join(", "),
        }),
    }
}

/// Times a kernel on one shape with both sides' shaders; nothing if either computes wrong results or does not fit.
fn compare(
    task: &Task,
    calls: usize,
    kernel: &'static Kernel,
    sides: &mut [Side; 2],
    quiet: bool,
) -> Result<Option<Entry>> {
    let (op, operands) = (task.op.name(), task.to_string());
    for (side, letter) in sides.iter_mut().zip(["A", "B"]) {
        if let Some(wrong) = side.verdicts.of(kernel, side.backend.as_ref())? {
            note(&format!("{op} {} {operands}: {letter} is WRONG: {}", kernel.name, wrong.trim_end()));
            return Ok(None);
        }
    }
    let load = |side: &Side| task.load(side.backend.as_ref(), Some(kernel));
    let mut loaded = match (load(&sides[0]), load(&sides[1])) {
        (Ok(a), Ok(b)) => [a, b],
        (Err(Error::DoesNotFit { .. }), _) | (_, Err(Error::DoesNotFit { .. })) => {
            note(&format!("{op} {} {operands}: does not fit twice, left out", kernel.name));
            return Ok(None);
        }
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    let mut seconds = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        // Neither is always the first.
        for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let times = loaded[side].times(BUDGET)?;
            seconds[side].push(times[times.len() / 2].as_secs_f64());
        }
    }
    let ratios: Vec<f64> = seconds[1].iter().zip(&seconds[0]).map(|(b, a)| b / a).collect();
    let (seconds, ratio) = (seconds.map(|all| Spread::of(&all)), Spread::of(&ratios));
    let entry = Entry { op, kernel: kernel.name, operands, calls, seconds, ratio, verdict: verdict(&ratio) };
    if !quiet {
        print(&entry)?;
    }
    Ok(Some(entry))
}

fn print(entry: &Entry) -> Result<()> {
    say(&format!("{} {} {}, {}×", entry.op, entry.kernel, entry.operands, entry.calls))?;
    for (letter, Spread { median, lower, upper, .. }) in ["A", "B"].into_iter().zip(entry.seconds) {
        let [median, lower, upper] = [median, lower, upper].map(human_seconds);
        say(&format!("  {letter} {median} (quartiles {lower} to {upper})"))?;
    }
    let Spread { median, lower, upper, .. } = entry.ratio;
    say(&format!("  B takes {median:.3} of A's time (quartiles {lower:.3} to {upper:.3}): {}", entry.verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_within_the_spread_is_none() {
        let of = |ratios: &[f64]| verdict(&Spread::of(ratios));
        assert_eq!(of(&[0.9, 0.91, 0.92, 0.93, 1.2]), "faster");
        assert_eq!(of(&[0.8, 1.1, 1.2, 1.2, 1.3]), "slower");
        assert_eq!(of(&[0.9, 0.95, 0.99, 1.01, 1.02]), "within the spread");
        assert_eq!(of(&[1.0; 5]), "within the spread");
    }
}
