//! What a file is that is neither an adapter nor a ControlNet for Stable Cascade, for messages.

/// Parts of tensor names, and whose they are. The first that occurs counts.
const MARKS: [(&str, &str); 24] = [
    ("controlnet_x_embedder", "a Flux ControlNet"),
    ("controlnet_cond_embedding", "a Stable Diffusion ControlNet"),
    ("input_hint_block", "a Stable Diffusion ControlNet"),
    ("double_blocks", "a Flux model or adapter"),
    ("single_transformer_blocks", "a Flux model or adapter"),
    ("joint_blocks", "a Stable Diffusion 3 model or adapter"),
    ("lora_te2_", "an adapter for Stable Diffusion XL"),
    ("text_encoder_2.", "an adapter for Stable Diffusion XL"),
    ("add_embedding", "Stable Diffusion XL"),
    ("label_emb", "Stable Diffusion XL"),
    ("conditioner.embedders", "Stable Diffusion XL"),
    ("clip_l", "an embedding for Stable Diffusion XL"),
    ("clip_g_out", "an output embedding, which is not supported"),
    ("string_to_param", "an embedding for Stable Diffusion 1.5 or 2"),
    ("input_blocks", "Stable Diffusion (1.5, 2 or XL)"),
    ("attentions_", "an adapter for Stable Diffusion (1.5, 2 or XL)"),
    (".attentions.", "Stable Diffusion (1.5, 2 or XL)"),
    ("cnet_blocks", "a Stable Diffusion ControlNet"),
    ("controlnet_", "a Stable Diffusion ControlNet"),
    ("backbone.0", "a ControlNet or image encoder for Stable Cascade"),
    ("lora_", "an adapter in a dialect that is not known"),
    ("hada_", "a LyCORIS adapter (LoHa), which is not supported"),
    ("lokr_", "a LyCORIS adapter (LoKr), which is not supported"),
    ("down_blocks.0.0.depthwise", "a whole Stage B or C, which `-m`, `--stage-b` or `--stage-c` takes"),
];

/// What a file with tensors of these names seems to be.
pub(crate) fn what_is<'a>(names: impl Iterator<Item = &'a str> + Clone) -> String {
    let found = MARKS.iter().find(|(mark, _)| names.clone().any(|name| name.contains(mark)));
    match (found, names.clone().next()) {
        (Some((_, what)), Some(first)) => format!("{what} (with `{first}`)"),
        (None, Some(first)) => format!("something else (with `{first}`)"),
        _ => "no tensors".to_owned(),
    }
}
