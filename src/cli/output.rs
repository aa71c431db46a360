//! Where results go. Files are named, and known to be writable, before any work is done.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::output::{check_writable, write_atomically};

/// What becomes of the pictures of a run.
#[derive(Debug, clap::Args)]
pub(super) struct Output {
    /// File that ends in .png, folder, or - for standard output. Several pictures are numbered. [default: cascade.png]
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
        let output = self.output.as_deref().unwrap_or(Path::new("cascade.png"));
        let total = images * seeds.len();
        if output == Path::new("-") && total > 1 {
            return Err(refused("--output", "a file or a folder for several pictures", "-"));
        }
        let numbered = |stem: &str, i: usize, of: usize| match of {
            1 => format!("{stem}.png"),
            _ => format!("{stem}-{:0digits$}.png", i + 1, digits = of.to_string().len()),
        };
        if is_folder(output) {
            let of_seed = |seed: &u64| {
                (0..images).map(|i| output.join(numbered(&format!("cascade-{seed}"), i, images))).collect()
            };
            let paths: Vec<Vec<PathBuf>> = seeds.iter().map(of_seed).collect();
            return self.plan(paths.concat(), Some(output));
        }
        require_extension(
            output,
            "png",
            "a name that ends in .png, the only format that is written, or in / for a folder",
        )?;
        if total == 1 {
            return self.plan(vec![output.to_owned()], None);
        }
        let stem = output.file_stem().unwrap_or_default().to_string_lossy();
        self.plan((0..total).map(|i| output.with_file_name(numbered(&stem, i, total))).collect(), None)
    }

    /// The same for one file of tensors.
    ///
    /// # Errors
    /// As [`plan_pictures`](Self::plan_pictures).
    pub(super) fn plan_tensors(&self) -> Result<Outputs> {
        let output = self.output.as_deref().unwrap_or(Path::new("cascade.safetensors"));
        let expected = "a name that ends in .safetensors, the format of tensors";
        if is_folder(output) {
            return Err(refused("--output", expected, output.display()));
        }
        require_extension(output, "safetensors", expected)?;
        self.plan(vec![output.to_owned()], None)
    }

    /// Checks that these files, `-` for standard output among them, can be written.
    fn plan(&self, mut paths: Vec<PathBuf>, folder: Option<&Path>) -> Result<Outputs> {
        if let Some(dump) = &self.dump {
            check_writable(dump, self.force, false)?;
        }
        if paths == [Path::new("-")] {
            if self.json {
                return Err(refused("--output", "a file, because --json writes to standard output", "-"));
            }
            paths.clear();
        }
        for path in &paths {
            if self.dump.as_ref() == Some(path) {
                return Err(refused("--output", "another file than --dump", path.display()));
            }
            check_writable(path, self.force, folder.is_some())?;
        }
        Ok(Outputs { paths, folder: folder.map(Path::to_owned), dump: self.dump.clone(), force: self.force })
    }
}

fn is_folder(output: &Path) -> bool {
    output.is_dir() || output.as_os_str().to_string_lossy().ends_with('/')
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
    /// None of them replaces a file that the run reads.
    ///
    /// # Errors
    /// [`Error::Request`] for the first that would.
    pub(super) fn spare<'a>(&self, inputs: impl Iterator<Item = &'a Path>) -> Result<()> {
        let inputs: Vec<PathBuf> = inputs.filter_map(|input| input.canonicalize().ok()).collect();
        let hit = |path: &&PathBuf| path.canonicalize().is_ok_and(|path| inputs.contains(&path));
        match self.paths.iter().chain(&self.dump).find(hit) {
            Some(path) => Err(refused("--output and --dump", "files that this run does not read", path.display())),
            None => Ok(()),
        }
    }

    /// The file of index `index`, for messages.
    pub(super) fn name(&self, index: usize) -> &Path {
        self.paths.get(index).map_or(Path::new("standard output"), PathBuf::as_path)
    }

    /// Writes the file of index `index`; returns where, unless to standard output.
    pub(super) fn write(&self, index: usize, bytes: &[u8]) -> Result<Option<&Path>> {
        let Some(path) = self.paths.get(index) else {
            let write = |mut out: std::io::StdoutLock<'_>| out.write_all(bytes).and_then(|()| out.flush());
            write(std::io::stdout().lock()).map_err(|source| Error::Disk {
                path: "standard output".into(),
                action: "write to",
                source,
            })?;
            return Ok(None);
        };
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
