//! A hub that misbehaves, on this machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Choice, Client, Settings, plan};
use crate::error::{Error, Result};
use crate::weights::cache::{Cache, Repository};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request: its number among those for the same path, the byte that it begins with, and its lines.
struct Asked {
    path: String,
    nth: usize,
    from: usize,
    lines: Vec<String>,
}

/// An answer: a status with headers, and bytes after which the connection ends.
struct Reply {
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: &str, headers: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { head: format!("HTTP/1.1 {status}\r\n{headers}"), body: body.into() }
    }

    /// The bytes of a file that were asked for.
    fn file(asked: &Asked, bytes: &[u8]) -> Self {
        let rest = &bytes[asked.from.min(bytes.len())..];
        let length = format!("Content-Length: {}\r\n", rest.len());
        match asked.from {
            0 => Self::new("200 OK", &length, rest),
            from => {
                let range = format!("{length}Content-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len());
                Self::new("206 Partial Content", &range, rest)
            }
        }
    }

    fn cut(mut self, at: usize) -> Self {
        self.body.truncate(at);
        self
    }
}

struct Hub {
    address: SocketAddr,
    /// Paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (asked.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (log.clone(), answer.clone());
                thread::spawn(move || serve(stream, &log, &*answer));
            }
        });
        Self { address, asked }
    }

    fn client(&self) -> Client {
        Client::new(Settings {
            endpoint: format!("http://{}", self.address),
            token: Some("a secret".into()),
            timeout: Duration::from_secs(5),
            patience: Duration::from_millis(1),
        })
    }

    fn files_asked_for(&self) -> usize {
        self.asked.lock().unwrap().iter().filter(|path| path.contains("/resolve/")).count()
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<String>>, answer: &(dyn Fn(&Asked) -> Reply + Send + Sync)) {
    let lines: Vec<String> =
        BufReader::new(&stream).lines().map_while(|line| line.ok()).take_while(|line| !line.is_empty()).collect();
    let Some(path) = lines.first().and_then(|line| line.split(' ').nth(1)) else { return };
    let range = lines
        .iter()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
    let nth = {
        let mut log = log.lock().unwrap();
        log.push(path.to_owned());
        log.iter().filter(|before| *before == path).count() - 1
    };
    let reply = answer(&Asked { path: path.to_owned(), nth, from: range.unwrap_or(0), lines });
    // A client that has read enough may be gone.
    let _ = write!(stream, "{}Connection: close\r\n\r\n", reply.head).and_then(|()| stream.write_all(&reply.body));
}

