//! ControlNets on the command line. No file of a published one is here: these are small, and their weights are random.

use std::fs;

use super::{Room, Tensors, common};

impl Room {
    /// A picture to begin with, and the ControlNet's file for the demo model.
    fn with_picture() -> (Self, String) {
        let room = Self::new();
        room.run(&["generate", "a star on a red background", "--steps", "4,2", "-o", "star.png"]);
        (room, fixture("demo"))
    }
}

impl Room {
    /// Runs `annotate`; returns its exit code and all that it prints.
    fn annotate(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = common::program().arg("annotate").args(args).current_dir(&self.0).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }
}

fn fixture(name: &str) -> String {
    common::root().join(format!("tests/fixtures/control/{name}.safetensors")).display().to_string()
}

const PLAIN: [&str; 4] = ["generate", "a pig on a grey background", "--steps", "4,2"];

#[test]
fn a_control_net_steers() {
    let (room, net) = Room::with_picture();
    let steered = [&PLAIN[..], &["--control", &net, "--control-image", "star.png"]].concat();
    let with = |name: &str, more: &[&str]| {
        room.run(&[&steered[..], more, &["-o", name]].concat());
        room.pixels(name)
    };
    room.run(&[&PLAIN[..], &["-o", "plain.png"]].concat());
    let plain = room.pixels("plain.png");
    let all = with("all.png", &[]);
    assert!(all != plain);
    assert!(with("none.png", &["--control-strength", "0"]) == plain);
    assert!(with("never.png", &["--control-range", "0.3,0.4"]) == plain, "no step lies in there as a whole");
    let begin = with("begin.png", &["--control-range", "0,0.5", "--control-strength", "0.8"]);
    assert!(begin != plain && begin != all);
    let end = with("end.png", &["--control-range", "0.5,1", "--control-strength", "0.8"]);
    assert!(end != plain && end != begin);

    let [record] = &room.record("begin.png").controls[..] else { panic!("one ControlNet is in the record") };
    assert_eq!((&record.file[..], &record.image[..]), ("demo.safetensors", "star.png"));
    assert_eq!((record.strength, record.range, record.mask.as_ref()), (0.8, (0.0, 0.5), None));
    let words = ["--control demo.safetensors --control-image star.png --control-strength 0.8 --control-range 0,0.5"];
    room.fails(&["generate", "--from", "begin.png"], 2, &words);
    let flags =
        ["--control", &net, "--control-image", "star.png", "--control-strength", "0.8", "--control-range", "0,0.5"];
    room.run(&[&["generate", "--from", "begin.png", "-o", "again.png"], &flags[..]].concat());
    assert!(fs::read(room.path("again.png")).unwrap() == fs::read(room.path("begin.png")).unwrap());

    // Two of the same act as one of twice the strength, up to the order of sums.
    let twice = with("twice.png", &["--control", &net, "--control-image", "star.png", "--control-strength", "0.5"]);
    let far = twice.iter().zip(&all).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(far <= 2, "two halves differ by {far} from a whole");
}

/// A hint that was prepared elsewhere, edges that were found before, and the picture lead to the same where the hint is.
#[test]
fn hints_in_files() {
    let (room, net) = Room::with_picture();
    let args = ["canny", "star.png", "-o", "edges.png", "--low", "20", "--high", "60"];
    assert_eq!(room.annotate(&args), (Some(0), "edges.png\n".into()));
    let edges = room.pixels("edges.png");
    assert!(edges.contains(&255) && edges.iter().all(|v| [0, 255].contains(v)));
    let refused = |output: &str, words: &str| {
        let (code, said) = room.annotate(&["canny", "star.png", "-o", output]);
        assert!(code == Some(2) && said.contains(words), "{code:?}: {said}");
    };
    refused("edges.png", "edges.png");
    refused("star.png", "star.png");
    refused("e.txt", "a name that ends in .png");
    let (code, said) = room.annotate(&["canny", "star.png", "-o", "star.png", "--force"]);
    assert!(code == Some(2) && said.contains("files that this run does not read"), "{code:?}: {said}");

    // Of 96×96 pixels, as the hint for 3×3 latents has, and half of it white.
    let white = |i: usize| i % 96 < 48;
    let image = cascade_rt::Image {
        width: 96,
        height: 96,
        rgb: (0..96 * 96).flat_map(|i| [if white(i) { 255 } else { 0 }; 3]).collect(),
    };
    image.save(room.path("half.png")).unwrap();
    let values = (0..96 * 96).map(|i| if white(i) { 1.0 } else { 0.0 }).collect();
    room.write("half.safetensors", &vec![("hint".into(), vec![1, 96, 96], values)], None);
    let of = |hint: &str, name: &str| {
        room.run(&[&PLAIN[..], &["--control", &net, "--control-image", hint, "-o", name]].concat());
        room.pixels(name)
    };
    assert!(of("half.png", "a.png") == of("half.safetensors", "b.png"));
}

