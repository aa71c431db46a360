//! What copies of tiles are told of the tensors that they copy from.

use crate::plan::Node;
use crate::registry::Tile;

/// Elements of a tile's row, 16 bits each: what the swizzle works on.
const TILE_CHANNELS: u32 = 64;

/// Most tensors that a kernel is given maps of.
const MOST: usize = 2;

/// A tensor of bf16, `[images, rows, channels]`, and the tile of it that one copy takes; `TensorMap` in
/// `kernels/host/hopper.h`.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(128))]
pub(super) struct TensorMap {
    pub(super) address: u64,
    /// Channels, rows, images.
    pub(super) extent: [u64; 3],
    /// Bytes from a row to the next, and from an image to the next.
    pub(super) stride: [u64; 2],
    /// Channels, rows, images.
    pub(super) tile: [u32; 3],
    unused: [u32; 17],
}

/// The maps of a launch as the device takes them; `Maps` in `kernels/hopper.cuh`. Drivers before CUDA 13 ask for
/// multiples of 64, newer ones for 128.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(128))]
pub(super) struct Maps(pub(super) [[u64; 16]; MOST]);

// As in `kernels/hopper.cuh`.
const _: () = assert!(size_of::<TensorMap>() == 128 && size_of::<Maps>() == 128 * MOST);

/// The map of each tile's operand, at these addresses; `number` knows the kernel's numbers. Where an operand is
/// absent, the first one's, which nobody uses.
pub(super) fn of(node: &Node, tiles: &[Tile], operands: &[u64], number: impl Fn(&str) -> u64) -> [TensorMap; MOST] {
    let map = |i: usize| {
        let tile = tiles.get(i).filter(|tile| node.inputs[tile.operand].is_some()).unwrap_or(&tiles[0]);
        let shape = node.inputs[tile.operand].expect("the first operand is never absent").shape();
        let (images, rows) = if tile.per_image { (shape.n, shape.tokens()) } else { (1, shape.rows()) };
        let among = if tile.among.is_empty() { 1 } else { number(tile.among) };
        let address = operands[tile.operand];
        let stride = 2 * shape.c as u64;
        let whole = address.is_multiple_of(16) && stride.is_multiple_of(16);
        assert!(whole, "the operand fits: its rows begin at multiples of 16 bytes");
        TensorMap {
            address,
            extent: [shape.c as u64, rows as u64, images as u64],
            stride: [stride, stride * rows as u64],
            tile: [TILE_CHANNELS, (number(tile.rows) / among) as u32, 1],
            unused: [0; 17],
        }
    };
    std::array::from_fn(map)
}
