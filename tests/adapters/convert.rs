//! Models that are written anew: in other layouts and types, mixed, with adapters merged in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cascade_rt::convert::Networks;
use cascade_rt::net::config::StageAConfig;
use cascade_rt::weights::{Checkpoint, Layout, NetworkKind};
use cascade_rt::{Model, ModelPaths, Overrides, Pipeline, devices};
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use super::{common, distance, expected, fixtures, request, stage_c};

/// The tiny model's files, with the U-Nets in f32.
fn tiny() -> ModelPaths {
    let prior = fixtures().join("tiny-prior");
    let variant = "none".parse().unwrap();
    let parts = Overrides { variant, ..Overrides::default() };
    ModelPaths::find(Some(&fixtures().join("tiny").into()), Some(&prior.into()), &parts).unwrap()
}

/// Writes a model folder.
fn write(networks: &Networks, layout: Layout, dtype: Option<Dtype>, folder: &Path) {
    for file in networks.files(layout, dtype).unwrap() {
        let path = folder.join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut out = fs::File::create(path).unwrap();
        file.write(networks, &mut out, &|e| panic!("{e}"), &|| Ok(())).unwrap();
    }
}

/// Writes what one file holds.
fn one(from: &Path, layout: Layout, dtype: Option<Dtype>) -> Vec<u8> {
    let networks = Networks::of_file(&from.into()).unwrap();
    let mut bytes = Vec::new();
    let file = networks.file(layout, dtype).unwrap();
    file.write(&networks, &mut bytes, &|e| panic!("{e}"), &|| Ok(())).unwrap();
    bytes
}

fn find(folder: &Path) -> ModelPaths {
    ModelPaths::find(Some(&folder.into()), None, &Overrides::default()).unwrap()
}

/// Stage C's latents and the picture of a model.
fn made(paths: &ModelPaths) -> (Vec<f32>, Vec<u8>) {
    let mut pipeline = Pipeline::new(Model::open(paths).unwrap(), devices::Choice::Cpu.open().unwrap()).unwrap();
    let latents = stage_c(&mut pipeline);
    (latents, pipeline.generate(&request()).unwrap().remove(0).rgb)
}

/// Files below a folder, by their paths in `root`, with their contents.
fn contents(folder: &Path, root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(contents(&path, root)),
            false => all.push((path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap())),
        }
    }
    all.sort();
    all
}

#[test]
fn every_layout_leads_back_and_makes_the_same_picture() {
    let room = TempDir::new().unwrap();
    let first = room.path().join("first");
    let networks = Networks::of_model(&tiny()).unwrap();
    assert_eq!(networks.layout(), Layout::Diffusers);
    write(&networks, Layout::Diffusers, None, &first);
    for (ours, theirs) in [
        ("prior/diffusion_pytorch_model.safetensors", "tiny-prior/prior/diffusion_pytorch_model.safetensors"),
        ("decoder/diffusion_pytorch_model.safetensors", "tiny/decoder/diffusion_pytorch_model.safetensors"),
        ("vqgan/diffusion_pytorch_model.safetensors", "tiny/vqgan/diffusion_pytorch_model.safetensors"),
        ("text_encoder/model.safetensors", "tiny/text_encoder/model.safetensors"),
        ("image_encoder/model.safetensors", "tiny-prior/image_encoder/model.safetensors"),
        ("prior/config.json", "tiny-prior/prior/config.json"),
        ("tokenizer/merges.txt", "tiny/tokenizer/merges.txt"),
    ] {
        assert!(fs::read(first.join(ours)).unwrap() == fs::read(fixtures().join(theirs)).unwrap(), "{ours}");
    }
    let wanted = made(&tiny());
    assert!(made(&find(&first)) == wanted);
    let mut from = first.clone();
    for (layout, name) in [(Layout::Original, "original"), (Layout::Comfyui, "comfyui"), (Layout::Diffusers, "again")] {
        let to = room.path().join(name);
        write(&Networks::of_model(&find(&from)).unwrap(), layout, None, &to);
        assert!(made(&find(&to)) == wanted, "{name}");
        assert_eq!(Networks::of_model(&find(&to)).unwrap().layout(), layout);
        from = to;
    }
    // Stage A shows its sizes, so its configuration is written anew.
    let config = "vqgan/config.json";
    let sizes = |folder: &Path| StageAConfig::read(folder.join(config)).unwrap();
    assert_eq!(sizes(&from), sizes(&first));
    let (before, after) = (contents(&first, &first), contents(&from, &from));
    for ((path, bytes), (other, others)) in before.iter().zip(&after) {
        assert!(
            path == other && (bytes == others || path == Path::new(config)),
            "{path:?} and {other:?} after three conversions"
        );
    }
    assert_eq!(before.len(), after.len());
}

