//! Weight files that are of another kind, damaged, malicious, or contain NaN.

use std::fs;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};

use super::models::{model, replace};
use super::{Room, fixture};

const STAGE_A: &str = "tiny/vqgan/diffusion_pytorch_model.safetensors";

/// A tensor that Stage A uses.
const NAME: &str = "out_block.0.bias";

/// Splits a safetensors file into header and data.
fn split(bytes: &[u8]) -> (String, Vec<u8>) {
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (String::from_utf8(bytes[8..8 + len].to_vec()).unwrap(), bytes[8 + len..].to_vec())
}

fn join(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A file with one tensor of this name.
fn one_tensor(name: &str) -> Vec<u8> {
    let view = TensorView::new(Dtype::F32, vec![2, 2], &[0; 16]).unwrap();
    safetensors::serialize([(name, view)], None).unwrap()
}

#[test]
fn the_wrong_file_for_a_stage() {
    let room = Room::new();
    let b = fs::read(fixture("tiny-original/stage_b.safetensors")).unwrap();
    let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    let lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (b, &["expected Stage C (prior UNet), found Stage B"]),
        (one_tensor("down_blocks.0.attention.to_q.lora_down.weight"), &["found a LoRA"]),
        (one_tensor("projections.0.weight"), &["found a ControlNet"]),
        (one_tensor("encoder.weight"), &["an unknown network", "encoder.weight"]),
        (safetensors::serialize::<&str, TensorView<'_>, _>([], None).unwrap(), &["found no tensors"]),
        (b"These are not weights.\n".to_vec(), &["expected a safetensors file", "unknown format"]),
        (b"{\"weight_map\": {}}".to_vec(), &["JSON text"]),
        (png, &["expected a safetensors file", "unknown format"]),
        (b"PK\x03\x04\0\0\0\0\0\0".to_vec(), &["a PyTorch checkpoint (zip); convert it"]),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j".to_vec(), &["a PyTorch checkpoint (pickle); convert it"]),
        (b"GGUF\x03\0\0\0\0\0\0\0".to_vec(), &["a GGUF file", "safetensors"]),
        (lfs.into(), &["a Git LFS pointer", "git lfs pull"]),
        (b"<!DOCTYPE html><html>".to_vec(), &["a web page"]),
        (b"".to_vec(), &["an empty file; download it again"]),
        (b"\0".to_vec(), &["unknown format"]),
    ];
    for (bytes, words) in cases {
        room.write("c.safetensors", bytes);
        let mut words = words.to_vec();
        words.push("c.safetensors: expected");
        room.fails(room.generate(&["x", "--stage-c", "c.safetensors"]), 3, &words);
    }
}

#[test]
fn damaged_and_malicious_headers() {
    let room = Room::new();
    let good = fs::read(fixture(STAGE_A)).unwrap();
    let (header, data) = split(&good);
    let edit = |change: &dyn Fn(&mut Map<String, Value>)| {
        let mut map: Map<String, Value> = serde_json::from_str(&header).unwrap();
        change(&mut map);
        join(&Value::from(map).to_string(), &data)
    };
    let length = |len: u64| [&len.to_le_bytes(), &good[8..]].concat();
    let set = |field: &'static str, value: Value| edit(&move |map| map[NAME][field] = value.clone());
    let entry = format!("{{\"{NAME}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}},");
    let rename = |to: String| {
        edit(&move |map| {
            let tensor = map.remove(NAME).unwrap();
            map.insert(to.clone(), tensor);
        })
    };
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (length(u64::MAX), &["at most 100000000 bytes", "18446744073709551615"]),
        (length(99_000_000), &["a header of 99000000 bytes in a file of", "not downloaded completely"]),
        (length(0), &["JSON header"]),
        (length(7), &["JSON header"]),
        (good[..good.len() - 1].to_vec(), &["tensor `", "bytes within the file's"]),
        (good[..good.len() / 2].to_vec(), &["tensor `", "not downloaded completely"]),
        (good[..100].to_vec(), &["a complete safetensors file"]),
        (good[..8].to_vec(), &["unknown format"]),
        ([&good[..], b"!"].concat(), &["bytes of data, as the header says"]),
        (set("data_offsets", json!([0, 48])), &["tensor `", "an overlap"]),
        (set("data_offsets", json!([0, u64::MAX])), &[NAME, "bytes within"]),
        (set("data_offsets", json!([48, 0])), &[NAME, "found 48..0"]),
        (set("data_offsets", json!([-4, 8])), &[NAME]),
        (set("shape", json!([13])), &[NAME, "the bytes of [13] F32"]),
        (set("shape", json!([1u64 << 32, 1u64 << 32])), &[NAME, "the bytes of"]),
        (set("dtype", json!("F33")), &[NAME, "F33"]),
        (set("dtype", json!("I32")), &[NAME, "F32, F16 or BF16"]),
        (edit(&|map| drop(map.remove(NAME))), &["a gap"]),
        (join(&header.replacen('{', &entry, 1), &data), &[NAME, "twice"]),
        (rename("../../up".into()), &["out_block.0.bias", "found nothing"]),
        (rename("out_block.\u{1b}[31m.weight".into()), &["out_block.0.bias", "found nothing"]),
        (set("dtype", json!("F8_E4M3")), &[NAME, "the bytes of [12] F8_E4M3"]),
        (rename("out_block.0.bass".into()), &["out_block.0.bias", "found nothing"]),
    ];
    for (bytes, words) in cases {
        room.write("a.safetensors", bytes);
        let message = room.fails(room.generate(&["x", "--stage-a", "a.safetensors"]), 3, words);
        assert!(message.contains("a.safetensors: "), "{message}");
        assert!(!message.contains('\u{1b}') && message.len() < 1000, "{message}");
    }
}

