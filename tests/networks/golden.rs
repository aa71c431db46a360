//! Every network, at tiny widths, with weights that a rule makes: no files are needed, and the weights go
//! through a safetensors file all the same. Of the PyTorch modules' output a few numbers are written down here.

use crate::common::{Bench, golden_checkpoint, golden_input, to_nchw};
use cascade_rt::net::config::{
    Activation, Block, ClipTextConfig, ClipVisionConfig, EffnetConfig, PreviewerConfig, StageAConfig, UNetConfig,
};
use cascade_rt::net::unet::{Conditions, UNet};
use cascade_rt::net::{Net, clip, effnet, previewer, stage_a, tensors};
use cascade_rt::sampler::timestep_embedding;
use cascade_rt::shape::Shape;
use cascade_rt::weights::{Checkpoint, NetworkKind};
use safetensors::{Dtype, tensor::TensorView};

/// What is known of an output: its first and last values, sum and sum of squares, in NCHW order.
struct Golden<'a> {
    first: [f64; 6],
    last: [f64; 2],
    sum: f64,
    squares: f64,
    name: &'a str,
}

impl Golden<'_> {
    fn check(&self, device: &str, nchw: &[f32]) {
        let sum: f64 = nchw.iter().map(|&v| f64::from(v)).sum();
        let squares: f64 = nchw.iter().map(|&v| f64::from(v).powi(2)).sum();
        let ends = nchw[..6].iter().chain(&nchw[nchw.len() - 2..]);
        for (i, (got, want)) in ends.zip(self.first.iter().chain(&self.last)).enumerate() {
            let error = (f64::from(*got) - want).abs();
            assert!(error <= 1e-5 * (1.0 + want.abs()), "{} on {device}: value {i} is {got}, not {want}", self.name);
        }
        // Errors of single values largely cancel in the sums.
        let scale = squares.sqrt() * (nchw.len() as f64).sqrt();
        assert!((sum - self.sum).abs() <= 1e-5 * scale, "{} on {device}: Σ {sum}, not {}", self.name, self.sum);
        assert!((squares - self.squares).abs() <= 2e-5 * squares, "{} on {device}: Σ² {squares}", self.name);
    }
}

fn prior() -> UNetConfig {
    UNetConfig {
        in_channels: 4,
        out_channels: 4,
        timestep_ratio_embedding_dim: 64,
        patch_size: 1,
        conditioning_dim: 24,
        block_out_channels: vec![32, 32],
        num_attention_heads: vec![4, 4],
        down_num_layers_per_block: vec![1, 2],
        up_num_layers_per_block: vec![2, 1],
        down_blocks_repeat_mappers: vec![1, 1],
        up_blocks_repeat_mappers: vec![1, 1],
        block_types_per_layer: vec![vec![Block::Res, Block::Timestep, Block::Attn]; 2],
        clip_text_in_channels: Some(20),
        clip_text_pooled_in_channels: 12,
        clip_image_in_channels: Some(10),
        clip_seq: 4,
        effnet_in_channels: None,
        pixel_mapper_in_channels: None,
        kernel_size: 3,
        self_attn: vec![true; 2],
        timestep_conditioning_type: vec!["sca".into(), "crp".into()],
        switch_level: Some(vec![false]),
    }
}

fn decoder() -> UNetConfig {
    let (rt, rta) = (vec![Block::Res, Block::Timestep], vec![Block::Res, Block::Timestep, Block::Attn]);
    UNetConfig {
        patch_size: 2,
        block_out_channels: vec![16, 24, 32, 32],
        num_attention_heads: vec![0, 0, 4, 4],
        down_num_layers_per_block: vec![1, 1, 2, 1],
        up_num_layers_per_block: vec![1, 2, 1, 1],
        down_blocks_repeat_mappers: vec![1; 4],
        up_blocks_repeat_mappers: vec![3, 3, 2, 2],
        block_types_per_layer: vec![rt.clone(), rt, rta.clone(), rta],
        clip_text_in_channels: None,
        clip_image_in_channels: None,
        effnet_in_channels: Some(16),
        pixel_mapper_in_channels: Some(3),
        self_attn: vec![true; 4],
        timestep_conditioning_type: vec!["sca".into()],
        switch_level: None,
        ..prior()
    }
}