/// A file that is larger than what is read at once, of bytes that do not repeat soon.
fn weights() -> Vec<u8> {
    (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

const CONFIG: &[u8] = b"{\"a\": 1}\n";
/// What git calls the bytes of `CONFIG` by.
const CONFIG_HASH: &str = "cb5b2f69babc53f9145b45ad20b9a075d48717ef";

fn list(weights: &[u8]) -> Value {
    json!({
        "sha": COMMIT,
        "cardData": {"license": "other", "license_name": "some license"},
        "siblings": [
            {"rfilename": "prior/config.json", "size": CONFIG.len(), "blobId": CONFIG_HASH},
            {"rfilename": "prior/m.safetensors", "size": weights.len(), "blobId": "0".repeat(40),
             "lfs": {"sha256": sha256(weights), "size": weights.len(), "pointerSize": 134}},
        ],
    })
}

/// A hub with one repository; `weights` answers requests for its weights.
fn hub(weights: impl Fn(&Asked, &[u8]) -> Reply + Send + Sync + 'static) -> Hub {
    let bytes = self::weights();
    Hub::start(move |asked| match &asked.path[..] {
        path if path.starts_with("/api/models/a/b/revision/") => Reply::new("200 OK", "", list(&bytes).to_string()),
        path if path.ends_with("config.json") => Reply::file(asked, CONFIG),
        path if path.ends_with("m.safetensors") => weights(asked, &bytes),
        _ => Reply::new("404 Not Found", "", "{}"),
    })
}

fn pull(hub: &Hub, folder: &Path) -> Result<std::path::PathBuf> {
    let (client, cache) = (hub.client(), Cache { folder: folder.to_owned() });
    let repository: Repository = "a/b".parse().unwrap();
    let plan = plan(&client, &repository, "main", &Choice::default(), &|| false)?;
    plan.fetch(&client, &cache, &mut |_, _| {}, &|| false)
}

/// The message of a pull that fails, after which no file has a name.
fn refused(hub: &Hub) -> String {
    let room = tempfile::tempdir().unwrap();
    let error = pull(hub, room.path()).unwrap_err();
    assert!(!room.path().join("models--a--b/refs/main").exists(), "{error}");
    assert!(!room.path().join("models--a--b/blobs").join(sha256(&weights())).exists(), "{error}");
    assert!(!error.to_string().contains("a secret"), "{error}");
    error.to_string()
}

#[test]
fn a_repository_is_fetched_once_into_the_tree_that_others_read() {
    let (hub, room) = (hub(Reply::file), tempfile::tempdir().unwrap());
    let snapshot = pull(&hub, room.path()).unwrap();
    let folder = room.path().join("models--a--b");
    assert_eq!(snapshot, folder.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read(snapshot.join("prior/config.json")).unwrap(), CONFIG);
    assert!(fs::read(snapshot.join("prior/m.safetensors")).unwrap() == weights());
    #[cfg(unix)]
    {
        let target = Path::new("../../../blobs").join(CONFIG_HASH);
        assert_eq!(fs::read_link(snapshot.join("prior/config.json")).unwrap(), target);
    }
    let mut blobs: Vec<_> =
        fs::read_dir(folder.join("blobs")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    blobs.sort();
    let mut hashes = [CONFIG_HASH.to_owned(), sha256(&weights())];
    hashes.sort();
    assert_eq!(blobs, hashes);
    assert_eq!(hub.files_asked_for(), 2);
    pull(&hub, room.path()).unwrap();
    assert_eq!(hub.files_asked_for(), 2, "what is there is not asked for again");
    let cache = Cache { folder: room.path().to_owned() };
    assert_eq!(cache.entries().unwrap()[0].bytes, (weights().len() + CONFIG.len()) as u64);
}

#[test]
fn a_hundred_broken_connections_lose_nothing() {
    // Bytes of each answer that arrive, and hardly ever none.
    let cut = |nth: usize| (nth * 7919) % 17_000;
    let hub = hub(move |asked, bytes| match asked.nth {
        nth if nth < 100 => Reply::file(asked, bytes).cut(cut(nth)),
        _ => Reply::file(asked, bytes),
    });
    let room = tempfile::tempdir().unwrap();
    let snapshot = pull(&hub, room.path()).unwrap();
    assert!(fs::read(snapshot.join("prior/m.safetensors")).unwrap() == weights());
    assert!(hub.files_asked_for() > 100, "{}", hub.files_asked_for());
}

#[test]
fn what_a_run_leaves_is_continued_or_begun_anew() {
    let begun = |hub: &Hub, left: &[u8]| {
        let room = tempfile::tempdir().unwrap();
        let blobs = room.path().join("models--a--b/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.incomplete", sha256(&weights()))), left).unwrap();
        let snapshot = pull(hub, room.path()).unwrap();
        assert!(fs::read(snapshot.join("prior/m.safetensors")).unwrap() == weights());
        assert_eq!(fs::read_dir(&blobs).unwrap().count(), 2);
    };
    let only_the_rest = hub(|asked, bytes| {
        assert!(asked.from >= 600_000);
        Reply::file(asked, bytes)
    });
    begun(&only_the_rest, &weights()[..600_000]);
    begun(&only_the_rest, &weights());
    begun(&hub(Reply::file), &[7; 600_000]);
    begun(&hub(Reply::file), &[7; 1_600_000]);
    // A server that knows no ranges sends the whole file.
    begun(&hub(|_, bytes| Reply::new("200 OK", "", bytes)), &weights()[..600_000]);
    let never_a_part = hub(|asked, bytes| match asked.from {
        0 => Reply::file(asked, bytes),
        _ => Reply::new("416 Range Not Satisfiable", "", ""),
    });
    begun(&never_a_part, &weights()[..600_000]);
}

#[test]
fn wrong_bytes_never_get_a_name() {
    let flipped = |asked: &Asked, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[777_777] ^= 1;
        Reply::file(asked, &bytes)
    };
    let once = hub(move |asked, bytes| if asked.nth == 0 { flipped(asked, bytes) } else { Reply::file(asked, bytes) });
    pull(&once, tempfile::tempdir().unwrap().path()).unwrap();
    let always = refused(&hub(flipped));
    assert!(always.contains("its hash is") && always.contains("changed on its way"), "{always}");
    let long = refused(&hub(|_, bytes| Reply::new("200 OK", "Content-Length: 1000001\r\n", [bytes, b"x"].concat())));
    assert!(long.contains("1000001 bytes are sent") && long.contains("1000000 bytes"), "{long}");
    let endless = refused(&hub(|_, bytes| Reply::new("200 OK", "", [bytes; 8].concat())));
    assert!(endless.contains("more bytes are sent"), "{endless}");
    let short = refused(&hub(|_, bytes| Reply::new("200 OK", "", &bytes[..1000])));
    assert!(short.contains("the connection broke"), "{short}");
    let other_part = hub(|asked, bytes| match asked.from {
        0 => Reply::file(asked, bytes).cut(1000),
        _ => Reply::new("206 Partial Content", "Content-Range: bytes 0-999999/1000000\r\n", bytes),
    });
    let other_part = refused(&other_part);
    assert!(other_part.contains("bytes 0-999999/1000000"), "{other_part}");
}

