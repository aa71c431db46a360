//! `cascade-rt annotate`: what a ControlNet is to be told of a picture, as a picture.

use std::path::PathBuf;

use clap::Subcommand;

use super::output::spare;
use super::say;
use crate::error::{Error, Result};
use crate::image::{Format, Image};
use crate::output::{check_writable, write_atomically};
use crate::picture::{self, CANNY_MOST, CANNY_THRESHOLDS, canny};

#[derive(Debug, Subcommand)]
pub(super) enum Annotate {
    /// Edges, white on black, as `cv2.Canny` of OpenCV finds them.
    #[command(after_help = "Example:\n  cascade-rt annotate canny fox.jpg -o edges.png --low 50 --high 150")]
    Canny(Canny),
}

#[derive(Debug, clap::Args)]
pub(super) struct Canny {
    /// The picture (PNG, JPEG, WebP).
    picture: PathBuf,
    /// File that ends in .png, .jpg or .webp.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Least gradient of an edge's pixels, where they touch stronger ones; at most 2040.
    #[arg(long, value_name = "N", default_value_t = CANNY_THRESHOLDS.0, value_parser = clap::value_parser!(u16).range(..=i64::from(CANNY_MOST)))]
    low: u16,
    /// Least gradient of a pixel where an edge begins.
    #[arg(long, value_name = "N", default_value_t = CANNY_THRESHOLDS.1, value_parser = clap::value_parser!(u16).range(..=i64::from(CANNY_MOST)))]
    high: u16,
    /// Replace a file that exists.
    #[arg(long)]
    force: bool,
}

/// Writes what was asked for.
///
/// # Errors
/// If the picture cannot be read, or the output not be written.
pub(super) fn run(Annotate::Canny(args): &Annotate) -> Result<()> {
    let Some(format) = Format::of(&args.output) else {
        return Err(Error::Request {
            what: "--output".into(),
            expected: "a name that ends in .png, .jpg, .jpeg or .webp".into(),
            found: args.output.display().to_string(),
        });
    };
    check_writable(&args.output, args.force, false)?;
    spare("--output", [&args.output], [args.picture.clone()])?;
    let picture = picture::read(&args.picture)?;
    let rgb = canny(&picture, args.low, args.high).into_iter().flat_map(|edge| [edge; 3]).collect();
    write_atomically(&args.output, &Image { rgb, ..picture }.to_bytes(format, None)?, args.force)?;
    say(&args.output.display().to_string())
}
