//! Tokenizers from every combination of files, compared with what `transformers` makes of a thousand texts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cascade_rt::tokenizer::Tokenizer;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

/// `tests/fixtures/tokenizers.json`; tools/reference/tokenizer_folders.py describes it.
#[derive(Deserialize)]
struct Cases {
    vocab: BTreeMap<String, u32>,
    merges: Vec<String>,
    positions: usize,
    texts: Vec<String>,
    folders: Vec<Folder>,
}

#[derive(Deserialize)]
struct Folder {
    name: String,
    files: BTreeMap<String, Value>,
    pad: u32,
    ids: BTreeMap<usize, Vec<u32>>,
}

/// Rows of the embedding: more than there are tokens in any of the folders.
const ROWS: usize = 1000;

impl Cases {
    fn read() -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers.json");
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }

    /// A file's content, with what `@vocab`, `@merges`, `@lines` and `@pairs` stand for.
    fn full(&self, value: &Value) -> Value {
        match value {
            Value::Object(map) => map.iter().map(|(key, inner)| (key.clone(), self.full(inner))).collect(),
            Value::Array(list) => list.iter().map(|inner| self.full(inner)).collect(),
            Value::String(text) => match &text[..] {
                "@vocab" => json!(self.vocab),
                "@merges" => format!("#version: 0.2\n{}\n", self.merges.join("\n")).into(),
                "@lines" => json!(self.merges),
                "@pairs" => self.merges.iter().map(|m| m.split(' ').collect::<Vec<_>>()).collect(),
                _ => value.clone(),
            },
            _ => value.clone(),
        }
    }

    /// The folder on disk.
    fn write(&self, folder: &Folder) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in &folder.files {
            let content = self.full(content);
            let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }
}

#[test]
fn tokenizers_load_as_transformers_loads_them() {
    let cases = Cases::read();
    assert!(cases.texts.len() >= 1000 && cases.folders.len() >= 20);
    let mut compared = 0;
    for folder in &cases.folders {
        let dir = cases.write(folder);
        let tokenizer = Tokenizer::open(dir.path(), cases.positions, ROWS).unwrap();
        assert_eq!(tokenizer.pad(), folder.pad, "{}", folder.name);
        for (i, text) in cases.texts.iter().enumerate() {
            let wanted = folder.ids.get(&i).unwrap_or_else(|| &cases.folders[0].ids[&i]);
            let got = tokenizer.encode(text).unwrap();
            assert_eq!(&got.ids[..got.len], wanted, "{}: {text:?}", folder.name);
            assert!(got.ids[got.len..].iter().all(|&id| id == folder.pad), "{}: {text:?}", folder.name);
            compared += 1;
        }
    }
    assert_eq!(compared, cases.folders.len() * cases.texts.len());
}

