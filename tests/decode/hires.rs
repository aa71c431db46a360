//! Larger pictures: two passes of Stage C, and the super-resolution ControlNet.

use std::fs;

use cascade_rt::image::Image;

use super::{Room, Tensors, common};

impl Room {
    pub(super) fn image(&self, name: &str) -> Image {
        let metadata = cascade_rt::read_metadata(&self.path(name)).unwrap();
        Image { width: metadata.width, height: metadata.height, rgb: self.pixels(name) }
    }
}

/// The mean colours of 8 × 8 cells.
fn layout(image: &Image) -> Vec<f64> {
    let (w, h) = (image.width as usize, image.height as usize);
    let mut cells = vec![0.0; 8 * 8 * 3];
    for (i, value) in image.rgb.iter().enumerate() {
        let (x, y) = (i / 3 % w * 8 / w, i / 3 / w * 8 / h);
        cells[(8 * y + x) * 3 + i % 3] += f64::from(*value) * 64.0 / (w * h) as f64;
    }
    cells
}

/// The median colour of the cells at the border.
fn background(image: &Image) -> [f64; 3] {
    let cells = layout(image);
    [0, 1, 2].map(|channel| {
        let border = (0..64).filter(|i| [0, 7].contains(&(i % 8)) || [0, 7].contains(&(i / 8)));
        let mut values: Vec<f64> = border.map(|i| cells[3 * i + channel]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    })
}

/// How far apart two layouts are, of 255.
fn apart(a: &Image, b: &Image) -> f64 {
    let (a, b) = (layout(a), layout(b));
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64
}

/// The second pass keeps the colours and the layout of the first, and is no enlargement of it.
#[test]
fn two_passes_show_what_one_shows() {
    let room = Room::new();
    let [mut near, mut nearer, mut far] = [0.0; 3];
    for (name, prompt) in [("banana", "a banana on a purple background"), ("lemon", "a lemon on a teal background")] {
        let images = |kind: &str, more: &[&str]| -> Vec<Image> {
            room.run(
                &[&["generate", prompt, "-c", "4", "--steps", "20,2", "-o", &format!("{name}-{kind}.png")], more]
                    .concat(),
            );
            (1..=4).map(|k| room.image(&format!("{name}-{kind}-{k}.png"))).collect()
        };
        let small = images("small", &[]);
        let sum = |large: &[Image]| large.iter().zip(&small).map(|(large, small)| apart(large, small)).sum::<f64>();
        let large = images("large", &["--hires", "1.25"]);
        let little = images("little", &["--hires", "1.25", "--hires-strength", "0.1"]);
        let plain = images("plain", &["-W", "160", "-H", "160"]);
        assert_eq!((large[0].width, large[0].height), (160, 160));
        near += sum(&large);
        nearer += sum(&little);
        far += sum(&plain);
        for k in 0..4 {
            assert!(large[k] != little[k] && large[k] != plain[k]);
            let (now, before) = (background(&large[k]), background(&small[k]));
            assert!((0..3).all(|c| (now[c] - before[c]).abs() < 30.0), "{prompt}, {k}: {now:?}, before {before:?}");
        }
    }
    println!("apart from the first pass: {near:.0}, at a strength of 0.1 {nearer:.0}; one pass of that size {far:.0}");
    assert!(near < 0.9 * far && nearer < 0.7 * far, "{near} and {nearer} apart, one pass {far}");
    // It is in the record.
    let record = room.record("banana-large-1.png");
    assert_eq!((record.request.width, record.request.hires, record.request.hires_strength), (128, 1.25, 0.3));
    assert!(record.parameters().contains("Denoising strength: 0.3, Hires upscale: 1.25, Version"));
    room.same_again("banana-large-1.png", &[]);
    room.run(&["generate", "--from", "banana-large-1.png", "--hires", "1", "-o", "one.png"]);
    assert!(fs::read(room.path("one.png")).unwrap() == fs::read(room.path("banana-small-1.png")).unwrap());
    let text = fs::read(room.path("one.png")).unwrap();
    assert!(!text.windows(5).any(|part| part == b"hires"), "a record of one pass does not mention two");
}

/// In parts, in batches, in lines of their own, and with what else Stage C is given.
#[test]
fn two_passes_in_parts() {
    let room = Room::new();
    let two = ["--hires", "2", "--hires-strength", "0.7"];
    room.generate(&[&["a pig", "-c", "3", "-o", "pig.png"], &two[..]].concat());
    room.generate(&[&["a pig", "-c", "3", "-o", "alone.png", "--batch", "1"], &two[..]].concat());
    room.generate(&[&["a pig", "-c", "3", "--prior-only", "-o", "pig.safetensors"], &two[..]].concat());
    room.run(&["decode", "pig.safetensors", "-o", "decoded.png"]);
    for k in 1..=3 {
        let [whole, alone, decoded] =
            ["pig", "alone", "decoded"].map(|name| fs::read(room.path(&format!("{name}-{k}.png"))).unwrap());
        assert!(whole == alone && whole == decoded, "picture {k}");
        room.same_again(&format!("decoded-{k}.png"), &[]);
    }
    assert_eq!(room.image("pig-1.png").width, 128);
    // Another size of the picture, of the same latents.
    room.run(&["decode", "pig.safetensors", "-W", "192", "-H", "128", "-o", "wide.png"]);
    assert_eq!((room.image("wide-1.png").width, room.image("wide-1.png").height), (192, 128));
    room.same_again("wide-1.png", &[]);

    let lines =
        "{\"prompt\": \"a pig\", \"hires\": 2, \"hires_strength\": 0.7}\n{\"prompt\": \"a pig\", \"seed\": 1}\n";
    fs::write(room.path("prompts.jsonl"), lines).unwrap();
    room.generate(&["--prompts", "prompts.jsonl", "-o", "lines.png"]);
    assert!(room.pixels("lines-1.png") == room.pixels("pig-1.png") && room.image("lines-2.png").width == 64);
    room.generate(&["a pig", "--vary", "hires=1,2", "--hires-strength", "0.7", "--grid", "grid.png", "-o", "v.png"]);
    room.generate(&["a pig", "-o", "plain.png"]);
    assert!(room.pixels("v-1.png") == room.pixels("plain.png"));
    assert!(room.pixels("v-2.png") == room.pixels("pig-1.png"));

    let init = ["--init", "pig-1.png", "--strength", "0.5"];
    room.generate(&[&["a pig", "-o", "begun.png"], &init[..], &two].concat());
    room.same_again("begun.png", &init[..2]);
    assert!(room.pixels("begun.png") != room.pixels("pig-1.png"));
    room.fails(&["generate", "a pig", "--hires-strength", "0.5"], 2, &["--hires-strength", "--hires above 1"]);
    room.fails(&["generate", "--from", "v-1.png", "--hires-strength", "0.5"], 2, &["--hires above 1"]);
}

/// The weights of a super-resolution ControlNet for the demo model, which are random.
fn super_resolution(room: &Room) -> String {
    let path = common::root().join("tests/fixtures/control/super_resolution.safetensors");
    let of_file = Room::new();
    fs::copy(path, of_file.path("net.safetensors")).unwrap();
    let mut tensors: Tensors = of_file.tensors("net.safetensors");
    tensors.retain(|(name, ..)| !name.starts_with("projections."));
    for k in 0..6 {
        let values = |n: usize| (0..n).map(|i| ((i * 37 + k * 11) % 23) as f32 / 23.0 - 0.5).collect::<Vec<f32>>();
        tensors.push((format!("projections.{k}.0.weight"), vec![20, 20, 1, 1], values(400)));
        tensors.push((format!("projections.{k}.2.weight"), vec![192, 20, 1, 1], values(192 * 20)));
    }
    room.write("sr.safetensors", &tensors, None);
    "sr.safetensors".into()
}

/// `upscale` is a run of `generate` that is told of the picture.
#[test]
fn a_control_net_enlarges() {
    let room = Room::new();
    let net = super_resolution(&room);
    let apple = ["generate", "a red apple on a blue background", "--steps", "2,2"];
    room.run(&[&apple[..], &["-W", "64", "-H", "88", "-o", "small.png"]].concat());
    let upscale = ["upscale", "small.png", "--control", &net, "--prompt", "a red apple", "--steps", "3,2"];
    assert_eq!(room.run(&[&upscale[..], &["-o", "large.png", "-s", "5"]].concat()), "large.png\n");
    let large = room.image("large.png");
    assert_eq!((large.width, large.height), (128, 176));
    let generate =
        ["generate", "a red apple", "-W", "128", "-H", "176", "--steps", "3,2", "--guidance", "1", "-s", "5"];
    let told = ["--control", &net, "--control-image", "small.png"];
    room.run(&[&generate[..], &told, &["-o", "again.png"]].concat());
    assert!(room.pixels("again.png") == large.rgb);
    room.same_again("large.png", &told);
    room.run(&[&generate[..], &["-o", "plain.png"]].concat());
    assert!(room.pixels("plain.png") != large.rgb, "the picture counts");
    room.run(&[&upscale[..], &["-o", "none.png", "-s", "5", "--control-strength", "0"]].concat());
    assert!(room.pixels("none.png") == room.pixels("plain.png"));

    let demo = common::root().join("tests/fixtures/control/demo.safetensors").display().to_string();
    let words = ["a ControlNet for super-resolution", "one for canny edges"];
    room.fails(&["upscale", "small.png", "--control", &demo], 3, &words);
    room.fails(&["upscale", "small.png"], 2, &["--control"]);
    room.fails(&["upscale", "none", "--control", &net], 7, &["none"]);
    image::GrayImage::new(8200, 1).save(room.path("long.png")).unwrap();
    room.fails(&["upscale", "long.png", "--control", &net], 2, &["long.png", "at most 8192 pixels", "8200×1"]);
    room.fails(&[&upscale[..], &["-o", "small.png", "--force"]].concat(), 2, &["files that this run does not read"]);
    room.fails(&[&upscale[..], &["-o", &net, "--force"]].concat(), 2, &["a name that ends in .png"]);
}
