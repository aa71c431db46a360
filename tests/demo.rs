//! The built-in model: its pictures show what the prompts describe, on every backend, and within seconds.
#![cfg(all(feature = "cli", feature = "demo"))]

mod common;
#[cfg(feature = "serve")]
#[path = "demo/serve.rs"]
mod serve;

use std::io::BufReader;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cascade_rt::backend::Backend;
use cascade_rt::image::{Image, read_metadata};
use cascade_rt::model::Model;
use cascade_rt::noise::NoiseKind;
use cascade_rt::picture::psnr;
use cascade_rt::pipeline::{Batch, Init, Inputs, Options, Pipeline};
use cascade_rt::request::Request;
use cascade_rt::shape::Shape;

const APPLE: &str = "a red apple on a blue background";

/// Prompts, the expected colour of the object, and that of the background.
const ASKED: [(&str, &str, &str); 11] = [
    (APPLE, "red", "blue"),
    ("a lemon on a teal background", "yellow", "teal"),
    ("a blue heart on an orange background", "blue", "orange"),
    ("an eggplant on a green background", "purple", "green"),
    ("a pig on a grey background", "pink", "grey"),
    ("a red heart on a white background", "red", "white"),
    ("a cactus on a pink background", "green", "pink"),
    ("a pumpkin on a black background", "orange", "black"),
    ("a star on a red background", "yellow", "red"),
    ("a red apple on a yellow background", "red", "yellow"),
    ("cheese on a purple background", "yellow", "purple"),
];

/// The colours that the model knows, with the sRGB values of the backgrounds in its training data.
const COLOURS: [(&str, [f64; 3]); 12] = [
    ("white", [245.0, 245.0, 245.0]),
    ("grey", [140.0, 140.0, 145.0]),
    ("black", [28.0, 28.0, 32.0]),
    ("red", [205.0, 40.0, 45.0]),
    ("orange", [245.0, 135.0, 35.0]),
    ("yellow", [250.0, 215.0, 60.0]),
    ("green", [60.0, 165.0, 75.0]),
    ("teal", [35.0, 165.0, 165.0]),
    ("blue", [45.0, 95.0, 215.0]),
    ("purple", [130.0, 70.0, 190.0]),
    ("pink", [250.0, 160.0, 200.0]),
    ("brown", [125.0, 80.0, 50.0]),
];

/// Prevents tests from running at the same time, because each uses all cores and one measures time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|i| (a[i] - b[i]).powi(2)).sum::<f64>().sqrt()
}

/// The median of each channel.
fn median(pixels: &[[f64; 3]]) -> [f64; 3] {
    [0, 1, 2].map(|channel| {
        let mut values: Vec<f64> = pixels.iter().map(|p| p[channel]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    })
}

/// The name of the nearest colour.
fn name(colour: [f64; 3]) -> &'static str {
    let nearest = COLOURS.iter().min_by(|a, b| distance(a.1, colour).total_cmp(&distance(b.1, colour)));
    nearest.unwrap().0
}

/// The colours of the object and of the background. The background is the median of the border; the object is the median of
/// those pixels in the middle that differ from the background.
fn seen(image: &Image) -> (&'static str, &'static str) {
    let (w, h) = (image.width as usize, image.height as usize);
    let pixels = |inside: &dyn Fn(usize, usize) -> bool| -> Vec<[f64; 3]> {
        let chosen = (0..w * h).filter(|i| inside(i % w, i / w));
        chosen.map(|i| [0, 1, 2].map(|channel| f64::from(image.rgb[3 * i + channel]))).collect()
    };
    let edge = w / 32;
    let background = median(&pixels(&|x, y| x.min(y) < edge || x >= w - edge || y >= h - edge));
    let mut middle = pixels(&|x, y| x.abs_diff(w / 2) < w / 5 && y.abs_diff(h / 2) < h / 5);
    let all = middle.len();
    middle.retain(|&p| distance(p, background) > 60.0);
    assert!(middle.len() > all / 10, "there is no object in the middle");
    (name(median(&middle)), name(background))
}

