//! What copies of tiles are told of the tensors that they copy from.

use crate::plan::Node;
use crate::registry::cuda::Tile;

/// Elements of a tile's row, 16 bits each: what the swizzle works on.
const TILE_CHANNELS: u32 = 64;

/// The same of a strip of columns.
const STRIP_COLUMNS: u32 = 32;

/// Most tensors that a kernel is given maps of.
const MOST: usize = 2;

/// A tensor of bf16 and the tile of it that one copy takes, innermost extent first; `TensorMap` in `kernels/host/hopper.h`. The swizzle
/// works on the tile's rows, of 128 or 64 bytes.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(128))]
pub(super) struct TensorMap {
    pub(super) address: u64,
    /// Of as many dimensions as `rank` says.
    pub(super) extent: [u64; 4],
    /// Bytes to the next of every dimension but the first.
    pub(super) stride: [u64; 3],
    pub(super) tile: [u32; 4],
    pub(super) rank: u32,
    unused: [u32; 11],
}

/// The maps of a launch as the device takes them; `Maps` in `kernels/hopper.cuh`. Drivers before CUDA 13 ask for
/// multiples of 64, newer ones for 128.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(128))]
pub(super) struct Maps(pub(super) [[u64; 16]; MOST]);

// As in `kernels/hopper.cuh`.
const _: () = assert!(size_of::<TensorMap>() == 128 && size_of::<Maps>() == 128 * MOST);

/// The map of each tile's operand, at these addresses, or of what is laid out in the memory that passes share, at `scratch`; `number`
/// knows the kernel's numbers. Where an operand is absent, the first one's, which nobody uses.
pub(super) fn of(
    node: &Node,
    tiles: &[Tile],
    operands: &[u64],
    scratch: u64,
    number: impl Fn(&str) -> u64,
) -> [TensorMap; MOST] {
    let number = |name: &str| if name.is_empty() { 1 } else { number(name) as u32 };
    let map = |i: usize| {
        let tile = tiles.get(i).filter(|tile| node.inputs[tile.operand()].is_some()).unwrap_or(&tiles[0]);
        let shape = node.inputs[tile.operand()].expect("the first operand is never absent").shape();
        let address = operands[tile.operand()];
        let map = match *tile {
            Tile::Rows { per_image, rows, among, .. } => {
                let (images, tokens) = if per_image { (shape.n, shape.tokens()) } else { (1, shape.rows()) };
                let box_of = [TILE_CHANNELS, number(rows) / number(among), 1];
                TensorMap::packed(address, [shape.c, tokens, images], box_of)
            }
            Tile::Pixels { among, .. } => {
                let box_of = [TILE_CHANNELS, number("TILE_W"), number("TILE_H") / number(among), 1];
                TensorMap::packed(address, [shape.c, shape.w, shape.h, shape.n], box_of)
            }
            Tile::Columns { laid_out, among, .. } => {
                let (address, rows) = laid_out.map_or((address, shape.n), |rows| (scratch, rows * shape.n));
                let box_of = [STRIP_COLUMNS, TILE_CHANNELS / number(among)];
                let matrix = TensorMap::packed(address, [shape.elements() / rows, rows], box_of);
                matrix.in_strips(number("TILE_N") / STRIP_COLUMNS)
            }
        };
        assert_eq!(map.refused(), None, "the operand fits: its rows begin at multiples of 16 bytes");
        map
    };
    std::array::from_fn(map)
}

impl TensorMap {
    /// Bytes of a tile's row.
    pub(super) fn row_bytes(&self) -> u32 {
        2 * self.tile[0]
    }

    /// A tensor without gaps.
    fn packed<const RANK: usize>(address: u64, extent: [usize; RANK], tile: [u32; RANK]) -> TensorMap {
        let mut map = TensorMap { address, rank: RANK as u32, ..bytemuck::Zeroable::zeroed() };
        map.tile[..RANK].copy_from_slice(&tile);
        let mut stride = 2;
        for (i, extent) in extent.into_iter().enumerate() {
            map.extent[i] = extent as u64;
            stride *= extent as u64;
            if i + 1 < RANK {
                map.stride[i] = stride;
            }
        }
        map
    }

    /// Why a driver would not take it, by what is documented of `cuTensorMapEncodeTiled` for tiles that are not interleaved.
    pub(super) fn refused(&self) -> Option<&'static str> {
        let rank = self.rank as usize;
        let (extent, stride, tile) = (&self.extent[..rank], &self.stride[..rank - 1], &self.tile[..rank]);
        [
            (self.address.is_multiple_of(16), "the address is no multiple of 16"),
            (extent.iter().all(|n| (1..=1 << 32).contains(n)), "an extent is not within 1 and 2³²"),
            (stride.iter().all(|n| n.is_multiple_of(16) && *n < 1 << 40), "a stride is no multiple of 16 below 2⁴⁰"),
            (tile.iter().all(|n| (1..=256).contains(n)), "a tile's extent is not within 1 and 256"),
            ([64, 128].contains(&self.row_bytes()), "a tile's row is not as wide as a swizzle"),
        ]
        .into_iter()
        .find_map(|(is_so, otherwise)| (!is_so).then_some(otherwise))
    }

    /// The same matrix as `[strips, rows, columns of a strip]`, and so many strips of it.
    ///
    /// So the stride of strips is smaller than that of rows. The driver's documentation explains strides as those of tensors with
    /// padding, which always grow, but asks of each only what [`refused`](Self::refused) says, and drivers take such maps:
    /// fast.cu (github.com/pranjalssh/fast.cu), which was measured on an H100, encodes its operands as `[columns / 64, rows, 64]`
    /// with strides of 2 · columns and 128 bytes, and stops where that does not succeed.
    fn in_strips(self, count: u32) -> TensorMap {
        let ([columns, rows, ..], [width, height, ..]) = (self.extent, self.tile);
        assert!(columns.is_multiple_of(width.into()), "the operand fits: its strips are whole");
        TensorMap {
            extent: [width.into(), rows, columns / u64::from(width), 0],
            stride: [self.stride[0], 2 * u64::from(width), 0],
            tile: [width, height, count, 0],
            rank: 3,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_what_the_driver_documents() {
        // A weight of 512 rows and 4 · 320 columns, in strips; pixels; rows of a matrix.
        let strips = TensorMap::packed(1 << 20, [1280, 512], [32, 32]).in_strips(5);
        assert_eq!((strips.extent, strips.stride), ([32, 512, 40, 0], [2560, 64, 0]));
        assert_eq!((strips.tile, strips.rank, strips.row_bytes()), ([32, 32, 5, 0], 3, 64));
        let pixels = TensorMap::packed(256, [64, 3, 5, 2], [64, 16, 8, 1]);
        assert_eq!(pixels.stride, [128, 384, 1920]);
        for map in [strips, pixels, TensorMap::packed(0, [72, 10], [64, 192])] {
            assert_eq!(map.refused(), None);
        }
        for (map, why) in [
            (TensorMap::packed(8, [64, 3], [64, 3]), "address"),
            (TensorMap::packed(0, [68, 3], [64, 3]), "stride"),
            (TensorMap::packed(0, [64, 0], [64, 3]), "an extent"),
            (TensorMap::packed(0, [64, 300], [64, 257]), "a tile's extent"),
            (TensorMap::packed(0, [64, 3], [24, 3]), "row"),
        ] {
            assert!(map.refused().is_some_and(|said| said.contains(why)), "{why}: {:?}", map.refused());
        }
    }
}
