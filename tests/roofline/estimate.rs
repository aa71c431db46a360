//! What a kernel takes on an H100, by count of bytes and FLOP.

use cascade_rt::ops::{Attention, ConvTranspose2d, Element, FeedForward, Linear};
use cascade_rt::plan::{Node, Plan, Source};
use cascade_rt::registry::cuda::{Cuda, Cycles, H100_SMS, Tiling};
use cascade_rt::registry::{self, Kernel, Launch};

use super::measured;

/// An H100 (SXM) by its data sheet, and by measurements of others where that says nothing.
pub mod h100 {
    /// Streaming multiprocessors.
    pub const SMS: f64 = super::H100_SMS as f64;
    /// Bytes from and to memory per second.
    pub const MEMORY: f64 = 3.35e12;
    /// Bytes between the L2 cache and all SMs per second; others have measured 5.5e12 to 7e12.
    pub const L2: f64 = 5.5e12;
    /// The same for one SM: 64 bytes per cycle.
    pub const L2_OF_ONE: f64 = 64.0 * CLOCK;
    /// Cycles per second.
    pub const CLOCK: f64 = 1.755e9;
    /// Latency of memory under load, seconds.
    pub const LATENCY: f64 = 800e-9;
    /// FLOP per cycle of an SM's tensor cores in bf16.
    pub const FLOP: f64 = 4096.0;
    /// Bytes that shared memory reads or writes per cycle.
    pub const SHARED: f64 = 128.0;
    /// Threads for which an SM issues an instruction per cycle.
    pub const LANES: f64 = 128.0;
    /// The share of it that mma.sync reaches, measured by others; wgmma reaches all.
    pub const MMA: f64 = 0.62;
}

/// Bytes of operand `i`, or of the result if there is no such operand.
fn bytes(plan: &Plan, node: &Node, i: usize) -> f64 {
    let size = |slot: usize| if plan.slots[slot].element == Element::GemmInput { 2 } else { 4 };
    let all = match node.inputs.get(i) {
        Some(Some(Source::Slot(slot))) => size(slot.id()) * node.op.reads(i, slot.shape, node.output.shape),
        Some(Some(Source::Weight(w, shape))) => {
            let stored: usize = plan.weights[*w].parts().iter().map(|part| part.bytes().len()).sum();
            stored / shape.elements().max(1) * node.op.reads(i, *shape, node.output.shape)
        }
        Some(None) => 0,
        None => size(node.output.id()) * node.output.shape.elements(),
    };
    all as f64
}

/// Rows or columns of `extent` that tiles of `tile` read, each with a border of one where there is any.
fn with_borders(extent: usize, tile: usize) -> f64 {
    let of = |first: usize| (first + tile + 1).min(extent) - first.saturating_sub(1);
    (0..extent).step_by(tile).map(of).sum::<usize>() as f64
}

/// Registers per thread and bytes of shared memory per block, from the table of registers.
fn takes(entry: &str) -> (u64, u64) {
    let table = include_str!("../../kernels/REGISTERS.md");
    let row = table.lines().find(|line| line.starts_with(&format!("| `{entry}` | sm_90")));
    let cells: Vec<_> = row.unwrap_or_else(|| panic!("{entry} is assembled for sm_90")).split('|').collect();
    (cells[3].trim().parse().unwrap(), cells[5].trim().parse().unwrap())
}

/// Blocks of a launch, threads per block, and how many blocks run at once on an SM.
pub fn geometry(node: &Node, cuda: &Cuda) -> (f64, u64, u64) {
    let of = |name: &str| cuda.number(name).expect("every row has its numbers");
    let blocks = |pass: &registry::Pass| pass.grid.iter().map(|axis| axis.resolve(node, of)).product::<u64>();
    let pass = cuda.passes.iter().max_by_key(|pass| blocks(pass)).expect("a row has passes");
    let threads = pass.warps.map_or(of("THREADS"), |warps| 32 * warps.resolve(node, of));
    let (registers, shared) = takes(pass.entry);
    // As tools/ptx: registers go to warps by 256, and a block takes 1 KiB of shared memory for the system.
    let by_registers = 65536 / ((registers * 32).next_multiple_of(256) * threads.div_ceil(32));
    let at_once = by_registers.min(2048 / threads).min((228 << 10) / (shared + 1024)).min(32);
    (blocks(pass) as f64, threads, at_once)
}