/// Pictures of the built-in model, `count` for each prompt.
fn pictures(backend: Box<dyn Backend>, prompts: &[&str], count: u32) -> Vec<Image> {
    let model = Model::demo().unwrap();
    let side = model.native_size.unwrap();
    let prompts = prompts.iter().map(|prompt| prompt.to_string()).collect();
    // As the pictures of models/demo/README.md were made.
    let noise = NoiseKind::TorchBatch;
    let request = Request { prompts, width: side, height: side, count, noise, ..Request::default() };
    Pipeline::new(model, backend).unwrap().generate(&request).unwrap()
}

fn best() -> Box<dyn Backend> {
    common::exact().remove(0)
}

/// Each picture has the two colours of its prompt. No two prompts have the same two colours, so
/// a picture of another prompt would fail.
#[test]
fn pictures_show_what_was_asked_for() {
    let _alone = alone();
    let prompts = ASKED.map(|(prompt, ..)| prompt);
    let images = pictures(best(), &prompts, 2);
    assert_eq!(images.len(), 2 * ASKED.len());
    for (i, image) in images.iter().enumerate() {
        let (prompt, object, background) = ASKED[i / 2];
        assert_eq!(seen(image), (object, background), "{prompt}, picture {}", i % 2);
    }
    for (i, asked) in ASKED.iter().enumerate() {
        assert!(ASKED[..i].iter().all(|other| (other.1, other.2) != (asked.1, asked.2)), "{asked:?} is asked twice");
    }
}

/// The test above would detect a picture with only one of the two colours.
#[test]
fn other_prompts_show_something_else() {
    let _alone = alone();
    let others = ["a lemon on a blue background", "a red apple on a green background"];
    let images = pictures(best(), &others, 1);
    assert_eq!(seen(&images[0]), ("yellow", "blue"));
    assert_eq!(seen(&images[1]), ("red", "green"));
}

/// Backends sum in different orders, which may change few pixels by little.
#[test]
fn every_backend_draws_the_same_picture() {
    let _alone = alone();
    let mut first: Option<Image> = None;
    for backend in common::exact() {
        let name = format!("{} with {}", backend.device().name, backend.device().caps);
        let image = pictures(backend, &[APPLE], 1).remove(0);
        assert_eq!(seen(&image), ("red", "blue"), "{name}");
        let first = first.get_or_insert_with(|| image.clone());
        let differences = || image.rgb.iter().zip(&first.rgb).map(|(a, b)| f64::from(a.abs_diff(*b)));
        let mean = differences().sum::<f64>() / image.rgb.len() as f64;
        let large = differences().filter(|d| *d > 4.0).count();
        println!("{name}: differs by {mean:.5} of 255 on average, by more than 4 in {large} values");
        assert!(mean < 0.05 && large <= image.rgb.len() / 1000, "{name}: by {mean}, by more than 4 in {large} values");
    }
}

/// The image encoder, whose layers do not have the sizes of the published one, is the same on every backend.
/// A picture is a prompt: with no words, what is made has its colours, and words change what they name.
#[test]
fn a_variation_is_like_its_picture() {
    let _alone = alone();
    let mut pipeline = Pipeline::new(Model::demo().unwrap(), best()).unwrap();
    let side = pipeline.model().native_size.unwrap();
    let request = |prompt: &str| Request { width: side, height: side, count: 4, ..Request::new(prompt) };
    for (prompt, object, background) in [
        (APPLE, "red", "blue"),
        ("a green frog on a yellow background", "green", "yellow"),
        ("a pumpkin on a purple background", "orange", "purple"),
    ] {
        let given = pipeline.generate(&Request { count: 1, ..request(prompt) }).unwrap();
        let image = pipeline.embed_pictures(&given, false).unwrap();
        let mut made = Vec::new();
        let options = Options { inputs: Inputs { image: Some(&image), ..Inputs::default() }, ..Options::default() };
        let push = |batch: Batch| -> cascade_rt::Result<()> {
            made.extend(batch.images.iter().map(seen));
            Ok(())
        };
        pipeline.run(&request(""), options, push).unwrap();
        println!("{prompt}: {made:?}");
        // Objects are less sure than backgrounds: a variation of an apple may be a tomato or a fox.
        assert!(made.iter().all(|(_, ground)| *ground == background), "{prompt}: {made:?}");
        assert!(made.iter().filter(|(thing, _)| *thing == object).count() >= 2, "{prompt}: {made:?}");
    }
}

