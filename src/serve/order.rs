//! What a client asks for, and who makes it.

use std::time::Duration;

use super::job::Job;
use crate::error::Result;
use crate::image::{Format, Image, InitialPicture};
use crate::picture::Fit;
use crate::pipeline::Times;
use crate::prompts::Syntax;
use crate::request::Request;

/// An order of pictures, read and checked.
#[derive(Debug, Clone)]
pub struct Order {
    /// What is to be made.
    pub request: Request,
    /// What parentheses in its prompts mean.
    pub syntax: Syntax,
    /// Pictures that Stage C is shown.
    pub shown: Vec<Shown>,
    /// A picture to begin with.
    pub initial: Option<Initial>,
    /// Adapters by name, each with its strength.
    pub adapters: Vec<(String, f32)>,
    /// The format of the files.
    pub format: Format,
    /// How many unfinished pictures the client wants to see.
    pub partials: usize,
    /// The longest that it may take.
    pub timeout: Duration,
}

/// A picture that Stage C is shown.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The picture.
    pub picture: Image,
    /// What its embedding is multiplied by.
    pub weight: f32,
    /// Its name, for records.
    pub name: String,
}

/// A picture to begin with.
#[derive(Debug, Clone)]
pub struct Initial {
    /// The picture.
    pub picture: Image,
    /// Where it changes, a picture of the same size in grey; everywhere without one.
    pub mask: Option<Image>,
    /// What becomes of it if the order's pictures have other proportions.
    pub fit: Fit,
    /// How much of it changes, and what records say of it.
    pub record: InitialPicture,
}

/// What clients are told about the model.
#[derive(Debug, Clone)]
pub struct About {
    /// The model's name.
    pub model: String,
    /// The device's.
    pub device: String,
    /// Width and height of pictures where an order does not say.
    pub side: u32,
    /// Names of adapters that orders may ask for.
    pub adapters: Vec<String>,
    /// Whether pictures may be shown to it.
    pub takes_pictures: bool,
    /// Whether it can change pictures.
    pub begins_with_pictures: bool,
}

/// Makes pictures, one order after the other, on a thread of its own.
pub trait Maker {
    /// What clients are told.
    fn about(&self) -> About;

    /// Makes the pictures of a job, and gives them to it as they are done. Looks at [`Job::is_to_stop`] after each step.
    ///
    /// # Errors
    /// Those of the pipeline; [`Error::Interrupted`](crate::error::Error::Interrupted) if the job was to stop.
    fn make(&mut self, job: &Job) -> Result<Times>;
}
