//! Invalid input to the program: every case must fail quickly, with the right exit
//! code and a message that names the problem, and must not write anything.
#![cfg(all(unix, feature = "cli"))]

#[path = "bad_input/models.rs"]
mod models;
#[path = "bad_input/outputs.rs"]
mod outputs;
#[path = "bad_input/pictures.rs"]
mod pictures;
#[path = "bad_input/signals.rs"]
mod signals;
#[path = "bad_input/system.rs"]
mod system;
#[path = "bad_input/weights.rs"]
mod weights;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The longest time in which the program must report an error, on a busy machine.
const QUICK: Duration = Duration::from_secs(20);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An empty folder to run the program in.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    /// The program with exactly these arguments. The environment is empty except for a variable without which old Vulkan
    /// drivers (Mesa 22) print a warning.
    fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cascade-rt"));
        command.args(args).current_dir(&self.0).env_clear().env("XDG_RUNTIME_DIR", self.0.path()).stdin(Stdio::null());
        command
    }

    /// `generate` with these arguments, and defaults that make the request small.
    fn generate(&self, args: &[&str]) -> Command {
        let tiny = fixture("tiny");
        let defaults =
            [("-m", tiny.to_str().unwrap()), ("-W", "64"), ("-H", "64"), ("--steps", "1,1"), ("-o", "out.png")];
        let mut all = vec!["generate"];
        all.extend(args);
        for (flag, value) in defaults {
            if !args.contains(&flag) {
                all.extend([flag, value]);
            }
        }
        self.command(&all)
    }

    /// Every file in this folder and its subfolders, with its contents.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    files.insert(path.clone(), Vec::new());
                    walk(&path, files);
                } else {
                    // Dangling links have no contents.
                    files.insert(path.clone(), fs::read(&path).unwrap_or_default());
                }
            }
        }
        let mut files = BTreeMap::new();
        walk(self.0.path(), &mut files);
        files
    }

    /// Checks that the command fails with exit code `code` and a message that contains each of `words`,
    /// that it prints nothing to stdout, and that it neither creates nor changes a file. Returns the message.
    #[track_caller]
    fn fails(&self, mut command: Command, code: i32, words: &[&str]) -> String {
        let (before, start) = (self.files(), Instant::now());
        let output = command.output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command:?}\n{stderr}");
        assert!(start.elapsed() < QUICK, "{command:?} took {:?}", start.elapsed());
        // Notes may precede the error.
        assert!(stderr.starts_with("error: ") || stderr.contains("\nerror: "), "{command:?}\n{stderr}");
        for word in words {
            assert!(stderr.contains(word), "{command:?}\n{stderr}does not contain `{word}`");
        }
        assert!(output.stdout.is_empty(), "{command:?} printed {}", text(&output.stdout));
        assert!(self.files() == before, "{command:?} left {:?}", self.files().keys());
        stderr
    }

    #[track_caller]
    fn succeeds(&self, mut command: Command) -> Output {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}\n{}", text(&output.stderr));
        output
    }
}

#[test]
fn values_out_of_range() {
    let room = Room::new();
    let side = "a multiple of 8 from 64 to 16384 pixels, got";
    let whole = "expected a whole number from 0 up";
    let steps = "expected one or two counts from 1 to 1000 like 20 or 20,10";
    let guidance = "expected one or two numbers from 0 to 100 like 4 or 4,1.1";
    let cases: &[(&[&str], &[&str])] = &[
        (&["-W", "0"], &["--width", side, "got 0 (try 64)"]),
        (&["-W", "56"], &["--width", side, "(try 64)"]),
        (&["-W", "100"], &["--width", side, "got 100 (try 104)"]),
        (&["-H", "1001"], &["--height", side, "got 1001 (try 1008)"]),
        (&["-H", "100000"], &["--height", side, "(try 16384)"]),
        (&["-W", "-5"], &["--width", whole, "got `-5`"]),
        (&["-W", "abc"], &["--width", whole, "got `abc`"]),
        (&["-H", "64.0"], &["--height", whole, "got `64.0`"]),
        (&["-H", "99999999999"], &["--height", "of at most 32 bits"]),
        (&["--steps", "0,1"], &["--steps", steps, "got `0,1`"]),
        (&["--steps", "1000000,10"], &["--steps", steps]),
        (&["--steps", "20,"], &["--steps", steps, "got `20,`"]),
        (&["--steps", "-1,10"], &["--steps", steps]),
        (&["--guidance", "nan,0"], &["--guidance", guidance, "got `nan,0`"]),
        (&["--guidance", "4,inf"], &["--guidance", guidance]),
        (&["--guidance", "-1,0"], &["--guidance", guidance, "got `-1,0`"]),
        (&["--guidance", "4,"], &["--guidance", guidance]),
        (&["-c", "0"], &["--count", "1 to 1024 images per prompt", "got 0"]),
        (&["-c", "1000000000"], &["--count", "1 to 1024", "got 1000000000"]),
        (&["-s", "-2"], &["--seed", whole, "or random, of at most 64 bits"]),
        (&["--batch", "0"], &["--batch", "1 or more", "got `0`"]),
        (&["-s", "18446744073709551616"], &["--seed", whole]),
        (&["--device", "nonsense"], &["--device", "expected auto", "nonsense"]),
        (&["--device", "wgpu:x"], &["--device", "expected auto, cpu, wgpu[:N] or cuda[:N]", "wgpu:x"]),
        (&["--without", "avx2,abacus"], &["--without", "expected some of avx2, ", "sm_90a", "abacus"]),
        (&["--dtype", "int4"], &["--dtype", "int4", "bf16"]),
        (&["--noise", "pink"], &["--noise", "torch-bf16, torch-batch", "pink"]),
        (&["--frobnicate"], &["--frobnicate", "--help"]),
        (&["y"], &["'y'"]),
    ];
    for (args, words) in cases {
        room.fails(room.generate(&[&["x"], *args].concat()), 2, words);
    }
    room.fails(room.generate(&[]), 2, &["PROMPT"]);
    let part = ["generate", "x", "--stage-c", "c"];
    room.fails(room.command(&part), 2, &["--model: expected a model folder, or --stage-b FILE as well, got neither"]);
    room.fails(room.command::<&str>(&["paint"]), 2, &["paint", "--help"]);
}

