//! What a run makes: one request, or several where prompts have settings of their own.

use std::ops::Range;
use std::path::PathBuf;

use super::prompts::{Asked, Line};
use crate::error::Result;
use crate::image::Record;
use crate::request::Request;

/// A request of a run.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    pub(super) request: Request,
    /// Whether somebody said which width and height; if not, the model does.
    sized: [bool; 2],
    /// Where its pictures go, if that was said for it alone.
    pub(super) output: Option<PathBuf>,
    /// Number of its first picture among all those of the run.
    pub(super) first: usize,
    /// The only image of the request that is made, if not all are.
    pub(super) only: Option<usize>,
}

impl Job {
    /// All pictures of a request, of which the first has number `first`.
    pub(super) fn new(request: Request, first: usize) -> Self {
        Self { request, sized: [true; 2], output: None, first, only: None }
    }

    /// Which images of the request are made.
    pub(super) fn images(&self) -> Range<usize> {
        self.only.map_or(0..self.request.images(), |image| image..image + 1)
    }

    /// The number of an image of the request among all pictures of the run.
    pub(super) fn number_of(&self, image: usize) -> usize {
        self.first + image - self.images().start
    }

    /// The record of an image of the request, `whole` being the job's.
    pub(super) fn record_of(&self, image: usize, whole: &Record) -> Record {
        match self.only {
            Some(image) => Record { image, ..whole.clone() },
            None => whole.of_image(image),
        }
    }

    /// The request where no size was given: as large as the model was made for.
    pub(super) fn take_size(&mut self, side: u32) {
        let Request { width, height, .. } = &mut self.request;
        for (side_of, sized) in [width, height].into_iter().zip(self.sized) {
            *side_of = if sized { *side_of } else { side };
        }
    }
}

/// A job for each line, where `base` says what the line does not. `sized` tells whether it says which size.
/// Lines that differ in the prompt alone are one job if `together`, so that their pictures are made in batches.
///
/// A line without a seed goes on from the line before, so that all pictures of a run differ.
///
/// # Errors
/// For the first line that asks for something impossible.
pub(super) fn jobs(lines: &[Line], base: &Request, sized: [bool; 2], together: bool) -> Result<Vec<Job>> {
    let mut jobs: Vec<Job> = Vec::new();
    let mut first = 0;
    for line in lines {
        let Asked { mut request, seeded, sized: own, output } = line.apply(base)?;
        if !seeded && !request.noise.is_of_batch() {
            request.seed = base.seed.wrapping_add(first as u64);
        }
        let mut job = Job { request, sized: [own[0] || sized[0], own[1] || sized[1]], output, first, only: None };
        first += job.request.images();
        match jobs
            .last_mut()
            .filter(|before| together && !(seeded && job.request.noise.is_of_batch()) && follows(before, &job))
        {
            Some(before) => before.request.prompts.append(&mut job.request.prompts),
            None => jobs.push(job),
        }
    }
    jobs.iter().try_for_each(|job| job.request.check())?;
    Ok(jobs)
}

/// Whether `next` has the pictures that `before` would have with more prompts.
fn follows(before: &Job, next: &Job) -> bool {
    let seed = before.request.seed_of(before.request.images());
    let request = Request { prompts: next.request.prompts.clone(), seed, ..before.request.clone() };
    let settings = |job: &Job| (job.sized, job.output.is_none());
    request == next.request && settings(before) == settings(next) && next.output.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::NoiseKind;

    fn of(text: &str, base: &Request) -> Result<Vec<Job>> {
        let room = tempfile::tempdir().unwrap();
        let file = room.path().join("prompts");
        std::fs::write(&file, text).unwrap();
        jobs(&super::super::prompts::read(&file)?, base, [false; 2], true)
    }

    #[test]
    fn lines_that_differ_in_the_prompt_alone_are_one_job() {
        let base = Request { seed: 7, count: 2, ..Request::default() };
        let plain = of("a\n\n{b}\n c \n", &base).unwrap();
        assert_eq!(
            (plain.len(), &plain[0].request.prompts[..]),
            (1, &["a".into(), "{b}".into(), " c ".to_owned()][..])
        );
        let json = "{\"prompt\":\"a\"}\n{\"prompt\":\"{b}\",\"seed\":9}\n{\"prompt\":\" c \"}";
        assert_eq!(of(json, &base).unwrap(), plain);

        let text = "{\"prompt\":\"a\",\"sampler\":\"ddim\",\"guidance_rescale\":[0.5,0.25]}";
        let method = of(text, &base).unwrap()[0].request.method.clone();
        assert_eq!((method.0.sampler, method.0.rescale, method.1.rescale), (crate::sampler::Sampler::Ddim, 0.5, 0.25));

        let text = "{\"prompt\":\"a\",\"steps\":5}\n{\"prompt\":\"b\",\"steps\":[5,10],\"guidance\":\"3\"}\n\
                    {\"prompt\":\"c\",\"count\":1,\"output\":\"x.png\"}\n{\"prompt\":\"d\",\"width\":64,\"seed\":1}";
        let jobs = of(text, &base).unwrap();
        let seen: Vec<_> = jobs.iter().map(|job| (job.request.seed, job.request.steps, job.first)).collect();
        assert_eq!(seen, [(7, (5, 10), 0), (9, (5, 10), 2), (11, (20, 10), 4), (1, (20, 10), 5)]);
        assert_eq!((jobs[1].request.guidance, jobs[2].output.as_deref()), ((3.0, 0.0), Some("x.png".as_ref())));
        let mut last = jobs[3].clone();
        last.take_size(512);
        assert_eq!((last.request.width, last.request.height), (64, 512));

        // Where one generator draws for all, one seed serves all.
        let base = Request { noise: NoiseKind::TorchBatch, ..base };
        assert_eq!(of("a\nb", &base).unwrap()[0].request.seed_of(3), 7);
    }

    #[test]
    fn lines_that_are_wrong() {
        for (text, words) in [
            ("{\"prompt\":\"a\"}\nb", ["line 2: expected an object of JSON", "line 1 column 1"]),
            ("{\"prompt\":\"a\"}\n{}", ["line 2: `prompt`: expected what the picture shows", "nothing"]),
            ("{\"prompt\":\"a\",\"size\":3}", ["line 1: `size`: expected only prompt, negative", "got 3"]),
            ("{\"prompt\":5}", ["line 1: `prompt`: expected text", "got 5"]),
            ("{\"prompt\":\"a\",\"steps\":\"x\"}", ["line 1: `steps`: expected one or two counts", "got \"x\""]),
            ("{\"prompt\":\"a\",\"seed\":-2}", ["line 1: `seed`: expected a whole number", "got -2"]),
            ("{\"prompt\":\"a\",\"sampler\":\"heun\"}", ["line 1: `sampler`: expected", "got \"heun\""]),
            ("{\"prompt\":\"a\",\"noise\":\"pink\"}", ["line 1: `noise`: expected one of torch", "got \"pink\""]),
        ] {
            let error = of(text, &Request::default()).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }
}
