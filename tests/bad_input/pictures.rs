//! Pictures that are given, and what is made of them: flags that contradict one another, files that are not there or
//! something else, sizes that do not fit.

use std::fs;

use super::{Room, fixture};

/// A folder with a picture, a mask, files that are none, and a ControlNet of every kind.
fn room() -> Room {
    let room = Room::new();
    image::RgbImage::from_fn(80, 72, |x, y| image::Rgb([x as u8, y as u8, 9])).save(room.path("photo.png")).unwrap();
    image::GrayImage::from_fn(80, 72, |x, _| image::Luma([x as u8])).save(room.path("mask.png")).unwrap();
    image::GrayImage::new(8, 8).save(room.path("small.png")).unwrap();
    image::GrayImage::new(40_000, 1).save(room.path("long.png")).unwrap();
    let photo = fs::read(room.path("photo.png")).unwrap();
    room.write("torn.png", &photo[..photo.len() / 2]);
    room.write("text.png", "a red apple");
    room.write("empty.png", "");
    fs::create_dir(room.path("folder")).unwrap();
    for name in ["canny", "inpainting", "identity", "super_resolution"] {
        fs::copy(fixture(&format!("control/{name}.safetensors")), room.path(&format!("{name}.safetensors"))).unwrap();
    }
    room
}

#[test]
fn files_that_are_no_pictures() {
    let room = room();
    for (name, code, words) in [
        ("none.png", 7, ["none.png: cannot read", "No such file"]),
        ("folder", 7, ["folder: cannot read", "directory"]),
        ("empty.png", 2, ["empty.png: expected a PNG, JPEG or WebP picture", "an empty file"]),
        ("text.png", 2, ["text.png: expected a PNG, JPEG or WebP picture", "convert it"]),
        ("torn.png", 2, ["torn.png: expected a whole PNG, JPEG or WebP picture", "an error: "]),
        ("long.png", 2, ["long.png: expected at most 100 million pixels", "40000×1; make it smaller"]),
    ] {
        let [canny, sr, paints] = ["canny.safetensors", "super_resolution.safetensors", "inpainting.safetensors"];
        for flags in [
            &["--init", name][..],
            &["--init", name, "--outpaint", "8,8,8,8"],
            &["--init", "photo.png", "--mask", name],
            &["--image", name],
            &["--control", canny, "--control-image", name],
            &["--control", sr, "--control-image", name],
            &["--control", paints, "--control-image", "photo.png", "--control-mask", name],
        ] {
            let size: &[&str] = if flags.contains(&"--outpaint") { &[] } else { &["-W", "64", "-H", "64"] };
            room.fails(room.command(&[&["generate", "x", "-o", "out.png"], flags, size].concat()), code, &words);
        }
        for command in [
            &["reconstruct", name][..],
            &["encode", name, "-o", "out.safetensors"],
            &["upscale", name, "--control", sr],
            &["annotate", "canny", name, "-o", "out.png"],
        ] {
            room.fails(room.command(command), code, &words);
        }
    }
}

/// Flags in groups, the exit code, and what the message says.
type Case<'a> = (&'a [&'a [&'a str]], i32, &'a [&'a str]);

