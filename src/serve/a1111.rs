//! The API of Stable Diffusion WebUI, as far as clients need it. Fields that mean nothing here are ignored, as there.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde_json::{Map, Value, json};

use super::Shared;
use super::fault::Fault;
use super::fields::{Fields, PICTURES_LIMIT};
use super::given::{self, data};
use super::job::State as JobState;
use super::openai::made;
use super::order::{Initial, Order};
use super::read::{PROMPT, STEPS, decoding};
use crate::image::{Format, Image, metadata_of};
use crate::picture::{self, Fit};
use crate::prompts::Syntax;
use crate::sampler::{Sampler, Spacing};

/// `POST /sdapi/v1/txt2img`.
pub(super) async fn txt2img(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<Value>, Fault> {
    shared.ready()?;
    let fields = Fields::of(request, PICTURES_LIMIT).await?;
    let asked = Value::Object(fields.0.clone());
    pictures(&shared, fields, None, asked).await
}

/// `POST /sdapi/v1/img2img`: of `init_images`, the first.
pub(super) async fn img2img(State(shared): State<Arc<Shared>>, request: Request) -> Result<Json<Value>, Fault> {
    let about = shared.ready()?.clone();
    let mut fields = Fields::of(request, PICTURES_LIMIT).await?;
    let (images, mask) = (fields.take("init_images"), fields.text("mask", PICTURES_LIMIT)?);
    // What was asked is said in the answer, without pictures.
    let asked = Value::Object(fields.0.clone());
    let missing =
        || Fault::field("init_images", "missing_parameter", "`init_images` must be a list of pictures in base64");
    let image = images.as_ref().and_then(|images| images.get(0)?.as_str()).ok_or_else(missing)?.to_owned();
    let strength = fields.number("denoising_strength", 0.0..=1.0)?.unwrap_or(0.75);
    let is_inverted = fields.whole("inpainting_mask_invert", 0..=1)? == Some(1);
    let fit = match fields.whole("resize_mode", 0..=3)? {
        Some(1) => Fit::Cover,
        Some(2) => Fit::Contain,
        _ => Fit::Stretch,
    };
    let initial = decoding(move || {
        let picture = given::decoded("init_images", &data(&image, "init_images")?)?;
        let mask = mask.map(|mask| mask_of(&data(&mask, "mask")?, is_inverted)).transpose()?;
        given::begin_with(picture, mask.map(|mask| ("mask", mask)), Some(strength), fit, &about)
    });
    let initial = initial.await?;
    pictures(&shared, fields, Some(initial), asked).await
}

/// A mask, which is white where a picture changes. One that is transparent anywhere says it by being opaque, which is the
/// other way round than in OpenAI's API.
fn mask_of(bytes: &[u8], is_inverted: bool) -> Result<Image, Fault> {
    let mut mask = given::mask_of("mask", bytes)?;
    if picture::transparency(bytes, "mask".as_ref())?.is_some() != is_inverted {
        mask.rgb.iter_mut().for_each(|value| *value = u8::MAX - *value);
    }
    Ok(mask)
}

/// Makes what these fields ask for.
async fn pictures(
    shared: &Arc<Shared>,
    mut fields: Fields,
    initial: Option<Initial>,
    asked: Value,
) -> Result<Json<Value>, Fault> {
    let about = shared.ready()?;
    let mut line = Map::new();
    line.insert("prompt".into(), fields.text("prompt", PROMPT)?.unwrap_or_default().into());
    line.insert("negative".into(), fields.text("negative_prompt", PROMPT)?.unwrap_or_default().into());
    for side in ["width", "height"] {
        // Any size is asked for there; the nearest that there is here is made.
        let pixels = fields.whole(side, 64..=16_384)?.map_or(about.side, |pixels| pixels as u32);
        line.insert(side.into(), (pixels.div_ceil(8) * 8).into());
    }
    let side = |side: &str| line[side].as_u64().unwrap_or(0);
    if side("width") * side("height") > shared.settings.pixels {
        let message = format!("pictures have at most {} pixels here", shared.settings.pixels);
        return Err(Fault::field("width", "invalid_size", message));
    }
    let seed = fields.whole("seed", -1..=i128::from(u64::MAX))?.filter(|seed| *seed >= 0);
    line.insert("seed".into(), seed.map_or("random".into(), |seed| (seed as u64).into()));
    if let Some(steps) = fields.whole("steps", 1..=STEPS)? {
        line.insert("steps".into(), (steps as u64).into());
    }
    if let Some(scale) = fields.number("cfg_scale", 0.0..=100.0)? {
        line.insert("guidance".into(), scale.into());
    }
    let count = fields.whole("n_iter", 1..=10)?.unwrap_or(1) * fields.whole("batch_size", 1..=10)?.unwrap_or(1);
    line.insert("count".into(), (count as u64).into());
    let sampler = fields.text("sampler_name", 64)?.or(fields.text("sampler_index", 64)?);
    line.extend(sampler.and_then(|name| known(&name, Sampler::NAMES)).map(|name| ("sampler".to_owned(), name.into())));
    let spacing = fields.text("scheduler", 64)?;
    line.extend(
        spacing.and_then(|name| known(&name, Spacing::NAMES)).map(|name| ("scheduler".to_owned(), name.into())),
    );
    let order = Order {
        request: (shared.read)(line)?,
        syntax: Syntax::WebUi,
        shown: Vec::new(),
        initial,
        adapters: Vec::new(),
        format: Format::Png,
        partials: 0,
        timeout: shared.settings.timeout,
    };
    let request = order.request.clone();
    let (_, live) = made(shared, order, Vec::new()).await?;
    let pictures: Vec<String> = live.pictures.iter().map(|picture| picture.base64()).collect();
    let seeds: Vec<u64> = live.pictures.iter().map(|picture| picture.seed).collect();
    let texts: Vec<String> = live.pictures.iter().map(|picture| parameters(&picture.bytes)).collect();
    let info = json!({
        "prompt": request.prompt_of(0),
        "negative_prompt": request.negative,
        "seed": seeds.first(),
        "all_seeds": seeds,
        "width": request.width,
        "height": request.height,
        "steps": request.steps.0,
        "cfg_scale": request.guidance.0,
        "sampler_name": request.method.0.sampler.to_string(),
        "infotexts": texts,
        "sd_model_name": about.model,
    });
    Ok(Json(json!({"images": pictures, "parameters": asked, "info": info.to_string()})))
}

/// The name here of a sampler or of a schedule that clients know by another: letters and digits decide.
fn known<T>(name: &str, names: &[(&'static str, T)]) -> Option<&'static str> {
    let plain = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let asked = match plain(name).as_str() {
        "eulera" => "eulerancestral".into(),
        "dpm2m" | "dpm2mkarras" => "dpmpp2m".into(),
        "dpm2msde" | "dpm2msdekarras" => "dpmpp2msde".into(),
        plain => plain.to_owned(),
    };
    names.iter().map(|(known, _)| *known).find(|known| plain(known) == asked)
}

fn parameters(file: &[u8]) -> String {
    metadata_of(file, "image".as_ref()).ok().and_then(|metadata| metadata.parameters).unwrap_or_default()
}

/// `GET /sdapi/v1/progress`.
pub(super) async fn progress(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let running = shared.queue.running();
    let live = running.as_ref().map(|job| {
        job.show();
        job.now()
    });
    let progress = live.as_ref().map(|live| live.progress.clone()).unwrap_or_default();
    let picture = live.and_then(|live| live.preview).map(|picture| picture.base64());
    Json(json!({
        "progress": progress.fraction,
        "eta_relative": progress.left.unwrap_or(0.0),
        "state": {
            "skipped": false,
            "interrupted": false,
            "job": running.as_ref().map_or("", |job| &job.id),
            "job_count": shared.queue.depth() + usize::from(running.is_some()),
            "job_no": 0,
            "sampling_step": progress.step,
            "sampling_steps": progress.steps,
        },
        "current_image": picture,
        "textinfo": progress.stage,
    }))
}

/// `POST /sdapi/v1/interrupt`: ends what is being made.
pub(super) async fn interrupt(State(shared): State<Arc<Shared>>) -> Json<Value> {
    if let Some(job) = shared.queue.running().filter(|job| job.state() == JobState::Generating) {
        shared.queue.cancel(&job);
    }
    Json(json!({}))
}

/// `GET /sdapi/v1/options`.
pub(super) async fn options(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Fault> {
    let about = shared.ready()?;
    Ok(Json(json!({"sd_model_checkpoint": about.model, "samples_format": "png"})))
}

/// `GET /sdapi/v1/samplers`.
pub(super) async fn samplers() -> Json<Value> {
    let one = |(name, _): &(&str, Sampler)| json!({"name": name, "aliases": [], "options": {}});
    Json(Sampler::NAMES.iter().map(one).collect())
}

/// `GET /sdapi/v1/schedulers`.
pub(super) async fn schedulers() -> Json<Value> {
    let one = |(name, _): &(&str, Spacing)| json!({"name": name, "label": name, "aliases": []});
    Json(Spacing::NAMES.iter().map(one).collect())
}

/// `GET /sdapi/v1/sd-models`.
pub(super) async fn models(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Fault> {
    let model = &shared.ready()?.model;
    let one =
        json!({"title": model, "model_name": model, "hash": null, "sha256": null, "filename": model, "config": null});
    Ok(Json(json!([one])))
}

/// `GET /sdapi/v1/loras`.
pub(super) async fn loras(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Fault> {
    let one = |name: &String| json!({"name": name, "alias": name, "path": name, "metadata": {}});
    Ok(Json(shared.ready()?.adapters.iter().map(one).collect()))
}

/// `POST /sdapi/v1/png-info`: what a picture says of how it was made.
pub(super) async fn png_info(request: Request) -> Result<Json<Value>, Fault> {
    let mut fields = Fields::of(request, PICTURES_LIMIT).await?;
    let missing =
        || Fault::field("image", "missing_parameter", "`image` is missing: a PNG, JPEG or WebP file in base64");
    let text = fields.text("image", PICTURES_LIMIT)?.ok_or_else(missing)?;
    let metadata = metadata_of(&data(&text, "image")?, "image".as_ref());
    let metadata = metadata.map_err(|e| Fault::field("image", "invalid_image", e.to_string()))?;
    let parameters = metadata.parameters.unwrap_or_default();
    Ok(Json(json!({"info": parameters, "items": {"parameters": parameters}, "parameters": {}})))
}
