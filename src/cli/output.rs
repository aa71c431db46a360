//! Where results go. Files are named, and known to be writable, before any work is done.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::FILES;
use super::jobs::Job;
use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::image::{Format, Image, Record, read_metadata};
use crate::output::{Identity, Target, check_writable, write_atomically, write_stdout};

/// What becomes of the pictures of a run.
#[derive(Debug, clap::Args)]
pub(super) struct Output {
    /// File that ends in .png, .jpg or .webp, folder, or - for standard output. Several pictures are numbered; where no
    /// format is in the name, it is a folder's. [default: cascade.png, or cascade-2.png and so on where that exists]
    #[arg(short, long, value_name = "FILE|DIR|-", help_heading = FILES, env = "CASCADE_OUTPUT")]
    output: Option<PathBuf>,
    /// Replace files that exist.
    #[arg(long, help_heading = FILES, env = "CASCADE_FORCE")]
    force: bool,
    /// Quality of JPEG files, 1 to 100. PNG and WebP are without loss.
    #[arg(long, value_name = "N", default_value_t = Format::QUALITY, value_parser = clap::value_parser!(u8).range(1..=100), help_heading = FILES, env = "CASCADE_QUALITY")]
    quality: u8,
    /// Go on with a run that was interrupted: make only the pictures whose files are not there.
    #[arg(long, conflicts_with_all = ["force", "dump", "no_metadata"], help_heading = FILES, env = "CASCADE_RESUME")]
    resume: bool,
    /// Write nothing into the pictures about how they were made.
    #[arg(long, help_heading = FILES, env = "CASCADE_NO_METADATA")]
    no_metadata: bool,
    /// Print one JSON object about the run instead of file names.
    #[arg(long, help_heading = FILES, env = "CASCADE_JSON")]
    pub(super) json: bool,
    /// Write tokens, text_states, text_pooled, stage_c, stage_b and image (f32, NCHW) to this safetensors file.
    #[arg(long, value_name = "FILE", help_heading = FILES, env = "CASCADE_DUMP")]
    dump: Option<PathBuf>,
}

/// Pictures that are named together.
pub(super) struct Series<'a> {
    /// In names of files in a folder.
    pub(super) seed: u64,
    /// How many they are.
    pub(super) images: usize,
    /// Their file or folder, if that was said for them alone.
    pub(super) output: Option<&'a Path>,
}

impl Output {
    /// One file, which replaces another only if `force`.
    pub(super) fn file(path: PathBuf, force: bool) -> Self {
        Self {
            output: Some(path),
            force,
            quality: Format::QUALITY,
            resume: false,
            no_metadata: false,
            json: false,
            dump: None,
        }
    }

    /// Whether previews may replace a file of before the run, as one that is resumed has left it.
    pub(super) fn replaces_previews(&self) -> bool {
        self.force || self.resume
    }

