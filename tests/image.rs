//! Whole pictures from the program, compared tensor by tensor with the fixtures that diffusers
//! computed for the same requests.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Output;

use cascade_rt::backend::devices;
use common::relative_l2;
use safetensors::SafeTensors;
use serde_json::Value;

fn fixtures() -> PathBuf {
    common::root().join("tests/fixtures")
}

fn cascade(args: &[&str]) -> Output {
    common::program().args(args).output().unwrap()
}

fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| data.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    file.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), values(view.data())))).collect()
}

/// The flags for the request of `case` on `device`.
fn flags(case: &Value, device: &str, dir: &Path) -> Vec<String> {
    let text = |key: &str| case[key].as_str().unwrap_or_default().to_owned();
    let pair = |key: &str| format!("{},{}", case[key][0], case[key][1]);
    let prompts: Vec<&str> = case["prompts"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    let mut flags: Vec<String> = match prompts[..] {
        [prompt] => vec!["generate".into(), prompt.into()],
        _ => {
            let file = dir.join("prompts.txt");
            std::fs::write(&file, prompts.join("\n")).unwrap();
            vec!["generate".into(), "--prompts".into(), file.display().to_string()]
        }
    };
    let mut flag = |name: &str, value: String| flags.extend([format!("--{name}"), value]);
    flag("negative", text("negative"));
    flag("width", case["width"].to_string());
    flag("height", case["height"].to_string());
    flag("seed", case["seed"].to_string());
    flag("steps", pair("steps"));
    flag("guidance", pair("guidance"));
    flag("count", case["count"].to_string());
    // The fixtures were made with one generator for all pictures.
    flag("noise", text("noise").replace("torch", "torch-batch"));
    flag("device", device.into());
    flag("output", dir.join("out.png").display().to_string());
    flag("dump", dir.join("dump.safetensors").display().to_string());
    for image in case["images"].as_array().into_iter().flatten() {
        flag("image", fixtures().join("pipeline").join(image.as_str().unwrap()).display().to_string());
    }
    flags
}

/// The flags for a variant of the tiny model, which is assembled in `dir`.
fn model(variant: &str, dir: &Path) -> Vec<String> {
    let (fixtures, root) = (fixtures(), dir.join("model"));
    let whole = |_: &str| true;
    match variant {
        // The fixtures also contain bf16 files, which would be preferred, so they are not copied.
        "f32" => {
            for (from, to) in [("tiny", "model"), ("tiny-prior", "model-prior")] {
                copy(&fixtures.join(from), &dir.join(to), &|name| !name.contains(".bf16."));
            }
        }
        "bf16" => return vec!["--model".into(), fixtures.join("tiny").display().to_string()],
        // Tensors with the original names. The number of heads of tiny networks cannot be inferred, so the configs are
        // copied, too.
        "original" => {
            copy(&fixtures.join("tiny"), &root, &|name| !name.starts_with("diffusion_pytorch_model"));
            copy(&fixtures.join("tiny-prior/prior"), &root.join("prior"), &|name| name == "config.json");
            copy(&fixtures.join("tiny-original"), &root, &whole);
            for (file, part) in [("stage_a", "vqgan"), ("stage_b", "decoder"), ("stage_c", "prior")] {
                let to = root.join(part).join("diffusion_pytorch_model.safetensors");
                std::fs::rename(root.join(format!("{file}.safetensors")), to).unwrap();
            }
        }
        other => panic!("unknown variant {other}"),
    }
    vec!["--model".into(), root.display().to_string()]
}

fn copy(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let to = to.join(&name);
        if entry.path().is_dir() {
            copy(&entry.path(), &to, wanted);
        } else if wanted(&name) {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The allowed relative L2 error of an f32 pipeline. The latents of an untrained network grow with every step, and
/// rounding errors with them. For comparison, a tanh GELU instead of the exact one would change Stage C by 2.4e-4.
fn limit(tensor: &str) -> f64 {
    match tensor {
        "tokens" => 0.0,
        "text_states" | "text_pooled" => 1e-5,
        _ => 1e-4,
    }
}

fn check(name: &str, device: &str, got: &Path, want: &Path, prompts: usize) {
    let (got, want) = (tensors(got), tensors(want));
    let (mut compared, mut failures) = (0, Vec::new());
    for (tensor, (_, got)) in &got {
        let want = &want[tensor].1;
        // Fixtures contain text tensors once per prompt, dumps once per image.
        let per_prompt = tensor == "tokens" || tensor.starts_with("text_");
        let want: Vec<f32> = if per_prompt {
            let count = got.len() / want.len();
            want.chunks(want.len() / prompts).flat_map(|p| p.repeat(count)).collect()
        } else {
            want.clone()
        };
        let error = relative_l2(got, &want);
        println!("{name:28} {device:8} {tensor:12} {error:.1e}");
        if error > limit(tensor) {
            failures.push(format!("{tensor} by {error:.1e}, allowed {:.0e}", limit(tensor)));
        }
        compared += 1;
    }
    assert!(failures.is_empty(), "{name} differs on {device}: {}", failures.join("; "));
    assert_eq!(compared, 6, "{name}: expected tokens, two text tensors, two latents and the picture");
}

#[test]
fn pipelines_equal_diffusers_on_every_device() {
    let text = std::fs::read_to_string(fixtures().join("pipeline/cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let devices: Vec<String> = devices::all().iter().map(|(choice, _)| choice.to_string()).collect();
    for device in &devices {
        let mut ran = 0;
        for (name, case) in cases["cases"].as_object().unwrap() {
            if case["generators"] == "shared" {
                // The program has no option for one generator for both stages.
                continue;
            }
            compare(name, case, case["variant"].as_str().unwrap(), device);
            ran += 1;
        }
        assert!(ran >= 15, "only {ran} cases ran on {device}");
        compare("bf16_weights, original names", &cases["cases"]["bf16_weights"], "original", device);
    }
    for name in ["wgpu", "cuda"].into_iter().filter(|name| common::required(name)) {
        let found = devices.iter().any(|device| device.starts_with(name));
        assert!(found, "CASCADE_REQUIRE demands {name}, but there is no such device");
    }
}

/// On every device, the same request gives the same bytes, and no node differs from its definition.
#[test]
fn every_device_repeats_itself_and_stands_the_check() {
    for (device, _) in devices::all() {
        let dir = tempfile::tempdir().unwrap();
        let run = |name: &str, more: &[&str]| {
            let file = dir.path().join(name).display().to_string();
            let pictures = dir.path().join(format!("{name}.png")).display().to_string();
            let model = fixtures().join("tiny").display().to_string();
            let device = device.to_string();
            let base = ["generate", "a cat", "-m", &model, "-W", "128", "-H", "96", "--steps", "3,2", "-c", "2"];
            let output = cascade(&[&base[..], &["--device", &device, "--dump", &file, "-o", &pictures], more].concat());
            assert!(output.status.success(), "{device}: {}", String::from_utf8_lossy(&output.stderr));
            std::fs::read(file).unwrap()
        };
        assert!(run("first", &[]) == run("second", &[]), "{device} is not deterministic");
        run("checked", &["--check-nodes"]);
    }
}

/// `encode --image` writes the embeddings that `generate --image` computes, and they equal transformers'.
#[test]
fn embeddings_of_pictures_are_image_prompts() {
    let dir = tempfile::tempdir().unwrap();
    let case = "image_prompts_and_text";
    let picture = |name: &str| fixtures().join("pipeline").join(name).display().to_string();
    let model = fixtures().join("tiny").display().to_string();
    let [file, png] = ["e.safetensors", "out.png"].map(|name| dir.path().join(name).display().to_string());
    for (device, _) in devices::all() {
        let device = device.to_string();
        let base = ["encode", "-m", &model, "--device", &device, "-o", &file, "--force"];
        let output =
            cascade(&[&base[..], &["--image", &picture("wide.png"), "--image", &picture("tall.png")]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let got = &tensors(Path::new(&file))["image_embeds"];
        let want = &tensors(&fixtures().join("pipeline").join(format!("{case}.safetensors")))["image_embeds"];
        assert_eq!(got.0, want.0);
        let error = relative_l2(&got.1, &want.1);
        assert!(error <= 1e-5, "embeddings differ by {error:.1e} on {device}");

        let pictured = |images: &[&str]| {
            let base = ["generate", "a fox", "-m", &model, "--device", &device, "-o", &png, "--force"];
            let small = ["-W", "64", "-H", "64", "--steps", "2,1", "-q"];
            let output = cascade(&[&base[..], &small, images].concat());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            std::fs::read(&png).unwrap()
        };
        let pixels = |images: &[&str]| {
            pictured(images);
            let mut reader = png::Decoder::new(BufReader::new(File::open(&png).unwrap())).read_info().unwrap();
            let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut rgb).unwrap();
            rgb
        };
        let two = pixels(&["--image", &picture("wide.png"), "--image", &picture("tall.png")]);
        assert!(pixels(&["--image", &file]) == two, "the same from a file, on {device}");
        let without = pixels(&[]);
        assert!(two != without, "image prompts matter");
        let weightless = format!("{}:0", picture("wide.png"));
        assert!(pixels(&["--image", &weightless]) == without, "at weight 0 a picture is none");
        let half = format!("{}:0.5", picture("wide.png"));
        assert!(pixels(&["--image", &half]) != pixels(&["--image", &picture("wide.png")]), "weights matter");
    }
}

#[test]
fn image_prompts_that_cannot_be_used_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let picture = fixtures().join("pipeline/wide.png").display().to_string();
    let error = |args: &[&str], code: i32| {
        let png = dir.path().join("out.png").display().to_string();
        let output = cascade(&[&["generate", "a fox", "-o", &png, "--device", "cpu"], args].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        error
    };
    // A model without the image encoder.
    let model = dir.path().join("model");
    copy(&fixtures().join("tiny"), &model, &|_| true);
    copy(&fixtures().join("tiny-prior/prior"), &model.join("prior"), &|_| true);
    let model = model.display().to_string();
    let message = error(&["-m", &model, "--image", &picture], 3);
    let wanted = "image encoder weights (image_encoder/model[.bf16|.fp16].safetensors";
    assert!(message.contains(wanted) && message.contains("set its file with --image-encoder"), "{message}");
    let encoder = fixtures().join("tiny-prior/image_encoder").display().to_string();
    let png = dir.path().join("given.png").display().to_string();
    let small = ["-W", "64", "-H", "64", "--steps", "1,1"];
    let args = ["generate", "-m", &model, "--image-encoder", &encoder, "--image", &picture, "-o", &png];
    let output = cascade(&[&args[..], &small].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let tiny = fixtures().join("tiny").display().to_string();
    let text = dir.path().join("text.png");
    std::fs::write(&text, "no picture").unwrap();
    assert!(error(&["-m", &tiny, "--image", &text.display().to_string()], 2).contains("expected a PNG, JPEG or WebP"));
    assert!(error(&["-m", &tiny, "--image", "none.png"], 7).contains("none.png: cannot read"));
    assert!(error(&["-m", &tiny, "--image", &format!("{picture}:99")], 2).contains("a weight from -10 to 10"));
    let case = fixtures().join("pipeline/guided.safetensors").display().to_string();
    assert!(error(&["-m", &tiny, "--image", &case], 3).contains("a tensor `image_embeds`"));
}

/// Runs a case with a variant of the model and compares its tensors and files.
fn compare(name: &str, case: &Value, variant: &str, device: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut args = flags(case, device, dir.path());
    args.extend(model(variant, dir.path()));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = cascade(&args);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let want = fixtures().join("pipeline").join(case["file"].as_str().unwrap());
    let dump = dir.path().join("dump.safetensors");
    check(name, device, &dump, &want, case["prompts"].as_array().unwrap().len());
    // The pixels of the files must be the dumped ones, rounded.
    let files = String::from_utf8(output.stdout).unwrap();
    let (dims, pictures) = &tensors(&dump)["image"];
    assert_eq!(files.lines().count(), dims[0], "{name}: {files}");
    let pixels = dims[2] * dims[3];
    for (file, picture) in files.lines().zip(pictures.chunks(3 * pixels)) {
        let mut reader = png::Decoder::new(BufReader::new(File::open(file).unwrap())).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        let want = |i: usize| (picture[i % 3 * pixels + i / 3] * 255.0).round_ties_even() as u8;
        assert!(rgb.iter().enumerate().all(|(i, v)| *v == want(i)), "{name}: {file} differs from the dumped image");
    }
}
