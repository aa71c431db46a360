//! A tokenizer of the right form for a model that understands nothing.

use serde_json::{Value, json};

/// The files of a tokenizer of CLIP's form and size: bytes are its only symbols, all
/// other entries stand for nothing, so that a word takes a token a letter.
pub(super) fn files() -> [(&'static str, Value); 2] {
    const BOS: &str = "<|startoftext|>";
    const EOS: &str = "<|endoftext|>";
    // Printable bytes stand for themselves, the rest for characters from U+0100 on.
    let printable = |b: &u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let shown = (0..=255u8).filter(printable).map(char::from);
    let hidden = (0..=255u8).filter(|b| !printable(b)).zip('\u{100}'..).map(|(_, c)| c);
    let bytes: Vec<String> = shown.chain(hidden).map(String::from).collect();
    let ends = bytes.iter().map(|b| format!("{b}</w>"));
    let filler = (0..48_894).map(|i| format!("[unused {i}]"));
    let entries = bytes.iter().cloned().chain(ends).chain(filler).chain([BOS.to_owned(), EOS.to_owned()]);
    let vocab: serde_json::Map<String, Value> = entries.enumerate().map(|(id, entry)| (entry, id.into())).collect();

    let special = |id, content| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(49_406, BOS), special(49_407, EOS)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "behavior": "Removed", "invert": true,
             "pattern": {"Regex": r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"}},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": {"type": "RobertaProcessing", "sep": [EOS, 49_407], "cls": [BOS, 49_406],
                           "trim_offsets": false, "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": EOS, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocab, "merges": []},
    });
    let config = json!({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": BOS, "eos_token": EOS,
                        "pad_token": EOS, "unk_token": EOS});
    [("tokenizer.json", tokenizer), ("tokenizer_config.json", config)]
}