    /// Names every picture of a run, and the one of them all, and finds out now, not after minutes of work, whether they
    /// can be written, and `preview` as well.
    ///
    /// # Errors
    /// [`Error::Request`] or [`Error::Disk`] for the first that must not or cannot be written.
    pub(super) fn plan_pictures(&self, all: &[Series<'_>], [grid, preview]: [Option<&Path>; 2]) -> Result<Outputs> {
        let total: usize = all.iter().map(|series| series.images).sum();
        if let Some(output) = self.output.as_deref().filter(|output| is_stdout(output)) {
            return match total {
                1 => self.plan(Vec::new(), [grid, preview], false),
                _ => Err(refused("--output", "a file or a folder for several pictures", output.display())),
            };
        }
        // Several pictures without a format in their name are those of a folder.
        let folder = self.output.as_deref().filter(|path| is_folder(path) || total > 1 && path.extension().is_none());
        let unnamed = all.iter().filter(|series| series.output.is_none());
        let mut numbered = match (folder, &self.output) {
            (Some(folder), _) => names_in(folder, unnamed),
            (None, Some(file)) => names(file, unnamed.map(|series| series.images).sum()),
            (None, None) => self.free_names(unnamed.map(|series| series.images).sum()),
        }
        .into_iter();
        let mut paths = Vec::new();
        for series in all {
            match series.output {
                None => paths.extend(numbered.by_ref().take(series.images)),
                Some(own) => paths.extend(names(&folder.unwrap_or(Path::new("")).join(own), series.images)),
            }
        }
        if let Some(path) = paths.iter().find(|path| Format::of(path).is_none()) {
            let expected = "a name that ends in .png, .jpg, .jpeg or .webp, or in / for a folder";
            return Err(refused("--output", expected, path.display()));
        }
        self.plan(paths, [grid, preview], folder.is_some())
    }

    /// The names of pictures where none is given: `cascade.png`, or the first of `cascade-2.png`, `cascade-3.png`
    /// and so on that replaces nothing.
    fn free_names(&self, total: usize) -> Vec<PathBuf> {
        let named = |run: u32| match run {
            1 => names(Path::new("cascade.png"), total),
            _ => names(Path::new(&format!("cascade-{run}.png")), total),
        };
        let free = |names: &Vec<PathBuf>| names.iter().all(|name| name.symlink_metadata().is_err());
        match self.force || self.resume {
            true => named(1),
            false => (1..).map(named).find(free).expect("there are more numbers than files"),
        }
    }

    /// The same for one file of tensors.
    ///
    /// # Errors
    /// As [`plan_pictures`](Self::plan_pictures).
    pub(super) fn plan_tensors(&self, preview: Option<&Path>) -> Result<Outputs> {
        let output = self.output.as_deref().unwrap_or(Path::new("cascade.safetensors"));
        let expected = "a name that ends in .safetensors, the format of tensors";
        if is_stdout(output) {
            return self.plan(Vec::new(), [None, preview], false);
        }
        if is_folder(output) {
            return Err(refused("--output", expected, output.display()));
        }
        if output.extension().is_some_and(|extension| !extension.eq_ignore_ascii_case("safetensors")) {
            return Err(refused("--output", expected, output.display()));
        }
        self.plan(vec![output.to_owned()], [None, preview], false)
    }

    /// Checks that these files can be written, or standard output where there are none, and that no two are the same.
    /// Missing folders are no hindrance if `folders`.
    fn plan(&self, paths: Vec<PathBuf>, [grid, preview]: [Option<&Path>; 2], folders: bool) -> Result<Outputs> {
        if paths.is_empty() {
            if self.json {
                return Err(refused("--output", "a file, because --json writes to standard output", "-"));
            }
            check_writable(STDOUT.as_ref(), true, false)?;
        }
        let mut known = HashMap::new();
        for path in &paths {
            check_writable(path, self.force || self.resume, folders)?;
            if let Some(other) = known.insert(Identity::of(path), path) {
                return Err(refused("--output", "a file of its own for every picture", same_file(path, other)));
            }
        }
        let dump = self.dump.as_deref();
        let of_previews = self.replaces_previews();
        let others = [("--dump", dump, self.force), ("--grid", grid, self.force), ("--preview", preview, of_previews)];
        let mut apart: HashMap<Identity, (&str, &Path)> = HashMap::new();
        for (flag, path, force) in others {
            let Some(path) = path else { continue };
            if is_stdout(path) {
                return Err(refused(flag, "a file, because names go to standard output", path.display()));
            }
            check_writable(path, force, false)?;
            if let Some(other) = known.get(&Identity::of(path)) {
                return Err(refused("--output", &format!("another file than {flag}"), same_file(other, path)));
            }
            if let Some((before, other)) = apart.insert(Identity::of(path), (flag, path)) {
                return Err(refused(flag, &format!("another file than {before}"), same_file(path, other)));
            }
            if flag != "--dump" && Format::of(path).is_none() {
                return Err(refused(flag, "a name that ends in .png, .jpg, .jpeg or .webp", path.display()));
            }
        }
        let there = |path: &PathBuf| self.resume && path.is_file();
        Ok(Outputs {
            done: paths.iter().map(there).collect(),
            paths,
            folders,
            dump: self.dump.clone(),
            grid: grid.map(Path::to_owned),
            preview: preview.map(Path::to_owned),
            force: self.force,
            records: !self.no_metadata,
            quality: self.quality,
        })
    }
}

/// Standard output as a file, where the system has one.
const STDOUT: &str = "/dev/stdout";

/// Whether it is `-`, or one of the system's names of standard output.
fn is_stdout(output: &Path) -> bool {
    output == Path::new("-") || Target::of(output).is_ok_and(|target| target == Target::Stdout)
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

/// Names of pictures in a folder, which carry their series' seed. Where two series have the same one, all are numbered.
fn names_in<'a>(folder: &Path, all: impl Iterator<Item = &'a Series<'a>>) -> Vec<PathBuf> {
    let all: Vec<&Series<'_>> = all.collect();
    let named = |seed| folder.join(format!("cascade-{seed}.png"));
    let seeds: HashSet<u64> = all.iter().map(|series| series.seed).collect();
    if seeds.len() == all.len() {
        return all.iter().flat_map(|series| names(&named(series.seed), series.images)).collect();
    }
    let seeds: Vec<u64> = all.iter().flat_map(|series| vec![series.seed; series.images]).collect();
    seeds.iter().enumerate().map(|(i, seed)| names(&named(*seed), seeds.len()).swap_remove(i)).collect()
}

/// Two spellings of a file, for messages.
fn same_file(path: &Path, other: &Path) -> String {
    match path == other {
        true => path.display().to_string(),
        false => format!("{}, which is {}", path.display(), other.display()),
    }
}

/// No output replaces a file that a run reads, whatever either is called.
///
/// # Errors
/// [`Error::Request`] for the first that would, with the `flag` that names outputs.
pub(super) fn spare<P: AsRef<Path>>(
    flag: &str,
    outputs: impl IntoIterator<Item = P>,
    inputs: impl IntoIterator<Item = PathBuf>,
) -> Result<()> {
    let inputs: HashMap<Identity, PathBuf> = inputs.into_iter().map(|path| (Identity::of(&path), path)).collect();
    for path in outputs {
        if let Some(input) = inputs.get(&Identity::of(path.as_ref())) {
            return Err(refused(flag, "files that this run does not read", same_file(path.as_ref(), input)));
        }
    }
    Ok(())
}

/// Files that a run will write.
pub(super) struct Outputs {
    /// Files, in the order of [`write`](Self::write)'s index; none for standard output.
    paths: Vec<PathBuf>,
    /// Which of them a run before this one has written.
    done: Vec<bool>,
    /// Whether missing folders are made when the first picture is done.
    folders: bool,
    /// Where intermediate results go, if anywhere.
    pub(super) dump: Option<PathBuf>,
    /// Where one picture of all goes, if anywhere.
    grid: Option<PathBuf>,
    /// Where previews go, if into a file.
    preview: Option<PathBuf>,
    force: bool,
    records: bool,
    quality: u8,
}

impl Outputs {
    /// None of them replaces a file that the run reads, see [`spare`].
    ///
    /// # Errors
    /// [`Error::Request`] for the first that would.
    pub(super) fn spare(&self, inputs: impl IntoIterator<Item = PathBuf>) -> Result<()> {
        let inputs: Vec<PathBuf> = inputs.into_iter().collect();
        let stdout = self.paths.is_empty().then_some(Path::new(STDOUT));
        spare("--output", self.paths.iter().map(PathBuf::as_path).chain(stdout), inputs.clone())?;
        let others = [("--dump", &self.dump), ("--grid", &self.grid), ("--preview", &self.preview)];
        others.into_iter().try_for_each(|(flag, path)| spare(flag, path, inputs.clone()))
    }

