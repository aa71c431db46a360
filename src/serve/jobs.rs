//! Orders that a client comes back for, and what the server can do.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Shared;
use super::fault::Fault;
use super::fields::{Fields, PICTURES_LIMIT};
use super::given::Files;
use super::job::{Job, Live, State as JobState, media_type};
use super::openai;
use super::queue::Found;
use super::read::{COUNT, PROMPT, QUALITIES, STEPS, order};
use crate::noise::NoiseKind;
use crate::request::Request as Pictures;
use crate::sampler::{Sampler, Spacing};

/// The last part of a path, unless it is no text.
type Name = Result<Path<String>, PathRejection>;

/// `POST /v1/jobs`: the fields of `/v1/images/generations`.
pub(super) async fn submit(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Fault> {
    shared.ready()?;
    let fields = Fields::of(request, PICTURES_LIMIT).await?;
    let (asked, answer) = order(&shared, fields, Files::default()).await?;
    let job = answer.submit(&shared, asked)?;
    let place = [(header::LOCATION, format!("/v1/jobs/{}", job.id))];
    Ok((StatusCode::ACCEPTED, place, Json(shown(&shared, &job, &job.now()))).into_response())
}

/// `GET /v1/jobs`: the one that is made, and those that wait.
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let jobs: Vec<Value> = shared.queue.all().iter().map(|job| shown(&shared, job, &job.now())).collect();
    Json(json!({"data": jobs}))
}

/// `GET /v1/jobs/{id}`.
pub(super) async fn get(State(shared): State<Arc<Shared>>, id: Name) -> Result<Json<Value>, Fault> {
    let job = find(&shared, &id?.0)?;
    Ok(Json(shown(&shared, &job, &job.now())))
}

/// `DELETE /v1/jobs/{id}`.
pub(super) async fn cancel(State(shared): State<Arc<Shared>>, id: Name) -> Result<Json<Value>, Fault> {
    let job = find(&shared, &id?.0)?;
    shared.queue.cancel(&job);
    Ok(Json(shown(&shared, &job, &job.now())))
}

/// `GET /v1/jobs/{id}/events`: every change, with unfinished pictures, until the end.
pub(super) async fn events(State(shared): State<Arc<Shared>>, id: Name) -> Result<Response, Fault> {
    let job = find(&shared, &id?.0)?;
    job.show();
    let mut last = String::new();
    Ok(openai::events(job, move |job, live| {
        let mut news = vec![openai::named("job", &shown(&shared, job, live))];
        if let Some(preview) = live.preview.as_ref().filter(|preview| preview.hash != last) {
            last.clone_from(&preview.hash);
            news.push(openai::named(
                "preview",
                &json!({"b64_json": preview.base64(), "type": media_type(preview.format)}),
            ));
        }
        news
    }))
}

/// `GET /v1/images/{name}`: a picture that an answer named.
pub(super) async fn picture(State(shared): State<Arc<Shared>>, name: Name) -> Result<Response, Fault> {
    let Path(name) = name?;
    let hash = name.split_once('.').map_or(&name[..], |(hash, _)| hash);
    let picture =
        shared.queue.picture(hash).ok_or_else(|| Fault::unknown("such picture, or it was kept long enough"))?;
    let kind = [
        (header::CONTENT_TYPE, media_type(picture.format)),
        (header::CACHE_CONTROL, "private, max-age=600, immutable"),
    ];
    Ok((kind, picture.bytes.clone()).into_response())
}

fn find(shared: &Shared, id: &str) -> Result<Arc<Job>, Fault> {
    match shared.queue.find(id) {
        Found::Job(job) => Ok(job),
        Found::Gone => Err(Fault::new(StatusCode::GONE, "expired", "the job ended long ago, and is no longer kept")),
        Found::Unknown => Err(Fault::unknown("such job")),
    }
}

/// A job as clients see it.
fn shown(shared: &Shared, job: &Job, live: &Live) -> Value {
    let request = &job.order.request;
    let progress = &live.progress;
    let pictures = live.pictures.iter().map(|picture| json!({"url": picture.path(), "seed": picture.seed}));
    let fault = match live.state {
        JobState::Failed => openai::fault(live).err().map(|fault| fault.json()["error"].clone()),
        _ => None,
    };
    let device = shared.about.get().map_or("", |about| &about.device);
    json!({
        "id": job.id,
        "url": format!("/v1/jobs/{}", job.id),
        "state": live.state.name(),
        "created": job.created,
        "place": shared.queue.place(job),
        "prompt": request.prompt_of(0),
        "size": format!("{}x{}", request.width, request.height),
        "n": request.images(),
        "progress": {
            "fraction": progress.fraction,
            "seconds_left": progress.left,
            "stage": progress.stage,
            "step": progress.step,
            "steps": progress.steps,
        },
        "data": pictures.collect::<Vec<_>>(),
        "error": fault,
        "cascade": job.about(live, device),
    })
}

/// `GET /v1/capabilities`.
pub(super) async fn capabilities(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Fault> {
    let about = shared.ready()?;
    let usual = Pictures::default();
    let qualities: serde_json::Map<String, Value> =
        QUALITIES.iter().map(|(name, steps)| ((*name).to_owned(), json!([steps.0, steps.1]))).collect();
    Ok(Json(json!({
        "model": about.model,
        "device": about.device,
        "version": env!("CARGO_PKG_VERSION"),
        "defaults": {
            "size": format!("{0}x{0}", about.side),
            "prior_num_inference_steps": usual.steps.0,
            "num_inference_steps": usual.steps.1,
            "prior_guidance_scale": usual.guidance.0,
            "decoder_guidance_scale": usual.guidance.1,
            "sampler": usual.method.0.sampler.to_string(),
            "scheduler": usual.method.0.spacing.to_string(),
        },
        "samplers": Sampler::NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        "schedulers": Spacing::NAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        "noises": NoiseKind::NAMES.map(|(name, _)| name),
        "qualities": qualities,
        "output_formats": ["png", "jpeg", "webp"],
        "loras": about.adapters,
        "image_prompts": about.takes_pictures,
        "image_to_image": about.begins_with_pictures,
        "limits": {
            "pixels": shared.settings.pixels,
            "n": COUNT as u64,
            "steps": STEPS as u64,
            "prompt_characters": PROMPT,
            "queue": shared.settings.queue,
            "timeout_s": shared.settings.timeout.as_secs_f64(),
        },
    })))
}
