"""The sprites model: a UNet3D on space-to-depth pixels with frame positions, v-prediction on a zero-terminal-SNR schedule."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..clip.size import ClipSize
from ..networks.unet3d import build_unet3d
from ..networks.unet3d_transformers import TemporalTransformer, TransformerBlock
from .data import FRAMES, SIZE
from .prompt import PromptEmbedding

PATCH = 2
TRAINED_ON = ClipSize(FRAMES, SIZE, SIZE)
UNET_CONFIG: dict[str, Any] = {
    "sample_size": SIZE // PATCH,
    "in_channels": 3 * PATCH**2,
    "out_channels": 3 * PATCH**2,
    "down_block_types": ["CrossAttnDownBlock3D", "DownBlock3D"],
    "up_block_types": ["UpBlock3D", "CrossAttnUpBlock3D"],
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 16,
    "norm_num_groups": 8,
}
# ComfyUI's names: its "linear" is linear in sqrt(beta), what diffusers calls "scaled_linear".
SAMPLING_SETTINGS: dict[str, Any] = {
    "beta_schedule": "linear",
    "linear_start": 0.00085,
    "linear_end": 0.02,
    "timesteps": 1000,
    "zsnr": True,
}
# ComfyUI's stand-in for the zero terminal signal (an infinite sigma cannot be stepped from).
_TERMINAL_ALPHA_BAR = 4.8973451890853435e-08
DEFAULT_WEIGHTS = Path(__file__).with_name("sprites.safetensors")


def latent_shape(count: int) -> tuple[int, int, int, int, int]:
    """The latent shape of so many clips of the size and length the model was trained on."""
    return count, 3 * PATCH**2, FRAMES, SIZE // PATCH, SIZE // PATCH


def to_latent(video: Tensor) -> Tensor:
    """Pixels [B,3,F,H,W] in 0..1 to latents [B,12,F,H/2,W/2] in -1..1: each 2x2 patch becomes channels."""
    if video.shape[-2] % PATCH or video.shape[-1] % PATCH:
        raise ValueError(f"A frame of {video.shape[-1]}x{video.shape[-2]} pixels does not divide by {PATCH}; crop it.")
    return F.pixel_unshuffle((video * 2 - 1).movedim(2, 1), PATCH).movedim(1, 2)


def to_video(latent: Tensor) -> Tensor:
    """The inverse of `to_latent`, clamped to 0..1."""
    return ((F.pixel_shuffle(latent.movedim(2, 1), PATCH).movedim(1, 2) + 1) / 2).clamp(0, 1)


def sigmas() -> Tensor:
    """sqrt((1 - alpha_bar) / alpha_bar) of the 1000 timesteps, ascending, float32.

    Linear in sqrt(beta), rescaled to zero terminal SNR (Lin et al. 2023, arXiv 2305.08891, algorithm 1).
    """
    low, high = SAMPLING_SETTINGS["linear_start"], SAMPLING_SETTINGS["linear_end"]
    betas = torch.linspace(low**0.5, high**0.5, SAMPLING_SETTINGS["timesteps"], dtype=torch.float64).square()
    root = torch.cumprod(1 - betas, 0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root.square()
    alpha_bar[-1] = _TERMINAL_ALPHA_BAR
    return ((1 - alpha_bar) / alpha_bar).sqrt().float()


def sampling_sigmas(steps: int) -> Tensor:
    """`steps` noise levels from the terminal one downwards, evenly spaced in timesteps, and a last 0: [steps + 1]."""
    table = sigmas()
    index = torch.linspace(len(table) - 1, 0, steps + 1).round().long()[:-1]
    return torch.cat([table[index], torch.zeros(1)])


def build_network(config: Mapping[str, Any], **placing: Any) -> nn.Module:
    """The UNet3D with frame positions; placing: as of `build_unet3d`.

    Without positions only the temporal convolutions tell one order of frames from another, and an adapter on temporal
    attention alone has little to work with. As in AnimateDiff's motion modules, sinusoids are added where temporal
    attention begins.
    """
    network = build_unet3d(config, **placing)
    for module in network.modules():
        if isinstance(module, TemporalTransformer):
            module.transformer_blocks[0].__class__ = PositionedBlock
    return network


class PositionedBlock(TransformerBlock):
    """A transformer block that knows which frame is which."""

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        frames, width = tokens.shape[-2:]
        return super().forward(tokens + positions(frames, width, tokens.device).to(tokens.dtype), context)


def positions(frames: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Sinusoids of frame numbers, sine and cosine in turn, [frames,width] (Vaswani et al. 2017, section 3.5)."""
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angle = torch.arange(frames, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class SpritesModel(nn.Module):
    """UNet and prompt embedding; state-dict keys `unet.*` and `prompt.*`."""

    def __init__(self, config: Mapping[str, Any] = UNET_CONFIG) -> None:
        super().__init__()
        self.config = dict(config)
        self.unet = build_network(config)
        self.prompt = PromptEmbedding(config["cross_attention_dim"])
        self.register_buffer("log_sigmas", sigmas().log(), persistent=False)

    def velocity(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """The network's own output: v = sqrt(ab) noise - sqrt(1-ab) x0 for x = sqrt(ab) x0 + sqrt(1-ab) noise."""
        return self.unet(x, timestep, context)

    def denoise(self, x_t: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """Clean estimate x0_hat [B,12,F,8,8] from x_t = x0 + sigma noise.

        sigma: [B] > 0; the network's timestep is the nearest one in log sigma, as ComfyUI chooses it.
        context: [B,5,32] from `prompt.encode`.
        """
        timestep = (sigma.log()[:, None] - self.log_sigmas).abs().argmin(1)
        s = sigma.view(-1, *[1] * (x_t.ndim - 1))
        scale = (1 + s.square()).sqrt()
        return x_t / scale.square() - self.velocity(x_t / scale, timestep, context) * s / scale


@torch.no_grad()
def sample(
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor],
    noise: Tensor,
    sigma_steps: Tensor,
    context: Tensor,
    *,
    null: Tensor | None = None,
    guidance: float = 1.0,
) -> Tensor:
    """Deterministic DDIM (Euler in sigma) from unit noise [B,C,F,H,W] to a clean latent of the same shape.

    denoise(x_t, sigma [B], context) -> x0_hat; sigma_steps: descending, ending in 0, e.g. `sampling_sigmas(20)`.
    guidance: classifier-free guidance scale, used when `null` (context of the empty prompt, like `context`) is given.
    """
    x = noise * (1 + sigma_steps[0] ** 2).sqrt()
    for sigma, following in zip(sigma_steps[:-1], sigma_steps[1:], strict=True):
        levels = sigma.expand(x.shape[0])
        if null is None or guidance == 1.0:
            x0_hat = denoise(x, levels, context)
        else:
            both = denoise(torch.cat([x, x]), torch.cat([levels, levels]), torch.cat([context, null]))
            conditional, unconditional = both.chunk(2)
            x0_hat = unconditional + guidance * (conditional - unconditional)
        x = x0_hat + (x - x0_hat) * (following / sigma)
    return x


def generate(
    model: SpritesModel, prompts: list[str], noise: Tensor, *, steps: int = 20, guidance: float = 3.0
) -> Tensor:
    """Videos [B,3,F,H,W] in 0..1 for one prompt per item of the unit noise [B,12,F,H/2,W/2]."""
    with torch.no_grad():
        context, null = model.prompt.encode(prompts), model.prompt.encode([""] * len(prompts))
    return to_video(sample(model.denoise, noise, sampling_sigmas(steps), context, null=null, guidance=guidance))


def save(model: SpritesModel, path: Path, training: Mapping[str, Any] | None = None) -> None:
    """Write float32 weights with the config and the training record as JSON in the file's metadata."""
    from safetensors.torch import save_file

    metadata = {
        "config": json.dumps({"unet": model.config, "sampling": SAMPLING_SETTINGS, "patch": PATCH}),
        "training": json.dumps(dict(training or {})),
    }
    tensors = {name: tensor.detach().float().contiguous() for name, tensor in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(path), metadata)


def read_weights(path: Path | str = DEFAULT_WEIGHTS) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The UNet's config, and the state dicts "unet" and "prompt", of a file written by `save`."""
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"The sprites weights {path.name} are missing. Install the pack anew, or rebuild them by python -m sma.sprites.train."
        )
    parts: dict[str, dict[str, Tensor]] = {"unet": {}, "prompt": {}}
    with safe_open(str(path), framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        for name in file.keys():
            part, _, key = name.partition(".")
            parts[part][key] = file.get_tensor(name)
    return config["unet"], parts


def load_sprites(path: Path | str = DEFAULT_WEIGHTS) -> SpritesModel:
    """Read weights written by `save`, in evaluation mode, on the CPU, in float32."""
    config, parts = read_weights(path)
    model = SpritesModel(config)
    model.unet.load_state_dict(parts["unet"])
    model.prompt.load_state_dict(parts["prompt"])
    return model.eval()
