//! Brings adapters and a model together: which tensor is changed, and how.

use std::collections::HashMap;
use std::path::PathBuf;

use super::Adapter;
use super::file::{Entry, Tokens, numbered, wrong};
use super::names::{Names, attention_in_order};
use crate::error::{Error, Result};
use crate::tensor::Weight;
use crate::weights::{Changes, Checkpoint, Copied, LowRank, NetworkKind, foreign};

/// What became of an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Its file.
    pub path: PathBuf,
    /// Changes of the file that were applied.
    pub applied: usize,
    /// Names in the file that mean nothing in this model.
    pub unknown: Vec<String>,
}

/// Changes of a network, by tensor.
type ByTensor = HashMap<String, Changes>;

/// The token embeddings of the text encoder.
pub(super) const TOKENS: &str = "text_model.embeddings.token_embedding.weight";

/// Replaces all changes of these networks' weights by those of `adapters`, each with its strength; see [`adapt`](super::adapt).
pub(super) fn assign(networks: &mut [&mut Checkpoint], adapters: &[(&Adapter, f32)]) -> Result<Vec<Applied>> {
    let names: Vec<Names> = networks.iter().map(|network| Names::of(network)).collect();
    let of_kind = |kind: NetworkKind| networks.iter().position(|network| network.kind() == kind);
    let (stage_c, text) = (of_kind(NetworkKind::StageC), of_kind(NetworkKind::TextEncoder));
    let order = stage_c.map_or(Vec::new(), |c| attention_in_order(networks[c]));
    let mut changes: Vec<ByTensor> = networks.iter().map(|_| ByTensor::new()).collect();
    let mut reports = Vec::new();
    for &(adapter, strength) in adapters {
        let mut report = Applied { path: adapter.path.clone(), applied: 0, unknown: adapter.unknown.clone() };
        for entry in &adapter.entries {
            let found = match numbered(&entry.module) {
                Some(k) => stage_c.zip(order.get(k).cloned()),
                None => find(&names, networks, entry).map(|(network, tensor)| (network, vec![tensor])),
            };
            let Some((network, tensors)) = found else {
                report.unknown.push(entry.module.clone());
                continue;
            };
            change(adapter, entry, strength, networks[network], &tensors, &mut changes[network])?;
            report.applied += 1;
        }
        match (&adapter.tokens, text) {
            (Some(tokens), Some(text)) => {
                let change = rows(adapter, tokens, strength, networks[text])?;
                changes[text].entry(TOKENS.to_owned()).or_default().copied.extend(change);
                report.applied += 1;
            }
            (Some(tokens), None) => report.unknown.push(tokens.values.name.clone()),
            (None, _) => {}
        }
        if report.applied == 0 {
            return Err(Error::Model {
                path: adapter.path.clone(),
                expected: "an adapter that changes tensors of this model".into(),
                found: foreign::what_is(report.unknown.iter().map(String::as_str)),
            });
        }
        reports.push(report);
    }
    networks.iter_mut().zip(changes).for_each(|(network, changes)| network.change(changes));
    Ok(reports)
}

/// The network, and in it the tensor, that an entry's name means. Where several networks have a tensor of that name,
/// it is one whose dimensions fit.
fn find(names: &[Names], networks: &[&mut Checkpoint], entry: &Entry) -> Option<(usize, String)> {
    let candidates: Vec<(usize, &str)> =
        names.iter().enumerate().filter_map(|(i, names)| Some((i, names.tensor(&entry.module)?))).collect();
    let fits = |&&(i, tensor): &&(usize, &str)| networks[i].dims(tensor).is_some_and(|dims| fit(entry, dims, 1));
    let found = candidates.iter().find(fits).or(candidates.first());
    found.map(|&(i, tensor)| (i, tensor.to_owned()))
}

