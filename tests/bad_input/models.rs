//! Model folders that are missing, incomplete or wrong.

use std::fs;
use std::path::Path;

use super::{Room, fixture};

/// Creates a model folder `name` and its sibling `name-prior`, with links to the fixture's files.
pub fn model(room: &Room, name: &str) {
    fn link(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let from = entry.unwrap().path();
            let to = to.join(from.file_name().unwrap());
            if from.is_dir() { link(&from, &to) } else { std::os::unix::fs::symlink(from, to).unwrap() }
        }
    }
    link(&fixture("tiny"), &room.path(name));
    link(&fixture("tiny-prior"), &room.path(&format!("{name}-prior")));
}

/// Replaces one file of a model created by [`model`].
pub fn replace(room: &Room, name: &str, bytes: impl AsRef<[u8]>) {
    fs::remove_file(room.path(name)).unwrap();
    room.write(name, bytes);
}

#[test]
fn missing_components() {
    let room = Room::new();
    fs::create_dir(room.path("empty")).unwrap();
    room.fails(room.generate(&["x", "-m", "none"]), 3, &["none: model folder not found", "check the path"]);
    room.fails(room.generate(&["x", "-m", "empty"]), 3, &["empty: Stage C weights", "prior/", "--prior", "--stage-c"]);
    room.fails(room.generate(&["x", "--prior", "none"]), 3, &["none: folder of the prior not found"]);
    room.fails(room.command(&["inspect", "empty"]), 3, &["empty: Stage C weights"]);
    room.fails(room.command(&["inspect", "none"]), 3, &["none", "not found"]);

    for (gone, words) in [
        ("m-prior/prior", ["Stage C weights", "--stage-c"]),
        ("m/decoder", ["Stage B weights", "--stage-b"]),
        ("m/vqgan", ["Stage A weights", "--stage-a"]),
        ("m/text_encoder", ["text encoder weights", "--text-encoder"]),
        ("m/tokenizer", ["tokenizer.json, or vocab.json and merges.txt", "--tokenizer"]),
    ] {
        let room = Room::new();
        model(&room, "m");
        fs::remove_dir_all(room.path(gone)).unwrap();
        room.fails(room.generate(&["x", "-m", "m"]), 3, &words);
    }
    for flag in ["--stage-a", "--stage-b", "--stage-c", "--text-encoder", "--tokenizer"] {
        room.fails(room.generate(&["x", flag, "gone.safetensors"]), 3, &["gone.safetensors: ", "not found"]);
    }
}

/// Invalid requests to the built-in model. Its pictures are tested in `demo.rs`.
#[test]
fn the_built_in_model() {
    let room = Room::new();
    if cfg!(feature = "demo") {
        for (flag, value, words) in [
            ("-W", "0", ["--width: expected a multiple of 8", "got 0 (try 64)"]),
            ("-H", "100", ["--height: expected a multiple of 8", "got 100 (try 104)"]),
            ("--steps", "0,1", ["--steps", "got `0,1`"]),
        ] {
            room.fails(room.command(&["generate", "x", flag, value]), 2, &words);
        }
    } else {
        room.fails(
            room.command(&["generate", "x"]),
            2,
            &["--model: expected a model folder", "without the demo model"],
        );
        room.fails(room.command(&["inspect", "demo"]), 3, &["demo: ", "not found"]);
    }
    // A folder inside the model is not a model, and the name `demo` has no meaning for --prior.
    room.fails(room.command(&["inspect", "demo/prior"]), 3, &["demo/prior: ", "not found"]);
    room.fails(room.generate(&["x", "-m", "demo/prior"]), 3, &["demo/prior: model folder not found"]);
    room.fails(room.generate(&["x", "--prior", "demo"]), 3, &["demo: folder of the prior not found"]);
    // A file or folder with the name `demo` takes precedence.
    room.write("demo", "x");
    room.fails(room.generate(&["x", "-m", "demo"]), 3, &["demo: expected a model folder, found a file"]);
    room.fails(room.command(&["inspect", "demo"]), 3, &["demo: expected a safetensors file"]);
}

#[test]
fn a_file_where_a_folder_belongs() {
    let room = Room::new();
    room.write("model.safetensors", "x");
    let words = ["model.safetensors: expected a model folder", "--stage-c"];
    room.fails(room.generate(&["x", "-m", "model.safetensors"]), 3, &words);
    room.fails(room.generate(&["x", "--stage-c", "/dev/null"]), 3, &["/dev/null", "not a regular file"]);
}

