//! Stages apart, on the command line: `generate --prior-only`, `decode`, `encode` and `generate --text`. And pictures
//! made again, alone or in other batches, and pictures that are given.
#![cfg(all(feature = "cli", feature = "demo"))]

#[path = "decode/again.rs"]
mod again;
mod common;
#[path = "decode/control.rs"]
mod control;
#[path = "decode/hires.rs"]
mod hires;
#[path = "decode/initial.rs"]
mod initial;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use cascade_rt::{FromFile, Origin, Record, read_metadata};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// A folder to run the program in.
struct Room(tempfile::TempDir);

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program on the CPU; returns what it prints.
    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let output =
            common::program().args(args).args(["--device", "cpu", "-q"]).current_dir(&self.0).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A small picture.
    #[track_caller]
    fn generate(&self, args: &[&str]) -> String {
        self.run(&[&["generate", "-W", "64", "-H", "64", "--steps", "2,2"], args].concat())
    }

    fn inspect(&self, name: &str) -> String {
        let output = common::program().args(["inspect", name, "--tensors"]).current_dir(&self.0).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// The program fails with this exit code and these words.
    #[track_caller]
    fn fails(&self, args: &[&str], code: i32, words: &[&str]) {
        let output = common::program().args(args).args(["--device", "cpu"]).current_dir(&self.0).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{args:?}: {stderr}does not contain `{word}`");
        }
    }

    fn record(&self, name: &str) -> Record {
        read_metadata(&self.path(name)).unwrap().record().unwrap().unwrap()
    }

    fn pixels(&self, name: &str) -> Vec<u8> {
        let file = std::io::BufReader::new(fs::File::open(self.path(name)).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        rgb
    }

    fn tensors(&self, name: &str) -> Tensors {
        let bytes = fs::read(self.path(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let values = |view: &TensorView<'_>| match view.dtype() {
            Dtype::BF16 => view.data().chunks(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            _ => view.data().chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        };
        // Counters of batches in training are integers.
        let real = file.iter().filter(|(_, view)| view.dtype() != Dtype::I64);
        let mut all: Tensors =
            real.map(|(name, view)| (name.to_owned(), view.shape().to_vec(), values(&view))).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Writes a file as another program would, in f32 and without our description.
    fn write(&self, name: &str, tensors: &Tensors, metadata: Option<&str>) {
        let views = tensors.iter().map(|(name, dims, values)| {
            (name.as_str(), TensorView::new(Dtype::F32, dims.clone(), bytemuck::cast_slice(values)).unwrap())
        });
        let metadata = metadata.map(|text| HashMap::from([("cascade".to_owned(), text.to_owned())]));
        fs::write(self.path(name), safetensors::serialize(views, metadata).unwrap()).unwrap();
    }
}

fn dims(tensors: &Tensors) -> Vec<(&str, &[usize])> {
    tensors.iter().map(|(name, dims, _)| (name.as_str(), &dims[..])).collect()
}

/// Whether stages are guided decides how many texts the encoder gets at once, which must not matter.
#[test]
fn a_decoded_picture_is_the_generated_one_byte_for_byte() {
    let room = Room::new();
    fs::write(room.path("prompts"), "a pig on a grey background\na star on a red background\n").unwrap();
    for (i, guidance) in ["4,0", "1,0", "1,1.5", "4,1.5"].into_iter().enumerate() {
        let args = ["--prompts", "prompts", "-n", "grey", "-c", "2", "-s", "5", "--guidance", guidance];
        let (whole, prior, decoded) = (format!("w{i}/"), format!("{i}.safetensors"), format!("d{i}/"));
        room.generate(&[&args[..], &["-o", &whole]].concat());
        assert_eq!(room.generate(&[&args[..], &["--prior-only", "-o", &prior]].concat()), format!("{prior}\n"));
        assert_eq!(room.run(&["decode", &prior, "-o", &decoded]).lines().count(), 4);
        for k in 1..=4 {
            let [whole, decoded] =
                [&whole, &decoded].map(|folder| fs::read(room.path(&format!("{folder}cascade-5-{k}.png"))).unwrap());
            assert!(whole == decoded, "guidance {guidance}, picture {k}");
        }
        let wanted: [(&str, &[usize]); 3] = [
            ("negative_prompt_embeds_pooled", &[1, 1, 128]),
            ("prompt_embeds_pooled", &[2, 1, 128]),
            ("stage_c", &[4, 16, 2, 2]),
        ];
        assert_eq!(dims(&room.tensors(&prior)), wanted);
    }
}

#[test]
fn every_seed_makes_another_picture_of_the_same_latents() {
    let room = Room::new();
    room.generate(&["a cactus on a pink background", "-s", "7", "--prior-only", "-o", "c.safetensors"]);
    room.generate(&["a cactus on a pink background", "-s", "7", "-o", "whole.png"]);
    let files = room.run(&["decode", "c.safetensors", "-s", "7,8,9", "-o", "all/"]);
    assert_eq!(files, "all/cascade-7.png\nall/cascade-8.png\nall/cascade-9.png\n");
    assert_eq!(room.run(&["decode", "c.safetensors", "-s", "1,2", "-o", "x.png"]), "x-1.png\nx-2.png\n");
    assert!(fs::read(room.path("all/cascade-7.png")).unwrap() == fs::read(room.path("whole.png")).unwrap());
    assert!(room.pixels("all/cascade-8.png") != room.pixels("all/cascade-7.png"));
    let shown = room.inspect("c.safetensors");
    assert!(shown.contains("stage_c") && shown.contains("\na cactus on a pink background\nSteps: 2"), "{shown}");
    let record = room.record("all/cascade-8.png");
    assert_eq!(record.request.seed, 8);
    assert!(matches!(record.prior, Some(Origin::Request { request, image: 0 }) if request.seed == 7));

    // Settings of Stage B do not change where Stage C's latents came from; the size of the picture does.
    room.run(&["decode", "c.safetensors", "--steps", "3", "--guidance", "1.5", "-o", "s.png"]);
    let record = room.record("s.png");
    assert_eq!((record.prior, record.request.steps, record.request.guidance), (None, (2, 3), (4.0, 1.5)));
    room.run(&["decode", "c.safetensors", "-W", "128", "-o", "wide.png"]);
    assert_eq!((room.record("wide.png").request.width, room.pixels("wide.png").len()), (128, 128 * 64 * 3));
    let json = room.run(&["decode", "c.safetensors", "-s", "1,2", "-o", "j.png", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["images"], &json["seeds"]),
        (&serde_json::json!(["j-1.png", "j-2.png"]), &serde_json::json!([1, 2]))
    );
}

#[test]
fn text_is_encoded_once_for_many_runs() {
    let room = Room::new();
    let file = room.run(&["encode", "--prompt", "a lemon on a teal background", "-n", "grey", "-o", "t.safetensors"]);
    assert_eq!(file, "t.safetensors\n");
    let tensors = room.tensors("t.safetensors");
    let wanted: [(&str, &[usize]); 4] = [
        ("negative_prompt_embeds", &[1, 24, 128]),
        ("negative_prompt_embeds_pooled", &[1, 1, 128]),
        ("prompt_embeds", &[1, 24, 128]),
        ("prompt_embeds_pooled", &[1, 1, 128]),
    ];
    assert_eq!(dims(&tensors), wanted);
    room.generate(&["a lemon on a teal background", "-n", "grey", "-o", "prompt.png"]);
    room.generate(&["--text", "t.safetensors", "-o", "text.png"]);
    assert!(room.pixels("text.png") == room.pixels("prompt.png"));
    let (prompt, text) = (room.record("prompt.png"), room.record("text.png"));
    let from = |file: &str, row| FromFile { file: file.into(), row };
    assert_eq!((text.request == prompt.request, text.text), (true, Some(from("t.safetensors", 0))));
    // The latents of such a run, and pictures of those, say so too.
    room.generate(&["--text", "t.safetensors", "--prior-only", "-o", "p.safetensors"]);
    room.run(&["decode", "p.safetensors", "-o", "decoded.png"]);
    assert!(fs::read(room.path("decoded.png")).unwrap() == fs::read(room.path("text.png")).unwrap());

    // As diffusers has it: the negative prompt once for each prompt, and nobody knows the prompts.
    let twice: Tensors = tensors.iter().map(|(n, d, v)| (n.clone(), [&[2], &d[1..]].concat(), v.repeat(2))).collect();
    room.write("two.safetensors", &twice, None);
    // With philox, the first picture of several is the one that is made alone.
    room.generate(&["--text", "two.safetensors", "--noise", "philox", "-o", "two.png"]);
    assert_eq!(room.record("two-2.png").request.prompts, [""]);
    assert_eq!(room.record("two-2.png").text, Some(from("two.safetensors", 1)));
    room.generate(&["--text", "t.safetensors", "--noise", "philox", "-o", "one.png"]);
    assert!(room.pixels("two-1.png") == room.pixels("one.png"));
}

#[test]
fn latents_of_other_programs() {
    let room = Room::new();
    room.generate(&["a star on a red background", "-c", "2", "--prior-only", "-o", "ours.safetensors"]);
    room.run(&["decode", "ours.safetensors", "-o", "ours.png"]);
    let all = room.tensors("ours.safetensors");
    let [negative, pooled, latents] = &all[..] else { panic!("{all:?}") };
    let named = |name: &str, (_, dims, values): &(String, Vec<usize>, Vec<f32>)| {
        (name.to_owned(), dims.clone(), values.clone())
    };
    let size = ["-W", "64", "-H", "64", "--steps", "2"];
    let decode = |name: &str, more: &[&str]| {
        room.run(&[&["decode", &format!("{name}.safetensors"), "-o", &format!("{name}.png")], &size[..], more].concat())
    };

    let repeated = |(name, dims, values): &(String, Vec<usize>, Vec<f32>)| {
        (name.clone(), [&[2], &dims[1..]].concat(), values.repeat(2))
    };
    room.write(
        "diffusers.safetensors",
        &vec![named("image_embeddings", latents), repeated(pooled), repeated(negative)],
        None,
    );
    decode("diffusers", &[]);
    room.write("bare.safetensors", &vec![named("stage_c", latents)], None);
    decode("bare", &["--prompt", "a star on a red background"]);
    for name in ["diffusers", "bare"] {
        for k in 1..=2 {
            let file = format!("{name}-{k}.png");
            assert!(room.pixels(&file) == room.pixels(&format!("ours-{k}.png")), "{file}");
            let from = FromFile { file: format!("{name}.safetensors"), row: k - 1 };
            assert_eq!(room.record(&file).prior, Some(Origin::File(from)));
        }
    }
    // The model's own size has latents of another size, so the size follows from them.
    room.run(&["decode", "bare.safetensors", "--prompt", "x", "-o", "sized.png"]);
    assert_eq!(room.pixels("sized-1.png").len(), 80 * 80 * 3);

    let error = |tensors: Tensors, metadata: Option<&str>, more: &[&str], code: i32, words: &[&str]| {
        room.write("bad.safetensors", &tensors, metadata);
        room.fails(&[&["decode", "bad.safetensors", "-o", "bad.png"], more].concat(), code, words);
        assert!(!room.path("bad.png").exists());
    };
    let half = |(name, dims, values): &(String, Vec<usize>, Vec<f32>)| {
        (name.clone(), vec![dims[0], dims[1] / 2, dims[2], dims[3]], values[..values.len() / 2].to_vec())
    };
    let (text, latents) = (pooled.clone(), latents.clone());
    error(vec![text.clone()], None, &[], 3, &["bad.safetensors: expected a tensor `stage_c` or `image_embeddings`"]);
    error(vec![latents.clone()], None, &[], 3, &["pooled text (`prompt_embeds_pooled`), or else --prompt"]);
    error(vec![half(&latents), text.clone()], None, &[], 3, &["tensor `stage_c`: expected [2, 16, 2, 2]"]);
    error(vec![latents.clone(), text.clone()], None, &["--guidance", "2"], 2, &["of the negative one, got 1 texts"]);
    error(vec![latents.clone(), text.clone()], Some("{"), &[], 3, &["in the metadata `cascade`"]);
    let wide = r#"{"program":"","model":"","image":0,"request":{"prompts":["a"],"width":65}}"#;
    error(vec![latents.clone(), text.clone()], Some(wide), &[], 2, &["--width: expected a multiple of 8"]);
    let three = r#"{"program":"","model":"","image":0,"request":{"prompts":["a"],"count":3}}"#;
    error(vec![latents.clone(), text.clone()], Some(three), &[], 3, &["latents and text of as many images"]);
    let mut other = repeated(negative);
    other.2[0] += 1.0;
    error(vec![latents.clone(), text.clone(), other], None, &[], 3, &["the same negative prompt in every row"]);
    error(vec![latents, text], None, &["-s", "4,4"], 2, &["--seeds: expected different seeds, got 4 twice"]);
}

#[test]
fn flags_that_do_not_fit_together() {
    let room = Room::new();
    room.generate(&["x", "--prior-only", "-o", "p.safetensors"]);
    let before = fs::read(room.path("p.safetensors")).unwrap();
    room.fails(
        &["generate", "x", "--prior-only", "-o", "p.png"],
        2,
        &["--output: expected a name that ends in .safetensors"],
    );
    room.fails(&["generate", "x", "--prior-only", "-o", "p.safetensors"], 2, &["expected a new file, or --force"]);
    room.fails(&["generate", "x", "--text", "p.safetensors"], 2, &["--text"]);
    room.fails(
        &["generate", "--text", "p.safetensors", "-o", "x.png"],
        3,
        &["tensor `prompt_embeds`", "found nothing"],
    );
    room.fails(&["decode", "p.safetensors", "-n", "x"], 2, &["--prompt"]);
    room.fails(
        &["decode", "p.safetensors", "--steps", "0"],
        2,
        &["--steps", "expected a count from 1 to 1000, got `0`"],
    );
    room.fails(&["decode", "p.safetensors", "--guidance", "-1"], 2, &["--guidance", "from 0 to 100, got `-1`"]);
    room.fails(&["decode", "none", "-o", "x.png"], 7, &["none: cannot read"]);
    room.fails(&["encode", "--prompt", "x"], 2, &["--output"]);
    room.fails(&["encode", "-o", "t.safetensors"], 2, &["<PICTURE>"]);
    room.fails(
        &["decode", "p.safetensors", "-o", "p.safetensors", "--force"],
        2,
        &["--output", "ends in .png, .jpg, .jpeg or .webp"],
    );
    room.fails(
        &["decode", "p.safetensors", "-o", "x.png", "--dump", "p.safetensors", "--force"],
        2,
        &["files that this run does not read"],
    );
    assert!(fs::read(room.path("p.safetensors")).unwrap() == before);
}