/// Whether an entry's factors are of the size of `layers` tensors of these dimensions, stacked.
fn fit(entry: &Entry, dims: &[usize], layers: usize) -> bool {
    let (o, k) = (entry.up.dims[0], entry.down.dims[1]);
    let rest: usize = dims[1..].iter().product();
    // A depthwise kernel is changed as one row.
    let depthwise = dims.len() == 4 && dims[1] == 1 && o == 1 && k == dims[0] * rest;
    o == layers * dims[0] && k == rest || depthwise
}

/// Adds an entry's change of `tensors`, which are stacked in it, to `changes`.
fn change(
    adapter: &Adapter,
    entry: &Entry,
    strength: f32,
    network: &Checkpoint,
    tensors: &[String],
    changes: &mut ByTensor,
) -> Result<()> {
    for (i, tensor) in tensors.iter().enumerate() {
        let dims = network.dims(tensor).unwrap_or(&[]);
        if dims.len() < 2 || !fit(entry, dims, tensors.len()) {
            let found =
                format!("factors of rank {} for [{}, {}]", entry.down.dims[0], entry.up.dims[0], entry.down.dims[1]);
            let expected = format!("a change of `{tensor}` {dims:?}, {} in {}", network.kind(), network.path.display());
            return Err(wrong(&adapter.path, &entry.module, &expected, &found));
        }
        // Of strength 0, nothing is left, so that the model's own kernels make the model's own bytes.
        if strength == 0.0 {
            continue;
        }
        let rows = entry.up.dims[0] / tensors.len();
        let scaled = |factor: f32| -> Result<LowRank> {
            let up: Vec<f32> = entry
                .up
                .to_f32()
                .chunks(entry.up.dims[1])
                .skip(i * rows)
                .take(rows)
                .flatten()
                .map(|v| v * factor)
                .collect();
            if !up.iter().all(|v| v.is_finite()) {
                return Err(wrong(
                    &adapter.path,
                    &entry.up.name,
                    "numbers that stay finite with their strength",
                    "larger ones",
                ));
            }
            let up = Weight::from_f32(entry.up.name.clone(), &[rows, entry.up.dims[1]], up);
            Ok(LowRank { down: entry.down.clone(), up })
        };
        let all = changes.entry(tensor.clone()).or_default();
        match &entry.magnitude {
            None => all.low_rank.push(scaled(entry.scale * strength)?),
            Some(magnitude) => {
                let wanted = if magnitude.of_outputs { dims[0] } else { dims[1] };
                if magnitude.values.len() != wanted {
                    let expected = format!("{wanted} magnitudes for `{tensor}` {dims:?}");
                    return Err(wrong(&adapter.path, &entry.module, &expected, &magnitude.values.len().to_string()));
                }
                all.copied.push(Copied::Decomposed {
                    direction: scaled(entry.scale)?,
                    magnitude: magnitude.values.clone(),
                    of_outputs: magnitude.of_outputs,
                    strength,
                });
            }
        }
    }
    Ok(())
}

/// The change of token embeddings; `None` at strength 0.
fn rows(adapter: &Adapter, tokens: &Tokens, strength: f32, text: &Checkpoint) -> Result<Option<Copied>> {
    let Some(&[vocabulary, width]) = text.get(TOKENS).map(|table| &table.dims[..]).and_then(|dims| dims.first_chunk())
    else {
        return Err(wrong(&adapter.path, TOKENS, "token embeddings in the text encoder", "none"));
    };
    if tokens.values.dims[1] != width {
        let (expected, found) =
            (format!("{width} values a token, as in {}", text.path.display()), tokens.values.dims[1].to_string());
        return Err(wrong(&adapter.path, &tokens.values.name, &expected, &found));
    }
    if let Some(row) = tokens.rows.iter().find(|row| **row >= vocabulary) {
        let expected = format!("tokens of the vocabulary, 0 to {}", vocabulary - 1);
        let found = format!("{row}, a new token, whose name and beginning `token` says");
        return Err(wrong(&adapter.path, "embeddings.indices", &expected, &found));
    }
    let values = tokens.values.to_f32().iter().map(|v| v * strength).collect();
    Ok((strength != 0.0).then(|| Copied::Rows(tokens.rows.clone(), values)))
}
