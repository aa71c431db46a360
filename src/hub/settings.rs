//! Where the hub is and what it is told, by the variables of the environment that its other programs have.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::weights::cache::home;

/// How a hub is reached.
pub struct Settings {
    /// Its address, without a slash at the end.
    pub endpoint: String,
    /// What says to it who asks. It goes to this address alone, and into no message.
    pub token: Option<String>,
    /// How long to wait for an answer, and for each further part of it.
    pub timeout: Duration,
    /// The unit of time between attempts.
    pub patience: Duration,
}

impl Settings {
    /// `HF_ENDPOINT`, `HF_TOKEN` or the file that `HF_TOKEN_PATH` names, `HF_HUB_DOWNLOAD_TIMEOUT`, `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// If no hub is set, or none is to be used.
    pub fn of_environment() -> Result<Self> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let wrong = |what: &str, expected: &str, found: String| Error::Request {
            what: what.into(),
            expected: expected.into(),
            found,
        };
        if set("HF_HUB_OFFLINE").is_some_and(|value| is_yes(&value)) {
            let expected =
                "a run that may use the network; with this variable, models are taken from the cache and from folders";
            return Err(wrong("HF_HUB_OFFLINE", expected, "1".into()));
        }
        let endpoint = set("HF_ENDPOINT").unwrap_or_default();
        let has_scheme = ["http://", "https://"].iter().any(|scheme| endpoint.starts_with(scheme));
        if !has_scheme {
            let expected = "the address of a hub, like https://hub.example; a folder with a model's files needs none (`-m FOLDER`)";
            return Err(wrong("HF_ENDPOINT", expected, if endpoint.is_empty() { "nothing".into() } else { endpoint }));
        }
        let seconds = set("HF_HUB_DOWNLOAD_TIMEOUT").unwrap_or_else(|| "10".into());
        let timeout = seconds.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
        let timeout =
            timeout.ok_or_else(|| wrong("HF_HUB_DOWNLOAD_TIMEOUT", "seconds, 1 to 86400", seconds.clone()))?;
        let file = set("HF_TOKEN_PATH").map(Into::into).or_else(|| Some(home()?.join("token")));
        let token = set("HF_TOKEN").or_else(|| std::fs::read_to_string(file?).ok());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            timeout: Duration::from_secs(timeout),
            patience: Duration::from_millis(500),
        })
    }
}

/// Whether a variable is on, as the hub's other programs read it.
pub(super) fn is_yes(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}