/// One evaluation with every golden input that the configuration takes, at timesteps 0.75 and 0.25.
fn check_unet(config: &UNetConfig, sample: Shape, golden: Golden<'_>) {
    let dir = tempfile::tempdir().unwrap();
    let weights = golden_checkpoint(config.tensors(), dir.path());
    let mut bench = Bench::new();
    let table = |r: [f32; 2]| [timestep_embedding(r[0], 64), timestep_embedding(r[1], 64)].concat();
    let times = Shape::new(2, 1, 1, 64);
    let conditions = Conditions {
        times: std::iter::once([0.75, 0.25])
            .chain(config.timestep_conditioning_type.iter().map(|_| [0.0, 0.0]))
            .map(|r| bench.input(times, &table(r)))
            .collect(),
        pooled: bench.input(Shape::new(2, 1, 1, 12), &golden_input(1, 24)),
        text: config.clip_text_in_channels.map(|c| bench.input(Shape::new(2, 1, 7, c), &golden_input(2, 14 * c))),
        image: config.clip_image_in_channels.map(|c| bench.input(Shape::new(2, 1, 1, c), &golden_input(3, 2 * c))),
        effnet: config.effnet_in_channels.map(|c| {
            let shape = Shape::new(2, 5, 3, c);
            bench.input_nchw(shape, &golden_input(4, shape.elements()))
        }),
        additions: Vec::new(),
        pixels: config.pixel_mapper_in_channels.map(|c| bench.input(Shape::new(1, 8, 8, c), &vec![0.0; 64 * c])),
    };
    let x = bench.input_nchw(sample, &golden_input(0, sample.elements()));
    let counter = bench.index(Shape::vector(1), &[0]);
    let unet = UNet { config };
    let mut net = Net::new(&mut bench.rec, &weights);
    let conditioned = unet.condition(&mut net, &conditions, sample).unwrap();
    let (y, deep) = unet.step_around(&mut net, x, &conditioned, counter, None).unwrap();
    assert_eq!(y.shape, sample);
    let mut net = Net::new(&mut bench.rec, &weights);
    let (again, same) = unet.step_around(&mut net, x, &conditioned, counter, Some(deep)).unwrap();
    assert_eq!(same.id(), deep.id());
    for (device, outputs) in bench.run(&[y, again]) {
        golden.check(&device, &to_nchw(&outputs[0], y.shape));
        assert!(outputs[0] == outputs[1], "the finest level around what the others make, on {device}");
    }
}

#[test]
fn stage_c() {
    check_unet(
        &prior(),
        Shape::new(2, 6, 5, 4),
        Golden {
            first: [-0.652787, 0.586504, 0.059937, 0.008989, 0.555230, -0.305948],
            last: [-1.088108, 0.423201],
            sum: 23.70943,
            squares: 146.42025,
            name: "Stage C",
        },
    );
}

#[test]
fn stage_c_with_switched_level() {
    check_unet(
        &UNetConfig { switch_level: Some(vec![true]), ..prior() },
        Shape::new(2, 7, 5, 4),
        Golden {
            first: [-0.275312, 0.551847, 0.427186, 0.597717, 1.029329, 0.135954],
            last: [-1.080678, -0.376530],
            sum: 12.92009,
            squares: 237.09988,
            name: "Stage C with switch_level",
        },
    );
}

#[test]
fn stage_b_with_odd_levels() {
    check_unet(
        &decoder(),
        Shape::new(2, 34, 44, 4),
        Golden {
            first: [-1.118972, -0.625650, -1.131853, -0.465070, -1.428954, -0.024503],
            last: [0.295175, 0.272157],
            sum: 1647.88791,
            squares: 9876.87834,
            name: "Stage B",
        },
    );
}

