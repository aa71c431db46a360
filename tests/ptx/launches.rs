//! What the PTX of a kernel does before the previous launch is over (programmatic dependent launch, `kernels/README.md`).
//!
//! A launch may begin while writes of the one before it are in flight. Until a thread has waited for them
//! (`griddepcontrol.wait`), it may use registers, parameters and shared memory, and of global memory read only operands that no
//! launch writes: those for which the kernel's row asks [`Fit::Learned`]. Every thread waits once, on every path.

use std::collections::HashSet;

use cascade_rt::registry::cuda::{Cuda, Tile};
use cascade_rt::registry::{Fit, Kernel, Lang, Launch, kernels};

const WAIT: &str = "griddepcontrol.wait;";
const NEXT: &str = "griddepcontrol.launch_dependents;";

/// Where `Args` (kernels/common.cuh) has the addresses of operands, in bytes.
const OPERANDS: usize = 8;

/// Bytes of a tensor map in `Maps` (kernels/hopper.cuh).
const MAP: usize = 128;

/// Instructions that touch no memory, or only a block's own and that of its cluster.
const HARMLESS: &[&str] = &[
    "mov.",
    "add.",
    "sub.",
    "mul.",
    "mad.",
    "fma.",
    "div.",
    "rem.",
    "min.",
    "max.",
    "neg.",
    "shl.",
    "shr.",
    "and.",
    "or.",
    "xor.",
    "not.",
    "setp.",
    "selp.",
    "cvt.",
    "cvta.",
    "prmt.",
    "bra",
    "bar.",
    "barrier.cluster.",
    "shfl.",
    "mbarrier.",
    "mapa.",
    "fence.mbarrier_init.",
    "fence.proxy.async.",
    "ld.param.",
    "ld.shared",
    "st.shared",
    "prefetch.tensormap",
    "{",
    "}",
    "$",
];

/// What of global memory a kernel may read early.
#[derive(Debug, Default)]
struct Early {
    /// Operands, by where their addresses lie in `Args`.
    operands: HashSet<usize>,
    /// Tensor maps, by where they lie in `Maps`.
    maps: HashSet<usize>,
}

impl Early {
    fn of(kernel: &Kernel, cuda: &Cuda) -> Early {
        let learned = |operand| kernel.fit.contains(&Fit::Learned(operand));
        // What another pass lays out is written by a launch.
        let in_place = |tile: &Tile| !matches!(tile, Tile::Columns { laid_out: Some(_), .. });
        let maps = (0..).zip(cuda.tiles).filter(|(_, tile)| learned(tile.operand()) && in_place(tile));
        Early {
            operands: (0..8).filter(|i| learned(*i)).map(|i| OPERANDS + 8 * i).collect(),
            maps: maps.map(|(i, _)| MAP * i).collect(),
        }
    }
}

/// What an address may have been computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    /// The 8 bytes at this offset of `Args`.
    Loaded(usize),
    /// This offset of parameter 0, `Args`, or 1, `Maps`.
    Parameter(usize, usize),
    /// Something else.
    Unknown,
}

/// The instructions of an entry; a label is one, with its colon.
struct Entry<'a>(Vec<&'a str>);

