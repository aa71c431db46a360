//! Pictures that begin with a picture.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// A file of a picture in one grey, opaque or as transparent as `alpha` says, row by row.
fn file(width: u32, height: u32, grey: u8, alpha: Option<&[u8]>) -> Vec<u8> {
    let pixels = (0..(width * height) as usize).flat_map(|i| match alpha {
        Some(alpha) => vec![grey, grey, grey, alpha[i % alpha.len()]],
        None => vec![grey; 3],
    });
    let kind = if alpha.is_some() { image::ExtendedColorType::Rgba8 } else { image::ExtendedColorType::Rgb8 };
    let mut file = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut file);
    image::ImageEncoder::write_image(encoder, &pixels.collect::<Vec<u8>>(), width, height, kind).unwrap();
    file
}

/// A form of fields, of which files have a name that is of no use.
fn form(server: &Server, path: &str, parts: &[(&str, &[u8])]) -> Answer {
    let mut body = Vec::new();
    for (name, bytes) in parts {
        let file = if bytes.starts_with(b"\x89PNG") { "; filename=\"../../etc/passwd\"" } else { "" };
        write!(body, "--x\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").unwrap();
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--x--\r\n");
    server.raw("POST", path, "Host: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n", &body)
}

/// The strength of 255 and the mean of the mask that the maker was given; 128 where there is none.
fn seen(base64: &Value) -> [u8; 2] {
    let file = STANDARD.decode(base64.as_str().unwrap()).unwrap();
    let picture = crate::picture::decode(&file, "x".as_ref()).unwrap();
    [picture.rgb[0], picture.rgb[1]]
}

fn seen_in(answer: &Answer) -> [u8; 2] {
    assert_eq!(answer.status, 200, "{}", answer.body);
    seen(&answer.json()["data"][0]["b64_json"])
}

#[test]
fn edits_repaint_what_is_transparent_or_white() {
    let server = Server::start(|_| {});
    let edit = |parts: &[(&str, &[u8])]| form(&server, "/v1/images/edits", parts);
    let (plain, half) = (file(8, 8, 9, None), file(8, 8, 0, Some(&[0, 255])));
    let (white, prompt) = (file(8, 8, 255, None), ("prompt", &b"a fox"[..]));
    assert_eq!(seen_in(&edit(&[("image", &plain), ("mask", &half), prompt])), [255, 127]);
    assert_eq!(seen_in(&edit(&[("image", &half), prompt])), [255, 127], "its own transparency");
    assert_eq!(seen_in(&edit(&[("image[]", &plain), ("mask", &white), ("strength", b"0.2")])), [51, 255]);
    assert_eq!(seen_in(&edit(&[("image", &plain), ("prompt", b"5"), ("fit", b"contain")])), [153, 128]);
    let stream = edit(&[("image", &plain), ("stream", b"true"), ("partial_images", b"1")]);
    assert!(stream.body.contains("event: image_edit.partial_image"), "{stream:?}");
    assert!(stream.body.contains("event: image_edit.completed"), "{stream:?}");
    for (parts, param) in [
        (vec![prompt], "image"),
        (vec![("image", &plain[..]), ("image", &plain)], "image"),
        (vec![("image", &plain[..]), ("mask", &file(8, 16, 255, None))], "mask"),
        (vec![("image", &plain[..]), ("mask", b"\x89PNG, but not really")], "mask"),
        (vec![("image", &plain[..]), ("strength", b"1.5")], "strength"),
        (vec![("image", &plain[..]), ("fit", b"crop")], "fit"),
        (vec![("image", &plain[..]), ("n", b"1"), ("n", b"1")], "n"),
        (vec![("image", &plain[..]), ("other", &plain)], "other"),
    ] {
        let answer = edit(&parts);
        assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some(param)), "{}", answer.body);
    }
    let vary = form(&server, "/v1/images/variations", &[("image", &plain), ("mask", &white)]);
    assert_eq!((vary.status, vary.json()["error"]["param"].as_str()), (400, Some("mask")));
    assert_eq!(seen_in(&form(&server, "/v1/images/variations", &[("image", &plain)])), [128, 128]);
}

#[test]
fn json_has_pictures_as_data() {
    let server = Server::start(|_| {});
    let data = |file: &[u8]| format!("data:image/png;base64,{}", STANDARD.encode(file));
    let order = json!({"prompt": "a", "image": data(&file(8, 8, 9, None)), "mask": data(&file(8, 8, 255, None)), "strength": 0.4});
    assert_eq!(seen_in(&server.post("/v1/images/generations", &order)), [102, 255]);
    let job = server.post("/v1/jobs", &order).json();
    assert_eq!(server.end_of(&job), "completed");
    for (order, param) in [
        (json!({"prompt": "a", "strength": 0.5}), "strength"),
        (json!({"prompt": "a", "mask": data(&file(8, 8, 255, None))}), "mask"),
        (json!({"image": "/etc/passwd"}), "image"),
        (json!({"image": "http://localhost/x.png"}), "image"),
    ] {
        let answer = server.post("/v1/images/generations", &order);
        assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some(param)), "{}", answer.body);
    }
}

#[test]
fn img2img_of_webui() {
    let server = Server::start(|_| {});
    let post = |change: Value| {
        let mut order =
            json!({"prompt": "a", "init_images": [STANDARD.encode(file(8, 8, 9, None))], "width": 64, "height": 64});
        order.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        server.post("/sdapi/v1/img2img", &order)
    };
    let seen_of = |change: Value| {
        let answer = post(change);
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.json()["parameters"]["init_images"].is_null());
        seen(&answer.json()["images"][0])
    };
    let mask = |grey, alpha| STANDARD.encode(file(8, 8, grey, alpha));
    assert_eq!(seen_of(json!({})), [191, 128]);
    assert_eq!(seen_of(json!({"denoising_strength": 0.2, "mask": mask(255, None)})), [51, 255]);
    assert_eq!(seen_of(json!({"mask": mask(255, None), "inpainting_mask_invert": 1})), [191, 0]);
    // What is opaque changes.
    let quarter: Option<&[u8]> = Some(&[255, 0, 0, 0]);
    assert_eq!(seen_of(json!({"mask": mask(0, quarter)})), [191, 63]);
    assert_eq!(seen_of(json!({"mask": mask(0, quarter), "inpainting_mask_invert": 1})), [191, 191]);
    for (change, param) in [
        (json!({"init_images": []}), "init_images"),
        (json!({"init_images": ["AAAA"]}), "init_images"),
        (json!({"init_images": "x"}), "init_images"),
        (json!({"denoising_strength": 2}), "denoising_strength"),
        (json!({"mask": STANDARD.encode(file(16, 8, 255, None))}), "mask"),
        (json!({"resize_mode": 4}), "resize_mode"),
    ] {
        let answer = post(change.clone());
        assert_eq!(
            (answer.status, answer.json()["error"]["param"].as_str()),
            (400, Some(param)),
            "{change}: {}",
            answer.body
        );
    }
}
