//! Pictures of this program that are to be made again, from what their records say.

use std::path::Path;

use super::control;
use super::generate::Args;
use crate::demo;
use crate::error::{Error, Result};
use crate::image::{Origin, Record, read_metadata};
use crate::request::Request;

/// The record of a picture that is to be made again, for which the flags give what is not in it.
pub(super) fn record_of(path: &Path, args: &Args) -> Result<Record> {
    let lacks = |expected: String, found: &str| Error::Request {
        what: format!("--from {}", path.display()),
        expected,
        found: found.into(),
    };
    let damaged = |e: serde_json::Error| lacks("a picture of cascade-rt".into(), &e.to_string());
    let record = read_metadata(path)?.record().map_err(damaged)?;
    let record = record.ok_or_else(|| lacks("a picture of cascade-rt".into(), "one without a record"))?;
    record.request.check()?;
    prior_request(&record).map_or(Ok(()), |(request, _)| request.check())?;
    if record.image >= record.request.images() {
        return Err(lacks("an image of its request".into(), &record.image.to_string()));
    }
    if !args.setup.model.is_given() && demo::MODEL.is_none_or(|built_in| built_in.name != record.model) {
        return Err(lacks(format!("--model with {}, which made it", record.model), "none"));
    }
    if args.prompt.is_some() || args.size.count.is_some() {
        return Ok(record);
    }
    if !record.images.is_empty() && args.image.is_empty() {
        let files: Vec<_> = record.images.iter().map(|image| format!("{}:{}", image.file, image.weight)).collect();
        return Err(lacks(format!("--image with {}", files.join(" and ")), "none"));
    }
    if !record.controls.is_empty() && !args.control.is_given() {
        return Err(lacks(control::flags(&record.controls), "none"));
    }
    if let Some(init) = record.init.as_ref().filter(|_| args.initial.init.is_none()) {
        return Err(lacks(format!("--init with {}", init.file), "none"));
    }
    if let Some(mask) = record.init.as_ref().and_then(|init| init.mask.as_ref()).filter(|_| !args.initial.is_masked()) {
        return Err(lacks(format!("--mask with {mask}"), "none"));
    }
    match (&record.text, &record.latents, &record.prior) {
        (Some(of), ..) if args.text.is_none() => Err(lacks(format!("--text with {}", of.file), "none")),
        (_, Some(of), _) if args.latents.is_none() => Err(lacks(format!("--latents with {}", of.file), "none")),
        (_, _, Some(Origin::File(of))) => {
            let seed = record.request.seed.wrapping_sub(of.row as u64);
            let decode = format!("`cascade-rt decode {} -s {seed}`, whose picture {} it is", of.file, of.row + 1);
            Err(lacks(decode, "another command"))
        }
        _ => Ok(record),
    }
}

/// The other request whose latents a picture was decoded from, and which of its images, if it was.
pub(super) fn prior_request(record: &Record) -> Option<(&Request, usize)> {
    match record.prior.as_ref()? {
        Origin::Request { request, image } => Some((request, *image)),
        Origin::File(_) => None,
    }
}