#[test]
fn files_are_what_pytorch_converts_them_to() {
    let tensors = |bytes: &[u8]| {
        let file = SafeTensors::deserialize(bytes).unwrap();
        let mut all: Vec<_> = file
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, view.dtype(), view.shape().to_vec(), view.data().to_vec()))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    for (from, to) in [
        ("tiny-prior/prior/diffusion_pytorch_model.bf16.safetensors", "tiny-original/stage_c.safetensors"),
        ("tiny/decoder/diffusion_pytorch_model.bf16.safetensors", "tiny-original/stage_b.safetensors"),
        ("tiny/vqgan/diffusion_pytorch_model.safetensors", "tiny-original/stage_a.safetensors"),
    ] {
        let (diffusers, original) = (fixtures().join(from), fixtures().join(to));
        assert!(tensors(&one(&diffusers, Layout::Original, None)) == tensors(&fs::read(&original).unwrap()), "{to}");
        assert!(one(&original, Layout::Diffusers, None) == fs::read(&diffusers).unwrap(), "{from}");
        let combined = TempDir::new().unwrap();
        let comfyui = combined.path().join("c.safetensors");
        fs::write(&comfyui, one(&diffusers, Layout::Comfyui, None)).unwrap();
        assert!(one(&comfyui, Layout::Diffusers, None) == fs::read(&diffusers).unwrap(), "{from} from ComfyUI's");
    }
    for folder in ["tiny-prior/prior", "tiny/decoder"] {
        let [exact, rounded] =
            ["", ".bf16"].map(|v| fixtures().join(format!("{folder}/diffusion_pytorch_model{v}.safetensors")));
        assert!(one(&exact, Layout::Diffusers, Some(Dtype::BF16)) == fs::read(rounded).unwrap(), "{folder} in bf16");
    }
}

#[test]
fn what_does_not_fit_a_type_is_named() {
    let room = TempDir::new().unwrap();
    let path = room.path().join("large.safetensors");
    let write = |value: f32| {
        let bytes = [1.0f32, -2.5, value].map(f32::to_le_bytes).concat();
        let count = 7i64.to_le_bytes();
        let view =
            |dtype, dims: &[usize], bytes| safetensors::tensor::TensorView::new(dtype, dims.to_vec(), bytes).unwrap();
        let all = [
            ("vquantizer.codebook.weight", view(Dtype::F32, &[3, 1], &bytes)),
            ("encoder.num_batches_tracked", view(Dtype::I64, &[], &count)),
        ];
        safetensors::serialize_to_file(all, None, &path).unwrap();
    };
    write(65504.0);
    let bytes = one(&path, Layout::Diffusers, Some(Dtype::F16));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let codes = file.tensor("vquantizer.embedding.weight").unwrap();
    assert_eq!((codes.dtype(), codes.data()), (Dtype::F16, &[0x00, 0x3c, 0x00, 0xc1, 0xff, 0x7b][..]));
    let counter = file.tensor("encoder.num_batches_tracked").unwrap();
    assert_eq!((counter.dtype(), counter.data()), (Dtype::I64, &7i64.to_le_bytes()[..]));
    for (value, dtype) in [(65536.0, Dtype::F16), (-1e30, Dtype::F16), (f32::MAX, Dtype::BF16)] {
        write(value);
        let networks = Networks::of_file(&path.as_path().into()).unwrap();
        let file = networks.file(Layout::Diffusers, Some(dtype)).unwrap();
        let error = file.write(&networks, &mut Vec::new(), &|e| panic!("{e}"), &|| Ok(())).unwrap_err().to_string();
        let named =
            error.contains("`vquantizer.embedding.weight`") && error.contains(&format!("the range of {dtype:?}"));
        assert!(named, "{error}");
    }
}

