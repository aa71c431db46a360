//! Converts prompts to token ids with CLIP's byte-level BPE, read from the model's files.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::files::Location;

/// CLIP's tokens for the begin and end of a text, unless the model's files name others.
const BOS: &str = "<|startoftext|>";
const EOS: &str = "<|endoftext|>";

/// A tokenised prompt, the input of the text encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids `[positions]`: BOS, the text, EOS, then padding.
    pub ids: Vec<u32>,
    /// Number of ids before the padding, BOS and EOS included. The padding is masked.
    pub len: usize,
    /// If the prompt was too long: the part of it that was cut off.
    pub cut: Option<String>,
}

/// CLIP's tokenizer with the special tokens and the sequence length of one model.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    bpe: tokenizers::Tokenizer,
    path: PathBuf,
    positions: usize,
    bos: u32,
    eos: u32,
    pad: u32,
}

impl Tokenizer {
    /// Reads the tokenizer of a text encoder that has `positions` positions
    /// (77 for CLIP) and `vocabulary` token embeddings (49,408 for CLIP).
    ///
    /// `location` is a `tokenizer.json`, or a folder that contains either one or `vocab.json`
    /// and `merges.txt`. The special tokens are read from `tokenizer_config.json`, or else
    /// `special_tokens_map.json`, in the same folder; the padding token may also be in
    /// `tokenizer.json`. The defaults are CLIP's, which pads with EOS. Sequence lengths and
    /// padding modes in the files are ignored.
    ///
    /// # Errors
    /// [`Error::ModelMissing`] if there are no files, [`Error::Disk`] if they are unreadable, and
    /// [`Error::Model`] if they are invalid or contain ids without an embedding.
    pub fn open(location: impl Into<Location>, positions: usize, vocabulary: usize) -> Result<Self> {
        let location = &location.into();
        let special = SpecialTokens::read(location)?;
        let Files { vocab: file, merges, json } = read_tokenizer(location, &special)?;

        let stored: Stored<'_> = serde_json::from_slice(&json)
            .map_err(|e| bad(&file, "a CLIP tokenizer: a BPE `model` with `vocab` and `merges`", e))?;
        stored.check(&file, &merges, vocabulary)?;
        let stored_pad = stored.padding.map(|padding| padding.pad_token.into_owned());

        let mut bpe = tokenizers::Tokenizer::from_bytes(&json).map_err(|e| bad(&file, "a tokenizer", e))?;
        bpe.with_padding(None);
        bpe.with_truncation(None).map_err(|e| bad(&file, "a tokenizer", e))?;

        let id = |token: &str| match bpe.token_to_id(token) {
            Some(id) if (id as usize) < vocabulary => Ok(id),
            Some(id) => Err(bad(&file, format!("token ids below {vocabulary}"), format!("`{token}` = {id}"))),
            None => Err(bad(&file, format!("the special token `{token}` in the vocabulary"), "no such token")),
        };
        let bos = id(special.bos())?;
        let eos = id(special.eos())?;
        let pad = special.text("pad_token").or(stored_pad.as_deref()).map_or(Ok(eos), id)?;
        if positions < 2 {
            return Err(bad(location.path(), "a text encoder of at least 2 positions", positions));
        }
        Ok(Self { bpe, path: file, positions, bos, eos, pad })
    }

    /// Token ids of a prompt, truncated to the sequence length.
    ///
    /// The text is normalised (NFC), runs of white space become one space, and letters
    /// lower case. A literal `<|endoftext|>` becomes that token, as in `transformers`.
    ///
    /// # Errors
    /// [`Error::Model`] if the text cannot be encoded with the model's files.
    pub fn encode(&self, prompt: &str) -> Result<Encoding> {
        let encode = |text: &str| {
            self.bpe.encode(text, false).map_err(|e| bad(&self.path, "a tokenizer that can encode any text", e))
        };
        let room = self.positions - 2;
        let head = head(prompt);
        let mut text = encode(head)?;
        if text.get_ids().len() <= room && head.len() < prompt.len() {
            text = encode(prompt)?;
        }
        let kept = text.get_ids().len().min(room);
        let cut = text.get_offsets().get(room).map(|&(start, _)| {
            let start = prompt.floor_char_boundary(start);
            prompt[start..].trim().to_owned()
        });

        Ok(Encoding { cut, ..self.enclose(&text.get_ids()[..kept]) })
    }

