//! What is written of tensors: their elements, changed, mixed and rounded on the way.

use std::io::{self, Write};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;

use super::{Contents, File, Network, Networks, Text};
use crate::error::{Error, Result};
use crate::tensor::{Elements, Part, Weight};
use crate::weights::Checkpoint;
use crate::weights::header::header;

/// Elements that are converted at once.
const CHUNK: usize = 1 << 20;

/// The type and the dimensions with which a tensor is written, where floats are to be of type `wanted` or stay as they are.
/// F64 is rounded to f32, as everywhere.
///
/// # Errors
/// [`Error::Tensor`] if there is no such tensor.
pub(super) fn stored_as(weights: &Checkpoint, name: &str, wanted: Option<Dtype>) -> Result<(Dtype, Vec<usize>)> {
    let Some(stored) = weights.stored(name) else {
        return Err(wrong(weights, name, "a tensor of the network".into(), "nothing".into()));
    };
    let dtype = match (stored.float(), wanted) {
        (None, _) => return Ok((stored.dtype, stored.dims.clone())),
        (Some(_), Some(wanted)) => wanted,
        (Some(_), None) if stored.dtype == Dtype::F64 => Dtype::F32,
        (Some(_), None) => stored.dtype,
    };
    let usable = || wrong(weights, name, "a matrix, which is stored transposed".into(), format!("{:?}", stored.dims));
    let dims = weights.get(name).ok_or_else(usable)?.dims.clone();
    Ok((dtype, dims))
}

/// Whether a tensor that is written as `dtype` has factors beside it: one of int8 that is, or was, of floats.
pub(super) fn has_factors(weights: &Checkpoint, name: &str, dtype: Dtype) -> bool {
    dtype == Dtype::I8 && weights.stored(name).is_some_and(|stored| stored.float().is_some())
}

pub(super) fn wrong(weights: &Checkpoint, name: &str, expected: String, found: String) -> Error {
    Error::Tensor { path: weights.path.clone(), name: name.to_owned(), expected, found }
}

impl File {
    /// Writes the file, and asks `goes_on` every few megabytes whether to.
    ///
    /// # Errors
    /// Those of `goes_on` and of writing, the latter by `disk`; [`Error::Tensor`] if an element is too large for its type.
    pub fn write(
        &self,
        networks: &Networks,
        out: &mut dyn Write,
        disk: &dyn Fn(io::Error) -> Error,
        goes_on: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let tensors = match &self.contents {
            Contents::Text(Text::Of(file)) => return out.write_all(&file.read()?).map_err(disk),
            Contents::Text(Text::New(text)) => return out.write_all(text).map_err(disk),
            Contents::Tensors(tensors) => tensors,
        };
        let rows: Vec<_> = tensors.iter().map(|t| (t.name.clone(), t.dtype, t.dims.clone())).collect();
        out.write_all(&header(&rows)).map_err(disk)?;
        for tensor in tensors {
            let network = &networks.all[tensor.network];
            let mut sink = |bytes: &[u8]| -> Result<()> {
                goes_on()?;
                out.write_all(bytes).map_err(disk)
            };
            tensor.parts.iter().try_for_each(|part| match tensor.is_factors {
                true => int8(network, part, true, &mut sink),
                false if has_factors(&network.weights, part, tensor.dtype) => int8(network, part, false, &mut sink),
                false => elements(network, part, tensor.dtype, &mut sink),
            })?;
        }
        Ok(())
    }
}

/// Hands the elements of a tensor to `sink` as `dtype`, in pieces.
fn elements(network: &Network, name: &str, dtype: Dtype, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let weights = &network.weights;
    let lacks = |of: &Checkpoint| wrong(of, name, "a tensor of floats".into(), "another, or nothing".into());
    let stored = weights.stored(name).ok_or_else(|| lacks(weights))?;
    let is_same = stored.dtype == dtype && weights.is_as_stored(name) && network.other.is_none();
    if stored.float().is_none() || is_same {
        return stored.data().chunks(4 * CHUNK).try_for_each(sink);
    }
    let mut bytes = Vec::new();
    changed(network, name, &mut |values| {
        if let Some(value) = round(values, dtype, &mut bytes) {
            return Err(wrong(weights, name, format!("numbers within the range of {dtype:?}"), value.to_string()));
        }
        sink(&bytes)
    })
}

