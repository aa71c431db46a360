//! The operands of ops: activations in f32, and weights in the element type of their file.

mod elements;
pub mod int8;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use half::bf16;
use rayon::prelude::*;

pub use elements::Elements;
pub use int8::Int8;

use crate::shape::Shape;

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// Integers with a factor for each row, see [`Int8`].
    I8,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
            Dtype::I8 => 1,
        }
    }
}

/// Memory that weights refer to: a mapped file, data embedded in the program, or an aligned copy.
/// The bytes must neither move nor change while the value exists.
pub trait Bytes: Send + Sync {
    /// All bytes.
    fn bytes(&self) -> &[u8];

    /// Whether they are a copy that was made in memory, not those of a file.
    fn are_copied(&self) -> bool {
        false
    }
}

impl Bytes for &'static [u8] {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl Bytes for Vec<f32> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }

    fn are_copied(&self) -> bool {
        true
    }
}

impl Bytes for Vec<i8> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }

    fn are_copied(&self) -> bool {
        true
    }
}

impl Bytes for Vec<bf16> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }

    fn are_copied(&self) -> bool {
        true
    }
}

/// A contiguous range of stored elements. A weight consists of one or several.
#[derive(Clone)]
pub struct Part {
    source: Arc<dyn Bytes>,
    range: Range<usize>,
    dtype: Dtype,
    /// Of 8 bits: the factors, one f32 for each row.
    scales: Option<Box<Part>>,
}

impl Part {
    /// `range` of `source`, in bytes.
    ///
    /// # Panics
    /// If the range is out of bounds, not a whole number of elements, or not
    /// aligned for `dtype`, or if that needs [factors](Self::int8). Code that loads files must check this beforehand.
    pub fn new(source: Arc<dyn Bytes>, range: Range<usize>, dtype: Dtype) -> Self {
        let part = Self { source, range, dtype, scales: None };
        part.elements();
        part
    }

    /// `range` of `source` as integers of 8 bits, in as many rows as there are `scales`.
    ///
    /// # Panics
    /// If the range is out of bounds or not whole rows, or `scales` are not f32.
    pub fn int8(source: Arc<dyn Bytes>, range: Range<usize>, scales: Part) -> Self {
        let part = Self { source, range, dtype: Dtype::I8, scales: Some(Box::new(scales)) };
        part.elements();
        part
    }

    /// The elements.
    pub fn elements(&self) -> Elements<'_> {
        let bytes = self.bytes();
        match self.dtype {
            Dtype::F32 => Elements::F32(bytemuck::cast_slice(bytes)),
            Dtype::Bf16 => Elements::Bf16(bytemuck::cast_slice(bytes)),
            Dtype::F16 => Elements::F16(bytemuck::cast_slice(bytes)),
            Dtype::I8 => {
                let Some(Elements::F32(scales)) = self.scales.as_ref().map(|scales| scales.elements()) else {
                    panic!("integers of 8 bits have factors in f32")
                };
                Elements::I8(Int8::new(bytemuck::cast_slice(bytes), scales))
            }
        }
    }

    /// The stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.source.bytes()[self.range.clone()]
    }

    /// Whether it is a copy that was made in memory, not a range of a file.
    pub fn is_copy(&self) -> bool {
        self.source.are_copied()
    }

    /// Bytes that it takes in a file, including the scales of int8 rows.
    pub fn stored_bytes(&self) -> usize {
        self.range.len() + self.scales.as_ref().map_or(0, |scales| scales.range.len())
    }

    /// Of 8 bits: the factors.
    pub fn scales(&self) -> Option<&Part> {
        self.scales.as_deref()
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The memory that the part is a range of.
    pub fn source(&self) -> &Arc<dyn Bytes> {
        &self.source
    }

    /// Identifies the bytes: source and range. Parts with the same place have the same contents, so a backend uploads
    /// them only once.
    pub fn place(&self) -> (usize, Range<usize>) {
        (Arc::as_ptr(&self.source) as *const u8 as usize, self.range.clone())
    }

    /// Rows `rows` of this part, viewed as `[_, row_len]`. Of 8 bits, these are the rows that have factors.
    pub fn rows(&self, rows: Range<usize>, row_len: usize) -> Part {
        let size = row_len * self.dtype.bytes();
        let start = self.range.start;
        let range = start + rows.start * size..start + rows.end * size;
        match &self.scales {
            Some(scales) => Part::int8(self.source.clone(), range, scales.rows(rows, 1)),
            None => Part::new(self.source.clone(), range, self.dtype),
        }
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}[{:?}]", self.dtype, self.range)
    }
}

/// A learned tensor: one range of a file, or several ranges stacked by rows
/// (for example Q, K and V as one matrix). Cloning copies no elements.
#[derive(Debug, Clone)]
pub struct Weight {
    /// Name in the `diffusers` naming scheme; of a stacked weight, the first tensor's.
    pub name: String,
    /// Dimensions in PyTorch's order, e.g. `[out, in]` or `[out, in, kh, kw]`.
    pub dims: Vec<usize>,
    parts: Vec<Part>,
}

impl Weight {
    /// A weight made of `parts`, stacked along the first dimension.
    ///
    /// # Panics
    /// If the parts do not contain exactly the elements of `dims`, or a part is not whole rows.
    pub fn new(name: impl Into<String>, dims: Vec<usize>, parts: Vec<Part>) -> Self {
        let row: usize = dims.iter().skip(1).product();
        let total: usize = parts.iter().map(|p| p.elements().len()).sum();
        assert_eq!(total, dims.iter().product::<usize>(), "parts hold the weight's elements");
        assert!(parts.iter().all(|p| row > 0 && p.elements().len() % row == 0), "parts are whole rows");
        Self { name: name.into(), dims, parts }
    }