#[test]
fn a_token_without_a_row_in_the_embedding_is_an_error() {
    let cases = Cases::read();
    let vocabulary = cases.vocab.len();
    for (name, rows, found) in [
        ("two files", vocabulary, None),
        ("two files", vocabulary - 1, Some("<|endoftext|>")),
        ("added", vocabulary + 2, None),
        ("added", vocabulary + 1, Some("<Dog>")),
        ("decoder", vocabulary, Some("<cat>")),
        ("whole with more tokens", vocabulary + 1, Some("Snow Owl")),
        ("more special tokens", vocabulary, Some("<mask>")),
    ] {
        let folder = cases.folders.iter().find(|folder| folder.name == name).unwrap();
        let opened = Tokenizer::open(cases.write(folder).path(), cases.positions, rows);
        match (opened, found) {
            (Ok(_), None) => {}
            (Err(error), Some(token)) => {
                let message = error.to_string();
                assert!(message.contains(&format!("token ids below {rows}")), "{name}: {message}");
                assert!(message.contains(token) || name == "more special tokens", "{name}: {message}");
                assert_eq!(error.exit_code(), 3);
            }
            (Ok(_), Some(_)) => panic!("{name}: opened with {rows} rows"),
            (Err(error), None) => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn settings_that_would_make_other_tokens_are_errors() {
    let cases = Cases::read();
    for (file, content, words) in [
        ("tokenizer_config.json", json!({"padding_side": "left"}), "`padding_side` right"),
        ("tokenizer_config.json", json!({"truncation_side": "left"}), "`truncation_side` right"),
        ("tokenizer_config.json", json!({"model_max_length": 16}), "`model_max_length` at least 24"),
        ("tokenizer_config.json", json!({"bos_token": 7}), "special tokens that are texts"),
        ("tokenizer_config.json", json!({"added_tokens_decoder": {"x": {"content": "a"}}}), "by their index"),
        ("special_tokens_map.json", json!([]), "a JSON object"),
        ("added_tokens.json", json!({"<a>": "b"}), "added_tokens.json: expected JSON of token → id"),
        (
            "tokenizer.json",
            json!({"model": {"vocab": {}, "merges": []}, "padding": {"direction": "Left"}}),
            "`direction`",
        ),
        ("tokenizer.json", json!({"model": {"type": "Unigram", "vocab": [["a", 0.5]]}}), "a CLIP tokenizer"),
    ] {
        let dir = cases.write(&cases.folders[0]);
        fs::write(dir.path().join(file), content.to_string()).unwrap();
        let error = Tokenizer::open(dir.path(), cases.positions, ROWS).unwrap_err();
        assert!(error.to_string().contains(words) && error.exit_code() == 3, "{error}");
    }
}

/// Files of a tokenizer that are there but are something else.
#[cfg(unix)]
#[test]
fn whatever_is_there_is_looked_at() {
    let cases = Cases::read();
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
    for name in [
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ] {
        let fails = |put: &dyn Fn(&Path), words: &str| {
            let dir = cases.write(&cases.folders[0]);
            let file = dir.path().join(name);
            let _ = fs::remove_file(&file);
            put(&file);
            let error = Tokenizer::open(dir.path(), cases.positions, ROWS).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(words), "{error}");
        };
        fails(&|file| fs::create_dir(file).unwrap(), "found a folder");
        fails(&|file| std::os::unix::fs::symlink("gone", file).unwrap(), "found a link to gone, which is not there");
        fails(&|file| std::os::unix::fs::symlink(name, file).unwrap(), "cannot look at");
        fails(&|file| fs::write(file, lfs).unwrap(), "a Git LFS pointer in its place; run `git lfs pull`");
        fails(&|file| fs::write(file, b"\xff\xfe{").unwrap(), "expected");
    }
}

/// A value of JSON that a hostile file might have anywhere.
fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just(""),
        Just("a"),
        Just("a</w>"),
        Just("é"),
        Just("<|endoftext|>"),
        Just("\u{0}"),
        Just("left"),
        Just("  "),
        Just("4294967295"),
        Just("😀😀😀😀😀😀😀😀😀😀")
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u32..1200).prop_map(Value::from),
        Just(json!(u32::MAX)),
        Just(json!(1e300)),
        text.clone().prop_map(Value::from)
    ];
    let key = prop_oneof![
        text.prop_map(str::to_owned),
        Just("content".to_owned()),
        Just("special".to_owned()),
        Just("normalized".to_owned()),
        Just("vocab".to_owned()),
        Just("merges".to_owned()),
        Just("id".to_owned()),
        Just("pad_token".to_owned()),
        Just("bos_token".to_owned()),
        Just("added_tokens_decoder".to_owned()),
        Just("7".to_owned())
    ];
    leaf.prop_recursive(3, 12, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..4).prop_map(|pairs| pairs.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Any part of any file replaced by anything: an error, or a tokenizer that works.
    #[test]
    fn hostile_files_are_errors_or_work(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), value in any_json(),
                                        text in any::<String>()) {
        let whole = json!({
            "added_tokens": [{"id": 7, "content": "<|endoftext|>", "lstrip": true, "normalized": true}, {"id": 9, "content": "<x>"}],
            "padding": {"direction": "Right", "pad_token": "!"}, "truncation": null, "normalizer": {"type": "Precompiled"},
            "model": {"type": "BPE", "continuing_subword_prefix": "é", "end_of_word_suffix": "", "unk_token": "a",
                      "vocab": {"!": 0, "a</w>": 1, "a": 2, "aa</w>": 3, "é": 4, "<|startoftext|>": 6, "<|endoftext|>": 7},
                      "merges": [["a", "a</w>"], "a a</w>"]},
        });
        let config = json!({"bos_token": {"content": "<|startoftext|>"}, "pad_token": "!", "added_tokens_decoder": {"1": {"content": "b"}},
                            "split_special_tokens": false, "extra_special_tokens": ["c", {"content": "d"}]});
        let map = json!({"eos_token": {"content": "<|endoftext|>", "rstrip": true}, "additional_special_tokens": ["e"]});
        let mut files = [("tokenizer.json", whole), ("tokenizer_config.json", config), ("special_tokens_map.json", map),
                         ("added_tokens.json", json!({"f": 3}))];
        let file = which.index(files.len());
        // The place to change: any value in the tree.
        let mut paths = Vec::new();
        collect(&files[file].1, String::new(), &mut paths);
        *files[file].1.pointer_mut(&paths[at.index(paths.len())]).unwrap() = value;
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in &files {
            fs::write(dir.path().join(name), content.to_string()).unwrap();
        }
        match Tokenizer::open(dir.path(), 24, 20) {
            Ok(tokenizer) => for text in [&text[..], "a aa <|endoftext|> <x> é b c"] {
                if let Ok(got) = tokenizer.encode(text) {
                    prop_assert_eq!(got.ids.len(), 24);
                    prop_assert!(got.ids.iter().all(|&id| id < 20));
                }
            },
            Err(error) => prop_assert!(error.to_string().len() < 4000, "{error}"),
        }
    }
}

/// JSON pointers to every value below `value`.
fn collect(value: &Value, at: String, paths: &mut Vec<String>) {
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, inner)| collect(inner, format!("{at}/{}", escape(key)), paths))
        }
        Value::Array(list) => list.iter().enumerate().for_each(|(i, inner)| collect(inner, format!("{at}/{i}"), paths)),
        _ => {}
    }
    paths.push(at);
}