    /// The images of a job that are still to be made, in ranges, where `whole` is the job's record.
    ///
    /// # Errors
    /// [`Error::Request`] if one that is there was made in another way.
    pub(super) fn missing(&self, job: &Job, whole: &Record) -> Result<Vec<Range<usize>>> {
        let mut missing: Vec<Range<usize>> = Vec::new();
        for image in job.images() {
            let number = job.number_of(image);
            if self.done.get(number).is_some_and(|done| *done) {
                self.require_same(number, &job.record_of(image, whole))?;
                continue;
            }
            if let Some(path) = self.paths.get(number).filter(|_| self.records) {
                self.format_of(path).check(&job.record_of(image, whole))?;
            }
            match missing.last_mut().filter(|range| range.end == image) {
                Some(range) => range.end = image + 1,
                None => missing.push(image..image + 1),
            }
        }
        Ok(missing)
    }

    /// Whether a file that is there holds the picture that this run would make, on whatever device.
    fn require_same(&self, index: usize, record: &Record) -> Result<()> {
        let anywhere = |of: Record| Record {
            program: String::new(),
            device: String::new(),
            dtype: String::new(),
            without: String::new(),
            ..of
        };
        let path = &self.paths[index];
        let there = read_metadata(path)?.record().ok().flatten();
        match there.is_some_and(|there| anywhere(there) == anywhere(record.clone())) {
            true => Ok(()),
            false => Err(refused(
                "--resume",
                "pictures of the same run, or another --output",
                format!("{}, which was made in another way", path.display()),
            )),
        }
    }

    /// Whether the only result goes to standard output.
    pub(super) fn is_stdout(&self) -> bool {
        self.paths.is_empty()
    }

    /// The file of index `index`, for messages.
    pub(super) fn name(&self, index: usize) -> &Path {
        self.paths.get(index).map_or(Path::new("standard output"), PathBuf::as_path)
    }

    /// The format of a file.
    fn format_of(&self, path: &Path) -> Format {
        match Format::of(path) {
            Some(Format::Jpeg { .. }) => Format::Jpeg { quality: self.quality },
            other => other.unwrap_or(Format::Png),
        }
    }

    /// Writes picture `index` with its record; returns where, unless to standard output.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub(super) fn write_picture(&self, index: usize, image: &Image, record: &Record) -> Result<Option<&Path>> {
        let format = self.paths.get(index).map_or(Format::Png, |path| self.format_of(path));
        self.write(index, &image.to_bytes(format, self.records.then_some(record))?)
    }

    /// Writes the file of index `index`; returns where, unless to standard output.
    ///
    /// # Errors
    /// [`Error::Disk`] if that fails, [`Error::Request`] if it has appeared in the meantime.
    pub(super) fn write(&self, index: usize, bytes: &[u8]) -> Result<Option<&Path>> {
        let Some(path) = self.paths.get(index) else { return write_stdout(bytes).map(|()| None) };
        if let Some(folder) = path.parent().filter(|_| self.folders) {
            let made = std::fs::create_dir_all(folder);
            made.map_err(|source| Error::Disk { path: folder.to_owned(), action: "create", source })?;
        }
        write_atomically(path, bytes, self.force)?;
        Ok(Some(path))
    }

    /// Writes one picture of all, if it is asked for; returns where.
    ///
    /// # Errors
    /// Those of [`write_atomically`].
    pub(super) fn write_grid(&self, sheet: &Image) -> Result<Option<&Path>> {
        let Some(path) = &self.grid else { return Ok(None) };
        write_atomically(path, &sheet.to_bytes(self.format_of(path), None)?, self.force)?;
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
