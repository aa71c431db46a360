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
//! `CASCADE_ROOFLINE=update` writes the table anew. Nothing in it was measured.

#[path = "roofline/estimate.rs"]
mod estimate;

use std::fmt::Write;
use std::path::Path;

use cascade_rt::measure::task::{Task, distinct};
use cascade_rt::ops::{Element, Function, GroupNorm};
use cascade_rt::pipeline;
use cascade_rt::plan::{Plan, Recorder, Source};
use cascade_rt::registry::{self, Caps, Lang, Launch, Target};
use cascade_rt::request::Request;
use cascade_rt::shape::Shape;
use cascade_rt::synth::{self, Preset};

use estimate::{Estimate, estimate, geometry, h100};

/// Shapes that take less time than this at the roofline are left out, seconds: a launch takes longer.
const SMALL: f64 = 1.5e-6;

/// What a row must reach, percent: of the roofline, or of what the best tiling would reach.
const WANTED: f64 = 80.0;

/// A line of the table.
struct Line {
    kernel: &'static str,
    operands: String,
    calls: usize,
    roof: f64,
    seconds: f64,
    any: Option<f64>,
    with_ends: Option<f64>,
    limit: &'static str,
    cells: [String; 6],
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

/// Adds a line for every distinct op of a plan that is not small, with its number of calls where they are `counted`. Returns the
/// seconds that the small ones take at the roofline.
fn add_lines(lines: &mut Vec<Line>, plan: &Plan, counted: bool) -> f64 {
    let target = Target::new(Lang::Cuda, Caps::SM90A.and(Caps::ROUND_BF16));
    let mut small = 0.0;
    for (task, calls) in distinct(plan, true) {
        let calls = if counted { calls } else { 0 };
        let node = plan.nodes.iter().find(|node| Task::of(plan, node, true) == task).expect("the task is of the plan");
        let kernel = registry::choose(node, plan, target).0;
        let Launch::Cuda(cuda) = kernel.launch else { panic!("rows of CUDA are CUDA") };
        let cost = plan.cost(node, true);
        let flops = if kernel.needs.contains(Caps::ROUND_BF16) { cost.flops as f64 } else { 0.0 };
        let roof = (cost.bytes as f64 / h100::MEMORY).max(flops / (h100::FLOP * h100::SMS * h100::CLOCK));
        if roof < SMALL {
            small += roof * calls as f64;
            continue;
        }
        let Estimate { seconds, limit, any, with_ends, moved } = estimate(plan, node, kernel);
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
            calls,
            roof,
            seconds,
            any,
            with_ends,
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

    let (mut table, mut wrong) = (String::from(HEADER), Vec::new());
    for line in &lines {
        let Line { kernel, operands, calls, roof, seconds, any, with_ends, limit, cells } = line;
        let share = 100.0 * roof / seconds;
        let of_any = any.map_or(share, |any| 100.0 * any / seconds);
        let any = any.map_or(String::new(), |any| format!("{:.0} %", 100.0 * roof / any));
        let (with_ends, all) = match with_ends {
            Some(all) => (format!("{:.0} %", 100.0 * roof / all), all),
            None => (String::new(), seconds),
        };
        let (roof, all) = (1e6 * roof, 1e3 * all * *calls as f64);
        let cells = cells.join(" | ");
        let row = format!(
            "| `{kernel}` | {operands} | {cells} | {roof:.1} | {limit} | {share:.0} % | {any} | {with_ends} | {calls} | {all:.2} |"
        );
        writeln!(table, "{row}").unwrap();
        if share.max(of_any).round() < WANTED {
            wrong.push(row);
        }
    }
    let all = |time: fn(&Line) -> f64| 1e3 * lines.iter().map(|line| time(line) * line.calls as f64).sum::<f64>();
    let (roof, seconds, small) =
        (all(|line| line.roof), all(|line| line.with_ends.unwrap_or(line.seconds)), 1e3 * small);
    write!(table, "\nAll of these: {roof:.1} ms at the roofline, {seconds:.1} ms by count; what is left out, {small:.1} ms at the roofline.\n").unwrap();
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

const HEADER: &str = "# How fast the kernels can be

Made by `tests/roofline.rs`, which says how; **nothing in it was measured**. An H100 by its data sheet, a picture of 1024×1024 pixels
with the large model, `--dtype bf16`, guidance in Stage C, 20 + 10 steps. Shapes that take less than 1.5 µs at the roofline are left
out: a launch takes longer.

* *must*: MB that the op has to move, each byte once
* *by L2*: MB that the kernel moves between the L2 cache and SMs, with halos, weights that are read for every tile, and scratch memory
* *blocks*: of the largest launch, and threads of each; *waves*: blocks divided by how many run at once
* *in flight*: KiB that an SM has requested at once; bandwidth times latency is 20
* *roof*: µs that memory or the tensor cores take at least
* *limit*: what takes longest in this kernel. `tiles` is the estimate of `registry/cuda/tiling.rs` (MMAs, copies from L2, shared memory),
  `blocks` the time of the busiest SM: its MMAs, with the last tile of keys padded, and loads and stores that nothing overlaps
* *share*: of what the roofline allows, by count of bytes and FLOP; a kernel cannot be faster than that
* *best tiling*: the share that a linear layer would have with the best of all tilings whose accumulators fit registers, with a split-K
  of one to eight. With few rows, each of 132 SMs has little to multiply and much to read. *share* is at least 80 %, or 80 % of this
* *with ends*: the share if prologues and epilogues of blocks count too, as far as they are estimated; launches do not count
* *ms*: of all calls of a picture, with ends; none where no stage has the op

`grn_scale.split` is counted as if it read x; after a linear layer that stores sums of squares it reads a 30th of that.

| kernel | operands | must | by L2 | GFLOP | blocks | waves | in flight | roof | limit | share | best tiling | with ends | calls | ms |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
";
