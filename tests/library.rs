//! The library as another program uses it: only what the crate exports at its root.
#![cfg(all(feature = "demo", feature = "pictures"))]

use std::ops::ControlFlow;

use cascade_rt::{
    Error, Format, HostTensor, Image, Inputs, Method, Model, Observer, Options, Pipeline, Record, Request, Sampler,
    Shape, StageName, Step, TextEmbeddings, devices, read_metadata,
};

/// The built-in model on the CPU.
fn pipeline() -> Pipeline {
    Pipeline::new(Model::demo().unwrap(), devices::Choice::Cpu.open().unwrap()).unwrap()
}

fn request() -> Request {
    Request { width: 64, height: 64, steps: (2, 1), ..Request::new("a red apple on a blue background") }
}

/// All pictures of a request for which something is given.
fn run(pipeline: &mut Pipeline, request: &Request, options: Options<'_>) -> Result<Vec<Image>, Error> {
    let mut images = Vec::new();
    pipeline.run(request, options, |batch| {
        images.extend(batch.images);
        Ok(())
    })?;
    Ok(images)
}

#[test]
fn a_picture_is_generated_and_saved() {
    let images = pipeline().generate(&request()).unwrap();
    let [image] = &images[..] else { panic!("{} pictures", images.len()) };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("apple.png");
    for _ in 0..2 {
        image.save(&file).unwrap();
    }
    let metadata = read_metadata(&file).unwrap();
    assert_eq!((metadata.width, metadata.height, metadata.record().unwrap()), (64, 64, None));
    let record = Record::new(&request(), "demo");
    std::fs::write(&file, image.to_bytes(Format::Png, Some(&record)).unwrap()).unwrap();
    assert_eq!(read_metadata(&file).unwrap().record().unwrap(), Some(record));
    assert!(matches!(image.save(folder.path().join("no/such/folder.png")), Err(Error::Disk { .. })));
}

#[test]
fn a_model_opens_from_its_folder() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo");
    assert_eq!(Model::open_folder(folder).unwrap().native_size, Some(128));
    let error = Model::open_folder("no/such/folder").unwrap_err();
    assert!(matches!(error, Error::ModelMissing { .. }), "{error}");
}

/// Text, Stage C and the decoder, one after the other, give what one run of everything gives.
#[test]
fn stages_apart_make_the_same_picture() {
    let mut pipeline = pipeline();
    let request = Request { count: 2, guidance: (4.0, 1.5), ..request() };
    let whole = pipeline.generate(&request).unwrap();
    let (text, _) = pipeline.encode_text(&request, Options::default()).unwrap();
    assert_eq!(text.pooled.shape.n, 2, "the prompt and the negative prompt");
    let inputs = Inputs { text: Some(&text), ..Inputs::default() };
    let (prior, _) = pipeline.prior(&request, Options { inputs, ..Options::default() }).unwrap();
    assert_eq!(prior.stage_c.shape, Shape::new(2, 2, 2, 16));
    let options = || Options { inputs: prior.inputs(), ..Options::default() };
    assert!(run(&mut pipeline, &request, options()).unwrap() == whole);
    // Another seed is other noise in Stage B.
    assert!(run(&mut pipeline, &Request { seed: 1, ..request }, options()).unwrap() != whole);
}

/// Stops after a number of steps of Stage C.
struct StopAfter(usize, Vec<String>);

