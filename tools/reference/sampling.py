"""Runs Stable Cascade in two ways: with the diffusers pipelines, and with a loop that calls the same networks and
scheduler. The loop also supports what the pipelines do not: sizes for which they compute wrong Stage B latents, guidance
in Stage B without guidance in Stage C, and noise of another dtype than the network."""

from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import torch
from PIL import Image
from diffusers import (DDPMWuerstchenScheduler, StableCascadeCombinedPipeline, StableCascadeDecoderPipeline,
                       StableCascadePriorPipeline)

PICTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "pipeline"


@dataclass
class Request:
    prompts: list[str]
    width: int
    height: int
    seed: int = 0
    steps: tuple[int, int] = (4, 3)
    guidance: tuple[float, float] = (4.0, 0.0)
    negative: str = ""
    count: int = 1
    noise: str = "torch"  # or "torch-bf16": drawn in bf16, as by a bf16 pipeline
    generators: str = "fresh"  # or "shared": one generator for both stages, as in the combined pipeline
    images: list[str] = field(default_factory=list)  # image prompts: files beside the fixture
    variant: str = "f32"  # which weight files of the U-Nets are used, converted to f32

    def pictures(self) -> list[Image.Image]:
        return [Image.open(PICTURES / name).convert("RGB") for name in self.images]

    @property
    def pipeline_size(self) -> tuple[int, int] | None:
        """Width and height of the picture that the pipelines make for this request; None if they crash."""
        latent = [ceil(side / 42.67) for side in (self.width, self.height)]
        stage_b = [int(side * 10.67) for side in latent]
        return None if min(latent) < 2 or any(s % 2 for s in stage_b) else tuple(4 * s for s in stage_b)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def prior_pipeline(models: dict) -> StableCascadePriorPipeline:
    pipeline = StableCascadePriorPipeline(models["tokenizer"], models["text_encoder"], models["prior"],
                                          DDPMWuerstchenScheduler(), feature_extractor=models["feature_extractor"],
                                          image_encoder=models["image_encoder"])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def decoder_pipeline(models: dict) -> StableCascadeDecoderPipeline:
    pipeline = StableCascadeDecoderPipeline(models["decoder"], models["tokenizer"], models["text_encoder"],
                                            DDPMWuerstchenScheduler(), models["vqgan"])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tokens(models: dict, prompts: list[str]):
    return models["tokenizer"](prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")


@torch.no_grad()
def encode(models: dict, prompts: list[str]) -> dict[str, torch.Tensor]:
    """Encodes prompts, one row each: ids, hidden states before the final norm, and the projected pooled vector."""
    text = tokens(models, prompts)
    out = models["text_encoder"](text.input_ids, attention_mask=text.attention_mask, output_hidden_states=True)
    return {"tokens": text.input_ids.float(), "text_states": out.hidden_states[-1], "text_pooled": out.text_embeds}


@torch.no_grad()
def image_prompts(models: dict, request: Request) -> torch.Tensor:
    """The embeddings of a request's image prompts, one row for each picture; zeros if there are none."""
    if not request.images:
        return torch.zeros(1, 1, models["prior"].config.clip_image_in_channels)
    pixels = [models["feature_extractor"](picture, return_tensors="pt").pixel_values for picture in request.pictures()]
    return torch.stack([models["image_encoder"](one).image_embeds for one in pixels], dim=1)


@torch.no_grad()
def by_pipelines(models: dict, request: Request) -> dict[str, torch.Tensor]:
    """Calls the two pipelines as users do, by default with one generator per stage, seeded with the request's seed."""
    assert request.noise == "torch" and request.pipeline_size == (request.width, request.height)
    negative = [request.negative] * len(request.prompts)
    first = seeded(request.seed)
    second = first if request.generators == "shared" else seeded(request.seed)
    stage_c = prior_pipeline(models)(
        prompt=request.prompts, images=request.pictures() or None, negative_prompt=negative, height=request.height, width=request.width,
        num_inference_steps=request.steps[0], guidance_scale=request.guidance[0],
        num_images_per_prompt=request.count, generator=first).image_embeddings
    decoder = decoder_pipeline(models)
    before_scale = []

    def keep(pipeline, step, t, values):
        before_scale[:] = [values["latents"]]
        return values

    image = decoder(image_embeddings=stage_c, prompt=request.prompts, negative_prompt=negative,
                    num_inference_steps=request.steps[1], guidance_scale=request.guidance[1],
                    generator=second, output_type="pt", callback_on_step_end=keep).images
    return {"stage_c": stage_c, "stage_b": before_scale[0], "image": image}


@torch.no_grad()
def by_combined_pipeline(models: dict, request: Request) -> torch.Tensor:
    pipeline = StableCascadeCombinedPipeline(
        tokenizer=models["tokenizer"], text_encoder=models["text_encoder"], decoder=models["decoder"],
        scheduler=DDPMWuerstchenScheduler(), vqgan=models["vqgan"], prior_prior=models["prior"],
        prior_text_encoder=models["text_encoder"], prior_tokenizer=models["tokenizer"],
        prior_scheduler=DDPMWuerstchenScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(prompt=request.prompts, negative_prompt=[request.negative] * len(request.prompts),
                    height=request.height, width=request.width, prior_num_inference_steps=request.steps[0],
                    prior_guidance_scale=request.guidance[0], num_inference_steps=request.steps[1],
                    decoder_guidance_scale=request.guidance[1], num_images_per_prompt=request.count,
                    generator=seeded(request.seed), output_type="pt").images


@torch.no_grad()
def by_loop(models: dict, request: Request) -> dict[str, torch.Tensor]:
    """The same computation for any size. The sides of Stage B's latents are 2*ceil(pixels/8), and the image is cropped."""
    positive = encode(models, request.prompts)
    negative = encode(models, [request.negative] * len(request.prompts))
    rows = {k: v.repeat_interleave(request.count, dim=0) for k, v in positive.items()}
    negative_rows = {k: v.repeat_interleave(request.count, dim=0) for k, v in negative.items()}
    images = len(request.prompts) * request.count
    first = seeded(request.seed)
    second = first if request.generators == "shared" else seeded(request.seed)

    def both(name, guided):
        return torch.cat([rows[name], negative_rows[name]]) if guided else rows[name]

    guided = request.guidance[0] > 1
    prompt = image_prompts(models, request).expand(images, -1, -1)
    shown = torch.cat([prompt, torch.zeros_like(prompt)]) if guided else prompt
    stage_c = sample(
        models["prior"], (images, 16, ceil(request.height / 42.67), ceil(request.width / 42.67)),
        request.steps[0], request.guidance[0], first, request.noise,
        clip_text_pooled=both("text_pooled", guided).unsqueeze(1), clip_text=both("text_states", guided),
        clip_img=shown)

    guided = request.guidance[1] > 1
    effnet = torch.cat([stage_c, torch.zeros_like(stage_c)]) if guided else stage_c
    stage_b = sample(
        models["decoder"], (images, 4, 2 * ceil(request.height / 8), 2 * ceil(request.width / 8)),
        request.steps[1], request.guidance[1], second, request.noise,
        clip_text_pooled=both("text_pooled", guided).unsqueeze(1), effnet=effnet)

    image = models["vqgan"].decode(models["vqgan"].config.scale_factor * stage_b).sample.clamp(0, 1)
    return {"stage_c": stage_c, "stage_b": stage_b, "image": image[:, :, : request.height, : request.width]}


def sample(network, shape, steps, guidance, generator, noise, **conditions) -> torch.Tensor:
    draw_dtype = torch.bfloat16 if noise == "torch-bf16" else torch.float32
    draw = lambda: torch.randn(shape, generator=generator, dtype=draw_dtype).to(network.dtype)
    scheduler = SchedulerWithGivenNoise(draw)
    scheduler.set_timesteps(steps)
    latents = draw()
    for t in scheduler.timesteps[:-1]:
        t = t.expand(shape[0])
        copies = 2 if guidance > 1 else 1
        prediction = network(sample=torch.cat([latents] * copies), timestep_ratio=torch.cat([t] * copies),
                             return_dict=False, **conditions)[0]
        if guidance > 1:
            text, unconditional = prediction.chunk(2)
            prediction = torch.lerp(unconditional, text, guidance)
        latents = scheduler.step(prediction, t, latents).prev_sample
    return latents


class SchedulerWithGivenNoise(DDPMWuerstchenScheduler):
    """The diffusers scheduler, which takes its noise from `draw`. It calls this once per step, including the last."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def step(self, *args, **kwargs):
        import diffusers.schedulers.scheduling_ddpm_wuerstchen as module
        original, module.randn_tensor = module.randn_tensor, lambda *a, **k: self.draw()
        try:
            return super().step(*args, **kwargs)
        finally:
            module.randn_tensor = original
