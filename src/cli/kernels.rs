//! `cascade-rt kernels --bench`: whether the kernels that the registry chooses are the fastest on a device. `--sms`: which
//! kernels it chooses on a GPU that need not be here.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::setup::{Size, Subject, aligned};
use super::{info, note, say};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::measure::human_seconds;
use crate::measure::roofline::{Bound, Ceilings};
use crate::measure::task::{Task, distinct};
use crate::pipeline;
use crate::plan::Plan;
use crate::registry::{self, Caps, Lang, Launch, Target};

/// How long a kernel is timed on one shape.
const BUDGET: Duration = Duration::from_millis(200);

/// How many times faster another kernel must be to be reported. Smaller differences are noise.
const WORTH: f64 = 1.05;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("shapes").args(["bench", "sms"]))]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Time every kernel that could serve, on each shape that a model has, and say where the one
    /// that is chosen is not the fastest.
    #[arg(long)]
    bench: bool,
    /// Print the whole WGSL text of this kernel, with everything that is appended to its file.
    #[arg(long, value_name = "KERNEL", conflicts_with = "bench")]
    source: Option<String>,
    /// Show the kernel that each shape of a model takes on a Hopper GPU with so many SMs, which need not be here, with
    /// --dtype bf16: 132 for an H100 SXM, 114 for an H100 PCIe, 78 for an H20.
    #[arg(long, value_name = "N", conflicts_with = "source", value_parser = clap::value_parser!(u32).range(1..))]
    sms: Option<u32>,
    /// With --bench or --sms: only ops whose name contains this.
    #[arg(long, value_name = "TEXT", requires = "shapes")]
    op: Option<String>,
    #[command(flatten, next_help_heading = "With --bench or --sms")]
    subject: Subject,
    #[command(flatten, next_help_heading = "With --bench or --sms")]
    size: Size,
}

/// A kernel, timed on one shape.
#[derive(Debug, Serialize)]
struct Timed {
    kernel: &'static str,
    seconds: f64,
}

/// An op on one shape, with every kernel that could serve.
#[derive(Debug, Serialize)]
struct Entry {
    op: &'static str,
    operands: String,
    /// Calls in one batch.
    calls: usize,
    /// Every kernel that could serve, the chosen one first.
    kernels: Vec<Timed>,
    fastest: &'static str,
    bound: String,
    /// The chosen kernel's rate, as a fraction of what the device allows.
    of_ceiling: f64,
}