#[test]
fn unaligned_data_give_the_same_picture() {
    let room = Room::new();
    let good = fs::read(fixture(STAGE_A)).unwrap();
    let (header, data) = split(&good);
    let mut pictures = Vec::new();
    for padding in 0..4 {
        room.write("a.safetensors", join(&format!("{header}{}", " ".repeat(padding)), &data));
        room.succeeds(room.generate(&["x", "--stage-a", "a.safetensors", "--force"]));
        pictures.push(fs::read(room.path("out.png")).unwrap());
    }
    assert!(pictures.iter().all(|picture| *picture == pictures[0]));
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let c = "m-prior/prior/diffusion_pytorch_model.bf16.safetensors";
    for (file, name, stage) in [
        ("m/text_encoder/model.safetensors", "text_model.final_layer_norm.bias", "Stage C"),
        (c, "clf.1.bias", "Stage C"),
        ("m/decoder/diffusion_pytorch_model.bf16.safetensors", "clf.1.bias", "Stage B"),
        ("m/vqgan/diffusion_pytorch_model.safetensors", "out_block.0.bias", "Stage A"),
    ] {
        let room = Room::new();
        model(&room, "m");
        let (header, mut data) = split(&fs::read(room.path(file)).unwrap());
        let json: Value = serde_json::from_str(&header).unwrap();
        let offset = |i: usize| json[name]["data_offsets"][i].as_u64().unwrap() as usize;
        data[offset(0)..offset(1)].fill(0xff); // this is NaN in every float type
        replace(&room, file, join(&header, &data));
        let produced = format!("{stage} produced");
        let tensor = format!("{file}: tensor `{name}`: expected finite numbers");
        room.fails(room.generate(&["x", "-m", "m"]), 3, &[&produced, "not finite", &tensor, "download it again"]);
    }
}

#[test]
fn start_latents() {
    let room = Room::new();
    let file = |name: &str, tensor: &str, dims: &[usize], dtype: Dtype| {
        let bytes = vec![0; dims.iter().product::<usize>() * dtype.bitsize() / 8];
        let view = TensorView::new(dtype, dims.to_vec(), &bytes).unwrap();
        room.write(name, safetensors::serialize([(tensor, view)], None).unwrap());
    };
    file("wrong", "stage_c", &[1, 16, 3, 2], Dtype::F32);
    file("images", "stage_c", &[2, 16, 2, 2], Dtype::F32);
    file("integers", "stage_b", &[1, 4, 16, 16], Dtype::I32);
    file("neither", "stage_d", &[1], Dtype::F32);
    file("good", "stage_c", &[1, 16, 2, 2], Dtype::F32);
    room.write("text", "latents");
    for (name, code, words) in [
        ("none", 7, ["none: cannot read", "No such file"]),
        ("text", 3, ["text: expected a safetensors file", "unknown format"]),
        ("wrong", 3, ["wrong: tensor `stage_c`: expected [1, 16, 2, 2]", "found [1, 16, 3, 2]"]),
        ("images", 3, ["images: tensor `stage_c`: expected [1, 16, 2, 2]", "found [2, 16, 2, 2]"]),
        ("integers", 3, ["integers: tensor `stage_b`", "in I32"]),
        ("neither", 3, ["neither: expected tensors `stage_c`, `stage_b` or both", "`stage_d`"]),
    ] {
        room.fails(room.generate(&["x", "--latents", name]), code, &words);
    }
    room.succeeds(room.generate(&["x", "--latents", "good"]));
}
