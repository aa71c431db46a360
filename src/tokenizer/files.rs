//! A tokenizer's files, read as `transformers` reads them for its class `CLIPTokenizer`.
//!
//! | File | What is taken from it |
//! |---|---|
//! | `tokenizer.json` | vocabulary and merges; its added tokens |
//! | `vocab.json`, `merges.txt` | the same, where there is no `tokenizer.json` |
//! | `tokenizer_config.json` | special tokens, by role; `added_tokens_decoder` |
//! | `special_tokens_map.json` | special tokens, which take precedence over the former |
//! | `added_tokens.json` | further tokens |
//!
//! `added_tokens_decoder`, where there is one, takes the place of the last two files and of the added tokens in
//! `tokenizer.json`. How a text is normalised and cut into words is CLIP's, whatever `tokenizer.json` says. Files are
//! untrusted input: only what is checked here gets to the tokenizers library.
//!
//! Source: `PreTrainedTokenizerBase._from_pretrained`, `TokenizersBackend` and `CLIPTokenizer` in transformers 5.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::bad;
use crate::error::{Error, Result};
use crate::files::{Found, Location};

/// CLIP's tokens for the begin and end of a text, unless the files name others.
const BOS: &str = "<|startoftext|>";
const EOS: &str = "<|endoftext|>";

/// Roles of special tokens, in the order in which they are added.
const ROLES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A list of further special tokens, by its name and by that of older files.
const EXTRA: &str = "extra_special_tokens";
const OLD_EXTRA: &str = "additional_special_tokens";

/// What a tokenizer's files say.
pub(super) struct Files {
    /// The file of the vocabulary, for messages.
    pub path: PathBuf,
    /// Ids of tokens, all below the size of the text encoder's vocabulary.
    pub vocab: HashMap<String, u32>,
    /// Pairs of tokens whose concatenation is a token, in the order of their ranks.
    pub merges: Vec<(String, String)>,
    /// Tokens that are looked for in a text before it is cut into words, in the order in which they are added.
    pub added: Vec<AddedToken>,
    /// Begin of a text, its end, padding, and what stands for a byte that is not in the vocabulary.
    pub special: [String; 4],
    /// Whether special tokens that occur in a text are cut like any other text.
    pub split_special_tokens: bool,
}

impl Files {
    /// Reads the files of a text encoder with `positions` positions and `vocabulary` token embeddings.
    ///
    /// # Errors
    /// As [`Tokenizer::open`](super::Tokenizer::open).
    pub fn read(location: &Location, positions: usize, vocabulary: usize) -> Result<Self> {
        let folder = location.look()? == Found::Folder;
        let named = |name: &str| if folder { location.join(name) } else { location.with_file_name(name) };
        let whole = if folder { named("tokenizer.json") } else { location.clone() };
        let [vocab_file, merges_file] = ["vocab.json", "merges.txt"].map(named);
        let in_two = folder && !whole.has_file()? && (vocab_file.has_file()? || merges_file.has_file()?);
        let path = if in_two { &vocab_file } else { &whole };
        let (vocab, merges, stored) = match in_two {
            true => {
                let (vocab, merges) = read_pair(&vocab_file, &merges_file, vocabulary)?;
                (vocab, merges, Vec::new())
            }
            false => read_whole(&whole, vocabulary)?,
        };

        let read_settings = |name: &str| -> Result<Map<String, Value>> {
            let file = named(name);
            let text = file.read_if_there()?;
            text.map_or(Ok(Map::new()), |text| parse(&file, "a JSON object", &text))
        };
        let config = named("tokenizer_config.json");
        let mut settings = read_settings("tokenizer_config.json")?;
        check_settings(&config, &settings, positions)?;
        if let Some(list) = settings.remove(OLD_EXTRA) {
            settings.entry(EXTRA).or_insert(list);
        }
        // By index, as they are added in this order.
        let mut added: BTreeMap<i64, AddedToken> = BTreeMap::new();
        match settings.remove("added_tokens_decoder") {
            Some(table) => {
                let table: BTreeMap<String, Token> = serde_json::from_value(table)
                    .map_err(|e| bad(config.path(), "`added_tokens_decoder`: tokens by their index", e))?;
                for (index, token) in table {
                    let index = index
                        .parse()
                        .map_err(|e| bad(config.path(), "`added_tokens_decoder`: tokens by their index", e))?;
                    added.insert(index, token.into_added());
                }
            }
            None => {
                for (role, mut value) in read_settings("special_tokens_map.json")? {
                    if let Some(token) = value.as_object_mut() {
                        token.insert("special".to_owned(), true.into());
                    }
                    settings.insert(role, value);
                }
                // The old name of the list is not looked at here, and below it is.
                let mut known = settings.clone();
                known.remove(OLD_EXTRA);
                let names: Vec<String> = named_tokens(&config, &known)?.into_iter().map(|t| t.content).collect();
                for (content, index) in read_settings("added_tokens.json")? {
                    let index = index.as_i64().ok_or_else(|| {
                        bad(named("added_tokens.json").path(), "JSON of token → id", format!("`{content}`: {index}"))
                    })?;
                    let special = names.contains(&content);
                    added.insert(index, AddedToken::from(content, special));
                }
                added.extend(stored.into_iter().map(|Stored { id, token }| (id, token.into_added())));
            }
        }

        for (role, usual) in [("bos_token", BOS), ("eos_token", EOS), ("unk_token", EOS), ("pad_token", EOS)] {
            let value = settings.entry(role).or_insert(Value::Null);
            if value.is_null() {
                *value = usual.into();
            }
        }
        let named_tokens = named_tokens(&config, &settings)?;
        let special = ["bos_token", "eos_token", "pad_token", "unk_token"]
            .map(|role| settings.get(role).and_then(content).unwrap_or_default().to_owned());
        let mut all: Vec<AddedToken> = added.into_values().collect();
        for token in &mut all {
            token.special |= named_tokens.iter().any(|named| named.content == token.content);
        }
        let known: Vec<String> = all.iter().map(|token| token.content.clone()).collect();
        let new = named_tokens.into_iter().filter(|token| !known.contains(&token.content));
        all.extend(new.map(|token| AddedToken { special: true, ..token }));
        Ok(Self {
            path: path.path().to_owned(),
            vocab,
            merges,
            added: all,
            special,
            split_special_tokens: settings.get("split_special_tokens").and_then(Value::as_bool).unwrap_or(false),
        })
    }
}

