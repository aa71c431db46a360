//! `--preview`: what the pictures are going to be like, in a file or in the terminal, while Stage C samples them.

use std::io::{IsTerminal, Write, stdout};
use std::path::{Path, PathBuf};

use super::PICTURE;
use super::grid::side_by_side;
use crate::error::{Error, Result};
use crate::image::{Format, Image};
use crate::output::write_atomically;
use crate::pipeline::Step;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show what the pictures of a batch are going to be like while Stage C samples them: in a file (.png, .jpg, .webp),
    /// which is always whole and replaces one of before the run only with --force, or, with `terminal`, in the terminal (kitty, iTerm2, sixel, or half blocks). The model needs a
    /// previewer (`previewer.safetensors`).
    #[arg(long, value_name = "FILE|terminal", help_heading = PICTURE, env = "CASCADE_PREVIEW")]
    preview: Option<PathBuf>,
    /// Steps of Stage C from one preview to the next; the last is always shown. [default: 1]
    #[arg(long, value_name = "N", requires = "preview", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..), help_heading = PICTURE, env = "CASCADE_PREVIEW_EVERY")]
    preview_every: Option<u32>,
}

/// Where previews go, and how often.
#[derive(Debug)]
pub(super) struct Preview {
    to: Target,
    every: usize,
    /// Whether a file may be replaced: one of before the run, and then always its own.
    replaces: bool,
}

#[derive(Debug)]
enum Target {
    File(PathBuf),
    /// The terminal, and the lines that the picture takes there, from when it was first drawn.
    Terminal(Option<u16>),
}

impl Args {
    /// The file that previews are written to, if there is one.
    pub(super) fn file(&self) -> Option<&Path> {
        self.preview.as_deref().filter(|path| *path != Path::new("terminal"))
    }

    /// Where previews go, if anywhere, and whether they may replace a file of before the run.
    ///
    /// # Errors
    /// [`Error::Request`] if standard output is not the terminal that they would go to.
    pub(super) fn plan(&self, replaces: bool) -> Result<Option<Preview>> {
        let to = match (&self.preview, self.file()) {
            (None, _) => return Ok(None),
            (Some(_), Some(file)) => Target::File(file.to_owned()),
            (Some(_), None) if stdout().is_terminal() => Target::Terminal(None),
            (Some(_), None) => {
                return Err(Error::Request {
                    what: "--preview".into(),
                    expected: "a file, because standard output is no terminal".into(),
                    found: "terminal".into(),
                });
            }
        };
        Ok(Some(Preview { to, every: self.preview_every.unwrap_or(1) as usize, replaces }))
    }
}

impl Preview {
    /// Shows a step of Stage C, if it is one to be shown.
    ///
    /// # Errors
    /// If the device is lost, or the file cannot be written.
    pub(super) fn step(&mut self, step: &mut Step<'_>) -> Result<()> {
        if !is_shown(step.index, step.steps, self.every) {
            return Ok(());
        }
        let Some(pictures) = step.preview()? else { return Ok(()) };
        let sheet = side_by_side(&pictures);
        match &mut self.to {
            Target::File(path) => {
                let format = Format::of(path).unwrap_or(Format::Png);
                let replaces = std::mem::replace(&mut self.replaces, true);
                write_atomically(path, &sheet.to_bytes(format, None)?, replaces)
            }
            Target::Terminal(lines) => {
                // A terminal that is gone is no reason to stop.
                let _ = draw(sheet, lines);
                Ok(())
            }
        }
    }
}

/// Whether step `index` of `steps`, from 0, is shown if every `every`-th is; the last one is in any case.
fn is_shown(index: usize, steps: usize, every: usize) -> bool {
    (index + 1).is_multiple_of(every) || index + 1 == steps
}

/// Draws a picture over the one before, which took these `lines`. The cursor is below it before and afterwards.
fn draw(picture: Image, lines: &mut Option<u16>) -> std::io::Result<()> {
    let terminal = |name: &str| std::env::var(name).unwrap_or_default();
    let (term, program) = (terminal("TERM"), terminal("TERM_PROGRAM"));
    let known = |names: &[&str]| names.iter().any(|name| term.contains(name) || program.contains(name));
    let (columns, rows) = cells(&picture, viuer::terminal_size());
    // Terminals are only asked for what their names promise, because one that does not answer would be waited for.
    let config = viuer::Config {
        absolute_offset: false,
        restore_cursor: true,
        width: Some(columns.into()),
        height: Some(rows.into()),
        use_kitty: known(&["kitty", "ghostty", "WezTerm"]),
        use_sixel: known(&["sixel", "foot", "mlterm", "contour"]),
        ..viuer::Config::default()
    };
    let mut out = stdout();
    if lines.is_none() {
        write!(out, "{}", "\n".repeat(rows.into()))?;
    }
    write!(out, "\x1b[{}A\r", lines.replace(rows).unwrap_or(rows))?;
    out.flush()?;
    let Image { width, height, rgb } = picture;
    let picture = image::RgbImage::from_raw(width, height, rgb).expect("a picture has the pixels of its size");
    let drawn = viuer::print(&picture.into(), &config);
    write!(out, "\x1b[{rows}B\r")?;
    out.flush()?;
    drawn.map(drop).map_err(std::io::Error::other)
}

/// The columns and rows of a terminal of this size that a picture takes: at most all columns and half of the rows. A cell is
/// twice as high as wide.
fn cells(picture: &Image, (columns, rows): (u16, u16)) -> (u16, u16) {
    let most = (f64::from(columns.max(2)), f64::from(rows.max(4)));
    let (width, height) = (f64::from(picture.width), f64::from(picture.height) / 2.0);
    let scale = (most.0 / width).min(most.1 / 2.0 / height).min(1.0);
    let whole = |cells: f64| (cells * scale).round().max(1.0) as u16;
    (whole(width), whole(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_third_step_and_the_last_are_shown() {
        let shown: Vec<usize> = (0..8).filter(|index| is_shown(*index, 8, 3)).collect();
        assert_eq!(shown, [2, 5, 7]);
    }

    #[test]
    fn previews_fit_the_terminal() {
        let picture = |width, height| Image { width, height, rgb: Vec::new() };
        assert_eq!(cells(&picture(24, 24), (80, 25)), (24, 12));
        assert_eq!(cells(&picture(192, 192), (80, 24)), (24, 12));
        assert_eq!(cells(&picture(2000, 100), (80, 24)), (80, 2));
        assert_eq!(cells(&picture(1, 1), (0, 0)), (1, 1));
    }
}