#[test]
fn statuses_are_tried_again_where_that_may_help() {
    let busy = hub(|asked, bytes| match asked.nth {
        0 => Reply::new("429 Too Many Requests", "Retry-After: 0\r\n", ""),
        1 => Reply::new("503 Service Unavailable", "", ""),
        2 => Reply::new("500 Internal Server Error", "", ""),
        _ => Reply::file(asked, bytes),
    });
    pull(&busy, tempfile::tempdir().unwrap().path()).unwrap();
    let down = hub(|_, _| Reply::new("502 Bad Gateway", "", ""));
    let message = refused(&down);
    assert!(message.contains("cannot answer now (502") && message.contains("try again later"), "{message}");
    assert_eq!(down.files_asked_for(), 1 + 5);
    for (status, headers, word) in [
        ("401 Unauthorized", "", "refuses (401"),
        ("403 Forbidden", "", "its terms were accepted"),
        ("404 Not Found", "X-Error-Code: RevisionNotFound\r\n", "check --revision"),
        ("404 Not Found", "", "check the name"),
        ("418 I'm a teapot", "", "the hub answers 418"),
    ] {
        let hub = hub(move |_, _| Reply::new(status, headers, ""));
        let message = refused(&hub);
        assert!(message.contains(word), "{message}");
        assert_eq!(hub.files_asked_for(), 1 + 1, "{status} is tried once");
    }
}

