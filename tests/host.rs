//! Parts of the library that run on the host: tokenizer, picture files, metadata, parsers.
#![cfg(feature = "pictures")]

#[path = "host/tokenizers.rs"]
mod tokenizers;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cascade_rt::error::Error;
use cascade_rt::image::{Format, Image, Record, read_metadata};
use cascade_rt::noise::NoiseKind;
use cascade_rt::output::write_atomically;
use cascade_rt::request::{Request, parse_guidance, parse_steps};
use cascade_rt::tokenizer::Tokenizer;
use proptest::prelude::*;
use serde_json::json;

/// The merges of CLIP's vocabulary that the prompts below need, as `id=left+right` with the id of the
/// resulting token. A merge's rank is its id minus 512.
const MERGES: &str = "\
    512=i+n 514=a+n 519=in+g</w> 521=o+n 525=o+n</w> 537=an+d</w> 539=o+f</w> 544=e+l 546=a+c 550=a+n</w> 552=s+h \
    558=ð+Ł 577=m+a 585=i+t</w> 588=s+p 605=s+u 613=m+e 668=ðŁ+ĺ 702=a+f 710=g+e</w> 713='+t</w> 762=n+ing</w> \
    823=sh+i 847=d+on</w> 919=h+el 1067=d+on 1792=b+a</w> 2340=me+t</w> 2414=i+ma 2675=ac+e 2867=ima+ge</w> \
    3471=c+af 3940=su+it</w> 4166=Ã+©</w> 7334=ðŁĺ+Ģ</w> 7857=sp+ace 11122=hel+met</w> 15304=caf+Ã©</w> \
    19277=æ+ľ 22265=æ+Ĺ 39121=æĹ+¥";

/// CLIP's 512 byte symbols, the merges above and the two special tokens.
fn vocabulary() -> BTreeMap<String, u32> {
    let own = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let others = (0..(0..=255).filter(|&b| !own(b)).count() as u32).map(|i| 256 + i);
    let symbols: Vec<char> =
        (0..=255).filter(|&b| own(b)).map(char::from).chain(others.filter_map(char::from_u32)).collect();
    let bytes = symbols.iter().map(char::to_string).chain(symbols.iter().map(|c| format!("{c}</w>")));
    let merged = MERGES.split(' ').map(|entry| {
        let (id, pair) = entry.split_once('=').unwrap();
        (pair.replacen('+', "", 1), id.parse().unwrap())
    });
    let special = [("<|startoftext|>".to_owned(), 49406), ("<|endoftext|>".to_owned(), 49407)];
    bytes.zip(0..).chain(merged).chain(special).collect()
}

fn merges() -> String {
    let lines = MERGES.split(' ').map(|entry| entry.split_once('=').unwrap().1.replacen('+', " ", 1));
    format!("#version: 0.2\n{}\n", lines.collect::<Vec<_>>().join("\n"))
}

