//! `cascade-rt profile`: where the time of a run goes, node by node.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use super::output::spare;
use super::setup::{Size, Subject, aligned};
use super::{note, say};
use crate::error::Result;
use crate::measure::human_seconds;
use crate::measure::profile::{By, Log, Profiled, Row};
use crate::measure::roofline::Ceilings;
use crate::measure::trace::trace;
use crate::output::{check_writable, write_atomically};
use crate::pipeline::{Observer, Options, Pipeline, StageName};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    size: Size,
    /// What one line of the table is: a segment of the plan, an op, a kernel, or a layer of a network.
    #[arg(long, value_enum, default_value_t = By::Op)]
    by: By,
    /// Most lines of the table. 0 prints all.
    #[arg(long, value_name = "N", default_value_t = 30)]
    top: usize,
    /// Runs before the one that is timed.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(..=1000))]
    warmup: u32,
    /// Write every call of a node to this file, for a trace viewer (chrome://tracing, ui.perfetto.dev).
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Replace the trace if it exists.
    #[arg(long)]
    force: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    if let Some(path) = &args.trace {
        check_writable(path, args.force, false)?;
    }
    let model = args.subject.open_model(args.json)?;
    if let Some(path) = &args.trace {
        spare("--trace", [path], args.subject.reads(&model)?)?;
    }
    let request = args.subject.request((args.size.width, args.size.height), args.size.count, &model)?;
    let backend = args.subject.setup.open_device()?;
    let ceilings = Ceilings::measure(backend.as_ref())?;
    let (backend, log) = Profiled::new(backend);
    let mut pipeline = Pipeline::new(model, Box::new(backend))?;
    pipeline.prepare(&request, Options::default())?;
    let mut start = Instant::now();
    for _ in 0..=args.warmup {
        log.restart();
        start = Instant::now();
        let options = Options { observer: Some(&mut Stages(&log)), ..Options::default() };
        pipeline.run(&request, options, |_| Ok(()))?;
    }
    log.end();
    let wall = start.elapsed().as_secs_f64();
    let (events, device) = (log.events(), pipeline.backend().device());
    if let Some(path) = &args.trace {
        write_atomically(path, trace(&events, device).to_string().as_bytes(), args.force)?;
        note(&format!("{}: open it in chrome://tracing or ui.perfetto.dev", path.display()));
    }
    let rows = events.table(args.by, device, &ceilings);
    let busy: f64 = rows.iter().map(|row| row.seconds).sum();
    let name = args.subject.name()?;
    if args.json {
        let by = format!("{:?}", args.by).to_lowercase();
        return say(&json!({
            "model": name, "device": device.name, "request": request, "wall_seconds": wall, "device_seconds": busy,
            "ceilings": ceilings, "by": by, "rows": rows,
        })
        .to_string());
    }
    let (width, height, count) = (request.width, request.height, request.count);
    say(&format!("{name}, {width}×{height} px, count {count}, on {}", device.name))?;
    let (calls, busy, wall) = (events.calls.len(), human_seconds(busy), human_seconds(wall));
    say(&format!("{calls} runs of nodes took {busy} on the device, {wall} in all; ceilings {ceilings}"))?;
    table(&rows, args.top)
}

/// Tells the log when each stage begins.
struct Stages<'a>(&'a Log);

impl Observer for Stages<'_> {
    fn begin(&mut self, stage: StageName, _: usize) {
        self.0.begin(&stage.to_string());
    }
}

fn table(rows: &[Row], top: usize) -> Result<()> {
    let shown = if top == 0 { rows.len() } else { top.min(rows.len()) };
    let mut lines = vec![
        ["", "time", "share", "calls", "GFLOP", "GB", "GFLOP/s", "GB/s", "bound by", "of ceiling"]
            .map(str::to_owned)
            .to_vec(),
    ];
    lines.extend(rows[..shown].iter().map(|row| {
        let giga = |work: u64| work as f64 / 1e9;
        let rate = |work: u64| if row.seconds > 0.0 { giga(work) / row.seconds } else { 0.0 };
        vec![
            row.name.clone(),
            human_seconds(row.seconds),
            format!("{:.1} %", 100.0 * row.share),
            row.calls.to_string(),
            format!("{:.2}", giga(row.flops)),
            format!("{:.3}", giga(row.bytes)),
            format!("{:.1}", rate(row.flops)),
            format!("{:.1}", rate(row.bytes)),
            row.bound.to_string(),
            format!("{:.0} %", 100.0 * row.of_ceiling),
        ]
    }));
    aligned(&lines).iter().try_for_each(|line| say(line))?;
    match rows.len() - shown {
        0 => Ok(()),
        more => say(&format!("… {more} more; --top 0 shows all")),
    }
}
