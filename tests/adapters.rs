//! Adapters (LoRA) in every dialect, against models into which PyTorch merged them beforehand.

mod common;
#[path = "adapters/convert.rs"]
mod convert;

use std::collections::BTreeMap;
#[cfg(feature = "cli")]
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use cascade_rt::backend::wgpu::{self, Wgpu};
use cascade_rt::backend::{Backend, cuda};
use cascade_rt::registry::Caps;
use cascade_rt::synth;
use cascade_rt::{Adapter, Model, ModelPaths, NewToken, Options, Overrides, Pipeline, Request, devices};

fn fixtures() -> PathBuf {
    common::root().join("tests/fixtures")
}

fn model() -> Model {
    let file = |path: &str| Some(fixtures().join(path).into());
    let parts = Overrides {
        stage_c: file("tiny-prior/prior/diffusion_pytorch_model.safetensors"),
        stage_b: file("tiny/decoder/diffusion_pytorch_model.safetensors"),
        ..Overrides::default()
    };
    Model::open(&ModelPaths::find(Some(&fixtures().join("tiny").into()), None, &parts).unwrap()).unwrap()
}

fn pipeline_of_cpu() -> Pipeline {
    Pipeline::new(model(), devices::Choice::Cpu.open().unwrap()).unwrap()
}

fn adapter(name: &str) -> Adapter {
    Adapter::open(fixtures().join("adapters").join(name)).unwrap_or_else(|e| panic!("{e}"))
}

fn request() -> Request {
    Request {
        width: 64,
        height: 64,
        seed: 21,
        steps: (2, 1),
        negative: "fog".into(),
        ..Request::new("a red fox in the snow")
    }
}

fn stage_c(pipeline: &mut Pipeline) -> Vec<f32> {
    pipeline.prior(&request(), Options::default()).unwrap().0.stage_c.values
}

/// What PyTorch makes, in channels-last order.
fn expected() -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(fixtures().join("adapters/expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let channels_last = |view: safetensors::tensor::TensorView<'_>| {
        let values: Vec<f32> = view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let [_, c, h, w] = view.shape()[..] else { panic!("a picture or latents") };
        (0..h * w).flat_map(|pixel| (0..c).map(move |ch| ch * h * w + pixel)).map(|i| values[i]).collect()
    };
    file.tensors().into_iter().map(|(name, view)| (name, channels_last(view))).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum = |f: &dyn Fn(usize) -> f32| (0..b.len()).map(|i| f64::from(f(i)).powi(2)).sum::<f64>();
    (sum(&|i| a[i] - b[i]) / sum(&|i| b[i])).sqrt()
}

#[test]
fn every_dialect_is_what_pytorch_makes_of_merged_weights() {
    let expected = expected();
    let mut pipeline = pipeline_of_cpu();
    let base = stage_c(&mut pipeline);
    assert!(distance(&base, &expected["base.stage_c"]) < 1e-4);
    for (files, want, changes) in [
        (&[("onetrainer.safetensors", 1.0)][..], "all", 47),
        (&[("kohya.safetensors", 1.0)], "all", 47),
        (&[("original.safetensors", 1.0)], "all", 47),
        (&[("comfyui.safetensors", 1.0)], "all", 47),
        (&[("omi.safetensors", 1.0)], "all", 47),
        (&[("diffusers.safetensors", 1.0)], "all", 47),
        (&[("kohya.safetensors", 0.5)], "half", 47),
        (&[("kohya.safetensors", 1.5), ("comfyui.safetensors", -0.5)], "all", 47),
        (&[("dora_inputs.safetensors", 1.0)], "dora_inputs", 3),
        (&[("dora_outputs.safetensors", 1.0)], "dora_outputs", 3),
        (&[("stability.safetensors", 1.0)], "stability", 13),
        (&[("stability.safetensors", 1.0), ("omi.safetensors", 1.0)], "all_and_stability", 13),
        (&[("peft", 1.0)], "peft", 19),
    ] {
        let opened: Vec<_> = files.iter().map(|(name, strength)| (adapter(name), *strength)).collect();
        let given: Vec<_> = opened.iter().map(|(adapter, strength)| (adapter, *strength)).collect();
        let applied = pipeline.adapt(&given).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((applied[0].applied, &applied[0].unknown[..]), (changes, &[][..]), "{files:?}");
        let error = distance(&stage_c(&mut pipeline), &expected[&format!("{want}.stage_c")]);
        assert!(error < 1e-4, "{files:?}: {error}");
    }
    let image = pipeline.generate(&request()).unwrap().remove(0);
    let want: Vec<u8> = expected["peft.image"].iter().map(|v| (v * 255.0).round() as u8).collect();
    assert!(image.rgb.iter().zip(&want).all(|(got, want)| got.abs_diff(*want) <= 1), "the picture with PEFT's adapter");

    // Of strength 0, and after all are taken away, the model is the one it was.
    let dora = adapter("dora_inputs.safetensors");
    pipeline.adapt(&[(&adapter("kohya.safetensors"), 0.0), (&dora, 0.0)]).unwrap();
    assert_eq!(stage_c(&mut pipeline), base);
    pipeline.adapt(&[]).unwrap();
    assert_eq!(stage_c(&mut pipeline), base);
}