impl Entry {
    /// Seconds of one batch that the fastest kernel would save, if it is faster by more than noise.
    fn gain(&self) -> Option<f64> {
        let fastest = self.kernels.iter().find(|timed| timed.kernel == self.fastest)?;
        let chosen = self.kernels[0].seconds;
        (chosen > WORTH * fastest.seconds).then_some((chosen - fastest.seconds) * self.calls as f64)
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    if let Some(name) = &args.source {
        return say(&source(name)?);
    }
    if !args.bench && args.sms.is_none() {
        return info::kernels(args.json);
    }
    let model = args.subject.open_model(args.json)?;
    let request = args.subject.request((args.size.width, args.size.height), args.size.count, &model)?;
    let plan = pipeline::plan(&model, &request)?;
    if let Some(sms) = args.sms {
        return chosen(&tasks(args, &plan, true)?, sms as usize, args.json);
    }
    let backend = args.subject.setup.open_device()?;
    let tasks = tasks(args, &plan, backend.device().stores_bf16())?;
    let ceilings = Ceilings::measure(backend.as_ref())?;
    let mut entries = Vec::new();
    for (task, calls) in &tasks {
        match time(task, *calls, backend.as_ref(), &ceilings)? {
            Some(entry) => {
                if !args.json {
                    print(&entry)?;
                }
                entries.push(entry);
            }
            None => note(&format!("{} {task}: does not fit, left out", task.op.name())),
        }
    }
    if args.json {
        let device = &backend.device().name;
        return say(&json!({ "device": device, "ceilings": ceilings, "shapes": entries }).to_string());
    }
    let all: f64 = entries.iter().map(|entry| entry.kernels[0].seconds * entry.calls as f64).sum();
    let gains: Vec<f64> = entries.iter().filter_map(Entry::gain).collect();
    // Starts from 0, because `sum` of no numbers is -0, which would be printed as such.
    let (slower, shapes, gain) = (gains.len(), entries.len(), gains.iter().fold(0.0, |sum, gain| sum + gain));
    say(&format!("{} with ceilings {ceilings}", backend.device().name))?;
    say(&format!(
        "of {shapes} shapes, {slower} have a kernel faster than the chosen one: {} of {} would be saved",
        human_seconds(gain),
        human_seconds(all)
    ))
}

/// The different ops of the plan whose names are asked for, each with its calls.
fn tasks(args: &Args, plan: &Plan, stores_bf16: bool) -> Result<Vec<(Task, usize)>> {
    let mut tasks = distinct(plan, stores_bf16);
    tasks.retain(|(task, _)| args.op.as_ref().is_none_or(|part| task.op.name().contains(part.as_str())));
    if tasks.is_empty() {
        return Err(Error::Request {
            what: "--op".into(),
            expected: "a part of the name of an op that the model has, see `cascade-rt kernels`".into(),
            found: args.op.clone().unwrap_or_default(),
        });
    }
    Ok(tasks)
}

/// Says which kernel each op takes on a Hopper GPU with so many SMs.
fn chosen(tasks: &[(Task, usize)], sms: usize, json: bool) -> Result<()> {
    let caps = Caps::SM90A.and(Caps::ROUND_BF16).and(Caps::DEPENDENT_LAUNCH);
    let kernel = |task: &Task| task.kernels(Target { lang: Lang::Cuda, caps, sms })[0].name;
    if json {
        let entry = |(task, calls): &(Task, usize)| json!({ "op": task.op.name(), "operands": task.to_string(), "calls": calls, "kernel": kernel(task) });
        return say(&json!({ "sms": sms, "shapes": tasks.iter().map(entry).collect::<Vec<_>>() }).to_string());
    }
    tasks.iter().try_for_each(|(task, calls)| say(&format!("{:32} {calls:5}×  {task}", kernel(task))))
}

/// The text of the shader of this name.
fn source(name: &str) -> Result<String> {
    let shader = registry::kernels(Lang::Wgsl).find(|kernel| kernel.name == name).map(|kernel| kernel.launch);
    let Some(Launch::Wgsl(shader)) = shader else {
        return Err(Error::Request {
            what: "--source".into(),
            expected: "the name of a WGSL kernel, see `cascade-rt kernels`".into(),
            found: name.into(),
        });
    };
    Ok(shader.text(shader.source))
}

/// Times every kernel on a shape; `None` if one does not fit into the device's memory.
fn time(task: &Task, calls: usize, backend: &dyn Backend, ceilings: &Ceilings) -> Result<Option<Entry>> {
    let mut kernels = Vec::new();
    for kernel in task.kernels(backend.device().target()) {
        let times = task.load(backend, Some(kernel)).and_then(|mut loaded| loaded.times(BUDGET));
        match times {
            // The median.
            Ok(times) => kernels.push(Timed { kernel: kernel.name, seconds: times[times.len() / 2].as_secs_f64() }),
            Err(Error::DoesNotFit { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let fastest = kernels.iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds)).map_or("", |timed| timed.kernel);
    let Bound { limit, seconds } = ceilings.bound(task.cost(backend.device().stores_bf16()));
    let of_ceiling = kernels.first().map_or(0.0, |chosen| seconds / chosen.seconds);
    let (op, operands) = (task.op.name(), task.to_string());
    Ok(Some(Entry { op, operands, calls, kernels, fastest, bound: limit.to_string(), of_ceiling }))
}

fn print(entry: &Entry) -> Result<()> {
    let share = 100.0 * entry.of_ceiling;
    say(&format!(
        "{} {}, {}×, {} bound, {share:.0} % of the ceiling",
        entry.op, entry.operands, entry.calls, entry.bound
    ))?;
    let row = |(i, timed): (usize, &Timed)| {
        let what = match (i, timed.kernel == entry.fastest) {
            (0, _) => "chosen",
            (_, true) if entry.gain().is_some() => "FASTER",
            _ => "",
        };
        vec![format!("  {}", timed.kernel), human_seconds(timed.seconds), what.to_owned()]
    };
    let rows: Vec<_> = entry.kernels.iter().enumerate().map(row).collect();
    aligned(&rows).iter().try_for_each(|line| say(line))
}
