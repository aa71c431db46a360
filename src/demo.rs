//! The demo model: a small Stable Cascade that is embedded in the program.
//!
//! Only this file knows that it exists. Everything else opens it through a
//! [`Location`](crate::files::Location), like any other model.

#[cfg(feature = "demo")]
use crate::error::Result;
use crate::files::BuiltIn;
#[cfg(feature = "demo")]
use crate::model::Model;

/// The built-in model, unless the program was built without the feature `demo`.
pub const MODEL: Option<&BuiltIn> = embedded();

#[cfg(feature = "demo")]
impl Model {
    /// Opens the small model that is embedded in the program. It makes pictures of 128×128 pixels, of small things
    /// on plain backgrounds.
    ///
    /// # Errors
    /// None in practice: those of [`Model::open`].
    pub fn demo() -> Result<Self> {
        Self::open_folder(MODEL.expect("the feature is on"))
    }
}

#[cfg(not(feature = "demo"))]
const fn embedded() -> Option<&'static BuiltIn> {
    None
}

#[cfg(feature = "demo")]
const fn embedded() -> Option<&'static BuiltIn> {
    /// Weights are read in place, so files must be aligned.
    #[repr(align(16))]
    struct Aligned<T: ?Sized>(T);

    macro_rules! files {
        ($($path:literal)*) => {
            &[$(($path, {
                static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!("../models/demo/", $path)));
                &FILE.0
            })),*]
        };
    }
    static DEMO: BuiltIn = BuiltIn {
        name: "demo",
        files: files![
            "model_index.json"
            "prior/config.json"
            "prior/diffusion_pytorch_model.safetensors"
            "decoder/config.json"
            "decoder/diffusion_pytorch_model.safetensors"
            "vqgan/config.json"
            "vqgan/diffusion_pytorch_model.safetensors"
            "effnet_encoder.safetensors"
            "image_encoder/config.json"
            "image_encoder/model.safetensors"
            "text_encoder/config.json"
            "text_encoder/model.safetensors"
            "previewer/diffusion_pytorch_model.safetensors"
            "tokenizer/tokenizer.json"
            "tokenizer/tokenizer_config.json"
            "tokenizer/special_tokens_map.json"
        ],
    };
    Some(&DEMO)
}