#[test]
fn redirections_are_followed_without_the_token_and_not_for_ever() {
    let token = |asked: &Asked| asked.lines.iter().any(|line| line.contains("a secret"));
    let store = Hub::start(move |asked| {
        assert!(!token(asked), "the token goes to the hub alone");
        Reply::file(asked, &weights())
    });
    let to = format!("Location: http://{}/store\r\nContent-Length: 0\r\n", store.address);
    let redirecting = hub(move |asked, _| {
        assert!(token(asked));
        Reply::new("302 Found", &to, "")
    });
    let room = tempfile::tempdir().unwrap();
    let snapshot = pull(&redirecting, room.path()).unwrap();
    assert!(fs::read(snapshot.join("prior/m.safetensors")).unwrap() == weights());
    let circle =
        hub(|asked, _| Reply::new("302 Found", &format!("Location: {}\r\nContent-Length: 0\r\n", asked.path), ""));
    let message = refused(&circle);
    assert!(message.contains("redirect"), "{message}");
    assert!(circle.files_asked_for() <= 8, "{}", circle.files_asked_for());
}

#[test]
fn lists_that_no_hub_would_send_are_refused() {
    let long = "x".repeat(300);
    let names = [
        "../x.json",
        "/etc/x.json",
        "a/../../x.json",
        "a//x.json",
        "a\\x.json",
        "",
        ".",
        "c:x.json",
        "a/\u{1b}x.json",
        &long,
    ];
    let with = |change: &dyn Fn(&mut Value)| {
        let mut list = list(&weights());
        change(&mut list);
        refused(&Hub::start(move |_| Reply::new("200 OK", "", list.to_string())))
    };
    for name in names {
        let message = with(&|list| list["siblings"][0]["rfilename"] = name.into());
        assert!(message.contains("a file that cannot be"), "{name}: {message}");
    }
    for hash in ["", "../../../x", &"A".repeat(40), &"0".repeat(39)] {
        let message = with(&|list| list["siblings"][0]["blobId"] = (*hash).into());
        assert!(message.contains("a file that cannot be"), "{hash}: {message}");
        let message = with(&|list| list["sha"] = (*hash).into());
        assert!(message.contains("no commit"), "{hash}: {message}");
    }
    for size in [json!(null), json!(-1), json!(1.5), json!(u64::MAX), json!("9")] {
        let message = with(&|list| list["siblings"][0]["size"] = size.clone());
        assert!(message.contains("a file that cannot be"), "{size}: {message}");
    }
    assert!(with(&|list| list["siblings"] = json!(vec![1; 10_001])).contains("at most 10000 files"));
    assert!(with(&|list| list["siblings"] = json!([])).contains("no weights"));
    let no_json = refused(&Hub::start(|_| Reply::new("200 OK", "", "<html>")));
    assert!(no_json.contains("no list of files") && no_json.contains("HF_ENDPOINT"), "{no_json}");
    let endless = refused(&Hub::start(|_| Reply::new("200 OK", "", vec![b' '; 20 << 20])));
    assert!(endless.contains("more than 16777216 bytes"), "{endless}");
}

#[test]
fn who_asks_to_stop_waits_for_nothing() {
    let hub = hub(|asked, bytes| Reply::file(asked, bytes).cut(10_000));
    let room = tempfile::tempdir().unwrap();
    let (client, cache) = (hub.client(), Cache { folder: room.path().to_owned() });
    let plan = plan(&client, &"a/b".parse().unwrap(), "main", &Choice::default(), &|| false).unwrap();
    let have = std::cell::Cell::new(0);
    let fetched = plan.fetch(&client, &cache, &mut |_, bytes| have.set(bytes), &|| have.get() >= 5000);
    assert!(matches!(fetched, Err(Error::Interrupted)));
    assert!(plan.missing(&cache) < weights().len() as u64, "what was fetched is kept");
}

#[test]
fn no_hub_says_what_to_do() {
    let hub = hub(Reply::file);
    let mut client = hub.client();
    // A port that nobody listens at.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    client.settings.endpoint = format!("http://{free}");
    let message =
        plan(&client, &"a/b".parse().unwrap(), "main", &Choice::default(), &|| false).unwrap_err().to_string();
    assert!(message.contains("cannot be reached") && message.contains("-m FOLDER"), "{message}");
}