#[test]
fn kernel_sources() {
    let room = Room::new();
    let nothing = ["kernels", "--bench", "--synthetic", "mid", "--op", "liner"];
    room.fails(room.command(&nothing), 2, &["--op", "liner", "cascade-rt kernels"]);
    room.fails(room.command(&["kernels", "--source", "liner"]), 2, &["--source", "cascade-rt kernels", "liner"]);
    room.fails(room.command(&["kernels", "--source", "attention.avx2"]), 2, &["--source", "WGSL"]);
    let output = room.command(&["kernels", "--source", "conv2d"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["fn main(", "fn multiply_tiles(", "struct Shape", "OUTSIDE"] {
        assert!(text.contains(part), "conv2d does not contain {part}");
    }
}

#[test]
fn missing_devices() {
    let room = Room::new();
    let words = ["wgpu:99", "cascade-rt devices", "--device cpu"];
    room.fails(room.generate(&["x", "--device", "wgpu:99"]), 5, &words);
    let words = ["--shader-dir: expected a device that runs shaders", "got cpu"];
    room.fails(room.generate(&["x", "--device", "cpu", "--shader-dir", "."]), 2, &words);
    let mut command = room.generate(&["x", "--device", "wgpu"]);
    command.env("VK_DRIVER_FILES", "/nonexistent.json").env("VK_ICD_FILENAMES", "/nonexistent.json");
    room.fails(command, 5, &["wgpu:0", "driver", "--device cpu"]);
}

#[test]
fn environment_variables_are_checked_like_flags() {
    let room = Room::new();
    let base = ["generate", "x", "-m", fixture("tiny").to_str().unwrap()].map(String::from);
    for (name, value, words) in [
        ("CASCADE_WIDTH", "abc", ["--width", "got `abc`"]),
        ("CASCADE_HEIGHT", "100", ["--height", "try 104"]),
        ("CASCADE_STEPS", "20,", ["--steps", "got `20,`"]),
        ("CASCADE_GUIDANCE", "nan,nan", ["--guidance", "got `nan,nan`"]),
        ("CASCADE_NOISE", "white", ["--noise", "white"]),
        ("CASCADE_DEVICE", "abacus", ["--device", "abacus"]),
        ("CASCADE_FORCE", "perhaps", ["--force", "perhaps"]),
        ("CASCADE_DTYPE", "f8", ["--dtype", "f8"]),
        ("CASCADE_COUNT", "1025", ["--count", "got 1025"]),
    ] {
        let mut command = room.command(&base);
        command.env(name, value);
        room.fails(command, 2, &words);
    }
}

/// Flags without a value take the words that people use for yes and no, and an empty variable is none.
#[test]
fn environment_variables_of_flags() {
    let room = Room::new();
    room.write("out.png", "old");
    for (value, replaces) in [("1", true), ("yes", true), ("on", true), ("0", false), ("no", false), ("", false)] {
        let mut command = room.generate(&["x"]);
        command.env("CASCADE_FORCE", value).env("CASCADE_STEPS", "").env("CASCADE_MODEL", "").env("CASCADE_NOISE", "");
        match replaces {
            true => drop(room.succeeds(command)),
            false => drop(room.fails(command, 2, &["out.png: expected a new file"])),
        }
    }
}

#[test]
fn completions_manuals_and_help() {
    let room = Room::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&room.succeeds(room.command(&["completions", shell])).stdout);
        assert!(script.contains("prior-only") && script.contains("synth-model"), "{shell}: {script}");
    }
    let page = text(&room.succeeds(room.command(&["man", "generate"])).stdout);
    assert!(page.starts_with(".ie") && page.contains("cascade\\-rt\\-generate"), "{page}");
    room.fails(room.command(&["man", "paint"]), 2, &["expected a command of", "paint"]);
    let help = text(&room.succeeds(room.command(&["generate", "--help"])).stdout);
    for part in ["Model:", "Device:", "Picture:", "Files and messages:", "Examples:", "CASCADE_BATCH"] {
        assert!(
            help.contains(&format!("\n{part}")) || help.contains(&format!("[env: {part}")),
            "{part} is not in {help}"
        );
    }
    assert!(help.lines().all(|line| line.chars().count() <= 122), "{help}");
}

