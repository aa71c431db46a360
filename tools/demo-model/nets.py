"""The networks of the demo model: the library's own classes at small widths, and the weights that training starts from."""

import torch
from torch import nn
from diffusers.models import StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

SIDE = 128  # native picture side
ENCODER_SIDE = SIDE * 3 // 4  # what the image encoder sees
GRID_C = ENCODER_SIDE // 32  # side of a Stage C latent: picture side / 42.67
GRID_B = SIDE // 4  # side of a Stage B latent
LATENT_C = 16
TOKENS = 24  # longest caption, start and end included
TEXT = 128  # width of the text tower
IMAGE = 32  # width of the image embedding while Stage C learns, always zero; `train_vision.py` makes it TEXT
VISION_SIDE = 64  # side of the pictures that the vision tower sees

RES, TIME, ATTN = "SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"


def text_encoder(tokenizer):
    return CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=TEXT, intermediate_size=4 * TEXT, projection_dim=TEXT,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=TOKENS, hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))


def stage_a():
    net = PaellaVQModel(embed_dim=64, bottleneck_blocks=3, levels=2, latent_channels=4, num_vq_embeddings=512, scale_factor=1.0)
    for m in net.modules():  # the library starts every residual branch closed; open them a little
        if hasattr(m, "gammas"):
            m.gammas.data[2] = m.gammas.data[5] = 0.3
    net.vquantizer.embedding.weight.data.normal_()
    return net


def stage_b(widths=(64, 128, 192), down=(1, 1, 2), up=(2, 2, 2), repeat=(1, 1, 2)):
    net = StableCascadeUNet(
        in_channels=4, out_channels=4, timestep_ratio_embedding_dim=32, patch_size=2, conditioning_dim=128,
        block_out_channels=widths, num_attention_heads=(-1, widths[1] // 32, widths[2] // 32),
        down_num_layers_per_block=down, up_num_layers_per_block=up,
        down_blocks_repeat_mappers=(1, 1, 1), up_blocks_repeat_mappers=repeat,
        block_types_per_layer=((RES, TIME), (RES, TIME, ATTN), (RES, TIME, ATTN)),
        clip_text_in_channels=None, clip_text_pooled_in_channels=TEXT, clip_image_in_channels=None, clip_seq=4,
        effnet_in_channels=LATENT_C, pixel_mapper_in_channels=3, kernel_size=3, dropout=(0.0, 0.0, 0.0), self_attn=True,
        timestep_conditioning_type=("sca",), switch_level=None,
    )
    return start_b(start(net))


def vision_tower():
    return CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=96, intermediate_size=288, projection_dim=TEXT, num_hidden_layers=2, num_attention_heads=3,
        image_size=VISION_SIDE, patch_size=8, hidden_act="quick_gelu",
    ))