fn tiny_stage_a() -> StageAConfig {
    StageAConfig {
        in_channels: 3,
        out_channels: 3,
        up_down_scale_factor: 2,
        levels: 2,
        bottleneck_blocks: 3,
        embed_dim: 32,
        latent_channels: 4,
        num_vq_embeddings: 16,
        scale_factor: 1.0,
    }
}

fn check_decode(config: &StageAConfig, latents: Shape, quantise: bool, golden: Golden<'_>) {
    let dir = tempfile::tempdir().unwrap();
    let weights = golden_checkpoint(config.tensors(), dir.path());
    let mut bench = Bench::new();
    let z = bench.input_nchw(latents, &golden_input(5, latents.elements()));
    let y = stage_a::decode(&mut Net::new(&mut bench.rec, &weights), config, z, quantise).unwrap();
    assert_eq!(y.shape, Shape::new(1, latents.h * 4, latents.w * 4, 3));
    for (device, outputs) in bench.run(&[y]) {
        golden.check(&device, &to_nchw(&outputs[0], y.shape));
    }
}

#[test]
fn stage_a_decodes() {
    check_decode(
        &tiny_stage_a(),
        Shape::new(1, 7, 5, 4),
        false,
        Golden {
            first: [-0.151520, -0.096454, -0.351813, 0.206469, -0.155919, 0.101921],
            last: [0.184538, -0.076990],
            sum: 116.54965,
            squares: 339.09061,
            name: "Stage A, decoding",
        },
    );
}

#[test]
fn stage_a_decodes_codes() {
    check_decode(
        &tiny_stage_a(),
        Shape::new(1, 7, 5, 4),
        true,
        Golden {
            first: [-0.138512, 0.006466, -0.366861, -0.048973, -0.250263, 0.266856],
            last: [0.423283, 0.107596],
            sum: 123.69126,
            squares: 279.94193,
            name: "Stage A, decoding codes",
        },
    );
}

#[test]
fn stage_a_decodes_at_full_width() {
    check_decode(
        &StageAConfig { bottleneck_blocks: 12, embed_dim: 384, num_vq_embeddings: 8192, ..tiny_stage_a() },
        Shape::new(1, 6, 4, 4),
        false,
        Golden {
            first: [0.028724, 0.366147, 0.333688, 0.100328, -0.237355, 0.375057],
            last: [0.349666, -0.318286],
            sum: -8.00567,
            squares: 331.41776,
            name: "Stage A at full width",
        },
    );
}

#[test]
fn stage_a_encodes() {
    let config = tiny_stage_a();
    let dir = tempfile::tempdir().unwrap();
    let weights = golden_checkpoint(config.tensors(), dir.path());
    let mut bench = Bench::new();
    let picture = Shape::new(1, 24, 20, 3);
    let x = bench.input_nchw(picture, &golden_input(6, picture.elements()));
    let y = stage_a::encode(&mut Net::new(&mut bench.rec, &weights), &config, x).unwrap();
    let golden = Golden {
        first: [0.301632, 0.570344, -0.428551, 0.175549, 0.784836, -0.604696],
        last: [-0.265285, -0.480251],
        sum: 24.23594,
        squares: 34.33463,
        name: "Stage A, encoding",
    };
    assert_eq!(y.shape, Shape::new(1, 6, 5, 4));
    for (device, outputs) in bench.run(&[y]) {
        golden.check(&device, &to_nchw(&outputs[0], y.shape));
    }
}

