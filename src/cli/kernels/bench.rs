//! `cascade-rt kernels --bench`: whether the kernels that the registry chooses are the fastest on a device.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::Args;
use super::check::Verdicts;
use crate::backend::Backend;
use crate::cli::setup::aligned;
use crate::cli::{note, say};
use crate::error::{Error, Result};
use crate::measure::human_seconds;
use crate::measure::roofline::{Bound, Ceilings};
use crate::measure::task::Task;

/// How long a kernel is timed on one shape.
const BUDGET: Duration = Duration::from_millis(200);

/// How many times faster another kernel must be to be reported. Smaller differences are noise.
const WORTH: f64 = 1.05;

/// A kernel on one shape.
#[derive(Debug, Serialize)]
struct Timed {
    kernel: &'static str,
    /// The median of a call; none if it computes wrong results.
    seconds: Option<f64>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<String>,
}

/// An op on one shape, with every kernel that could serve.
#[derive(Debug, Serialize)]
struct Entry {
    op: &'static str,
    operands: String,
    /// Calls in one batch.
    calls: usize,
    /// Every kernel that could serve, first the one that the registry chooses.
    kernels: Vec<Timed>,
    /// The fastest that is right.
    fastest: Option<&'static str>,
    bound: String,
    /// The chosen kernel's rate, as a fraction of what the device allows; none if it is wrong.
    of_ceiling: Option<f64>,
}

impl Entry {
    /// Seconds of one batch with the chosen kernel, and what the fastest would save of them, if it is faster by more than
    /// noise. A wrong kernel is not chosen.
    fn seconds(&self) -> Option<(f64, Option<f64>)> {
        let calls = self.calls as f64;
        let chosen = self.kernels[0].seconds?;
        let fastest = self.kernels.iter().find(|timed| Some(timed.kernel) == self.fastest)?.seconds?;
        Some((chosen * calls, (chosen > WORTH * fastest).then_some((chosen - fastest) * calls)))
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let plan = args.plan()?;
    let backend = args.subject.setup.open_device()?;
    let tasks = args.tasks(&plan, backend.device().stores_bf16())?;
    let ceilings = Ceilings::measure(backend.as_ref())?;
    let (mut entries, mut verdicts) = (Vec::new(), Verdicts::default());
    for (task, calls) in &tasks {
        match time(task, *calls, backend.as_ref(), &ceilings, &mut verdicts)? {
            Some(entry) => {
                if !args.json {
                    print(&entry)?;
                }
                entries.push(entry);
            }
            None => note(&format!("{} {task}: does not fit, left out", task.op.name())),
        }
    }
    let device = &backend.device().name;
    if args.json {
        say(&json!({ "device": device, "ceilings": ceilings, "shapes": entries }).to_string())?;
        return verdicts.conclude(device);
    }
    let seconds: Vec<_> = entries.iter().filter_map(Entry::seconds).collect();
    let all: f64 = seconds.iter().map(|(all, _)| all).sum();
    let gains: Vec<f64> = seconds.iter().filter_map(|(_, gain)| *gain).collect();
    // Starts from 0, because `sum` of no numbers is -0, which would be printed as such.
    let (slower, shapes, gain) = (gains.len(), entries.len(), gains.iter().fold(0.0, |sum, gain| sum + gain));
    say(&format!("{device} with ceilings {ceilings}"))?;
    say(&format!(
        "of {shapes} shapes, {slower} have a kernel faster than the chosen one: {} of {} would be saved",
        human_seconds(gain),
        human_seconds(all)
    ))?;
    verdicts.conclude(device)
}

/// Times every kernel on a shape that is not wrong; `None` if one does not fit into the device's memory.
fn time(
    task: &Task,
    calls: usize,
    backend: &dyn Backend,
    ceilings: &Ceilings,
    verdicts: &mut Verdicts,
) -> Result<Option<Entry>> {
    let mut kernels = Vec::new();
    for kernel in task.kernels(backend.device().target()) {
        let wrong = verdicts.of(kernel, backend)?;
        if wrong.is_some() {
            kernels.push(Timed { kernel: kernel.name, seconds: None, wrong });
            continue;
        }
        let times = task.load(backend, Some(kernel)).and_then(|mut loaded| loaded.times(BUDGET));
        match times {
            Ok(times) => {
                let median = times[times.len() / 2].as_secs_f64();
                kernels.push(Timed { kernel: kernel.name, seconds: Some(median), wrong });
            }
            Err(Error::DoesNotFit { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let right = kernels.iter().filter_map(|timed| Some((timed.kernel, timed.seconds?)));
    let fastest = right.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(kernel, _)| kernel);
    let Bound { limit, seconds } = ceilings.bound(task.cost(backend.device().stores_bf16()));
    let of_ceiling = kernels[0].seconds.map(|chosen| seconds / chosen);
    let (op, operands) = (task.op.name(), task.to_string());
    Ok(Some(Entry { op, operands, calls, kernels, fastest, bound: limit.to_string(), of_ceiling }))
}

fn print(entry: &Entry) -> Result<()> {
    let share = entry.of_ceiling.map(|share| format!(", {:.0} % of the ceiling", 100.0 * share)).unwrap_or_default();
    say(&format!("{} {}, {}×, {} bound{share}", entry.op, entry.operands, entry.calls, entry.bound))?;
    let faster = matches!(entry.seconds(), Some((_, Some(_))));
    let row = |(i, timed): (usize, &Timed)| {
        let what = match i {
            _ if timed.wrong.is_some() => "WRONG",
            0 => "chosen",
            _ if faster && Some(timed.kernel) == entry.fastest => "FASTER",
            _ => "",
        };
        let seconds = timed.seconds.map_or_else(|| "-".to_owned(), human_seconds);
        vec![format!("  {}", timed.kernel), seconds, what.to_owned()]
    };
    let rows: Vec<_> = entry.kernels.iter().enumerate().map(row).collect();
    aligned(&rows).iter().try_for_each(|line| say(line))?;
    let wrong = entry.kernels.iter().filter_map(|timed| Some((timed.kernel, timed.wrong.as_ref()?)));
    wrong.into_iter().try_for_each(|(kernel, wrong)| say(&format!("  {kernel}: {}", wrong.trim_end())))
}
