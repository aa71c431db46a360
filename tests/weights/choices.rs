//! Which files are taken: what is there but broken is an error, and what could have been taken instead is said.

use std::fs;
use std::path::{Path, PathBuf};

use cascade_rt::error::Error;
use cascade_rt::model::Model;
use cascade_rt::weights::{ModelPaths, Overrides, Variant};
use tempfile::TempDir;

use super::{error_of, find, tiny_model};

/// A model with every file that the folder layout may have, in `root` and `root-prior`.
fn whole_model(root: &Path) -> Vec<PathBuf> {
    tiny_model(root);
    let prior = root.with_file_name("m-prior");
    fs::create_dir(&prior).unwrap();
    fs::rename(root.join("prior"), prior.join("prior")).unwrap();
    for folder in [root, &prior] {
        fs::create_dir(folder.join("scheduler")).unwrap();
        fs::write(folder.join("scheduler/scheduler_config.json"), "{}").unwrap();
        fs::write(folder.join("model_index.json"), "{}").unwrap();
    }
    let inside = |folder: &Path, names: &[&str]| names.iter().map(|name| folder.join(name)).collect::<Vec<_>>();
    let mut files = inside(
        root,
        &[
            "model_index.json",
            "scheduler",
            "scheduler/scheduler_config.json",
            "decoder",
            "decoder/config.json",
            "decoder/diffusion_pytorch_model.safetensors",
            "vqgan",
            "vqgan/config.json",
            "vqgan/diffusion_pytorch_model.safetensors",
            "text_encoder",
            "text_encoder/config.json",
            "text_encoder/model.safetensors",
            "tokenizer",
            "tokenizer/tokenizer.json",
        ],
    );
    files.extend(inside(
        &prior,
        &[
            "",
            "model_index.json",
            "scheduler",
            "scheduler/scheduler_config.json",
            "prior",
            "prior/config.json",
            "prior/diffusion_pytorch_model.safetensors",
        ],
    ));
    files
}

/// Files and folders that are preferred to those that the model has.
const PREFERRED: [&str; 8] = [
    "prior",
    "decoder/diffusion_pytorch_model.bf16.safetensors",
    "decoder/diffusion_pytorch_model.safetensors.index.bf16.json",
    "decoder/diffusion_pytorch_model.safetensors.bf16.index.json",
    "decoder/diffusion_pytorch_model.bf16.safetensors.index.json",
    "decoder/diffusion_pytorch_model.safetensors.index.json",
    "text_encoder/model.bf16.safetensors",
    "text_encoder/model.safetensors.index.bf16.json",
];

/// Removes what is at a path, which may be nothing.
fn remove(path: &Path) {
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
}

#[cfg(unix)]
#[test]
fn what_is_there_but_broken_is_an_error_that_names_it() {
    use std::os::unix::fs::symlink;
    type Break = (&'static str, fn(&Path));
    let breaks: [Break; 4] = [
        ("a link to nowhere", |path| symlink("gone", path).unwrap()),
        ("a circle of links", |path| symlink(path.file_name().unwrap(), path).unwrap()),
        ("a file for a folder, or the other way round", |path| match path.extension() {
            Some(_) => fs::create_dir(path).unwrap(),
            None => fs::write(path, "x").unwrap(),
        }),
        ("a pipe", |path| {
            let made = std::process::Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        }),
    ];
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("m");
    let files = whole_model(&root);
    assert!(error_of(Model::open_folder(&root).and_then(open_tokenizer)).contains("tokenizer.json"));
    let keep = dir.path().join("keep");
    for path in files.iter().cloned().chain(PREFERRED.map(|name| root.join(name))) {
        // The path of the prior's folder ends with a slash.
        let path: PathBuf = path.components().collect();
        let there = fs::rename(&path, &keep).is_ok();
        for (what, put) in &breaks {
            put(&path);
            let error = error_of(Model::open_folder(&root).and_then(open_tokenizer));
            assert!(error.starts_with(&path.display().to_string()), "{what} at {}: {error}", path.display());
            remove(&path);
        }
        if there {
            fs::rename(&keep, &path).unwrap();
        }
    }
}

/// The model's tokenizer is opened when it is first needed.
fn open_tokenizer(model: Model) -> Result<(), Error> {
    let config = &model.text.1;
    cascade_rt::tokenizer::Tokenizer::open(&model.tokenizer, config.max_position_embeddings, config.vocab_size)
        .map(drop)
}

/// A component's folder without its weights is no reason to take another network, or the same from elsewhere.
#[test]
fn an_incomplete_folder_is_an_error() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("m");
    whole_model(&root);
    let lite = |folder: &str| {
        fs::create_dir_all(root.join(folder)).unwrap();
        fs::write(root.join(folder).join("diffusion_pytorch_model.safetensors"), "").unwrap();
    };
    lite("decoder_lite");
    lite("prior_lite");
    for (folder, file) in [
        ("m/decoder", "diffusion_pytorch_model.safetensors"),
        ("m-prior/prior", "diffusion_pytorch_model.safetensors"),
        ("m/text_encoder", "model.safetensors"),
        ("m/vqgan", "diffusion_pytorch_model.safetensors"),
        ("m/tokenizer", "tokenizer.json"),
    ] {
        let (folder, file) = (dir.path().join(folder), dir.path().join(folder).join(file));
        let other = folder.join("pytorch_model.bin");
        fs::rename(&file, &other).unwrap();
        let error = error_of(find(&root, &Overrides::default()));
        assert!(error.starts_with(&format!("{}: ", folder.display())), "{error}");
        assert!(error.contains("pytorch_model.bin") || error.contains("tokenizer"), "{error}");
        fs::rename(&other, &file).unwrap();
    }
    find(&root, &Overrides::default()).unwrap();
}