    /// A weight with these values, for tests and constants.
    pub fn from_f32(name: impl Into<String>, dims: &[usize], values: Vec<f32>) -> Self {
        let bytes = values.len() * 4;
        Self::new(name, dims.to_vec(), vec![Part::new(Arc::new(values), 0..bytes, Dtype::F32)])
    }

    /// Stacks several weights with the same row length by rows, without copying.
    ///
    /// # Panics
    /// If the row lengths differ.
    pub fn stack(weights: &[Weight]) -> Weight {
        let mut dims = weights[0].dims.clone();
        assert!(weights.iter().all(|w| w.dims[1..] == dims[1..]), "stacked weights have equal rows");
        dims[0] = weights.iter().map(|w| w.dims[0]).sum();
        let parts = weights.iter().flat_map(|w| w.parts.iter().cloned()).collect();
        Weight::new(weights[0].name.clone(), dims, parts)
    }

    /// The same elements with other dimensions.
    ///
    /// # Panics
    /// If the number of elements differs.
    pub fn reshape(self, dims: &[usize]) -> Weight {
        Weight::new(self.name, dims.to_vec(), self.parts)
    }

    /// Dimensions as a [`Shape`]; see [`shape_of_dims`].
    pub fn shape(&self) -> Shape {
        shape_of_dims(&self.dims)
    }

    /// A key that is equal for weights with the same dimensions and the same bytes.
    pub fn identity(&self) -> Identity {
        Identity { dims: self.dims.clone(), parts: self.parts.iter().map(Part::place).collect() }
    }

    /// The contiguous ranges that it consists of, in row order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// A copy of int8, each row with the smallest factor with which it holds. One with a value that is not finite has a
    /// factor that is not either.
    pub fn to_int8(&self) -> Weight {
        let (rows, row_len) = (self.dims[0], self.dims[1..].iter().product::<usize>());
        let (mut values, mut factors) = (vec![0i8; rows * row_len], vec![0f32; rows]);
        let all = values.par_chunks_mut(row_len).zip(&mut factors).enumerate();
        all.for_each_init(Vec::new, |row, (r, (to, factor))| {
            row.clear();
            self.row(r, row_len).extend_f32(row);
            *factor = int8::quantise(row, to);
        });
        let (len, bytes) = (values.len(), 4 * rows);
        let factors = Part::new(Arc::new(factors), 0..bytes, Dtype::F32);
        Weight::new(self.name.clone(), self.dims.clone(), vec![Part::int8(Arc::new(values), 0..len, factors)])
    }

    /// Whether all of it is int8.
    pub fn is_int8(&self) -> bool {
        self.parts.iter().all(|part| part.dtype() == Dtype::I8)
    }

    /// Of int8: the first row whose factor is not finite.
    pub fn first_non_finite_factor(&self) -> Option<usize> {
        let mut factors = self.parts.iter().filter_map(Part::scales);
        factors.find_map(|part| part.elements().first_non_finite())
    }

    /// Row `r` of the weight, viewed as `[rows, row_len]`.
    pub fn row(&self, r: usize, row_len: usize) -> Elements<'_> {
        let mut at = r * row_len;
        for part in &self.parts {
            let elements = part.elements();
            if at < elements.len() {
                return elements.slice(at..at + row_len);
            }
            at -= elements.len();
        }
        panic!("weight {} {:?} has no row {r}", self.name, self.dims)
    }

    /// A copy of all elements as f32, for small weights and reference implementations.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = Vec::with_capacity(self.shape().elements());
        self.parts.iter().for_each(|p| p.elements().extend_f32(&mut out));
        out
    }
}

/// The key returned by [`Weight::identity`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    dims: Vec<usize>,
    parts: Vec<(usize, Range<usize>)>,
}

/// PyTorch dimensions as a [`Shape`], padded with leading ones. Of more than four dimensions, only the last four count.
pub fn shape_of_dims(dims: &[usize]) -> Shape {
    match *dims {
        [] => Shape::vector(1),
        [c] => Shape::vector(c),
        [r, c] => Shape::matrix(r, c),
        [h, w, c] => Shape::new(1, h, w, c),
        [.., n, h, w, c] => Shape::new(n, h, w, c),
    }
}

/// The values of an operand.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// Activations.
    F32(&'a [f32]),
    /// Indices and counters.
    U32(&'a [u32]),
    /// A learned tensor.
    Weight(&'a Weight),
}

/// An operand: its shape `[n, h, w, c]` and its values.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// The extent.
    pub shape: Shape,
    /// The values.
    pub data: Data<'a>,
}

impl<'a> Tensor<'a> {
    /// The values of an activation.
    ///
    /// # Panics
    /// If the operand is not an activation.
    pub fn f32(&self) -> &'a [f32] {
        match self.data {
            Data::F32(x) => x,
            _ => panic!("an activation operand was expected"),
        }
    }

    /// The values of indices or a counter.
    ///
    /// # Panics
    /// If the operand is not u32.
    pub fn u32(&self) -> &'a [u32] {
        match self.data {
            Data::U32(x) => x,
            _ => panic!("an index operand was expected"),
        }
    }

    /// The learned tensor.
    ///
    /// # Panics
    /// If the operand is not a weight.
    pub fn weight(&self) -> &'a Weight {
        match self.data {
            Data::Weight(w) => w,
            _ => panic!("a weight operand was expected"),
        }
    }

    /// The values as f32. Activations are borrowed, others are converted.
    pub fn values(&self) -> Cow<'a, [f32]> {
        match self.data {
            Data::F32(x) => Cow::Borrowed(x),
            Data::U32(x) => Cow::Owned(x.iter().map(|&v| v as f32).collect()),
            Data::Weight(w) => Cow::Owned(w.to_f32()),
        }
    }
}
