//! `cascade-rt bench`: times whole pictures, several times each.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::setup::{Subject, aligned};
use super::{note, say};
use crate::error::Result;
use crate::image::{Format, Record};
use crate::measure::{Spread, human_seconds, memory};
use crate::pipeline::{Footprint, Observer, Options, Pipeline};
use crate::request::{Request, parse_whole};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    subject: Subject,
    /// Sizes in pixels, e.g. 512,1024 or 1152x896. Without any, the size that the model was trained for, or 1024.
    #[arg(long, value_name = "PX,…", value_delimiter = ',', value_parser = parse_size)]
    sizes: Vec<(u32, u32)>,
    /// Pictures at once, e.g. 1,2,4.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = parse_whole::<u32>)]
    counts: Vec<u32>,
    /// Runs that are timed, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Runs before those, which are not timed, up to 1000.
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(..=1000))]
    warmup: u32,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Print a Markdown table.
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

/// `1024` or `1152x896`.
fn parse_size(text: &str) -> std::result::Result<(u32, u32), String> {
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    let (width, height) = (parse_whole(width)?, parse_whole(height)?);
    let request = Request { prompts: vec![String::new()], width, height, ..Request::default() };
    request.check().map_err(|e| e.to_string())?;
    Ok((width, height))
}

/// Names of what is timed, in the order of a run.
const PARTS: [&str; 7] = ["load", "plan", "text", "stage_c", "stage_b", "stage_a", "encode"];
/// Index of the first of them that every picture takes anew. Those before it happen once.
const PICTURE: usize = 2;

/// One size and count, measured.
struct Cell {
    request: Request,
    device: String,
    /// Seconds of each run, by part, then of whole pictures.
    seconds: Vec<(&'static str, Vec<f64>)>,
    activations: u64,
    weights: u64,
    /// Most bytes of the host's memory at once, and of the device's own if it has any.
    peak: [Option<u64>; 2],
}

impl Cell {
    fn spread(&self, part: usize) -> Spread {
        Spread::of(&self.seconds[part].1)
    }

