//! Where results go. Files are named, and known to be writable, before any work is done.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::output::{Identity, Target, check_writable, write_atomically, write_stdout};

/// What becomes of the pictures of a run.
#[derive(Debug, clap::Args)]
pub(super) struct Output {
    /// File that ends in .png, folder, or - for standard output. Several pictures are numbered; where no format is in
    /// the name, it is a folder's. [default: cascade.png, or cascade-2.png and so on where that exists]
    #[arg(short, long, value_name = "FILE|DIR|-", env = "CASCADE_OUTPUT")]
    output: Option<PathBuf>,
    /// Replace files that exist.
    #[arg(long, env = "CASCADE_FORCE")]
    force: bool,
    /// Print one JSON object about the run instead of file names.
    #[arg(long, env = "CASCADE_JSON")]
    pub(super) json: bool,
    /// Write tokens, text_states, text_pooled, stage_c, stage_b and image (f32, NCHW) to this safetensors file.
    #[arg(long, value_name = "FILE", env = "CASCADE_DUMP")]
    dump: Option<PathBuf>,
}

impl Output {
    /// One file, which replaces another only if `force`.
    pub(super) fn file(path: PathBuf, force: bool) -> Self {
        Self { output: Some(path), force, json: false, dump: None }
    }

    /// Names every picture of the runs with these seeds, each of `images` pictures, and finds out now, not after
    /// minutes of work, whether they can be written. Files of a folder carry the seed.
    ///
    /// # Errors
    /// [`Error::Request`] or [`Error::Disk`] for the first that must not or cannot be written.
    pub(super) fn plan_pictures(&self, images: usize, seeds: &[u64]) -> Result<Outputs> {
        let total = images * seeds.len();
        let Some(output) = self.output.as_deref() else { return self.plan(self.free_names(total), None) };
        if is_stdout(output)? {
            return match total {
                1 => self.plan(Vec::new(), None),
                _ => Err(refused("--output", "a file or a folder for several pictures", output.display())),
            };
        }
        // Several pictures without a format in their name are those of a folder.
        if is_folder(output) || total > 1 && output.extension().is_none() {
            let of_seed = |seed: &u64| names(&output.join(format!("cascade-{seed}.png")), images);
            return self.plan(seeds.iter().flat_map(of_seed).collect(), Some(output));
        }
        require_extension(
            output,
            "png",
            "a name that ends in .png, the only format that is written, or in / for a folder",
        )?;
        self.plan(names(output, total), None)
    }

    /// The names of pictures where none is given: `cascade.png`, or the first of `cascade-2.png`, `cascade-3.png`
    /// and so on that replaces nothing.
    fn free_names(&self, total: usize) -> Vec<PathBuf> {
        let named = |run: u32| match run {
            1 => names(Path::new("cascade.png"), total),
            _ => names(Path::new(&format!("cascade-{run}.png")), total),
        };
        let free = |names: &Vec<PathBuf>| names.iter().all(|name| name.symlink_metadata().is_err());
        match self.force {
            true => named(1),
            false => (1..).map(named).find(free).expect("there are more numbers than files"),
        }
    }

    /// The same for one file of tensors.
    ///
    /// # Errors
    /// As [`plan_pictures`](Self::plan_pictures).
    pub(super) fn plan_tensors(&self) -> Result<Outputs> {
        let output = self.output.as_deref().unwrap_or(Path::new("cascade.safetensors"));
        let expected = "a name that ends in .safetensors, the format of tensors";
        if is_stdout(output)? {
            return self.plan(Vec::new(), None);
        }
        if is_folder(output) {
            return Err(refused("--output", expected, output.display()));
        }
        require_extension(output, "safetensors", expected)?;
        self.plan(vec![output.to_owned()], None)
    }

    /// Checks that these files can be written, or standard output where there are none, and that no two are the same.
    fn plan(&self, paths: Vec<PathBuf>, folder: Option<&Path>) -> Result<Outputs> {
        if paths.is_empty() {
            if self.json {
                return Err(refused("--output", "a file, because --json writes to standard output", "-"));
            }
            check_writable(STDOUT.as_ref(), true, false)?;
        }
        let mut known = HashMap::new();
        for path in &paths {
            check_writable(path, self.force, folder.is_some())?;
            if let Some(other) = known.insert(Identity::of(path), path) {
                return Err(refused("--output", "a file of its own for every picture", same_file(path, other)));
            }
        }
        if let Some(dump) = &self.dump {
            if is_stdout(dump)? {
                return Err(refused("--dump", "a file, because names go to standard output", dump.display()));
            }
            check_writable(dump, self.force, false)?;
            if let Some(other) = known.get(&Identity::of(dump)) {
                return Err(refused("--output", "another file than --dump", same_file(other, dump)));
            }
        }
        Ok(Outputs { paths, folder: folder.map(Path::to_owned), dump: self.dump.clone(), force: self.force })
    }
}

