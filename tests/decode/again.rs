//! Any picture can be made again from its record, alone, and is the same byte for byte. Runs go on where they stopped.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use cascade_rt::backend::cpu;
use cascade_rt::registry::Caps;
use cascade_rt::{Origin, read_metadata};
use serde_json::{Value, json};

use super::{Room, common};

const PROMPTS: &str = "a pig on a grey background\na star on a red background\na cactus on a pink background\n";

impl Room {
    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Makes a picture again from its record alone, with what the record says must be given in `more`.
    #[track_caller]
    pub(super) fn same_again(&self, name: &str, more: &[&str]) {
        self.run_as_recorded(&[&["generate", "--from", name, "-o", "again.png", "--force"], more].concat());
        assert!(self.bytes("again.png") == self.bytes(name), "{name} is not the same again");
    }

    /// Runs the program without a device, since the record has one.
    #[track_caller]
    fn run_as_recorded(&self, args: &[&str]) -> Output {
        let output = self.start(args).wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn start(&self, args: &[&str]) -> std::process::Child {
        let mut command = common::program();
        command.args(args).current_dir(&self.0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

/// Of every kind of noise, and with every number of pictures at once.
#[test]
fn every_picture_of_a_run_can_be_made_again_alone() {
    let room = Room::new();
    fs::write(room.path("prompts"), PROMPTS).unwrap();
    for noise in ["torch", "torch-bf16", "torch-batch", "torch-batch-bf16", "philox"] {
        let args = ["--prompts", "prompts", "-c", "2", "-s", "5", "-n", "grey", "--noise", noise, "--force", "-o"];
        room.generate(&[&args[..], &["all/"]].concat());
        for k in 1..=6 {
            room.same_again(&format!("all/cascade-5-{k}.png"), &[]);
        }
        // Neither how many are made at once nor the number of texts among them matters.
        let batches = if noise.contains("bf16") { &["4"][..] } else { &["1", "4", "6"] };
        for batch in batches {
            room.generate(&[&args[..], &["other/", "--batch", batch]].concat());
            for k in 1..=6 {
                let [a, b] = ["all", "other"].map(|folder| room.bytes(&format!("{folder}/cascade-5-{k}.png")));
                assert!(a == b, "{noise}: picture {k} in batches of {batch}");
            }
        }
    }
    // With a seed of its own, a picture is that of a run with this seed alone.
    let alone = ["a star on a red background", "-n", "grey", "-s", "7", "--noise", "philox", "-o", "alone.png"];
    room.generate(&alone);
    assert!(room.bytes("alone.png") == room.bytes("all/cascade-5-3.png"));
}

/// However the picture was made: with rounded operands, from latents, from encoded text, by a decoder alone.
#[test]
fn everything_that_made_a_picture_is_in_its_record() {
    let room = Room::new();
    let bf16 = if cpu::detect().contains(Caps::AVX512_BF16) { "bf16" } else { "f32" };
    room.generate(&["a fox", "--dtype", "bf16", "--sampler", "dpmpp-2m", "--guidance", "3,1.5", "-o", "bf16.png"]);
    room.same_again("bf16.png", &[]);
    assert_eq!((&room.record("bf16.png").dtype[..], &room.record("bf16.png").device[..]), (bf16, "cpu"));
    // What this device cannot do is not recorded as done.
    let size = ["-W", "64", "-H", "64", "--steps", "2,2", "--device", "cpu"];
    for (dtype, said) in [("f16", true), ("auto", false)] {
        let output = room.run_as_recorded(
            &[&["generate", "a fox", "--dtype", dtype, "-o", &format!("{dtype}.png")][..], &size].concat(),
        );
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            text.contains("--dtype f16: no kernel of this device rounds to it, so that it is the same as f32"),
            said
        );
        assert_eq!(room.record(&format!("{dtype}.png")).dtype, "f32");
    }
    assert!(room.bytes("f16.png") == room.bytes("auto.png"));

    room.generate(&["a fox", "-c", "2", "--dump", "dump", "-o", "x.png"]);
    room.generate(&["a fox", "-c", "2", "--latents", "dump", "-o", "latents.png"]);
    let given = room.record("latents-2.png").latents.unwrap();
    assert_eq!((&given.file[..], given.row), ("dump", 1));
    room.same_again("latents-2.png", &["--latents", "dump"]);
    room.fails(&["generate", "--from", "latents-2.png"], 2, &["--from latents-2.png: expected --latents with dump"]);

    fs::write(room.path("prompts"), PROMPTS).unwrap();
    room.run(&["encode", "--prompts", "prompts", "-n", "grey", "-o", "t.safetensors"]);
    room.generate(&["--text", "t.safetensors", "-o", "text.png"]);
    room.same_again("text-3.png", &["--text", "t.safetensors"]);
    room.fails(&["generate", "--from", "text-3.png"], 2, &["expected --text with t.safetensors"]);

    for noise in ["torch", "torch-batch"] {
        let prior = ["--prompts", "prompts", "-s", "3", "--noise", noise, "--prior-only", "-o", "p.safetensors"];
        room.generate(&[&prior[..], &["--force"]].concat());
        room.run(&["decode", "p.safetensors", "-s", "9", "--noise", "philox", "-o", "decoded.png", "--force"]);
        assert!(matches!(room.record("decoded-2.png").prior, Some(Origin::Request { .. })));
        for k in 1..=3 {
            room.same_again(&format!("decoded-{k}.png"), &[]);
        }
    }
    // What the flags say is made differently, and nothing else.
    room.generate(&["a fox", "-s", "4", "-o", "four.png"]);
    room.generate(&["--from", "x-1.png", "-s", "4", "-o", "changed.png"]);
    assert!(room.bytes("changed.png") == room.bytes("four.png"));
    room.generate(&["a pig", "--from", "four.png", "-o", "pig.png"]);
    assert_eq!(
        (room.record("pig.png").request.seed, room.record("pig.png").request.prompts),
        (4, vec!["a pig".into()])
    );

    room.generate(&["a fox", "--no-metadata", "-o", "silent.png"]);
    assert!(room.pixels("silent.png").len() == 64 * 64 * 3 && room.inspect("silent.png").contains("no record"));
    room.fails(&["generate", "--from", "silent.png"], 2, &["a picture of cascade-rt, got one without a record"]);
    room.fails(&["generate", "--from", "dump"], 3, &["dump: expected a PNG, JPEG or WebP image"]);
}

/// Two prompts with two settings each, and one picture of all, with the same noise everywhere.
#[test]
fn grids() {
    let room = Room::new();
    fs::write(room.path("prompts"), "a fox\na pig\n").unwrap();
    let vary = ["--prompts", "prompts", "-s", "3", "--vary", "guidance=1,4", "--grid", "grid.webp", "-o", "all/"];
    let made = room.generate(&vary);
    assert_eq!(
        made.lines().collect::<Vec<_>>(),
        ["all/cascade-3-1.png", "all/cascade-3-2.png", "all/cascade-3-3.png", "all/cascade-3-4.png", "grid.webp"]
    );
    let seen: Vec<_> = (1..=4).map(|k| room.record(&format!("all/cascade-3-{k}.png")).request).collect();
    let seen: Vec<_> = seen.iter().map(|of| (&of.prompts[0][..], of.guidance.0, of.seed)).collect();
    assert_eq!(seen, [("a fox", 1.0, 3), ("a fox", 4.0, 3), ("a pig", 1.0, 3), ("a pig", 4.0, 3)]);
    let mut webp = image_webp::WebPDecoder::new(std::io::Cursor::new(room.bytes("grid.webp"))).unwrap();
    let (width, height) = webp.dimensions();
    assert_eq!((width, height), (2 * 72 + 8, 10 + 8 + 2 * (20 + 64 + 8)));
    let mut sheet = vec![0; (width * height * 3) as usize];
    webp.read_image(&mut sheet).unwrap();
    // The last picture is where it belongs.
    let pixels = room.pixels("all/cascade-3-4.png");
    let (left, top) = (8 + 72, 10 + 8 + 92 + 20);
    for y in 0..64 {
        let row = &sheet[((top + y) * width as usize + left) * 3..][..64 * 3];
        assert!(row == &pixels[y * 64 * 3..][..64 * 3], "row {y}");
    }
    room.fails(&["generate", "x", "--vary", "hue=1"], 2, &["`hue`: expected only prompt, negative"]);
    room.fails(&["generate", "x", "-o", "g.png", "--grid", "g.png"], 2, &["another file than --grid"]);
    let axes = ["generate", "--prompts", "prompts", "-c", "2", "--vary", "seed=1,2", "--grid", "h.png"];
    room.fails(&axes, 2, &["--grid: expected two of several prompts"]);
}

/// A preview file shows what all pictures of the batch became in Stage C, and changes nothing of them.
#[test]
fn previews() {
    let room = Room::new();
    let plain = ["a lemon on a teal background", "-c", "2", "-o", "plain.png"];
    room.generate(&plain);
    let shown = ["a lemon on a teal background", "-c", "2", "-o", "shown.png", "--preview", "soon.png"];
    assert_eq!(room.generate(&shown), "shown-1.png\nshown-2.png\n");
    for k in 1..=2 {
        assert!(room.bytes(&format!("plain-{k}.png")) == room.bytes(&format!("shown-{k}.png")), "picture {k}");
    }
    // Two pictures of 2×2 latent pixels, each of which is 8×8.
    let soon = read_metadata(&room.path("soon.png")).unwrap();
    assert_eq!((soon.width, soon.height), (32, 16));
    room.run(&[
        "generate",
        "a fox",
        "--steps",
        "2,2",
        "--prior-only",
        "-o",
        "f.safetensors",
        "--preview",
        "prior.webp",
    ]);
    assert_eq!(&room.bytes("prior.webp")[8..12], b"WEBP");

    // What was there before the run is not its own.
    let again =
        ["generate", "a lemon on a teal background", "--steps", "2,1", "-o", "again.png", "--preview", "soon.png"];
    let before = room.bytes("soon.png");
    room.fails(&again, 2, &["soon.png: expected a new file", "--force"]);
    room.fails(&[&again[..], &["--init", "soon.png", "--force"]].concat(), 2, &["files that this run does not read"]);
    assert!(room.bytes("soon.png") == before);
    room.run(&[&again[..], &["--force"]].concat());
    assert!(room.bytes("soon.png") != before);
    // A run that goes on goes on with them.
    std::fs::remove_file(room.path("again.png")).unwrap();
    room.run(&[&again[..], &["--resume"]].concat());
    room.fails(&["generate", "x", "-o", "g.png", "--preview", "g.png"], 2, &["another file than --preview"]);
    room.fails(
        &["generate", "x", "--grid", "g.png", "--preview", "g.png"],
        2,
        &["--preview: expected another file than --grid"],
    );
    room.fails(&["generate", "x", "--preview", "g.txt"], 2, &["--preview: expected a name that ends in .png"]);
    room.fails(&["generate", "x", "--preview", "terminal"], 2, &["because standard output is no terminal"]);
    room.fails(&["generate", "x", "--preview", "g.png", "--preview-every", "0"], 2, &["--preview-every"]);
    let tiny = common::root().join("tests/fixtures/tiny").display().to_string();
    let args = ["generate", "x", "-m", &tiny, "-W", "64", "-H", "64", "--preview", "g.png"];
    room.fails(&args, 3, &["previewer weights (previewer/diffusion_pytorch_model", "do without previews"]);
}

#[test]
fn formats_by_ending() {
    let room = Room::new();
    room.generate(&["a fox", "-o", "x.png"]);
    for (name, start) in [("x.jpg", &b"\xff\xd8\xff"[..]), ("x.JPEG", b"\xff\xd8\xff"), ("x.webp", b"RIFF")] {
        room.generate(&["a fox", "-o", name]);
        assert!(room.bytes(name).starts_with(start), "{name}");
        assert_eq!(room.record(name), room.record("x.png"));
        let again = format!("again.{}", &name[2..]);
        room.generate(&["--from", name, "-o", &again]);
        assert!(room.bytes(&again) == room.bytes(name));
    }
    let mut webp = image_webp::WebPDecoder::new(std::io::Cursor::new(room.bytes("x.webp"))).unwrap();
    let mut pixels = vec![0; 64 * 64 * 3];
    webp.read_image(&mut pixels).unwrap();
    assert!(pixels == room.pixels("x.png"), "WebP files are without loss");
    room.generate(&["a fox", "-o", "small.jpg", "--quality", "20"]);
    assert!(room.bytes("small.jpg").len() < room.bytes("x.jpg").len());
    room.fails(&["generate", "a fox", "-o", "x.gif"], 2, &["--output: expected a name that ends in .png, .jpg"]);
    let long = "long ".repeat(10_000);
    fs::write(room.path("long"), long).unwrap();
    room.fails(&["generate", "--prompts", "long", "-o", "long.jpg"], 2, &["at most 65000 bytes"]);
}

/// A picture tells its own prompt and nobody else's, and does not grow with the number of pictures.
#[test]
fn a_record_is_of_one_picture() {
    let room = Room::new();
    let many: String = (0..40).map(|i| format!("secret {i:02}\n")).collect();
    fs::write(room.path("prompts"), many).unwrap();
    for noise in ["torch", "torch-batch"] {
        let args = ["--prompts", "prompts", "--noise", noise, "--force", "-o", "all/"];
        room.generate(&args);
        for k in [1, 17, 40] {
            let shown = room.inspect(&format!("all/cascade-0-{k:02}.png"));
            let own = format!("secret {:02}", k - 1);
            assert!(shown.contains(&own) && shown.matches("secret").count() == 2, "{shown}");
            let seed = if noise == "torch" { k - 1 } else { 0 };
            assert!(shown.contains(&format!("Seed: {seed},")) && shown.len() < 2000, "{shown}");
        }
    }
}

/// A run that is stopped keeps what is done, and the next one makes the rest.
#[test]
fn runs_go_on_where_they_stopped() {
    let room = Room::new();
    fs::write(room.path("prompts"), PROMPTS).unwrap();
    let args = ["generate", "--prompts", "prompts", "-W", "64", "-H", "64", "--steps", "2,2", "-q", "--device", "cpu"];
    let finish = |more: &[&str]| {
        let output = room.run_as_recorded(&[&args[..], more].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    finish(&["-o", "whole/"]);
    finish(&["-o", "part/"]);
    fs::remove_file(room.path("part/cascade-0-2.png")).unwrap();
    assert_eq!(finish(&["-o", "part/", "--resume"]), "part/cascade-0-2.png\n");
    assert_eq!(finish(&["-o", "part/", "--resume"]), "");
    assert!(room.bytes("part/cascade-0-2.png") == room.bytes("whole/cascade-0-2.png"));
    // `fails` names the device itself.
    let changed = [&args[1..args.len() - 2], &["-o", "part/", "--resume", "-n", "grey"]].concat();
    let words = ["--resume: expected pictures of the same run", "part/cascade-0-1.png, which was made in another way"];
    room.fails(&[&["generate"], &changed[..]].concat(), 2, &words);

    // Interrupted as soon as the first is there.
    let slow = ["--batch", "1", "--steps", "300,1", "--force", "-o", "stopped/"];
    let child = room.start(&[&args[..7], &["-q", "--device", "cpu"], &slow[..]].concat());
    let start = Instant::now();
    while !room.path("stopped/cascade-0-1.png").exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "there is no picture after a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    let kill = format!("kill -INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(2), "{message}");
    assert!(room.path("stopped/cascade-0-1.png").exists() && !room.path("stopped/cascade-0-3.png").exists());
}

#[test]
fn prompts_from_anywhere() {
    let room = Room::new();
    room.generate(&["a fox", "-o", "want.png"]);
    let piped = |args: &[&str], text: &str| {
        let mut command = common::program();
        let small = ["generate", "-W", "64", "-H", "64", "--steps", "2,2", "--device", "cpu", "-q"];
        command.args(small).args(args).current_dir(&room.0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    piped(&["-o", "pipe.png"], "a fox\n");
    piped(&["-", "-o", "dash.png"], "a fox");
    piped(&["--prompts", "-", "-o", "lines.png"], "\na fox\n");
    for name in ["pipe.png", "dash.png", "lines.png"] {
        assert!(room.bytes(name) == room.bytes("want.png"), "{name}");
    }
    let line = |value: Value| format!("{value}\n");
    let text = line(json!({ "prompt": "a fox" }))
        + &line(json!({ "prompt": "a pig", "seed": 9, "steps": 1, "guidance": [2, 1.5], "negative": "grey" }))
        + &line(json!({ "prompt": "a cat", "width": 72, "count": 2, "output": "own/cats.png" }));
    let made = piped(&["--prompts", "-", "-o", "json/"], &text);
    assert_eq!(made, "json/cascade-0.png\njson/cascade-9.png\njson/own/cats-1.png\njson/own/cats-2.png\n");
    assert!(room.bytes("json/cascade-0.png") == room.bytes("want.png"));
    let pig = room.record("json/cascade-9.png").request;
    assert_eq!((pig.seed, pig.steps, pig.guidance, &pig.negative[..]), (9, (1, 10), (2.0, 1.5), "grey"));
    let cat = room.record("json/own/cats-2.png").request;
    assert_eq!((cat.seed, cat.width, cat.height, cat.steps), (3, 72, 64, (2, 2)));
}

#[test]
fn seeds_by_chance_are_printed() {
    let room = Room::new();
    let mut seen = Vec::new();
    for flag in ["random", "-1"] {
        let output = room.run_as_recorded(&[
            "generate", "a fox", "-W", "64", "-H", "64", "--steps", "1,1", "--device", "cpu", "-s", flag, "-o", "all/",
        ]);
        let said = String::from_utf8(output.stderr).unwrap();
        let seed = said.lines().find_map(|line| line.strip_prefix("seed: ")).unwrap_or_else(|| panic!("{said}"));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("all/cascade-{seed}.png\n"));
        seen.push(seed.to_owned());
    }
    assert_ne!(seen[0], seen[1]);
}

/// What is said before a run is what it takes, and not much more.
#[test]
fn memory_is_known_before() {
    let room = Room::new();
    let all = [
        &["-c", "4"][..],
        &["-c", "4", "--dump", "dump"],
        &["--noise", "torch-batch", "-c", "6"],
        &["--dtype", "int8"],
    ];
    for (i, more) in all.into_iter().enumerate() {
        let output = room.run_as_recorded(
            &[
                &["generate", "a fox", "-W", "768", "-H", "768", "--steps", "1,1", "--device", "cpu"],
                more,
                &["-o", &format!("{i}/")],
            ]
            .concat(),
        );
        let said = String::from_utf8(output.stderr).unwrap();
        let numbers = |line: &str| -> u64 {
            let words: Vec<&str> = line.split(|c: char| c.is_whitespace() || c == ',').collect();
            words.windows(2).filter(|pair| pair[1] == "MiB").map(|pair| pair[0].parse::<u64>().unwrap()).sum()
        };
        let memory = said.lines().find(|line| line.starts_with("memory: ")).unwrap();
        let stated = numbers(memory.split(';').next().unwrap());
        let (_, peak) = said.split_once("peak memory ").unwrap();
        let peak = numbers(peak.lines().next().unwrap());
        println!("{more:?}: stated {stated} MiB, peak {peak} MiB: {memory}");
        assert!(peak <= stated && peak * 2 >= stated, "{more:?}: stated {stated} MiB, peak {peak} MiB: {memory}");
    }
}
