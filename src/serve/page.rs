//! The page for people: one file, with everything in it, which loads nothing from anywhere.

use std::sync::OnceLock;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("page.html");

/// `GET /`.
pub(super) async fn page() -> Response {
    static POLICY: OnceLock<String> = OnceLock::new();
    let policy = POLICY.get_or_init(|| policy(PAGE));
    let headers = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_str(policy).expect("hashes are plain text")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY")),
    ];
    (headers, Html(PAGE)).into_response()
}

/// What a browser lets the page do: run its own script and style, known by their hashes, and ask its own server.
fn policy(page: &str) -> String {
    let hash = |tag: &str| {
        let text = page.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
        let text = text.map_or("", |(text, _)| text);
        format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; img-src 'self' blob: data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    )
}
