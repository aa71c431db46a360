//! Model files: valid, damaged and malicious ones.

#[path = "weights/choices.rs"]
mod choices;
#[path = "weights/harmless.rs"]
mod harmless;
#[path = "weights/int8.rs"]
mod int8;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cascade_rt::model::Model;
use cascade_rt::net::config::{ClipTextConfig, ClipVisionConfig, StageAConfig, UNetConfig};
use cascade_rt::net::tensors::Table;
use cascade_rt::synth::{Preset, synthesise};
use cascade_rt::weights::{Checkpoint, ModelPaths, NetworkKind, Overrides, PartFiles};
use half::bf16;
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

// ---- Files for the tests -------------------------------------------------

/// A safetensors file with this header and `data` bytes of zeros.
fn raw(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

/// Writes F32 tensors whose element `i` has the value `i`.
fn write(path: &Path, table: &[(String, Vec<usize>)]) {
    let data: BTreeMap<&str, Vec<u8>> = table
        .iter()
        .map(|(n, d)| (n.as_str(), (0..d.iter().product()).flat_map(|i: usize| (i as f32).to_le_bytes()).collect()))
        .collect();
    let views = table.iter().map(|(n, d)| (n, TensorView::new(Dtype::F32, d.clone(), &data[n.as_str()]).unwrap()));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn table(rows: &[(&str, &[usize])]) -> Table {
    rows.iter().map(|(n, d)| (n.to_string(), d.to_vec())).collect()
}

/// A Stage C of a few kilobytes. All widths differ, so that mixing two up makes a test fail.
const TINY_C: &str = r#"{"block_out_channels":[64,128],"num_attention_heads":[1,2],"down_num_layers_per_block":[1,2],
    "up_num_layers_per_block":[2,1],"conditioning_dim":24,"clip_text_in_channels":20,
    "clip_text_pooled_in_channels":12,"clip_image_in_channels":10,"switch_level":[false]}"#;

fn tiny_c(dir: &Path) -> UNetConfig {
    let path = dir.join("config.json");
    fs::write(&path, TINY_C).unwrap();
    UNetConfig::read(&path).unwrap()
}

/// Converts a table to the names of the original repository.
fn original(table: &Table) -> Table {
    let mut out = Table::new();
    for (name, dims) in table {
        if name.contains(".to_k.") || name.contains(".to_v.") {
            continue;
        }
        let mut dims = dims.clone();
        let mut name =
            name.replace(".to_out.0.", ".attn.out_proj.").replace("vquantizer.embedding", "vquantizer.codebook");
        if name.contains(".to_q.") {
            name = name.replace(".to_q.", ".attn.in_proj_");
            dims[0] *= 3;
        }
        out.push((name, dims));
    }
    out
}

fn prefixed(prefix: &str, table: &Table) -> Table {
    table.iter().map(|(n, d)| (format!("{prefix}{n}"), d.clone())).collect()
}

fn error_of<T>(result: Result<T, cascade_rt::error::Error>) -> String {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(e) => e.to_string(),
    }
}

// ---- Headers -------------------------------------------------------------

