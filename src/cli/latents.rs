//! Tensors in and out: `--latents` and `--dump`, safetensors files in f32 and
//! PyTorch's order `[n, c, h, w]`.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use crate::error::{Error, Result};
use crate::model::Model;
use crate::pipeline::HostTensor;
use crate::request::Request;
use crate::shape::Shape;
use crate::weights::Checkpoint;

/// Start latents of Stage C and Stage B.
pub(super) type StartLatents = [Option<HostTensor>; 2];

/// Reads start latents for `request`.
///
/// # Errors
/// If the file is no safetensors file, holds neither `stage_c` nor `stage_b`, or
/// one of another shape than the request's.
pub(super) fn read_latents(path: &Path, request: &Request, model: &Model) -> Result<StartLatents> {
    if let Err(source) = std::fs::metadata(path) {
        return Err(Error::Disk { path: path.to_owned(), action: "read", source });
    }
    let file = Checkpoint::open(path)?;
    let sizes = request.sizes();
    let read = |name: &str, (h, w): (usize, usize), c: usize| -> Result<Option<HostTensor>> {
        if file.dims(name).is_none() {
            return Ok(None);
        }
        let shape = Shape::new(request.images(), h, w, c);
        let weight = file.require(name, &[shape.n, c, h, w])?;
        Ok(Some(HostTensor { shape, values: to_nhwc(&weight.to_f32(), shape) }))
    };
    let latents = [
        read("stage_c", sizes.c, model.stage_c.1.in_channels)?,
        read("stage_b", sizes.b, model.stage_b.1.in_channels)?,
    ];
    if latents.iter().all(Option::is_none) {
        return Err(Error::Model {
            path: path.to_owned(),
            expected: "tensors `stage_c`, `stage_b` or both".into(),
            found: format!("{} others, like `{}`", file.names().count(), file.names().next().unwrap_or_default()),
        });
    }
    Ok(latents)
}

/// Intermediate results of all batches.
#[derive(Default)]
pub(super) struct Dump {
    tensors: Vec<(&'static str, Vec<usize>, Vec<f32>)>,
}

impl Dump {
    /// Adds a batch's tensor; images follow each other along the first axis.
    pub(super) fn append(&mut self, name: &'static str, HostTensor { shape, values }: HostTensor) {
        match name {
            "tokens" => self.add(name, vec![shape.n, shape.w], values),
            // Token sequences keep their order: [n, tokens, c].
            "text_states" | "text_pooled" => self.add(name, vec![shape.n, shape.tokens(), shape.c], values),
            _ => self.add(name, vec![shape.n, shape.c, shape.h, shape.w], to_nchw(&values, shape)),
        }
    }

    fn add(&mut self, name: &'static str, dims: Vec<usize>, values: Vec<f32>) {
        match self.tensors.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, known, all)) => {
                known[0] += dims[0];
                all.extend(values);
            }
            None => self.tensors.push((name, dims, values)),
        }
    }

    /// The safetensors file that is to be written to `path`.
    pub(super) fn to_bytes(&self, path: &Path) -> Result<Vec<u8>> {
        let view = |(name, dims, values): &'_ (&'static str, Vec<usize>, Vec<f32>)| {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (*name, dims.clone(), bytes)
        };
        let owned: Vec<_> = self.tensors.iter().map(view).collect();
        let failed = |e: safetensors::SafeTensorError| Error::Disk {
            path: path.to_owned(),
            action: "encode",
            source: std::io::Error::other(e),
        };
        let views =
            owned.iter().map(|(name, dims, bytes)| Ok((*name, TensorView::new(Dtype::F32, dims.clone(), bytes)?)));
        let views = views.collect::<std::result::Result<Vec<_>, _>>().map_err(failed)?;
        safetensors::serialize(views, None).map_err(failed)
    }
}

/// `[n, c, h, w]` → `[n, h, w, c]`; `shape` is the result's.
fn to_nhwc(x: &[f32], shape: Shape) -> Vec<f32> {
    let tokens = shape.tokens();
    let image = |i: usize| &x[i * tokens * shape.c..];
    let value = |(i, t, c): (usize, usize, usize)| image(i)[c * tokens + t];
    let at = |i: usize| (i / shape.c / tokens, i / shape.c % tokens, i % shape.c);
    (0..shape.elements()).map(|i| value(at(i))).collect()
}

/// `[n, h, w, c]` → `[n, c, h, w]`; `shape` is the operand's.
fn to_nchw(x: &[f32], shape: Shape) -> Vec<f32> {
    let tokens = shape.tokens();
    let at = |i: usize| (i / tokens / shape.c, i / tokens % shape.c, i % tokens);
    let value = |(n, c, t): (usize, usize, usize)| x[(n * tokens + t) * shape.c + c];
    (0..shape.elements()).map(|i| value(at(i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_inverse() {
        let shape = Shape::new(2, 3, 4, 5);
        let x: Vec<f32> = (0..120).map(|i| i as f32).collect();
        assert_eq!(to_nhwc(&to_nchw(&x, shape), shape), x);
        // Channel 1 of pixel (0, 0) follows the first channel's twelve pixels.
        assert_eq!(to_nchw(&x, shape)[12], 1.0);
    }
}
