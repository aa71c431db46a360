//! What went wrong, as clients are told: a status, and an object as OpenAI's API has it.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::Error;

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    /// What programs look at.
    pub(super) code: &'static str,
    /// What people read.
    message: String,
    /// The field that is wrong.
    param: Option<String>,
    /// Seconds after which to try again.
    retry_after: Option<u64>,
    /// Whether it is no use to try again, though the status says that the server is at fault.
    hopeless: bool,
}

impl Fault {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), param: None, retry_after: None, hopeless: false }
    }

    /// A field has a value that it must not have.
    pub(super) fn field(name: &str, code: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(name.to_owned()), ..Self::new(StatusCode::BAD_REQUEST, code, message) }
    }

    /// The same with another status.
    pub(super) fn with(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    fn later(code: &'static str, message: &str, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message) }
    }

    pub(super) fn loading() -> Self {
        Self::later("loading", "the model is being loaded; try again", 2)
    }

    pub(super) fn draining() -> Self {
        Self::later("draining", "the server is about to stop and takes no new orders", 10)
    }

    pub(super) fn device_lost() -> Self {
        Self::later("device_lost", "the device failed; the server has to be started again", 30)
    }

    pub(super) fn queue_full(most: usize, seconds: u64) -> Self {
        let message = format!("{most} orders are waiting, which is the most; try again in {seconds} s");
        let full = Self::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message);
        Self { retry_after: Some(seconds), ..full }
    }

    pub(super) fn cancelled() -> Self {
        Self::new(StatusCode::GONE, "cancelled", "the order was cancelled")
    }

    pub(super) fn late(seconds: f64) -> Self {
        let message =
            format!("the order took longer than {seconds} s; ask for fewer steps or pixels, or set `timeout_s`");
        Self { hopeless: true, ..Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message) }
    }

    pub(super) fn unknown(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what}"))
    }

    pub(super) fn too_large(most: usize) -> Self {
        let message = format!("the body of the request is larger than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    pub(super) fn media_type(expected: &str) -> Self {
        let message = format!("the request's Content-Type must be {expected}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    /// The object that tells it.
    pub(super) fn json(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            400..500 => "invalid_request_error",
            _ => "server_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.json())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.hopeless {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<PathRejection> for Fault {
    fn from(wrong: PathRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_path", wrong.to_string())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            // `order: \`seed\`` names the field of a line; a request's check names its own.
            Error::Request { what, .. } => {
                let name = what.split('`').nth(1).unwrap_or(&what).to_owned();
                Self::field(&name, "invalid_value", message)
            }
            Error::Picture { path, .. } => Self::field(&path.to_string_lossy(), "invalid_image", message),
            Error::DoesNotFit { .. } | Error::TooLarge { .. } => {
                Self { hopeless: true, ..Self::new(StatusCode::INSUFFICIENT_STORAGE, "out_of_memory", message) }
            }
            Error::Device { .. } => Self { message, ..Self::device_lost() },
            Error::Interrupted => Self::cancelled(),
            _ => Self { hopeless: true, ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message) },
        }
    }
}