/// A pipeline of the tiny model that has learned the tokens of these files, and is changed by these adapters.
fn learned(tokens: &[NewToken], adapters: &[&str], backend: Box<dyn Backend>) -> Pipeline {
    let mut model = model();
    let opened: Vec<Adapter> = adapters.iter().map(|name| adapter(name)).collect();
    let bundled = opened.iter().flat_map(|adapter| adapter.new_tokens().to_vec());
    model.learn(&tokens.iter().cloned().chain(bundled).collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{e}"));
    model.adapt(&opened.iter().map(|adapter| (adapter, 1.0)).collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{e}"));
    Pipeline::new(model, backend).unwrap()
}

fn embedding(name: &str) -> Vec<NewToken> {
    NewToken::open(fixtures().join("adapters").join(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// The tokens of `retoken.safetensors`, as its configuration would name them.
fn retokened() -> Vec<NewToken> {
    vec![NewToken::named("[fernando]", Some("^fo+x?</w>|^sn")), NewToken::named("<zero>", None)]
}

const RETOKENED: &str = "a [Fernando] in the <zero> snow";

fn inverted(old_film: &str, snowy: &str) -> Request {
    let prompt = format!("a red {old_film} fox {snowy} in the snow");
    Request { negative: format!("{snowy} fog"), prompts: vec![prompt], ..request() }
}

fn latents(pipeline: &mut Pipeline, request: &Request) -> Vec<f32> {
    pipeline.prior(request, Options::default()).unwrap().0.stage_c.values
}

#[test]
fn learned_tokens_are_what_transformers_makes_of_added_rows() {
    let expected = expected();
    let cpu = || devices::Choice::Cpu.open().unwrap();
    let check = |pipeline: &mut Pipeline, request: &Request, want: &str| {
        let error = distance(&latents(pipeline, request), &expected[&format!("{want}.stage_c")]);
        assert!(error < 1e-4, "{want}, {:?}: {error}", request.prompts);
    };
    let mut bundle = learned(&embedding("snowy.safetensors"), &["bundle.safetensors"], cpu());
    for (old_film, snowy) in
        [("<old film>", "<snowy>"), ("<Old  Film>", "embedding:snowy"), ("<old film>", "embedding:snowy.safetensors")]
    {
        check(&mut bundle, &inverted(old_film, snowy), "inverted");
    }
    // A whole word only: this is another embedding's name.
    assert_eq!(bundle.tokenizer().tokens("<snowy> embedding:snowy2").unwrap()[..3], [49408, 49409, 49410]);
    assert!(bundle.tokenizer().tokens("embedding:snowy2").unwrap().iter().all(|&id| id < 49408));
    // A token of three vectors takes the place of three in a prompt that is too long.
    let long = format!("{}<snowy>", "fox ".repeat(74));
    let encoding = bundle.tokenizer().encode(&long).unwrap();
    assert_eq!((encoding.ids[75], encoding.len, encoding.cut.as_deref()), (49408, 77, Some("<snowy>")));

    let both = [embedding("learned_embeds.safetensors"), embedding("snowy.safetensors")].concat();
    let mut other = learned(&both, &[], cpu());
    let named = latents(&mut other, &inverted("<old film>", "<snowy>"));
    assert_eq!(latents(&mut other, &inverted("embedding:learned_embeds", "<snowy>")), named);

    let mut pipeline = learned(&retokened(), &["retoken.safetensors"], cpu());
    check(&mut pipeline, &Request { prompts: vec![RETOKENED.into()], ..request() }, "retokened");
    // The plain prompts of such a model are those of the model without.
    let plain = latents(&mut learned(&retokened(), &[], cpu()), &request());
    assert_eq!(plain, stage_c(&mut pipeline_of_cpu()));
}

#[test]
fn embeddings_that_do_not_fit_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let message = |tensors: &[(&str, &[usize])]| {
        let tokens = NewToken::open(file(&folder, tensors));
        tokens.and_then(|tokens| model().learn(&tokens)).expect_err("is refused").to_string()
    };
    for (tensors, part) in [
        (&[("clip_g", &[2, 20][..])][..], "vectors of 12"),
        (&[("emb_params", &[1, 768])], "vectors of 12"),
        (&[("clip_l", &[1, 12]), ("clip_g", &[1, 12])], "Stable Diffusion XL"),
        (&[("clip_g_out", &[1, 12]), ("clip_g", &[1, 12])], "an output embedding"),
        (&[("bundle_emb.<x>.clip_l", &[1, 12])], "an embedding of inputs for Stable Cascade"),
        (&[("clip_g", &[1, 1, 12])], "vectors [n, width]"),
        (&[("a", &[1, 12]), ("b", &[1, 12])], "something else"),
        (&[("lora_unet_x.lora_down.weight", &[1, 12]), ("y", &[1])], "an adapter in a dialect"),
        (&[("bundle_emb.fox</w>.clip_g", &[1, 12])], "a new token"),
        (&[("bundle_emb. x.clip_g", &[1, 12])], "a new token"),
    ] {
        let message = message(tensors);
        assert!(message.contains(part), "{tensors:?}: {message}");
    }
    let refused = |tokens: &[NewToken]| model().learn(tokens).unwrap_err().to_string();
    let snowy = embedding("snowy.safetensors");
    assert!(refused(&[snowy.clone(), snowy].concat()).contains("in use"));
    assert!(refused(&[NewToken::named("<x>", Some("("))]).contains("a regular expression"));
    assert!(refused(&[NewToken::named("<x>", Some("^nothing at all$"))]).contains("matches tokens of the vocabulary"));
    let error = model().adapt(&[(&adapter("retoken.safetensors"), 1.0)]).unwrap_err().to_string();
    assert!(error.contains("49408, a new token"), "{error}");
}

/// What adapters and new tokens change is the same on every kind of device, whose kernels for it are others.
#[test]
fn other_devices_make_the_same() {
    let expected = expected();
    for open in devices_besides_the_cpu() {
        let name = open().device().name.clone();
        let check = |tokens: &[NewToken], adapters: &[&str], request: &Request, want: &str| {
            let mut pipeline = learned(tokens, adapters, open());
            let error = distance(&latents(&mut pipeline, request), &expected[&format!("{want}.stage_c")]);
            assert!(error < 1e-4, "{want} on {name}: {error}");
        };
        check(&[], &["kohya.safetensors"], &request(), "all");
        check(&[], &["peft"], &request(), "peft");
        check(&[], &["stability.safetensors", "omi.safetensors"], &request(), "all_and_stability");
        check(&embedding("snowy.safetensors"), &["bundle.safetensors"], &inverted("<old film>", "<snowy>"), "inverted");
        check(
            &retokened(),
            &["retoken.safetensors"],
            &Request { prompts: vec![RETOKENED.into()], ..request() },
            "retokened",
        );
    }
}

/// One device of each kind that this machine has, besides the CPU.
fn devices_besides_the_cpu() -> Vec<fn() -> Box<dyn Backend>> {
    let mut all: Vec<fn() -> Box<dyn Backend>> = Vec::new();
    if wgpu::adapters().is_empty() {
        assert!(!common::required("wgpu"), "no adapter for wgpu");
    } else {
        all.push(|| Box::new(Wgpu::open(0, false, None).unwrap()));
    }
    if !cuda::usable().is_empty() {
        all.push(|| cuda::open(cuda::usable()[0].0, false).unwrap());
    } else if cuda::emulated(Caps::NONE, false).is_some() {
        all.push(|| cuda::emulated(Caps::NONE, false).unwrap());
    } else {
        assert!(!common::required("cuda-emu"), "no emulated GPU");
    }
    all
}

/// A file with these tensors, all of them f32 and 1.
fn file(folder: &tempfile::TempDir, tensors: &[(&str, &[usize])]) -> PathBuf {
    let ones = bytemuck::cast_slice::<f32, u8>(&[1.0; 4096]);
    let view = |dims: &[usize]| {
        let bytes = &ones[..4 * dims.iter().product::<usize>()];
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, dims.to_vec(), bytes).unwrap()
    };
    let path = folder.path().join("file.safetensors");
    safetensors::serialize_to_file(tensors.iter().map(|(name, dims)| (*name, view(dims))), None, &path).unwrap();
    path
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = model();
    let q = "lora_prior_unet_down_blocks_0_2_attention_attn_to_q";
    let [down, up, alpha, dora] =
        [".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale"].map(|end| format!("{q}{end}"));
    let mut message = |tensors: &[(&str, &[usize])]| {
        let adapter = Adapter::open(file(&folder, tensors));
        adapter.and_then(|adapter| model.adapt(&[(&adapter, 1.0)])).expect_err("is refused").to_string()
    };
    for (tensors, part) in [
        (&[(&down[..], &[2, 20][..])][..], "no second one"),
        (&[(&up[..], &[20, 2])], "no first one"),
        (&[(&down, &[2, 20]), (&up, &[20, 3])], "factors [rank, inputs] and [outputs, rank]"),
        (&[(&down, &[2, 24]), (&up, &[20, 2])], "a change of `down_blocks.0.2.attention.to_q.weight` [20, 20]"),
        (&[(&down, &[2, 20]), (&up, &[24, 2])], "factors of rank 2 for [24, 20]"),
        (&[(&down, &[40]), (&up, &[20, 2])], "two dimensions at least"),
        (&[(&down, &[2, 20]), (&up, &[20, 2]), (&dora, &[7])], "20 magnitudes"),
        (&[(&down, &[2, 20]), (&up, &[20, 2]), (&alpha, &[0])], "alpha"),
        (&[("embeddings.indices", &[2])], "together"),
        (&[("embeddings.indices", &[2]), ("embeddings.embeddings", &[2, 12])], "whole numbers"),
        (&[("weights.99.lora_down", &[1, 20]), ("weights.99.lora_up", &[20, 1])], "changes tensors of this model"),
        (
            &[
                ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", &[1, 20]),
                ("transformer.single_transformer_blocks.0.attn.to_q.lora_B.weight", &[20, 1]),
            ],
            "Flux",
        ),
        (
            &[
                ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", &[1, 20]),
                ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", &[20, 1]),
            ],
            "Stable Diffusion XL",
        ),
        (
            &[
                ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", &[1, 20]),
                ("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight", &[20, 1]),
            ],
            "Stable Diffusion (1.5",
        ),
        (&[("down_blocks.0.0.depthwise.weight", &[20, 1, 3, 3])], "a whole Stage B or C"),
        (&[("something", &[1])], "something else (with `something`)"),
    ] {
        let message = message(tensors);
        assert!(message.contains(part) && message.contains("file.safetensors"), "{tensors:?}: {message}");
    }

    // What one file has besides is said, and the rest is used.
    let other = "lora_prior_unet_down_blocks_0_7_attention_attn_to_q";
    let [other_down, other_up] = [".lora_down.weight", ".lora_up.weight"].map(|end| format!("{other}{end}"));
    let all: &[(&str, &[usize])] =
        &[(&down, &[2, 20]), (&up, &[20, 2]), (&other_down, &[2, 20]), (&other_up, &[20, 2]), ("notes", &[1])];
    let adapter = Adapter::open(file(&folder, all)).unwrap();
    let applied = model.adapt(&[(&adapter, 1.0)]).unwrap().remove(0);
    assert_eq!((applied.applied, applied.unknown), (1, vec!["notes".to_owned(), other.to_owned()]));
}

#[test]
fn numbers_that_are_not_finite_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let nan = [f32::NAN; 40];
    let view = |dims: [usize; 2]| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, dims.to_vec(), bytemuck::cast_slice(&nan))
            .unwrap()
    };
    let path = folder.path().join("nan.safetensors");
    let q = "prior.down_blocks.0.2.attention.to_q";
    let tensors = [(format!("{q}.lora_A.weight"), view([2, 20])), (format!("{q}.lora_B.weight"), view([20, 2]))];
    safetensors::serialize_to_file(tensors, None, &path).unwrap();
    let error = Adapter::open(path).unwrap_err().to_string();
    assert!(error.contains("NaN or infinity"), "{error}");
}