#[test]
fn clip_text() {
    let config = ClipTextConfig {
        hidden_size: 40,
        intermediate_size: 80,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        hidden_act: Activation::Gelu,
        projection_dim: 24,
        vocab_size: 49408,
        max_position_embeddings: 77,
        layer_norm_eps: 1e-5,
        eos_token_id: 49407,
    };
    let dir = tempfile::tempdir().unwrap();
    let weights = golden_checkpoint(config.tensors(), dir.path());
    let mut ids = vec![49407u32; 2 * 77];
    ids[..8].copy_from_slice(&[49406, 320, 2368, 539, 320, 1000, 2000, 3000]);
    ids[77] = 49406;
    let mut bench = Bench::new();
    let ids = bench.index(Shape::new(2, 1, 77, 1), &ids);
    let key_len = bench.index(Shape::vector(2), &[9, 2]);
    let end = bench.index(Shape::vector(2), &[8, 77 + 1]);
    let text = clip::text(&mut Net::new(&mut bench.rec, &weights), &config, ids, key_len, end).unwrap();
    for (device, outputs) in bench.run(&[text.states, text.pooled]) {
        Golden {
            first: [1.642675, -0.179515, 4.160830, 2.940966, -2.613452, 0.839936],
            last: [0.161461, 1.690099],
            sum: 974.89711,
            squares: 26616.88833,
            name: "CLIP text states",
        }
        .check(&device, &outputs[0]);
        Golden {
            first: [-0.684703, 0.804032, -0.602661, -0.647697, 0.590502, -0.199905],
            last: [-0.230251, 1.248240],
            sum: 7.65637,
            squares: 65.48325,
            name: "CLIP pooled text",
        }
        .check(&device, &outputs[1]);
    }
}

#[test]
fn clip_vision() {
    let config = ClipVisionConfig {
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        hidden_act: Activation::QuickGelu,
        image_size: 28,
        patch_size: 14,
        projection_dim: 12,
        num_channels: 3,
        layer_norm_eps: 1e-5,
    };
    let dir = tempfile::tempdir().unwrap();
    let weights = golden_checkpoint(config.tensors(), dir.path());
    let mut bench = Bench::new();
    let pixels = Shape::new(2, 28, 28, 3);
    let x = bench.input_nchw(pixels, &golden_input(7, pixels.elements()));
    let class_ids = bench.index(Shape::new(2, 1, 1, 1), &[0, 0]);
    let class_rows = bench.index(Shape::vector(2), &[0, 5]);
    let patch_ids = bench.index(Shape::new(1, 1, 4, 1), &[1, 2, 3, 4]);
    let y =
        clip::vision(&mut Net::new(&mut bench.rec, &weights), &config, x, class_ids, class_rows, patch_ids).unwrap();
    let golden = Golden {
        first: [0.858574, -0.971753, 1.713891, 2.530490, -0.165405, -1.278836],
        last: [1.483656, -0.682182],
        sum: 1.40299,
        squares: 32.99364,
        name: "CLIP vision",
    };
    for (device, outputs) in bench.run(&[y]) {
        golden.check(&device, &outputs[0]);
    }
}

/// Values of a table, but for what is measured rather than learned.
fn parameters(table: &tensors::Table) -> usize {
    let learned = table.iter().filter(|(name, _)| !name.contains(".running_"));
    learned.map(|(_, dims)| dims.iter().product::<usize>()).sum()
}

#[test]
fn effnet_encodes() {
    let table = EffnetConfig::default().tensors();
    // Files have 784 tensors: each of the 111 batch norms also counts its steps.
    assert_eq!((table.len(), parameters(&table)), (784 - 111, 20_197_968));
    let dir = tempfile::tempdir().unwrap();
    let weights = golden_checkpoint(table, dir.path());
    assert_eq!(EffnetConfig::open(&weights).unwrap(), EffnetConfig::default(), "inferred from the tensors");
    let mut bench = Bench::new();
    let picture = Shape::new(1, 64, 96, 3);
    let x = bench.input_nchw(picture, &golden_input(8, picture.elements()));
    let y = effnet::encode(&mut Net::new(&mut bench.rec, &weights), &EffnetConfig::open(&weights).unwrap(), x).unwrap();
    assert_eq!(y.shape, Shape::new(1, 2, 3, 16));
    let golden = Golden {
        first: [0.444523, 0.318684, 0.482393, 0.513169, 0.516047, 0.464940],
        last: [0.081344, 0.079456],
        sum: 4.34507,
        squares: 11.66123,
        name: "EfficientNet encoder",
    };
    for (device, outputs) in bench.run(&[y]) {
        golden.check(&device, &to_nchw(&outputs[0], y.shape));
    }
}

