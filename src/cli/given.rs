//! Tensors from files, in place of what a run would compute or draw: of this program, or of others.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::tensors::to_nhwc;
use crate::error::{Error, Result};
use crate::image::{FromFile, Record};
use crate::model::Model;
use crate::pipeline::{HostTensor, TextEmbeddings};
use crate::request::Request;
use crate::shape::Shape;
use crate::weights::Checkpoint;

/// A safetensors file.
pub(super) struct Given {
    path: PathBuf,
    file: Checkpoint,
    /// How its tensors were made, if this program made them.
    pub(super) record: Option<Record>,
}

/// Start latents of Stage C and Stage B.
pub(super) type StartLatents = [Option<HostTensor>; 2];

impl Given {
    /// Opens a file.
    ///
    /// # Errors
    /// If it is no safetensors file, or its record is damaged.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if let Err(source) = std::fs::metadata(path) {
            return Err(Error::Disk { path: path.to_owned(), action: "read", source });
        }
        let file = Checkpoint::open(path)?;
        let record = record(path)?;
        Ok(Self { path: path.to_owned(), file, record })
    }

    /// The file's name without folders and the first row that is used of it, for records.
    pub(super) fn from(&self, row: usize) -> FromFile {
        FromFile { file: self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(), row }
    }

    /// The prompts and the negative prompt that its text is of. Where the file does not say, they are empty.
    pub(super) fn prompts(&self) -> (Vec<String>, String) {
        let rows = self.file.dims("prompt_embeds_pooled").and_then(|dims| dims.first()).copied().unwrap_or(0);
        match &self.record {
            Some(record) if record.request.prompts.len() == rows => {
                (record.request.prompts.clone(), record.request.negative.clone())
            }
            _ => (vec![String::new(); rows.max(1)], String::new()),
        }
    }

    /// Start latents for `request`: one row of the file for each image, or `row` for all.
    ///
    /// # Errors
    /// If there is neither `stage_c` nor `stage_b`, or one of another shape than the request's.
    pub(super) fn start_latents(&self, request: &Request, row: Option<usize>, model: &Model) -> Result<StartLatents> {
        let (images, sizes) = (request.images(), [request.sizes().c, request.last_pass().sizes().b]);
        let read = |name: &str, (h, w): (usize, usize), c: usize| -> Result<Option<HostTensor>> {
            let Some(dims) = self.file.dims(name) else { return Ok(None) };
            let rows = if row.is_some() { dims.first().copied().unwrap_or(0) } else { images };
            let all = self.images(name, Shape::new(rows, h, w, c))?;
            Ok(Some(match row {
                Some(row) => self.row(name, &all, rows, row)?.repeated(images),
                None => all,
            }))
        };
        let latents = [
            read("stage_c", sizes[0], model.stage_c.1.in_channels)?,
            read("stage_b", sizes[1], model.stage_b.1.in_channels)?,
        ];
        match latents.iter().all(Option::is_none) {
            true => Err(self.lacks("tensors `stage_c`, `stage_b` or both")),
            false => Ok(latents),
        }
    }

    /// One row of a tensor of this name, whose first `rows` may be asked for.
    fn row(&self, name: &str, all: &HostTensor, rows: usize, row: usize) -> Result<HostTensor> {
        match row < rows {
            true => Ok(HostTensor { shape: Shape { n: 1, ..all.shape }, values: all.images(&[row]) }),
            false => Err(Error::Tensor {
                path: self.path.clone(),
                name: name.to_owned(),
                expected: format!("row {row}, which the picture was made from"),
                found: format!("{rows} rows"),
            }),
        }
    }

    /// Stage C's result for every image, `[n, h, w, 16]`, by our name or the one that diffusers has for it.
    ///
    /// # Errors
    /// If there is none, or not one that the model takes.
    pub(super) fn stage_c(&self, model: &Model) -> Result<HostTensor> {
        let name = ["stage_c", "image_embeddings"].into_iter().find(|name| self.file.dims(name).is_some());
        let name = name.ok_or_else(|| self.lacks("a tensor `stage_c` or `image_embeddings`"))?;
        let channels = model.stage_c.1.out_channels;
        match self.file.dims(name) {
            Some(&[n, _, h, w]) if n > 0 => self.images(name, Shape::new(n, h, w, channels)),
            dims => Err(Error::Tensor {
                path: self.path.clone(),
                name: name.to_owned(),
                expected: format!("[images, {channels}, height, width]"),
                found: format!("{:?}", dims.unwrap_or_default()),
            }),
        }
    }

    /// Text of every prompt, then of the negative one where the file has it: states of tokens if `with_states`,
    /// and pooled text. `None` if the file has no text.
    ///
    /// # Errors
    /// If tensors are missing, or not those of the model's text encoder.
    pub(super) fn text(&self, model: &Model, with_states: bool) -> Result<Option<TextEmbeddings>> {
        let config = &model.text.1;
        let Some(&[prompts, ..]) = self.file.dims("prompt_embeds_pooled") else { return Ok(None) };
        let read = |name: &str, tokens, channels| -> Result<HostTensor> {
            let mut all = self.rows(name, Shape::new(prompts, 1, tokens, channels))?;
            let negative = format!("negative_{name}");
            if let Some(&[rows, ..]) = self.file.dims(&negative) {
                let row = self.rows(&negative, Shape::new(rows, 1, tokens, channels))?;
                let first = row.images(&[0]);
                // diffusers repeats it for every prompt.
                if !row.values.chunks(first.len()).all(|row| row == first) {
                    return Err(Error::Tensor {
                        path: self.path.clone(),
                        name: negative,
                        expected: "the same negative prompt in every row".into(),
                        found: "different ones".into(),
                    });
                }
                all.shape.n += 1;
                all.values.extend(first);
            }
            Ok(all)
        };
        let states = with_states
            .then(|| read("prompt_embeds", config.max_position_embeddings, config.hidden_size))
            .transpose()?;
        let pooled = read("prompt_embeds_pooled", 1, config.projection_dim)?;
        Ok(Some(TextEmbeddings { states, pooled }))
    }

    /// Embeddings of pictures, `image_embeds` `[n, c]` or `[n, 1, c]`, one after the other.
    ///
    /// # Errors
    /// If there are none, or not of `channels` channels.
    pub(super) fn image_embeds(&self, channels: usize) -> Result<Vec<f32>> {
        let Some(&[n, ..]) = self.file.dims("image_embeds") else {
            return Err(self.lacks("a tensor `image_embeds`, which `encode --image` writes"));
        };
        Ok(self.file.require("image_embeds", &[n, channels])?.to_f32())
    }

    /// A ControlNet's hint, `hint` `[c, h, w]` of so many channels, as `[1, h, w, c]`.
    ///
    /// # Errors
    /// If there is none, or not of these channels.
    pub(super) fn hint(&self, channels: usize) -> Result<HostTensor> {
        let (h, w) = match self.file.dims("hint") {
            None => return Err(self.lacks("a tensor `hint`, [channels, height, width]")),
            Some([_, h, w] | [1, _, h, w]) => (*h, *w),
            Some(_) => (1, 1),
        };
        let shape = Shape::new(1, h, w, channels);
        let weight = self.file.require("hint", &[channels, h, w])?;
        Ok(HostTensor { shape, values: to_nhwc(&weight.to_f32(), shape) })
    }

    /// A tensor `[n, c, h, w]`; `shape` is the result's.
    fn images(&self, name: &str, shape: Shape) -> Result<HostTensor> {
        let weight = self.file.require(name, &[shape.n, shape.c, shape.h, shape.w])?;
        Ok(HostTensor { shape, values: to_nhwc(&weight.to_f32(), shape) })
    }

    /// A tensor `[n, t, c]`.
    fn rows(&self, name: &str, shape: Shape) -> Result<HostTensor> {
        let weight = self.file.require(name, &[shape.n, shape.w, shape.c])?;
        Ok(HostTensor { shape, values: weight.to_f32() })
    }

    /// The text of one prompt, `row`, and of the negative one.
    ///
    /// # Errors
    /// As [`text`](Self::text), and if there is no such row.
    pub(super) fn text_of_row(&self, model: &Model, row: usize) -> Result<Option<TextEmbeddings>> {
        let Some(text) = self.text(model, true)? else { return Ok(None) };
        let prompts = self.file.dims("prompt_embeds_pooled").map_or(0, |dims| dims[0]);
        let pick = |name: &str, all: &HostTensor| -> Result<HostTensor> {
            let mut one = self.row(name, all, prompts, row)?;
            let negative: Vec<usize> = (prompts..all.shape.n).collect();
            one.values.extend(all.images(&negative));
            one.shape.n += negative.len();
            Ok(one)
        };
        let states = text.states.as_ref().map(|states| pick("prompt_embeds", states)).transpose()?;
        Ok(Some(TextEmbeddings { states, pooled: pick("prompt_embeds_pooled", &text.pooled)? }))
    }

    /// The error for a file that holds something else.
    pub(super) fn lacks(&self, expected: &str) -> Error {
        let mut names = self.file.names();
        let example = names.next().unwrap_or_default();
        Error::Model {
            path: self.path.clone(),
            expected: expected.into(),
            found: format!("{} others, like `{example}`", names.count() + 1),
        }
    }
}

/// The record in the metadata of a file that is known to be in safetensors format.
///
/// # Errors
/// If the file cannot be read, or the record is damaged.
pub(super) fn record(path: &Path) -> Result<Option<Record>> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__")]
        metadata: Option<HashMap<String, String>>,
    }
    if path.extension().is_some_and(|extension| extension == "json") {
        return Ok(None); // the index of several files
    }
    let disk = |source| Error::Disk { path: path.to_owned(), action: "read", source };
    let damaged = |e: serde_json::Error| Error::Model {
        path: path.to_owned(),
        expected: format!("a description of a request in the metadata `{}`", Record::KEY),
        found: format!("an error: {e}"),
    };
    let mut file = File::open(path).map_err(disk)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(disk)?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length)).read_to_end(&mut header).map_err(disk)?;
    let header: Header = serde_json::from_slice(&header).map_err(damaged)?;
    let text = header.metadata.and_then(|mut all| all.remove(Record::KEY));
    let record: Option<Record> = text.map(|text| serde_json::from_str(&text)).transpose().map_err(damaged)?;
    record.iter().try_for_each(|record| record.request.check())?;
    Ok(record)
}