#[test]
fn merged_models_are_what_pytorch_merges() {
    let room = TempDir::new().unwrap();
    let expected = expected();
    let merged = |files: &[(&str, f32)], name: &str| {
        let mut networks = Networks::of_model(&tiny()).unwrap();
        let opened: Vec<_> = files.iter().map(|(file, strength)| (super::adapter(file), *strength)).collect();
        networks.adapt(&opened.iter().map(|(adapter, strength)| (adapter, *strength)).collect::<Vec<_>>()).unwrap();
        let folder = room.path().join(name);
        write(&networks, Layout::Diffusers, Some(Dtype::F32), &folder);
        folder
    };
    for (files, want) in [
        (&[("kohya.safetensors", 1.0)][..], "all"),
        (&[("dora_inputs.safetensors", 1.0)], "dora_inputs"),
        (&[("peft", 1.0)], "peft"),
        (&[("stability.safetensors", 1.0), ("omi.safetensors", 1.0)], "all_and_stability"),
    ] {
        let (latents, picture) = made(&find(&merged(files, want)));
        let error = distance(&latents, &expected[&format!("{want}.stage_c")]);
        assert!(error < 1e-4, "{want}: {error}");
        let image: Vec<u8> = expected[&format!("{want}.image")].iter().map(|v| (v * 255.0).round() as u8).collect();
        assert!(picture.iter().zip(&image).all(|(got, want)| got.abs_diff(*want) <= 1), "the picture of {want}");
    }

    // Half of the model and half of the one with an adapter is the model with the adapter at half its strength.
    let other = || Networks::of_model(&find(&room.path().join("all"))).unwrap();
    for (ratio, want) in [(0.0, "base"), (0.5, "half"), (1.0, "all")] {
        let mut mixed = Networks::of_model(&tiny()).unwrap();
        assert_eq!(mixed.mix(other(), ratio).unwrap(), []);
        let folder = room.path().join(format!("mixed-{ratio}"));
        write(&mixed, Layout::Original, Some(Dtype::F32), &folder);
        let error = distance(&made(&find(&folder)).0, &expected[&format!("{want}.stage_c")]);
        assert!(error < 1e-4, "{ratio}: {error}");
    }

    // Single files, of which one has more networks than the other.
    let mut mixed = Networks::of_model(&tiny()).unwrap();
    let stage_c = room.path().join("all/prior/diffusion_pytorch_model.safetensors");
    let kept = mixed.mix(Networks::of_file(&stage_c.as_path().into()).unwrap(), 0.5).unwrap();
    assert_eq!(kept.len(), 4);
    assert!(!kept.contains(&NetworkKind::StageC));
    let message = |a: &str, b: &str| {
        let open = |path: &str| Networks::of_file(&fixtures().join(path).as_path().into()).unwrap();
        open(a).mix(open(b), 0.5).unwrap_err().to_string()
    };
    let (c, a) = ("tiny-original/stage_c.safetensors", "tiny-original/stage_a.safetensors");
    assert!(message(c, a).contains("found Stage A"), "{}", message(c, a));
    let error = Networks::of_file(&fixtures().join("adapters/kohya.safetensors").as_path().into()).err().unwrap();
    assert!(error.to_string().contains("found a LoRA"), "{error}");
}

#[test]
fn networks_of_different_sizes_are_not_mixed() {
    let room = TempDir::new().unwrap();
    let file = |name: &str, extra: &str, rows: usize| {
        let ones = bytemuck::cast_slice::<f32, u8>(&[1.0; 64]);
        let view = |dims: &[usize]| {
            safetensors::tensor::TensorView::new(Dtype::F32, dims.to_vec(), &ones[..4 * dims.iter().product::<usize>()])
                .unwrap()
        };
        let all = [("vquantizer.codebook.weight", view(&[rows, 2])), (extra, view(&[2]))];
        let path = room.path().join(name);
        safetensors::serialize_to_file(all, None, &path).unwrap();
        Networks::of_file(&path.as_path().into()).unwrap()
    };
    for (extra, rows, found) in [("in_block.1.bias", 4, "[4, 2]"), ("in_block.2.bias", 3, "found nothing")] {
        let error = file("a", "in_block.1.bias", 3).mix(file("b", extra, rows), 0.5).unwrap_err().to_string();
        assert!(error.contains(found) && error.contains(&room.path().join("b").display().to_string()), "{error}");
    }
}

