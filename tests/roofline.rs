//! How fast the CUDA kernels can be on an H100, by count: `kernels/ROOFLINE.md`, for every shape that a picture of 1024×1024
//! pixels has with the large model and guidance. Shapes come from a recorded plan, blocks from the registry, registers from
//! the table of registers, and what a kernel moves from the line `Counts` of its header:
//!
//! ```text
//! // Counts     x halo TILE_H TILE_W, weight tile, y once; 16 bytes a thread
//! ```
//!
//! It says, for every operand in order and then for the result, how often it moves between the L2 cache and an SM: `once` or
//! `twice`; `tile`, as a whole for every tile of pixels; `halo`, with a border of one pixel around tiles of this extent. `scratch
//! 2` counts scratch memory that passes share, written and read. Then follow the bytes in flight at once: `bytes a thread`,
//! `row a warp` or `halo a block`.
//!
//! What it expects takes the rates that others have measured instead of the data sheet's. `CASCADE_ROOFLINE=update` writes the table
//! anew. Nothing in it was measured with these kernels.

#[path = "roofline/estimate.rs"]
mod estimate;
#[path = "roofline/measured.rs"]
mod measured;

use std::fmt::Write;
use std::path::Path;

use cascade_rt::measure::task::{Task, distinct};
use cascade_rt::ops::{Element, Function, GroupNorm, Linear};
use cascade_rt::pipeline;
use cascade_rt::plan::{Plan, Recorder, Source};
use cascade_rt::registry::{self, Caps, Lang, Launch, Target};
use cascade_rt::request::Request;
use cascade_rt::shape::Shape;
use cascade_rt::synth::{self, Preset};

use estimate::{estimate, geometry, h100};

/// Shapes that take less time than this at the roofline are left out, seconds: a launch takes longer.
const SMALL: f64 = 1.5e-6;

/// What a row must reach, percent: of the roofline, or of what the best tiling would reach.
const WANTED: f64 = 80.0;

/// The parts of a picture that are summed up.
const PARTS: [&str; 5] = [
    "linear layers",
    "linear layers with GRN's scale",
    "attention",
    "Stage A's convolutions and feed-forward",
    "all others",
];

/// A line of the table: one op at one shape. Times are seconds of a call.
struct Line {
    kernel: &'static str,
    operands: String,
    /// Index into [`PARTS`].
    part: usize,
    calls: usize,
    launches: usize,
    roof: f64,
    by_count: f64,
    any: Option<f64>,
    with_ends: f64,
    others: Option<f64>,
    expected: f64,
    limit: &'static str,
    cells: [String; 6],
}

impl Line {
    /// Seconds of its launches if they did nothing.
    fn launching(&self) -> f64 {
        self.launches as f64 * measured::LAUNCH
    }
}

/// What shapes that are left out take at the roofline, seconds, and their launches.
#[derive(Default)]
struct Small {
    seconds: f64,
    launches: usize,
}

/// A plan of ops that no stage has, at shapes that other networks have.
fn others() -> Plan {
    let mut rec = Recorder::new();
    for (side, c) in [(64, 320), (32, 640)] {
        let shapes = [Shape::new(2, side, side, c), Shape::vector(c), Shape::vector(c)];
        let inputs = shapes.map(|shape| Some(Source::Slot(rec.input(shape, Element::F32))));
        let op = GroupNorm { groups: 32, eps: 1e-5, function: Function::Silu };
        rec.node("group_norm", op, &inputs).expect("the shapes fit");
    }
    rec.finish()
}