/// A folder with `vocab.json`, `merges.txt` and a `tokenizer_config.json`.
fn tokenizer_folder(config: serde_json::Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vocab.json"), json!(vocabulary()).to_string()).unwrap();
    fs::write(folder.path().join("merges.txt"), merges()).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

fn open(folder: &Path) -> Result<Tokenizer, Error> {
    Tokenizer::open(folder, 77, 49408)
}

/// The expected ids are those of `transformers`' CLIPTokenizerFast with the whole vocabulary.
#[test]
fn tokens_are_clips() {
    let folder = tokenizer_folder(json!({}));
    let tokenizer = open(folder.path()).unwrap();
    let golden: [(&str, &[u32]); 4] = [
        ("", &[]),
        (
            "an image of a shiba inu, donning a spacesuit and helmet",
            &[550, 2867, 539, 320, 823, 1792, 512, 340, 267, 1067, 762, 320, 7857, 3940, 537, 11122],
        ),
        (" CAFE\u{301}\u{a0}\n don't 日本😀", &[15304, 847, 713, 39121, 19277, 361, 7334]),
        ("33 <|endoftext|>d", &[274, 274, 49407, 323]),
    ];
    for (prompt, ids) in golden {
        let got = tokenizer.encode(prompt).unwrap();
        assert_eq!((got.ids.len(), got.len, got.cut), (77, ids.len() + 2, None), "{prompt}");
        assert_eq!((got.ids[0], &got.ids[1..=ids.len()]), (49406, ids), "{prompt}");
        assert!(got.ids[1 + ids.len()..].iter().all(|&id| id == 49407), "{prompt}");
    }
}

#[test]
fn long_prompts_are_cut_and_quoted() {
    let folder = tokenizer_folder(json!({}));
    let tokenizer = open(folder.path()).unwrap();
    let got = tokenizer.encode(&format!("{} helmet, Café  and 日本 ", "a ".repeat(74))).unwrap();
    assert_eq!((got.len, got.ids[75], got.ids[76]), (77, 11122, 49407));
    assert_eq!(got.cut.as_deref(), Some(", Café  and 日本"));

    let got = tokenizer.encode(&"image of a ".repeat(100_000)).unwrap();
    assert_eq!((got.len, got.cut.map(|cut| cut.len())), (77, Some(11 * 100_000 - 11 * 25 - 1)));
    let got = tokenizer.encode(&format!("{}image", " ".repeat(200_000))).unwrap();
    assert_eq!((got.len, got.ids[1]), (3, 2867), "a word after much white space is a token");
}

#[test]
fn padding_is_read_from_the_files() {
    let pad = |config, map: Option<serde_json::Value>| {
        let folder = tokenizer_folder(config);
        if let Some(map) = map {
            fs::write(folder.path().join("special_tokens_map.json"), map.to_string()).unwrap();
        }
        open(folder.path()).map(|tokenizer| tokenizer.encode("a").unwrap().ids[76])
    };
    assert_eq!(pad(json!({}), None).unwrap(), 49407);
    assert_eq!(pad(json!({"pad_token": "!"}), None).unwrap(), 0);
    assert_eq!(pad(json!({"pad_token": null}), Some(json!({"pad_token": {"content": "!"}}))).unwrap(), 0);
    assert_eq!(pad(json!({"pad_token": "\""}), Some(json!({"pad_token": "!"}))).unwrap(), 0);
    // A token that is in no file is added, like any other; here the embedding has rows for it.
    let new = pad(json!({"pad_token": "<pad>"}), None).unwrap();
    assert_eq!(new, vocabulary().len() as u32);
}

/// `tokenizer.json` suffices, and its padding and truncation are ignored, as by transformers.
#[test]
fn one_file_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.json");
    fs::write(&file, tokenizer_json().to_string()).unwrap();
    for path in [folder.path(), &file] {
        let got = open(path).unwrap().encode("a a a").unwrap();
        assert_eq!((got.ids.len(), got.len, got.ids[76]), (77, 5, 49407));
    }
}

fn tokenizer_json() -> serde_json::Value {
    json!({
        "version": "1.0",
        "truncation": { "max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right" },
        "padding": { "strategy": { "Fixed": 5 }, "direction": "Right", "pad_id": 9, "pad_type_id": 0, "pad_token": "!" },
        "added_tokens": [{ "id": 49407, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
                           "rstrip": false, "normalized": false, "special": true }],
        "normalizer": { "type": "Lowercase" },
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "end_of_word_suffix": "</w>",
                   "vocab": { "!": 0, "a</w>": 1, "a": 2, "aa</w>": 3, "<|startoftext|>": 49406, "<|endoftext|>": 49407 },
                   "merges": ["a a</w>"] },
    })
}

