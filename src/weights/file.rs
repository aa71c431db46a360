//! One safetensors file: checks its header and lists its tensors.
//!
//! The format is the header's length (8 bytes, little endian), a JSON header, and the data. The header is
//! `{"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, …}`, with
//! offsets from the end of the header, without gaps or overlaps.
//!
//! Files are untrusted input: every number in a header is checked before it is used, and
//! none determines how much memory is allocated.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::mmap::Map;
use crate::error::{Error, Result};
use crate::files::{LFS_POINTER, Location, is_lfs_pointer, unreadable};
use crate::tensor::{Bytes, Dtype, Part};

/// Size in bytes of the header's length, which precedes the header.
const PREFIX: usize = 8;
/// Longest accepted header in bytes, as in the reference implementation.
const MAX_HEADER: usize = 100_000_000;

/// A tensor stored in a file.
#[derive(Clone)]
pub struct Stored {
    /// Name in the file.
    pub name: String,
    /// Element type, which need not be one that networks can use.
    pub dtype: safetensors::Dtype,
    /// Dimensions in PyTorch's order.
    pub dims: Vec<usize>,
    /// Byte range within `file`.
    range: Range<usize>,
    path: Arc<Path>,
    file: Arc<dyn Bytes>,
    /// Of int8: the factors of its rows.
    factors: Option<Box<Stored>>,
}

/// What follows the name of a tensor of int8 in that of the tensor of its factors: F32, one for each row.
pub const FACTORS: &str = "_scale";

impl Stored {
    /// A bf16 tensor in memory: `range` of `source`, in bytes. Messages name `path` as its file.
    ///
    /// # Panics
    /// If the range does not have the size of a bf16 tensor of these dimensions.
    pub fn in_memory(path: &Path, name: &str, dims: &[usize], source: Arc<dyn Bytes>, range: Range<usize>) -> Self {
        assert_eq!(range.len(), 2 * dims.iter().product::<usize>(), "the range of {name} has its size in bf16");
        let dtype = safetensors::Dtype::BF16;
        Self { name: name.into(), dtype, dims: dims.to_vec(), range, path: path.into(), file: source, factors: None }
    }

    /// The file that contains it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The stored bytes, without factors.
    pub fn data(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }

    /// Of int8: the tensor of the factors of its rows.
    pub fn factors(&self) -> Option<&Stored> {
        self.factors.as_deref()
    }

    /// Size in bytes, with that of its factors.
    pub fn bytes(&self) -> usize {
        self.range.len() + self.factors.as_ref().map_or(0, |factors| factors.bytes())
    }

    /// Gives every tensor of int8 the factors of its rows, where they are, which then are no tensor of their own.
    ///
    /// # Errors
    /// [`Error::Tensor`] if they are not F32, or not one for each row.
    pub fn with_factors(tensors: Vec<Stored>) -> Result<Vec<Stored>> {
        let is_int8 = |tensor: &Stored| tensor.dtype == safetensors::Dtype::I8;
        if !tensors.iter().any(is_int8) {
            return Ok(tensors);
        }
        let (mut int8, others): (Vec<_>, Vec<_>) = tensors.into_iter().partition(is_int8);
        let mut others: BTreeMap<String, Stored> =
            others.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        for tensor in &mut int8 {
            let Some(factors) = others.remove(&format!("{}{FACTORS}", tensor.name)) else { continue };
            let rows = tensor.dims.first().copied().unwrap_or(1);
            if factors.dtype != safetensors::Dtype::F32 || rows.checked_mul(4) != Some(factors.range.len()) {
                let expected = format!("[{rows}] in F32, a factor for each row of `{}`", tensor.name);
                let found = format!("{:?} in {:?}", factors.dims, factors.dtype);
                return Err(wrong(&factors.path, &factors.name, expected, found));
            }
            tensor.factors = Some(Box::new(factors));
        }
        Ok(others.into_values().chain(int8).collect())
    }

    /// Of int8: an error if a factor is negative or not finite.
    ///
    /// # Errors
    /// [`Error::Tensor`] names the factors.
    pub fn check_factors(&self) -> Result<()> {
        let Some(factors) = &self.factors else { return Ok(()) };
        let Some(part) = factors.part() else { return Ok(()) };
        let is_wrong = |value: &f32| !(value.is_finite() && *value >= 0.0);
        let values = (0..part.elements().len()).map(|row| part.elements().get(row));
        match values.enumerate().find(|(_, value)| is_wrong(value)) {
            Some((row, value)) => Err(wrong(
                &factors.path,
                &factors.name,
                "factors that are finite and not negative".to_owned(),
                format!("{value} for row {row}; {DAMAGED}"),
            )),
            None => Ok(()),
        }
    }