#[test]
fn flags_for_pictures() {
    let room = room();
    let [init, mask, canny] = [["--init", "photo.png"], ["--mask", "mask.png"], ["--control", "canny.safetensors"]];
    let told = ["--control-image", "photo.png"];
    let cases: &[Case<'_>] = &[
        (&[&["--strength", "0.5"]], 2, &["--init"]),
        (&[&["--fit", "cover"]], 2, &["--init"]),
        (&[&mask], 2, &["--init"]),
        (&[&["--outpaint", "8,8,8,8"]], 2, &["--init"]),
        (&[&init, &["--strength", "1.5"]], 2, &["--strength", "a number from 0 to 1, got `1.5`"]),
        (&[&init, &["--strength", "-0.1"]], 2, &["--strength", "got `-0.1`"]),
        (&[&init, &["--strength", "nan"]], 2, &["--strength", "got `nan`"]),
        (&[&init, &["-W", "100"]], 2, &["--width", "got 100 (try 104)"]),
        (&[&init, &["--strength", ""]], 2, &["--strength", "a number from 0 to 1, got ``"]),
        (&[&init, &["--fit", "crop"]], 2, &["--fit", "cover, contain or stretch", "`crop`"]),
        (&[&init, &["--mask", "small.png"]], 2, &["--mask: expected 80×72 pixels, as photo.png has, got 8×8"]),
        (&[&init, &mask, &["--prior-only"]], 2, &["--mask", "--prior-only"]),
        (&[&init, &["--outpaint", "8,8,8,8"]], 2, &["--outpaint", "--width"]),
        // Two passes.
        (&[&["--hires", "0.9"]], 2, &["--hires", "a factor from 1, which is one pass, to 8, got `0.9`"]),
        (&[&["--hires", "nan"]], 2, &["--hires", "got `nan`"]),
        (&[&["--hires", "inf"]], 2, &["--hires", "got `inf`"]),
        (&[&["--hires", "-2"]], 2, &["--hires", "got `-2`"]),
        (&[&["--hires", ""]], 2, &["--hires", "got ``"]),
        (&[&["--hires", "8.1"]], 2, &["--hires", "got `8.1`"]),
        (&[&["--hires", "2", "--hires-strength", "nan"]], 2, &["--hires-strength", "from 0 to 1, got `nan`"]),
        (&[&["--hires", "2", "--hires-strength", "-0.1"]], 2, &["--hires-strength", "got `-0.1`"]),
        (&[&["--hires", "1", "--hires-strength", "0.5"]], 2, &["--hires-strength: expected --hires above 1 as well"]),
        (&[&["--hires", "2"], &init, &mask], 2, &["--hires: expected one pass (1) with --mask", "got 2"]),
        (&[&["--vary", "hires=1,two"]], 2, &["`hires`: expected a factor from 1", "got \"two\""]),
        (&[&["--vary", "hires_strength=0.1,2"]], 2, &["`hires_strength`: expected a number from 0 to 1", "got \"2\""]),
        // ControlNets.
        (&[&["--control", "none"], &told], 3, &["none"]),
        (&[&["--control", "photo.png"], &told], 3, &["photo.png: expected a safetensors file"]),
        (&[&["--control", "folder"], &told], 3, &["folder"]),
        (&[&told], 2, &["--control <FILE>"]),
        (&[&canny], 2, &["--control-image: expected one for 1 of --control, got 0"]),
        (&[&canny, &told, &told], 2, &["--control-image: expected one for 1 of --control, got 2"]),
        (&[&canny, &canny, &init, &told], 2, &["--control-image: expected one, or none to take", "for 2", "got 1"]),
        (&[&canny, &told, &["--control-strength", "nan"]], 2, &["--control-strength", "-10 to 10, got `nan`"]),
        (&[&canny, &told, &["--control-strength", "11"]], 2, &["--control-strength", "got `11`"]),
        (&[&canny, &told, &["--control-range", "1,0"]], 2, &["--control-range", "the lower one first", "got `1,0`"]),
        (&[&canny, &told, &["--control-range", "0,nan"]], 2, &["--control-range", "got `0,nan`"]),
        (&[&canny, &told, &["--control-range", "0.5"]], 2, &["--control-range", "like 0,0.5, got `0.5`"]),
        (&[&canny, &told, &["--control-mask", "mask.png"]], 2, &["--control-mask: expected a --control that inpaints"]),
        (&[&["--control", "inpainting.safetensors"], &told], 2, &["a picture with --control-mask", "inpainting"]),
        (&[&["--control", "inpainting.safetensors"], &init], 2, &["--init with --mask or --outpaint"]),
        (&[&["--control", "identity.safetensors"], &told], 2, &["`hint`, [6, height, width]", "a picture"]),
        (&[&["--control", "identity.safetensors"], &init], 2, &["`hint`, [6, height, width]", "the picture of --init"]),
        // Of another Stage C: the fixtures are for one of 64 residual blocks.
        (&[&canny, &told], 3, &["canny.safetensors: expected a ControlNet for a Stage C of "]),
        // Previews.
        (&[&["--preview", "soon.txt"]], 2, &["--preview: expected a name that ends in .png", "got soon.txt"]),
        (&[&["--preview", "none/soon.png"]], 7, &["none/soon.png: cannot create", "No such file"]),
        (&[&["--preview", "photo.png"]], 2, &["photo.png: expected a new file, or --force"]),
        (
            &[&["--preview", "photo.png", "--force"], &init],
            2,
            &["--preview: expected files that this run does not read"],
        ),
        (&[&["--preview", "out.png"]], 2, &["--output: expected another file than --preview"]),
        (&[&["--preview", "d", "--dump", "d"]], 2, &["--preview: expected another file than --dump"]),
        (&[&["--preview", "-"]], 2, &["--preview: expected a file, because names go to standard output"]),
        (&[&["--preview-every", "2"]], 2, &["--preview <FILE|terminal>"]),
        (&[&["--preview", "soon.png", "--preview-every", "-1"]], 2, &["--preview-every"]),
    ];
    for (flags, code, words) in cases {
        room.fails(room.generate(&[&["x"], &flags.concat()[..]].concat()), *code, words);
    }
}