#[test]
fn damaged_and_malicious_files() {
    let good = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let one = |info: &str| raw(&format!(r#"{{"a":{info}}}"#), 8);
    let two = |a: &str, b: &str| {
        let entry = |o: &str| format!(r#"{{"dtype":"F32","shape":[1],"data_offsets":{o}}}"#);
        raw(&format!(r#"{{"a":{},"b":{}}}"#, entry(a), entry(b)), 8)
    };
    let mut long = raw(good, 8);
    long[0] = 255;
    let mut huge = raw(good, 8);
    huge[7] = 255;
    let mut cut = raw(good, 8);
    cut.pop();

    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "an empty file"),
        ("one byte", vec![1], "unknown format"),
        ("header past the end", long, "a header of 255 bytes in a file of"),
        ("huge header", huge, "at most 100000000 bytes"),
        ("no JSON", raw("{nonsense", 8), "JSON header"),
        ("two documents", raw(&format!("{good}{good}"), 8), "trailing characters"),
        ("cut", cut, "`a`: expected bytes within the file's 7 of data"),
        ("trailing garbage", raw(good, 9), "8 bytes of data, as the header says, found 9"),
        ("reversed", one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#), "found 8..0"),
        ("out of range", one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,99]}"#), "found 0..99"),
        ("negative", one(r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#), "tensor \"a\""),
        ("wrong size", one(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#), "the bytes of [3] F32, found 8"),
        ("overflow", one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#), "the bytes of"),
        ("unknown type", one(r#"{"dtype":"F33","shape":[2],"data_offsets":[0,8]}"#), "F33"),
        ("field twice", one(r#"{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}"#), "duplicate field"),
        ("overlap", two("[0,4]", "[0,4]"), "an overlap"),
        ("gap", two("[0,4]", "[5,9]").into_iter().chain([0]).collect(), "a gap"),
        (
            "name twice",
            raw(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8,
            ),
            "`a` twice",
        ),
        ("git lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n".to_vec(), "git lfs pull"),
        ("zip", b"PK\x03\x04\0\0\0\0\0\0\0\0".to_vec(), "PyTorch checkpoint (zip); convert it"),
        ("pickle", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j".to_vec(), "PyTorch checkpoint (pickle)"),
        ("gguf", b"GGUF\x03\0\0\0\0\0\0\0".to_vec(), "GGUF"),
        ("html", b"<!DOCTYPE html><html>".to_vec(), "a web page"),
    ];
    let dir = TempDir::new().unwrap();
    for (case, bytes, message) in cases {
        let path = dir.path().join("model.safetensors");
        fs::write(&path, bytes).unwrap();
        let error = Checkpoint::open(&path).err().unwrap_or_else(|| panic!("{case} was accepted"));
        assert!(error.to_string().contains(message), "{case}: {error}");
        assert!(error.to_string().contains("model.safetensors"), "{case}: {error}");
        assert_eq!(error.exit_code(), 3, "{case}: {error}");
    }
    assert!(error_of(Checkpoint::open(dir.path())).contains("a folder"));
    assert!(error_of(Checkpoint::open(dir.path().join("none.safetensors"))).contains("not found"));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, &bytes).unwrap();
        let _ = Checkpoint::open(&path);
    }

    #[test]
    fn mutated_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x");
        write(&path, &table(&[("clf.1.weight", &[16, 4, 1, 1]), ("a.attention.attn.in_proj_weight", &[6, 2]), ("n", &[3])]));
        let mut bytes = fs::read(&path).unwrap();
        for (at, value) in &edits {
            let i = at.index(bytes.len());
            bytes[i] = *value;
        }
        if edits.len() % 2 == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(all) = Checkpoint::open_all(&path) {
            for checkpoint in all {
                checkpoint.first_non_finite();
                let _ = UNetConfig::open(None, &checkpoint);
            }
        }
    }

    #[test]
    fn mutated_configs_never_panic(at in any::<prop::sample::Index>(), value in prop::sample::select(b"0123456789-[],{}\"ae.".to_vec())) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("config.json");
        let mut bytes = TINY_C.as_bytes().to_vec();
        let i = at.index(bytes.len());
        bytes[i] = value;
        fs::write(&path, &bytes).unwrap();
        if let Ok(config) = UNetConfig::read(&path) {
            config.tensors();
        }
    }
}

#[test]
fn types_and_alignment() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.safetensors");
    // With an odd header length, all data are misaligned. Integer tensors are allowed.
    let mut header = r#"{"h":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},"i":{"dtype":"I64","shape":[1],"data_offsets":[4,12]},"e":{"dtype":"F32","shape":[0],"data_offsets":[12,12]}}"#.to_owned();
    if header.len().is_multiple_of(2) {
        header.push(' ');
    }
    let mut file = raw(&header, 0);
    file.extend([bf16::from_f32(1.5), bf16::NEG_INFINITY].iter().flat_map(|v| v.to_le_bytes()));
    file.extend(7i64.to_le_bytes());
    fs::write(&path, file).unwrap();

    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.get("h").unwrap().to_f32(), [1.5, f32::NEG_INFINITY]);
    assert_eq!(checkpoint.first_non_finite(), Some(("h", 1)));
    assert!(checkpoint.get("i").is_none() && checkpoint.get("e").is_none());
    assert_eq!(checkpoint.dims("i"), Some(&[1][..]));
    assert!(
        error_of(checkpoint.require("i", &[1]))
            .contains("`i`: expected [1] in F64, F32, F16 or BF16, found [1] in I64")
    );
    assert!(
        error_of(checkpoint.require("z", &[3])).contains("`z`: expected [3] in F64, F32, F16 or BF16, found nothing")
    );
}

#[test]
fn a_one_by_one_convolution_is_a_matrix() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.safetensors");
    write(&path, &table(&[("conv", &[2, 3, 1, 1]), ("linear", &[2, 3])]));
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.require("conv", &[2, 3]).unwrap().dims, [2, 3]);
    assert_eq!(checkpoint.require("linear", &[2, 3, 1, 1]).unwrap().dims, [2, 3, 1, 1]);
    assert!(error_of(checkpoint.require("linear", &[3, 2])).contains("found [2, 3] in F32"));
}

#[test]
fn opening_costs_nothing() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("stage_c.safetensors");
    // A sparse file of 7 GB, which takes no space on disk.
    let mut header = String::from("{");
    let mut at = 0usize;
    let (text, image) = (Some(1280), Some(768));
    let config = UNetConfig {
        clip_text_in_channels: text,
        clip_image_in_channels: image,
        self_attn: vec![true; 2],
        ..UNetConfig::default()
    };
    for (name, dims) in config.tensors() {
        let end = at + 2 * dims.iter().product::<usize>();
        header += &format!(r#""{name}":{{"dtype":"BF16","shape":{dims:?},"data_offsets":[{at},{end}]}},"#);
        at = end;
    }
    header.pop();
    header.push('}');
    fs::write(&path, raw(&header, 0)).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len((8 + header.len() + at) as u64).unwrap();

    let start = std::time::Instant::now();
    let checkpoint = Checkpoint::open_as(&path, NetworkKind::StageC).unwrap();
    UNetConfig::open(None, &checkpoint).unwrap();
    let took = start.elapsed();
    assert!(at > 7_000_000_000, "{at}");
    println!("opened {at} bytes in {took:?}");
    // It took 6 ms when it was measured. The limit allows for a busy machine.
    assert!(took.as_millis() < 500, "{took:?}");
}

/// The test runs itself in a child process, in which several threads read past the new end of
/// the file at the same time.
#[cfg(unix)]
#[test]
fn a_shrinking_file_ends_with_a_message() {
    const CHILD: &str = "CASCADE_TEST_SHRINK";
    const THREADS: usize = 8;
    let names: Vec<String> = (0..THREADS).map(|i| format!("t{i}")).collect();
    if let Ok(path) = std::env::var(CHILD) {
        cascade_rt::weights::install_sigbus_handler().unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
        let together = std::sync::Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for name in &names {
                scope.spawn(|| {
                    together.wait();
                    checkpoint.get(name).unwrap().to_f32()
                });
            }
        });
        unreachable!("reading past the end of the file");
    }
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.safetensors");
    for _ in 0..10 {
        write(&path, &names.iter().map(|n| (n.clone(), vec![1 << 14])).collect::<Table>());
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_shrinking_file_ends_with_a_message", "--nocapture"])
            .env(CHILD, &path)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&child.stderr);
        assert_eq!(child.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains("x.safetensors: expected a model file that does not change"), "{stderr}");
    }
}

// ---- Names ---------------------------------------------------------------

#[test]
fn original_and_comfyui_names() {
    let dir = TempDir::new().unwrap();
    let wanted = tiny_c(dir.path()).tensors();
    let [diffusers, original_file, comfy] = ["d", "o", "c"].map(|n| dir.path().join(n));
    write(&diffusers, &wanted);
    write(&original_file, &prefixed("state_dict.", &original(&wanted)));
    let mut both = prefixed("model.diffusion_model.", &original(&wanted));
    both.extend(table(&[
        ("text_encoder.clip_g.transformer.text_model.embeddings.token_embedding.weight", &[5, 4]),
        ("text_encoder.clip_g.text_projection", &[2, 4]),
        ("vae.previewer.blocks.0.weight", &[1]),
        ("vae.previewer.blocks.24.weight", &[1]),
    ]));
    write(&comfy, &both);

    for path in [&diffusers, &original_file, &comfy] {
        let checkpoint = Checkpoint::open_as(path, NetworkKind::StageC).unwrap();
        assert_eq!(checkpoint.original, path != &diffusers);
        assert_eq!(checkpoint.names().count(), wanted.len());
        assert_eq!(UNetConfig::open(None, &checkpoint).unwrap(), tiny_c(dir.path()));
    }
    let name = "down_blocks.0.2.attention.to_v.bias";
    let split = Checkpoint::open(&original_file).unwrap().require(name, &[64]).unwrap();
    assert_eq!(split.to_f32()[..2], [128.0, 129.0], "the last third of the rows is V");

    let kinds: Vec<NetworkKind> = Checkpoint::open_all(&comfy).unwrap().iter().map(|c| c.kind()).collect();
    assert_eq!(kinds, [NetworkKind::StageC, NetworkKind::TextEncoder, NetworkKind::Previewer]);
    let text = Checkpoint::open_as(&comfy, NetworkKind::TextEncoder).unwrap();
    let projection = text.require("text_projection.weight", &[4, 2]).unwrap();
    assert_eq!(projection.to_f32(), [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0], "stored transposed");
}

#[test]
fn the_wrong_file_is_recognised() {
    let dir = TempDir::new().unwrap();
    let cases: [(&[&str], &str); 5] = [
        (&["lora_prior_unet_clf_1.lora_down.weight"], "found a LoRA"),
        (&["weights.0.lora_up"], "found a LoRA"),
        (&["projections.0.0.weight", "backbone.0.0.weight"], "found a ControlNet"),
        (&["clf.1.weight", "clip_mapper.weight"], "found Stage B (decoder UNet)"),
        (&["bert.weight"], "found an unknown network (with `bert.weight`)"),
    ];
    for (names, message) in cases {
        let path = dir.path().join("stage_c.safetensors");
        write(&path, &names.iter().map(|n| (n.to_string(), vec![1])).collect::<Table>());
        let error = error_of(Checkpoint::open_as(&path, NetworkKind::StageC));
        assert!(error.contains("expected Stage C (prior UNet)") && error.contains(message), "{error}");
    }
}

#[test]
fn shards() {
    let dir = TempDir::new().unwrap();
    write(&dir.path().join("1.safetensors"), &table(&[("a", &[1])]));
    write(&dir.path().join("2.safetensors"), &table(&[("b", &[2])]));
    let index = dir.path().join("m.safetensors.index.json");
    let with = |map: &str| {
        fs::write(&index, format!(r#"{{"metadata":{{}},"weight_map":{map}}}"#)).unwrap();
        Checkpoint::open(&index)
    };
    let both = with(r#"{"a":"1.safetensors","b":"2.safetensors"}"#).unwrap();
    assert_eq!(both.names().collect::<Vec<_>>(), ["a", "b"]);
    let error = error_of(with(r#"{"b":"1.safetensors"}"#));
    assert!(error.contains("1.safetensors: tensor `b`") && error.contains("found nothing"), "{error}");
    for outside in ["../1.safetensors", "/etc/passwd", "..", ".", "", r"x\\y"] {
        let error = error_of(with(&format!(r#"{{"a":"{outside}"}}"#)));
        assert!(error.contains("plain file names"), "{error}");
    }
    assert!(error_of(with(r#"{"a":"3.safetensors"}"#)).contains("3.safetensors"));
}

// ---- Configs -------------------------------------------------------------

/// The `config.json` of the four published U-Nets, with their numbers of parameters and tensors.
const UNETS: [(&str, usize, usize); 4] = [
    (
        r#"{"block_out_channels":[2048,2048],"clip_image_in_channels":768,"clip_text_in_channels":1280,
        "conditioning_dim":2048,"num_attention_heads":[32,32],"down_num_layers_per_block":[8,24],
        "up_num_layers_per_block":[24,8],"dropout":[0.1,0.1],"switch_level":[false]}"#,
        3_589_103_632,
        1550,
    ),
    (
        r#"{"block_out_channels":[1536,1536],"clip_image_in_channels":768,"clip_text_in_channels":1280,
        "conditioning_dim":1536,"num_attention_heads":[24,24],"down_num_layers_per_block":[4,12],
        "up_num_layers_per_block":[12,4],"switch_level":[false]}"#,
        1_030_785_040,
        782,
    ),
    (
        r#"{"block_out_channels":[320,640,1280,1280],"block_types_per_layer":[
        ["SDCascadeResBlock","SDCascadeTimestepBlock"],["SDCascadeResBlock","SDCascadeTimestepBlock"],
        ["SDCascadeResBlock","SDCascadeTimestepBlock","SDCascadeAttnBlock"],
        ["SDCascadeResBlock","SDCascadeTimestepBlock","SDCascadeAttnBlock"]],"clip_image_in_channels":null,
        "conditioning_dim":1280,"down_blocks_repeat_mappers":[1,1,1,1],"down_num_layers_per_block":[2,6,28,6],
        "effnet_in_channels":16,"in_channels":4,"num_attention_heads":[0,0,20,20],"out_channels":4,"patch_size":2,
        "pixel_mapper_in_channels":3,"self_attn":true,"switch_level":null,"timestep_conditioning_type":["sca"],
        "up_blocks_repeat_mappers":[3,3,2,2],"up_num_layers_per_block":[6,28,6,2]}"#,
        1_562_941_136,
        1726,
    ),
    (
        r#"{"block_out_channels":[320,576,1152,1152],"block_types_per_layer":[
        ["SDCascadeResBlock","SDCascadeTimestepBlock"],["SDCascadeResBlock","SDCascadeTimestepBlock"],
        ["SDCascadeResBlock","SDCascadeTimestepBlock","SDCascadeAttnBlock"],
        ["SDCascadeResBlock","SDCascadeTimestepBlock","SDCascadeAttnBlock"]],"conditioning_dim":1280,
        "down_blocks_repeat_mappers":[1,1,1,1],"down_num_layers_per_block":[2,4,14,4],"effnet_in_channels":16,
        "in_channels":4,"num_attention_heads":[-1,9,18,18],"out_channels":4,"patch_size":2,
        "pixel_mapper_in_channels":3,"self_attn":[true,true,true,true],"timestep_conditioning_type":["sca"],
        "up_blocks_repeat_mappers":[2,2,2,2],"up_num_layers_per_block":[4,14,4,2],"unknown":{"a":1}}"#,
        699_471_248,
        970,
    ),
];

fn parameters(table: &Table) -> usize {
    table.iter().map(|(_, dims)| dims.iter().product::<usize>()).sum()
}

#[test]
fn tables_have_the_published_sizes() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("config.json");
    for (json, count, rows) in UNETS {
        fs::write(&path, json).unwrap();
        let table = UNetConfig::read(&path).unwrap().tensors();
        assert_eq!((parameters(&table), table.len()), (count, rows));
        let original = original(&table).len();
        assert_eq!(original, [1294, 654, 1454, 826][UNETS.iter().position(|u| u.1 == count).unwrap()]);
    }

    let a = StageAConfig::default().tensors();
    let running: usize = 2 * 4; // running mean and variance are not parameters
    assert_eq!((parameters(&a) - running, a.len() + 1), (18_406_894, 122), "with the batch norm's step counter");

    let text = ClipTextConfig {
        hidden_size: 1280,
        intermediate_size: 5120,
        num_hidden_layers: 32,
        num_attention_heads: 20,
        projection_dim: 1280,
        ..ClipTextConfig::default()
    };
    let text = text.tensors();
    assert_eq!((parameters(&text), text.len()), (694_659_840, 517));

    let vision = ClipVisionConfig {
        hidden_size: 1024,
        intermediate_size: 4096,
        num_hidden_layers: 24,
        num_attention_heads: 16,
        patch_size: 14,
        projection_dim: 768,
        ..ClipVisionConfig::default()
    };
    let vision = vision.tensors();
    assert_eq!((parameters(&vision), vision.len()), (303_966_208, 392));
}

#[test]
fn invalid_configs_are_rejected() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("config.json");
    for (edit, message) in [
        (r#""block_out_channels":[]"#, "`block_out_channels` from 1 to 8, found 0"),
        (r#""down_num_layers_per_block":[0,24]"#, "`down_num_layers_per_block` from 1 to 256, found 0"),
        (r#""down_num_layers_per_block":[8,1000000000]"#, "found 1000000000"),
        (r#""down_num_layers_per_block":[8,1e40]"#, "JSON with the fields"),
        (r#""up_num_layers_per_block":[24,8,1]"#, "`up_num_layers_per_block` with 2 entries, found 3 entries"),
        (r#""num_attention_heads":[32,31]"#, "`num_attention_heads` that divides the width 2048, found 31"),
        (r#""num_attention_heads":[0,32]"#, "that divides the width 2048, found 0"),
        (r#""in_channels":18446744073709551616"#, "JSON with the fields"),
        (r#""in_channels":-1"#, "JSON with the fields"),
        (r#""kernel_size":4"#, "`kernel_size` odd, found 4"),
        (r#""patch_size":0"#, "`patch_size` from 1 to 16"),
        (r#""self_attn":[true,true,false]"#, "`self_attn` with 2 entries"),
        (r#""switch_level":[false,true]"#, "`switch_level` with 1 entries"),
        (r#""timestep_conditioning_type":["../x"]"#, "of `sca` and `crp`"),
        (r#""block_types_per_layer":[["Foo"],[]]"#, "unknown variant `Foo`"),
        (r#""block_types_per_layer":[[],[]]"#, "`block_types_per_layer` from 1 to 8, found 0"),
    ] {
        fs::write(&path, format!("{{{edit}}}")).unwrap();
        let error = error_of(UNetConfig::read(&path));
        assert!(error.contains(message) && error.contains("config.json"), "{edit}: {error}");
    }
    fs::write(&path, r#"{"hidden_act":"relu"}"#).unwrap();
    let weights = dir.path().join("t.safetensors");
    write(&weights, &table(&[("text_model.embeddings.token_embedding.weight", &[1])]));
    let error = error_of(ClipTextConfig::open(Some(&path.as_path().into()), &Checkpoint::open(&weights).unwrap()));
    assert!(error.contains("unknown variant `relu`, expected `gelu` or `quick_gelu`"), "{error}");
    fs::write(&path, r#"{"embed_dim":385}"#).unwrap();
    assert!(error_of(StageAConfig::read(&path)).contains("halved"));
}

#[test]
fn configs_are_checked_against_tensors() {
    let dir = TempDir::new().unwrap();
    let config = tiny_c(dir.path());
    let path: PathBuf = dir.path().join("w.safetensors");
    let full = config.tensors();
    let open = |table: &Table| {
        write(&path, table);
        UNetConfig::open(Some(&dir.path().join("config.json").into()), &Checkpoint::open(&path).unwrap())
    };
    assert_eq!(open(&full).unwrap(), config);

    let mut wide = full.clone();
    let at = wide.iter().position(|(name, _)| name == "clip_txt_mapper.weight").unwrap();
    wide[at].1[0] += 1;
    let error = error_of(open(&wide));
    assert!(error.contains("w.safetensors: tensor `clip_txt_mapper.weight`: expected [24, 20]"), "{error}");
    assert!(error.contains("config.json says") && error.contains("found [25, 20] in F32"), "{error}");

    let error = error_of(open(&full[1..].to_vec()));
    assert!(error.contains("found nothing"), "{error}");

    let mut deep = full.clone();
    deep.push(("down_blocks.0.3.depthwise.bias".to_owned(), vec![64]));
    deep.push(("ema.step".to_owned(), vec![1]));
    let error = error_of(open(&deep));
    assert!(error.contains("`down_blocks.0.3.depthwise.bias`: expected no such tensor"), "{error}");
    deep.retain(|(n, _)| n != "down_blocks.0.3.depthwise.bias");
    open(&deep).unwrap();
}

#[test]
fn stage_a_scale_depends_on_the_layout() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.safetensors");
    let small = StageAConfig { embed_dim: 8, num_vq_embeddings: 6, bottleneck_blocks: 3, ..StageAConfig::default() };
    for (table, scale) in [(small.tensors(), 0.3764), (original(&small.tensors()), 0.43)] {
        write(&path, &table);
        let checkpoint = Checkpoint::open_as(&path, NetworkKind::StageA).unwrap();
        let found = StageAConfig::open(None, &checkpoint).unwrap();
        assert_eq!(found, StageAConfig { scale_factor: scale, ..small.clone() });
    }
}

// ---- Whole models ----------------------------------------------------------

/// Writes a model in the folder layout, whose tiny components fit together.
fn tiny_model(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let part = |folder: &str, stem: &str, config: &str, table: &Table| {
        write(&dir.join(folder).join(format!("{stem}.safetensors")), table);
        fs::write(dir.join(folder).join("config.json"), config).unwrap();
    };
    let config = |json: &str| {
        let path = dir.join("config.json");
        fs::write(&path, json).unwrap();
        UNetConfig::read(&path).unwrap().tensors()
    };
    let c = TINY_C.replace("}", r#","clip_seq":2}"#);
    let b = r#"{"in_channels":4,"out_channels":4,"patch_size":2,"block_out_channels":[4,8],"conditioning_dim":6,
        "block_types_per_layer":[["SDCascadeResBlock","SDCascadeTimestepBlock"],["SDCascadeResBlock",
        "SDCascadeTimestepBlock"]],"num_attention_heads":[0,0],"down_num_layers_per_block":[1,1],
        "up_num_layers_per_block":[1,1],"up_blocks_repeat_mappers":[2,1],"clip_text_pooled_in_channels":12,
        "effnet_in_channels":16,"pixel_mapper_in_channels":3,"timestep_conditioning_type":["sca"]}"#;
    let a = StageAConfig { embed_dim: 8, num_vq_embeddings: 6, bottleneck_blocks: 3, ..StageAConfig::default() };
    let text = ClipTextConfig {
        hidden_size: 20,
        intermediate_size: 28,
        num_hidden_layers: 1,
        num_attention_heads: 5,
        projection_dim: 12,
        vocab_size: 9,
        ..ClipTextConfig::default()
    };
    part("prior", "diffusion_pytorch_model", &c, &config(&c));
    part("decoder", "diffusion_pytorch_model", b, &config(b));
    let a_json = r#"{"embed_dim":8,"num_vq_embeddings":6,"bottleneck_blocks":3,"scale_factor":0.5}"#;
    part("vqgan", "diffusion_pytorch_model", a_json, &a.tensors());
    // The published config has a wrong projection_dim, so the tensor's dimensions are used.
    let text_json = r#"{"hidden_size":20,"intermediate_size":28,"num_hidden_layers":1,"num_attention_heads":5,
        "hidden_act":"gelu","projection_dim":999,"vocab_size":9}"#;
    part("text_encoder", "model", text_json, &text.tensors());
    fs::create_dir(dir.join("tokenizer")).unwrap();
    fs::write(dir.join("tokenizer/tokenizer.json"), "{}").unwrap();
    fs::remove_file(dir.join("config.json")).unwrap();
}

fn find(model: &Path, overrides: &Overrides) -> Result<ModelPaths, cascade_rt::error::Error> {
    ModelPaths::find(Some(&model.into()), None, overrides)
}

#[test]
fn a_folder_is_a_model() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("cascade");
    tiny_model(&root);
    let none = Overrides::default();
    let model = Model::open(&find(&root, &none).unwrap()).unwrap();
    assert_eq!(model.stage_a.1.scale_factor, 0.5);
    assert_eq!(model.text.1.projection_dim, 12);
    assert_eq!(model.stage_c.1.clip_seq, 2);
    assert_eq!(model.tokenizer.path(), root.join("tokenizer"));

    // The prior may be in a sibling folder, or in one given by the caller.
    let sibling = dir.path().join("cascade-prior");
    fs::create_dir(&sibling).unwrap();
    fs::rename(root.join("prior"), sibling.join("prior")).unwrap();
    assert!(find(&root, &none).unwrap().stage_c.weights.path().starts_with(&sibling));
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&sibling, &elsewhere).unwrap();
    let error = error_of(find(&root, &none));
    assert!(error.contains("Stage C weights (prior/") && error.contains("`prior`"), "{error}");
    assert!(
        ModelPaths::find(Some(&root.as_path().into()), Some(&elsewhere.as_path().into()), &none)
            .unwrap()
            .stage_c
            .weights
            .path()
            .starts_with(&elsewhere)
    );

    // Small networks are used only if there are no large ones.
    fs::rename(elsewhere.join("prior"), root.join("prior_lite")).unwrap();
    assert!(find(&root, &none).unwrap().stage_c.weights.path().starts_with(root.join("prior_lite")));

    // The order of preference is bf16, no variant, fp16; an index comes before a whole file.
    let decoder = root.join("decoder");
    let chosen =
        || find(&root, &none).unwrap().stage_b.weights.path().file_name().unwrap().to_str().unwrap().to_owned();
    for name in [
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.bf16.safetensors",
        "diffusion_pytorch_model.safetensors.index.bf16.json",
    ] {
        fs::write(decoder.join(name), "").unwrap();
        assert_eq!(chosen() == name, name != "diffusion_pytorch_model.fp16.safetensors", "{name}");
    }
}

#[test]
fn single_files_are_a_model() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("diffusers");
    tiny_model(&root);
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    let weights = |folder: &str| root.join(folder).join("diffusion_pytorch_model.safetensors");
    for (from, to) in [
        ("prior", "stage_c_lite.safetensors"),
        ("decoder", "stage_b_bf16.safetensors"),
        ("vqgan", "stage_a.safetensors"),
    ] {
        fs::copy(weights(from), files.join(to)).unwrap();
    }
    assert!(error_of(find(&files, &Overrides::default())).contains("text encoder weights"));
    let overrides = Overrides {
        text_encoder: Some(root.join("text_encoder/model.safetensors").into()),
        tokenizer: Some(root.join("tokenizer").into()),
        ..Overrides::default()
    };
    let paths = find(&files, &overrides).unwrap();
    assert_eq!(paths.stage_b.config, None);
    assert_eq!(paths.text_encoder.config, Some(root.join("text_encoder/config.json").into()));
    Model::open(&paths).unwrap();

    // All components are given individually; then one of them is the wrong file.
    let mut all = Overrides {
        stage_a: Some(files.join("stage_a.safetensors").into()),
        stage_b: Some(root.join("decoder").into()),
        stage_c: Some(files.join("stage_c_lite.safetensors").into()),
        ..overrides
    };
    Model::open(&ModelPaths::find(None, None, &all).unwrap()).unwrap();
    all.stage_c = all.stage_a.clone();
    let error = error_of(Model::open(&ModelPaths::find(None, None, &all).unwrap()));
    assert!(error.contains("expected Stage C (prior UNet), found Stage A (image decoder)"), "{error}");
    all.stage_c = None;
    let error = ModelPaths::find(None, None, &all).unwrap_err();
    assert!(error.to_string().contains("`stage_c`") && error.exit_code() == 2, "{error}");
    assert!(error_of(find(&files.join("stage_a.safetensors"), &all)).contains("a file; set single files with"));
    assert!(error_of(find(&files.join("none"), &all)).contains("model folder not found"));
}

#[test]
fn combined_files_are_a_model() {
    let dir = TempDir::new().unwrap();
    tiny_model(dir.path());
    let table_of = |folder: &str, stem: &str| -> Table {
        let checkpoint = Checkpoint::open(dir.path().join(folder).join(format!("{stem}.safetensors"))).unwrap();
        checkpoint.names().map(|n| (n.to_owned(), checkpoint.dims(n).unwrap().to_vec())).collect()
    };
    let [c, b, a] = ["prior", "decoder", "vqgan"].map(|f| original(&table_of(f, "diffusion_pytorch_model")));
    let files = dir.path().join("comfy");
    let mut with_text = prefixed("model.diffusion_model.", &c);
    with_text.extend(prefixed("text_encoder.clip_g.transformer.", &table_of("text_encoder", "model")));
    let mut with_a = prefixed("model.diffusion_model.", &b);
    with_a.extend(prefixed("vae.", &a));
    write(&files.join("stable_cascade_stage_c.safetensors"), &with_text);
    write(&files.join("stable_cascade_stage_b.safetensors"), &with_a);
    fs::write(files.join("tokenizer.json"), "{}").unwrap();

    let paths = find(&files, &Overrides::default()).unwrap();
    assert_eq!(paths.text_encoder.weights, paths.stage_c.weights);
    assert_eq!(paths.stage_a.weights, paths.stage_b.weights);
    assert_eq!(paths.tokenizer.path(), files);
    // The number of heads is inferred from a width of 64 per head. Here the width is 20, so a config is required.
    let error = error_of(Model::open(&paths));
    assert!(error.contains("put the model's config.json beside it"), "{error}");
    let model = Model::open(&ModelPaths {
        text_encoder: PartFiles {
            config: Some(dir.path().join("text_encoder/config.json").into()),
            ..paths.text_encoder.clone()
        },
        ..paths
    })
    .unwrap();
    assert_eq!(model.stage_a.1.scale_factor, 0.43);
}

#[test]
fn components_must_fit_together() {
    let dir = TempDir::new().unwrap();
    tiny_model(dir.path());
    let config = dir.path().join("prior/config.json");
    let weights = dir.path().join("prior/diffusion_pytorch_model.safetensors");
    fs::write(
        &config,
        fs::read_to_string(&config).unwrap().replace(r#""clip_text_in_channels":20"#, r#""clip_text_in_channels":21"#),
    )
    .unwrap();
    write(&weights, &UNetConfig::read(&config).unwrap().tensors());
    let error = error_of(Model::open(&find(dir.path(), &Overrides::default()).unwrap()));
    assert!(error.contains("takes text states of 20 channels") && error.contains("takes 21"), "{error}");
}

/// This test writes 0.4 GB.
#[test]
fn a_synthetic_model_is_a_model() {
    let dir = TempDir::new().unwrap();
    let size = synthesise(Preset::Mid, dir.path()).unwrap();
    assert!((350_000_000..450_000_000).contains(&size), "{size}");
    assert!(error_of(synthesise(Preset::Mid, dir.path())).contains("a new or empty folder"));

    let model = Model::open(&find(dir.path(), &Overrides::default()).unwrap()).unwrap();
    for checkpoint in [&model.stage_a.0, &model.stage_b.0, &model.stage_c.0, &model.text.0] {
        assert_eq!(checkpoint.first_non_finite(), None);
    }
    let matrix = model.stage_c.0.get("down_blocks.0.0.channelwise.0.weight").unwrap();
    let values = matrix.to_f32();
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
    assert!(mean.abs() < 1e-4 && (variance * 512.0 - 1.0).abs() < 0.01, "{mean} {variance}");

    let tokenizer = tokenizers::Tokenizer::from_file(model.tokenizer.join("tokenizer.json").path()).unwrap();
    assert_eq!(tokenizer.get_vocab_size(true), 49_408);
    let ids = tokenizer.encode("A  cat!", true).unwrap();
    // `a</w>`, `c`, `a`, `t</w>`, `!</w>`; the ids of byte symbols begin with `!`.
    assert_eq!(ids.get_ids(), [49406, 256 + 64, 66, 64, 256 + 83, 256, 49407]);
}