/// Sizes that no stride divides are rounded up, stage by stage.
#[test]
fn effnet_takes_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let weights = golden_checkpoint(EffnetConfig::default().tensors(), dir.path());
    let mut bench = Bench::new();
    let x = bench.input(Shape::new(2, 33, 65, 3), &vec![0.0; 2 * 33 * 65 * 3]);
    let y = effnet::encode(&mut Net::new(&mut bench.rec, &weights), &EffnetConfig::open(&weights).unwrap(), x).unwrap();
    assert_eq!(y.shape, Shape::new(2, 2, 3, 16));
}

#[test]
fn previewer() {
    let config = PreviewerConfig::Convolutions;
    let table = config.tensors();
    assert_eq!(parameters(&table), 3_979_651);
    let dir = tempfile::tempdir().unwrap();
    let weights = golden_checkpoint(table, dir.path());
    let mut bench = Bench::new();
    let latents = Shape::new(1, 3, 2, 16);
    let z = bench.input_nchw(latents, &golden_input(9, latents.elements()));
    let y = previewer::preview(&mut Net::new(&mut bench.rec, &weights), config, z).unwrap();
    assert_eq!(y.shape, Shape::new(1, 24, 16, 3));
    let golden = Golden {
        first: [0.256692, 0.019839, 0.133595, 0.010855, 0.138118, 0.006344],
        last: [0.032324, 0.024240],
        sum: -40.47701,
        squares: 7.36613,
        name: "previewer",
    };
    for (device, outputs) in bench.run(&[y]) {
        golden.check(&device, &to_nchw(&outputs[0], y.shape));
    }
}

/// Each pixel of the latents becomes a patch, whose values are ordered by colour, then by row.
#[test]
fn linear_previewer() {
    let config = PreviewerConfig::Linear { latent_channels: 2, patch: 2 };
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<f32> = (0..12).flat_map(|row| [row as f32, 0.5]).collect();
    let bias: Vec<f32> = (0..12).map(|row| 100.0 * row as f32).collect();
    let view = |dims: &[usize], values: &'static [f32]| {
        TensorView::new(Dtype::F32, dims.to_vec(), bytemuck::cast_slice(values)).unwrap()
    };
    let tensors = [("rgb.weight", view(&[12, 2, 1, 1], rows.leak())), ("rgb.bias", view(&[12], bias.leak()))];
    let file = dir.path().join("previewer.safetensors");
    safetensors::serialize_to_file(tensors, None, &file).unwrap();
    let weights = Checkpoint::open_as(file, NetworkKind::Previewer).unwrap();
    assert_eq!(PreviewerConfig::open(&weights).unwrap(), config);
    let mut bench = Bench::new();
    let z = bench.input(Shape::new(1, 1, 2, 2), &[1.0, 2.0, -1.0, 0.0]);
    let y = previewer::preview(&mut Net::new(&mut bench.rec, &weights), config, z).unwrap();
    assert_eq!(y.shape, Shape::new(1, 2, 4, 3));
    // Row 4·colour + 2·y + x of the weight, at the first pixel and at the second.
    let at = |x: usize, y: usize, colour: usize| {
        let (z, row) = (if x < 2 { [1.0, 2.0] } else { [-1.0, 0.0] }, (4 * colour + 2 * y + x % 2) as f32);
        row * z[0] + 0.5 * z[1] + 100.0 * row
    };
    let want: Vec<f32> = (0..24).map(|i| at(i / 3 % 4, i / 12, i % 3)).collect();
    for (device, outputs) in bench.run(&[y]) {
        assert_eq!(outputs[0], want, "{device}");
    }
}
