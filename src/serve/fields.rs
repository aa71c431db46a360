//! The fields of a request: taken one by one with their types and ranges, so that each error names its field.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};

use super::fault::Fault;

/// Most bytes of a body, which may hold pictures.
pub(super) const PICTURES_LIMIT: usize = 32 << 20;
/// How long a body may take to come.
const BODY_TIME: Duration = Duration::from_secs(60);

/// The fields of an object that were not taken yet.
#[derive(Debug, Default)]
pub(super) struct Fields(pub(super) Map<String, Value>);

/// Reads a body of limited size in limited time.
pub(super) async fn body(body: Body, most: usize) -> Result<Bytes, Fault> {
    match tokio::time::timeout(BODY_TIME, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // What fails besides the limit is a connection that ended, which nobody reads an answer from.
        Ok(Err(_)) => Err(Fault::too_large(most)),
        Err(_) => Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body took too long to come")),
    }
}

/// The media type of a body, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

impl Fields {
    /// The object of JSON that a request has as its body.
    pub(super) async fn of(request: Request, most: usize) -> Result<Self, Fault> {
        // A page of another site can send text and forms without being asked, but not this.
        if media_type(request.headers()) != "application/json" {
            return Err(Fault::media_type("application/json"));
        }
        let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: usize| length > most) {
            return Err(Fault::too_large(most));
        }
        let bytes = body(request.into_body(), most).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|e| {
            let message = format!("the body must be an object of JSON: {e}");
            Fault::new(StatusCode::BAD_REQUEST, "invalid_json", message)
        })
    }

    /// A field; one that is null counts as missing.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// A text of at most so many characters, which is how the description of the API counts, too.
    pub(super) fn text(&mut self, name: &str, most: usize) -> Result<Option<String>, Fault> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.chars().count() <= most => Ok(Some(text)),
            Some(_) => {
                let message = format!("`{name}` must be text of at most {most} characters");
                Err(Fault::field(name, "invalid_value", message))
            }
        }
    }

    /// A whole number in a range.
    pub(super) fn whole(&mut self, name: &str, range: RangeInclusive<i128>) -> Result<Option<i128>, Fault> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
        // 1.0 is a whole number, too.
        let whole = whole.or_else(|| value.as_f64().filter(|v| v.fract() == 0.0 && v.abs() < 1e15).map(|v| v as i128));
        whole.filter(|whole| range.contains(whole)).map(Some).ok_or_else(|| {
            let message = format!("`{name}` must be a whole number from {} to {}", range.start(), range.end());
            Fault::field(name, "invalid_value", message)
        })
    }

    /// A number in a range.
    pub(super) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, Fault> {
        let Some(value) = self.take(name) else { return Ok(None) };
        value.as_f64().filter(|number| range.contains(number)).map(Some).ok_or_else(|| {
            let message = format!("`{name}` must be a number from {} to {}", range.start(), range.end());
            Fault::field(name, "invalid_value", message)
        })
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Fault> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(Fault::field(name, "invalid_value", format!("`{name}` must be true or false"))),
        }
    }

    /// One of several names.
    pub(super) fn choice<'a>(&mut self, name: &str, names: &[&'a str]) -> Result<Option<&'a str>, Fault> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let known = names.iter().find(|known| value.as_str() == Some(known));
        known.map(|known| Some(*known)).ok_or_else(|| {
            let message = format!("`{name}` must be one of {}", names.join(", "));
            Fault::field(name, "invalid_value", message)
        })
    }

    /// A list of objects, each read by `one`.
    pub(super) fn list<T>(
        &mut self,
        name: &str,
        most: usize,
        mut one: impl FnMut(Fields) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let wrong =
            || Fault::field(name, "invalid_value", format!("`{name}` must be a list of at most {most} objects"));
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(all)) if all.len() <= most => {
                let object = |value| match value {
                    Value::Object(fields) => one(Fields(fields)),
                    _ => Err(wrong()),
                };
                all.into_iter().map(object).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    /// Nothing else may be there.
    pub(super) fn end(self) -> Result<(), Fault> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(Fault::field(name, "unknown_parameter", format!("there is no parameter `{name}`"))),
        }
    }
}