impl<'a> Entry<'a> {
    /// Each entry of a PTX, by its name.
    fn all(ptx: &'a str) -> Vec<(&'a str, Entry<'a>)> {
        let entries = ptx.split(".entry ").skip(1);
        let entry = |text: &'a str| {
            let (name, rest) = text.split_once('(').expect("parameters follow");
            let body = rest.split_once("\n{").and_then(|(_, body)| body.rsplit_once("\n}")).expect("it has a body").0;
            let lines = body.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['.', '/']));
            (name, Entry(lines.collect()))
        };
        entries.map(entry).collect()
    }

    /// The instructions that a thread may execute before it waits, and whether it may end without.
    fn before_wait(&self) -> (Vec<usize>, bool) {
        let (mut seen, mut next, mut ends) = (HashSet::new(), vec![0], false);
        while let Some(i) = next.pop() {
            let Some(&instruction) = self.0.get(i) else {
                ends = true;
                continue;
            };
            if instruction == WAIT || !seen.insert(i) {
                continue;
            }
            let (condition, does) = match instruction.split_once(' ') {
                Some((condition, rest)) if condition.starts_with('@') => (true, rest.trim()),
                _ => (false, instruction),
            };
            if does.starts_with("bra") {
                let label = does.trim_end_matches(';').split_whitespace().last().expect("a label");
                next.extend(self.0.iter().position(|i| i.strip_suffix(':') == Some(label)));
            }
            ends |= [NEXT, "ret;", "exit;"].contains(&does);
            if condition || !["bra", "ret;", "exit;"].iter().any(|leaves| does.starts_with(leaves)) {
                next.push(i + 1);
            }
        }
        let mut before: Vec<usize> = seen.into_iter().collect();
        before.sort_unstable();
        (before, ends)
    }

    /// What a register may hold, as far as addresses go.
    fn origins(&self, register: &str, seen: &mut HashSet<String>) -> HashSet<Origin> {
        if !seen.insert(register.into()) {
            return HashSet::new();
        }
        let mut all = HashSet::new();
        for instruction in &self.0 {
            let Some((does, operands)) = instruction.trim_end_matches(';').split_once([' ', '\t']) else { continue };
            let operands = operands.trim();
            let (to, from) = match operands.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                Some((to, from)) => (to, from.trim_start_matches(',')),
                None => operands.split_once(',').unwrap_or((operands, "")),
            };
            if !to.split(',').any(|one| one.trim() == register) {
                continue;
            }
            let from: Vec<&str> = from.split(',').map(str::trim).collect();
            if does.starts_with("ld.param.") {
                if does.ends_with("64") {
                    let to_there = to.split(',').position(|one| one.trim() == register).expect("it is there");
                    all.extend(self.address(from[0], seen).into_iter().map(|origin| match origin {
                        Origin::Parameter(0, at) => Origin::Loaded(at + 8 * to_there),
                        _ => Origin::Unknown,
                    }));
                }
            } else if does.starts_with("ld.") && does.ends_with("64") {
                all.insert(Origin::Unknown);
            } else if !does.starts_with("ld.") {
                all.extend(self.computed(does, &from, seen));
            }
        }
        all
    }

    /// What an instruction that touches no memory makes of the origins of its operands.
    fn computed(&self, does: &str, from: &[&str], seen: &mut HashSet<String>) -> HashSet<Origin> {
        let mut all: HashSet<Origin> = from.iter().flat_map(|operand| self.address(operand, seen)).collect();
        let moved: Option<usize> = match does {
            "add.s64" => from[1].parse().ok(),
            _ if does.starts_with("mov.") || does.starts_with("cvta.") => Some(0),
            _ => None,
        };
        all = all
            .into_iter()
            .map(|origin| match (origin, moved) {
                (Origin::Parameter(which, at), Some(by)) => Origin::Parameter(which, at + by),
                (Origin::Parameter(..), None) => Origin::Unknown,
                (other, _) => other,
            })
            .collect();
        all
    }

    /// What an operand refers to: `[name+offset]`, a register, or a parameter's name.
    fn address(&self, operand: &str, seen: &mut HashSet<String>) -> HashSet<Origin> {
        let operand = operand.trim_matches(['[', ']']);
        let (base, offset) = operand.split_once('+').unwrap_or((operand, "0"));
        let moved = |origin| match origin {
            Origin::Parameter(which, at) => Origin::Parameter(which, at + offset.parse::<usize>().expect("a number")),
            other => other,
        };
        if let Some((_, which)) = base.rsplit_once("_param_") {
            return [moved(Origin::Parameter(which.parse().expect("a number"), 0))].into();
        }
        if base.starts_with("%rd") { self.origins(base, seen).into_iter().map(moved).collect() } else { HashSet::new() }
    }

    /// Whether an instruction may come before the wait.
    fn is_harmless(&self, instruction: &str, early: &Early) -> bool {
        let does = match instruction.split_once(' ') {
            Some((condition, rest)) if condition.starts_with('@') => rest.trim(),
            _ => instruction,
        };
        let inside = does.split_once('[').map(|(_, rest)| rest.split([',', ']']).next().unwrap_or_default().trim());
        let is = |address: &str, wanted: &dyn Fn(Origin) -> bool| {
            let origins = self.address(address, &mut HashSet::new());
            !origins.is_empty() && origins.into_iter().all(wanted)
        };
        if does.starts_with("cp.async.bulk.tensor.") && does.contains(".global.") {
            let map = does.split('[').nth(2).and_then(|rest| rest.split(',').next()).unwrap_or_default();
            return is(map, &|origin| matches!(origin, Origin::Parameter(1, at) if early.maps.contains(&at)));
        }
        if does.starts_with("ld.global.") {
            let address = inside.expect("a load has an address");
            return is(address, &|origin| matches!(origin, Origin::Loaded(at) if early.operands.contains(&at)));
        }
        HARMLESS.iter().any(|start| does.starts_with(start))
    }

    /// What is wrong with an entry whose launch may begin before the one before it is over, if anything is.
    fn hurries(&self, early: &Early) -> Option<String> {
        let (before, ends) = self.before_wait();
        if ends || self.0.iter().filter(|i| **i == WAIT).count() != 1 {
            return Some("some thread does not wait, or waits twice".into());
        }
        if let Some(found) = before.iter().map(|i| self.0[*i]).find(|i| !self.is_harmless(i, early)) {
            return Some(format!("`{found}` comes before the wait"));
        }
        // A load that may be served from where nothing is made to agree: its memory would have to be the same from the
        // beginning of the launch, not only from the wait.
        if let Some(stale) = self.0.iter().find(|i| i.starts_with("ld.global.nc") || i.contains(" ld.global.nc")) {
            return Some(format!("`{stale}` may find what was there before the wait"));
        }
        // Of a block, the first thread to let the next launch in speaks for all: it must meet the others before, and there is
        // no other way out.
        let is_end = |end: &[&str]| end[0].starts_with("bar.sync") && end[1..] == [NEXT, "ret;"];
        let ends = |i: &&&str| [NEXT, "ret;", "exit;"].iter().any(|word| i.ends_with(word));
        let last = self.0.windows(3).any(is_end) && self.0.iter().filter(ends).count() == 2;
        (!last).then(|| "the next launch is not let in when all threads of a block are done".into())
    }
}