impl Observer for StopAfter {
    fn step(&mut self, step: &mut Step<'_>) -> ControlFlow<()> {
        self.1.push(format!("{step:?}"));
        if step.stage != StageName::StageC {
            return ControlFlow::Continue(());
        }
        let latents = step.latents().unwrap().unwrap();
        assert_eq!(latents.shape, Shape::new(1, 2, 2, 16));
        self.0 -= 1;
        if self.0 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[test]
fn an_observer_sees_every_step_and_stops_the_run() {
    let mut pipeline = pipeline();
    let mut observer = StopAfter(2, Vec::new());
    let request = Request { steps: (3, 1), ..request() };
    let stopped = run(&mut pipeline, &request, Options { observer: Some(&mut observer), ..Options::default() });
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert_eq!(observer.1.len(), 3, "text and two steps: {:?}", observer.1);
    // The pipeline goes on to serve.
    assert_eq!(pipeline.generate(&request).unwrap().len(), 1);
}

/// Takes a preview of some steps of Stage C.
#[derive(Default)]
struct Previews(Vec<Image>);

impl Observer for Previews {
    fn step(&mut self, step: &mut Step<'_>) -> ControlFlow<()> {
        let shown = step.preview().unwrap();
        assert_eq!(shown.is_some(), step.stage == StageName::StageC);
        self.0.extend(shown.into_iter().flatten());
        ControlFlow::Continue(())
    }
}

/// The mean colour of the pixels at the border.
fn border(image: &Image) -> [f64; 3] {
    let (w, h) = (image.width as usize, image.height as usize);
    let at_border = |i: usize| [0, w - 1].contains(&(i % w)) || [0, h - 1].contains(&(i / w));
    let pixels: Vec<&[u8]> = image.rgb.chunks(3).enumerate().filter(|(i, _)| at_border(*i)).map(|(_, p)| p).collect();
    [0, 1, 2].map(|c| pixels.iter().map(|p| f64::from(p[c])).sum::<f64>() / pixels.len() as f64)
}

/// Each sampler's previews come to look like its picture, which is the same without them.
#[test]
fn previews_show_what_comes() {
    let mut pipeline = pipeline();
    for sampler in [Sampler::Ddpm, Sampler::Dpmpp2m] {
        let of = |sampler| Method { sampler, ..Method::default() };
        let method = (of(sampler), Method::default());
        let request = Request { width: 128, height: 128, steps: (8, 4), method, ..request() };
        let plain = pipeline.generate(&request).unwrap();
        let mut previews = Previews::default();
        let options = Options { preview: true, observer: Some(&mut previews), ..Options::default() };
        let images = run(&mut pipeline, &request, options).unwrap();
        assert!(images == plain, "{sampler}: a run that is watched makes the same picture");
        let Previews(previews) = previews;
        assert_eq!((previews.len(), previews[7].width, previews[7].height), (8, 24, 24));
        let [got, want] = [&previews[7], &images[0]].map(border);
        assert!((0..3).all(|c| (got[c] - want[c]).abs() < 40.0), "{sampler}: the border is {got:?}, not {want:?}");
        assert!(previews[0] != previews[7]);
    }
    // Nobody asked for previews of this run.
    struct Unasked;
    impl Observer for Unasked {
        fn step(&mut self, step: &mut Step<'_>) -> ControlFlow<()> {
            assert!(step.preview().unwrap().is_none());
            ControlFlow::Continue(())
        }
    }
    run(&mut pipeline, &request(), Options { observer: Some(&mut Unasked), ..Options::default() }).unwrap();
}

#[test]
fn errors_name_fields() {
    let mut pipeline = pipeline();
    let message = |result: Result<Vec<Image>, Error>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Request { .. }), "{error}");
        let message = error.to_string();
        assert!(!message.contains("--"), "{message}");
        message
    };
    for (request, field) in [
        (Request { width: 65, ..request() }, "width: "),
        (Request { height: 0, ..request() }, "height: "),
        (Request { steps: (0, 1), ..request() }, "steps: "),
        (Request { guidance: (4.0, f32::NAN), ..request() }, "guidance: "),
        (Request { count: 0, ..request() }, "count: "),
        (Request::default(), "prompts: "),
    ] {
        let message = message(pipeline.generate(&request));
        assert!(message.starts_with(field), "{message}");
    }
    let tensor = HostTensor { shape: Shape::vector(3), values: vec![0.0; 3] };
    let text = TextEmbeddings { states: None, pooled: tensor.clone() };
    for (inputs, field) in [
        (Inputs { start_c: Some(&tensor), ..Inputs::default() }, "start_c: "),
        (Inputs { start_b: Some(&tensor), ..Inputs::default() }, "start_b: "),
        (Inputs { stage_c: Some(&tensor), ..Inputs::default() }, "stage_c: "),
        (Inputs { text: Some(&text), ..Inputs::default() }, "text: "),
        (Inputs { image: Some(&tensor), ..Inputs::default() }, "image: "),
    ] {
        let message = message(run(&mut pipeline, &request(), Options { inputs, ..Options::default() }));
        assert!(message.starts_with(field), "{message}");
    }
}
