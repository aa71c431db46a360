//! Reads an order from the fields of a request.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Map, json};

use super::Shared;
use super::fault::Fault;
use super::fields::Fields;
use super::given::{self, Files};
use super::order::Order;
use crate::image::Format;
use crate::prompts::Syntax;
use crate::request::Request;

/// Most characters of a prompt.
pub(super) const PROMPT: usize = 8 << 10;
/// Most pictures of an order.
pub(super) const COUNT: i128 = 10;
/// Most steps of a stage.
pub(super) const STEPS: i128 = 500;

/// Steps of Stage C and Stage B for each quality.
pub(super) const QUALITIES: [(&str, (u32, u32)); 4] =
    [("auto", (20, 10)), ("low", (10, 5)), ("medium", (20, 10)), ("high", (40, 20))];

/// How an order is answered.
pub(super) struct Answer {
    pub(super) size: String,
    pub(super) quality: &'static str,
    pub(super) as_url: bool,
    pub(super) stream: bool,
    /// What every event of a stream begins with: `image_generation`, or `image_edit`.
    pub(super) event: &'static str,
    pub(super) warnings: Vec<String>,
}

/// Reads an order: its fields, and files that came with them. Pictures are decoded meanwhile, which takes long enough to be
/// done by another thread than those that answer.
pub(super) async fn order(shared: &Arc<Shared>, fields: Fields, files: Files) -> Result<(Order, Answer), Fault> {
    let shared = shared.clone();
    decoding(move || read(fields, files, &shared)).await
}

/// Does what decodes pictures.
pub(super) async fn decoding<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    // Nothing here panics on any bytes; if something did, the picture would be at fault.
    let failed = |_| Fault::field("image", "invalid_image", "the picture cannot be decoded");
    tokio::task::spawn_blocking(read).await.map_err(failed)?
}

fn read(mut fields: Fields, mut files: Files, shared: &Shared) -> Result<(Order, Answer), Fault> {
    let (about, settings) = (shared.ready()?, &shared.settings);
    let mut line = Map::new();
    let prompt = fields.text("prompt", PROMPT)?;
    let shown = given::shown(&mut fields, &mut files, about)?;
    let initial = given::initial(&mut fields, files, about)?;
    // A picture may stand alone.
    let prompt = prompt.or_else(|| (!shown.is_empty() || initial.is_some()).then(String::new));
    let missing = || Fault::field("prompt", "missing_parameter", "`prompt` is missing: what the picture shows");
    line.insert("prompt".into(), prompt.ok_or_else(missing)?.into());
    if let Some(negative) = fields.text("negative_prompt", PROMPT)? {
        line.insert("negative".into(), negative.into());
    }
    let (width, height) = size(fields.text("size", 32)?, about.side, settings.pixels)?;
    line.insert("width".into(), width.into());
    line.insert("height".into(), height.into());
    let count = fields.whole("n", 1..=COUNT)?.unwrap_or(1);
    line.insert("count".into(), (count as u64).into());
    let seed = fields.whole("seed", -1..=i128::from(u64::MAX))?.filter(|seed| *seed >= 0);
    line.insert("seed".into(), seed.map_or("random".into(), |seed| (seed as u64).into()));
    let quality = fields.choice("quality", &QUALITIES.map(|(name, _)| name))?.unwrap_or("auto");
    let steps = QUALITIES.iter().find(|(name, _)| *name == quality).map_or((20, 10), |(_, steps)| *steps);
    let prior = fields.whole("prior_num_inference_steps", 1..=STEPS)?.unwrap_or(steps.0.into());
    let decoder = fields.whole("num_inference_steps", 1..=STEPS)?.unwrap_or(steps.1.into());
    line.insert("steps".into(), json!([prior as u64, decoder as u64]));
    let usual = Request::default().guidance;
    let same = fields.number("guidance_scale", 0.0..=100.0)?;
    let prior = fields.number("prior_guidance_scale", 0.0..=100.0)?.or(same).unwrap_or(usual.0.into());
    let decoder = fields.number("decoder_guidance_scale", 0.0..=100.0)?.unwrap_or(usual.1.into());
    line.insert("guidance".into(), json!([prior, decoder]));
    for name in ["sampler", "scheduler", "noise"] {
        line.extend(fields.text(name, 64)?.map(|text| (name.to_owned(), text.into())));
    }
    for (name, range) in [
        ("shift", 0.01..=100.0),
        ("compression", 4.0..=128.0),
        ("guidance_rescale", 0.0..=1.0),
        ("guidance_parallel", 0.0..=1.0),
    ] {
        line.extend(fields.number(name, range)?.map(|number| (name.to_owned(), number.into())));
    }
    let syntax = fields.choice("prompt_syntax", &Syntax::NAMES.map(|(name, _)| name))?;
    let adapters = fields.list("loras", 16, adapter)?;
    if let Some((name, _)) = adapters.iter().find(|(name, _)| !about.adapters.contains(name)) {
        let message = format!("there is no LoRA `{name}`; GET /v1/capabilities lists them");
        return Err(Fault::field("loras", "invalid_value", message));
    }
    let timeout = fields.number("timeout_s", 1.0..=86_400.0)?.map_or(settings.timeout, Duration::from_secs_f64);
    let format = format(&mut fields)?;
    let as_url = fields.choice("response_format", &["b64_json", "url"])? == Some("url");
    let stream = fields.flag("stream")?;
    let partials = fields.whole("partial_images", 0..=3)?.unwrap_or(0) as usize;
    if fields.choice("background", &["auto", "opaque", "transparent"])? == Some("transparent") {
        return Err(Fault::field("background", "unsupported", "pictures have no transparent background"));
    }
    if let Some(model) = fields.text("model", 256)?.filter(|model| *model != about.model) {
        let message = format!("there is no model `{model}` here; this is `{}`", about.model);
        return Err(Fault::field("model", "model_not_found", message).with(StatusCode::NOT_FOUND));
    }
    let mut warnings = Vec::new();
    for name in ["moderation", "style", "user", "input_fidelity"] {
        if fields.text(name, 256)?.is_some() {
            warnings.push(format!("`{name}` means nothing here"));
        }
    }
    fields.end()?;
    let request = (shared.read)(line)?;
    let order = Order {
        request,
        syntax: syntax.and_then(|name| name.parse().ok()).unwrap_or_default(),
        shown,
        initial,
        adapters,
        format,
        partials: if stream { partials } else { 0 },
        timeout: timeout.min(settings.timeout),
    };
    let size = format!("{width}x{height}");
    Ok((order, Answer { size, quality, as_url, stream, event: "image_generation", warnings }))
}

