//! Weights in prompts, and long prompts, from text to latents of a small untrained model.

use std::path::PathBuf;

use cascade_rt::{Inputs, Model, ModelPaths, Options, Overrides, Pipeline, Request, Syntax, devices, encode_prompts};

fn pipeline() -> Pipeline {
    let root = std::env::var_os("CASCADE_ROOT").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let folder = root.join("tests/fixtures/tiny").into();
    let model = Model::open(&ModelPaths::find(Some(&folder), None, &Overrides::default()).unwrap()).unwrap();
    Pipeline::new(model, devices::Choice::Cpu.open().unwrap()).unwrap()
}

fn latents(pipeline: &mut Pipeline, prompts: &[&str], syntax: Option<Syntax>) -> Vec<f32> {
    let prompts: Vec<String> = prompts.iter().map(|prompt| (*prompt).into()).collect();
    let request = Request {
        prompts,
        negative: "fog, (rain:1.4)".into(),
        width: 64,
        height: 64,
        steps: (2, 1),
        ..Request::default()
    };
    let text =
        syntax.map(|syntax| encode_prompts(pipeline, &request.prompts, &request.negative, syntax, &mut ()).unwrap());
    let inputs = Inputs { text: text.as_ref(), ..Inputs::default() };
    pipeline.prior(&request, Options { inputs, ..Options::default() }).unwrap().0.stage_c.values
}

#[test]
fn a_plain_prompt_is_the_usual_one() {
    let mut pipeline = pipeline();
    let prompts = ["a (red:1.3) fox", "two cats"];
    let usual = latents(&mut pipeline, &prompts, None);
    assert_eq!(latents(&mut pipeline, &prompts, Some(Syntax::Plain)), usual);
    // Weights of 1 and parentheses that are escaped make the same text.
    let request = |prompt: &str| Request { negative: String::new(), ..Request::new(prompt) };
    let states = |pipeline: &mut Pipeline, prompt: &str, syntax| {
        let request = request(prompt);
        encode_prompts(pipeline, &request.prompts, &request.negative, syntax, &mut ()).unwrap()
    };
    let plain = states(&mut pipeline, "a (red) fox", Syntax::Plain);
    for syntax in [Syntax::WebUi, Syntax::ComfyUi] {
        assert_eq!(states(&mut pipeline, "a \\(red\\) fox", syntax), plain, "{syntax}");
        let (one, none) =
            (states(&mut pipeline, "a (red:1) fox", syntax), states(&mut pipeline, "a red fox", Syntax::Plain));
        assert_eq!(one, none, "{syntax}");
        assert_ne!(states(&mut pipeline, "a (red:1.3) fox", syntax).states, none.states, "{syntax}");
    }
}

#[test]
fn weights_and_syntaxes_make_a_difference() {
    let mut pipeline = pipeline();
    let mut of = |prompt: &str, syntax| latents(&mut pipeline, &[prompt], Some(syntax));
    let all = [
        of("a red fox", Syntax::WebUi),
        of("a (red:1.3) fox", Syntax::WebUi),
        of("a (red:1.3) fox", Syntax::ComfyUi),
        of("a [red] fox", Syntax::WebUi),
        of("a [red] fox", Syntax::ComfyUi),
    ];
    for (i, one) in all.iter().enumerate() {
        assert!(all[..i].iter().all(|other| other != one), "{i} is like one before");
    }
}

#[test]
fn a_long_prompt_counts_to_its_end() {
    let mut pipeline = pipeline();
    let words = |n: usize| (0..n).map(|i| format!("lighthouse {i}")).collect::<Vec<_>>().join(", ");
    let (long, longer) = (words(60), format!("{}, a fox", words(60)));
    assert_eq!(latents(&mut pipeline, &[&long], None), latents(&mut pipeline, &[&longer], None));
    for syntax in [Syntax::WebUi, Syntax::ComfyUi] {
        let (a, b) = (latents(&mut pipeline, &[&long], Some(syntax)), latents(&mut pipeline, &[&longer], Some(syntax)));
        assert_ne!(a, b, "{syntax}");
        // Prompts of a run may have different lengths.
        let both = latents(&mut pipeline, &[&longer, "a fox"], Some(syntax));
        assert_eq!(both.len(), 2 * a.len());
    }
    let negative = "b";
    let text = encode_prompts(&mut pipeline, &["a BREAK b".into()], negative, Syntax::WebUi, &mut ()).unwrap();
    assert_eq!(text.states.unwrap().shape.w, 2 * 77);
    let endless = vec!["word ".repeat(75 * 65)];
    let error = encode_prompts(&mut pipeline, &endless, negative, Syntax::WebUi, &mut ()).err().unwrap().to_string();
    assert!(error.contains("at most 64 chunks"), "{error}");
}