#[test]
fn a_variant_is_chosen_and_the_others_are_said() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("m");
    tiny_model(&root);
    let put = |name: &str| {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), "").unwrap();
    };
    let stem = "diffusion_pytorch_model";
    for name in [
        "decoder/{}.bf16.safetensors",
        "decoder/{}.safetensors.index.json",
        "decoder/{}.mine.safetensors",
        "decoder_lite/{}.safetensors",
        "stage_b_bf16.safetensors",
        "stage_b_lite.safetensors",
    ] {
        put(&name.replace("{}", stem));
    }
    put("text_encoder/model.safetensors.index.json");
    let taken = |variant: Variant| -> Result<_, Error> {
        let paths = find(&root, &Overrides { variant, ..Overrides::default() })?;
        let of = |part: &str| {
            let source = paths.sources().into_iter().find(|source| source.part == part).unwrap();
            let below = |path: PathBuf| path.strip_prefix(&root).unwrap().display().to_string().replace(stem, "{}");
            (below(source.file), source.instead_of.into_iter().map(below).collect::<Vec<_>>())
        };
        Ok((of("stage_b"), of("text_encoder"), of("stage_a")))
    };
    let named = |name: &str| name.parse::<Variant>().unwrap();
    for (variant, file) in [
        (Variant::Small, "decoder/{}.bf16.safetensors"),
        // diffusers takes the index where both are there, transformers the whole file.
        (Variant::Exact, "decoder/{}.safetensors.index.json"),
        (named("none"), "decoder/{}.safetensors.index.json"),
        (named("bf16"), "decoder/{}.bf16.safetensors"),
        (named("mine"), "decoder/{}.mine.safetensors"),
    ] {
        let (stage_b, text, stage_a) = taken(variant.clone()).unwrap();
        assert_eq!(stage_b.0, file, "{variant:?}");
        let all = [
            "decoder/{}.bf16.safetensors",
            "decoder/{}.safetensors.index.json",
            "decoder/{}.safetensors",
            "decoder_lite/{}.safetensors",
            "stage_b_bf16.safetensors",
            "stage_b_lite.safetensors",
        ];
        let mut others = stage_b.1;
        others.sort();
        let mut wanted: Vec<&str> = all.into_iter().filter(|name| *name != file).collect();
        wanted.sort();
        assert_eq!(others, wanted, "{variant:?}");
        let index = vec!["text_encoder/model.safetensors.index.json".to_owned()];
        assert_eq!(text, ("text_encoder/model.safetensors".to_owned(), index));
        assert_eq!(stage_a, ("vqgan/{}.safetensors".to_owned(), vec![]));
    }
    let error = taken(named("int4")).map(drop).unwrap_err();
    assert!(error.to_string().contains("variant") && error.to_string().contains("`int4`"), "{error}");
    assert_eq!(error.exit_code(), 2);
}

/// Without a variant of this name, single files of the others are taken, in the same order.
#[test]
fn single_files_have_variants() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("m");
    tiny_model(&root);
    fs::remove_dir_all(root.join("prior")).unwrap();
    // So that these are not looked for in Stage C's file, which is empty.
    for name in ["image_encoder.safetensors", "previewer.safetensors"] {
        fs::write(root.join(name), "").unwrap();
    }
    for name in ["stage_c_lite.safetensors", "stage_c_lite_bf16.safetensors", "stage_c.safetensors"] {
        fs::write(root.join(name), "").unwrap();
        let small = find(&root, &Overrides::default()).unwrap();
        assert_eq!(small.stage_c.weights.path(), root.join(name), "the later ones are preferred");
    }
    fs::write(root.join("stage_c_bf16.safetensors"), "").unwrap();
    for (variant, name) in [(Variant::Small, "stage_c_bf16.safetensors"), (Variant::Exact, "stage_c.safetensors")] {
        let paths: ModelPaths = find(&root, &Overrides { variant, ..Overrides::default() }).unwrap();
        assert_eq!(paths.stage_c.weights.path(), root.join(name));
        assert_eq!(paths.stage_c.others.len(), 3);
    }
}
