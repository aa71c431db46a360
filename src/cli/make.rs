//! Makes pictures and writes them as they are finished, for `generate` and `decode`.

use super::interrupt::{after_a_step, at_once};
use super::jobs::Job;
use super::output::Outputs;
use super::report::Report;
use super::watch::Watch;
use super::{DEVICE, FILES, PICTURE};
use crate::error::Result;
use crate::image::Record;
use crate::pipeline::{Inputs, Options, Pipeline};
use crate::request::parse_whole;

/// How pictures are made.
#[derive(Debug, clap::Args)]
pub(super) struct Making {
    /// Pictures made at once, which are then written. Without it, what is fastest for each: as many as memory allows,
    /// on the CPU at most 4.
    #[arg(long, value_name = "N", value_parser = parse_batch, allow_negative_numbers = true, help_heading = PICTURE, env = "CASCADE_BATCH")]
    pub(super) batch: Option<usize>,
    /// Compare every node with its definition as it runs, and stop at the first
    /// that differs. Very slow.
    #[arg(long, help_heading = DEVICE, env = "CASCADE_CHECK_NODES")]
    pub(super) check_nodes: bool,
    /// Print nothing but errors and results.
    #[arg(short, long, help_heading = FILES, env = "CASCADE_QUIET")]
    pub(super) quiet: bool,
}

/// Pictures of a batch: 1 or more.
fn parse_batch(s: &str) -> std::result::Result<usize, String> {
    match parse_whole::<u32>(s)? {
        0 => Err("expected 1 or more, got `0`".into()),
        batch => Ok(batch as usize),
    }
}

impl Making {
    /// Makes the pictures of every job, each with its record, that are not there yet.
    ///
    /// # Errors
    /// Those of [`Pipeline::run`], if a file cannot be written, or if one that is there was made in another way.
    pub(super) fn pictures(
        &self,
        pipeline: &mut Pipeline,
        all: &[(Job, Record)],
        inputs: Inputs<'_>,
        outputs: &Outputs,
        watch: &mut Watch,
        report: &mut Report,
    ) -> Result<()> {
        let missing = all.iter().map(|(job, whole)| outputs.missing(job, whole));
        let missing: Vec<_> = missing.collect::<Result<_>>()?;
        let total: usize = missing.iter().flatten().map(|images| images.len()).sum();
        let last = all.iter().map(|(job, _)| job.request.last_pass());
        let largest = last.map(|request| 3 * u64::from(request.width) * u64::from(request.height)).max();
        // A grid is drawn of pictures that are kept, and becomes a file.
        watch.expect(total, watch.pictures.as_ref().map_or(0, |_| 3 * total as u64 * largest.unwrap_or(0)));
        let mut kept = watch.pictures.take();
        for ((job, whole), missing) in all.iter().zip(missing) {
            for images in missing {
                let options = Options {
                    inputs,
                    images: Some(images),
                    batch: self.batch,
                    keep: outputs.dump.is_some(),
                    preview: watch.preview.is_some(),
                    check_nodes: self.check_nodes,
                    observer: Some(watch),
                };
                let times = after_a_step(|| {
                    pipeline.run(&job.request, options, |batch| {
                        kept.iter_mut().for_each(|kept| kept.extend_from_slice(&batch.images));
                        at_once(|| {
                            batch.images.iter().zip(batch.first..).try_for_each(|(image, i)| {
                                let record = job.record_of(i, whole);
                                report.wrote(|| outputs.write_picture(job.number_of(i), image, &record))
                            })
                        })
                    })
                })?;
                report.times += times;
            }
        }
        watch.pictures = kept;
        Ok(())
    }
}
