//! The server with a maker of grey pictures, over real connections.

#![cfg(test)]

mod guard;
mod limits;
mod pictures;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::order::{About, Maker};
use super::{Job, Keys, Picture, Progress, Settings, Stop, run};
use crate::error::{Error, Result};
use crate::image::{Format, Image};
use crate::pipeline::Times;
use crate::request::Request;

/// Makes grey pictures at once; where an order begins with a picture, red is its strength and green the mean of its mask. Prompts say otherwise: `slow` takes until it is stopped, `panic` and `huge` fail.
struct Fake;

impl Maker for Fake {
    fn about(&self) -> About {
        let (model, device, adapters) = ("grey".into(), "nothing".into(), vec!["old film".into()]);
        About { model, device, side: 64, adapters, takes_pictures: true, begins_with_pictures: true }
    }

    fn make(&mut self, job: &Job) -> Result<Times> {
        let request = &job.order.request;
        for image in 0..request.images() {
            job.progress(Progress { fraction: 0.5, ..Progress::default() });
            match request.prompt_of(image) {
                "panic" => panic!("a maker that panics"),
                "huge" => {
                    let (device, detail, remedy) = ("nothing".into(), String::new(), "make it smaller".into());
                    return Err(Error::DoesNotFit { device, free_mib: 1, need_mib: 2, detail, remedy });
                }
                "slow" => {
                    while !job.is_to_stop() {
                        thread::sleep(Duration::from_millis(2));
                    }
                    return Err(Error::Interrupted);
                }
                _ => {}
            }
            let (width, height) = (request.width, request.height);
            let initial = job.order.initial.as_ref();
            let mean =
                |mask: &Image| (mask.rgb.iter().map(|&v| u64::from(v)).sum::<u64>() / mask.rgb.len() as u64) as u8;
            let red = initial.map_or(128, |initial| (initial.record.strength * 255.0) as u8);
            let green = initial.and_then(|initial| initial.mask.as_ref()).map_or(128, mean);
            let grey = Image { width, height, rgb: [red, green, 128].repeat((width * height) as usize) };
            if job.order.partials > 0 {
                job.partial(Picture::new(grey.to_bytes(Format::Png, None)?, Format::Png, 0));
            }
            job.picture(Picture::new(grey.to_bytes(job.order.format, None)?, job.order.format, request.seed_of(image)));
        }
        Ok(Times::default())
    }
}

fn read(fields: Map<String, Value>) -> Result<Request> {
    let whole = |name: &str| fields[name].as_u64().unwrap_or(7) as u32;
    let request = Request {
        width: whole("width"),
        height: whole("height"),
        count: whole("count"),
        seed: fields["seed"].as_u64().unwrap_or(7),
        ..Request::new(fields["prompt"].as_str().unwrap_or_default())
    };
    request.check().map(|()| request)
}