    /// Median seconds of a picture.
    fn each(&self) -> f64 {
        self.spread(PARTS.len()).median / f64::from(self.request.count)
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let sizes: Vec<_> = match &args.sizes[..] {
        [] => vec![(None, None)],
        sizes => sizes.iter().map(|&(w, h)| (Some(w), Some(h))).collect(),
    };
    let mut cells = Vec::new();
    let model = args.subject.name()?;
    for (i, &size) in sizes.iter().enumerate() {
        for (j, &count) in args.counts.iter().enumerate() {
            let cell = measure(args, size, count, i + j == 0)?;
            if !args.json && !args.markdown {
                print(&cell, &model)?;
            }
            cells.push(cell);
        }
    }
    match () {
        () if args.json => {
            let results: Vec<Value> = cells.iter().map(json).collect();
            say(&json!({ "model": model, "device": cells[0].device, "runs": args.runs, "warmup": args.warmup, "results": results })
                .to_string())
        }
        () if args.markdown => markdown(&cells, &model),
        () if cells.len() > 1 => growth(&cells),
        () => Ok(()),
    }
}

/// Runs one size and count.
fn measure(args: &Args, size: (Option<u32>, Option<u32>), count: u32, first: bool) -> Result<Cell> {
    memory::reset_peak();
    let mut planned = Planned::default();
    let (mut pipeline, mut request) = (None, Request::default());
    let mut seconds: Vec<(&str, Vec<f64>)> = PARTS.iter().map(|part| (*part, Vec::new())).collect();
    seconds.push(("picture", Vec::new()));
    // Opens the model and compiles the plan as many times as there are runs, to time both.
    for i in 0..args.runs {
        // Frees the memory of the previous pipeline before the next one is made.
        drop(pipeline.take());
        let start = Instant::now();
        let model = args.subject.open_model(!first || i > 0)?;
        request = args.subject.request(size, count, &model)?;
        let new = pipeline.insert(Pipeline::new(model, args.subject.setup.open_device()?)?);
        seconds[0].1.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        new.prepare(&request, Options { observer: Some(&mut planned), ..Options::default() })?;
        seconds[1].1.push(start.elapsed().as_secs_f64());
    }
    let mut pipeline = pipeline.expect("there is at least one run");
    for i in 0..args.warmup + args.runs {
        if std::io::stderr().is_terminal() {
            note(&format!("{}: run {} of {}", title(&request), i + 1, args.warmup + args.runs));
        }
        let mut encode = Duration::ZERO;
        let times =
            pipeline.run(&request, Options { observer: Some(&mut planned), ..Options::default() }, |batch| {
                let start = Instant::now();
                for (i, image) in batch.images.iter().enumerate() {
                    image.to_bytes(Format::Png, Some(&Record::new(&request, "bench").of_image(batch.first + i)))?;
                }
                encode += start.elapsed();
                Ok(())
            })?;
        if i < args.warmup {
            continue;
        }
        let parts = [times.text, times.stage_c, times.stage_b, times.stage_a, encode].map(|t| t.as_secs_f64());
        let all = parts.into_iter().chain([parts.iter().sum()]);
        seconds[PICTURE..].iter_mut().zip(all).for_each(|((_, values), value)| values.push(value));
    }
    let backend = pipeline.backend();
    let (device, peak) = (backend.device().name.clone(), [memory::peak_bytes(), backend.peak_bytes()]);
    let Planned { activations, weights } = planned;
    Ok(Cell { request, device, seconds, activations, weights, peak })
}

/// Remembers how much memory the latest plan takes.
#[derive(Default)]
struct Planned {
    activations: u64,
    weights: u64,
}

impl Observer for Planned {
    fn planned(&mut self, plan: &Footprint) {
        (self.activations, self.weights) = (plan.activations, plan.weights);
    }
}

/// `1024×1024 px, 2 pictures`.
fn title(request: &Request) -> String {
    let pictures = if request.count == 1 { "1 picture".into() } else { format!("{} pictures", request.count) };
    format!("{}×{} px, {pictures}", request.width, request.height)
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

fn print(cell: &Cell, model: &str) -> Result<()> {
    let Request { steps, guidance, .. } = cell.request;
    let how = format!("{} + {} steps, guidance {} and {}", steps.0, steps.1, guidance.0, guidance.1);
    say(&format!("{model}, {}, {how}, on {}", title(&cell.request), cell.device))?;
    let whole = cell.spread(PARTS.len()).median;
    let mut rows = vec![["", "median", "min … max", "share"].map(str::to_owned).to_vec()];
    for (i, (name, _)) in cell.seconds.iter().enumerate() {
        let Spread { median, min, max, .. } = cell.spread(i);
        let share = if i < PICTURE { String::new() } else { format!("{:.1} %", 100.0 * median / whole) };
        let range = format!("{} … {}", human_seconds(min), human_seconds(max));
        rows.push(vec![format!("  {name}"), human_seconds(median), range, share]);
    }
    aligned(&rows).iter().try_for_each(|line| say(line))?;
    let at_most =
        |peak: Option<u64>, what| peak.map_or(String::new(), |bytes| format!("; at most {} MiB {what}", mib(bytes)));
    let peak = at_most(cell.peak[0], "resident on the host") + &at_most(cell.peak[1], "on the device");
    say(&format!("  {} MiB of activations, {} MiB of weights{peak}\n", mib(cell.activations), mib(cell.weights)))
}

/// How the cost of a picture grows, against the first cell.
fn growth(cells: &[Cell]) -> Result<()> {
    let mut rows = vec![["", "s a picture", "against the first", "MiB of activations"].map(str::to_owned).to_vec()];
    rows.extend(cells.iter().map(|cell| {
        let times = format!("{:.2}×", cell.each() / cells[0].each());
        vec![title(&cell.request), format!("{:.3}", cell.each()), times, mib(cell.activations).to_string()]
    }));
    aligned(&rows).iter().try_for_each(|line| say(line))
}

fn markdown(cells: &[Cell], model: &str) -> Result<()> {
    say(&format!("{model} on {}, seconds, median (least to most)\n", cells[0].device))?;
    say(&format!("| | {} | picture | peak MiB on the host | on the device |", PARTS.join(" | ")))?;
    say(&format!("|---|{}", "---|".repeat(PARTS.len() + 3)))?;
    for cell in cells {
        let part = |i| {
            let Spread { median, min, max, .. } = cell.spread(i);
            format!("{median:.3} ({min:.3} to {max:.3})")
        };
        let parts: Vec<String> = (0..=PARTS.len()).map(part).collect();
        let [host, device] = cell.peak.map(|peak| peak.map_or("-".into(), |bytes| mib(bytes).to_string()));
        say(&format!("| {} | {} | {host} | {device} |", title(&cell.request), parts.join(" | ")))?;
    }
    Ok(())
}

fn json(cell: &Cell) -> Value {
    let part = |(i, (name, values)): (usize, &(&'static str, Vec<f64>))| {
        let Spread { median, min, max, .. } = cell.spread(i);
        ((*name).to_owned(), json!({ "median": median, "min": min, "max": max, "runs": values }))
    };
    let Request { width, height, count, steps, guidance, .. } = cell.request;
    json!({
        "width": width, "height": height, "count": count, "steps": steps, "guidance": guidance,
        "seconds": serde_json::Map::from_iter(cell.seconds.iter().enumerate().map(part)),
        "seconds_a_picture": cell.each(),
        "activation_bytes": cell.activations, "weight_bytes": cell.weights,
        "peak_host_bytes": cell.peak[0], "peak_device_bytes": cell.peak[1],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("1024"), Ok((1024, 1024)));
        assert_eq!(parse_size("1152x896"), Ok((1152, 896)));
        for bad in ["", "100", "0", "1024x", "x", "1024x100", "-8", "64x64x64"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