def stage_c(width=192, layers=(1, 2), image=IMAGE):
    net = StableCascadeUNet(
        in_channels=LATENT_C, out_channels=LATENT_C, timestep_ratio_embedding_dim=32, patch_size=1, conditioning_dim=width,
        block_out_channels=(width, width), num_attention_heads=(width // 32, width // 32),
        down_num_layers_per_block=layers, up_num_layers_per_block=layers[::-1],
        down_blocks_repeat_mappers=(1, 1), up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=((RES, TIME, ATTN), (RES, TIME, ATTN)),
        clip_text_in_channels=TEXT, clip_text_pooled_in_channels=TEXT, clip_image_in_channels=image, clip_seq=4,
        kernel_size=3, dropout=(0.0, 0.0), self_attn=True, timestep_conditioning_type=("sca", "crp"), switch_level=(False,),
    )
    return start_c(start(net))


def blocks(net, kind):
    return [b for level in [*net.down_blocks, *net.up_blocks] for b in level if type(b).__name__ == kind]


def start(net):
    """Ordinary starting weights; every residual branch and every time conditioning begins at zero."""
    for m in net.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            if not (isinstance(m, nn.Conv2d) and m.groups > 1):
                nn.init.xavier_uniform_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    for b in blocks(net, RES):
        nn.init.zeros_(b.channelwise[-1].weight)
    for b in blocks(net, ATTN):
        nn.init.zeros_(b.attention.to_out[0].weight)
    for b in blocks(net, TIME):
        for m in b.children():
            nn.init.zeros_(m.weight)
    return net


def frame(width, count):
    """`count` orthonormal columns, all orthogonal to the constant vector, so that layer norms keep them."""
    return torch.linalg.qr(torch.cat([torch.ones(width, 1), torch.randn(width, count)], 1)).Q[:, 1:]


# Both starts make the untrained network answer "the noise is the input", which is nearly right at high noise. The
# sampler's first step multiplies an error made there many times, so a network that has to learn it first draws noise.
# The embedding carries the input in one subspace beside a large constant, so that the layer norms on the way divide by
# an almost constant number, and the output reads the input back.


def start_c(net, carry=0.6):
    embed, out = net.embedding[1], net.clf[1]
    width, count = embed.weight.shape[:2]
    q = frame(width, count + 1)
    anchor, room = width**0.5 * q[:, 0], q[:, 1:]
    embed.weight.data[:, :, 0, 0] = carry * room
    embed.bias.data[:] = anchor
    for m in [*net.down_downscalers.modules(), *net.up_upscalers.modules()]:
        if isinstance(m, nn.Conv2d):
            m.weight.data[:, :, 0, 0] = torch.eye(width)
    out.weight.data[:, :, 0, 0] = room.T / carry * (1 + carry**2 * count / width) ** 0.5
    return net


def start_b(net, carry=0.4):
    """Stage B's way from input to output is the skip of its finest level. A pair of hidden units carries a value v
    exactly through the block's GELU, since gelu(v) - gelu(-v) = v."""
    embed, out = net.embedding[1], net.clf[1]
    width, count = embed.weight.shape[:2]
    q = frame(width, count + 1)
    anchor, room = width**0.5 * q[:, 0], q[:, 1:]
    outside = torch.eye(width) - q @ q.T  # every other signal begins outside the carried subspace
    embed.weight.data[:, :, 0, 0] = carry * room
    embed.bias.data[:] = anchor
    for mapper in (net.effnet_mapper, net.pixels_mapper):
        mapper[2].weight.data[:, :, 0, 0] = outside @ mapper[2].weight.data[:, :, 0, 0]
    rise = net.up_upscalers[-2][1]  # into the finest level; its weight is (in, out, 2, 2)
    rise.weight.data = torch.einsum("iohw,op->iphw", rise.weight.data, outside)
    rise.bias.data[:] = anchor
    maps, last = net.up_repeat_mappers[-1], net.up_blocks[-1][0]
    for m in maps:
        m.weight.data[:, :, 0, 0] = torch.eye(width)
    first, second = last.channelwise[0], last.channelwise[-1]
    first.weight.data[: 2 * count] = 0
    first.weight.data[:count, width:] = room.T
    first.weight.data[count : 2 * count, width:] = -room.T
    second.weight.data[:, :count] = room / (len(maps) + 1)
    second.weight.data[:, count : 2 * count] = -room / (len(maps) + 1)
    out.weight.data[:, :, 0, 0] = room.T
    with torch.no_grad():  # one factor makes the output as large as the input
        x = torch.randn(8, 4, GRID_B, GRID_B)
        y = net(x, torch.ones(8), torch.zeros(8, 1, TEXT), effnet=torch.randn(8, LATENT_C, GRID_C, GRID_C)).sample
        out.weight.data *= (x * y).sum() / (y * y).sum()
    return net


class Residual(nn.Module):
    """An inverted residual, as EfficientNet's without squeeze-excite."""

    def __init__(self, width, grow=3):
        super().__init__()
        wide = width * grow
        self.body = nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.SiLU(),
            nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width),
        )

    def forward(self, x):
        return x + self.body(x)


class Encoder(nn.Module):
    """Picture -> Stage C latent, stride 32; standardised by a batch norm without weights. `export_encoder.py` writes it."""

    def __init__(self, widths=(24, 48, 96, 160)):
        super().__init__()
        layers = [nn.PixelUnshuffle(4), nn.Conv2d(48, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.SiLU(), Residual(widths[0])]
        for a, b in zip(widths, widths[1:]):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.SiLU(), Residual(b)]
        self.body = nn.Sequential(*layers, nn.Conv2d(widths[-1], LATENT_C, 1, bias=False), nn.BatchNorm2d(LATENT_C, affine=False))

    def forward(self, x):
        return self.body(x * 2 - 1)


class Preview(nn.Module):
    """Stage C latent -> a 48-pixel picture. It teaches the encoder and shows Stage C alone; used in training only."""

    def __init__(self, widths=(160, 96, 48)):
        super().__init__()
        layers = [nn.Conv2d(LATENT_C, widths[0], 3, padding=1), Residual(widths[0]), Residual(widths[0])]
        for a, b in zip(widths, widths[1:]):
            layers += [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), nn.BatchNorm2d(b), nn.SiLU(), Residual(b)]
        self.body = nn.Sequential(*layers, nn.Conv2d(widths[-1], 3 * 16, 3, padding=1), nn.PixelShuffle(4))

    def forward(self, z):
        return self.body(z)
