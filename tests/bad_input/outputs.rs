//! Outputs: files that cannot or must not be written, standard
//! output, the metadata of pictures, and determinism.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Room, fixture, text};

#[test]
fn files_that_cannot_be_written() {
    let room = Room::new();
    room.write("file", "precious");
    fs::create_dir(room.path("folder")).unwrap();
    std::os::unix::fs::symlink("nowhere", room.path("link")).unwrap();
    fs::create_dir(room.path("pair-2.png")).unwrap();
    let long = "x".repeat(300);
    for (args, code, words) in [
        (&["-o", "file"][..], 2, ["file: expected a new file, or --force", "exists"]),
        (&["-o", "link"], 2, ["link: expected a new file, or --force", "exists"]),
        (&["-o", "file/x.png", "--force"], 7, ["file/x.png: cannot create", "Not a directory"]),
        (&["-o", "file/", "--force"], 7, ["file/cascade-0.png: cannot", "Not a directory"]),
        (&["-o", "file/more/"], 7, ["file/more/cascade-0.png: cannot", "Not a directory"]),
        (&["-o", "none/x.png"], 7, ["none/x.png: cannot create: No such file", "(os error 2); check the path\n"]),
        (&["-o", &long], 7, ["cannot create", "choose a shorter name"]),
        (&["-o", "x.gif"], 2, ["--output: expected a name that ends in .png, .jpg, .jpeg or .webp", "got x.gif"]),
        (&["-o", "pair.png", "-c", "2"], 7, ["pair-2.png: cannot write", "directory"]),
        (&["-o", "/proc/x.png"], 7, ["/proc/x.png: cannot create", ""]),
        (&["-o", "-", "-c", "2"], 2, ["--output: expected a file or a folder for several pictures", "got -"]),
        (&["-o", "-", "--json"], 2, ["--output: expected a file, because --json", "got -"]),
        (&["--dump", "file"], 2, ["file: expected a new file, or --force", "exists"]),
        (&["--dump", "out.png"], 2, ["--output: expected another file than --dump", "out.png"]),
        (&["--dump", "folder"], 7, ["folder: cannot write", "directory"]),
        (&["--dump", "file/d", "-o", "-"], 7, ["file/d: cannot create", "Not a directory"]),
        (&["--dump", "none/d"], 7, ["none/d: cannot create", "No such file"]),
        (&["-o", "new/folder/", "--stage-a", "file"], 3, ["file: expected a safetensors file", ""]),
    ] {
        room.fails(room.generate(&[&["x"], args].concat()), code, &words);
    }
    room.succeeds(room.generate(&["x", "-o", "file", "--force"]));
    assert!(fs::read(room.path("file")).unwrap().starts_with(b"\x89PNG"));
}

/// Whatever a run reads, it does not replace, however the output's path is written.
#[test]
fn inputs_are_not_overwritten() {
    let room = Room::new();
    super::models::model(&room, "m");
    room.write("prompts", "a fox\n");
    room.write("shaders/scale.wgsl", "");
    room.succeeds(room.generate(&["x", "--dump", "latents"]));
    fs::remove_file(room.path("out.png")).unwrap();
    let weights = "m/decoder/diffusion_pytorch_model.bf16.safetensors";
    fs::hard_link(room.path(weights), room.path("hard")).unwrap();
    std::os::unix::fs::symlink("m", room.path("folder")).unwrap();
    std::os::unix::fs::symlink("prompts", room.path("link.png")).unwrap();
    let model = |dump| ["x", "-m", "m", "--dump", dump].to_vec();
    let mut cases = vec![
        vec!["--prompts", "prompts", "-o", "prompts"],
        vec!["--prompts", "prompts", "-o", "link.png"],
        vec!["--prompts", "link.png", "--dump", "prompts"],
        vec!["x", "--latents", "latents", "--dump", "./latents"],
        vec!["x", "--latents", "shaders/../latents", "--dump", "folder/../latents"],
        vec!["x", "--device", "wgpu", "--shader-dir", "shaders", "--dump", "shaders/scale.wgsl"],
        model("hard"),
        model("folder/decoder/../decoder/diffusion_pytorch_model.bf16.safetensors"),
    ];
    let mut read: Vec<String> = Vec::new();
    for (path, contents) in room.files() {
        let path = path.strip_prefix(room.0.path()).unwrap().to_str().unwrap().to_owned();
        // All of a model's folder but the weights of which there is another variant, which is read instead.
        let passed_over = path.ends_with("model.safetensors") && room.path(&path.replace(".s", ".bf16.s")).exists();
        if path.starts_with("m/") && !contents.is_empty() && !passed_over {
            read.push(path);
        }
    }
    assert!(read.iter().any(|path| path == weights) && read.iter().any(|path| path.ends_with("decoder/config.json")));
    cases.extend(read.iter().map(|path| model(path)));
    for args in cases {
        let words = [": expected files that this run does not read", args[args.len() - 1]];
        room.fails(room.generate(&[&args[..], &["--force"]].concat()), 2, &words);
    }
}

