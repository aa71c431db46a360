//! Runs that are interrupted: by Ctrl-C, and by a model file that shrinks.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::models::{model, replace};
use super::{Room, fixture, text};

/// Starts a run that would take minutes, with the model `m`.
fn long_run(room: &Room) -> Child {
    let args = ["x", "-m", "m", "-W", "512", "-H", "512", "--steps", "1000,1000", "--dump", "dump"];
    room.generate(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until the program has mapped a file of this name.
pub fn wait_until_mapped(child: &Child, name: &str) {
    let start = Instant::now();
    while !fs::read_to_string(format!("/proc/{}/maps", child.id())).is_ok_and(|maps| maps.contains(name)) {
        assert!(start.elapsed() < Duration::from_secs(20), "{name} was not mapped within 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn send(signal: &str, child: &Child) {
    let kill = format!("kill -{signal} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// The number of a signal. A shell adds 128 to it for the exit code of a process that died of it.
pub fn number(signal: &str) -> i32 {
    match signal {
        "INT" => signal_hook::consts::SIGINT,
        "TERM" => signal_hook::consts::SIGTERM,
        _ => panic!("{signal} is not sent"),
    }
}

/// Waits until the program ends, which must take less than 10 s, and returns its output.
pub fn end_of(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            panic!("still running after {:?}", start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Starts a run that would take minutes and might replace files, and returns it when the first step is about to begin.
fn interruptible(room: &Room, side: &str, more: &[&str]) -> Child {
    model(room, "m");
    room.write("out.png", "precious");
    let args = ["x", "-m", "m", "-W", side, "-H", side, "--steps", "1000,1000", "--force", "--dump", "dump"];
    let child = room.generate(&[&args, more].concat()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_mapped(&child, "vqgan");
    std::thread::sleep(Duration::from_millis(1500));
    child
}

#[test]
fn the_first_signal_lets_the_step_finish() {
    for signal in ["INT", "TERM"] {
        let room = Room::new();
        let child = interruptible(&room, "512", &[]);
        let before = room.files();
        send(signal, &child);
        let start = Instant::now();
        let output = end_of(child);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert_eq!(output.status.signal(), Some(number(signal)), "{}", text(&output.stderr));
        let stderr = text(&output.stderr);
        // Said by the handler, which does not end the process, and by whoever stopped the run.
        let said = ["interrupted: stopping after this step; interrupt again to stop at once\n", "error: interrupted\n"];
        let found = said.map(|line| stderr.find(line));
        assert!(found[0].is_some() && found[0] < found[1] && output.stdout.is_empty(), "{stderr}");
        assert!(room.files() == before, "{:?}", room.files().keys());
    }
}

#[test]
fn the_second_signal_ends_a_run_in_the_middle_of_a_step() {
    for signal in ["INT", "TERM"] {
        let room = Room::new();
        // With every node checked, a step takes many seconds.
        let mut child = interruptible(&room, "2048", &["--check-nodes", "--noise", "philox"]);
        let before = room.files();
        send(signal, &child);
        std::thread::sleep(Duration::from_millis(1000));
        assert!(child.try_wait().unwrap().is_none(), "the step goes on");
        send(signal, &child);
        let start = Instant::now();
        let output = end_of(child);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.signal(), Some(number(signal)), "{stderr}");
        assert!(stderr.contains("interrupted: stopping") && stderr.contains("error: interrupted"), "{stderr}");
        assert!(room.files() == before, "{:?}", room.files().keys());
    }
}

/// Measuring makes no files, so there is nothing to finish.
#[test]
fn where_nothing_is_written_the_first_signal_ends_the_process_at_once() {
    let room = Room::new();
    model(&room, "m");
    let args = ["bench", "-m", "m", "--sizes", "512", "--steps", "1000,1000"];
    let child = room.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_mapped(&child, "vqgan");
    send("INT", &child);
    let output = end_of(child);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.signal(), Some(number("INT")), "{stderr}");
    assert!(!stderr.contains("stopping after") && stderr.contains("error: interrupted"), "{stderr}");
}

#[test]
fn a_pipe_without_a_reader() {
    let room = Room::new();
    if !Command::new("mkfifo").arg(room.path("pipe")).status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: named pipes cannot be created here");
        return;
    }
    let mut inspect = room.command(&["inspect", "pipe"]);
    inspect.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = end_of(inspect.spawn().unwrap());
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("not a regular file"));

    let mut generate = room.generate(&["x", "-o", "pipe"]);
    let child = generate.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until_mapped(&child, "vqgan");
    std::thread::sleep(Duration::from_millis(1500));
    send("INT", &child);
    assert_eq!(end_of(child).status.signal(), Some(number("INT")));
}

#[test]
fn a_model_file_that_shrinks() {
    let room = Room::new();
    model(&room, "m");
    let (from, file) = (
        "tiny-prior/prior/diffusion_pytorch_model.bf16.safetensors",
        "m-prior/prior/diffusion_pytorch_model.bf16.safetensors",
    );
    replace(&room, file, fs::read(fixture(from)).unwrap());
    let child = long_run(&room);
    wait_until_mapped(&child, "prior/diffusion_pytorch_model");
    fs::File::options().write(true).open(room.path(file)).unwrap().set_len(4096).unwrap();
    let output = end_of(child);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("diffusion_pytorch_model.bf16.safetensors: ") && stderr.contains("run again"), "{stderr}");
    assert!(!room.path("out.png").exists() && !room.path("dump").exists());
}