/// A server that runs.
struct Server {
    address: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Server {
    fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            address: "127.0.0.1:0".parse().unwrap(),
            keys: Keys::default(),
            hosts: Vec::new(),
            origins: Vec::new(),
            queue: 3,
            pixels: 1 << 20,
            timeout: Duration::from_secs(20),
            drain: Duration::from_secs(10),
        };
        change(&mut settings);
        let (sender, receiver) = channel();
        let (ready, is_ready) = channel();
        let thread = thread::spawn(move || {
            let listening = |address, stop| sender.send((address, stop)).unwrap();
            run(settings, read, listening, || Ok(Fake), move |_| ready.send(()).unwrap())
        });
        let (address, stop) = receiver.recv().unwrap();
        is_ready.recv().unwrap();
        Self { address, stop, thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// The answer to a request with these lines of headers.
    fn raw(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n")
            .unwrap();
        // A server that refuses a large body need not read it.
        let _ = stream.write_all(body);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: no answer: {text}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn get(&self, path: &str) -> Answer {
        self.raw("GET", path, "Host: localhost\r\n", b"")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = "Host: localhost\r\nContent-Type: application/json\r\n";
        self.raw("POST", path, headers, body.to_string().as_bytes())
    }

    fn delete(&self, path: &str) -> Answer {
        self.raw("DELETE", path, "Host: localhost\r\n", b"")
    }

    /// Waits until the job has ended, and says how.
    fn end_of(&self, job: &Value) -> String {
        let begin = Instant::now();
        loop {
            let state = self.get(job["url"].as_str().unwrap()).json()["state"].as_str().unwrap().to_owned();
            if !["queued", "generating"].contains(&&state[..]) {
                return state;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{job} does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(&mut self) -> Result<()> {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _ = self.end();
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    fn code(&self) -> String {
        let error = &self.json()["error"];
        let keys: Vec<_> = error.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["code", "message", "param", "type"], "{error}");
        error["code"].as_str().unwrap().to_owned()
    }
}

#[test]
fn pictures_in_every_form() {
    let server = Server::start(|_| {});
    let all = json!({"prompt": "a", "n": 2, "seed": 5, "size": "64x72", "output_format": "jpeg", "user": "me"});
    let answer = server.post("/v1/images/generations", &all).json();
    assert_eq!((answer["data"].as_array().unwrap().len(), &answer["cascade"]["seeds"]), (2, &json!([5, 6])));
    assert_eq!((&answer["size"], &answer["output_format"]), (&json!("64x72"), &json!("jpeg")));
    assert_eq!(answer["cascade"]["warnings"], json!(["`user` means nothing here"]));
    assert!(answer["data"][0]["b64_json"].as_str().unwrap().starts_with("/9j/"), "is a JPEG file");

    let answer = server.post("/v1/images/generations", &json!({"prompt": "a", "response_format": "url"})).json();
    let url = answer["data"][0]["url"].as_str().unwrap();
    let path = url.strip_prefix("http://localhost").unwrap();
    let file = server.get(path);
    assert_eq!((file.status, file.head.contains("content-type: image/png")), (200, true), "{file:?}");
    assert_eq!(server.get("/v1/images/nothing.png").code(), "not_found");

    let stream = json!({"prompt": "a", "stream": true, "partial_images": 1, "n": 1});
    let answer = server.post("/v1/images/generations", &stream);
    let at = |event: &str| answer.body.find(event).unwrap_or_else(|| panic!("no {event} in {}", answer.body));
    let order = [at("event: image_generation.partial_image"), at("event: image_generation.completed")];
    assert!(order.is_sorted() && answer.head.contains("text/event-stream"), "{answer:?}");
    let failed = server.post("/v1/images/generations", &json!({"prompt": "huge", "stream": true}));
    assert!(failed.body.contains("\"code\":\"out_of_memory\""), "{failed:?}");
}

#[test]
fn jobs_are_followed_and_cancelled() {
    let server = Server::start(|_| {});
    let submit = |prompt: &str| {
        let answer = server.post("/v1/jobs", &json!({"prompt": prompt}));
        assert_eq!(answer.status, 202);
        let job = answer.json();
        assert!(answer.head.contains(&format!("location: {}", job["url"].as_str().unwrap())), "{answer:?}");
        job
    };
    let (slow, next) = (submit("slow"), submit("a"));
    assert_eq!(next["place"], 1);
    let list = server.get("/v1/jobs").json();
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    // What waits is cancelled at once, what is made after its step.
    assert_eq!(server.delete(next["url"].as_str().unwrap()).json()["state"], "cancelled");
    server.delete(slow["url"].as_str().unwrap());
    assert_eq!(server.end_of(&slow), "cancelled");
    let done = submit("a");
    assert_eq!(server.end_of(&done), "completed");
    let picture = server.get(done["url"].as_str().unwrap()).json()["data"][0]["url"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&picture).status, 200);
    let events = server.get(&format!("{}/events", done["url"].as_str().unwrap()));
    assert!(events.body.contains("\"state\":\"completed\""), "{events:?}");
    assert_eq!(server.get("/v1/jobs/00").code(), "not_found");
    let slow = submit("slow");
    // What waits is not interrupted.
    let begin = Instant::now();
    while server.get(slow["url"].as_str().unwrap()).json()["state"] != "generating" {
        assert!(begin.elapsed() < Duration::from_secs(20), "it is never made");
    }
    let interrupted = server.post("/sdapi/v1/interrupt", &json!({}));
    assert_eq!((interrupted.status, server.end_of(&slow)), (200, "cancelled".into()));
}

#[test]
fn what_fails_is_told_and_does_no_harm() {
    let server = Server::start(|_| {});
    let huge = server.post("/v1/images/generations", &json!({"prompt": "huge"}));
    assert_eq!((huge.status, huge.code().as_str()), (507, "out_of_memory"));
    assert!(huge.head.contains("x-should-retry: false") && huge.body.contains("make it smaller"), "{huge:?}");
    let late = server.post("/v1/images/generations", &json!({"prompt": "slow", "timeout_s": 1}));
    assert_eq!((late.status, late.code().as_str()), (504, "deadline_exceeded"));
    assert_eq!(server.post("/v1/images/generations", &json!({"prompt": "a"})).status, 200);
    assert_eq!(server.get("/health/ready").status, 200);
    // After a panic, nobody knows in what state the device is.
    let panicked = server.post("/v1/images/generations", &json!({"prompt": "panic"}));
    assert_eq!((panicked.status, panicked.code().as_str()), (503, "device_lost"));
    assert_eq!((server.get("/health/ready").status, server.get("/health/live").status), (503, 200));
}

#[test]
fn a_client_that_goes_away_cancels_its_order() {
    let server = Server::start(|_| {});
    let body = json!({"prompt": "slow"}).to_string();
    for body in [body, json!({"prompt": "slow", "stream": true}).to_string()] {
        let mut stream = server.connect();
        let head = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let busy = |server: &Server| server.get("/v1/jobs").json()["data"].as_array().unwrap().len();
        let until = |wanted: usize| {
            let begin = Instant::now();
            while busy(&server) != wanted {
                assert!(begin.elapsed() < Duration::from_secs(20), "{wanted} orders never came");
                thread::sleep(Duration::from_millis(5));
            }
        };
        until(1);
        drop(stream);
        until(0);
    }
}

#[test]
fn a_server_that_stops_makes_what_it_accepted() {
    let mut server = Server::start(|settings| settings.queue = 8);
    let submit = |prompt: &str| server.post("/v1/jobs", &json!({"prompt": prompt})).json();
    let jobs = [submit("slow"), submit("a"), submit("a")];
    let waiting = {
        let mut stream = server.connect();
        let body = "{\"prompt\":\"a\"}";
        let head = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
        write!(stream, "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        stream
    };
    let begin = Instant::now();
    while server.get("/v1/jobs").json()["data"].as_array().unwrap().len() < 4 {
        assert!(begin.elapsed() < Duration::from_secs(20), "the last order never came");
    }
    server.stop.stop();
    while server.get("/health/ready").status != 503 {
        assert!(begin.elapsed() < Duration::from_secs(20), "it is still ready");
    }
    let refused = server.post("/v1/jobs", &json!({"prompt": "a"}));
    assert_eq!((refused.status, refused.code().as_str()), (503, "draining"));
    // What is being made ends, and the others are still made.
    server.delete(jobs[0]["url"].as_str().unwrap());
    let mut answer = String::new();
    let _ = { waiting }.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    server.end().unwrap();
}

#[test]
fn the_api_of_webui() {
    let server = Server::start(|_| {});
    let asked = json!({"prompt": "a", "width": 70, "height": 64, "steps": 3, "sampler_name": "Euler a", "restore_faces": false, "seed": 4});
    let answer = server.post("/sdapi/v1/txt2img", &asked).json();
    let info: Value = serde_json::from_str(answer["info"].as_str().unwrap()).unwrap();
    assert_eq!((&info["seed"], &info["width"], answer["images"].as_array().unwrap().len()), (&json!(4), &json!(72), 1));
    let text = server.post("/sdapi/v1/png-info", &json!({"image": answer["images"][0]})).json();
    assert_eq!(text["info"], "");
    for (path, word) in [
        ("samplers", "euler-ancestral"),
        ("schedulers", "karras"),
        ("sd-models", "grey"),
        ("options", "grey"),
        ("loras", "old film"),
        ("progress", "eta_relative"),
    ] {
        let answer = server.get(&format!("/sdapi/v1/{path}"));
        assert!(answer.status == 200 && answer.body.contains(word), "{path}: {answer:?}");
    }
}

#[test]
fn every_path_is_described() {
    let document: Value = serde_json::from_str(super::routes::OPENAPI).unwrap();
    let source = include_str!("routes.rs");
    let mut routed: Vec<&str> = source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let mut described: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    routed.sort_unstable();
    described.sort_unstable();
    assert_eq!(routed, described);
    let server = Server::start(|_| {});
    for path in ["/", "/openapi.json", "/v1/models", "/v1/capabilities", "/health", "/metrics"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let metrics = server.get("/metrics").body;
    for line in [
        "http_requests_total{method=\"GET\",route=\"/v1/models\",status=\"200\"} 1",
        "cascade_queue_depth 0",
        "cascade_build_info{version=",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
}
