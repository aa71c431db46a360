//! Who may ask: the name that the server is called by, the page that asks, and the key.
//!
//! A page of another site can reach servers of the machine that its reader's browser runs on. So requests from pages of
//! other origins are refused, and so are those that call the server by a name which it does not know: such a name may
//! belong to the other site, and have become one of this machine (DNS rebinding).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::Shared;
use super::fault::Fault;

/// Keys that clients may have. They are never printed.
#[derive(Clone, Default)]
pub struct Keys(Vec<String>);

impl Keys {
    /// These keys; empty ones do not count.
    pub fn new(all: impl IntoIterator<Item = String>) -> Self {
        Self(all.into_iter().filter(|key| !key.is_empty()).collect())
    }

    /// Whether nobody needs one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether these headers have one of them: as a bearer's token, or as the password of any user, as clients of Stable
    /// Diffusion WebUI send it. Each comparison takes as long as any other.
    fn admit(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (scheme, rest) = value.split_once(' ').unwrap_or_default();
        let given = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some(rest.trim().to_owned()),
            "basic" => STANDARD.decode(rest.trim()).ok().and_then(|bytes| {
                let text = String::from_utf8(bytes).ok()?;
                text.split_once(':').map(|(_, password)| password.to_owned())
            }),
            _ => None,
        };
        let given = given.unwrap_or_default();
        self.0.iter().fold(false, |found, key| found | bool::from(key.as_bytes().ct_eq(given.as_bytes())))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// Counts and times every request, and lets those pass that may.
pub(super) async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let begin = Instant::now();
    shared.metrics.begin();
    // Of a client that goes away, the future is dropped; what was counted is counted back.
    let mut counted =
        Counted { shared: &shared, begin, method: name(request.method()), route: "none".into(), status: 499 };
    if let Some(path) = request.extensions().get::<MatchedPath>() {
        counted.route = path.as_str().to_owned();
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = match admit(&shared, &request) {
        Err(fault) => fault.into_response(),
        Ok(()) if request.method() == Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        Ok(()) => next.run(request).await,
    };
    counted.status = response.status().as_u16();
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Some(origin) = origin.filter(|origin| is_listed(origin, &shared.settings.origins)) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
        let methods = HeaderValue::from_static("GET, POST, DELETE");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let allowed = HeaderValue::from_static("authorization, content-type");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    response
}

struct Counted<'a> {
    shared: &'a Shared,
    begin: Instant,
    method: &'static str,
    route: String,
    status: u16,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.shared.metrics.answered(self.method, &self.route, self.status, self.begin.elapsed());
    }
}

/// A method's name for counts, of which clients cannot invent more.
fn name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

fn admit(shared: &Shared, request: &Request) -> Result<(), Fault> {
    let (headers, path) = (request.headers(), request.uri().path());
    let refused = |code, message: String| Err(Fault::new(StatusCode::FORBIDDEN, code, message));
    // An address in the request line, as proxies get it, stands above the header.
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let host = request.uri().authority().map_or(host, |authority| authority.as_str());
    if !is_known(host, &shared.settings.hosts) {
        return refused("host_refused", format!("the server is not known as `{host}`; start it with --allowed-host"));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let own = origin.to_str().ok().and_then(|text| text.split_once("://")).is_some_and(|(_, own)| own == host);
        if !own && !is_listed(origin, &shared.settings.origins) {
            return refused(
                "origin_refused",
                "a page of another site may not ask; start the server with --cors-origin".into(),
            );
        }
    } else {
        // What a page loads as a picture or a script has no Origin, but browsers say where it comes from. To follow a
        // link to the page is fine.
        let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
        if is("sec-fetch-site", "cross-site") && !(path == "/" && is("sec-fetch-mode", "navigate")) {
            return refused("origin_refused", "a page of another site may not load this".into());
        }
    }
    let open = path == "/" || path.starts_with("/health") || path.starts_with("/v2/health");
    let open = open || request.method() == Method::OPTIONS || path == "/openapi.json";
    if !open && !shared.settings.keys.is_empty() && !shared.settings.keys.admit(headers) {
        let message = "a key is needed: `Authorization: Bearer KEY`";
        return Err(Fault::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message));
    }
    Ok(())
}

fn is_listed(origin: &HeaderValue, origins: &[String]) -> bool {
    origins.iter().any(|known| origin.as_bytes() == known.as_bytes())
}

/// Whether a client may call the server so: by an address, as `localhost`, or by a name that was given. Addresses belong to
/// no other site.
fn is_known(host: &str, hosts: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(&name))
}