/// Adds a line for every distinct op of a plan that is not small, with its number of calls where they are `counted`. Returns what
/// the small ones take.
fn add_lines(lines: &mut Vec<Line>, plan: &Plan, counted: bool) -> Small {
    let target = Target::new(Lang::Cuda, Caps::SM90A.and(Caps::ROUND_BF16));
    let mut small = Small::default();
    for (task, calls) in distinct(plan, true) {
        let calls = if counted { calls } else { 0 };
        let node = plan.nodes.iter().find(|node| Task::of(plan, node, true) == task).expect("the task is of the plan");
        let kernel = registry::choose(node, plan, target).0;
        let Launch::Cuda(cuda) = kernel.launch else { panic!("rows of CUDA are CUDA") };
        let cost = plan.cost(node, true);
        let flops = if kernel.needs.contains(Caps::ROUND_BF16) { cost.flops as f64 } else { 0.0 };
        let roof = (cost.bytes as f64 / h100::MEMORY).max(flops / (h100::FLOP * h100::SMS * h100::CLOCK));
        if roof < SMALL {
            small.seconds += roof * calls as f64;
            small.launches += calls * cuda.passes.len();
            continue;
        }
        let estimate = estimate(plan, node, kernel);
        let ((by_count, limit), moved) = (estimate.by_count(), estimate.moved);
        let launches = cuda.passes.len();
        // Nobody has measured these kernels: they are expected to be no faster than the best libraries are at such sizes.
        let own = estimate.at_measured_rates() + launches as f64 * measured::LAUNCH;
        let expected = estimate.others.map_or(own, |others| own.max(others));
        let part = match kernel.op {
            "linear" => usize::from(node.inputs[Linear::SCALE].is_some()),
            "attention" => 2,
            "conv_transpose2d" | "feed_forward" => 3,
            _ => 4,
        };
        let (blocks, threads, at_once) = geometry(node, &cuda);
        let cells = [
            format!("{:.1}", cost.bytes as f64 / 1e6),
            moved.map_or_else(String::new, |(l2, _)| format!("{:.1}", l2 / 1e6)),
            format!("{:.2}", cost.flops as f64 / 1e9),
            format!("{blocks} × {threads}"),
            format!("{:.2}", blocks / (at_once as f64 * h100::SMS)),
            moved.map_or_else(String::new, |(_, bytes)| format!("{:.0}", bytes / 1024.0)),
        ];
        lines.push(Line {
            kernel: kernel.name,
            operands: task.to_string(),
            part,
            calls,
            launches,
            roof,
            by_count,
            any: estimate.any,
            with_ends: estimate.with_ends(),
            others: estimate.others,
            expected,
            limit,
            cells,
        });
    }
    small
}

#[test]
fn kernels_reach_what_the_roofline_allows_by_count() {
    let model = synth::in_memory(Preset::Large).expect("it is made in memory");
    let request = Request { prompts: vec![String::new()], guidance: (4.0, 0.0), ..Request::default() };
    let plan = pipeline::plan(&model, &request).expect("the networks fit together");
    let mut lines = Vec::new();
    let small = add_lines(&mut lines, &plan, true);
    add_lines(&mut lines, &others(), false);

    let (mut table, mut wrong) = (format!("{HEADER}{}{COLUMNS}", summary(&lines, &small)), Vec::new());
    for line in &lines {
        let Line { kernel, operands, calls, roof, by_count, with_ends, limit, expected, .. } = line;
        let share = 100.0 * roof / by_count;
        let of_any = line.any.map_or(share, |any| 100.0 * any / by_count);
        let any = line.any.map_or(String::new(), |any| format!("{:.0} %", 100.0 * roof / any));
        let others = line.others.map_or(String::new(), |others| format!("{:.1}", 1e6 * others));
        let (with_ends, all) = (100.0 * roof / with_ends, 1e3 * expected * *calls as f64);
        let (roof, expected, cells) = (1e6 * roof, 1e6 * expected, line.cells.join(" | "));
        let row = format!(
            "| `{kernel}` | {operands} | {cells} | {roof:.1} | {limit} | {share:.0} % | {any} | {with_ends:.0} % | {others} \
             | {expected:.1} | {calls} | {all:.2} |"
        );
        writeln!(table, "{row}").unwrap();
        if share.max(of_any).round() < WANTED {
            wrong.push(row);
        }
    }
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/ROOFLINE.md");
    if std::env::var("CASCADE_ROOFLINE").is_ok_and(|value| value == "update") {
        std::fs::write(&at, &table).unwrap();
    }
    let current = std::fs::read_to_string(&at).unwrap_or_default() == table;
    assert!(wrong.is_empty(), "below {WANTED} %:\n{}", wrong.join("\n"));
    assert!(
        current,
        "kernels/ROOFLINE.md is not what the kernels count; CASCADE_ROOFLINE=update cargo test --test roofline writes it"
    );
}

