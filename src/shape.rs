//! The layout of all activations: `[n, h, w, c]`, channels contiguous.

use std::fmt;

/// Extent of a tensor: images, rows, columns, channels.
///
/// Tokens are `h * w`; a matrix `[rows, columns]` is `[1, 1, rows, columns]`
/// and a vector `[c]` is `[1, 1, 1, c]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Images in the batch.
    pub n: usize,
    /// Height.
    pub h: usize,
    /// Width.
    pub w: usize,
    /// Channels, contiguous in memory.
    pub c: usize,
}

impl Shape {
    /// `[n, h, w, c]`.
    pub const fn new(n: usize, h: usize, w: usize, c: usize) -> Self {
        Self { n, h, w, c }
    }

    /// `[1, 1, 1, c]`.
    pub const fn vector(c: usize) -> Self {
        Self::new(1, 1, 1, c)
    }

    /// `[1, 1, rows, columns]`.
    pub const fn matrix(rows: usize, columns: usize) -> Self {
        Self::new(1, 1, rows, columns)
    }

    /// Number of elements.
    pub const fn elements(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Number of pixels or tokens of all images: `n * h * w`.
    pub const fn rows(&self) -> usize {
        self.n * self.h * self.w
    }

    /// Number of pixels or tokens of one image: `h * w`.
    pub const fn tokens(&self) -> usize {
        self.h * self.w
    }

    /// The same extent with another number of channels.
    pub const fn with_c(self, c: usize) -> Self {
        Self { c, ..self }
    }

    /// The same number of images and channels with another height and width.
    pub const fn with_hw(self, h: usize, w: usize) -> Self {
        Self { h, w, ..self }
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}, {}, {}]", self.n, self.h, self.w, self.c)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
