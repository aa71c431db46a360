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

/// A picture is extended, and what was there stays, pixel by pixel.
#[test]
fn a_picture_is_extended() {
    let room = Room::new();
    apple(&room);
    let before = room.pixels("apple.png");
    let part = |name: &str, left: usize, top: usize| -> Vec<u8> {
        let whole = room.image(name);
        let rows = whole.rgb.chunks(3 * whole.width as usize).skip(top).take(128);
        rows.flat_map(|row| row[3 * left..][..3 * 128].to_vec()).collect()
    };
    let extend = |name: &str, sides: &str, more: &[&str]| {
        let args = ["generate", APPLE, "--steps", "6,3", "--init", "apple.png", "--outpaint", sides, "-o", name];
        room.run(&[&args[..], more].concat());
        room.image(name)
    };
    let wide = extend("wide.png", "32,32,0,16", &[]);
    assert_eq!((wide.width, wide.height), (192, 144));
    assert!(part("wide.png", 32, 0) == before, "what was there stays");
    // The background goes on: all that is new is mostly blue.
    let new = wide.rgb.chunks(3).enumerate().filter(|(i, _)| !(32..160).contains(&(i % 192)) || i / 192 >= 128);
    let new: Vec<&[u8]> = new.map(|(_, pixel)| pixel).collect();
    let blue = new.iter().filter(|p| p[2] > 100 && p[2] > p[0].saturating_add(30)).count();
    assert!(blue * 10 > new.len() * 6, "{blue} of {} new pixels are blue", new.len());
    let record = room.record("wide.png");
    let init = record.init.unwrap();
    assert_eq!((init.outpaint, init.strength, init.mask), (Some([32, 32, 0, 16]), 1.0, None));
    assert_eq!((record.request.width, record.request.height), (192, 144));
    room.same_again("wide.png", &["--init", "apple.png"]);
    room.fails(&["generate", "--from", "wide.png"], 2, &["--init with apple.png"]);
    let words = ["--outpaint: expected a request of 192×144 pixels", "got 64×144"];
    room.fails(&["generate", "--from", "wide.png", "--init", "apple.png", "-W", "64"], 2, &words);

    // What is missing of a multiple of 8 is added on the right and at the bottom.
    let odd = extend("odd.png", "3,2,1,0", &["--strength", "0.7"]);
    assert_eq!((odd.width, odd.height), (136, 136));
    assert!(part("odd.png", 3, 1) == before);
    assert_eq!(room.record("odd.png").init.unwrap().outpaint, Some([3, 2, 1, 0]));

    // An inpainting ControlNet is told which part is new.
    let net = inpainting(&room);
    let told = extend("told.png", "32,32,0,16", &["--control", &net]);
    assert!(part("told.png", 32, 0) == before && told.rgb != wide.rgb);
    let flags = ["--init", "apple.png", "--control", &net];
    room.same_again("told.png", &flags);
    room.fails(
        &["generate", "--from", "told.png", "--init", "apple.png"],
        2,
        &["expected --control net.safetensors --control-strength 1"],
    );
    // As if its picture and its mask had been given.
    let gray = |pixel: &dyn Fn(u32, u32) -> u8| image::GrayImage::from_fn(192, 144, |x, y| image::Luma([pixel(x, y)]));
    gray(&|x, y| if (32..160).contains(&x) && y < 128 { 0 } else { 255 }).save(room.path("mask.png")).unwrap();
    let pixel = |x: u32, y: u32| {
        let at = (y.min(127) * 128 + x.saturating_sub(32).min(127)) as usize * 3;
        image::Rgb([before[at], before[at + 1], before[at + 2]])
    };
    image::RgbImage::from_fn(192, 144, pixel).save(room.path("extended.png")).unwrap();
    let args = ["--control", &net, "--control-image", "extended.png", "--control-mask", "mask.png"];
    assert!(extend("same.png", "32,32,0,16", &args) == told);
    let args = ["generate", APPLE, "--steps", "6,3", "-W", "192", "-H", "144", "-o", "masked.png", "--control", &net];
    let masked = ["--init", "extended.png", "--mask", "mask.png", "--strength", "1"];
    room.run(&[&args[..], &masked].concat());
    assert!(room.image("masked.png") == told, "the same as a mask");

    for (more, words) in [
        (&["--mask", "mask.png"][..], "--mask"),
        (&["--fit", "cover"], "--fit"),
        (&["-W", "128"], "--width"),
        (&["--hires", "2"], "--hires: expected one pass"),
        (&["--prior-only"], "--prior-only"),
    ] {
        let args = ["generate", "x", "--init", "apple.png", "--outpaint", "8,8,8,8", "-o", "never.png"];
        room.fails(&[&args[..], more].concat(), 2, &[words]);
    }
    let args = |sides| ["generate", "x", "--init", "apple.png", "--outpaint", sides, "-o", "never.png"];
    room.fails(
        &args("16000,16000,0,0"),
        2,
        &["--outpaint: expected pixels by which no side becomes longer than 16384"],
    );
    room.fails(&args("0,0,0"), 2, &["like 0,64,0,0", "`0,0,0`"]);
    room.fails(&["generate", "x", "--outpaint", "8,8,8,8"], 2, &["--init"]);
    let words = ["--init with --mask or --outpaint, or a picture with --control-mask", "the picture of --init"];
    room.fails(&["generate", "x", "--init", "apple.png", "--control", &net], 2, &words);
    fs::write(room.path("lines"), "{\"prompt\": \"x\", \"width\": 64}\n").unwrap();
    let lines = ["generate", "--prompts", "lines", "--init", "apple.png", "--outpaint", "8,8,8,8", "-o", "never.png"];
    room.fails(&lines, 2, &["a request of 144×144 pixels", "got 64×144"]);
}

/// An inpainting ControlNet for the demo model: the canny one, with more channels for its hint.
fn inpainting(room: &Room) -> String {
    let of_file = Room::new();
    let path = super::common::root().join("tests/fixtures/control/demo.safetensors");
    fs::copy(path, of_file.path("net.safetensors")).unwrap();
    let mut tensors = of_file.tensors("net.safetensors");
    for (name, dims, values) in &mut tensors {
        if name == "backbone.0.0.weight" {
            *dims = vec![4, 4, 3, 3];
            *values = (0..4 * 4 * 9).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect();
        }
    }
    room.write("net.safetensors", &tensors, None);
    "net.safetensors".into()
}
