//! One file: fetched in as many parts as it takes, and named when its hash is right.

use std::fs::{self, File as Disk};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::http::{StatusCode, header};

use super::client::{Attempts, Client, Failure, broken};
use crate::error::{Error, Result};

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path in the repository, of plain parts.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// Its hash in hexadecimal digits, by which the cache calls it: SHA-256 (64 digits) of its bytes, or what git calls them
    /// by (40 digits).
    pub hash: String,
}

/// Sums up a file's hash.
enum Hash {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hash {
    fn of(file: &File) -> Self {
        match file.hash.len() {
            64 => Self::Sha256(Sha256::new()),
            _ => Self::Git(Sha1::new().chain_update(format!("blob {}\0", file.bytes))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    fn end(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Git(hash) => hex(&hash.finalize()),
        }
    }
}

/// Fetches a file from `path` of the hub into `blobs`, unless it is there. `told` is told how many bytes there are now.
///
/// # Errors
/// Those of the hub and of the disk; [`Error::Interrupted`] if `stop` says so. What was fetched is kept, unless it is wrong.
pub(super) fn fetch(
    client: &Client,
    path: &str,
    file: &File,
    blobs: &Path,
    told: &mut dyn FnMut(u64),
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    let blob = blobs.join(&file.hash);
    let at = blobs.join(format!("{}.incomplete", file.hash));
    let disk = |action| {
        let path = at.clone();
        move |source| Error::Disk { path, action, source }
    };
    let mut part = Disk::options().create(true).read(true).append(true).open(&at).map_err(disk("create"))?;
    let mut attempts = Attempts::new(client.settings.patience);
    let mut was_wrong = false;
    loop {
        let hash = continue_with(client, path, file, &mut part, &mut attempts, told, stop)?;
        if hash == file.hash {
            break;
        }
        // It may have begun with what another program left there; once more from the start.
        part.set_len(0).map_err(disk("write"))?;
        told(0);
        if was_wrong {
            let _ = fs::remove_file(&at);
            return Err(Error::Hub {
                at: format!("{}{path}", client.settings.endpoint),
                found: format!("its hash is {hash}, and not {}", file.hash),
                remedy: "it was changed on its way; try again, or from another address (HF_ENDPOINT)".into(),
            });
        }
        was_wrong = true;
    }
    part.sync_all().map_err(disk("write"))?;
    fs::rename(&at, &blob).map_err(disk("rename"))
}

/// Fetches what is missing of a file, and says the hash of all of it.
fn continue_with(
    client: &Client,
    path: &str,
    file: &File,
    part: &mut Disk,
    attempts: &mut Attempts,
    told: &mut dyn FnMut(u64),
    stop: &dyn Fn() -> bool,
) -> Result<String> {
    let url = format!("{}{path}", client.settings.endpoint);
    let disk = |action| {
        let path = file.name.clone().into();
        move |source| Error::Disk { path, action, source }
    };
    let mut hash = Hash::of(file);
    let mut bytes = vec![0; 1 << 18];
    let mut have = 0;
    part.seek(SeekFrom::Start(0)).map_err(disk("read"))?;
    loop {
        let count = part.read(&mut bytes).map_err(disk("read"))?;
        if count == 0 || have > file.bytes {
            break;
        }
        hash.update(&bytes[..count]);
        have += count as u64;
    }
    let mut restart = have > file.bytes;
    // A server that begins anew each time makes no progress.
    let mut furthest = have.min(file.bytes);
    while restart || have < file.bytes {
        if restart {
            (hash, have, restart) = (Hash::of(file), 0, false);
            part.set_len(0).map_err(disk("write"))?;
        }
        told(have);
        let mut response = match client.get(path, have) {
            Ok(response) => response,
            Err(failure) => {
                attempts.failed(failure, stop)?;
                continue;
            }
        };
        let lasting = |found: String| Error::Hub {
            at: url.clone(),
            found,
            remedy: format!(
                "`{}` should have {} bytes; try again, or from another address (HF_ENDPOINT)",
                file.name, file.bytes
            ),
        };
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = header(header::CONTENT_RANGE).unwrap_or_default();
                if range != format!("bytes {have}-{}/{}", file.bytes - 1, file.bytes) {
                    return Err(lasting(format!("its part from byte {have} on was asked for, and `{range}` is sent")));
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                restart = true;
                continue;
            }
            StatusCode::OK => {
                if let Some(length) = header(header::CONTENT_LENGTH).filter(|length| *length != file.bytes.to_string())
                {
                    return Err(lasting(format!("{length} bytes are sent")));
                }
                // The whole of it, whatever was asked for.
                (hash, have) = (Hash::of(file), 0);
                part.set_len(0).map_err(disk("write"))?;
            }
            status => return Err(lasting(format!("the hub answers {status}"))),
        }
        let mut body = response.body_mut().as_reader();
        loop {
            if stop() {
                return Err(Error::Interrupted);
            }
            match body.read(&mut bytes) {
                Ok(0) if have == file.bytes => break,
                Ok(0) => {
                    let error = broken(&url, &std::io::ErrorKind::UnexpectedEof.into());
                    attempts.failed(Failure::Passing(error, None), stop)?;
                    break;
                }
                Ok(count) if have + count as u64 > file.bytes => return Err(lasting("more bytes are sent".into())),
                Ok(count) => {
                    part.write_all(&bytes[..count]).map_err(disk("write"))?;
                    hash.update(&bytes[..count]);
                    have += count as u64;
                    if have > furthest {
                        furthest = have;
                        attempts.progressed();
                    }
                    told(have);
                }
                Err(e) => {
                    attempts.failed(Failure::Passing(broken(&url, &e), None), stop)?;
                    break;
                }
            }
        }
    }
    told(have);
    Ok(hash.end())
}