#[test]
fn broken_tokenizers_are_errors() {
    let fails = |name: &str, content: &[u8]| {
        let folder = tokenizer_folder(json!({}));
        fs::write(folder.path().join(name), content).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        error.to_string()
    };
    assert!(fails("tokenizer.json", b"{").contains("tokenizer.json"));
    assert!(fails("tokenizer.json", br#"{"model":{"vocab":{"a":0},"merges":["a a"]}}"#).contains("`a a`"));
    assert!(fails("tokenizer_config.json", b"[").contains("tokenizer_config.json"));
    assert!(fails("vocab.json", b"[]").contains("vocab.json"));
    assert!(fails("vocab.json", br#"{"a": 60000}"#).contains("below 49408"));
    assert!(fails("vocab.json", br#"{"a": -1}"#).contains("vocab.json"));
    assert!(fails("merges.txt", b"#version\n\xff").contains("UTF-8"));
    assert!(fails("merges.txt", b"#version\nx y\n").contains("`x y`"));
    assert!(fails("merges.txt", b"#version\none\n").contains("`one`"));

    let empty = tempfile::tempdir().unwrap();
    let error = open(empty.path()).unwrap_err();
    assert!(matches!(&error, Error::ModelMissing { .. }) && error.to_string().contains("merges.txt"), "{error}");
    assert!(Tokenizer::open(tokenizer_folder(json!({})).path(), 1, 49408).is_err());
}

fn picture() -> Image {
    Image { width: 3, height: 2, rgb: (0..18).map(|i| i * 14).collect() }
}

#[test]
fn a_png_contains_its_request() {
    let request = Request {
        prompts: vec!["first".into(), "a fox, ink".into()],
        negative: "blurry".into(),
        width: 512,
        height: 768,
        seed: 7,
        count: 2,
        noise: NoiseKind::Philox,
        ..Request::default()
    };
    let record = Record::new(&request, "demo: tiny").of_image(3);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        record.parameters(),
        format!(
            "a fox, ink\nNegative prompt: blurry\nSteps: 20, Sampler: DDPM, CFG scale: 4, Seed: 10, Size: 512x768, \
             Model: \"demo: tiny\", Decoder steps: 10, Decoder CFG scale: 0, Noise: philox, Version: cascade-rt {version}"
        )
    );

    let png = picture().to_bytes(Format::Png, Some(&record)).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
    let mut rgb = vec![0; 18];
    reader.next_frame(&mut rgb).unwrap();
    assert_eq!(rgb, picture().rgb);
    assert_eq!(reader.info().uncompressed_latin1_text.len(), 1, "text that Latin-1 can represent is stored as such");

    let short = Image { rgb: vec![0; 17], ..picture() }.to_bytes(Format::Png, Some(&record)).unwrap_err();
    assert!(short.to_string().contains("17 bytes"), "{short}");
}

#[test]
fn files_are_overwritten_only_with_force() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.png");
    write_atomically(&file, b"one", false).unwrap();
    let error = write_atomically(&file, b"two", false).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("`force`"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), b"one");
    write_atomically(&file, b"two", true).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"two");

    for wrong in [folder.path().join("no/such/folder.png"), folder.path().to_owned(), file.join("below")] {
        assert_eq!(write_atomically(&wrong, b"x", true).unwrap_err().exit_code(), 7, "{wrong:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file remains");
}

#[cfg(unix)]
#[test]
fn outputs_have_ordinary_permissions_and_devices_are_not_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
    write_atomically(&ours, b"x", false).unwrap();
    fs::write(&plain, b"x").unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
    write_atomically(Path::new("/dev/null"), b"x", false).unwrap();
    let full = write_atomically(Path::new("/dev/full"), b"x", false);
    assert!(!Path::new("/dev/full").exists() || full.unwrap_err().exit_code() == 7);
}

#[test]
fn files_that_are_not_png() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.png");
    assert_eq!(read_metadata(&file).unwrap_err().exit_code(), 7);
    for bytes in [
        &b""[..],
        b"not a png",
        &picture().to_bytes(Format::Png, Some(&Record::new(&Request::default(), "m"))).unwrap()[..40],
    ] {
        fs::write(&file, bytes).unwrap();
        let error = read_metadata(&file).unwrap_err();
        assert!(error.to_string().contains("expected a PNG, JPEG or WebP image"), "{error}");
    }
}

/// Every format, with its name.
const FORMATS: [(&str, Format); 3] =
    [("PNG", Format::Png), ("JPEG", Format::Jpeg { quality: 90 }), ("WebP", Format::Webp)];

/// What cannot be carried is found out before the picture is made.
#[test]
fn a_record_that_is_too_long_for_jpeg() {
    let record = Record::new(&Request::new("long ".repeat(10_000)), "m");
    for (name, format) in FORMATS {
        let refused = format.check(&record).err().map(|e| e.to_string());
        assert_eq!(refused.is_some(), name == "JPEG", "{refused:?}");
        assert!(refused.is_none_or(|e| e.contains("PNG and WebP carry more, got a prompt of 50000 bytes")));
    }
    assert_eq!(Format::of("a.JPG".as_ref()), Some(Format::Jpeg { quality: 90 }));
    assert_eq!((Format::of("a".as_ref()), Format::of("a.gif".as_ref())), (Some(Format::Png), None));
    assert!(picture().save("a.gif").unwrap_err().to_string().contains("ends in .png, .jpg"));
}

proptest! {
    #[test]
    fn records_survive_in_every_format(prompt in any::<String>(), negative in any::<String>(), model in any::<String>(),
                           seed in any::<u64>(), guidance in (0f32..=100.0, 0f32..=100.0), image in 0usize..2) {
        let prompts = vec![prompt.clone(), format!("{prompt} é")];
        let request = Request { prompts, negative, seed, guidance, ..Request::default() };
        let record = Record::new(&request, &model).of_image(image);
        let folder = tempfile::tempdir().unwrap();
        for (name, format) in FORMATS {
            let file = folder.path().join(name);
            write_atomically(&file, &picture().to_bytes(format, Some(&record)).unwrap(), false).unwrap();
            let read = read_metadata(&file).unwrap();
            prop_assert_eq!((read.format, read.width, read.height), (name, 3, 2));
            prop_assert_eq!(read.parameters.as_deref(), Some(&record.parameters()[..]));
            prop_assert_eq!(read.record().unwrap(), Some(record.clone()));
            write_atomically(&file, &picture().to_bytes(format, None).unwrap(), true).unwrap();
            let read = read_metadata(&file).unwrap();
            prop_assert_eq!((read.width, read.parameters, read.cascade), (3, None, None));
        }
    }

    #[test]
    fn a_damaged_picture_never_panics(format in 0usize..3, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
                                  end in any::<prop::sample::Index>()) {
        let mut bytes = picture().to_bytes(FORMATS[format].1, Some(&Record::new(&Request::default(), "日本"))).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len() + 1));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.png");
        fs::write(&file, bytes).unwrap();
        if let Ok(read) = read_metadata(&file) {
            let _ = read.record();
        }
    }

    #[test]
    fn parsers_take_what_they_print_and_nothing_out_of_range(text in "[0-9eE.,+ naif-]{0,12}", c in 1u32..=1000, b in 1u32..=1000) {
        prop_assert_eq!(parse_steps(&format!("{c},{b}")), Ok((c, b)));
        let wanted = (c as f32 / 16.0, b as f32 / 16.0);
        prop_assert_eq!(parse_guidance(&format!("{},{}", wanted.0, wanted.1)), Ok(wanted));
        if let Ok((c, b)) = parse_guidance(&text) {
            let request = Request { prompts: vec![text.clone()], guidance: (c, b), ..Request::default() };
            prop_assert!(request.check().is_ok());
        }
        if let Ok(steps) = parse_steps(&text) {
            let request = Request { prompts: vec![text], steps, ..Request::default() };
            prop_assert!(request.check().is_ok());
        }
    }

    #[test]
    fn any_text_becomes_tokens(prompt in any::<String>(), tail in r"(\PC{0,40}|[\x00-\x7f]{0,40}){0,4}") {
        thread_local!(static TOKENIZER: Tokenizer = open(tokenizer_folder(json!({})).path()).unwrap());
        TOKENIZER.with(|tokenizer| {
            let got = tokenizer.encode(&(prompt + &tail)).unwrap();
            assert_eq!(got.ids.len(), 77);
            assert_eq!((got.ids[0], got.ids[got.len - 1]), (49406, 49407));
        });
    }

    #[test]
    fn a_damaged_tokenizer_is_an_error_or_works(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = tokenizer_json().to_string().into_bytes();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fs::write(folder.path().join("tokenizer.json"), bytes).unwrap();
        if let Ok(tokenizer) = open(folder.path()) {
            let _ = tokenizer.encode("a aa <|endoftext|> é");
        }
    }
}