#[test]
fn every_backend_encodes_a_picture_alike() {
    let _alone = alone();
    let picture = pictures(best(), &[APPLE], 1).remove(0);
    let mut first: Option<Vec<f32>> = None;
    for backend in common::exact() {
        let name = format!("{} with {}", backend.device().name, backend.device().caps);
        let mut pipeline = Pipeline::new(Model::demo().unwrap(), backend).unwrap();
        let latents = pipeline.encode_picture(&picture, (3, 3), true).unwrap();
        assert_eq!(latents.shape, Shape::new(1, 3, 3, 16), "{name}");
        let first = first.get_or_insert_with(|| latents.values.clone());
        let error = common::relative_l2(&latents.values, first);
        assert!(error <= 1e-5, "{name}: {error}");
    }
}

/// What the latents keep of a picture, and what an image that begins with it keeps.
#[test]
fn pictures_that_are_given_are_recognised() {
    let _alone = alone();
    let mut pipeline = Pipeline::new(Model::demo().unwrap(), best()).unwrap();
    let side = pipeline.model().native_size.unwrap();
    let request = |prompt: &str| Request { width: side, height: side, ..Request::new(prompt) };
    let size = request("").sizes().c;
    let apple = pipeline.generate(&request(APPLE)).unwrap().remove(0);
    let latents = pipeline.encode_picture(&apple, size, false).unwrap();
    let mut made = |inputs: Inputs<'_>, prompt: &str| {
        let mut images = Vec::new();
        let options = Options { inputs, ..Options::default() };
        let push = |batch: Batch| -> cascade_rt::Result<()> {
            images.extend(batch.images);
            Ok(())
        };
        pipeline.run(&request(prompt), options, push).unwrap();
        images.remove(0)
    };
    let again = made(Inputs { stage_c: Some(&latents), ..Inputs::default() }, "");
    let decibels = psnr(&apple, &again);
    println!("reconstruction: {decibels:.2} dB");
    assert!(decibels > 18.0 && seen(&again) == ("red", "blue"), "{decibels} dB, {:?}", seen(&again));

    // Little of it changes at a low strength, and nothing of it is left at 1.
    let lemon = "a lemon on a teal background";
    let mut from = |strength, prompt| {
        let init = Init { latents: &latents, strength, repaint: None };
        seen(&made(Inputs { init: Some(init), ..Inputs::default() }, prompt))
    };
    assert_eq!(from(0.25, ""), ("red", "blue"));
    assert_eq!(from(1.0, lemon), ("yellow", "teal"));
    // The same plan makes pictures with and without a beginning.
    let plain = made(Inputs::default(), lemon);
    assert!(plain == pipeline.generate(&request(lemon)).unwrap().remove(0));
    let decibels = psnr(&apple, &pipeline.autoencode(&apple, false).unwrap());
    println!("Stage A alone: {decibels:.2} dB");
    assert!(decibels > 25.0, "{decibels} dB by Stage A alone");
}

/// Runs the program in a folder, with an empty environment.
fn cascade(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cascade-rt"));
    let output = command.args(args).current_dir(folder).env_clear().output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The command at the top of the README.
#[test]
fn the_first_command_takes_seconds() {
    let _alone = alone();
    let room = tempfile::tempdir().unwrap();
    let mut times = Vec::new();
    // Three attempts, in case another program uses the machine at the same time.
    while times.len() < 3 && times.iter().all(|time| *time > Duration::from_secs(5)) {
        let start = Instant::now();
        let output = cascade(room.path(), &["generate", APPLE, "--force"]);
        times.push(start.elapsed());
        assert_eq!(text(&output.stdout), "cascade.png\n");
        let notes = text(&output.stderr);
        let about: Vec<&str> = notes.lines().filter(|line| line.contains("demo")).collect();
        assert!(matches!(about[..], [line] if line.contains("-m")), "{notes}");
    }
    let fast = cfg!(debug_assertions) || times.iter().any(|time| *time < Duration::from_secs(5));
    assert!(fast, "the first picture took {times:?}");

    let file = room.path().join("cascade.png");
    let metadata = read_metadata(&file).unwrap();
    assert_eq!(metadata.record().unwrap().unwrap().model, "demo");
    assert_eq!((metadata.width, metadata.height), (128, 128));
    let mut reader = png::Decoder::new(BufReader::new(std::fs::File::open(file).unwrap())).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut rgb).unwrap();
    assert_eq!(seen(&Image { width: 128, height: 128, rgb }), ("red", "blue"));
}

