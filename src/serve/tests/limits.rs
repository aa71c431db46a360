//! What is too much, or makes no sense.

use super::*;

#[test]
fn a_full_queue_says_when_to_come_back() {
    let server = Server::start(|_| {});
    let submit = || server.post("/v1/jobs", &json!({"prompt": "slow"}));
    let begin = Instant::now();
    let mut accepted = vec![submit().json()];
    // The first is taken out of the queue as soon as it is made.
    while server.get("/v1/jobs").json()["data"][0]["state"] != "generating" {
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
    accepted.extend((0..3).map(|_| submit().json()));
    let full = submit();
    assert_eq!((full.status, full.code().as_str()), (429, "queue_full"));
    assert!(full.head.contains("retry-after: "), "{full:?}");
    for job in &accepted {
        server.delete(job["url"].as_str().unwrap());
    }
    accepted.iter().for_each(|job| assert_eq!(server.end_of(job), "cancelled"));
    assert_eq!(server.post("/v1/images/generations", &json!({"prompt": "a"})).status, 200);
}

#[test]
fn fields_that_are_wrong_are_named() {
    let server = Server::start(|_| {});
    let long = "x".repeat(9000);
    for (name, value) in [
        ("prompt", json!(null)),
        ("prompt", json!(5)),
        ("prompt", json!(long)),
        ("negative_prompt", json!([])),
        ("n", json!(0)),
        ("n", json!(11)),
        ("n", json!("2")),
        ("n", json!(1.5)),
        ("size", json!("65x64")),
        ("size", json!("64")),
        ("size", json!("2048x2048")),
        ("size", json!("99999999999x64")),
        ("quality", json!("best")),
        ("seed", json!(-2)),
        ("seed", json!("1")),
        ("num_inference_steps", json!(0)),
        ("prior_num_inference_steps", json!(501)),
        ("guidance_scale", json!(-1)),
        ("guidance_scale", json!("4")),
        ("decoder_guidance_scale", json!(101)),
        ("shift", json!(0)),
        ("output_format", json!("gif")),
        ("output_compression", json!(101)),
        ("response_format", json!("file")),
        ("stream", json!("yes")),
        ("partial_images", json!(4)),
        ("background", json!("transparent")),
        ("loras", json!([{"name": "none"}])),
        ("loras", json!([{"strength": 1}])),
        ("loras", json!("old film")),
        ("image_prompts", json!([{"image": "http://localhost/x.png"}])),
        ("image_prompts", json!([{"image": "data:image/png;base64,AAAA"}])),
        ("timeout_s", json!(0)),
        ("webhook", json!("http://localhost")),
    ] {
        let mut order = json!({"prompt": "a"});
        order[name] = value.clone();
        let answer = server.post("/v1/images/generations", &order);
        assert_eq!(
            (answer.status, answer.json()["error"]["param"].as_str()),
            (400, Some(name)),
            "{value}: {}",
            answer.body
        );
    }
    let size = server.post("/v1/images/generations", &json!({"prompt": "a", "size": "4000x2001"})).json();
    assert!(size["error"]["message"].as_str().unwrap().ends_with("the nearest is 1448x720"), "{size}");
    let model = server.post("/v1/images/generations", &json!({"prompt": "a", "model": "dall-e-3"}));
    assert_eq!((model.status, model.code().as_str()), (404, "model_not_found"));
    assert_eq!(
        server
            .post("/v1/images/generations", &json!({"prompt": "a", "model": "grey", "loras": [{"name": "old film"}]}))
            .status,
        200
    );
}

#[test]
fn bodies_that_are_wrong() {
    let server = Server::start(|_| {});
    let post = |body: &[u8]| {
        server.raw("POST", "/v1/images/generations", "Host: localhost\r\nContent-Type: application/json\r\n", body)
    };
    for body in [&b""[..], b"{", b"[]", b"\"a\"", b"\xff\xfe", b"{\"prompt\":\"\\ud800\"}"] {
        assert_eq!(post(body).code(), "invalid_json");
    }
    let deep = [&b"{\"prompt\":"[..], &b"[".repeat(100_000), &b"]".repeat(100_000), b"}"].concat();
    assert_eq!(post(&deep).code(), "invalid_json");
    let large = vec![b' '; (32 << 20) + 1];
    assert_eq!((post(&large).status, post(&large).code().as_str()), (413, "request_too_large"));
    assert_eq!(server.get("/nothing").code(), "not_found");
    assert_eq!(server.delete("/v1/models").code(), "method_not_allowed");
    assert_eq!(server.get("/v1/jobs/%ff%00").code(), "invalid_path");
    // A form without a picture, and one that ends in the middle.
    let headers = "Host: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n";
    for body in [
        "--x--\r\n",
        "--x\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nabc",
        "",
        "--x\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nabc\r\n--x--\r\n",
    ] {
        let answer = server.raw("POST", "/v1/images/variations", headers, body.as_bytes());
        assert_eq!((answer.status, answer.code().is_empty()), (400, false), "{body}: {answer:?}");
    }
}

/// A file that says it has many pixels is refused before memory is taken for them.
#[test]
fn pictures_that_are_too_large_are_refused_at_once() {
    use base64::Engine;
    let server = Server::start(|_| {});
    let small = Image { width: 8, height: 8, rgb: vec![0; 192] }.to_bytes(Format::Png, None).unwrap();
    let small = base64::engine::general_purpose::STANDARD.encode(small);
    let mut file = Image { width: 8, height: 8, rgb: vec![0; 192] }.to_bytes(Format::Png, None).unwrap();
    for (width, height) in [(30_000u32, 30_000u32), (8193, 8), (8, 100_000), (u32::MAX, 1), (8192, 8192), (0, 0)] {
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        let image = base64::engine::general_purpose::STANDARD.encode(&file);
        for (path, order) in [
            ("/v1/images/generations", json!({"image_prompts": [{"image": image}]})),
            ("/v1/images/generations", json!({"image": image})),
            ("/v1/images/generations", json!({"image": small, "mask": image})),
            ("/sdapi/v1/img2img", json!({"init_images": [image]})),
            ("/sdapi/v1/img2img", json!({"init_images": [small], "mask": image})),
        ] {
            let begin = Instant::now();
            let answer = server.post(path, &order);
            let code = answer.json()["error"]["code"].clone();
            assert_eq!((answer.status, code), (400, json!("invalid_image")), "{width}x{height}: {path}");
            assert!(begin.elapsed() < Duration::from_millis(500), "{width}x{height}: {path}");
        }
    }
}