/// The rows of CUDA, with how they are launched.
fn rows() -> impl Iterator<Item = (&'static Kernel, Cuda)> {
    kernels(Lang::Cuda).map(|kernel| {
        let Launch::Cuda(cuda) = kernel.launch else { panic!("rows of CUDA are CUDA") };
        (kernel, cuda)
    })
}

#[test]
fn what_begins_early_reads_only_what_no_launch_writes() {
    let mut seen = 0;
    for (kernel, cuda) in rows() {
        let early = Early::of(kernel, &cuda);
        for (name, entry) in Entry::all(cuda.ptx_sm90) {
            assert_eq!(entry.hurries(&early), None, "{name}");
            seen += 1;
        }
        let of_hopper = kernel.name.ends_with(".sm90a");
        assert_eq!(cuda.ptx == cuda.ptx_sm90, of_hopper, "{}", kernel.name);
        assert_eq!(cuda.ptx.contains("griddepcontrol"), of_hopper, "{}: older machines do not know it", kernel.name);
    }
    assert!(seen > 50, "entries are found");
}

/// What needs no other launch's results is done while that launch ends: barriers, the meeting of a cluster's blocks, maps and
/// weights. Before the wait is every copy of the weights that fill the stages first.
#[test]
fn hopper_kernels_prepare_before_they_wait() {
    let mut seen = 0;
    for (kernel, cuda) in rows().filter(|(kernel, _)| kernel.name.ends_with(".sm90a")) {
        let (name, entry) = Entry::all(cuda.ptx).pop().expect("the last pass is the op");
        let (before, _) = entry.before_wait();
        let counted = |word: &str| before.iter().filter(|i| entry.0[**i].contains(word)).count();
        let clusters = cuda.number("CLUSTER_X").unwrap() * cuda.number("CLUSTER_Y").unwrap_or(1) > 1;
        let Early { operands, maps } = Early::of(kernel, &cuda);
        assert_eq!(counted("barrier.cluster.wait") > 0, clusters, "{name}");
        assert_eq!(counted("mbarrier.init") > 0, !cuda.tiles.is_empty(), "{name}");
        assert_eq!(counted("prefetch.tensormap"), cuda.tiles.len(), "{name}");
        assert_eq!(counted("cp.async.bulk.tensor") > 0, !maps.is_empty(), "{name}");
        assert_eq!(counted("ld.global") > 0, operands.len() > maps.len(), "{name}");
        seen += 1;
    }
    assert_eq!(seen, 12 + 2 + 3 + 2 + 2);
}