    /// All tokens of a text, without those that begin and end it.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let encoded = self.bpe.encode(text, false);
        Ok(encoded.map_err(|e| bad(&self.path, "a tokenizer that can encode any text", e))?.get_ids().to_vec())
    }

    /// Tokens between those that begin and end a text, padded to the sequence length.
    ///
    /// # Panics
    /// If there are more than `positions − 2`.
    pub fn enclose(&self, tokens: &[u32]) -> Encoding {
        let len = tokens.len() + 2;
        assert!(len <= self.positions, "{len} tokens of {}", self.positions);
        let mut ids = Vec::with_capacity(self.positions);
        ids.push(self.bos);
        ids.extend(tokens);
        ids.push(self.eos);
        ids.resize(self.positions, self.pad);
        Encoding { ids, len, cut: None }
    }

    /// The sequence length.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The padding id: EOS in the published Stable Cascade files, 0 in some others.
    pub fn pad(&self) -> u32 {
        self.pad
    }
}

/// The first words of a prompt, about 64 KiB, which nearly always fill the sequence. Words are
/// tokenised independently, so these tokens are the first tokens of the whole prompt.
fn head(prompt: &str) -> &str {
    let start = prompt.floor_char_boundary(64 << 10);
    prompt[start..].find(char::is_whitespace).map_or(prompt, |end| &prompt[..start + end])
}

/// The JSON files that may name special tokens, in the order of precedence.
struct SpecialTokens([Value; 2]);

impl SpecialTokens {
    /// Reads them from the folder `tokenizer`, or if that is a file, from the folder that contains it.
    fn read(tokenizer: &Location) -> Result<Self> {
        let read = |name| {
            let file = if tokenizer.is_dir() { tokenizer.join(name) } else { tokenizer.with_file_name(name) };
            match file.read() {
                Ok(json) => serde_json::from_slice(&json).map_err(|e| bad(file.path(), "JSON", e)),
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(Value::Null),
                Err(source) => Err(Error::Disk { path: file.path().to_owned(), action: "read", source }),
            }
        };
        Ok(Self([read("tokenizer_config.json")?, read("special_tokens_map.json")?]))
    }

    /// The entry of a role such as `pad_token`: a string, or an object with `content`.
    fn entry(&self, role: &str) -> Option<&Value> {
        self.0.iter().filter_map(|settings| settings.get(role)).find(|entry| content(entry).is_some())
    }

    fn text(&self, role: &str) -> Option<&str> {
        self.entry(role).and_then(content)
    }

    fn bos(&self) -> &str {
        self.text("bos_token").unwrap_or(BOS)
    }

    fn eos(&self) -> &str {
        self.text("eos_token").unwrap_or(EOS)
    }
}

fn content(entry: &Value) -> Option<&str> {
    entry.as_str().or_else(|| entry.get("content")?.as_str())
}

/// The contents of a `tokenizer.json`, and the files that vocabulary and merges come from.
struct Files {
    vocab: PathBuf,
    merges: PathBuf,
    json: Cow<'static, [u8]>,
}

fn read_tokenizer(location: &Location, special: &SpecialTokens) -> Result<Files> {
    let whole = |file: &Location| {
        let path = file.path().to_owned();
        Ok(Files { vocab: path.clone(), merges: path, json: read(file)? })
    };
    if !location.is_dir() {
        return whole(location);
    }
    let [one, vocab, merges] = ["tokenizer.json", "vocab.json", "merges.txt"].map(|name| location.join(name));
    if one.is_file() || !(vocab.is_file() || merges.is_file()) {
        return whole(&one);
    }
    let table = serde_json::from_slice(&read(&vocab)?).map_err(|e| bad(vocab.path(), "JSON of token → id", e))?;
    let lines = String::from_utf8(read(&merges)?.into_owned()).map_err(|e| bad(merges.path(), "UTF-8 text", e))?;
    let json = clip_pipeline(table, &lines, special).to_string().into_bytes();
    Ok(Files { vocab: vocab.path().to_owned(), merges: merges.path().to_owned(), json: json.into() })
}

