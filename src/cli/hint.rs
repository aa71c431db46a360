//! What a ControlNet is told: a picture, the one of `--init`, or a tensor that was prepared elsewhere.

use std::path::Path;

use super::given::Given;
use super::initial::Initial;
use crate::controlnet::{ControlKind, ControlNet};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::picture::{self, Area, Filter, canny_hint, inpainting_hint, resample};
use crate::pipeline::{HostTensor, LATENT_PIXELS, Pipeline};
use crate::request::Request;
use crate::shape::Shape;

/// Where a hint comes from.
pub(super) enum Hint {
    /// A picture, and for inpainting one that is white where it is to be painted.
    Picture(Image, Option<Image>),
    /// The picture that Stage C begins with.
    Initial,
    /// The hint itself.
    Tensor(HostTensor),
}

impl Hint {
    /// Reads the hint of a ControlNet from a file, with the `mask` where it takes one; from `--init` without a file.
    ///
    /// # Errors
    /// If a file cannot be read, or is not what this ControlNet takes.
    pub(super) fn read(
        net: &ControlNet,
        file: Option<&Path>,
        mask: Option<&Path>,
        initial: Option<&Initial>,
    ) -> Result<Self> {
        let needs = |expected: &str| Error::Request {
            what: file.map_or("--control-image".into(), |file| format!("--control-image {}", file.display())),
            expected: format!("{expected}, which {} takes ({})", net.path().display(), net.kind()),
            found: if file.is_some() { "a picture" } else { "the picture of --init" }.into(),
        };
        if let Some(file) = file.filter(|file| file.extension().is_some_and(|extension| extension == "safetensors")) {
            return Ok(Hint::Tensor(Given::open(file)?.hint(net.hint_channels())?));
        }
        let takes_mask = match net.kind() {
            ControlKind::Canny | ControlKind::SuperResolution => false,
            ControlKind::Inpainting => true,
            ControlKind::Identity | ControlKind::Other => {
                let channels = net.hint_channels();
                return Err(needs(&format!("a .safetensors file with `hint`, [{channels}, height, width]")));
            }
        };
        let Some(file) = file else {
            return match initial.is_some_and(Initial::is_masked) || !takes_mask {
                true => Ok(Hint::Initial),
                false => Err(needs("--init with --mask or --outpaint, or a picture with --control-mask")),
            };
        };
        let picture = picture::read(file)?;
        let mask = match (takes_mask, mask) {
            (false, _) => return Ok(Hint::Picture(picture, None)),
            (true, None) => return Err(needs("a picture with --control-mask")),
            (true, Some(mask)) => mask,
        };
        let painted = picture::read_mask(mask)?;
        match (picture.width, picture.height) == (painted.width, painted.height) {
            true => Ok(Hint::Picture(picture, Some(painted))),
            false => Err(Error::Picture {
                path: mask.to_owned(),
                expected: format!("a mask of {}×{} pixels, as its picture has", picture.width, picture.height),
                found: format!("{}×{}", painted.width, painted.height),
            }),
        }
    }

    /// Whether it has a mask of its own.
    pub(super) fn is_masked(&self) -> bool {
        matches!(self, Hint::Picture(_, Some(_)))
    }

    /// The tensor that a ControlNet takes, for pictures of this request. A picture of other proportions is cut off at two
    /// sides.
    ///
    /// # Errors
    /// Those of [`Pipeline::encode_picture`].
    pub(super) fn tensor(
        &self,
        net: &ControlNet,
        request: &Request,
        initial: Option<&Initial>,
        pipeline: &mut Pipeline,
        check_nodes: bool,
    ) -> Result<HostTensor> {
        let begun;
        let (picture, mask) = match (self, initial) {
            (Hint::Tensor(hint), _) => return Ok(hint.clone()),
            (Hint::Picture(picture, mask), _) => (picture, mask.as_ref()),
            (Hint::Initial, initial) => {
                begun = initial.expect("a hint of --init has been read with it").fit(request);
                (&begun.0, begun.1.as_ref())
            }
        };
        // As many pixels as an EfficientNet turns into the latents.
        let (rows, columns) = request.sizes().c;
        let (height, width) = (LATENT_PIXELS * rows, LATENT_PIXELS * columns);
        let fit = |picture: &Image, width: usize, height: usize| {
            let area = Area::covering(picture, request.width, request.height);
            let (width, height) = (width as u32, height as u32);
            resample(picture, area, (width, height), (0..width, 0..height), Filter::Bilinear)
        };
        let hint = |c, values| HostTensor { shape: Shape::new(1, height, width, c), values };
        Ok(match (net.kind(), mask) {
            (ControlKind::SuperResolution, _) => {
                // Every pixel of a picture's latents that is half as large, four times.
                let half = (rows.div_ceil(2), columns.div_ceil(2));
                let picture = fit(picture, LATENT_PIXELS * half.1, LATENT_PIXELS * half.0);
                let small = pipeline.encode_picture(&picture, half, check_nodes)?;
                doubled(&small)
            }
            (_, Some(mask)) => {
                let painted: Vec<bool> = fit(mask, width, height).rgb.chunks_exact(3).map(|p| p[0] >= 128).collect();
                hint(4, inpainting_hint(&fit(picture, width, height), &painted))
            }
            (_, None) => hint(1, canny_hint(&fit(picture, width, height))),
        })
    }
}

/// Every pixel of `[1, h, w, c]` as two times two of them.
fn doubled(x: &HostTensor) -> HostTensor {
    let Shape { h, w, c, .. } = x.shape;
    let shape = x.shape.with_hw(2 * h, 2 * w);
    let pixels = (0..shape.h * shape.w).map(|i| i / shape.w / 2 * w + i % shape.w / 2);
    HostTensor { shape, values: pixels.flat_map(|at| &x.values[at * c..(at + 1) * c]).copied().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_as_large() {
        let x = HostTensor { shape: Shape::new(1, 1, 2, 2), values: vec![1.0, 2.0, 3.0, 4.0] };
        let row = [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0];
        assert_eq!(doubled(&x), HostTensor { shape: Shape::new(1, 2, 4, 2), values: row.repeat(2) });
    }
}
