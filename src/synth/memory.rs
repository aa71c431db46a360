//! Models that are nowhere but in memory, to measure speed with.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use half::bf16;
use rayon::prelude::*;

use super::{Preset, fill, sizes, tokenizer};
use crate::error::Result;
use crate::files::{BuiltIn, Location};
use crate::model::Model;
use crate::net::config::StageAConfig;
use crate::net::tensors::Table;
use crate::tensor::{Bytes, Dtype, Part};
use crate::weights::file::Stored;
use crate::weights::{Checkpoint, Missing};

/// Most bytes of memory that all the weights of a model take: more than caches hold.
const LIMIT: usize = 256 << 20;

/// Where ranges begin: a multiple of what devices want.
const ALIGN: usize = 256;

/// Random numbers that any number of weights share, each with a range of its own: to a
/// device they are different weights, and take its memory and bandwidth as such, while
/// the host holds little. As bf16 they have a deviation of 0.01, with which no layer is so
/// wide that activations grow; as f32 as well, and as f16 they are below 1.3.
pub struct Noise {
    values: Arc<dyn Bytes>,
    len: usize,
    at: usize,
    used: HashSet<usize>,
}

impl Noise {
    /// At least `bytes` of noise, which is as large as any one range can be. Made once, and
    /// again only if more is wanted than before.
    pub fn new(bytes: usize) -> Self {
        const CHUNK: usize = 1 << 20;
        static MADE: Mutex<Option<Arc<Vec<f32>>>> = Mutex::new(None);
        // With room for many ranges as large as all of it.
        let elements = (bytes / 2 + CHUNK).next_multiple_of(32 * CHUNK);
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        let values = match made.take().filter(|values| 2 * values.len() >= elements) {
            Some(values) => values,
            None => {
                let mut values = vec![0f32; elements / 2];
                let chunks = bytemuck::cast_slice_mut::<f32, bf16>(&mut values).par_chunks_mut(CHUNK).enumerate();
                chunks.for_each(|(i, chunk)| chunk.copy_from_slice(&fill("noise", &[1, 10_000], i * CHUNK, CHUNK)));
                Arc::new(values)
            }
        };
        *made = Some(values.clone());
        Self { len: 4 * values.len(), values, at: 0, used: HashSet::new() }
    }

    /// A range of `bytes` that is none of those before, and where they lie.
    pub fn range(&mut self, bytes: usize) -> (Arc<dyn Bytes>, Range<usize>) {
        let mut start = self.at;
        loop {
            if start + bytes > self.len {
                start = 0;
            }
            if self.used.insert(start) {
                break;
            }
            start += ALIGN;
        }
        self.at = (start + bytes).next_multiple_of(ALIGN);
        (self.values.clone(), start..start + bytes)
    }

    /// A part of a weight whose rows have `row` elements. Of int8, the factors are such that values are below 0.02.
    pub fn part(&mut self, elements: usize, dtype: Dtype, row: usize) -> Part {
        let (values, range) = self.range(elements * dtype.bytes());
        if dtype != Dtype::I8 {
            return Part::new(values, range, dtype);
        }
        let factors = vec![0.02 / 128.0f32; elements / row];
        let bytes = 4 * factors.len();
        Part::int8(values, range, Part::new(Arc::new(factors), 0..bytes, Dtype::F32))
    }
}

/// A model without files. Vectors are as [`synthesise`](super::synthesise) writes them, matrices are
/// [`Noise`]: right to measure speed with, and for nothing else.
///
/// # Errors
/// None that are known.
pub fn in_memory(preset: Preset) -> Result<Model> {
    let (text, stage_c, stage_b) = sizes(preset);
    let stage_a = StageAConfig::default();
    let tables = [stage_c.tensors(), stage_b.tensors(), stage_a.tensors(), text.tensors()];
    let bytes = |(_, dims): &(String, Vec<usize>)| 2 * dims.iter().product::<usize>();
    let total: usize = tables.iter().flatten().map(bytes).sum();
    let largest = tables.iter().flatten().map(bytes).max().unwrap_or(0);
    let mut noise = Noise::new(total.min(LIMIT).max(largest));
    let mut part = |name: &str, table: &Table| -> Result<Checkpoint> {
        let path = Path::new("synthetic").join(name);
        let stored = |(name, dims): &(String, Vec<usize>)| {
            let bytes: usize = 2 * dims.iter().product::<usize>();
            let (source, range): (Arc<dyn Bytes>, _) = match dims.len() {
                1 => (Arc::new(fill(name, dims, 0, bytes / 2)), 0..bytes),
                _ => noise.range(bytes),
            };
            Stored::in_memory(&path, name, dims, source, range)
        };
        let networks = Checkpoint::of(&path, table.iter().map(stored).collect())?;
        Ok(networks.into_iter().next().expect("a network has tensors"))
    };
    let [c, b, a, t] = &tables;
    Ok(Model {
        stage_c: (part("prior", c)?, stage_c),
        stage_b: (part("decoder", b)?, stage_b),
        stage_a: (part("vqgan", a)?, stage_a),
        text: (part("text_encoder", t)?, text),
        vision: Err(Missing::of("image encoder weights", "synthetic models have none")),
        previewer: Err(Missing::of("previewer weights", "synthetic models have none")),
        tokenizer: tokenizer_files(),
        native_size: None,
        sources: Vec::new(),
        texts: Vec::new(),
    })
}

/// The tokenizer, made once and kept as long as the program runs.
fn tokenizer_files() -> Location {
    static FILES: OnceLock<BuiltIn> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let file = |(name, json)| {
            let text: &'static [u8] = serde_json::to_vec(&json).expect("JSON values can be written").leak();
            (name, text)
        };
        BuiltIn { name: "synthetic", files: tokenizer::files().map(file).to_vec().leak() }
    });
    files.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_differ_and_hold_small_numbers() {
        let mut noise = Noise::new(3000);
        let mut places = HashSet::new();
        for i in 0..2000 {
            let bytes = 4 * (1 + i % 750);
            let part = noise.part(bytes / 4, Dtype::F32, 1);
            assert!(places.insert(part.place()) && part.bytes().len() == bytes);
            assert!((0..bytes / 4).all(|i| part.elements().get(i).abs() < 0.03));
        }
        let halves = noise.part(1500, Dtype::F16, 1);
        assert!((0..1500).all(|i| halves.elements().get(i).abs() < 1.5));
    }

    #[test]
    fn models_in_memory_are_recognised_and_share_it() {
        let model = in_memory(Preset::Mid).unwrap();
        use crate::weights::NetworkKind;
        assert_eq!(model.stage_c.0.kind(), NetworkKind::StageC);
        assert_eq!(model.stage_b.0.kind(), NetworkKind::StageB);
        assert_eq!(model.stage_a.0.kind(), NetworkKind::StageA);
        assert_eq!(model.text.0.kind(), NetworkKind::TextEncoder);
        assert!(model.text.0.first_non_finite().is_none());
    }
}
