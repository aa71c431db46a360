//! The API of OpenAI's images. Fields of our own stand beside theirs, under the names that diffusers has for them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};

use super::fault::Fault;
use super::fields::{Fields, PICTURES_LIMIT, body, media_type};
use super::given::Files;
use super::job::{Job, Live, Picture, State as JobState, format_name};
use super::order::Order;
use super::read::{Answer, order};
use super::{Shared, job};

/// `POST /v1/images/generations`.
pub(super) async fn generations(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Fault> {
    shared.ready()?;
    let base = base(request.headers());
    let fields = Fields::of(request, PICTURES_LIMIT).await?;
    let (asked, answer) = order(&shared, fields, Files::default()).await?;
    answer.give(&shared, asked, base).await
}

/// `POST /v1/images/edits`: a picture that changes, where a mask is transparent or white.
pub(super) async fn edits(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Fault> {
    of_form(&shared, request, false).await
}

/// `POST /v1/images/variations`: something like a picture.
pub(super) async fn variations(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Fault> {
    of_form(&shared, request, true).await
}

/// What a form with a picture asks for.
async fn of_form(shared: &Arc<Shared>, request: Request, vary: bool) -> Result<Response, Fault> {
    shared.ready()?;
    let base = base(request.headers());
    let (fields, files) = form(request).await?;
    let mut given = Files { vary, ..Files::default() };
    for (name, bytes) in files {
        let place = match &name[..] {
            "image" => &mut given.image,
            "mask" if !vary => &mut given.mask,
            _ => return Err(Fault::field(&name, "unknown_parameter", format!("there is no file `{name}`"))),
        };
        if place.replace(bytes).is_some() {
            let message = format!("there must be one `{name}`; further pictures may be shown with `image_prompts`");
            return Err(Fault::field(&name, "invalid_value", message));
        }
    }
    if given.image.is_none() {
        return Err(Fault::field("image", "missing_parameter", "`image` is missing: the picture to begin with"));
    }
    let (asked, answer) = order(shared, fields, given).await?;
    let event = if vary { answer.event } else { "image_edit" };
    Answer { event, ..answer }.give(shared, asked, base).await
}

/// A form: its fields, where numbers and flags are what they look like, and its files by the names of their fields.
async fn form(request: Request) -> Result<(Fields, Vec<(String, Vec<u8>)>), Fault> {
    if media_type(request.headers()) != "multipart/form-data" {
        return Err(Fault::media_type("multipart/form-data"));
    }
    let (parts, whole) = request.into_parts();
    let whole = body(whole, PICTURES_LIMIT).await?;
    let wrong =
        |e: &dyn std::fmt::Display| Fault::new(StatusCode::BAD_REQUEST, "invalid_form", format!("the form: {e}"));
    let request = Request::from_parts(parts, axum::body::Body::from(whole));
    let mut form = Multipart::from_request(request, &()).await.map_err(|e| wrong(&e))?;
    let (mut fields, mut files) = (Fields::default(), Vec::new());
    while let Some(part) = form.next_field().await.map_err(|e| wrong(&e))? {
        let name = part.name().unwrap_or_default().trim_end_matches("[]").to_owned();
        let is_file = part.file_name().is_some() || name == "image" || name == "mask";
        let bytes = part.bytes().await.map_err(|e| wrong(&e))?;
        match is_file {
            true => files.push((name, bytes.to_vec())),
            false => {
                let text = String::from_utf8(bytes.to_vec()).map_err(|e| wrong(&e))?;
                let plain = ["prompt", "negative_prompt", "model", "user", "size"].contains(&&name[..]);
                let typed = if plain { None } else { serde_json::from_str(&text).ok() };
                if fields.0.insert(name.clone(), typed.unwrap_or(Value::String(text))).is_some() {
                    return Err(Fault::field(&name, "invalid_value", format!("`{name}` is there twice")));
                }
            }
        }
    }
    Ok((fields, files))
}

/// The address under which the client reached the server, for addresses of pictures.
pub(super) fn base(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = if text("x-forwarded-proto") == Some("https") { "https" } else { "http" };
    format!("{scheme}://{}", text(header::HOST.as_str()).unwrap_or("localhost"))
}

/// Cancels a job if nobody waits for it any more.
struct Waiting {
    shared: Arc<Shared>,
    job: Arc<Job>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.job.state().is_end() {
            self.shared.queue.cancel(&self.job);
        }
    }
}

/// Why a job has no pictures, if it has none.
pub(super) fn fault(live: &Live) -> Result<(), Fault> {
    match live.state {
        JobState::Completed => Ok(()),
        JobState::Cancelled => Err(Fault::cancelled()),
        _ => Err(live.fault.clone().unwrap_or_else(Fault::draining)),
    }
}

/// Accepts an order, waits until it has ended, and cancels it if the client does not wait that long.
pub(super) async fn made(shared: &Arc<Shared>, order: Order, warnings: Vec<String>) -> Result<(Arc<Job>, Live), Fault> {
    let job = shared.queue.submit(order)?;
    warnings.into_iter().for_each(|warning| job.warn(warning));
    let _waiting = Waiting { shared: shared.clone(), job: job.clone() };
    let live = job.ended().await;
    fault(&live).map(|()| (job, live))
}

impl Answer {
    /// Accepts an order in place of a client that comes back for it.
    pub(super) fn submit(self, shared: &Shared, order: Order) -> Result<Arc<Job>, Fault> {
        let job = shared.queue.submit(order)?;
        self.warnings.into_iter().for_each(|warning| job.warn(warning));
        Ok(job)
    }

    async fn give(self, shared: &Arc<Shared>, order: Order, base: String) -> Result<Response, Fault> {
        let device = shared.ready()?.device.clone();
        if self.stream {
            return self.follow(shared, order, device);
        }
        let format = order.format;
        let (job, live) = made(shared, order, self.warnings.clone()).await?;
        let picture = |picture: &Arc<Picture>| match self.as_url {
            true => json!({"url": format!("{base}{}", picture.path())}),
            false => json!({"b64_json": picture.base64()}),
        };
        let answer = json!({
            "created": job.created,
            "data": live.pictures.iter().map(picture).collect::<Vec<_>>(),
            "background": "opaque",
            "output_format": format_name(format),
            "quality": self.quality,
            "size": self.size,
            "usage": usage(),
            "cascade": job.about(&live, &device),
        });
        Ok(Json(answer).into_response())
    }

    /// Answers with events: unfinished pictures as they come, then each that is finished.
    fn follow(self, shared: &Arc<Shared>, order: Order, device: String) -> Result<Response, Fault> {
        let job = shared.queue.submit(order)?;
        self.warnings.iter().for_each(|warning| job.warn(warning.clone()));
        let waiting = Waiting { shared: shared.clone(), job: job.clone() };
        let mut follow = Follow { answer: self, device, partials: 0, pictures: 0 };
        let events = events(job, move |job, live| {
            let _until_the_end = &waiting;
            follow.news(job, live)
        });
        Ok(events)
    }
}

/// Nothing is billed.
fn usage() -> Value {
    json!({"input_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}, "output_tokens": 0, "total_tokens": 0})
}

/// What a client of events was told already.
struct Follow {
    answer: Answer,
    device: String,
    partials: usize,
    pictures: usize,
}

impl Follow {
    fn news(&mut self, job: &Job, live: &Live) -> Vec<Event> {
        let Answer { size, quality, event, .. } = &self.answer;
        let about = |kind: &str, picture: &Picture| {
            json!({
                "type": format!("{event}.{kind}"),
                "b64_json": picture.base64(),
                "created_at": job::now(),
                "size": size,
                "quality": quality,
                "background": "opaque",
                "output_format": format_name(picture.format),
            })
        };
        let mut news = Vec::new();
        for (i, picture) in live.partials.iter().enumerate().skip(self.partials) {
            let mut data = about("partial_image", picture);
            data["partial_image_index"] = i.into();
            news.push(named(&format!("{event}.partial_image"), &data));
        }
        for picture in live.pictures.iter().skip(self.pictures) {
            let mut data = about("completed", picture);
            (data["usage"], data["cascade"]) = (usage(), job.about(live, &self.device));
            news.push(named(&format!("{event}.completed"), &data));
        }
        (self.partials, self.pictures) = (live.partials.len(), live.pictures.len());
        if let (true, Err(fault)) = (live.state.is_end(), fault(live)) {
            news.push(named("error", &fault.json()));
        }
        news
    }
}

/// An event with this name.
pub(super) fn named(name: &str, data: &Value) -> Event {
    Event::default().event(name).data(data.to_string())
}

/// An answer of events: what `news` says of each change of a job, until it has ended.
pub(super) fn events(job: Arc<Job>, news: impl FnMut(&Job, &Live) -> Vec<Event> + Send + 'static) -> Response {
    let start = (job.watch(), job, news, VecDeque::<Event>::new(), true, false);
    let stream = stream::unfold(start, |(mut watch, job, mut news, mut ready, mut first, mut ended)| async move {
        while ready.is_empty() {
            if ended || !first && watch.changed().await.is_err() {
                return None;
            }
            first = false;
            let live = watch.borrow_and_update().clone();
            ended = live.state.is_end();
            ready.extend(news(&job, &live));
        }
        let event = ready.pop_front()?;
        Some((Ok::<_, Infallible>(event), (watch, job, news, ready, first, ended)))
    });
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}

/// `GET /v1/models`.
pub(super) async fn models(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Fault> {
    let about = shared.ready()?;
    Ok(Json(json!({
        "object": "list",
        "data": [{"id": about.model, "object": "model", "created": 0, "owned_by": "cascade-rt"}],
    })))
}