/// Sums of all calls of a picture, by part, and what is lost to what.
fn summary(lines: &[Line], small: &Small) -> String {
    let all = |of: &dyn Fn(&Line) -> f64, part: Option<usize>| {
        let lines = lines.iter().filter(|line| part.is_none_or(|part| line.part == part));
        1e3 * lines.map(|line| of(line) * line.calls as f64).sum::<f64>()
    };
    let mut text = String::from("| part | data sheet | by count | with ends | expected |\n|---|---|---|---|---|\n");
    let mut row = |name: &str, times: [f64; 4]| {
        writeln!(text, "| {name} | {} |", times.map(|ms| format!("{ms:.1}")).join(" | ")).unwrap();
    };
    let columns: [fn(&Line) -> f64; 4] = [|l| l.roof, |l| l.by_count, |l| l.with_ends, |l| l.expected];
    let times = |part| columns.map(|of| all(&of, part));
    for (i, part) in PARTS.iter().enumerate() {
        row(part, times(Some(i)));
    }
    let (roof, launching) = (1e3 * small.seconds, 1e3 * small.launches as f64 * measured::LAUNCH);
    row(&format!("{} launches that are left out", small.launches), [roof, roof, roof, roof + launching]);
    let sum = times(None).map(|ms| ms + roof);
    row("**all**", [sum[0], sum[1], sum[2], sum[3] + launching]);

    let launches = lines.iter().map(|line| line.launches * line.calls).sum::<usize>() + small.launches;
    let rates = |line: &Line| line.expected - line.with_ends - line.launching();
    let mut losses = [
        (
            all(&|l| l.by_count - l.roof, None),
            "tiles: SMs that idle in the last wave, copies and shared memory that take longer than the MMAs, halos",
        ),
        (
            all(&|l| l.with_ends - l.by_count, None),
            "begins and ends of blocks, during which the tensor cores of an SM with one block idle",
        ),
        (all(&|l| l.launching(), None) + launching, "launches"),
        (
            all(&rates, Some(0)) + all(&rates, Some(1)),
            "linear layers: the rates that others measured are below the data sheet's",
        ),
        (all(&rates, Some(2)), "attention: its softmax, next to which nobody keeps the tensor cores busy"),
        (
            all(&rates, Some(3)) + all(&rates, Some(4)),
            "all else: the rates that others measured are below the data sheet's",
        ),
    ];
    losses.sort_by(|a, b| b.0.total_cmp(&a.0));
    writeln!(
        text,
        "\nA picture takes {launches} launches. Between the data sheet and what is expected, the largest losses are:\n"
    )
    .unwrap();
    for (i, (ms, what)) in losses.iter().take(3).enumerate() {
        writeln!(text, "{}. {ms:.0} ms: {what}", i + 1).unwrap();
    }
    let rest: Vec<_> =
        losses[3..].iter().map(|(ms, what)| format!("{ms:.0} ms ({})", what.split(':').next().unwrap())).collect();
    writeln!(text, "\nThe others: {}.\n\n## Rates\n", rest.join(", ")).unwrap();
    text += "| | data sheet | measured by others | source |\n|---|---|---|---|\n";
    for measured::Rate { what, data_sheet, measured, source } in &measured::RATES {
        writeln!(text, "| {what} | {data_sheet} | {measured} | {source} |").unwrap();
    }
    text
}

const HEADER: &str = "# How fast the kernels can be

Made by `tests/roofline.rs`, which says how; **nothing in it was measured with these kernels**. An H100 SXM, a picture of 1024×1024 pixels
with the large model, `--dtype bf16`, guidance in Stage C, 20 + 10 steps. Milliseconds:

";

const COLUMNS: &str = "
## Shapes

Shapes that take less than 1.5 µs at the roofline are left out here: a launch takes about as long.

* *must*: MB that the op has to move, each byte once
* *by L2*: MB that the kernel moves between the L2 cache and SMs, with halos, weights that are read for every tile, and scratch memory
* *blocks*: of the largest launch, and threads of each; *waves*: blocks divided by how many run at once
* *in flight*: KiB that an SM has requested at once; bandwidth times latency is 20
* *roof*: µs that memory or the tensor cores take at least, by the data sheet
* *limit*: what takes longest in this kernel. `tiles` is the estimate of `registry/cuda/tiling.rs` (MMAs, copies from L2, shared memory),
  `blocks` the time of the busiest SM: its MMAs, with the last tile of keys padded, and loads and stores that nothing overlaps
* *share*: of what the roofline allows, by count of bytes and FLOP; a kernel cannot be faster than that
* *best tiling*: the share that a linear layer would have with the best of all tilings whose accumulators fit registers, with a split-K
  of one to eight. With few rows, each of 132 SMs has little to multiply and much to read. *share* is at least 80 %, or 80 % of this
* *with ends*: the share if begins and ends of blocks count too: barriers, descriptors and the first copies, which take 1800 cycles
  until the first MMA of a GEMM; the first loads of other kernels; epilogues. What a dependent launch does before it waits for the
  previous one is counted in full, since nobody has measured how much of it is hidden
* *others*: µs that others' kernels take for as many FLOP: cuBLAS for a GEMM of at least 256 rows, FlashAttention-3 for attention, though
  with 128 channels per head, twice as many FLOP for each exponential as here
* *expected*: µs. The count with ends, but with the memory and the tensor cores at the rates that others measured, and launches; and
  no less than *others*
* *ms*: of all calls of a picture, as expected; none where no stage has the op

`grn_scale.split` is counted as if it read x; after a linear layer that stores sums of squares it reads a 30th of that.

| kernel | operands | must | by L2 | GFLOP | blocks | waves | in flight | roof | limit | share | best tiling | with ends | others | expected | calls | ms |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
";