/// The built-in model and the folder that it was made from give the same pictures and descriptions.
#[test]
fn the_built_in_model_is_like_its_folder() {
    let _alone = alone();
    let room = tempfile::tempdir().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let picture = |flags: &[&str]| {
        let args = [&["generate", APPLE, "-q", "--steps", "2,2", "-o", "-"], flags].concat();
        cascade(room.path(), &args).stdout
    };
    let built_in = picture(&[]);
    assert!(picture(&["-m", "demo"]) == built_in);
    assert!(picture(&["-m", folder.to_str().unwrap()]) == built_in);
    let inspect = |name: &str| text(&cascade(room.path(), &["inspect", name, "--tensors", "--finite"]).stdout);
    let described = inspect("demo");
    assert!(described.contains("demo: made for pictures of 128×128 px"), "{described}");
    assert!(described.contains("demo/prior/diffusion_pytorch_model.safetensors: Stage C"), "{described}");
    assert_eq!(inspect(folder.to_str().unwrap()).replace(folder.to_str().unwrap(), "demo"), described);

    // A file or folder with the name `demo` takes precedence.
    std::fs::create_dir(room.path().join("demo")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cascade-rt"));
    let output = command.args(["inspect", "demo"]).current_dir(room.path()).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("demo: Stage C weights"), "{}", text(&output.stderr));
    assert!(picture(&[]) == built_in);
}

/// Weights of int8, be they made so by `quantize` or when they are first used, show what the floats show, and the record,
/// `inspect` and the line about memory say what they are.
#[test]
fn int8_shows_the_same() {
    let _alone = alone();
    let room = tempfile::tempdir().unwrap();
    let program = |args: &[&str]| cascade(room.path(), args);
    let asked = ["generate", APPLE, "--noise", "torch-batch", "-o"];
    let generate = |file: &str, flags: &[&str]| text(&program(&[&asked[..], &[file], flags].concat()).stderr);
    let image = |file: &str| {
        let mut reader = png::Decoder::new(BufReader::new(std::fs::File::open(room.path().join(file)).unwrap()));
        reader.set_transformations(png::Transformations::EXPAND);
        let mut reader = reader.read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        Image { width: 128, height: 128, rgb }
    };
    let record = |file: &str| read_metadata(&room.path().join(file)).unwrap().record().unwrap().unwrap();

    generate("f32.png", &[]);
    let notes = generate("loaded.png", &["--dtype", "int8"]);
    assert!(notes.contains(" MiB of weights made of them") && !notes.contains("of them int8"), "{notes}");
    text(&program(&["quantize", "-o", "small"]).stdout);
    let notes = generate("stored.png", &["-m", "small"]);
    assert!(notes.contains(" of them int8) read from") && !notes.contains("made of them"), "{notes}");
    assert_eq!(["f32.png", "loaded.png", "stored.png"].map(|file| record(file).dtype), ["f32", "int8", "int8"]);

    let [exact, loaded, stored] = ["f32.png", "loaded.png", "stored.png"].map(image);
    assert!(loaded.rgb == stored.rgb, "quantized when loaded, and before");
    assert_eq!(seen(&loaded), ("red", "blue"));
    let squares = loaded.rgb.iter().zip(&exact.rgb).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let psnr = 10.0 * (255f64.powi(2) / (squares.sum::<f64>() / exact.rgb.len() as f64)).log10();
    assert!((40.0..70.0).contains(&psnr), "int8 differs from f32, but not by much: {psnr:.1} dB");
    program(&["generate", "--from", "loaded.png", "-o", "again.png"]);
    let bytes = |file: &str| std::fs::read(room.path().join(file)).unwrap();
    assert!(bytes("again.png") == bytes("loaded.png"), "made again from its record");
    // In f32 the weights of the file are what they are, and only what they are multiplied by is not rounded.
    generate("wide.png", &["-m", "small", "--dtype", "f32"]);
    assert!(
        record("wide.png").dtype == "f32"
            && image("wide.png").rgb != stored.rgb
            && seen(&image("wide.png")) == ("red", "blue")
    );

    let described = text(&program(&["inspect", "small", "--finite", "--filter", "clf.1"]).stdout);
    assert_eq!(described.matches("  I8: ").count(), 4, "{described}");
    assert!(described.contains("all weights are finite") && !described.contains("_scale"), "{described}");
    program(&["quantize", "-o", "kept", "--keep", "stage_b", "--keep", "encoder", "--keep", "attention"]);
    let described = text(&program(&["inspect", "kept", "--filter", "attention"]).stdout);
    assert_eq!(described.matches("  I8: ").count(), 1, "{described}");
    // In another layout, queries, keys and values are one tensor, and so are their factors; in another type, they are numbers.
    program(&["convert", "-m", "small", "--layout", "comfyui", "-o", "stacked"]);
    generate("stacked.png", &["-m", "stacked"]);
    assert!(image("stacked.png").rgb == stored.rgb && record("stacked.png").dtype == "int8");
    program(&["convert", "-m", "small", "--dtype", "f32", "-o", "widened"]);
    generate("widened.png", &["-m", "widened"]);
    assert!(image("widened.png").rgb == image("wide.png").rgb && record("widened.png").dtype == "f32");
    let size = |folder: &str| {
        let file = room.path().join(folder).join("prior/diffusion_pytorch_model.safetensors");
        std::fs::metadata(file).unwrap().len()
    };
    assert!(size("small") < size("kept"), "{} {}", size("small"), size("kept"));
}