/// For a kernel whose header has `Counts`: bytes that pass L2, and bytes in flight per SM.
fn moved(plan: &Plan, node: &Node, cuda: &Cuda, counts: &str) -> (f64, f64) {
    let (times, in_flight) = counts.split_once("; ").expect("what is moved; what is in flight");
    let of = |words: &str| {
        words.split('*').map(|word| cuda.number(word).unwrap_or_else(|| panic!("no number {word}"))).product::<u64>()
            as usize
    };
    let out = node.output.shape;
    let tile = times.split(", ").find_map(|part| part.split_once("halo ")).and_then(|(_, tile)| tile.split_once(' '));
    let tile = tile.map(|(rows, columns)| (of(rows), of(columns)));
    let halo = tile.map_or(1.0, |(h, w)| with_borders(out.h, h) * with_borders(out.w, w) / out.tokens() as f64);
    let tiles = tile.map_or(1, |(h, w)| out.n * out.h.div_ceil(h) * out.w.div_ceil(w)) as f64;
    let mut all = 0.0;
    for i in (0..node.inputs.len()).filter(|i| node.inputs[*i].is_some()).chain([node.inputs.len()]) {
        let part = if i < node.inputs.len() {
            times.split(", ").nth(i)
        } else {
            times.split(", ").find(|part| part.starts_with("y "))
        };
        let often = match part.and_then(|part| part.split(' ').nth(1)).expect("every operand is counted") {
            "once" => 1.0,
            "twice" => 2.0,
            "halo" => halo,
            "tile" => tiles,
            word => panic!("{}: how often is {word}?", node.op.name()),
        };
        all += often * bytes(plan, node, i);
    }
    if let Some(often) = times.split(", ").find_map(|part| part.strip_prefix("scratch ")) {
        let of = |name: &str| cuda.number(name).expect("every row has its numbers");
        let elements: u64 = cuda.scratch.iter().map(|axis| axis.resolve(node, of)).product();
        all += 4.0 * elements as f64 * often.parse::<f64>().expect("how often");
    }
    let (blocks, threads, at_once) = geometry(node, cuda);
    let of_block = match in_flight {
        "row a warp" => bytes(plan, node, 0) / node.output.shape.rows() as f64 * threads as f64 / 32.0,
        "halo a block" => halo * bytes(plan, node, 0) / blocks,
        text => threads as f64 * text.strip_suffix(" bytes a thread").expect("a unit").parse::<f64>().unwrap(),
    };
    (all, of_block * (at_once as f64).min((blocks / h100::SMS).ceil()))
}

/// Something that a kernel cannot be faster than.
struct Limit {
    what: &'static str,
    /// By count of bytes and FLOP.
    seconds: f64,
    /// What blocks take besides, at their begin and end.
    ends: f64,
}

impl Limit {
    /// Memory, or what a kernel does with it: nothing moves before the first loads have come back.
    fn moving(what: &'static str, seconds: f64) -> Limit {
        Limit { what, seconds, ends: h100::LATENCY }
    }

    /// Seconds at the rates that others have measured, without ends.
    fn measured(&self) -> f64 {
        let data_sheet = match self.what {
            "memory" => h100::MEMORY / measured::MEMORY,
            "tiles" | "blocks" | "mma.sync" => h100::FLOP * h100::SMS * h100::CLOCK / measured::FLOP,
            _ => 1.0,
        };
        self.seconds * data_sheet
    }
}

/// How long a kernel takes.
pub struct Estimate {
    limits: Vec<Limit>,
    /// Seconds of a linear layer's best tiling, by count.
    pub any: Option<f64>,
    /// Seconds that others take for the same FLOP at such a size.
    pub others: Option<f64>,
    /// Bytes that pass L2, and bytes in flight per SM, where they are counted.
    pub moved: Option<(f64, f64)>,
}

impl Estimate {
    fn of(limits: Vec<Limit>) -> Estimate {
        Estimate { limits, any: None, others: None, moved: None }
    }

    fn most(&self, seconds: impl Fn(&Limit) -> f64) -> (f64, &'static str) {
        let limits = self.limits.iter().map(|limit| (seconds(limit), limit.what));
        limits.max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are some")
    }

    /// By count of bytes and FLOP, and what limits it.
    pub fn by_count(&self) -> (f64, &'static str) {
        self.most(|limit| limit.seconds)
    }

