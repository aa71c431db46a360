//! Where results go: named, and known to be writable, before any work is done.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::image::{Image, Record};
use crate::output::{check_writable, write_atomically};

/// What becomes of the pictures of a run.
#[derive(Debug, clap::Args)]
pub(super) struct Output {
    /// File that ends in .png, folder, or - for standard output. Several pictures are numbered.
    #[arg(short, long, value_name = "FILE|DIR|-", default_value = "cascade.png", env = "CASCADE_OUTPUT")]
    output: PathBuf,
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
    /// Names every file of a run of `images` pictures, and finds out now, not after minutes of work,
    /// whether they can be written. Files of a folder carry the seed.
    ///
    /// # Errors
    /// [`Error::Request`] or [`Error::Disk`] for the first that must not or cannot be written.
    pub(super) fn plan(&self, images: usize, seed: u64) -> Result<Outputs> {
        if let Some(dump) = &self.dump {
            check_writable(dump, self.force, false)?;
        }
        let (paths, folder) = self.pictures(images, seed)?;
        for path in &paths {
            if self.dump.as_ref() == Some(path) {
                return Err(refused("--output", "another file than --dump", path.display()));
            }
            check_writable(path, self.force, folder.is_some())?;
        }
        Ok(Outputs { paths, folder, dump: self.dump.clone(), force: self.force })
    }

    /// The file of each picture, none for standard output, and the folder that is to be made for them.
    fn pictures(&self, images: usize, seed: u64) -> Result<(Vec<PathBuf>, Option<PathBuf>)> {
        let output = &self.output;
        if output == Path::new("-") {
            return match (images, self.json) {
                (1, false) => Ok((Vec::new(), None)),
                (1, true) => Err(refused("--output", "a file, because --json writes to standard output", "-")),
                _ => Err(refused("--output", "a file or a folder for several pictures", "-")),
            };
        }
        let digits = images.to_string().len();
        let numbered = |stem: &str, i: usize| format!("{stem}-{:0digits$}.png", i + 1);
        if output.is_dir() || output.as_os_str().to_string_lossy().ends_with('/') {
            let stem = format!("cascade-{seed}");
            let name = |i| if images == 1 { format!("{stem}.png") } else { numbered(&stem, i) };
            return Ok(((0..images).map(|i| output.join(name(i))).collect(), Some(output.clone())));
        }
        if output.extension().is_some_and(|extension| !extension.eq_ignore_ascii_case("png")) {
            let expected = "a name that ends in .png, the only format that is written, or in / for a folder";
            return Err(refused("--output", expected, output.display()));
        }
        if images == 1 {
            return Ok((vec![output.clone()], None));
        }
        let stem = output.file_stem().unwrap_or_default().to_string_lossy();
        Ok(((0..images).map(|i| output.with_file_name(numbered(&stem, i))).collect(), None))
    }
}

/// Files that a run will write.
pub(super) struct Outputs {
    /// One a picture; none for standard output.
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

    /// Writes image `index`; returns where.
    pub(super) fn write(&self, image: &Image, record: &Record, index: usize) -> Result<Option<&Path>> {
        let png = image.to_png(record)?;
        let Some(path) = self.paths.get(index) else {
            let write = |mut out: std::io::StdoutLock<'_>| out.write_all(&png).and_then(|()| out.flush());
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
        write_atomically(path, &png, self.force)?;
        Ok(Some(path))
    }

    /// Writes the dump.
    pub(super) fn write_dump(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        write_atomically(path, bytes, self.force)
    }
}

fn refused(what: &str, expected: &str, found: impl ToString) -> Error {
    Error::Request { what: what.into(), expected: expected.into(), found: found.to_string() }
}