    /// The element type that networks use it in. `None` for integers without factors, floats of 8 bits and the like, and for
    /// tensors without elements.
    pub fn float(&self) -> Option<Dtype> {
        match self.dtype {
            _ if self.range.is_empty() => None,
            safetensors::Dtype::F32 | safetensors::Dtype::F64 => Some(Dtype::F32),
            safetensors::Dtype::F16 => Some(Dtype::F16),
            safetensors::Dtype::BF16 => Some(Dtype::Bf16),
            safetensors::Dtype::I8 if self.factors.is_some() => Some(Dtype::I8),
            _ => None,
        }
    }

    /// The elements of a tensor of 32- or 64-bit integers. `None` for other types.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let bytes = &self.file.bytes()[self.range.clone()];
        match self.dtype {
            safetensors::Dtype::I64 => {
                Some(bytes.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect())
            }
            safetensors::Dtype::I32 => {
                Some(bytes.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes).into()).collect())
            }
            _ => None,
        }
    }

    /// The elements, in place. They are copied only if they are F64, which become f32, or misaligned, as in
    /// files whose header has an odd length.
    pub fn part(&self) -> Option<Part> {
        let dtype = self.float()?;
        let bytes = &self.file.bytes()[self.range.clone()];
        if self.dtype == safetensors::Dtype::F64 {
            let rounded: Vec<f32> = bytes.as_chunks().0.iter().map(|&value| f64::from_le_bytes(value) as f32).collect();
            let range = 0..4 * rounded.len();
            return Some(Part::new(Arc::new(rounded), range, dtype));
        }
        if let Some(factors) = &self.factors {
            return Some(Part::int8(self.file.clone(), self.range.clone(), factors.part()?));
        }
        if (bytes.as_ptr() as usize).is_multiple_of(dtype.bytes()) {
            return Some(Part::new(self.file.clone(), self.range.clone(), dtype));
        }
        let mut aligned = vec![0f32; bytes.len().div_ceil(4)];
        bytemuck::cast_slice_mut(&mut aligned)[..bytes.len()].copy_from_slice(bytes);
        Some(Part::new(Arc::new(aligned), 0..bytes.len(), dtype))
    }

    /// Splits the tensor, with its factors, into `names.len()` blocks with the same number of rows, without copying.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the number of rows is not divisible.
    pub fn split_rows(&self, names: &[String]) -> Result<Vec<Stored>> {
        let n = names.len();
        let rows = self.dims.first().copied().unwrap_or(0);
        if rows == 0 || !rows.is_multiple_of(n) || !self.range.len().is_multiple_of(n) {
            return Err(Error::Tensor {
                path: self.path().to_owned(),
                name: self.name.clone(),
                expected: format!("a first dimension divisible by {n}"),
                found: format!("{:?}", self.dims),
            });
        }
        let mut factors = match &self.factors {
            Some(factors) => factors.split_rows(names)?.into_iter().map(|part| Some(Box::new(part))).collect(),
            None => vec![None; n],
        };
        let size = self.range.len() / n;
        let block = |(i, name): (usize, &String)| {
            let mut block = Stored { name: name.clone(), factors: factors[i].take(), ..self.clone() };
            block.dims[0] = rows / n;
            block.range = self.range.start + i * size..self.range.start + (i + 1) * size;
            block
        };
        Ok(names.iter().enumerate().map(block).collect())
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.name, self.dims, self.dtype)
    }
}

/// Lists the tensors of a safetensors file, in the order of the data. A file on
/// disk is mapped; a built-in one is already in memory.
///
/// # Errors
/// [`Error::Model`] or [`Error::Tensor`] if the file is not a valid safetensors
/// file, and the errors of [`Map::open`].
pub fn open(location: &Location) -> Result<Vec<Stored>> {
    let path: &Path = location.path();
    let file: Arc<dyn Bytes> = match location.built_in() {
        Some(found) => Arc::new(found.map_err(|e| unreadable(path, "weights file", e))?),
        None => Arc::new(Map::open(path)?),
    };
    let bytes = file.bytes();
    let data = PREFIX + header_len(path, bytes)?;
    // The header is parsed from a copy, because another process could change the mapped file meanwhile.
    let header = bytes[PREFIX..data].to_vec();
    let header: Header = serde_json::from_slice(&header)
        .map_err(|e| bad(path, "a JSON header of tensor names", format!("{e}; {DAMAGED}")))?;

    let mut tensors = header.0;
    check_names(path, &tensors)?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    check_offsets(path, &tensors, bytes.len() - data)?;

    let shared: Arc<Path> = path.into();
    let stored = |(name, info): (String, TensorInfo)| Stored {
        name,
        dtype: info.dtype,
        dims: info.shape,
        range: data + info.data_offsets.0..data + info.data_offsets.1,
        path: shared.clone(),
        file: file.clone(),
        factors: None,
    };
    Ok(tensors.into_iter().map(stored).collect())
}