#[test]
fn tokenizers() {
    for (file, contents, words) in [
        ("vocab.json", "{", ["vocab.json", "expected JSON"]),
        ("vocab.json", "{}", ["expected merges of two tokens", "in the vocabulary"]),
        ("vocab.json", r#"{"a":99999999}"#, ["vocab.json", "token ids below 49408"]),
        ("merges.txt", "#version: 0.2\nzzqq qqzz\n", ["merges.txt: expected merges of two tokens", "`zzqq qqzz`"]),
        (
            "merges.txt",
            "oneword\n",
            ["merges.txt: expected merges of two tokens", "`oneword`; use the tokenizer files"],
        ),
        ("tokenizer_config.json", "nonsense", ["tokenizer_config.json", "expected a JSON object"]),
        ("special_tokens_map.json", r#"{"bos_token":"<|nothing|>"}"#, ["token ids below 49408", "<|nothing|>"]),
    ] {
        let room = Room::new();
        model(&room, "m");
        replace(&room, &format!("m/tokenizer/{file}"), contents);
        room.fails(room.generate(&["x", "-m", "m"]), 3, &words);
    }
    let room = Room::new();
    model(&room, "m");
    fs::write(room.path("m/tokenizer/tokenizer.json"), "[1, 2]").unwrap();
    room.fails(room.generate(&["x", "-m", "m"]), 3, &["tokenizer.json", "a CLIP tokenizer"]);
}

#[test]
fn schedulers() {
    for (file, contents, words) in [
        ("m/scheduler", "{", ["expected JSON", "download it again"]),
        (
            "m/scheduler",
            r#"{"s": 0.01}"#,
            ["expected DDPMWuerstchenScheduler with `s` 0.008", "with `s` 0.01 and `scaler` 1"],
        ),
        ("m-prior/scheduler", r#"{"scaler": 2}"#, ["m-prior/scheduler/scheduler_config.json", "and `scaler` 2"]),
        ("m/scheduler", r#"{"_class_name": "DDIMScheduler"}"#, ["found DDIMScheduler", "remove the file"]),
    ] {
        let room = Room::new();
        model(&room, "m");
        replace(&room, &format!("{file}/scheduler_config.json"), contents);
        room.fails(room.generate(&["x", "-m", "m"]), 3, &words);
    }
}

#[test]
fn configs() {
    let prior = "m-prior/prior/config.json";
    for (file, from, to, words) in [
        (prior, "{", "", ["config.json", "expected"]),
        (prior, "20,", "99999999999,", ["config.json", "block_out_channels"]),
        (prior, "20,", "0,", ["config.json", "block_out_channels"]),
        (prior, "20,", "-1,", ["config.json", "invalid value"]),
        (prior, "20,", "20, 20,", ["config.json", "entries"]),
        (prior, "20,", "40,", ["diffusion_pytorch_model.bf16.safetensors: tensor `", "expected"]),
        (prior, "\"clip_text_in_channels\": 12", "\"clip_text_in_channels\": 13", ["tensor `clip_txt_mapper", "13"]),
        (prior, "5,", "7,", ["config.json", "that divides the width 20"]),
        ("m/decoder/config.json", "\"in_channels\": 4", "\"in_channels\": 5", ["decoder", "expected [8, 20, 1, 1]"]),
        (
            "m/text_encoder/config.json",
            "\"hidden_size\": 12",
            "\"hidden_size\": 15",
            ["model.safetensors: tensor", "15"],
        ),
        ("m/text_encoder/config.json", "77", "1000000000", ["config.json", "max_position_embeddings"]),
        ("m/text_encoder/config.json", "\"gelu\"", "\"mish\"", ["config.json", "mish"]),
        ("m/vqgan/config.json", "{", "{{", ["vqgan/config.json", "line 1 column 2"]),
        (
            "m/model_index.json",
            "{",
            "{\"_native_size\": 100,",
            ["model_index.json", "a multiple of 8 from 64 up, found 100"],
        ),
        ("m/model_index.json", "{", "{\"_native_size\": -8,", ["model_index.json", "invalid value"]),
        ("m/model_index.json", "{", "[", ["model_index.json", "expected JSON"]),
    ] {
        let room = Room::new();
        model(&room, "m");
        let config = fs::read_to_string(room.path(file)).unwrap();
        assert!(config.contains(from), "{file} does not contain {from}");
        replace(&room, file, config.replacen(from, to, 1));
        room.fails(room.generate(&["x", "-m", "m"]), 3, &words);
    }
}

/// Networks for pictures that are given: none is needed for text alone, and whoever needs one that is missing or damaged is
/// told which file it is.
#[test]
fn encoders_of_pictures() {
    let room = Room::new();
    let picture = fixture("pipeline/wide.png");
    let picture = picture.to_str().unwrap();
    model(&room, "m");
    replace(&room, "m-prior/image_encoder/model.safetensors", "no weights");
    room.write("m/effnet_encoder.safetensors", "no weights either");
    let output = room.generate(&["x", "-m", "m", "-o", "text.png"]).output().unwrap();
    assert!(output.status.success() && room.path("text.png").exists(), "{}", super::text(&output.stderr));
    let image = ["m-prior/image_encoder/model.safetensors: "];
    room.fails(room.generate(&["x", "-m", "m", "--image", picture]), 3, &image);
    let effnet = ["m/effnet_encoder.safetensors: "];
    room.fails(room.generate(&["x", "-m", "m", "--init", picture]), 3, &effnet);
    room.fails(room.command(&["reconstruct", picture, "-m", "m"]), 3, &effnet);
    room.fails(room.command(&["encode", picture, "-m", "m", "-o", "l.safetensors"]), 3, &effnet);
    // A file that somebody names has to be right even where it is not needed.
    room.fails(room.generate(&["x", "--effnet-encoder", "gone.safetensors"]), 3, &["gone.safetensors", "not found"]);
    room.fails(room.generate(&["x", "--image-encoder", "gone.safetensors"]), 3, &["gone.safetensors", "not found"]);
    let wrong = fixture("tiny/vqgan/diffusion_pytorch_model.safetensors");
    let words = ["expected the EfficientNet image encoder", "diffusion_pytorch_model.safetensors"];
    room.fails(room.generate(&["x", "--effnet-encoder", wrong.to_str().unwrap()]), 3, &words);

    let words = ["EfficientNet encoder weights (effnet_encoder", "set its file with --effnet-encoder"];
    room.fails(room.generate(&["x", "--init", picture]), 3, &words);
}
