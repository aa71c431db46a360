//! Which path leads where.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;

use super::fault::Fault;
use super::{Shared, a1111, guard, health, jobs, openai, page};

/// The description of the API, in the form of OpenAPI.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// All of the server, behind its guard.
pub(super) fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/v1/models", get(openai::models))
        .route("/v1/images/generations", post(openai::generations))
        .route("/v1/images/edits", post(openai::edits))
        .route("/v1/images/variations", post(openai::variations))
        .route("/v1/images/{name}", get(jobs::picture))
        .route("/v1/jobs", get(jobs::list).post(jobs::submit))
        .route("/v1/jobs/{id}", get(jobs::get).delete(jobs::cancel))
        .route("/v1/jobs/{id}/events", get(jobs::events))
        .route("/v1/capabilities", get(jobs::capabilities))
        .route("/sdapi/v1/txt2img", post(a1111::txt2img))
        .route("/sdapi/v1/img2img", post(a1111::img2img))
        .route("/sdapi/v1/progress", get(a1111::progress))
        .route("/sdapi/v1/interrupt", post(a1111::interrupt))
        .route("/sdapi/v1/options", get(a1111::options))
        .route("/sdapi/v1/samplers", get(a1111::samplers))
        .route("/sdapi/v1/schedulers", get(a1111::schedulers))
        .route("/sdapi/v1/sd-models", get(a1111::models))
        .route("/sdapi/v1/loras", get(a1111::loras))
        .route("/sdapi/v1/png-info", post(a1111::png_info))
        .route("/health", get(health::health))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/v2/health/live", get(health::live))
        .route("/v2/health/ready", get(health::ready))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .method_not_allowed_fallback(no_method)
        .fallback(nothing)
        .layer(from_fn_with_state(shared.clone(), guard::guard))
        .with_state(shared.clone())
}

async fn nothing() -> Fault {
    Fault::unknown("such path; GET /openapi.json lists them")
}

async fn no_method() -> Fault {
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the path is known, but not with this method")
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    (kind, shared.metrics.text(shared.queue.depth())).into_response()
}

async fn openapi() -> Response {
    let document: Result<Value, _> = serde_json::from_str(OPENAPI);
    match document {
        Ok(mut document) => {
            document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
            Json(document).into_response()
        }
        Err(e) => Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", e.to_string()).into_response(),
    }
}
