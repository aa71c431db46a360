//! What the PTX of a kernel does before the previous launch is over (programmatic dependent launch, `kernels/README.md`).
//!
//! A launch may begin while writes of the one before it are in flight. Until a thread has waited for them
//! (`griddepcontrol.wait`), it may use registers, parameters and shared memory, and of global memory read only operands that no
//! launch writes: those for which the kernel's row asks [`Fit::Learned`]. Every thread waits once, on every path.

use std::collections::HashSet;

use cascade_rt::registry::cuda::{Cuda, Tile};
use cascade_rt::registry::{Fit, Kernel};

pub const WAIT: &str = "griddepcontrol.wait;";
pub const NEXT: &str = "griddepcontrol.launch_dependents;";

/// Where `Args` (kernels/common.cuh) has the addresses of operands, in bytes.
pub const OPERANDS: usize = 8;

/// Bytes of a tensor map in `Maps` (kernels/hopper.cuh).
pub const MAP: usize = 128;

/// Instructions that touch no memory, or only a block's own and that of its cluster.
const HARMLESS: &str = "mov. add. sub. mul. mad. fma. div. rem. min. max. neg. shl. shr. and. or. xor. not. setp. selp. cvt. cvta. prmt. \
    bra bar. barrier.cluster. shfl. mbarrier. mapa. fence.mbarrier_init. fence.proxy.async. ld.param. ld.shared \
    st.shared prefetch.tensormap { } $";

/// What of global memory a kernel may read early.
#[derive(Debug, Default)]
pub struct Early {
    /// Operands, by where their addresses lie in `Args`.
    pub operands: HashSet<usize>,
    /// Tensor maps, by where they lie in `Maps`.
    pub maps: HashSet<usize>,
}

impl Early {
    pub fn of(kernel: &Kernel, cuda: &Cuda) -> Early {
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
pub struct Entry<'a>(pub Vec<&'a str>);

impl<'a> Entry<'a> {
    /// Each entry of a PTX, by its name.
    pub fn all(ptx: &'a str) -> Vec<(&'a str, Entry<'a>)> {
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
    pub fn before_wait(&self) -> (Vec<usize>, bool) {
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
            Origin::Parameter(which, at) => {
                let there = offset.parse().ok().and_then(|by: isize| at.checked_add_signed(by));
                there.map_or(Origin::Unknown, |at| Origin::Parameter(which, at))
            }
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
        HARMLESS.split(' ').any(|start| does.starts_with(start))
    }

    /// What is wrong with an entry whose launch may begin before the one before it is over, if anything is.
    pub fn hurries(&self, early: &Early) -> Option<String> {
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