/// Standard output as a file, where the system has one.
const STDOUT: &str = "/dev/stdout";

/// `-`, or one of the system's names of standard output.
fn is_stdout(output: &Path) -> Result<bool> {
    Ok(output == Path::new("-") || !output.is_dir() && Target::of(output)? == Target::Stdout)
}

fn is_folder(output: &Path) -> bool {
    output.is_dir() || output.as_os_str().to_string_lossy().ends_with('/')
}

/// `a.png` for one picture, `a-01.png` to `a-12.png` for twelve.
fn names(path: &Path, total: usize) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or("png".as_ref()).to_string_lossy();
    let digits = total.to_string().len();
    let numbered = |i| path.with_file_name(format!("{stem}-{i:0digits$}.{extension}"));
    if total == 1 { vec![path.to_owned()] } else { (1..=total).map(numbered).collect() }
}

/// Two spellings of a file, for messages.
fn same_file(path: &Path, other: &Path) -> String {
    match path == other {
        true => path.display().to_string(),
        false => format!("{}, which is {}", path.display(), other.display()),
    }
}

fn require_extension(output: &Path, wanted: &str, expected: &str) -> Result<()> {
    match output.extension() {
        Some(extension) if !extension.eq_ignore_ascii_case(wanted) => {
            Err(refused("--output", expected, output.display()))
        }
        _ => Ok(()),
    }
}

/// Files that a run will write.
pub(super) struct Outputs {
    /// Files, in the order of [`write`](Self::write)'s index; none for standard output.
    paths: Vec<PathBuf>,
    /// Made when the first picture is done.
    folder: Option<PathBuf>,
    /// Where intermediate results go, if anywhere.
    pub(super) dump: Option<PathBuf>,
    force: bool,
}

impl Outputs {
    /// None of them replaces a file that the run reads, whatever either is called.
    ///
    /// # Errors
    /// [`Error::Request`] for the first that would.
    pub(super) fn spare<P: AsRef<Path>>(&self, inputs: impl IntoIterator<Item = P>) -> Result<()> {
        let inputs: HashMap<Identity, P> = inputs.into_iter().map(|path| (Identity::of(path.as_ref()), path)).collect();
        let stdout = self.paths.is_empty().then_some(Path::new(STDOUT));
        for path in self.paths.iter().chain(&self.dump).map(PathBuf::as_path).chain(stdout) {
            if let Some(input) = inputs.get(&Identity::of(path)) {
                let found = same_file(path, input.as_ref());
                return Err(refused("--output and --dump", "files that this run does not read", found));
            }
        }
        Ok(())
    }

    /// The file of index `index`, for messages.
    pub(super) fn name(&self, index: usize) -> &Path {
        self.paths.get(index).map_or(Path::new("standard output"), PathBuf::as_path)
    }

    /// Writes the file of index `index`; returns where, unless to standard output.
    pub(super) fn write(&self, index: usize, bytes: &[u8]) -> Result<Option<&Path>> {
        let Some(path) = self.paths.get(index) else { return write_stdout(bytes).map(|()| None) };
        if let Some(folder) = &self.folder {
            let made = std::fs::create_dir_all(folder);
            made.map_err(|source| Error::Disk { path: folder.clone(), action: "create", source })?;
        }
        write_atomically(path, bytes, self.force)?;
        Ok(Some(path))
    }

    /// Writes intermediate results, if they are asked for.
    pub(super) fn write_dump(&self, dump: &Tensors) -> Result<()> {
        let Some(path) = &self.dump else { return Ok(()) };
        write_atomically(path, &dump.to_bytes(path, None)?, self.force)
    }
}

fn refused(what: &str, expected: &str, found: impl ToString) -> Error {
    Error::Request { what: what.into(), expected: expected.into(), found: found.to_string() }
}