/// The tokens that settings give a name or list as special, in the order in which they are added. The same text may
/// occur with other properties; the last ones count.
fn named_tokens(file: &Location, settings: &Map<String, Value>) -> Result<Vec<AddedToken>> {
    let token = |value: &Value| -> Result<AddedToken> {
        if let Some(text) = value.as_str() {
            return Ok(AddedToken::from(text, true));
        }
        let token: Token = serde_json::from_value(value.clone())
            .map_err(|e| bad(file.path(), "special tokens that are texts, or objects with `content`", e))?;
        Ok(token.into_added())
    };
    let mut all: Vec<AddedToken> = Vec::new();
    let roles = ROLES.iter().filter_map(|role| settings.get(*role)).filter(|value| !value.is_null());
    let own = settings.iter().filter(|(role, value)| {
        role.ends_with("_token") && !ROLES.contains(&role.as_str()) && content(value).is_some()
    });
    let more = settings.get(EXTRA).or_else(|| settings.get(OLD_EXTRA));
    let more = more.into_iter().flat_map(|value| match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    });
    for value in roles.chain(own.map(|(_, value)| value)).chain(more) {
        let token = token(value)?;
        if !all.contains(&token) {
            all.push(token);
        }
    }
    Ok(all)
}

fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Refuses settings under which `transformers` would make other tokens than this program does.
fn check_settings(file: &Location, settings: &Map<String, Value>, positions: usize) -> Result<()> {
    for key in ["padding_side", "truncation_side"] {
        if let Some(side) = settings.get(key).and_then(Value::as_str) {
            check_side(file, key, side)?;
        }
    }
    match settings.get("model_max_length").and_then(Value::as_f64) {
        Some(length) if length < positions as f64 => Err(bad(
            file.path(),
            format!("`model_max_length` at least {positions}, the positions of the text encoder"),
            length,
        )),
        _ => Ok(()),
    }
}

fn check_side(file: &Location, key: &str, side: &str) -> Result<()> {
    match side.eq_ignore_ascii_case("right") {
        true => Ok(()),
        false => Err(bad(file.path(), format!("`{key}` right, the only side implemented"), format!("`{side}`"))),
    }
}

const MERGES: &str = "merges of two tokens whose concatenation is in the vocabulary";

type Vocab = HashMap<String, u32>;
type Merges = Vec<(String, String)>;

