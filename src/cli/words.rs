//! The library's errors in the words of the command line.
//!
//! The library names fields and settings, in backticks where they are in the middle of a sentence. Here, and
//! nowhere else, they become flags.

use crate::error::Error;

/// Fields of requests, inputs and settings, and the flags that set them.
const FLAGS: &[(&str, &str)] = &[
    ("prompts", "--prompts"),
    ("negative", "--negative"),
    ("width", "--width"),
    ("height", "--height"),
    ("seed", "--seed"),
    ("steps", "--steps"),
    ("guidance", "--guidance"),
    ("compression", "--compression"),
    ("sampler", "--sampler"),
    ("shift", "--shift"),
    ("times", "--timesteps"),
    ("guided", "--guidance-interval"),
    ("reuse", "--reuse"),
    ("rescale", "--guidance-rescale"),
    ("parallel", "--guidance-parallel"),
    ("count", "--count"),
    ("noise", "--noise"),
    ("hires", "--hires"),
    ("hires_strength", "--hires-strength"),
    ("text", "--text"),
    ("text.states", "--text"),
    ("text.pooled", "--text"),
    ("start_c", "--latents"),
    ("start_b", "--latents"),
    ("check_nodes", "--check-nodes"),
    ("shader_dir", "--shader-dir"),
    ("model", "--model"),
    ("prior", "--prior"),
    ("stage_a", "--stage-a"),
    ("stage_b", "--stage-b"),
    ("stage_c", "--stage-c"),
    ("text_encoder", "--text-encoder"),
    ("tokenizer", "--tokenizer"),
    ("variant", "--variant"),
    ("image_encoder", "--image-encoder"),
    ("effnet_encoder", "--effnet-encoder"),
    ("image", "--image"),
    ("init", "--init"),
    ("strength", "--strength"),
    ("fit", "--fit"),
    ("token", "--token"),
    ("mask", "--mask"),
    ("force", "--force"),
    // What a setting may be, with the setting.
    ("device cpu", "--device cpu"),
    ("device wgpu", "--device wgpu"),
    ("without sm_90a", "--without sm_90a"),
    ("devices::all", "`cascade-rt devices`"),
];

/// An error of the library, said to somebody who has a command line.
pub(super) fn for_the_command_line(error: Error) -> Error {
    match error {
        Error::Request { what, expected, found } => {
            let flag = FLAGS.iter().find(|(field, _)| *field == what).map_or(what, |(_, flag)| (*flag).to_owned());
            Error::Request { what: flag, expected: flags(expected), found: flags(found) }
        }
        Error::ModelMissing { path, missing, remedy } => Error::ModelMissing { path, missing, remedy: flags(remedy) },
        Error::Model { path, expected, found } => Error::Model { path, expected, found: flags(found) },
        Error::Tensor { path, name, expected, found } => Error::Tensor { path, name, expected, found: flags(found) },
        Error::DoesNotFit { device, free_mib, need_mib, detail, remedy } => {
            Error::DoesNotFit { device, free_mib, need_mib, detail, remedy: flags(remedy) }
        }
        Error::TooLarge { device, piece, at, limit_mib, need_mib, remedy } => {
            Error::TooLarge { device, piece, at, limit_mib, need_mib, remedy: flags(remedy) }
        }
        Error::Device { wanted, found, remedy } => Error::Device { wanted, found, remedy: flags(remedy) },
        error => error,
    }
}

/// The text with flags for fields.
fn flags(text: String) -> String {
    FLAGS.iter().fold(text, |text, (field, flag)| text.replace(&format!("`{field}`"), flag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Request;

    #[test]
    fn fields_become_flags() {
        let error = Request { height: 3, ..Request::new("a") }.check().unwrap_err();
        assert!(error.to_string().starts_with("height: expected a multiple"), "{error}");
        let error = for_the_command_line(error);
        assert!(error.to_string().starts_with("--height: expected a multiple"), "{error}");
        let remedy = "try a smaller `width` and `height`, or `device cpu`".to_owned();
        let error = for_the_command_line(Error::Device { wanted: "width".into(), found: String::new(), remedy });
        assert!(error.to_string().ends_with("try a smaller --width and --height, or --device cpu"), "{error}");
    }
}
