//! `--hires`: a second pass of Stage C, at a larger size.

use super::PICTURE;
use super::jobs::Job;
use crate::error::{Error, Result};
use crate::request::{Request, parse_hires, parse_strength};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Let Stage C make two passes: the first at -W and -H, the second from its result, so many times as wide and as high, 1
    /// to 8, where 1 is one pass. The picture has the size of the second, rounded to multiples of 8. --init, --control and
    /// --latents are what the first pass is given.
    #[arg(long, value_name = "F", value_parser = parse_hires, allow_negative_numbers = true, help_heading = PICTURE, env = "CASCADE_HIRES")]
    hires: Option<f32>,
    /// How much the second pass changes: 0 is the first one's result, enlarged, and 1 leaves nothing of it. [default: 0.3]
    #[arg(long, value_name = "S", value_parser = parse_strength, allow_negative_numbers = true, help_heading = PICTURE, env = "CASCADE_HIRES_STRENGTH")]
    hires_strength: Option<f32>,
}

impl Args {
    /// `request` with the passes that flags ask for.
    pub(super) fn apply(&self, request: Request) -> Request {
        Request {
            hires: self.hires.unwrap_or(request.hires),
            hires_strength: self.hires_strength.unwrap_or(request.hires_strength),
            ..request
        }
    }

    /// Whether what is asked for fits together, where pictures have a mask or do not.
    ///
    /// # Errors
    /// [`Error::Request`] for a strength without a second pass, and a second pass of what a mask keeps.
    pub(super) fn check(&self, jobs: &[Job], is_masked: bool) -> Result<()> {
        let two = jobs.iter().find(|job| job.request.is_hires());
        let wrong = |what: &str, expected: &str, found: String| {
            Err(Error::Request { what: what.into(), expected: expected.into(), found })
        };
        match (self.hires_strength, two) {
            (Some(strength), None) => wrong("--hires-strength", "--hires above 1 as well", strength.to_string()),
            (_, Some(job)) if is_masked => {
                let expected = "one pass (1) with --mask, which leaves a part of the picture as it is";
                wrong("--hires", expected, job.request.hires.to_string())
            }
            _ => Ok(()),
        }
    }
}
