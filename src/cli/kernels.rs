//! `cascade-rt kernels`: which kernel runs each op, whether it is right, and whether it is the fastest.

mod bench;
mod check;
mod spirv;
mod versus;

use std::path::PathBuf;

use serde_json::json;

use super::setup::{Size, Subject};
use super::{info, say};
use crate::error::{Error, Result};
use crate::measure::task::{Task, distinct};
use crate::pipeline;
use crate::plan::Plan;
use crate::registry::{self, Caps, Lang, Launch, Target};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").args(["bench", "check", "sms"]))]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Compare every kernel that the device can run, shaders of --shader-dir included, with the definition of its op on all of
    /// the op's test cases. What differs is named by kernel, case and element, and makes the exit code 1.
    #[arg(long)]
    check: bool,
    /// Time every kernel that could serve, on each shape that a model has, and say where the one
    /// that is chosen is not the fastest. A kernel that computes wrong results is not timed.
    #[arg(long)]
    bench: bool,
    /// With --bench: time the kernels that the shaders in this folder change, beside the built-in ones. Given twice, the two
    /// folders are compared. Rounds take turns; a difference counts if it is larger than the spread between rounds.
    #[arg(long, value_name = "DIR", requires = "bench", conflicts_with = "shader_dir")]
    shaders: Vec<PathBuf>,
    /// Print the whole WGSL text of this kernel, with everything that is appended to its file.
    #[arg(long, value_name = "KERNEL", conflicts_with = "what")]
    source: Option<String>,
    /// Write SPIR-V of every pipeline of every built-in shader into this folder, one file for each entry point and each way
    /// in which operands may be stored, for spirv-val, a GPU maker's compiler or an analyser of code.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["what", "source", "json"])]
    spirv: Option<PathBuf>,
    /// Show the kernel that each shape of a model takes on a Hopper GPU with so many SMs, which need not be here, with
    /// --dtype bf16: 132 for an H100 SXM, 114 for an H100 PCIe, 78 for an H20.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    sms: Option<u32>,
    /// With --bench, --check or --sms: only ops whose name contains this.
    #[arg(long, value_name = "TEXT", requires = "what")]
    op: Option<String>,
    #[command(flatten, next_help_heading = "With --bench, --check or --sms")]
    subject: Subject,
    #[command(flatten, next_help_heading = "With --bench or --sms")]
    size: Size,
}

pub(super) fn run(args: &Args) -> Result<()> {
    match args {
        Args { source: Some(name), .. } => say(&source(name)?),
        Args { spirv: Some(folder), .. } => spirv::write(folder),
        Args { check: true, .. } => check::run(args),
        Args { bench: true, shaders, .. } if shaders.is_empty() => bench::run(args),
        Args { bench: true, .. } => versus::run(args),
        Args { sms: Some(sms), .. } => chosen(&args.tasks(&*args.plan()?, true)?, *sms as usize, args.json),
        _ => info::kernels(args.json),
    }
}

impl Args {
    /// The plan of a request with the flags given.
    fn plan(&self) -> Result<std::sync::Arc<Plan>> {
        let model = self.subject.open_model(self.json)?;
        let request = self.subject.request((self.size.width, self.size.height), self.size.count, &model)?;
        pipeline::plan(&model, &request)
    }

    /// The different ops of the plan whose names are asked for, each with its calls.
    fn tasks(&self, plan: &Plan, stores_bf16: bool) -> Result<Vec<(Task, usize)>> {
        let mut tasks = distinct(plan, stores_bf16);
        tasks.retain(|(task, _)| self.wants(task.op.name()));
        if tasks.is_empty() { Err(self.no_op("that the model has")) } else { Ok(tasks) }
    }

    /// Whether the op of this name is asked for.
    fn wants(&self, op: &str) -> bool {
        self.op.as_ref().is_none_or(|part| op.contains(part.as_str()))
    }

    fn no_op(&self, that: &str) -> Error {
        Error::Request {
            what: "--op".into(),
            expected: format!("a part of the name of an op {that}, see `cascade-rt kernels`"),
            found: self.op.clone().unwrap_or_default(),
        }
    }
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
    Ok(shader.text())
}