/// Every output of a run is a file of its own.
#[test]
fn outputs_are_not_overwritten_by_others() {
    let room = Room::new();
    room.write("old.png", "old");
    fs::hard_link(room.path("old.png"), room.path("hard")).unwrap();
    std::os::unix::fs::symlink("out.png", room.path("link")).unwrap();
    std::os::unix::fs::symlink(".", room.path("here")).unwrap();
    for (picture, dump) in [
        ("out.png", "./out.png"),
        ("out.png", "link"),
        ("out.png", "here/here/out.png"),
        ("here/out.png", "OUT.png"),
        ("new/../out.png", "out.png"),
        ("old.png", "hard"),
    ] {
        fs::create_dir_all(room.path("new")).unwrap();
        let command = room.generate(&["x", "-o", picture, "--dump", dump, "--force"]);
        room.fails(command, 2, &["--output: expected another file than --dump, got", dump]);
    }
    room.fails(
        room.generate(&["x", "-c", "2", "-o", "a.png", "--dump", "a-2.png"]),
        2,
        &["--output: expected another file than --dump, got a-2.png"],
    );
}

#[test]
fn links_and_permissions_stay() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let room = Room::new();
    room.write("real.png", "old");
    fs::set_permissions(room.path("real.png"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("real.png", room.path("link.png")).unwrap();
    room.fails(room.generate(&["x", "-o", "link.png"]), 2, &["link.png: expected a new file, or --force"]);
    room.succeeds(room.generate(&["x", "-o", "link.png", "--force"]));
    assert!(room.path("link.png").is_symlink());
    assert!(fs::read(room.path("real.png")).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(fs::metadata(room.path("real.png")).unwrap().permissions().mode() & 0o7777, 0o640);
}

/// Names of standard output are standard output, be it a pipe or a file, and nothing is written to a terminal.
#[test]
fn standard_output_by_any_name() {
    let room = Room::new();
    let want = room.succeeds(room.generate(&["x", "-o", "-", "-q"])).stdout;
    assert!(want.starts_with(b"\x89PNG"));
    for name in ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"] {
        assert!(room.succeeds(room.generate(&["x", "-o", name])).stdout == want, "{name}");
        // At the place where the file is, not at its beginning.
        room.write("all", "before");
        let file = fs::File::options().append(true).open(room.path("all")).unwrap();
        let mut command = room.generate(&["x", "-o", name]);
        assert!(command.stdout(file).status().unwrap().success());
        assert!(fs::read(room.path("all")).unwrap() == [b"before", &want[..]].concat(), "{name}");
    }
    room.fails(room.generate(&["x", "--dump", "/dev/stdout"]), 2, &["--dump: expected a file", "/dev/stdout"]);
    room.write("prompts", "a fox\n");
    let mut command = room.generate(&["--prompts", "prompts", "-o", "-"]);
    command.stdout(fs::File::options().append(true).open(room.path("prompts")).unwrap());
    let error = text(&command.output().unwrap().stderr);
    assert!(error.contains("files that this run does not read"), "{error}");

    let terminal = || fs::File::options().read(true).write(true).open("/dev/ptmx");
    if terminal().is_err() {
        eprintln!("SKIPPED: there are no terminals here");
        return;
    }
    for (args, words) in [
        (&["x", "-o", "-"][..], ["/dev/stdout: expected a file or a pipe", "a terminal"]),
        (&["x", "-o", "/dev/stdout"], ["/dev/stdout: expected a file or a pipe", "a terminal"]),
        (&["x", "--prior-only", "-o", "-"], ["/dev/stdout: expected a file or a pipe", "a terminal"]),
        (&["x", "-o", "/dev/ptmx"], ["/dev/ptmx: expected a file or a pipe", "a terminal"]),
    ] {
        let mut command = room.generate(args);
        command.stdout(terminal().unwrap());
        room.fails(command, 2, &words);
    }
}

#[test]
fn a_full_disk() {
    let room = Room::new();
    room.fails(room.generate(&["x", "-o", "/dev/full"]), 7, &["/dev/full: cannot write", "No space left"]);
    let mut command = room.generate(&["x", "-o", "-"]);
    command.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
    room.fails(command, 7, &["standard output: cannot write to", "No space left"]);
    // If a message cannot be printed, the picture is still written.
    let mut command = room.generate(&["x"]);
    command.stderr(fs::File::options().write(true).open("/dev/full").unwrap());
    room.succeeds(command);

    fs::create_dir(room.path("small")).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=4k", "tmpfs"];
    if !Command::new("mount").args(mount).arg(room.path("small")).output().is_ok_and(|o| o.status.success()) {
        eprintln!("SKIPPED: a small disk cannot be mounted here");
        return;
    }
    let failed = std::panic::catch_unwind(|| {
        room.fails(room.generate(&["x", "-o", "small/x.png"]), 7, &["small/x.png: cannot write", "No space left"])
    });
    assert!(Command::new("umount").arg(room.path("small")).status().unwrap().success());
    failed.unwrap();
}

#[test]
fn names_of_several_pictures() {
    let room = Room::new();
    let printed = |args: &[&str]| text(&room.succeeds(room.generate(&[&["x"], args].concat())).stdout);
    assert_eq!(printed(&["-o", "new/folder/"]), "new/folder/cascade-0.png\n");
    assert_eq!(printed(&["-o", "new", "-s", "7"]), "new/cascade-7.png\n");
    assert_eq!(printed(&["-o", "a.b.png", "-c", "2"]), "a.b-1.png\na.b-2.png\n");
    assert_eq!(printed(&["-o", "ten.PNG", "-c", "10"]).lines().last(), Some("ten-10.PNG"));
    assert!(room.path("ten-01.PNG").is_file() && room.path("a.b-2.png").is_file());
    // Several pictures without a format in their name are those of a folder, one is a file.
    assert_eq!(printed(&["-o", "more/pair", "-c", "2"]), "more/pair/cascade-0-1.png\nmore/pair/cascade-0-2.png\n");
    assert_eq!(printed(&["-o", "plain"]), "plain\n");
    let before = room.files();
    room.fails(room.generate(&["x", "-o", "a.b.png", "-c", "2"]), 2, &["a.b-1.png: expected a new file"]);
    assert!(room.files() == before);
}

/// The same command again takes another name, unless it says which.
#[test]
fn a_free_name() {
    let room = Room::new();
    let base = ["generate", "a fox", "-m", fixture("tiny").to_str().unwrap(), "-W", "64", "-H", "64", "--steps", "1,1"]
        .map(String::from);
    let printed = |more: &[&str]| {
        let more: Vec<String> = more.iter().map(|arg| arg.to_string()).collect();
        text(&room.succeeds(room.command(&[&base[..], &more].concat())).stdout)
    };
    assert_eq!(printed(&[]), "cascade.png\n");
    std::os::unix::fs::symlink("nowhere", room.path("cascade-3.png")).unwrap();
    assert_eq!([printed(&[]), printed(&[])], ["cascade-2.png\n", "cascade-4.png\n"]);
    assert_eq!(printed(&["-c", "2"]), "cascade-2-1.png\ncascade-2-2.png\n");
    assert_eq!(printed(&["--force"]), "cascade.png\n");
}

#[test]
fn results_on_stdout_messages_on_stderr() {
    let room = Room::new();
    let output = room.succeeds(room.generate(&["x"]));
    assert_eq!(text(&output.stdout), "out.png\n");
    assert!(text(&output.stderr).contains(" s on "), "{}", text(&output.stderr));

    let long = "word ".repeat(100);
    let output = room.succeeds(room.generate(&[&long, "-q", "--force"]));
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("out.png\n".into(), String::new()));

    let output = room.succeeds(room.generate(&["x", "-q", "-o", "-"]));
    assert!(output.stdout.starts_with(b"\x89PNG") && output.stdout.ends_with(b"IEND\xaeB`\x82"));
    assert!(output.stderr.is_empty());

    let output = room.succeeds(room.generate(&["x", "--json", "-c", "2", "-o", "j.png"]));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["images"], serde_json::json!(["j-1.png", "j-2.png"]));
    assert!(json["seconds"]["stage_c"].is_f64() && json["request"]["width"] == 64, "{json}");
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn a_reader_that_goes_away() {
    let room = Room::new();
    let mut child = room.generate(&["x", "-o", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("standard output: cannot write to: Broken pipe"));
    // A closed stdout does not matter if only file names would be printed.
    let mut child = room.generate(&["x"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert!(child.wait().unwrap().success() && room.path("out.png").is_file());
}

#[test]
fn a_picture_tells_how_it_was_made() {
    let room = Room::new();
    let prompt = "Zwölf Boxkämpfer, \u{1f431}: \"jagen\"";
    let args = [prompt, "-n", "Ωmega", "-s", "18446744073709551615", "--guidance", "3.5,1.1", "--noise", "philox"];
    room.succeeds(room.generate(&args));
    let shown = text(&room.succeeds(room.command(&["inspect", "out.png"])).stdout);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[..3], ["out.png: PNG, 64×64 px", prompt, "Negative prompt: Ωmega"]);
    for word in ["Steps: 1,", "CFG scale: 3.5,", "Seed: 18446744073709551615,", "Size: 64x64", "Decoder CFG scale: 1.1"]
    {
        assert!(lines[3].contains(word), "{word} in {}", lines[3]);
    }
    let record: Value = serde_json::from_str(lines[4]).unwrap();
    assert_eq!((&record["request"]["prompts"][0], &record["request"]["negative"]), (&prompt.into(), &"Ωmega".into()));

    // A truncated picture is an error.
    let png = fs::read(room.path("out.png")).unwrap();
    room.write("cut.png", &png[..60]);
    room.fails(room.command(&["inspect", "cut.png"]), 3, &["cut.png: expected a PNG, JPEG or WebP image"]);
}

#[test]
fn other_commands() {
    let room = Room::new();
    for name in ["devices", "kernels"] {
        let plain = room.succeeds(room.command(&[name]));
        assert!(text(&plain.stdout).contains("cpu") && plain.stderr.is_empty());
        let json: Value = serde_json::from_slice(&room.succeeds(room.command(&[name, "--json"])).stdout).unwrap();
        assert!(json.as_array().is_some_and(|entries| !entries.is_empty()), "{json}");
    }
    let tiny = fixture("tiny");
    let shown = text(&room.succeeds(room.command(&["inspect".as_ref(), tiny.as_os_str()])).stdout);
    for word in ["Stage A", "Stage B", "Stage C", "text encoder", "tokenizer", "BF16: "] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
}

#[test]
fn the_same_request_gives_the_same_bytes() {
    let room = Room::new();
    let mut pictures = Vec::new();
    for threads in ["1", "2", "2", "3"] {
        let mut command =
            room.generate(&["x", "-W", "200", "-H", "136", "--steps", "3,2", "-c", "2", "-o", "p.png", "--force"]);
        room.succeeds({
            command.env("RAYON_NUM_THREADS", threads);
            command
        });
        pictures.push(["p-1.png", "p-2.png"].map(|name| fs::read(room.path(name)).unwrap()));
    }
    assert!(pictures.iter().all(|pair| *pair == pictures[0]));
    assert_ne!(pictures[0][0], pictures[0][1]);
}