    /// The same with begins and ends of blocks.
    pub fn with_ends(&self) -> f64 {
        self.most(|limit| limit.seconds + limit.ends).0
    }

    /// The same at the rates that others have measured.
    pub fn at_measured_rates(&self) -> f64 {
        self.most(|limit| limit.measured() + limit.ends).0
    }
}

/// Cycles of the best tiling of a linear layer, by count, among those whose accumulators fit registers. No kernel of this kind
/// can be faster.
fn of_best_tiling(node: &Node) -> usize {
    let sizes = [(64, 256), (128, 256), (192, 192), (256, 96)];
    let mut cycles = Vec::new();
    for (rows, most) in sizes {
        for channels in (16..=most).step_by(16) {
            for cluster in [(1, 1), (1, 2), (2, 1)] {
                cycles.extend((1..=8).filter_map(|splits| {
                    Tiling { rows, channels, cluster, splits, pixels: (1, rows) }.of(node, H100_SMS)
                }));
            }
        }
    }
    cycles.iter().map(|cycles| cycles.gemm).min().expect("there are tilings")
}

/// The estimate of attention on Hopper.
fn of_attention(plan: &Plan, node: &Node, cuda: &Cuda, memory: f64) -> Estimate {
    let (blocks, ..) = geometry(node, cuda);
    // The busiest SM's queries, each with whole tiles of keys. A last tile of few keys is multiplied at a width of FEW or SOME,
    // and its values 16 at a time.
    let of = |name: &str| cuda.number(name).expect("every row has its numbers") as usize;
    let queries = (blocks / h100::SMS).ceil() * of("QUERIES") as f64;
    let tokens = |i: usize| node.inputs.get(i).copied().flatten().map_or(0, |source| source.shape().tokens());
    let [_, dim, own, _] = node.op.constants()[..] else { panic!("an attention has four constants") };
    let (tile, keys) = (of("KEYS"), [own as usize * tokens(Attention::X), tokens(Attention::CONTEXT)]);
    let last = keys.into_iter().rfind(|count| *count > 0).map_or(0, |count| (count - 1) % tile + 1);
    let before = keys.iter().map(|count| count.next_multiple_of(tile)).sum::<usize>() - tile;
    let narrow = [of("FEW"), of("SOME")].into_iter().find(|count| before > 0 && last <= *count).unwrap_or(tile);
    let scores = (before + narrow) as f64;
    let values = (before + narrow.next_multiple_of(16)) as f64;
    let flops = queries * 2.0 * (scores + values) * f64::from(dim);
    let ends = (blocks / h100::SMS).ceil() * Tiling::BEGIN as f64 / h100::CLOCK;
    let blocks = Limit { what: "blocks", seconds: flops / (h100::FLOP * h100::CLOCK), ends };
    Estimate {
        others: Some(measured::attention(keys.iter().sum(), plan.cost(node, true).flops as f64)),
        ..Estimate::of(vec![Limit::moving("memory", memory), blocks])
    }
}

/// The estimate of a feed-forward block on Hopper.
fn of_feed_forward(plan: &Plan, node: &Node, kernel: &Kernel, cuda: &Cuda, memory: f64) -> Estimate {
    let (blocks, ..) = geometry(node, cuda);
    // A strip of hidden values takes the longest of three: its MMAs; shared memory, which receives both weights and serves them
    // to two warpgroups, with the normed rows where these are there; and issuing the loop's instructions. Nothing overlaps
    // with loading the rows at the beginning and storing the result.
    let of = |name: &str| cuda.number(name).expect("every row has its numbers") as f64;
    let (rows, hidden, channels) = (of("TILE_M"), of("TILE_H"), of("C"));
    let mmas = 4.0 * rows * hidden * channels / h100::FLOP;
    // How often x is read; bytes of normed rows in shared memory; instructions of the loop, counted in SASS.
    let (reads, normed, instructions) = match kernel.name {
        "feed_forward.192.sm90a" => (1.0, 0.0, 666.0),
        _ => (2.0, 2.0 * rows * channels, 1179.0),
    };
    let shared = (3.0 * 4.0 * hidden * channels + normed) / h100::SHARED;
    let issued = instructions * of("THREADS") / h100::LANES;
    let strips = of("HIDDEN") / hidden * mmas.max(shared).max(issued) / h100::CLOCK;
    let moved = reads * bytes(plan, node, FeedForward::X) + bytes(plan, node, node.inputs.len());
    let moving = moved / blocks / h100::L2_OF_ONE;
    let waves = (blocks / h100::SMS).ceil();
    let ends = waves * Tiling::BEGIN as f64 / h100::CLOCK;
    let blocks = Limit { what: "blocks", seconds: waves * (strips + moving), ends };
    Estimate::of(vec![Limit::moving("memory", memory), blocks])
}