#[cfg(feature = "cli")]
#[test]
fn a_picture_is_made_again_with_its_adapters() {
    let room = tempfile::tempdir().unwrap();
    let path = |name: &str| fixtures().join(name).display().to_string();
    let lora = path("adapters/kohya.safetensors");
    fs::copy(&lora, room.path().join("style.safetensors")).unwrap();
    let model = ["-m", &path("tiny"), "--prior", &path("tiny-prior"), "--device", "cpu"].map(str::to_owned);
    let run = |args: &[&str]| {
        let mut program = common::program();
        let output = program.current_dir(room.path()).arg("generate").args(&model).args(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let bytes = |name: &str| fs::read(room.path().join(name)).unwrap();
    let prompt = "a (red:1.4) fox <snowy> in the [snow] <lora:style:-0.5>";
    let small = ["-W", "64", "-H", "64", "--steps", "2,1", "-n", "(fog)", "--prompt-syntax", "webui"];
    let (strong, snowy) = (format!("{lora}:0.7"), path("adapters/snowy.safetensors"));
    let changed = ["--lora", &strong, "--embedding", &snowy];
    let tagged = [&["--lora-dir", "."][..], &changed].concat();
    let (code, text) = run(&[&[prompt, "-s", "5", "-c", "2", "-o", "a.png"][..], &small, &tagged].concat());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("style.safetensors, strength -0.5, 47 of 47"), "{text}");

    // The record has the prompt without its tags, so what they asked for is given by flags.
    let again = [&changed[..], &["--lora", "style.safetensors:-0.5"]].concat();
    let (code, text) = run(&[&["--from", "a-2.png", "-o", "again.png"][..], &again].concat());
    assert_eq!(code, Some(0), "{text}");
    assert!(bytes("again.png") == bytes("a-2.png"), "a picture with adapters and weights in its prompt, made again");
    for lacking in [&again[..2], &again[2..], &changed[..]] {
        let (code, text) = run(&[&["--from", "a-2.png", "-o", "other.png"][..], lacking].concat());
        assert!(
            code == Some(2) && text.contains("kohya.safetensors:0.7") && text.contains("snowy"),
            "{lacking:?}: {text}"
        );
    }
    let (code, text) = run(&["<zero>", "-o", "b.png", "--lora", &path("adapters/retoken.safetensors")]);
    assert!(code == Some(3) && text.contains("a new token, whose name and beginning --token says"), "{text}");
}

/// How long it takes to change an adapter of all attention layers of the 3.6 B network, where that is loaded; SPEED.md has the
/// result: `cargo test --release --test adapters -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn time_of_a_change() {
    const RANK: usize = 16;
    let model = synth::in_memory(synth::Preset::Large).unwrap();
    let names: Vec<String> = model
        .stage_c
        .0
        .names()
        .filter(|name| name.contains(".attention.to_") && name.ends_with(".weight"))
        .map(str::to_owned)
        .collect();
    let width = model.stage_c.1.block_out_channels[0];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let values: Vec<f32> = (0..RANK * width).map(|i| ((i * 37 % 101) as f32 - 50.0) * 1e-4).collect();
    let view = |dims: [usize; 2]| {
        safetensors::tensor::TensorView::new(safetensors::Dtype::F32, dims.to_vec(), bytemuck::cast_slice(&values))
            .unwrap()
    };
    let factors = |name: &String| {
        let module = name.trim_end_matches(".weight");
        [
            (format!("prior.{module}.lora_A.weight"), view([RANK, width])),
            (format!("prior.{module}.lora_B.weight"), view([width, RANK])),
        ]
    };
    safetensors::serialize_to_file(names.iter().flat_map(factors), None, &path).unwrap();
    let adapter = Adapter::open(&path).unwrap();
    let mut pipeline = Pipeline::new(model, devices::Choice::Cpu.open().unwrap()).unwrap();
    let request = Request { steps: (1, 1), guidance: (1.0, 0.0), ..request() };
    pipeline.prior(&request, Options::default()).unwrap();
    for round in 0..5 {
        let start = Instant::now();
        pipeline.adapt(&[(&adapter, 0.5 + 0.1 * round as f32)]).unwrap();
        let adapted = start.elapsed();
        let (_, times) = pipeline.prior(&request, Options::default()).unwrap();
        println!("{} tensors: adapt {adapted:.3?}, plan {:.3?}", names.len(), times.plan);
    }
    // The other way: copies of all tensors that are touched, with the change added.
    let start = Instant::now();
    let merged: usize = names.iter().map(|name| pipeline.model().stage_c.0.changed(name).unwrap().dims[0]).sum();
    println!("{merged} rows merged into copies in {:.3?}", start.elapsed());
}