/// Width and height: `auto`, or two numbers with an x between them.
fn size(text: Option<String>, usual: u32, most: u64) -> Result<(u32, u32), Fault> {
    let text = text.unwrap_or_else(|| "auto".into());
    if text == "auto" {
        return Ok((usual, usual));
    }
    let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse::<u32>().ok()?, h.parse::<u32>().ok()?)));
    let fits =
        |(w, h): (u32, u32)| w % 8 == 0 && h % 8 == 0 && w >= 64 && h >= 64 && u64::from(w) * u64::from(h) <= most;
    sides.filter(|sides| fits(*sides)).ok_or_else(|| {
        let near = sides.map_or((usual, usual), |(w, h)| nearest(w, h, most));
        let message = format!(
            "`size` must be auto or WIDTHxHEIGHT, multiples of 8 from 64 up with at most {most} pixels in all; the nearest \
             is {}x{}",
            near.0, near.1
        );
        Fault::field("size", "invalid_size", message)
    })
}

/// The nearest size that is allowed, of about the same shape.
fn nearest(width: u32, height: u32, most: u64) -> (u32, u32) {
    let (w, h) = (f64::from(width.clamp(64, 1 << 20)), f64::from(height.clamp(64, 1 << 20)));
    let shrink = (most as f64 / (w * h)).sqrt().min(1.0);
    let side = |side: f64, other: u64| {
        let side = ((side * shrink / 8.0).round() as u64 * 8).max(64);
        side.min((most / other.max(1)) / 8 * 8).max(64)
    };
    let first = side(w, 64);
    (first as u32, side(h, first) as u32)
}

fn format(fields: &mut Fields) -> Result<Format, Fault> {
    let quality = fields.whole("output_compression", 0..=100)?.map_or(Format::QUALITY, |quality| quality.max(1) as u8);
    Ok(match fields.choice("output_format", &["png", "jpeg", "webp"])? {
        Some("jpeg") => Format::Jpeg { quality },
        Some("webp") => Format::Webp,
        _ => Format::Png,
    })
}

fn adapter(mut fields: Fields) -> Result<(String, f32), Fault> {
    let missing =
        || Fault::field("loras", "invalid_value", "each of `loras` must be like {\"name\": \"x\", \"strength\": 1}");
    let name = fields.text("name", 256)?.ok_or_else(missing)?;
    let strength = fields.number("strength", -10.0..=10.0)?.unwrap_or(1.0) as f32;
    fields.end().map(|()| (name, strength))
}
