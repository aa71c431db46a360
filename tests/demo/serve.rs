//! `cascade-rt serve` with the demo model: the same bytes as on the command line, and an end that loses nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use cascade_rt::image::{Format, Image};
use serde_json::{Value, json};

use super::alone;

const PROGRAM: &str = env!("CARGO_BIN_EXE_cascade-rt");

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--port", "0", "--quiet", "--device", "cpu"]).args(flags);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!((&line["ready"], &line["model"]), (&json!(true), &json!("demo")));
        let address = line["url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        Self { child, address }
    }

    fn post(&self, path: &str, body: &Value) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        write!(stream, "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(&answer[..answer.len().min(2000)]));
        let start = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        answer.split_off(start)
    }

    fn picture(&self, order: &Value) -> Vec<u8> {
        let answer: Value = serde_json::from_slice(&self.post("/v1/images/generations", order)).unwrap();
        let url = answer["data"][0]["url"].as_str().unwrap_or_else(|| panic!("{answer}"));
        get(self, url.split_once(&self.address).unwrap().1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_request_makes_the_bytes_of_the_same_command() {
    let _alone = alone();
    let server = Server::start(&[]);
    let room = tempfile::tempdir().unwrap();
    let orders: [(&str, Value, &[&str]); 3] = [
        (
            "png",
            json!({"prompt": "a fox", "seed": 7, "prior_num_inference_steps": 4, "num_inference_steps": 2}),
            &["a fox", "-s", "7", "--steps", "4,2"],
        ),
        (
            "jpeg",
            json!({
                "prompt": "a (red:1.3) apple", "negative_prompt": "blue", "seed": 9, "size": "64x96", "quality": "low",
                "guidance_scale": 3.5, "decoder_guidance_scale": 1.5, "sampler": "ddim", "guidance_rescale": 0.5,
                "output_format": "jpeg", "output_compression": 80, "prompt_syntax": "webui",
            }),
            &[
                "a (red:1.3) apple",
                "-n",
                "blue",
                "-s",
                "9",
                "-W",
                "64",
                "-H",
                "96",
                "--steps",
                "10,5",
                "--guidance",
                "3.5,1.5",
                "--sampler",
                "ddim",
                "--guidance-rescale",
                "0.5",
                "--quality",
                "80",
                "--prompt-syntax",
                "webui",
            ],
        ),
        (
            "webp",
            json!({"prompt": "", "seed": 0, "size": "64x64", "prior_num_inference_steps": 2, "num_inference_steps": 1, "noise": "philox", "output_format": "webp"}),
            &["", "-s", "0", "-W", "64", "-H", "64", "--steps", "2,1", "--noise", "philox"],
        ),
    ];
    let same = |ending: &str, mut order: Value, flags: &[&str]| {
        let file = room.path().join(format!("picture.{ending}"));
        let mut command = Command::new(PROGRAM);
        command.current_dir(room.path()).args(["generate", "--device", "cpu", "-q", "--force", "-o"]);
        let run = command.arg(&file).args(flags).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        order["response_format"] = "url".into();
        assert!(server.picture(&order) == std::fs::read(&file).unwrap(), "{ending}: the two differ");
    };
    for (ending, order, flags) in orders {
        same(ending, order, flags);
    }
    // A picture that changes, everywhere or where a mask says. Records name files, which have these names here.
    let image = std::fs::read(room.path().join("picture.png")).unwrap();
    std::fs::write(room.path().join("image"), &image).unwrap();
    let mask = Image { width: 128, height: 128, rgb: [[0; 3 * 64], [255; 3 * 64]].concat().repeat(128) };
    let mask = mask.to_bytes(Format::Png, None).unwrap();
    std::fs::write(room.path().join("mask"), &mask).unwrap();
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let order = json!({
        "prompt": "a red apple", "seed": 1, "size": "64x96", "prior_num_inference_steps": 4, "num_inference_steps": 2,
        "image": base64(&image), "fit": "contain",
    });
    let flags =
        ["a red apple", "-s", "1", "-W", "64", "-H", "96", "--steps", "4,2", "--init", "image", "--fit", "contain"];
    same("png", order.clone(), &flags);
    let masked = json!({"mask": base64(&mask), "strength": 0.75});
    let order: serde_json::Map<_, _> =
        [order, masked].iter().flat_map(|part| part.as_object().unwrap().clone()).collect();
    same("png", Value::Object(order), &[&flags[..], &["--mask", "mask", "--strength", "0.75"]].concat());
}

#[cfg(unix)]
#[test]
fn a_signal_lets_accepted_orders_end() {
    let _alone = alone();
    let mut server = Server::start(&[]);
    // The first takes longer than it takes to send the others.
    let clients = [100, 2, 2].map(|steps| {
        let order = json!({"prompt": "a fox", "prior_num_inference_steps": steps, "num_inference_steps": 2});
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let body = order.to_string();
        let head = format!("POST /v1/images/generations HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", server.address);
        write!(stream, "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        stream
    });
    // They are accepted when the server has answered what was asked after them.
    while serde_json::from_slice::<Value>(&get(&server, "/v1/jobs")).unwrap()["data"].as_array().unwrap().len() < 3 {}
    let kill = Command::new("kill").args(["-TERM", &server.child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    for mut client in clients {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..answer.len().min(500)]));
    }
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    // Nothing that another program of the network could reach, without a key.
    let refused = Command::new(PROGRAM).args(["serve", "--host", "0.0.0.0", "--port", "0"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(2) && said.contains("--insecure"), "{said}");
    // A parent that goes away ends the server.
    let mut orphan = Server::start(&["--exit-with-parent"]);
    drop(orphan.child.stdin.take());
    assert_eq!(orphan.child.wait().unwrap().code(), Some(0));
}

fn get(server: &Server, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.address).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let start = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    answer.split_off(start)
}
