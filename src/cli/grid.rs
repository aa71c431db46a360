//! Grids: the same pictures with other settings along two axes, and one labelled picture of all of them.

use std::path::PathBuf;
use std::str::FromStr;

use font8x8::{BASIC_FONTS, LATIN_FONTS, UnicodeFonts};

use super::prompts::Line;
use super::{FILES, PICTURE};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::request::Request;

/// What varies, and what becomes of it.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(super) struct Args {
    /// Make every picture with each of these values of a setting: any field of a JSONL line, like seed=1,2,3 or
    /// guidance=2,4,8. Values that have commas are divided by slashes, like steps=20,10/30,12. All else, the seed
    /// included, stays the same. May be given twice.
    #[arg(long, value_name = "NAME=V,…", help_heading = PICTURE, env = "CASCADE_VARY")]
    vary: Vec<Axis>,
    /// Write one labelled picture of all pictures to this file, too: a row for each prompt or each value of the first
    /// setting that varies, a column for each of the other.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["resume", "prior_only"], help_heading = FILES, env = "CASCADE_GRID")]
    pub(super) grid: Option<PathBuf>,
}

/// A setting and its values.
#[derive(Debug, Clone)]
struct Axis {
    name: String,
    values: Vec<String>,
}

impl FromStr for Axis {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("expected a setting and its values like seed=1,2,3, got `{s}`");
        let (name, values) = s.split_once('=').ok_or_else(wrong)?;
        let divider = if values.contains('/') { '/' } else { ',' };
        let values: Vec<String> = values.split(divider).map(str::to_owned).collect();
        match name.is_empty() || values.iter().any(String::is_empty) {
            true => Err(wrong()),
            false => Ok(Self { name: name.to_owned(), values }),
        }
    }
}

/// The labels of a grid, whose pictures come row by row.
#[derive(Debug, PartialEq)]
pub(super) struct Grid {
    rows: Vec<String>,
    columns: Vec<String>,
}

impl Args {
    /// Every line with every combination of the values that vary, and the labels of these pictures.
    ///
    /// # Errors
    /// [`Error::Request`] if there are more than two axes: prompts, settings, and pictures of each prompt.
    pub(super) fn expand(&self, lines: Vec<Line>, base: &Request) -> Result<(Vec<Line>, Grid)> {
        let prompts = lines.iter().map(Line::prompt).collect();
        let count = (1..=base.count).map(|k| k.to_string()).collect();
        let label = |axis: &Axis| axis.values.iter().map(|value| format!("{} {value}", axis.name)).collect();
        let varied: Vec<Vec<String>> = self.vary.iter().map(label).collect();
        let axes: Vec<Vec<String>> =
            [prompts].into_iter().chain(varied).chain([count]).filter(|axis| axis.len() > 1).collect();
        if axes.len() > 2 && (self.grid.is_some() || self.vary.len() > 2) {
            return Err(Error::Request {
                what: "--grid".into(),
                expected: "two of several prompts, --vary, another --vary and --count".into(),
                found: format!("{} of them", axes.len()),
            });
        }
        let mut axes = axes.into_iter();
        let grid = Grid { rows: axes.next().unwrap_or_default(), columns: axes.next().unwrap_or_default() };
        if self.vary.is_empty() {
            return Ok((lines, grid));
        }
        let mut all: Vec<Line> = lines.into_iter().map(|line| line.or("seed", &base.seed.to_string())).collect();
        for axis in &self.vary {
            let with = |line: &Line| axis.values.iter().map(|value| line.with(&axis.name, value)).collect::<Vec<_>>();
            all = all.iter().flat_map(with).collect();
        }
        Ok((all, grid))
    }
}

/// Space between pictures, pixels.
const GAP: usize = 8;
/// Side of a letter before it is enlarged.
const LETTER: usize = 8;
/// Lines of a row's label.
const LINES: usize = 2;

impl Grid {
    /// One picture of all `pictures`, which come row by row. Cells are as large as the largest of them.
    pub(super) fn draw(&self, pictures: &[Image]) -> Image {
        let columns = self.columns.len().max(1);
        let rows = pictures.len().div_ceil(columns);
        let side = |of: fn(&Image) -> u32| pictures.iter().map(of).max().unwrap_or(0) as usize;
        let (w, h) = (side(|image| image.width), side(|image| image.height));
        // Some thirty letters along a picture.
        let scale = (w / (30 * LETTER)).max(1);
        let line = (LETTER + 2) * scale;
        let row_label = if self.rows.is_empty() { 0 } else { LINES * line };
        let head = if self.columns.is_empty() { 0 } else { line };
        let mut sheet = Sheet::new(columns * (w + GAP) + GAP, head + GAP + rows * (row_label + h + GAP), scale);
        for (i, label) in self.columns.iter().enumerate() {
            sheet.write(label, GAP + i * (w + GAP), GAP, w, 1);
        }
        for (i, picture) in pictures.iter().enumerate() {
            let (x, y) = (GAP + i % columns * (w + GAP), head + GAP + i / columns * (row_label + h + GAP));
            if let (0, Some(label)) = (i % columns, self.rows.get(i / columns)) {
                sheet.write(label, x, y, columns * (w + GAP) - GAP, LINES);
            }
            sheet.paste(picture, x, y + row_label);
        }
        sheet.image
    }
}

