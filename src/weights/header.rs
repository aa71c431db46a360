//! The beginning of a safetensors file, for files that are written tensor by tensor.

use std::collections::HashMap;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

/// What precedes the data of these tensors, in this order: the header's length and the header, after which data is aligned.
/// The metadata says `format: pt`, without which `transformers` refuses a file.
pub fn header(tensors: &[(String, Dtype, Vec<usize>)]) -> Vec<u8> {
    let mut at = 0;
    let info = |(name, dtype, dims): &(String, Dtype, Vec<usize>)| {
        let start = at;
        at += dims.iter().product::<usize>() * dtype.bitsize() / 8;
        (name.clone(), TensorInfo { dtype: *dtype, shape: dims.clone(), data_offsets: (start, at) })
    };
    let infos = tensors.iter().map(info).collect();
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).expect("tensors follow each other");
    let mut text = serde_json::to_vec(&metadata).expect("a header is plain data");
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}