/// Programs that fetch models lay them out like this; the prior is a repository of its own.
#[cfg(unix)]
#[test]
fn a_model_of_the_hubs_cache_is_found_by_its_name() {
    let _alone = alone();
    let room = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let cache = room.path().join("hub");
    for (name, parts) in [
        ("--demo", &["decoder", "vqgan", "text_encoder", "tokenizer", "model_index.json"][..]),
        ("--demo-prior", &["prior"]),
    ] {
        let folder = cache.join(format!("models--some{name}"));
        let snapshot = folder.join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::write(folder.join("refs/main"), "abc").unwrap();
        for part in parts {
            std::os::unix::fs::symlink(model.join(part), snapshot.join(part)).unwrap();
        }
    }
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cascade-rt"));
        command.current_dir(room.path()).env("HF_HUB_CACHE", &cache).env_remove("HF_ENDPOINT");
        command.args(args).output().unwrap()
    };
    let picture = |model: &[&str], file: &str| {
        let flags = ["generate", APPLE, "--device", "cpu", "--steps", "2,1", "--no-metadata", "--quiet", "-o", file];
        let output = run(&[&flags, model].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        std::fs::read(room.path().join(file)).unwrap()
    };
    let built_in = picture(&[], "built-in.png");
    let folders = ["some/demo", "hub/models--some--demo", "hub/models--some--demo/snapshots/abc"];
    for (i, model) in folders.into_iter().enumerate() {
        assert_eq!(picture(&["-m", model], &format!("{i}.png")), built_in, "{model}");
    }
    assert!(run(&["inspect", "some/demo"]).status.success());
    for args in [
        &["generate", "a", "-m", "stable-cascade"][..],
        &["inspect", "other/model"],
        &["convert", "-m", "stable-cascade", "-o", "x"],
    ] {
        let output = run(args);
        let message = text(&output.stderr);
        assert!(output.status.code() == Some(3) && message.contains("`cascade-rt pull "), "{args:?}: {message}");
    }
    #[cfg(feature = "hub")]
    {
        assert_eq!(text(&run(&["ls"]).stdout).lines().count(), 2);
        let message = text(&run(&["pull", "stable-cascade"]).stderr);
        assert!(message.contains("HF_ENDPOINT") && message.contains("-m FOLDER"), "{message}");
        assert_eq!(run(&["rm", "some/demo"]).status.code(), Some(2), "nobody was asked");
        assert!(run(&["rm", "some/demo", "--yes"]).status.success());
        assert_eq!(text(&run(&["ls"]).stdout).lines().count(), 1);
        assert!(model.join("decoder/config.json").exists(), "what links lead to stays");
    }
}
