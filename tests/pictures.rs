//! Pictures that are given: files of all kinds against what Pillow makes of them, and files that are damaged.
#![cfg(feature = "pictures")]

mod common;

use std::path::Path;

use cascade_rt::image::Image;
use cascade_rt::picture::{Area, Filter, canny, canny_hint, clip_crop, decode, read, resample};
use safetensors::SafeTensors;

fn fixture() -> Vec<u8> {
    std::fs::read(common::root().join("tests/fixtures/pictures.safetensors")).unwrap()
}

/// The largest difference of two pictures' values; panics if their sizes differ.
fn difference(name: &str, got: &Image, file: &SafeTensors<'_>) -> u8 {
    let want = file.tensor(name).unwrap();
    assert_eq!(want.shape(), [got.height as usize, got.width as usize, 3], "{name}");
    got.rgb.iter().zip(want.data()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn files_are_read_and_resized_as_pillow_does() {
    let bytes = fixture();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let names: Vec<&str> = file.names().into_iter().filter_map(|name| name.strip_suffix(".file")).collect();
    assert!(names.len() >= 70, "{} pictures", names.len());
    for name in names {
        let picture = decode(file.tensor(&format!("{name}.file")).unwrap().data(), Path::new(name)).unwrap();
        // Decoders of JPEG round differently, the most where they enlarge colours; the standard allows it.
        let is_enlarged = name.contains("_42");
        let most = if !name.starts_with("jpeg") {
            0
        } else if is_enlarged {
            3
        } else {
            2
        };
        let decoded = difference(&format!("{name}.rgb"), &picture, &file);
        assert!(decoded <= most, "{name}: decoded values differ by {decoded}");

        // What an encoder is shown.
        let shown = difference(&format!("{name}.bicubic"), &clip_crop(&picture, 20), &file);
        if decoded > 0 || shown > 0 {
            println!("{name}: decoded values differ by {decoded}, resized by {shown}");
        }
        assert!(shown <= if is_enlarged { 3 } else { 1 }, "{name}: what an encoder is shown differs by {shown}");

        // The filters alone, on Pillow's own pixels.
        let rgb = file.tensor(&format!("{name}.rgb")).unwrap().data().to_vec();
        let picture = Image { rgb, ..picture };
        let resized = difference(&format!("{name}.bicubic"), &clip_crop(&picture, 20), &file);
        assert!(resized <= 1, "{name}: resized values differ by {resized}");
        let small = resample(&picture, Area::of(&picture), (17, 9), (0..17, 0..9), Filter::Bilinear);
        let resized = difference(&format!("{name}.bilinear"), &small, &file);
        assert!(resized <= 1, "{name}: resized values differ by {resized}");
    }
}

#[test]
fn truncated_and_damaged_files_are_errors() {
    let bytes = fixture();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let path = Path::new("in.png");
    for name in
        ["png_rgb_31x47", "png_palette_200_30x30", "jpeg_420", "jpeg_progressive", "webp_lossy", "webp_lossless"]
    {
        let whole = file.tensor(&format!("{name}.file")).unwrap().data().to_vec();
        for len in 0..whole.len() {
            // The last bytes of a file may be padding, or a mark of its end that decoders do without.
            if let Err(error) = decode(&whole[..len], path) {
                let error = error.to_string();
                assert!(error.starts_with("in.png: expected ") && error.contains(", found "), "{name}: {error}");
            } else {
                assert!(len * 20 > whole.len(), "{name}: {len} of {} bytes make a picture", whole.len());
            }
        }
        for at in (0..whole.len()).step_by(3) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            let _ = decode(&damaged, path); // It must not panic; not every flaw can be seen.
        }
    }
}

/// A PNG that claims a size, without the pixels.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Sixteen);
    let mut writer = encoder.write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, &[0x78, 0x9c]).unwrap();
    drop(writer);
    bytes
}

#[test]
fn what_is_too_large_is_refused_before_it_is_decoded() {
    for (width, height) in [(30_000, 30_000), (40_000, 1), (1, u32::MAX >> 1)] {
        let error = decode(&bomb(width, height), Path::new("bomb.png")).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        assert!(
            error.contains("at most 100 million pixels") && error.contains(&format!("{width}×{height}")),
            "{error}"
        );
    }
}

#[test]
fn other_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text.png");
    std::fs::write(&path, "a red apple").unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.ends_with("expected a PNG, JPEG or WebP picture, found something else; convert it"), "{error}");
    std::fs::write(&path, "").unwrap();
    assert!(read(&path).unwrap_err().to_string().ends_with("found an empty file"));
    assert!(read(dir.path()).unwrap_err().to_string().contains("cannot read"));
    let error = read(&dir.path().join("none.png")).unwrap_err();
    assert_eq!(error.exit_code(), 7);
}

/// Edges are those of OpenCV, pixel by pixel, and a canny ControlNet is told what it was trained with.
#[test]
fn edges_are_those_of_opencv() {
    let bytes = std::fs::read(common::root().join("tests/fixtures/control/edges.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut last = None;
    for i in 0..8 {
        let tensor = |name: &str| file.tensor(&format!("{name}_{i}")).unwrap();
        let (picture, edges) = (tensor("picture"), tensor("edges"));
        let [low, high] =
            [0, 4].map(|at| u16::from_le_bytes([tensor("thresholds").data()[at], tensor("thresholds").data()[at + 1]]));
        let (height, width) = (picture.shape()[0] as u32, picture.shape()[1] as u32);
        let picture = Image { width, height, rgb: picture.data().to_vec() };
        let found = canny(&picture, low, high);
        assert!(found == edges.data(), "picture {i}, {width}×{height}, thresholds {low} and {high}");
        assert!(width.min(height) == 1 || found.contains(&255) && found.contains(&0), "picture {i}");
        last = Some(picture);
    }
    let hint = file.tensor("hint").unwrap();
    let want: Vec<f32> = hint.data().chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let got = canny_hint(&last.unwrap());
    assert_eq!(got.len(), want.len());
    // Where a value lies between two bytes, torch may round it otherwise, which moves an edge by a pixel of 224.
    let off = got.iter().zip(&want).filter(|(got, want)| (*got - *want).abs() > 1e-5).count();
    assert!(off <= got.len() / 100, "{off} of {} values differ", got.len());
    // Edges are not looked for in edges.
    let edges = Image { width: 2, height: 1, rgb: vec![0, 0, 0, 255, 255, 255] };
    assert_eq!(canny_hint(&edges), [0.0, 1.0]);
}
