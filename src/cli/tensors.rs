//! Tensors for other runs and other programs: safetensors files in f32 and PyTorch's order `[n, c, h, w]`.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use crate::error::{Error, Result};
use crate::image::Record;
use crate::pipeline::{HostTensor, TextEmbeddings};
use crate::shape::Shape;

/// Named tensors that are to be written.
#[derive(Default)]
pub(super) struct Tensors {
    all: Vec<(&'static str, Vec<usize>, Vec<f32>)>,
}

impl Tensors {
    /// Adds to a tensor of this name, along its first axis.
    pub(super) fn append(&mut self, name: &'static str, dims: Vec<usize>, values: Vec<f32>) {
        match self.all.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, known, all)) => {
                known[0] += dims[0];
                all.extend(values);
            }
            None => self.all.push((name, dims, values)),
        }
    }

    /// Adds pictures or latents `[n, h, w, c]` as `[n, c, h, w]`.
    pub(super) fn append_images(&mut self, name: &'static str, HostTensor { shape, values }: HostTensor) {
        self.append(name, vec![shape.n, shape.c, shape.h, shape.w], to_nchw(&values, shape));
    }

    /// Adds rows of tokens `[n, 1, t, c]` as `[n, t, c]`.
    pub(super) fn append_rows(&mut self, name: &'static str, HostTensor { shape, values }: HostTensor) {
        self.append(name, vec![shape.n, shape.tokens(), shape.c], values);
    }

    /// Adds the text of `prompts` prompts and, where there is one, of the negative prompt, by the names that
    /// diffusers has for them.
    pub(super) fn append_text(&mut self, text: &TextEmbeddings, prompts: usize) {
        for (tensor, [positive, negative]) in [
            (text.states.as_ref(), ["prompt_embeds", "negative_prompt_embeds"]),
            (Some(&text.pooled), ["prompt_embeds_pooled", "negative_prompt_embeds_pooled"]),
        ] {
            let Some(tensor) = tensor else { continue };
            for (name, rows) in [(positive, 0..prompts), (negative, prompts..tensor.shape.n)] {
                let rows: Vec<usize> = rows.collect();
                if !rows.is_empty() {
                    let shape = Shape { n: rows.len(), ..tensor.shape };
                    self.append_rows(name, HostTensor { shape, values: tensor.images(&rows) });
                }
            }
        }
    }

    /// The safetensors file that is to be written to `path`, with `record` in its metadata.
    ///
    /// # Errors
    /// [`Error::Disk`] if the tensors are more than the format can hold.
    pub(super) fn to_bytes(&self, path: &Path, record: Option<&Record>) -> Result<Vec<u8>> {
        let failed = |source: std::io::Error| Error::Disk { path: path.to_owned(), action: "encode", source };
        let metadata = record.map(serde_json::to_string).transpose().map_err(|e| failed(e.into()))?;
        let metadata = metadata.map(|record| HashMap::from([(Record::KEY.to_owned(), record)]));
        // Little-endian, like every machine that this is built for, so the values are the file's bytes.
        let views = self.all.iter().map(|(name, dims, values)| {
            Ok((*name, TensorView::new(Dtype::F32, dims.clone(), bytemuck::cast_slice(values))?))
        });
        let views: std::result::Result<Vec<_>, safetensors::SafeTensorError> = views.collect();
        views.and_then(|views| safetensors::serialize(views, metadata)).map_err(|e| failed(std::io::Error::other(e)))
    }
}

/// `[n, c, h, w]` → `[n, h, w, c]`; `shape` is the result's.
pub(super) fn to_nhwc(x: &[f32], shape: Shape) -> Vec<f32> {
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
