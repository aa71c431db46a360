//! The operands of ops: activations in f32, and weights in the element type of their file.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

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
}

impl Dtype {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }
}

/// Elements of a stored tensor, read in place.
#[derive(Debug, Clone, Copy)]
pub enum Elements<'a> {
    /// IEEE single precision.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// IEEE half precision.
    F16(&'a [f16]),
}

impl<'a> Elements<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Elements::F32(x) => x.len(),
            Elements::Bf16(x) => x.len(),
            Elements::F16(x) => x.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A range of the elements.
    pub fn slice(&self, range: Range<usize>) -> Elements<'a> {
        match *self {
            Elements::F32(x) => Elements::F32(&x[range]),
            Elements::Bf16(x) => Elements::Bf16(&x[range]),
            Elements::F16(x) => Elements::F16(&x[range]),
        }
    }

    /// Element `i`, converted to f32, which is exact.
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Elements::F32(x) => x[i],
            Elements::Bf16(x) => x[i].to_f32(),
            Elements::F16(x) => x[i].to_f32(),
        }
    }

    /// Whether no element is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        self.first_non_finite().is_none()
    }

    /// The index of the first NaN or infinity.
    pub fn first_non_finite(&self) -> Option<usize> {
        match self {
            Elements::F32(x) => x.iter().position(|v| !v.is_finite()),
            Elements::F16(x) => x.iter().position(|v| !v.is_finite()),
            Elements::Bf16(x) => x.iter().position(|v| !v.is_finite()),
        }
    }

    /// Appends all elements to `out`, converted to f32, which is exact.
    pub fn extend_f32(&self, out: &mut Vec<f32>) {
        match self {
            Elements::F32(x) => out.extend_from_slice(x),
            Elements::Bf16(x) => out.extend(x.iter().map(|v| v.to_f32())),
            Elements::F16(x) => out.extend(x.iter().map(|v| v.to_f32())),
        }
    }
}

/// Memory that weights refer to: a mapped file, data embedded in the program, or an aligned copy.
/// The bytes must neither move nor change while the value exists.
pub trait Bytes: Send + Sync {
    /// All bytes.
    fn bytes(&self) -> &[u8];
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
}

impl Bytes for Vec<bf16> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

/// A contiguous range of stored elements. A weight consists of one or several.
#[derive(Clone)]
pub struct Part {
    source: Arc<dyn Bytes>,
    range: Range<usize>,
    dtype: Dtype,
}

impl Part {
    /// `range` of `source`, in bytes.
    ///
    /// # Panics
    /// If the range is out of bounds, not a whole number of elements, or not
    /// aligned for `dtype`. Code that loads files must check this beforehand.
    pub fn new(source: Arc<dyn Bytes>, range: Range<usize>, dtype: Dtype) -> Self {
        let part = Self { source, range, dtype };
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
        }
    }

    /// The stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.source.bytes()[self.range.clone()]
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

    /// Rows `rows` of this part, viewed as `[_, row_len]`.
    pub fn rows(&self, rows: Range<usize>, row_len: usize) -> Part {
        let size = row_len * self.dtype.bytes();
        let start = self.range.start;
        Part::new(self.source.clone(), start + rows.start * size..start + rows.end * size, self.dtype)
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
