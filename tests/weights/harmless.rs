//! Files that differ from the published ones in ways that do no harm: they load, or the message names the cause.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cascade_rt::net::config::{ClipTextConfig, StageAConfig, UNetConfig};
use cascade_rt::weights::{Checkpoint, NetworkKind};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

use super::{TINY_C, error_of, original, table, tiny_c, write};

/// Tensors of any type.
pub(super) type Typed = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

pub(super) fn write_typed(path: &Path, tensors: &Typed) {
    let views =
        tensors.iter().map(|(name, dtype, dims, bytes)| (name, TensorView::new(*dtype, dims.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Stage C's tensors, as f32 values that tell them apart.
fn stage_c(dir: &Path) -> Typed {
    let tensors = tiny_c(dir).tensors().into_iter().enumerate();
    let value = |i: usize, dims: &[usize]| (i as f32).to_le_bytes().repeat(dims.iter().product());
    tensors.map(|(i, (name, dims))| (name, Dtype::F32, dims.clone(), value(i, &dims))).collect()
}

/// Opens it as Stage C, with the tiny network's config.
fn open(dir: &Path, tensors: &Typed) -> Result<Checkpoint, cascade_rt::error::Error> {
    let path = dir.join("w.safetensors");
    write_typed(&path, tensors);
    let checkpoint = Checkpoint::open_as(&path, NetworkKind::StageC)?;
    fs::write(dir.join("config.json"), TINY_C).unwrap();
    UNetConfig::open(Some(&dir.join("config.json").into()), &checkpoint)?;
    Ok(checkpoint)
}

/// The values of all of the network's tensors.
fn values(checkpoint: &Checkpoint, plain: &Typed) -> BTreeMap<String, Vec<f32>> {
    plain.iter().map(|(name, _, dims, _)| (name.clone(), checkpoint.require(name, dims).unwrap().to_f32())).collect()
}

#[test]
fn prefixes_of_wrappers_are_left_out() {
    let dir = TempDir::new().unwrap();
    let plain = stage_c(dir.path());
    let wanted = values(&open(dir.path(), &plain).unwrap(), &plain);
    let first = |prefix: &'static str| move |name: &str| format!("{prefix}{name}");
    let inner = |name: &str| {
        name.replacen("blocks.", "blocks._orig_mod.", 1).replacen(".attention", "._fsdp_wrapped_module.attention", 1)
    };
    type Rename = Box<dyn Fn(&str) -> String>;
    let cases: Vec<Rename> = vec![
        Box::new(first("_orig_mod.")),
        Box::new(first("module.")),
        Box::new(first("module._orig_mod.")),
        Box::new(first("_orig_mod.module.")),
        Box::new(first("state_dict.module.")),
        Box::new(first("ema.")),
        Box::new(first("ema_model.module.")),
        Box::new(first("module.model_ema._orig_mod.")),
        Box::new(inner),
        Box::new(|name| format!("module.{}", name.replacen(".attention", "._checkpoint_wrapped_module.attention", 1))),
        Box::new(first("model.diffusion_model._orig_mod.")),
        Box::new(first("unet.")),
        Box::new(first("pipeline.prior._orig_mod.")),
        Box::new(first("prior_ema.")),
    ];
    for rename in cases {
        let renamed: Typed = plain.iter().cloned().map(|(name, a, b, c)| (rename(&name), a, b, c)).collect();
        let checkpoint = open(dir.path(), &renamed).unwrap();
        assert_eq!(values(&checkpoint, &plain), wanted, "{}", renamed[0].0);
    }
    // A wrapper's name does not make a file one of the original repository, whose scale is another.
    let small = StageAConfig { embed_dim: 8, num_vq_embeddings: 6, bottleneck_blocks: 3, ..StageAConfig::default() };
    let path = dir.path().join("a.safetensors");
    for (prefix, table, scale) in
        [("module.", small.tensors(), 0.3764), ("_orig_mod.", original(&small.tensors()), 0.43)]
    {
        write(&path, &table.into_iter().map(|(name, dims)| (format!("{prefix}{name}"), dims)).collect::<Vec<_>>());
        let checkpoint = Checkpoint::open_as(&path, NetworkKind::StageA).unwrap();
        assert_eq!(StageAConfig::open(None, &checkpoint).unwrap().scale_factor, scale);
    }
}

#[test]
fn averaged_weights_beside_the_others_are_not_taken() {
    let dir = TempDir::new().unwrap();
    let plain = stage_c(dir.path());
    let wanted = values(&open(dir.path(), &plain).unwrap(), &plain);
    let averaged = plain.iter().cloned().map(|(name, a, b, bytes)| (format!("ema.{name}"), a, b, vec![0; bytes.len()]));
    let both: Typed = averaged.chain(plain.iter().cloned()).collect();
    assert_eq!(values(&open(dir.path(), &both).unwrap(), &plain), wanted);
    let all = Checkpoint::open_all(dir.path().join("w.safetensors")).unwrap();
    assert_eq!(all.iter().map(Checkpoint::kind).collect::<Vec<_>>(), [NetworkKind::StageC; 2]);
}

#[test]
fn networks_with_prefixes_of_other_programs_are_told_apart() {
    let dir = TempDir::new().unwrap();
    let plain = stage_c(dir.path());
    let wanted = values(&open(dir.path(), &plain).unwrap(), &plain);
    let under = |prefix: &str, tensors: &Typed| -> Typed {
        tensors.iter().cloned().map(|(name, a, b, bytes)| (format!("{prefix}{name}"), a, b, bytes)).collect()
    };
    let zeros: Typed = plain.iter().cloned().map(|(name, a, b, c)| (name, a, b, vec![0; c.len()])).collect();
    // Averaged weights, whatever they are called, are taken only where there are no others.
    for prefix in ["unet_ema.", "average.", "trainer.shadow."] {
        let both = [under("unet.", &plain), under(prefix, &zeros)].concat();
        assert_eq!(values(&open(dir.path(), &both).unwrap(), &plain), wanted, "{prefix}");
    }
    let two = [under("teacher.", &zeros), under("student.", &plain)].concat();
    let error = error_of(open(dir.path(), &two));
    assert!(error.contains("one network of a kind, here Stage C") && error.contains("`teacher.`"), "{error}");
    let many: Typed = (0..20).flat_map(|i| under(&format!("n{i}."), &plain[..].to_vec())).collect();
    let error = error_of(open(dir.path(), &many));
    assert!(error.contains("at most 16 prefixes, found 20"), "{error}");
}

#[test]
fn tensors_that_are_not_part_of_the_network_are_ignored() {
    let dir = TempDir::new().unwrap();
    let plain = stage_c(dir.path());
    let wanted = values(&open(dir.path(), &plain).unwrap(), &plain);
    for dtype in [Dtype::I64, Dtype::F32, Dtype::BF16, Dtype::F64, Dtype::BOOL, Dtype::U8, Dtype::F8_E4M3] {
        for name in [
            "down_blocks.0.0.position_ids",
            "clf.0.num_batches_tracked",
            "clf.running_mean",
            "down_blocks.0.2.attention.attn_mask",
            "logit_scale",
            "iteration",
            "ema.step",
            "optimizer/state/0",
            "../../up",
            "",
            "a\u{1b}[31m\n",
            "日本",
            &"n".repeat(100_000),
        ] {
            for dims in [vec![3], vec![], vec![0], vec![1; 40]] {
                let bytes = vec![1; dims.iter().product::<usize>() * dtype.bitsize() / 8];
                let mut more = plain.clone();
                more.push((name.to_owned(), dtype, dims, bytes));
                assert_eq!(values(&open(dir.path(), &more).unwrap(), &plain), wanted, "{name:?} {dtype:?}");
            }
        }
    }
    // What is learned is not ignored: it would change the picture.
    for name in ["down_blocks.0.3.depthwise.weight", "clf.1.scale.weight", "down_blocks.0.1.mapper.7.bias"] {
        let mut more = plain.clone();
        more.push((name.to_owned(), Dtype::F32, vec![1], vec![0; 4]));
        let error = error_of(open(dir.path(), &more));
        assert!(error.contains(&format!("`{name}`: expected no such tensor")), "{error}");
    }
}

#[test]
fn doubles_become_floats_and_smaller_types_are_named() {
    let dir = TempDir::new().unwrap();
    let plain = stage_c(dir.path());
    let wanted = values(&open(dir.path(), &plain).unwrap(), &plain);
    let double = |bytes: &[u8]| -> Vec<u8> {
        bytes.chunks(4).flat_map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())).to_le_bytes()).collect()
    };
    let doubles: Typed =
        plain.iter().cloned().map(|(name, _, dims, bytes)| (name, Dtype::F64, dims, double(&bytes))).collect();
    assert_eq!(values(&open(dir.path(), &doubles).unwrap(), &plain), wanted);
    for dtype in [Dtype::F8_E4M3, Dtype::F8_E5M2, Dtype::I8, Dtype::U8, Dtype::I32] {
        let size = |dims: &[usize]| dims.iter().product::<usize>() * dtype.bitsize() / 8;
        let small = plain.iter().cloned().map(|(name, _, dims, _)| (name, dtype, dims.clone(), vec![0; size(&dims)]));
        let error = error_of(open(dir.path(), &small.collect()));
        assert!(error.contains(&format!("in {dtype:?}; weights of this type cannot be used")), "{error}");
    }
}

#[test]
fn projections_are_transposed_whatever_their_shape() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("t.safetensors");
    for name in ["text_projection", "module.clip_g.text_projection", "text_encoder.text_projection"] {
        for (dims, values) in [
            (&[2, 3][..], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0][..]),
            (&[2, 3, 1], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
            (&[1, 2, 3], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
            (&[2, 1, 3], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
            (&[6, 1], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            (&[1, 6], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            (&[6], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        ] {
            write(&path, &table(&[(name, dims)]));
            let checkpoint = Checkpoint::open(&path).unwrap();
            let wide: Vec<usize> = dims.iter().rev().copied().collect();
            let found = checkpoint.require("text_projection.weight", &wide).unwrap();
            assert_eq!((found.to_f32().as_slice(), &found.dims), (values, &wide), "{name} {dims:?}");
        }
        write(&path, &table(&[(name, &[2, 3, 2])]));
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert!(checkpoint.get("text_projection.weight").is_none());
        assert!(error_of(checkpoint.require("text_projection.weight", &[2, 3, 2])).contains("found [2, 3, 2]"));
    }
}

#[test]
fn a_text_encoder_may_have_the_config_of_the_whole_clip() {
    let dir = TempDir::new().unwrap();
    let sizes = ClipTextConfig {
        hidden_size: 20,
        intermediate_size: 28,
        num_hidden_layers: 1,
        num_attention_heads: 5,
        projection_dim: 12,
        vocab_size: 9,
        ..ClipTextConfig::default()
    };
    let mut tensors = sizes.tensors();
    tensors.push(("text_model.embeddings.position_ids".to_owned(), vec![1, 77]));
    tensors.push(("vision_model.embeddings.class_embedding".to_owned(), vec![8]));
    write(&dir.path().join("model.safetensors"), &tensors);
    let config = dir.path().join("config.json");
    let inner = serde_json::to_value(&sizes).unwrap();
    let whole = serde_json::json!({"model_type": "clip", "text_config": inner, "vision_config": {"hidden_size": 8}, "projection_dim": 12});
    for (text, good) in [
        (inner.to_string(), true),
        (whole.to_string(), true),
        (r#"{"text_config": {"hidden_size": 21}}"#.to_owned(), false),
    ] {
        fs::write(&config, text).unwrap();
        let weights = Checkpoint::open_as(dir.path().join("model.safetensors"), NetworkKind::TextEncoder).unwrap();
        let opened = ClipTextConfig::open(Some(&config.as_path().into()), &weights);
        assert_eq!(opened.is_ok(), good);
        if let Ok(found) = opened {
            assert_eq!(found, sizes);
        }
    }
}
