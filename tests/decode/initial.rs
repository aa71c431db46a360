//! Pictures that are given: encoded, decoded again, and changed.

use std::fs;

use cascade_rt::Sampler;
use serde_json::Value;

use super::{Room, dims};

const APPLE: &str = "a red apple on a blue background";

/// A picture of the demo model's own size.
fn apple(room: &Room) {
    room.run(&["generate", APPLE, "-o", "apple.png"]);
}

/// Encoding and decoding are one reconstruction in two parts, and nothing is left to change at a strength of 0.
#[test]
fn a_picture_is_encoded_and_decoded() {
    let room = Room::new();
    apple(&room);
    let printed = room.run(&["reconstruct", "apple.png", "-o", "whole.png"]);
    let decibels =
        printed.lines().find_map(|line| line.strip_prefix("PSNR ")?.strip_suffix(" dB")?.parse::<f64>().ok());
    assert!(printed.starts_with("whole.png\n") && decibels.is_some_and(|decibels| decibels > 15.0), "{printed}");
    let whole = room.pixels("whole.png");

    room.run(&["encode", "apple.png", "-o", "apple.safetensors"]);
    let tensors = room.tensors("apple.safetensors");
    assert_eq!(dims(&tensors).last().unwrap(), &("stage_c", &[1, 16, 3, 3][..]));
    room.run(&["decode", "apple.safetensors", "-o", "parts.png"]);
    assert!(room.pixels("parts.png") == whole, "decoded in a run of its own");
    room.run(&["generate", "--init", "apple.png", "--strength", "0", "-o", "zero.png"]);
    assert!(room.pixels("zero.png") == whole, "with nothing to change");
    for name in ["whole.png", "parts.png", "zero.png"] {
        room.same_again(name, &["--init", "apple.png"]);
        room.fails(&["generate", "--from", name], 2, &["expected --init with apple.png"]);
    }

    // Of another size, and by Stage A alone, which keeps more.
    let small = ["-W", "64", "-H", "96", "--fit", "contain", "--json"];
    let json = |args: &[&str]| -> Value { serde_json::from_str(&room.run(&[args, &small].concat())).unwrap() };
    let c = json(&["reconstruct", "apple.png", "-o", "c.png"]);
    let a = json(&["reconstruct", "apple.png", "--stage", "a", "-o", "a.png"]);
    let [a, c] = [a, c].map(|of| of["psnr"].as_f64().unwrap());
    assert!(a > c + 3.0 && c > 10.0, "{a} dB by Stage A, {c} dB by Stage C");
    assert_eq!(room.pixels("a.png").len(), 64 * 96 * 3);
    assert_eq!((room.record("c.png").init.unwrap().fit, room.record("a.png").init), ("contain".to_owned(), None));
    // Nothing is made twice.
    let resumed = json(&["reconstruct", "apple.png", "-o", "c.png", "--resume"]);
    assert_eq!((&resumed["psnr"], resumed["images"].as_array().unwrap().len()), (&Value::Null, 0));
}

/// With every sampler: at 0 the picture, at 1 nothing of it, in between something of either, whatever the batch.
#[test]
fn a_picture_is_changed_by_any_sampler() {
    let room = Room::new();
    apple(&room);
    const LEMON: &str = "a lemon on a teal background";
    let small = |args: &[&str], steps: &str| room.run(&[args, &["-W", "64", "-H", "64", "--steps", steps]].concat());
    small(&["reconstruct", "apple.png", "--prompt", LEMON, "-o", "whole.png"], "1");
    for (name, _) in Sampler::NAMES {
        let generate =
            |more: &[&str]| small(&[&["generate", LEMON, "--sampler", name, "--force"], more].concat(), "4,1");
        let made = |more: &[&str]| {
            generate(&[&["-o", "made.png"], more].concat());
            room.pixels("made.png")
        };
        let plain = made(&[]);
        let of = |strength: &str| made(&["--init", "apple.png", "--strength", strength]);
        assert!(of("1") == plain, "{name}: text alone");
        assert!(of("0") == room.pixels("whole.png"), "{name}: the picture alone");
        let half = of("0.5");
        room.same_again("made.png", &["--init", "apple.png"]);
        assert!(half != plain && half != of("0.25") && half != of("0"), "{name}");
        generate(&["--init", "apple.png", "--strength", "0.5", "-c", "2", "-o", "two.png"]);
        assert!(room.pixels("two-1.png") == half && room.pixels("two-2.png") != half, "{name}: two at once");
    }
}

