//! Launch geometry as data: how many workgroups a kernel of a GPU takes.

use crate::plan::Node;
use crate::shape::Shape;

/// Whose extent is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The result.
    Out,
    /// An operand; an absent one counts as one element.
    Operand(usize),
}

impl Of {
    /// The first operand, which every op has.
    pub const FIRST: Of = Of::Operand(0);
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A number.
    Exactly(usize),
    /// `n·h·w·c`.
    Elements(Of),
    /// `n·h·w`.
    Rows(Of),
    /// `h·w`.
    Tokens(Of),
    /// `n`.
    Images(Of),
    /// `h`.
    Lines(Of),
    /// `w`.
    Columns(Of),
    /// `c`.
    Channels(Of),
    /// A number of the kernel's source, by its name there.
    Number(&'static str),
    /// The sum of these.
    Sum(&'static [Axis]),
    /// The product of these.
    Product(&'static [Axis]),
    /// One of the op's [constants](crate::ops::Define::constants).
    Constant(usize),
}

/// Workgroups along one axis: a count divided by what one workgroup does, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axis {
    /// What is divided up.
    pub count: Count,
    /// How much of it one workgroup does: a number of the kernel's source, by its name
    /// there; empty for 1.
    pub per: &'static str,
}

impl Axis {
    /// A single workgroup.
    pub const ONE: Axis = Axis { count: Count::Exactly(1), per: "" };

    /// One workgroup for each.
    pub const fn each(count: Count) -> Axis {
        Axis { count, per: "" }
    }

    /// One workgroup for every `per`.
    pub const fn every(count: Count, per: &'static str) -> Axis {
        Axis { count, per }
    }

    /// The number of workgroups for `node`; `number` knows the kernel's tunables.
    pub fn resolve(&self, node: &Node, number: impl Fn(&str) -> u64) -> u64 {
        let of = |of| match of {
            Of::Out => node.output.shape,
            Of::Operand(i) => node.inputs[i].map_or(Shape::vector(1), |source| source.shape()),
        };
        let count = match self.count {
            Count::Exactly(number) => number,
            Count::Elements(tensor) => of(tensor).elements(),
            Count::Rows(tensor) => of(tensor).rows(),
            Count::Tokens(tensor) => of(tensor).tokens(),
            Count::Images(tensor) => of(tensor).n,
            Count::Lines(tensor) => of(tensor).h,
            Count::Columns(tensor) => of(tensor).w,
            Count::Number(name) => number(name) as usize,
            Count::Sum(axes) | Count::Product(axes) => {
                let number: &dyn Fn(&str) -> u64 = &number;
                let all = axes.iter().map(|axis| axis.resolve(node, number) as usize);
                if matches!(self.count, Count::Sum(_)) { all.sum() } else { all.product() }
            }
            Count::Channels(tensor) => of(tensor).c,
            Count::Constant(i) => node.op.constants()[i] as usize,
        };
        (count as u64).div_ceil(self.per(number))
    }

    /// How much of the count one workgroup does.
    pub fn per(&self, number: impl Fn(&str) -> u64) -> u64 {
        if self.per.is_empty() { 1 } else { number(self.per) }
    }
}

/// Workgroups along x, y and z. A grid of shaders may be longer along an axis than a device
/// allows: it is then dispatched in parts.
pub type Grid = [Axis; 3];

/// One workgroup for every `per` elements of the result.
pub const fn elements(per: &'static str) -> Grid {
    [Axis::every(Count::Elements(Of::Out), per), Axis::ONE, Axis::ONE]
}

/// One workgroup for every `per` rows (pixels) of the result.
pub const fn rows(per: &'static str) -> Grid {
    [Axis::every(Count::Rows(Of::Out), per), Axis::ONE, Axis::ONE]
}

/// One workgroup for every tile of channels by rows of the result.
pub const fn tiles(channels: &'static str, rows: &'static str) -> Grid {
    [Axis::every(Count::Channels(Of::Out), channels), Axis::every(Count::Rows(Of::Out), rows), Axis::ONE]
}

/// One workgroup for every square of `per` by `per` pixels of each image of the result.
pub const fn squares(per: &'static str) -> Grid {
    [
        Axis::every(Count::Columns(Of::Out), per),
        Axis::every(Count::Lines(Of::Out), per),
        Axis::each(Count::Images(Of::Out)),
    ]
}

/// One workgroup for every `per` channels of each image of the result.
pub const fn channels(per: &'static str) -> Grid {
    [Axis::every(Count::Channels(Of::Out), per), Axis::each(Count::Images(Of::Out)), Axis::ONE]
}

/// One workgroup for every tile of rows by channels of a GEMM; neighbours along x share their channels.
pub const fn gemm(rows: &'static str, channels: &'static str) -> Grid {
    [Axis::every(Count::Rows(Of::Out), rows), Axis::every(Count::Channels(Of::Out), channels), Axis::ONE]
}

/// One entry point of a kernel and its workgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// The function's name.
    pub entry: &'static str,
    /// Its workgroups.
    pub grid: Grid,
    /// Warps of a block of a CUDA kernel, where they may be fewer than fill its `THREADS`.
    pub warps: Option<Axis>,
    /// Whether blocks of a CUDA kernel form clusters of CLUSTER_X by CLUSTER_Y.
    pub clusters: bool,
}

impl Pass {
    /// With blocks of so many warps.
    pub const fn with_warps(self, warps: Axis) -> Pass {
        Pass { warps: Some(warps), ..self }
    }

    /// In clusters of CLUSTER_X by CLUSTER_Y blocks; the grid is filled up.
    pub const fn in_clusters(self) -> Pass {
        Pass { clusters: true, ..self }
    }
}

/// One of several entry points.
pub const fn pass(entry: &'static str, grid: Grid) -> Pass {
    Pass { entry, grid, warps: None, clusters: false }
}

/// The usual: one entry point called `main`.
pub const fn main(grid: Grid) -> Pass {
    pass("main", grid)
}