/// A GPU waits for all writes of a warp where a barrier of the cluster releases them: only where one publishes stores.
#[test]
fn barriers_of_clusters_release_where_there_is_something_to_publish() {
    let mut releasing = 0;
    for (_, cuda) in rows() {
        for (name, entry) in Entry::all(cuda.ptx_sm90) {
            let counted = |word: &str| entry.0.iter().filter(|i| i.contains(word)).count();
            let releases = counted("barrier.cluster.arrive.release");
            assert_eq!(releases > 0, counted("st.shared::cluster") > 0, "{name}");
            assert_eq!(counted("barrier.cluster.arrive"), counted("barrier.cluster.wait.acquire"), "{name}");
            releasing += releases;
        }
    }
    assert_eq!(releasing, 2, "the norms whose blocks exchange statistics");
}

#[test]
fn what_does_not_wait_is_found() {
    let hurries = |instructions: &[&str], early: &Early| Entry(instructions.to_vec()).hurries(early);
    let none = Early::default();
    let good = ["ld.param.u64 %rd1, [a_param_0+16];", WAIT, "bar.sync \t0;", NEXT, "ret;"];
    assert_eq!(hurries(&good, &none), None);
    for early in ["ld.global.f32 %f1, [%rd1];", "st.global.f32 [%rd1], %f1;", "@%p1 griddepcontrol.wait;"] {
        let found = hurries(&[&[early][..], &good].concat(), &none).expect("something comes before the wait");
        assert!(found.contains(early), "{found}");
    }
    // Round the wait: by a branch, or by an end.
    let round = [&["@%p1 bra \t$L__BB0_2;"], &good[..2], &["$L__BB0_2:"], &good[2..]].concat();
    let no_wait = [&good[..1], &good[2..]].concat();
    for bad in [round, no_wait, [&["ret;"], &good[..]].concat(), [&good[..2], &good[1..]].concat()] {
        assert!(hurries(&bad, &none).is_some_and(|found| found.contains("does not wait")), "{bad:?}");
    }
    // One of two ways to the wait stores.
    let branches = ["@%p1 bra \t$L__BB0_2;", "st.global.f32 [%rd1], %f1;", "$L__BB0_2:"];
    assert!(hurries(&[&branches, &good[..]].concat(), &none).is_some_and(|found| found.contains("st.global")));
    let without = |gone: &str| good.iter().copied().filter(|i| *i != gone).collect::<Vec<_>>();
    let later = [&good[..4], &["st.global.f32 [%rd1], %f1;", "ret;"]].concat();
    let elsewhere = [&good[..2], &["@%p1 ret;"], &good[2..]].concat();
    for bad in [without(good[2]), without(good[3]), later, elsewhere] {
        assert!(hurries(&bad, &none).is_some_and(|found| found.contains("not let in")), "{bad:?}");
    }
    let stale = [&good[..2], &["ld.global.nc.f32 %f1, [%rd1];"], &good[2..]].concat();
    assert!(hurries(&stale, &none).is_some_and(|found| found.contains("may find")));
}