#[test]
fn prompts_files() {
    let room = Room::new();
    room.write("empty", "\n  \n\r\n");
    room.write("latin1", b"caf\xe9\n");
    room.write("many", "a\n".repeat(1025));
    for (file, code, words) in [
        ("none", 7, ["none: cannot read", "No such file"]),
        (".", 7, [".: cannot read", "directory"]),
        ("empty", 2, ["--prompts empty: expected UTF-8 text with one prompt a line", "no prompt"]),
        ("latin1", 2, ["--prompts latin1", "index 3"]),
        ("many", 2, ["--prompts: expected at most 1024 images", "1025 prompts"]),
        ("/dev/zero", 2, ["--prompts /dev/zero", "at most 64 MiB, got more"]),
    ] {
        room.fails(room.generate(&["--prompts", file]), code, &words);
    }
    room.fails(room.generate(&["x", "--prompts", "many"]), 2, &["--prompts", "PROMPT"]);
}

#[test]
fn prompts_of_any_text() {
    let room = Room::new();
    let words: Vec<String> = (0..200_000).map(|i| format!("w{i}")).collect();
    for (prompt, cut) in
        [("a".repeat(1 << 20), "aaa"), (words.join(" "), "w"), ("\u{1f431}".repeat(1 << 18), "\u{1f431}")]
    {
        room.write("long", &prompt);
        let start = Instant::now();
        let output = room.succeeds(room.generate(&["--prompts", "long", "--force"]));
        assert!(start.elapsed() < Duration::from_secs(5), "1 MB of prompt took {:?}", start.elapsed());
        let stderr = text(&output.stderr);
        let warning = stderr.lines().next().unwrap();
        assert!(warning.starts_with("warning: the prompt is too long, cut off: \""), "{warning}");
        assert!(warning.contains(cut) && warning.len() < 1000, "{warning}");
    }
    room.write("nul", b"a\0b\x1b[31mc\x7f\n");
    room.succeeds(room.generate(&["--prompts", "nul", "--force"]));
    let shown = text(&room.succeeds(room.command(&["inspect", "out.png"])).stdout);
    assert!(!shown.contains(['\0', '\x1b', '\x7f']) && shown.contains("\\u001b[31mc"), "{shown}");

    for prompt in ["", " ", "\x01\x02\x1b]0;x\x07", "\u{202e}e\u{301}\u{1f468}\u{200d}\u{1f469}", "<|endoftext|>"] {
        let output = room.succeeds(room.generate(&[prompt, "--force"]));
        assert_eq!(text(&output.stdout), "out.png\n");
    }
    fs::remove_file(room.path("out.png")).unwrap();
    let mut command = room.generate(&[]);
    command.arg(OsStr::from_bytes(b"\xff\xfe"));
    room.fails(command, 2, &["invalid UTF-8"]);
}

#[test]
fn requests_that_do_not_fit_fail_at_once() {
    let room = Room::new();
    // The noise of Stage B's 1000 steps alone takes 250 GiB.
    let huge = |count| ["x", "-W", "16384", "-H", "16384", "--steps", "1000,1000", "-c", count];
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    if total.is_none_or(|kib| kib.parse::<u64>().unwrap() > 200 << 20) {
        eprintln!("SKIPPED: this machine has more than 200 GiB of memory, or its size is unknown");
        return;
    }
    for count in ["1", "64"] {
        let message =
            room.fails(room.generate(&huge(count)), 4, &["MiB free, this request needs", "one image of 16384"]);
        assert!(message.contains("would fit"), "{message}");
    }
    // The message suggests a size that fits.
    let message = room.fails(room.generate(&huge("1")), 4, &["--width", "--height"]);
    let side: u32 = message.split("--width ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((64..16384).contains(&side) && side.is_multiple_of(8), "{message}");
}

/// A memory limit of the process counts, not only the machine's memory.
#[test]
fn memory_limit_of_the_process() {
    let room = Room::new();
    let mut command = Command::new("sh");
    let script = r#"ulimit -v 3000000; exec "$0" generate x -m "$1" -W 16384 -H 16384 --steps 1,1 -o out.png"#;
    command.args(["-c", script, env!("CARGO_BIN_EXE_cascade-rt")]).arg(fixture("tiny")).current_dir(&room.0);
    room.fails(command, 4, &["MiB free, this request needs", "would fit"]);
}
