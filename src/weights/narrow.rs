//! Which weights become int8 where a model is quantised, as one table.
//!
//! A weight becomes int8 if it is that of a linear layer inside a block, where a residual is added to the result. What is
//! in the stream itself stays as it is: first and last layers, what maps conditions and timesteps, what changes the
//! resolution; and so do convolutions, norms, biases and embeddings, which take little memory.

use super::kind::NetworkKind;

/// A network: its name, and the ends of the names of weights that become int8, but for those whose names have
/// one of these beginnings.
type Row = (NetworkKind, &'static str, &'static [&'static str], &'static [&'static str]);

const TABLE: &[Row] = &[
    // Values in the last blocks of Stage C are so large that they exceed f16, in a few channels: rounding all channels by the
    // same factor would cost the others too much.
    (NetworkKind::StageC, "stage_c", BLOCKS, &["up_blocks.1."]),
    (NetworkKind::StageB, "stage_b", BLOCKS, &[]),
    (NetworkKind::TextEncoder, "text_encoder", TOWER, &[]),
    (NetworkKind::VisionEncoder, "image_encoder", TOWER, &[]),
];

/// Of the blocks of Stages B and C.
const BLOCKS: &[&str] = &[
    ".channelwise.0.weight",
    ".channelwise.4.weight",
    ".kv_mapper.1.weight",
    ".attention.to_q.weight",
    ".attention.to_k.weight",
    ".attention.to_v.weight",
    ".attention.to_out.0.weight",
];

/// Of the layers of CLIP's towers.
const TOWER: &[&str] = &[
    ".self_attn.q_proj.weight",
    ".self_attn.k_proj.weight",
    ".self_attn.v_proj.weight",
    ".self_attn.out_proj.weight",
    ".mlp.fc1.weight",
    ".mlp.fc2.weight",
];

/// Whether a weight of a network becomes int8. Those stay as they are, besides those of the table, whose names contain one
/// of the texts `keep`, with that of the network as in `stage_c.down_blocks.0.0.channelwise.0.weight`.
pub fn is_narrow(kind: NetworkKind, name: &str, keep: &[String]) -> bool {
    let Some((_, network, ends, wide)) = TABLE.iter().find(|row| row.0 == kind) else { return false };
    let full = format!("{network}.{name}");
    ends.iter().any(|end| name.ends_with(end))
        && !wide.iter().any(|start| name.starts_with(start))
        && !keep.iter().any(|text| full.contains(text.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_int8_and_the_rest_stays() {
        use NetworkKind::{StageA, StageB, StageC, TextEncoder};
        for (kind, name, narrow) in [
            (StageC, "down_blocks.1.7.channelwise.0.weight", true),
            (StageC, "up_blocks.0.2.attention.to_k.weight", true),
            (StageC, "up_blocks.1.2.attention.to_k.weight", false),
            (StageB, "up_blocks.1.2.attention.to_k.weight", true),
            (StageC, "down_blocks.0.0.channelwise.0.bias", false),
            (StageC, "down_blocks.0.1.mapper.weight", false),
            (StageC, "clf.1.weight", false),
            (TextEncoder, "text_model.encoder.layers.0.mlp.fc1.weight", true),
            (TextEncoder, "text_model.embeddings.token_embedding.weight", false),
            (StageA, "down_blocks.0.channelwise.0.weight", false),
        ] {
            assert_eq!(is_narrow(kind, name, &[]), narrow, "{kind}: {name}");
        }
        let keep = ["stage_b.up_".to_owned(), "fc1".to_owned()];
        assert!(!is_narrow(StageB, "up_blocks.1.2.attention.to_k.weight", &keep));
        assert!(is_narrow(StageC, "up_blocks.0.2.attention.to_k.weight", &keep));
        assert!(!is_narrow(TextEncoder, "text_model.encoder.layers.0.mlp.fc1.weight", &keep));
    }
}