#[test]
fn only_learned_operands_are_read_early() {
    let early = Early { operands: [OPERANDS + 8].into(), maps: [MAP].into() };
    let end = [WAIT, "bar.sync \t0;", NEXT, "ret;"];
    let hurries = |before: &[&str]| Entry([before, &end].concat()).hurries(&early);
    let index = "ld.param.u32 %r1, [a_param_0+80];";
    let copy = "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd3, {%r2, %r3, %r4}], [%r5];";
    let weight = [
        index,
        "ld.param.u64 %rd1, [a_param_0+16];",
        "mul.wide.u32 \t%rd2, %r1, 4;",
        "add.s64 \t%rd3, %rd1, %rd2;",
        "ld.global.f32 %f1, [%rd3+8];",
    ];
    let map = ["mov.b64 \t%rd1, a_param_1;", "add.s64 \t%rd2, %rd1, 128;", "cvta.param.u64 \t%rd3, %rd2;", copy];
    assert_eq!((hurries(&weight), hurries(&map)), (None, None));
    // Another operand, a pair of addresses of which one is another, one that may be either, one that comes from memory.
    let instead = |all: &[&'static str], i: usize, by: &[&'static str]| [&all[..i], by, &all[i + 1..]].concat();
    let bad = [
        instead(&weight, 1, &["ld.param.u64 %rd1, [a_param_0+8];"]),
        instead(&weight, 1, &["ld.param.v2.u64 {%rd9, %rd1}, [a_param_0+16];"]),
        instead(
            &weight,
            1,
            &[weight[1], "@%p1 ld.param.u64 %rd1, [a_param_0+24];", "ld.param.u64 %rd1, [a_param_0+24];"],
        ),
        instead(&weight, 1, &["ld.shared.u64 %rd1, [%r1];"]),
        instead(&weight, 1, &["mov.u64 \t%rd1, 0;"]),
        instead(&map, 1, &["add.s64 \t%rd2, %rd1, 0;"]),
        instead(&map, 1, &["add.s64 \t%rd2, %rd1, %rd9;"]),
    ];
    for before in bad {
        let found = hurries(&before).unwrap_or_else(|| panic!("{before:?} reads what a launch may write"));
        assert!(found.contains("comes before the wait"), "{found}");
    }
}

/// The same in the PTX of real kernels, broken on purpose: x for the weight, and the wait behind the first loads of x.
#[test]
fn kernels_that_read_activations_early_are_found() {
    let row = |name: &str| rows().find(|(kernel, _)| kernel.name == name).expect("there is such a row");
    let broken = |name: &str, change: &dyn Fn(&str) -> String| {
        let (kernel, cuda) = row(name);
        let (before, after) = cuda.ptx.split_once(WAIT).expect("it waits");
        let ptx = change(before) + after;
        assert_ne!(ptx, cuda.ptx, "{name}");
        Entry::all(&ptx)[0].1.hurries(&Early::of(kernel, &cuda))
    };
    let x_for_weight = |before: &str| {
        let (start, copies) = before.rsplit_once("barrier.cluster.wait").unwrap();
        format!("{start}barrier.cluster.wait{}{WAIT}", copies.replace(", 128;", ", 0;"))
    };
    for name in ["linear.192x192.sm90a", "linear.128x80.split4.sm90a", "conv_transpose2d.128x160.sm90a"] {
        let found = broken(name, &x_for_weight).expect("it copies x early");
        assert!(found.contains("cp.async.bulk.tensor") && found.contains("before the wait"), "{name}: {found}");
    }
    // A launch that packs the weight writes what the next one copies.
    let (_, cuda) = row("conv_transpose2d.4x4.sm90a");
    let (kernel, of_others) = row("conv_transpose2d.128x160.sm90a");
    assert!(Early::of(kernel, &cuda).maps.is_empty() && !Early::of(kernel, &of_others).maps.is_empty());
    // Without its wait, and with one at the end instead.
    for name in ["attention.192.sm90a", "depthwise_norm.512.sm90a", "feed_forward.384.sm90a"] {
        let (kernel, cuda) = row(name);
        let late = cuda.ptx.replacen(WAIT, "", 1).replacen(NEXT, &format!("{WAIT}\n{NEXT}"), 1);
        let found = Entry::all(&late)[0].1.hurries(&Early::of(kernel, &cuda)).expect("it waits too late");
        assert!(found.contains("before the wait"), "{name}: {found}");
    }
}