/// The estimate of a GEMM on Hopper, a linear layer's or a transposed convolution's. With scratch memory, a pass before
/// rearranges the weight.
fn of_tiles(plan: &Plan, node: &Node, cuda: &Cuda, memory: f64, Cycles { gemm, ends }: Cycles) -> Estimate {
    let rearranged = cuda.tiled_pass() == Some(1);
    let before = if rearranged { 2.0 * bytes(plan, node, ConvTranspose2d::WEIGHT) / h100::MEMORY } else { 0.0 };
    let tiles = before + gemm as f64 / h100::CLOCK;
    let tiles = Limit { what: "tiles", seconds: tiles, ends: ends as f64 / h100::CLOCK };
    let rows = node.inputs[Linear::X].expect("a GEMM has x").shape().rows();
    Estimate {
        others: measured::gemm(rows, plan.cost(node, true).flops as f64),
        ..Estimate::of(vec![Limit::moving("memory", memory), tiles])
    }
}

/// The estimate of a memory-bound kernel, whose header counts what it moves.
fn of_moved(plan: &Plan, node: &Node, kernel: &Kernel, cuda: &Cuda, memory: f64) -> Estimate {
    let (blocks, ..) = geometry(node, cuda);
    let cost = plan.cost(node, true);
    let counts = cuda.source.lines().find_map(|line| line.strip_prefix("// Counts     "));
    let (l2, in_flight) = moved(plan, node, cuda, counts.unwrap_or_else(|| panic!("{} counts nothing", kernel.name)));
    let reads = cost.bytes as f64 - bytes(plan, node, node.inputs.len());
    let of_busiest = l2 / blocks * (blocks / h100::SMS).ceil();
    let limits = vec![
        Limit::moving("memory", memory),
        Limit::moving("L2", l2 / h100::L2),
        Limit::moving("one SM", of_busiest / h100::L2_OF_ONE),
        Limit::moving("latency", reads * h100::LATENCY / (in_flight * blocks.min(h100::SMS))),
    ];
    Estimate { moved: Some((l2, in_flight)), ..Estimate::of(limits) }
}

/// The estimate of a kernel for a node.
pub fn estimate(plan: &Plan, node: &Node, kernel: &Kernel) -> Estimate {
    let Launch::Cuda(cuda) = &kernel.launch else { panic!("rows of CUDA are CUDA") };
    let cost = plan.cost(node, true);
    let memory = cost.bytes as f64 / h100::MEMORY;
    let on_tiles = ["linear", "conv_transpose2d"].contains(&kernel.op) && kernel.name.ends_with(".sm90a");
    let tiling = on_tiles.then(|| Tiling::stated_by(cuda)).flatten();
    match tiling.and_then(|tiling| tiling.of(node, H100_SMS)) {
        Some(cycles) => Estimate {
            any: (kernel.op == "linear").then(|| memory.max(of_best_tiling(node) as f64 / h100::CLOCK)),
            ..of_tiles(plan, node, cuda, memory, cycles)
        },
        None if kernel.name.ends_with(".mma") || kernel.name.ends_with(".mma_rows") => {
            let (blocks, _, at_once) = geometry(node, cuda);
            let at_once = at_once as f64 * h100::SMS;
            let padding = (blocks / at_once).ceil() * at_once / blocks;
            let mmas = cost.flops as f64 / (h100::FLOP * h100::SMS * h100::CLOCK);
            let mmas = Limit::moving("mma.sync", mmas / h100::MMA * padding);
            Estimate::of(vec![Limit::moving("memory", memory), mmas])
        }
        None if kernel.op == "attention" => of_attention(plan, node, cuda, memory),
        None if kernel.op == "feed_forward" => of_feed_forward(plan, node, kernel, cuda, memory),
        None => of_moved(plan, node, kernel, cuda, memory),
    }
}