#[test]
fn wrong_files_and_numbers() {
    let (room, net) = Room::with_picture();
    let fails = |args: &[&str], code, words: &[&str]| room.fails(&[&PLAIN[..], args].concat(), code, words);
    let image = ["--control-image", "star.png"];
    let with = |file: &str, code, words: &[&str]| fails(&[&["--control", file], &image[..]].concat(), code, words);
    with("missing.safetensors", 3, &["missing.safetensors"]);
    with("star.png", 3, &["star.png"]);
    let stage_a = common::root().join("tests/fixtures/tiny-original/stage_a.safetensors").display().to_string();
    with(&stage_a, 3, &["expected a ControlNet for Stable Cascade, found Stage A"]);
    let one = |name: &str, dims: &[usize]| -> (String, Vec<usize>, Vec<f32>) {
        (name.into(), dims.to_vec(), vec![0.1; dims.iter().product()])
    };
    room.write("sd.safetensors", &vec![one("controlnet_cond_embedding.conv_in.weight", &[4, 3, 3, 3])], None);
    with("sd.safetensors", 3, &["a Stable Diffusion ControlNet (with `controlnet_cond_embedding"]);

    // For another Stage C: of as many residual blocks, but wider, or of more.
    let mut large: Tensors = vec![
        one("backbone.0.weight", &[4, 1, 3, 3]),
        one("backbone.0.bias", &[4]),
        one("backbone.2.weight", &[1, 4, 3, 3]),
        one("backbone.2.bias", &[1]),
    ];
    for k in 0..6 {
        large.push(one(&format!("projections.{k}.0.weight"), &[1, 1, 1, 1]));
        large.push(one(&format!("projections.{k}.2.weight"), &[2048, 1, 1, 1]));
    }
    room.write("large.safetensors", &large, None);
    room.write("hint.safetensors", &vec![one("hint", &[1, 5, 5])], None);
    let hint = ["--control-image", "hint.safetensors"];
    let words = ["a ControlNet for a Stage C of 192 channels", "2048 channels, the Stage C of 3.6 B parameters"];
    fails(&[&["--control", "large.safetensors"], &hint[..]].concat(), 3, &words);
    with(&fixture("canny"), 3, &["a ControlNet for a Stage C of 6 residual blocks", "one with 8"]);
    large.retain(|(name, ..)| name != "projections.3.0.weight");
    room.write("torn.safetensors", &large, None);
    fails(&[&["--control", "torn.safetensors"], &hint[..]].concat(), 3, &["projections.3.0.weight"]);

    // Hints that are not what it takes.
    fails(&["--control", &fixture("identity"), "--control-image", "star.png"], 2, &["`hint`, [6, height, width]"]);
    fails(&["--control", &fixture("identity"), "--control-image", "hint.safetensors"], 3, &["expected [6, 5, 5]"]);
    room.write("other.safetensors", &vec![one("x", &[1])], None);
    fails(&["--control", &net, "--control-image", "other.safetensors"], 3, &["a tensor `hint`"]);
    fails(&[&["--control", &fixture("inpainting")], &image[..]].concat(), 2, &["a picture with --control-mask"]);
    room.annotate(&["canny", "star.png", "-o", "mask.png"]);
    fails(
        &[&["--control", &net, "--control-mask", "mask.png"], &image[..]].concat(),
        2,
        &["a --control that inpaints"],
    );

    fails(&["--control", &net], 2, &["--control-image"]);
    fails(&[&["--control", &net, "--control", &net], &image[..]].concat(), 2, &["--control-image: expected one for 2"]);
    let strengths = ["--control", &net, "--control-strength", "1", "--control-strength", "2"];
    fails(&[&strengths[..], &image].concat(), 2, &["--control-strength"]);
    fails(&[&["--control", &net, "--control-range", "0.6,0.4"], &image[..]].concat(), 2, &["the lower one first"]);
}
