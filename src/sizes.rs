//! Latent sizes: how many latent pixels Stages B and C give a picture.

/// Latent sizes of an image, each `(height, width)`.
///
/// | px   | Stage C | Stage B | diffusers gives |
/// |------|---------|---------|-----------------|
/// | 64   | 2       | 16      | fails: 21 is odd |
/// | 512  | 12      | 128     | 512 |
/// | 576  | 14      | 144     | fails: 149 is odd |
/// | 640  | 15      | 160     | 640 |
/// | 1000 | 24      | 250     | 1024 |
/// | 1024 | 24      | 256     | 1024 |
/// | 2048 | 48      | 512     | 2048 |
///
/// Wherever diffusers gives the size asked for, these are its latents too. The table is for the usual compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageSizes {
    /// Stage C's latent, 16 channels: `ceil(px / compression)`.
    pub c: (usize, usize),
    /// Stage B's latent, 4 channels: `2 · ceil(px / 8)`, a quarter of the picture.
    pub b: (usize, usize),
    /// The decoded picture, `4 · b`: the size asked for where that is a multiple
    /// of 8, else the next one up, to be cropped at the right and the bottom.
    pub image: (usize, usize),
}

impl StageSizes {
    /// Pixels of the picture for a pixel of Stage C's latent, unless asked otherwise: what diffusers has.
    pub const COMPRESSION: f32 = 42.67;

    /// Sizes for a picture of `width` × `height` pixels, of which `compression` become one of Stage C's along each axis.
    pub fn for_image(width: usize, height: usize, compression: f32) -> Self {
        // The shortest decimal of the number, so that 42.67 is diffusers' f64 of this name.
        let compression: f64 = compression.to_string().parse().expect("a number is one as text");
        let both = |side: &dyn Fn(usize) -> usize| (side(height), side(width));
        Self {
            c: both(&|px| (px as f64 / compression).ceil() as usize),
            b: both(&|px| 2 * px.div_ceil(8)),
            image: both(&|px| 8 * px.div_ceil(8)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (px, c, b) in [(512, 12, 128), (640, 15, 160), (1024, 24, 256), (1408, 33, 352), (2048, 48, 512)] {
            let sizes = StageSizes::for_image(px, px, StageSizes::COMPRESSION);
            assert_eq!((sizes.c, sizes.b, sizes.image), ((c, c), (b, b), (px, px)));
        }
        let sides = StageSizes::for_image(64, 1000, StageSizes::COMPRESSION);
        assert_eq!(sides, StageSizes { c: (24, 2), b: (250, 16), image: (1000, 64) });
        assert_eq!(StageSizes::for_image(1024, 768, 32.0).c, (24, 32));
        assert_eq!(StageSizes::for_image(64, 64, 128.0).c, (1, 1));
        for px in 8..4096 {
            let sizes = StageSizes::for_image(px, px, StageSizes::COMPRESSION);
            let diffusers = (sizes.c.0 as f64 * 10.67) as usize;
            if diffusers.is_multiple_of(2) && 4 * diffusers == px {
                assert_eq!((sizes.b.0, sizes.image.0), (diffusers, px));
            }
            assert!(sizes.b.0.is_multiple_of(2) && (px..px + 8).contains(&sizes.image.0));
        }
    }
}
