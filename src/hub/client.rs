//! Requests, and what their failures mean.

use std::io::Read;
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::Settings;
use crate::error::{Error, Result};

/// Most bytes of a list of files.
const LIST: u64 = 16 << 20;
/// Longest wait that a server may ask for.
const LONGEST: Duration = Duration::from_secs(120);

/// Why there is no answer that can be used.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may be better next time; the server may say when that is.
    Passing(Error, Option<Duration>),
    /// It will not.
    Lasting(Error),
}

/// Speaks to a hub.
pub struct Client {
    agent: Agent,
    pub(super) settings: Settings,
}

impl Client {
    /// A client with these settings.
    pub fn new(settings: Settings) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // What was asked for under TLS is not answered without it.
            .https_only(settings.endpoint.starts_with("https://"))
            .max_redirects(5)
            .user_agent(concat!("cascade-rt/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(settings.timeout))
            .timeout_recv_response(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout))
            .build()
            .new_agent();
        Self { agent, settings }
    }

    /// The answer to a request for a path, of a file from byte `from` on. Redirections are followed, and the token is
    /// not given to where they lead.
    pub(super) fn get(&self, path: &str, from: u64) -> std::result::Result<Response<Body>, Failure> {
        let url = format!("{}{path}", self.settings.endpoint);
        let mut request = self.agent.get(&url);
        if let Some(token) = &self.settings.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let response = request.call().map_err(|e| failed(&url, &e))?;
        let status = response.status();
        match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            _ => Err(self.refused(&url, &response)),
        }
    }

    /// What a status that is no success means.
    fn refused(&self, url: &str, response: &Response<Body>) -> Failure {
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let status = response.status();
        let error =
            |found: &str, remedy: &str| Error::Hub { at: url.into(), found: found.into(), remedy: remedy.into() };
        match status.as_u16() {
            401 | 403 => {
                let remedy = match &self.settings.token {
                    None => "if the model is there, set HF_TOKEN to a token that may read it",
                    Some(_) => "check the name, that HF_TOKEN may read it, and that its terms were accepted on the hub",
                };
                Failure::Lasting(error(&format!("the hub refuses ({status})"), remedy))
            }
            404 if text("x-error-code") == "RevisionNotFound" => {
                Failure::Lasting(error("there is no such revision", "check --revision"))
            }
            404 => Failure::Lasting(error("there is no such model or file", "check the name, ORG/NAME")),
            408 | 429 | 500..=599 => {
                let seconds = text("retry-after").trim().parse().ok().map(Duration::from_secs);
                let found = format!("the hub cannot answer now ({status})");
                Failure::Passing(error(&found, "try again later"), seconds.map(|wait| wait.min(LONGEST)))
            }
            _ => Failure::Lasting(error(&format!("the hub answers {status}"), "check HF_ENDPOINT")),
        }
    }

    /// The JSON of a list, tried again where that may help.
    pub(super) fn list(&self, path: &str, stop: &dyn Fn() -> bool) -> Result<serde_json::Value> {
        let url = format!("{}{path}", self.settings.endpoint);
        let mut attempts = Attempts::new(self.settings.patience);
        loop {
            let read = self.get(path, 0).and_then(|mut response| {
                let mut bytes = Vec::new();
                let read = response.body_mut().as_reader().take(LIST + 1).read_to_end(&mut bytes);
                read.map_err(|e| Failure::Passing(broken(&url, &e), None))?;
                Ok(bytes)
            });
            match read {
                Ok(bytes) => {
                    let wrong =
                        |found: String| Error::Hub { at: url.clone(), found, remedy: "check HF_ENDPOINT".into() };
                    if bytes.len() as u64 > LIST {
                        return Err(wrong(format!("a list of files of more than {LIST} bytes")));
                    }
                    return serde_json::from_slice(&bytes).map_err(|e| wrong(format!("no list of files: {e}")));
                }
                Err(failure) => attempts.failed(failure, stop)?,
            }
        }
    }
}

/// A connection that broke while an answer was read.
pub(super) fn broken(url: &str, e: &std::io::Error) -> Error {
    let remedy = "the same command goes on from here; check the network".into();
    Error::Hub { at: url.into(), found: format!("the connection broke: {e}"), remedy }
}

/// What an error of the client means.
fn failed(url: &str, e: &ureq::Error) -> Failure {
    let remedy = "check the network, HF_ENDPOINT, and the proxy's variable HTTPS_PROXY; without a network, `-m FOLDER` takes a \
                  folder with the model's files";
    let error = Error::Hub { at: url.into(), found: format!("cannot be reached: {e}"), remedy: remedy.into() };
    match e {
        ureq::Error::Timeout(_) | ureq::Error::Io(_) | ureq::Error::ConnectionFailed | ureq::Error::BodyStalled => {
            Failure::Passing(error, None)
        }
        _ => Failure::Lasting(error),
    }
}

/// Attempts at one thing, with longer and longer waits between them.
pub(super) struct Attempts {
    patience: Duration,
    failed: u32,
}

impl Attempts {
    /// Attempts that fail one after the other until it is given up.
    const MOST: u32 = 5;

    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, failed: 0 }
    }

    /// Something was achieved.
    pub(super) fn progressed(&mut self) {
        self.failed = 0;
    }

    /// Waits until the next attempt.
    ///
    /// # Errors
    /// The failure, where another attempt is of no use; [`Error::Interrupted`].
    pub(super) fn failed(&mut self, failure: Failure, stop: &dyn Fn() -> bool) -> Result<()> {
        let (error, wait) = match failure {
            Failure::Lasting(error) => return Err(error),
            Failure::Passing(error, wait) => (error, wait),
        };
        self.failed += 1;
        if self.failed >= Self::MOST {
            return Err(error);
        }
        let wait = wait.unwrap_or(self.patience * (1 << self.failed));
        let end = std::time::Instant::now() + wait;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            match () {
                () if stop() => return Err(Error::Interrupted),
                () if left.is_zero() => return Ok(()),
                () => std::thread::sleep(left.min(Duration::from_millis(100))),
            }
        }
    }
}
