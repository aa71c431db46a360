//! What the system refuses, and what whoever started the program has arranged: threads, memory, sizes of files, signals.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::models::{model, replace};
use super::signals::{end_of, send, wait_until_mapped};
use super::{Room, fixture, text};

/// The program, started by a shell after this `setting`.
fn after(room: &Room, setting: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = format!("{setting}; exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_cascade-rt")]).args(args).current_dir(&room.0);
    command
}

/// The arguments of a small request.
fn small(more: &[&'static str]) -> Vec<String> {
    let tiny = fixture("tiny").to_str().unwrap().to_owned();
    let all =
        ["generate", "x", "-m", &tiny, "-W", "64", "-H", "64", "--steps", "1,1", "-o", "out.png", "--device", "cpu"];
    all.iter().copied().chain(more.iter().copied()).map(str::to_owned).collect()
}

#[test]
fn threads_that_do_not_start() {
    let room = Room::new();
    let args = small(&[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    for (count, code, words) in [
        ("100000", 2, ["RAYON_NUM_THREADS: expected at most 1024 threads", "got 100000"]),
        // 1000 stacks of 2 MiB do not fit into 1 GB.
        ("1000", 5, ["device `cpu`: its threads do not start", "RAYON_NUM_THREADS to fewer"]),
    ] {
        let mut command = after(&room, "ulimit -v 1000000", &args);
        command.env("RAYON_NUM_THREADS", count);
        room.fails(command, code, &words);
    }
    for count in ["0", "", "many", "3"] {
        let mut command = after(&room, "true", &args);
        room.succeeds({
            command.env("RAYON_NUM_THREADS", count).arg("--force");
            command
        });
    }
}

/// An allocation that fails ends with the exit code of a request that does not fit.
#[test]
fn memory_that_runs_out() {
    let room = Room::new();
    // A header of this size is read at once, and its tensors take several times as much.
    let entry = |i: usize| format!("\"{i:09}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    let header = format!("{{{}}}", (0..1_000_000).map(entry).collect::<Vec<_>>().join(","));
    room.write("big.safetensors", [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat());
    let mut command = after(&room, "ulimit -v 400000", &["inspect", "big.safetensors"]);
    command.env("RAYON_NUM_THREADS", "1");
    room.fails(command, 4, &["error: the system has no memory left", "ulimit -v"]);
}

/// A limit on the size of files is like a full disk, not the end of the process.
#[test]
fn files_that_may_not_grow() {
    let room = Room::new();
    let args = small(&["--dump", "dump.safetensors"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // In units of 512 bytes.
    room.fails(after(&room, "ulimit -f 4", &args), 7, &["cannot write", "ulimit -f"]);
}

#[test]
fn signals_that_are_ignored_stay_ignored() {
    for (signal, ignored) in [("INT", true), ("HUP", true), ("TERM", true), ("HUP", false)] {
        let room = Room::new();
        model(&room, "m");
        let trap = if ignored { format!("trap '' {signal}") } else { "true".to_owned() };
        let args = ["generate", "x", "-m", "m", "-W", "512", "-H", "512", "--steps", "1000,1000", "--device", "cpu"];
        let mut command = after(&room, &trap, &args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until_mapped(&child, "vqgan");
        std::thread::sleep(Duration::from_millis(1500));
        send(signal, &child);
        if ignored {
            std::thread::sleep(Duration::from_millis(1500));
            assert!(child.try_wait().unwrap().is_none(), "{signal}");
            send("KILL", &child);
        }
        let output = end_of(child);
        assert_eq!(output.status.signal(), Some(if ignored { 9 } else { 1 }), "{}", text(&output.stderr));
    }
}

/// Nobody reads what is printed: that is no error, and no signal.
#[test]
fn output_that_nobody_reads() {
    let room = Room::new();
    for trap in ["true", "trap '' PIPE"] {
        let mut child = after(&room, trap, &["devices"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = end_of(child);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
}

/// Every file of text of a model, as a pipe without a writer.
#[test]
fn a_pipe_for_a_config() {
    let room = Room::new();
    model(&room, "m");
    for name in [
        "m/model_index.json",
        "m/scheduler/scheduler_config.json",
        "m/decoder/config.json",
        "m/text_encoder/config.json",
        "m/tokenizer/vocab.json",
        "m/tokenizer/merges.txt",
        "m/tokenizer/tokenizer_config.json",
        "m-prior/prior/config.json",
    ] {
        let file = room.path(name);
        let kept = room.path("kept");
        fs::rename(&file, &kept).unwrap();
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        let mut command = room.generate(&["x", "-m", "m"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = end_of(child);
        let stderr = text(&output.stderr);
        assert!(output.status.code() == Some(3) && stderr.contains(name), "{stderr}");
        assert!(stderr.contains("something that is not a regular file"), "{stderr}");
        fs::remove_file(&file).unwrap();
        fs::rename(&kept, &file).unwrap();
    }
}

/// Configs that are folders, for every layout, also where the tensors would suffice.
#[test]
fn a_folder_for_a_config() {
    let room = Room::new();
    model(&room, "m");
    for name in ["m/decoder/config.json", "m/vqgan/config.json", "m/tokenizer/special_tokens_map.json"] {
        let kept = room.path("kept");
        fs::rename(room.path(name), &kept).unwrap();
        fs::create_dir(room.path(name)).unwrap();
        room.fails(room.generate(&["x", "-m", "m"]), 3, &[name, "expected a file, found a folder"]);
        fs::remove_dir(room.path(name)).unwrap();
        fs::rename(&kept, room.path(name)).unwrap();
    }
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
    for name in ["m/decoder/config.json", "m/tokenizer/vocab.json", "m/tokenizer/merges.txt", "m/model_index.json"] {
        let kept = fs::read(room.path(name)).unwrap();
        replace(&room, name, pointer);
        room.fails(room.generate(&["x", "-m", "m"]), 3, &[name, "a Git LFS pointer", "git lfs pull"]);
        replace(&room, name, kept);
    }
}

/// Where a model has several files for a network, what is taken is said, also in the record and in JSON, and `--dtype` and
/// `--variant` choose. A picture made again takes the same.
#[test]
fn choices_are_said() {
    let room = Room::new();
    model(&room, "m");
    let [small, exact] =
        ["m/decoder/diffusion_pytorch_model.bf16.safetensors", "m/decoder/diffusion_pytorch_model.safetensors"];
    for (flags, taken, other) in [
        (&[][..], small, exact),
        (&["--dtype", "f32"], exact, small),
        (&["--dtype", "bf16"], small, exact),
        (&["--variant", "none"], exact, small),
        (&["--variant", "bf16", "--dtype", "f32"], small, exact),
    ] {
        let args = [&["x", "-m", "m", "--force"], flags].concat();
        let stderr = text(&room.succeeds(room.generate(&args)).stderr);
        let line = stderr.lines().find(|line| line.starts_with("memory: ")).unwrap();
        assert!(line.contains(&format!("; {taken} rather than {other}")), "{flags:?}: {line}");

        let again = ["generate", "-m", "m", "--json", "--from", "out.png", "-o", "again.png", "--force"];
        let json = text(&room.succeeds(room.command(&again)).stdout);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(taken.ends_with(json["weights"]["stage_b"].as_str().unwrap()), "{flags:?}: {json}");
        assert!(json["weights"].get("stage_a").is_none(), "{json}"); // there is only one
        let [first, again] = ["out.png", "again.png"].map(|name| std::fs::read(room.path(name)).unwrap());
        assert!(first == again, "{flags:?}: another picture");
    }
    room.fails(room.generate(&["x", "-m", "m", "--force", "--variant", "int4"]), 2, &["--variant: expected", "`int4`"]);
    let shown = text(&room.succeeds(room.command(&["inspect", "m"])).stdout);
    assert!(shown.contains(&format!("  instead of {exact}\n")), "{shown}");
}

/// Names of a megabyte: messages quote the beginning and the end.
#[test]
fn messages_are_bounded() {
    let room = Room::new();
    let long = format!("\u{1b}[31m{}", "n".repeat(1 << 20));
    let header = serde_json::json!({ &long: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} }).to_string();
    room.write("w.safetensors", [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat());
    model(&room, "m");
    replace(&room, "m/tokenizer/tokenizer_config.json", serde_json::json!({ "bos_token": &long }).to_string());
    replace(&room, "m/scheduler/scheduler_config.json", serde_json::json!({ "_class_name": &long }).to_string());
    for args in [&["--stage-c", "w.safetensors"][..], &["-m", "m"]] {
        let message = room.fails(room.generate(&[&["x"], args].concat()), 3, &[" bytes…] "]);
        assert!(message.len() < 6000 && !message.contains('\u{1b}'), "{} bytes", message.len());
    }
    let shown = room.succeeds(room.command(&["inspect", "w.safetensors", "--tensors"]));
    assert!(shown.stdout.len() < 20_000 && !shown.stdout.contains(&0x1b), "{} bytes", shown.stdout.len());
}

/// A prompt that is one word of 20 MB, and a header of 90 MB.
#[test]
fn large_texts() {
    let room = Room::new();
    room.write("word", "ab".repeat(10 << 20));
    let start = std::time::Instant::now();
    room.succeeds(room.generate(&["--prompts", "word"]));
    assert!(start.elapsed() < super::QUICK, "{:?}", start.elapsed());
    let name = "n".repeat(90_000_000);
    let header = format!("{{\"{name}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}}}");
    room.write("w.safetensors", [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 4]].concat());
    let start = std::time::Instant::now();
    room.fails(room.generate(&["x", "--stage-c", "w.safetensors", "--force"]), 3, &["an unknown network"]);
    assert!(start.elapsed() < super::QUICK, "{:?}", start.elapsed());
}