/// Hands the integers of a tensor that is written as int8 to `sink`, or the factors of its rows.
fn int8(network: &Network, name: &str, factors: bool, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let weights = &network.weights;
    if let Some(stored) = weights.stored(name).filter(|_| weights.is_as_stored(name) && network.other.is_none())
        && let Some(own) = stored.factors()
    {
        stored.check_factors()?;
        return if factors { own.data() } else { stored.data() }.chunks(4 * CHUNK).try_for_each(sink);
    }
    let mut all = Vec::new();
    changed(network, name, &mut |values| {
        all.extend_from_slice(values);
        Ok(())
    })?;
    let dims = weights.dims(name).unwrap_or_default();
    let rounded = Weight::from_f32(name, dims, all).to_int8();
    if let Some(row) = rounded.first_non_finite_factor() {
        let found = format!("NaN or infinity in row {row}");
        return Err(wrong(weights, name, "finite values, to be rounded to int8".into(), found));
    }
    let parts = rounded.parts().iter().filter_map(|part| if factors { part.scales() } else { Some(part) });
    parts.map(Part::bytes).try_for_each(sink)
}

/// Hands the elements of a tensor to `sink`, changed and mixed, in pieces.
fn changed(network: &Network, name: &str, sink: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
    let weights = &network.weights;
    let lacks = |of: &Checkpoint| wrong(of, name, "a tensor of floats".into(), "another, or nothing".into());
    let weight = weights.changed(name).ok_or_else(|| lacks(weights))?;
    let other = match &network.other {
        Some((other, ratio)) => Some((other.get(name).ok_or_else(|| lacks(other))?, *ratio)),
        None => None,
    };
    let mut others = other.iter().flat_map(|(weight, _)| pieces(weight));
    let (mut values, mut theirs) = (Vec::new(), Vec::new());
    for piece in pieces(&weight) {
        values.clear();
        piece.extend_f32(&mut values);
        if let Some((_, ratio)) = other {
            theirs.clear();
            others.next().into_iter().for_each(|piece| piece.extend_f32(&mut theirs));
            let own = (1.0 - f64::from(ratio)) as f32;
            values.iter_mut().zip(&theirs).for_each(|(mine, other)| *mine = own * *mine + ratio * other);
        }
        sink(&values)?;
    }
    Ok(())
}

/// The elements of a weight in pieces of at most [`CHUNK`].
fn pieces(weight: &Weight) -> impl Iterator<Item = Elements<'_>> {
    weight.parts().iter().flat_map(|part| {
        let all = part.elements();
        (0..all.len()).step_by(CHUNK).map(move |at| all.slice(at..all.len().min(at + CHUNK)))
    })
}

/// Fills `bytes` with `values` as `dtype`, rounded to the nearest. Returns the first that is finite and does not stay so.
fn round(values: &[f32], dtype: Dtype, bytes: &mut Vec<u8>) -> Option<f32> {
    bytes.clear();
    let is_finite: Vec<bool> = match dtype {
        Dtype::F16 => {
            let mut all = vec![f16::ZERO; values.len()];
            all.convert_from_f32_slice(values);
            bytes.extend(all.iter().flat_map(|v| v.to_le_bytes()));
            all.iter().map(|v| v.is_finite()).collect()
        }
        Dtype::BF16 => {
            let mut all = vec![bf16::ZERO; values.len()];
            all.convert_from_f32_slice(values);
            bytes.extend(all.iter().flat_map(|v| v.to_le_bytes()));
            all.iter().map(|v| v.is_finite()).collect()
        }
        _ => {
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            return None;
        }
    };
    values.iter().zip(is_finite).find(|(v, stays)| v.is_finite() && !stays).map(|(v, _)| *v)
}