/// Builds the `tokenizer.json` of CLIP's fast tokenizer from a vocabulary and its merges.
///
/// Source: `CLIPTokenizer`, tokenization_clip.py in `transformers`.
fn clip_pipeline(vocab: Value, merges: &str, special: &SpecialTokens) -> Value {
    let merges: Vec<&str> = merges.lines().filter(|line| !line.is_empty() && !line.starts_with("#version")).collect();
    let added = |role: &str, text: &str| {
        let flag = |name: &str| special.entry(role).and_then(|entry| entry.get(name)?.as_bool()).unwrap_or(false);
        json!({ "id": vocab.get(text), "content": text, "special": true, "single_word": flag("single_word"),
                "lstrip": flag("lstrip"), "rstrip": flag("rstrip"), "normalized": flag("normalized") })
    };
    let roles = [("bos_token", special.bos()), ("eos_token", special.eos())];
    let pad = special.text("pad_token").map(|text| ("pad_token", text));
    let mut tokens: Vec<Value> = Vec::new();
    for (role, text) in roles.into_iter().chain(pad) {
        if vocab.get(text).is_some() && tokens.iter().all(|token| token["content"] != text) {
            tokens.push(added(role, text));
        }
    }
    tokens.sort_by_key(|token| token["id"].as_u64());
    let words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    json!({
        "version": "1.0",
        "added_tokens": tokens,
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
            { "type": "Lowercase" },
        ] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": words }, "behavior": "Removed", "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        ] },
        "model": { "type": "BPE", "unk_token": special.text("unk_token").unwrap_or(EOS),
                   "end_of_word_suffix": "</w>", "vocab": vocab, "merges": merges },
    })
}

/// The fields of a `tokenizer.json` that are checked before the tokenizers library parses it.
#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    model: Model<'a>,
    #[serde(borrow, default)]
    padding: Option<Padding<'a>>,
}

#[derive(Deserialize)]
struct Padding<'a> {
    #[serde(borrow)]
    pad_token: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(borrow)]
    vocab: HashMap<Cow<'a, str>, u32>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

/// `"i n"` in older files, `["i", "n"]` in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge<'a> {
    #[serde(borrow)]
    Pair([Cow<'a, str>; 2]),
    #[serde(borrow)]
    Line(Cow<'a, str>),
}

impl Stored<'_> {
    /// Checks that every id has an embedding and that every merge of two tokens is a token.
    fn check(&self, file: &Path, merges: &Path, vocabulary: usize) -> Result<()> {
        let vocab = &self.model.vocab;
        if let Some((token, id)) = vocab.iter().find(|&(_, &id)| id as usize >= vocabulary) {
            return Err(bad(file, format!("token ids below {vocabulary}"), format!("`{token}` = {id}")));
        }
        let mut joined = String::new();
        for merge in &self.model.merges {
            let pair = match merge {
                Merge::Pair([a, b]) => Some((&a[..], &b[..])),
                Merge::Line(line) => line.split_once(' '),
            };
            let known = pair.is_some_and(|(a, b)| {
                joined.clear();
                joined.extend([a, b]);
                vocab.contains_key(a) && vocab.contains_key(b) && vocab.contains_key(&joined[..])
            });
            if !known {
                let found = match merge {
                    Merge::Pair([a, b]) => format!("`{a} {b}`"),
                    Merge::Line(line) => format!("`{line}`"),
                };
                return Err(bad(merges, "merges of two tokens whose concatenation is in the vocabulary", found));
            }
        }
        Ok(())
    }
}

fn read(file: &Location) -> Result<Cow<'static, [u8]>> {
    file.read().map_err(|source| match source.kind() {
        ErrorKind::NotFound => Error::ModelMissing {
            path: file.path().to_owned(),
            missing: "the tokenizer (tokenizer.json, or vocab.json and merges.txt)".into(),
            remedy: "download the model's tokenizer folder, or set one as `tokenizer`".into(),
        },
        _ => Error::Disk { path: file.path().to_owned(), action: "read", source },
    })
}

fn bad(path: &Path, expected: impl Into<String>, found: impl ToString) -> Error {
    let found = format!("{}; use the tokenizer files that the text encoder came with", found.to_string());
    Error::Model { path: path.to_owned(), expected: expected.into(), found }
}