/// Vocabulary, merges and added tokens of a `tokenizer.json`.
fn read_whole(file: &Location, vocabulary: usize) -> Result<(Vocab, Merges, Vec<Stored>)> {
    const EXPECTED: &str = "a CLIP tokenizer: a BPE `model` with `vocab` and `merges`";
    let Whole { model, added_tokens, padding, truncation } = parse(file, EXPECTED, &required(file)?)?;
    for part in [padding, truncation].into_iter().flatten() {
        check_side(file, "direction", part.get("direction").and_then(Value::as_str).unwrap_or("right"))?;
    }
    let merges = model.merges.into_iter().map(|merge| match merge {
        Merge::Pair([a, b]) => Ok((a, b)),
        Merge::Line(line) => pair(&line).ok_or_else(|| bad(file.path(), MERGES, format!("`{line}`"))),
    });
    let merges = merges.collect::<Result<Merges>>()?;
    check(&model.vocab, &merges, file.path(), file.path(), vocabulary)?;
    Ok((model.vocab, merges, added_tokens.unwrap_or_default()))
}

/// Vocabulary and merges from a file each.
fn read_pair(vocab: &Location, merges: &Location, vocabulary: usize) -> Result<(Vocab, Merges)> {
    let table = parse(vocab, "JSON of token → id", &required(vocab)?)?;
    let text = required(merges)?;
    let lines = std::str::from_utf8(&text).map_err(|e| bad(merges.path(), "UTF-8 text", e))?;
    let lines = lines.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    let pairs = lines.map(|line| pair(line).ok_or_else(|| bad(merges.path(), MERGES, format!("`{line}`"))));
    let pairs = pairs.collect::<Result<Merges>>()?;
    check(&table, &pairs, vocab.path(), merges.path(), vocabulary)?;
    Ok((table, pairs))
}

/// The two tokens of a merge that is written as one text.
fn pair(line: &str) -> Option<(String, String)> {
    let (a, b) = line.split_once(' ')?;
    (!b.contains(' ')).then(|| (a.to_owned(), b.to_owned()))
}

/// Checks that every id has an embedding and that every merge of two tokens is a token. The tokenizers library
/// relies on the latter.
fn check(vocab: &Vocab, merges: &[(String, String)], file: &Path, merges_file: &Path, vocabulary: usize) -> Result<()> {
    if let Some((token, id)) = vocab.iter().find(|&(_, &id)| id as usize >= vocabulary) {
        return Err(bad(file, format!("token ids below {vocabulary}"), format!("`{token}` = {id}")));
    }
    let mut joined = String::new();
    for (a, b) in merges {
        joined.clear();
        joined.extend([&a[..], &b[..]]);
        if ![a, b, &joined].into_iter().all(|token| vocab.contains_key(token)) {
            return Err(bad(merges_file, MERGES, format!("`{a} {b}`")));
        }
    }
    Ok(())
}

/// The contents of a file that a tokenizer must have.
fn required(file: &Location) -> Result<std::borrow::Cow<'static, [u8]>> {
    file.read().map_err(|error| match error {
        Error::ModelMissing { path, .. } => Error::ModelMissing {
            path,
            missing: "the tokenizer (tokenizer.json, or vocab.json and merges.txt)".into(),
            remedy: "download the model's tokenizer folder, or set one as `tokenizer`".into(),
        },
        other => other,
    })
}

fn parse<'a, T: Deserialize<'a>>(file: &Location, expected: &str, text: &'a [u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|e| bad(file.path(), expected, e))
}

/// The fields of a `tokenizer.json` that are used.
#[derive(Deserialize)]
struct Whole {
    model: Model,
    added_tokens: Option<Vec<Stored>>,
    padding: Option<Value>,
    truncation: Option<Value>,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// `"i n"` in older files, `["i", "n"]` in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair([String; 2]),
    Line(String),
}

/// An added token of a `tokenizer.json`.
#[derive(Deserialize)]
struct Stored {
    id: i64,
    #[serde(flatten)]
    token: Token,
}

/// An added token. What is not said has the default of the tokenizers library.
#[derive(Deserialize)]
struct Token {
    content: String,
    single_word: Option<bool>,
    lstrip: Option<bool>,
    rstrip: Option<bool>,
    normalized: Option<bool>,
    special: Option<bool>,
}

impl Token {
    fn into_added(self) -> AddedToken {
        let special = self.special.unwrap_or(false);
        AddedToken {
            single_word: self.single_word.unwrap_or(false),
            lstrip: self.lstrip.unwrap_or(false),
            rstrip: self.rstrip.unwrap_or(false),
            normalized: self.normalized.unwrap_or(!special),
            special,
            content: self.content,
        }
    }
}
