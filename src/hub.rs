//! Models of a hub, fetched by name into the cache that other programs share.
//!
//! ```text
//! GET /api/models/ORG/NAME/revision/REVISION?blobs=true     which commit that is, and its files with sizes and hashes
//! GET /ORG/NAME/resolve/COMMIT/PATH                         a file, or a redirection to it
//! ```
//!
//! What a server says is not trusted: names must stay within their folder, sizes are known before a byte is asked for, and
//! no file gets its name before its hash is right. What was fetched of a file is kept, and the next run goes on behind it.

mod choose;
mod client;
mod fetch;
mod pull;
mod settings;
#[cfg(test)]
mod tests;

pub use choose::Choice;
pub use client::Client;
pub use fetch::File;
pub use pull::{Plan, plan};
pub use settings::Settings;
