//! Whether the server lives, and whether it takes orders.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Shared;
use super::fault::Fault;

/// `GET /health/live`: the process answers.
pub(super) async fn live() -> Json<Value> {
    Json(json!({"status": "live"}))
}

/// `GET /health/ready`: orders are taken.
pub(super) async fn ready(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Fault> {
    shared.ready().map(|_| Json(json!({"status": "ready"})))
}

/// `GET /health`: the same, with what is going on.
pub(super) async fn health(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, Fault> {
    let about = shared.ready()?;
    let busy = shared.queue.running().is_some();
    Ok(Json(json!({
        "status": "ready",
        "model": about.model,
        "device": about.device,
        "queue": {"waiting": shared.queue.depth(), "running": usize::from(busy), "most": shared.settings.queue},
    })))
}