/// Pictures of the same size beside and below one another, about as many in a row as in a column.
pub(super) fn side_by_side(pictures: &[Image]) -> Image {
    let columns = (1..).find(|columns| columns * columns >= pictures.len()).expect("numbers do not end");
    let (w, h) = pictures.first().map_or((0, 0), |first| (first.width as usize, first.height as usize));
    let mut sheet = Sheet::new(columns * w, pictures.len().div_ceil(columns) * h, 1);
    for (i, picture) in pictures.iter().enumerate() {
        sheet.paste(picture, i % columns * w, i / columns * h);
    }
    sheet.image
}

/// A white picture to draw on.
struct Sheet {
    image: Image,
    scale: usize,
}

impl Sheet {
    fn new(width: usize, height: usize, scale: usize) -> Self {
        let rgb = vec![255; width * height * 3];
        Self { image: Image { width: width as u32, height: height as u32, rgb }, scale }
    }

    /// Three bytes of a pixel, if it is on the sheet.
    fn pixel(&mut self, x: usize, y: usize) -> Option<&mut [u8]> {
        let (width, at) = (self.image.width as usize, 3 * (y * self.image.width as usize + x));
        if x < width { self.image.rgb.get_mut(at..at + 3) } else { None }
    }

    fn paste(&mut self, picture: &Image, x: usize, y: usize) {
        for (i, rgb) in picture.rgb.chunks_exact(3).enumerate() {
            let (dx, dy) = (i % picture.width as usize, i / picture.width as usize);
            self.pixel(x + dx, y + dy).into_iter().for_each(|pixel| pixel.copy_from_slice(rgb));
        }
    }

    /// Writes text in at most so many lines of this width, in pixels; what does not fit is left out.
    fn write(&mut self, text: &str, x: usize, y: usize, width: usize, lines: usize) {
        let letter = LETTER * self.scale;
        let columns = (width / letter).max(1);
        let text: Vec<char> = text.chars().take(columns * lines).collect();
        for (i, letter_of) in text.iter().enumerate() {
            let glyph = BASIC_FONTS.get(*letter_of).or_else(|| LATIN_FONTS.get(*letter_of));
            let glyph = glyph.or_else(|| BASIC_FONTS.get('?')).unwrap_or_default();
            let (left, top) = (x + i % columns * letter, y + i / columns * (LETTER + 2) * self.scale);
            for k in 0..letter * letter {
                let (dx, dy) = (k % letter, k / letter);
                if glyph[dy / self.scale] >> (dx / self.scale) & 1 == 1 {
                    self.pixel(left + dx, top + dy).into_iter().for_each(|pixel| pixel.fill(0));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(vary: &[&str]) -> Args {
        Args { vary: vary.iter().map(|axis| axis.parse().unwrap()).collect(), grid: Some("g.png".into()) }
    }

    #[test]
    fn settings_vary_along_two_axes() {
        let base = Request { seed: 5, ..Request::default() };
        let (lines, grid) =
            args(&["guidance=2,4", "steps=20,10/30,12"]).expand(vec![Line::of("a fox")], &base).unwrap();
        let asked: Vec<Request> = lines.iter().map(|line| line.apply(&base).unwrap().request).collect();
        let seen: Vec<_> = asked.iter().map(|of| (of.guidance.0, of.steps, of.seed)).collect();
        assert_eq!(seen, [(2.0, (20, 10), 5), (2.0, (30, 12), 5), (4.0, (20, 10), 5), (4.0, (30, 12), 5)]);
        assert_eq!((&grid.rows[1][..], &grid.columns[0][..]), ("guidance 4", "steps 20,10"));

        let (lines, grid) = args(&["seed=1,2,3"]).expand(vec![Line::of("a"), Line::of("b")], &base).unwrap();
        assert_eq!((lines.len(), grid.rows, grid.columns.len()), (6, vec!["a".to_owned(), "b".into()], 3));
        let base = Request { count: 2, ..base };
        assert!(args(&["seed=1,2"]).expand(vec![Line::of("a"), Line::of("b")], &base).is_err());
        for bad in ["seed", "=1", "seed=", "seed=1,,2"] {
            assert!(bad.parse::<Axis>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_sheet_holds_every_picture_and_its_labels() {
        let picture = |value| Image { width: 64, height: 32, rgb: vec![value; 64 * 32 * 3] };
        let grid =
            Grid { rows: vec!["a row".into(), "é日".into()], columns: vec!["x".into(), "y".into(), "z".into()] };
        let pictures: Vec<Image> = (0..6).map(|i| picture(100 + i)).collect();
        let sheet = grid.draw(&pictures);
        assert_eq!((sheet.width, sheet.height), (3 * 72 + 8, 10 + 8 + 2 * (20 + 32 + 8)));
        let count = |value| sheet.rgb.iter().filter(|v| **v == value).count();
        assert!((0..6).all(|i| count(100 + i) == 64 * 32 * 3), "every picture is there as a whole");
        assert!(count(0) > 100 && count(255) > 1000, "labels are black on white");
        let five = side_by_side(&pictures[..5]);
        assert_eq!((five.width, five.height, five.rgb[0], five.rgb.last()), (3 * 64, 2 * 32, 100, Some(&255)));
        let plain = Grid { rows: Vec::new(), columns: Vec::new() }.draw(&pictures[..1]);
        assert_eq!((plain.width, plain.height), (80, 48));
    }
}