/// What to say about a truncated or altered file.
const DAMAGED: &str = "the file is damaged or was not downloaded completely";

fn bad(path: &Path, expected: &str, found: impl Into<String>) -> Error {
    Error::Model { path: path.to_owned(), expected: expected.to_owned(), found: found.into() }
}

/// Length of the header in bytes, checked to lie inside the file.
fn header_len(path: &Path, bytes: &[u8]) -> Result<usize> {
    // Every safetensors file has `{` at this position; none of the formats that `foreign` recognises does.
    if bytes.get(PREFIX) != Some(&b'{') {
        return Err(bad(path, "a safetensors file", foreign(bytes)));
    }
    let len = u64::from_le_bytes(bytes[..PREFIX].try_into().expect("the file has more than eight bytes"));
    match usize::try_from(len) {
        Ok(len) if len <= MAX_HEADER && len <= bytes.len() - PREFIX => Ok(len),
        Ok(len) if len <= MAX_HEADER => Err(bad(
            path,
            "a complete safetensors file",
            format!("a header of {len} bytes in a file of {}; {DAMAGED}", bytes.len()),
        )),
        _ => Err(bad(
            path,
            &format!("a safetensors header of at most {MAX_HEADER} bytes"),
            format!("{len} bytes; {DAMAGED}"),
        )),
    }
}

/// For a file that does not begin like a safetensors file: its actual format, and what to do.
fn foreign(bytes: &[u8]) -> String {
    const CONVERT: &str = "convert it: python -c \"import sys, torch, safetensors.torch as s; \
        s.save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])\" IN OUT.safetensors";
    match bytes {
        _ if is_lfs_pointer(bytes) => format!("{LFS_POINTER} instead of the weights; run `git lfs pull`"),
        [b'P', b'K', 3, 4, ..] => format!("a PyTorch checkpoint (zip); {CONVERT}"),
        [0x80, 2..=5, ..] => format!("a PyTorch checkpoint (pickle); {CONVERT}"),
        [b'G', b'G', b'U', b'F', ..] => "a GGUF file; use the model's safetensors files".to_owned(),
        [b'<', ..] => "a web page; download the file itself".to_owned(),
        [b'{' | b'[', ..] => "JSON text; give the weights file, or an index named *.index.json".to_owned(),
        _ => format!("{} bytes of an unknown format; {DAMAGED}", bytes.len()),
    }
}

/// The header's entries in the order of the file. It is a list because a map would hide duplicate names.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with an entry for each tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let info = map.next_value().map_err(|e| A::Error::custom(format!("tensor {name:?}: {e}")))?;
                    entries.push((name, info));
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Checks that names are unique. They may be any text: a name is only ever looked up.
fn check_names(path: &Path, tensors: &[(String, TensorInfo)]) -> Result<()> {
    let mut seen = HashSet::new();
    match tensors.iter().find(|(name, _)| !seen.insert(name)) {
        Some((name, _)) => Err(bad(path, "tensor names that occur once", format!("`{name}` twice"))),
        None => Ok(()),
    }
}

fn wrong(path: &Path, name: &str, expected: String, found: String) -> Error {
    Error::Tensor { path: path.to_owned(), name: name.to_owned(), expected, found }
}

/// Checks that every range lies inside the data and has the size of its tensor, and that the ranges
/// cover the data without gaps or overlaps. `tensors` must be sorted by offset.
fn check_offsets(path: &Path, tensors: &[(String, TensorInfo)], data: usize) -> Result<()> {
    let mut at = 0;
    for (name, info) in tensors {
        let (start, end) = info.data_offsets;
        let wrong = |expected: String, found: String| Err(wrong(path, name, expected, found));
        if end < start || end > data {
            return wrong(format!("bytes within the file's {data} of data"), format!("{start}..{end}; {DAMAGED}"));
        }
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &dim| n.checked_mul(dim));
        if bits != (end - start).checked_mul(8) {
            return wrong(format!("the bytes of {:?} {:?}", info.shape, info.dtype), format!("{}", end - start));
        }
        if start != at {
            let what = if start < at { "an overlap" } else { "a gap" };
            return wrong(format!("data from byte {at} on"), format!("{start}, {what}; {DAMAGED}"));
        }
        at = end;
    }
    if at != data {
        return Err(bad(path, &format!("{at} bytes of data, as the header says"), format!("{data}; {DAMAGED}")));
    }
    Ok(())
}