#[test]
fn commands_for_pictures() {
    let room = room();
    let sr = ["--control", "super_resolution.safetensors"];
    image::GrayImage::new(8200, 1).save(room.path("wide.png")).unwrap();
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["generate", "x", "--outpaint", "1,2,3", "--init", "photo.png"], 2, &["like 0,64,0,0", "got `1,2,3`"]),
        (&["generate", "x", "--outpaint", "0,0,0,0", "--init", "photo.png"], 2, &["got `0,0,0,0`"]),
        (&["generate", "x", "--outpaint", "-8,0,0,0", "--init", "photo.png"], 2, &["got `-8,0,0,0`"]),
        (
            &["generate", "x", "--outpaint", "16384,0,0,0", "--init", "photo.png"],
            2,
            &["--outpaint: expected pixels by which no side becomes longer than 16384, got 16464×72"],
        ),
        (
            &["generate", "x", "--hires", "4", "-W", "8192", "-H", "64"],
            2,
            &["--hires", "sides of at most 16384", "32768"],
        ),
        (&["reconstruct", "photo.png", "-W", "100"], 2, &["--width", "got 100 (try 104)"]),
        (&["reconstruct", "photo.png", "--stage", "b"], 2, &["--stage", "b"]),
        (&["reconstruct", "photo.png", "-o", "photo.png", "--force"], 2, &["files that this run does not read"]),
        (&["encode", "photo.png", "-o", "x.png"], 2, &["a name that ends in .safetensors", "x.png"]),
        (&["encode", "photo.png", "--prompts", "p", "-o", "x.safetensors"], 2, &["--prompts"]),
        (&["upscale", "photo.png"], 2, &["--control"]),
        (
            &["upscale", "photo.png", "--control", "canny.safetensors"],
            3,
            &["for super-resolution, found one for canny"],
        ),
        (&[&["upscale", "wide.png"], &sr[..]].concat(), 2, &["wide.png", "at most 8192 pixels", "8200×1"]),
        (&[&["upscale", "photo.png", "--control-strength", "nan"], &sr[..]].concat(), 2, &["got `nan`"]),
        (&[&["upscale", "photo.png", "--steps", "0"], &sr[..]].concat(), 2, &["--steps", "got `0`"]),
        (&[&["upscale", "photo.png"], &sr[..]].concat(), 3, &["for a Stage C of 6 residual blocks", "one with 8"]),
        (&["annotate", "canny", "photo.png", "-o", "x.gif"], 2, &["--output: expected a name that ends in .png"]),
        (&["annotate", "canny", "photo.png", "-o", "x.png", "--low", "2041"], 2, &["--low", "2040"]),
        (&["annotate", "canny", "photo.png", "-o", "none/x.png"], 7, &["none/x.png: cannot create"]),
        (&["annotate", "lines", "photo.png"], 2, &["lines"]),
    ];
    for (args, code, words) in cases {
        room.fails(room.command(args), *code, words);
    }
}