/// Runs the program; its exit code and what it said.
#[cfg(feature = "cli")]
fn run(program: &mut Command) -> (i32, String) {
    let output = program.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

#[cfg(feature = "cli")]
#[test]
fn outputs_replace_nothing_that_is_read() {
    let room = TempDir::new().unwrap();
    let at = |name: &str| room.path().join(name);
    fs::copy(fixtures().join("tiny-original/stage_c.safetensors"), at("a.safetensors")).unwrap();
    fs::hard_link(at("a.safetensors"), at("same.safetensors")).unwrap();
    let before = fs::read(at("a.safetensors")).unwrap();
    let call = |args: &[&str]| run(common::program().current_dir(room.path()).args(args));
    for (args, code, words) in [
        (&["convert", "-m", "a.safetensors", "-o", "a.safetensors"][..], 2, "a new file"),
        (&["convert", "-m", "a.safetensors", "-o", "a.safetensors", "--force"], 2, "files that this run does not read"),
        (&["convert", "-m", "a.safetensors", "-o", "same.safetensors", "--force"], 2, "which is"),
        (&["convert", "-m", "a.safetensors", "-o", "b"], 2, "ends in .safetensors"),
        (&["convert", "-m", "a.safetensors", "-o", "b.safetensors", "--dtype", "f8"], 2, "f32, bf16 or f16"),
        (&["convert", "-m", "gone.safetensors", "-o", "b.safetensors"], 3, "not found"),
        (&["merge", "a.safetensors", "same.safetensors", "-o", "b.safetensors"], 2, "--ratio"),
        (&["merge", "a.safetensors", "same.safetensors", "--ratio", "1.5", "-o", "b.safetensors"], 2, "from 0 to 1"),
        (&["merge", "-o", "b.safetensors"], 2, "--lora"),
        (&["merge", "--lora", "x", "-o", "b.safetensors"], 2, "--model"),
    ] {
        let (found, text) = call(args);
        assert!(found == code && text.contains(words), "{args:?}: {found}, {text}");
        assert!(fs::read(at("a.safetensors")).unwrap() == before && !at("b.safetensors").exists(), "{args:?}");
    }
    let (code, text) = call(&["merge", "a.safetensors", "same.safetensors", "--ratio", "0.5", "-o", "b.safetensors"]);
    assert!(code == 0 && text.contains("b.safetensors"), "{text}");
    let (code, text) = call(&[
        "merge",
        "-m",
        "b.safetensors",
        "--lora",
        &fixtures().join("adapters/kohya.safetensors").display().to_string(),
        "-o",
        "c.safetensors",
        "--layout",
        "comfyui",
    ]);
    assert!(code == 0 && text.contains("38 of 47 changes applied") && text.contains("lora_te_"), "{text}");
    let merged = Checkpoint::open_as(at("c.safetensors"), NetworkKind::StageC).unwrap();
    assert!(merged.stored("clf.1.weight").unwrap().name.starts_with("model.diffusion_model."));

    #[cfg(feature = "demo")]
    {
        fs::create_dir(at("full")).unwrap();
        fs::write(at("full/x"), "x").unwrap();
        let (code, text) = call(&["convert", "-m", "demo", "-o", "full"]);
        assert!(code == 2 && text.contains("a new or empty folder"), "{text}");
        let (code, text) = call(&["convert", "-m", "demo", "-o", "new/demo", "--layout", "comfyui"]);
        assert!(code == 0 && text.contains("new/demo/stable_cascade_stage_c.safetensors"), "{text}");
        let call = |model: &str, picture: &str| {
            let prompt = [
                "generate",
                "a red apple on a blue background",
                "--steps",
                "2,1",
                "--no-metadata",
                "-m",
                model,
                "-o",
                picture,
            ];
            assert_eq!(call(&prompt).0, 0);
            fs::read(at(picture)).unwrap()
        };
        assert!(call("demo", "1.png") == call("new/demo", "2.png"), "the converted demo model");
    }
}
