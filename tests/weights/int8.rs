//! Weights of int8, and files whose factors are wrong.

use cascade_rt::weights::Checkpoint;
use safetensors::Dtype;
use tempfile::TempDir;

use super::error_of;
use super::harmless::{Typed, write_typed};

const NAME: &str = "down_blocks.0.0.channelwise.0.weight";

fn floats(name: &str, values: &[f32]) -> (String, Dtype, Vec<usize>, Vec<u8>) {
    (name.into(), Dtype::F32, vec![values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn integers(name: &str, dims: &[usize], values: &[i8]) -> (String, Dtype, Vec<usize>, Vec<u8>) {
    (name.into(), Dtype::I8, dims.to_vec(), bytemuck::cast_slice(values).to_vec())
}

fn open(dir: &TempDir, tensors: &Typed) -> Result<Checkpoint, cascade_rt::error::Error> {
    let path = dir.path().join("w.safetensors");
    write_typed(&path, tensors);
    Checkpoint::open(path)
}

#[test]
fn integers_have_the_factors_of_their_rows() {
    let dir = TempDir::new().unwrap();
    let values = [1, -2, 127, 0, 5, -127];
    let tensors = vec![floats(&format!("{NAME}_scale"), &[0.5, 2.0]), integers(NAME, &[2, 3], &values)];
    let found = open(&dir, &tensors).unwrap();
    assert!(found.is_int8() && found.names().eq([NAME]));
    let weight = found.require(NAME, &[2, 3]).unwrap();
    assert_eq!(weight.to_f32(), [0.5, -1.0, 63.5, 0.0, 10.0, -254.0]);
    assert!(weight.is_int8());
    assert_eq!(found.first_non_finite(), None);

    // Q, K and V in one tensor, as in the original files, have their shares of the factors.
    let stacked = "up_blocks.0.2.attention.attn.in_proj_weight";
    let tensors = vec![
        integers(stacked, &[6, 1], &values),
        floats(&format!("{stacked}_scale"), &[1.0, 1.0, 10.0, 10.0, 100.0, 0.0]),
    ];
    let found = open(&dir, &tensors).unwrap();
    let part = |name: &str| found.require(&format!("up_blocks.0.2.attention.{name}.weight"), &[2, 1]).unwrap().to_f32();
    assert_eq!(["to_q", "to_k", "to_v"].map(part), [[1.0, -2.0], [1270.0, 0.0], [500.0, -0.0]]);
}

#[test]
fn factors_that_are_wrong_are_named() {
    let dir = TempDir::new().unwrap();
    let (values, scale) = ([1, 2, 3, 4, 5, 6], format!("{NAME}_scale"));
    let with = |factors: (String, Dtype, Vec<usize>, Vec<u8>)| {
        error_of(
            open(&dir, &vec![integers(NAME, &[2, 3], &values), factors]).and_then(|file| file.require(NAME, &[2, 3])),
        )
    };
    for factors in [&[1.0][..], &[1.0; 3], &[1.0; 6], &[]] {
        let error = with(floats(&scale, factors));
        assert!(error.contains(&format!("`{scale}`: expected [2] in F32")), "{error}");
    }
    let error = with((scale.clone(), Dtype::BF16, vec![2], vec![0; 4]));
    assert!(error.contains(&format!("`{scale}`: expected [2] in F32")) && error.contains("in BF16"), "{error}");
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0] {
        let error = with(floats(&scale, &[1.0, bad]));
        assert!(error.contains(&format!("`{scale}`: expected factors that are finite")), "{error}");
        assert!(error.contains("for row 1"), "{error}");
    }
    let error = with(floats("another_scale", &[1.0; 2]));
    assert!(
        error.contains(&format!("`{NAME}`")) && error.contains("in I8; weights of this type cannot be used unless"),
        "{error}"
    );
    // No number of rows, however it contradicts the elements, is more than an error.
    for dims in [vec![], vec![0, 3], vec![0]] {
        let bytes = vec![0i8; dims.iter().product()];
        let tensors = vec![integers(NAME, &dims, &bytes), floats(&scale, &[1.0])];
        assert!(open(&dir, &tensors).and_then(|file| file.require(NAME, &[2, 3])).is_err(), "{dims:?}");
    }
}

#[test]
fn what_is_not_finite_does_not_become_int8() {
    let dir = TempDir::new().unwrap();
    let mut floats = floats(NAME, &[1.0, 2.0, 3.0, 4.0, f32::NAN, 6.0]);
    floats.2 = vec![2, 3];
    // What makes it a Stage C.
    let marks = ["clf.1.weight", "clip_txt_mapper.weight"].map(|name| self::floats(name, &[0.0]));
    let mut found = open(&dir, &[vec![floats], marks.to_vec()].concat()).unwrap();
    found.quantise();
    let error = error_of(found.require(NAME, &[2, 3]));
    assert!(error.contains(&format!("`{NAME}`: expected finite values")) && error.contains("row 1"), "{error}");
    assert!(!found.require("clf.1.weight", &[1]).unwrap().is_int8());
}