/// What is given besides, and where it goes: latents for later, other sizes, a line's own settings.
#[test]
fn a_picture_is_changed_in_parts() {
    let room = Room::new();
    apple(&room);
    let init = ["--init", "apple.png", "--strength", "0.5"];
    room.generate(&[&["a pig", "-o", "pig.png"], &init[..]].concat());
    room.generate(&[&["a pig", "--prior-only", "-o", "pig.safetensors"], &init[..]].concat());
    room.run(&["decode", "pig.safetensors", "-o", "decoded.png"]);
    assert!(room.pixels("decoded.png") == room.pixels("pig.png"));
    room.run(&["decode", "pig.safetensors", "-s", "3", "-o", "other.png"]);
    for name in ["decoded.png", "other.png"] {
        room.same_again(name, &["--init", "apple.png"]);
    }
    // What the flags say is made differently.
    room.generate(&["--from", "pig.png", "--init", "apple.png", "--strength", "1", "-o", "one.png"]);
    room.generate(&["a pig", "-o", "plain.png"]);
    assert!(room.pixels("one.png") == room.pixels("plain.png"));

    let lines = "{\"prompt\": \"a pig\", \"width\": 64}\n{\"prompt\": \"a pig\", \"width\": 128}\n";
    fs::write(room.path("prompts.jsonl"), lines).unwrap();
    let args = ["generate", "-H", "64", "--steps", "2,2", "--prompts", "prompts.jsonl", "-o", "sizes.png"];
    room.run(&[&args[..], &init].concat());
    assert!(room.pixels("sizes-1.png") == room.pixels("pig.png"));
    assert_eq!(room.pixels("sizes-2.png").len(), 128 * 64 * 3);
    // A picture needs no prompt.
    room.generate(&["--init", "apple.png", "-o", "silent.png"]);
    assert_eq!(room.record("silent.png").init.unwrap().strength, 0.6);
}

/// A mask says where a picture changes: the rest of it stays as it is, pixel by pixel.
#[test]
fn a_part_of_a_picture_is_repainted() {
    let room = Room::new();
    apple(&room);
    let before = room.pixels("apple.png");
    let picture = |name: &str, pixel: &dyn Fn(u32, u32) -> [u8; 4]| {
        image::RgbaImage::from_fn(128, 128, |x, y| image::Rgba(pixel(x, y))).save(room.path(name)).unwrap();
    };
    let right = |x: u32| if x >= 64 { 255 } else { 0 };
    picture("white.png", &|x, _| [right(x), right(x), right(x), 255]);
    picture("alpha.png", &|x, _| [9, 9, 9, u8::MAX - right(x)]);
    let half = |pixels: &[u8], at: usize| -> Vec<u8> {
        pixels.chunks(3 * 128).flat_map(|row| row[at * 3 * 64..][..3 * 64].to_vec()).collect()
    };
    let made = |mask: &str, more: &[&str]| {
        let args =
            ["generate", "a lemon on a teal background", "--init", "apple.png", "--mask", mask, "-o", "made.png"];
        room.run(&[&args[..], &["--steps", "6,3", "--force"], more].concat());
        room.pixels("made.png")
    };
    for sampler in ["ddpm", "dpmpp-2m"] {
        for noise in ["torch", "philox"] {
            let more = ["--sampler", sampler, "--noise", noise, "--strength", "1"];
            let after = made("white.png", &more);
            room.same_again("made.png", &["--init", "apple.png", "--mask", "white.png"]);
            assert!(half(&after, 0) == half(&before, 0), "{sampler}, {noise}: what is not masked stays");
            let changed = half(&after, 1).iter().zip(half(&before, 1)).filter(|(a, b)| a.abs_diff(*b) > 40).count();
            assert!(changed > 128 * 64, "{sampler}, {noise}: only {changed} values have changed");
            assert!(made("alpha.png", &more) == after, "{sampler}, {noise}: the alpha channel is a mask as well");
        }
    }
    room.fails(&["generate", "--from", "made.png", "--init", "apple.png"], 2, &["expected --mask with alpha.png"]);
    // What is kept tells the rest what to be: a picture that goes on is not two halves that know nothing of each other.
    let alone = made("white.png", &["--strength", "0.6"]);
    assert!(half(&alone, 0) == half(&before, 0) && alone != before);

    picture("none.png", &|_, _| [0, 0, 0, 255]);
    assert!(made("none.png", &["--strength", "1"]) == before, "nothing is masked");
    let small = image::GrayImage::new(64, 64);
    small.save(room.path("small.png")).unwrap();
    let args = ["generate", "x", "--init", "apple.png", "--mask", "small.png", "-o", "never.png"];
    room.fails(&args, 2, &["--mask", "expected 128×128 pixels, as apple.png has", "got 64×64"]);
    room.fails(&["generate", "x", "--mask", "white.png"], 2, &["--init"]);
}
