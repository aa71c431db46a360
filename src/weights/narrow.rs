//! Which weights become int8 where a model is quantised, as one table.
//!
//! A weight becomes int8 if it is that of a linear layer inside a block, where a residual is added to the result. What is
//! in the stream itself stays as it is: first and last layers, what maps conditions and timesteps, what changes the
//! resolution; and so do convolutions, norms, biases and embeddings, which take little memory.

use super::kind::NetworkKind;

/// A network: its name, and the ends of the names of weights that become int8.
type Row = (NetworkKind, &'static str, &'static [&'static str]);

const TABLE: &[Row] = &[
    (NetworkKind::StageC, "stage_c", BLOCKS),
    (NetworkKind::StageB, "stage_b", BLOCKS),
    (NetworkKind::TextEncoder, "text_encoder", TOWER),
    (NetworkKind::VisionEncoder, "image_encoder", TOWER),
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

/// Which weights of a network become int8.
pub struct Narrow<'a> {
    network: &'static str,
    ends: &'static [&'static str],
    /// What the names of the last group of up blocks begin with: those at the highest resolution, of which there are few. Values
    /// there are so large in a few channels (in Stage C they exceed f16) that one factor for all would cost the others too
    /// much; SPEED.md has what it costs.
    last_group: Option<String>,
    keep: &'a [String],
}

impl<'a> Narrow<'a> {
    /// Of a network with tensors of these `names`. Weights stay as they are whose names contain one of the texts `keep`, with that
    /// of the network as in `stage_c.down_blocks.0.0.channelwise.0.weight`. `None` if all weights of such a network do.
    pub fn of<'n>(kind: NetworkKind, names: impl Iterator<Item = &'n str>, keep: &'a [String]) -> Option<Self> {
        let (_, network, ends) = TABLE.iter().find(|row| row.0 == kind)?;
        let group = |name: &str| name.strip_prefix("up_blocks.")?.split_once('.')?.0.parse::<usize>().ok();
        let last_group = names.filter_map(group).max().map(|last| format!("up_blocks.{last}."));
        Some(Self { network, ends, last_group, keep })
    }

    /// Whether the weight of this name becomes int8.
    pub fn takes(&self, name: &str) -> bool {
        let full = format!("{}.{name}", self.network);
        self.ends.iter().any(|end| name.ends_with(end))
            && !self.last_group.as_ref().is_some_and(|group| name.starts_with(group))
            && !self.keep.iter().any(|text| full.contains(text.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_int8_and_the_rest_stays() {
        use NetworkKind::{StageA, StageB, StageC, TextEncoder};
        // Two groups of Stage C, and three of Stage B.
        let names = |kind| match kind {
            StageC => ["up_blocks.0.0.x", "up_blocks.1.0.x", "up_blocks.x"],
            _ => ["up_blocks.2.0.x", "up_blocks.1.0.x", "up_upscalers.3.x"],
        };
        let takes = |kind, name: &str, keep: &[String]| {
            Narrow::of(kind, names(kind).into_iter(), keep).is_some_and(|narrow| narrow.takes(name))
        };
        for (kind, name, narrow) in [
            (StageC, "down_blocks.1.7.channelwise.0.weight", true),
            (StageC, "up_blocks.0.2.attention.to_k.weight", true),
            (StageC, "up_blocks.1.2.attention.to_k.weight", false),
            (StageB, "up_blocks.1.2.attention.to_k.weight", true),
            (StageB, "up_blocks.2.2.channelwise.4.weight", false),
            (StageC, "down_blocks.0.0.channelwise.0.bias", false),
            (StageC, "down_blocks.0.1.mapper.weight", false),
            (StageC, "clf.1.weight", false),
            (TextEncoder, "text_model.encoder.layers.0.mlp.fc1.weight", true),
            (TextEncoder, "text_model.embeddings.token_embedding.weight", false),
            (StageA, "down_blocks.0.channelwise.0.weight", false),
        ] {
            assert_eq!(takes(kind, name, &[]), narrow, "{kind}: {name}");
        }
        let keep = ["stage_b.up_".to_owned(), "fc1".to_owned()];
        assert!(!takes(StageB, "up_blocks.1.2.attention.to_k.weight", &keep));
        assert!(takes(StageC, "up_blocks.0.2.attention.to_k.weight", &keep));
        assert!(!takes(TextEncoder, "text_model.encoder.layers.0.mlp.fc1.weight", &keep));
    }
}
