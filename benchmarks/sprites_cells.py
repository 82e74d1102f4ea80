"""One cell of the motion benchmark: train a LoRA on one clip of one motion, sample other sprites with it, score them."""

from __future__ import annotations

import hashlib
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sma
from sma import __version__
from sma.lora import Adapter, attach
from sma.losses import Denoising, MotionLoss, ResidualCosine, SpectralGlobal, SpectralLocal, WeightedTerm
from sma.pictures import contact_sheet
from sma.prediction import Prediction, add_noise
from sma.roles import layers_of
from sma.spectral import REPAIRED, SpectralSettings
from sma.sprites.data import FRAMES, SIZE, Scene, named_path
from sma.sprites.model import PATCH, SpritesModel, generate, load_sprites, sigmas, to_latent
from sma.sprites.score import classify, motion_score
from sma.training import Denoise, Phase, TrainingSettings, train

REFERENCE = ("red", "circle")
TRAINED = ("plain", "vmc")
_NULL_OFFSET = 1000
_CLOSING_STEPS = 50
_GRADIENT_DRAWS = 8


@dataclass(frozen=True)
class Protocol:
    """What is the same in every cell. Noise levels as in sma.training, whose defaults hold for the rest: no warm-up,
    gradient norm clipped to 1."""

    steps: int = 250
    batch_size: int = 2
    learning_rate: float = 6e-3
    level_bias: float = 0.4
    level_range: tuple[float, float] = (0.01, 0.99)
    rank: int = 8
    prompts: tuple[str, ...] = ("green square", "blue triangle")
    noises: int = 4
    noise_seed: int = 42
    sampler_steps: int = 20
    guidance: float = 3.0


@dataclass(frozen=True)
class Cell:
    """One line of results.

    method: "base" (no LoRA), "oracle" (the prompted sprite drawn on the reference's path), or what is trained:
    "plain" (denoising) or "vmc" (residual cosine). spectral: None is off. seed: of the LoRA's initial values and of all
    draws in training. null: only the initial values are of another seed, so the difference to the same cell without it is chance.
    """

    method: str
    motion: str
    spectral: SpectralSettings | None = None
    seed: int | None = None
    null: bool = False

    @property
    def init_seed(self) -> int | None:
        return self.seed + _NULL_OFFSET if self.null else self.seed

    @property
    def name(self) -> str:
        """Fit for a file name and a progress line."""
        form = ""
        if self.spectral:
            form = f"spectral-{self.spectral.global_weight:g}-{self.spectral.local_weight:g}"
        parts = [self.method, form, "null" if self.null else "", self.motion]
        parts.append("" if self.seed is None else f"seed{self.seed}")
        return "_".join(part for part in parts if part)

    def identity(self) -> dict[str, Any]:
        """What tells this cell from others, fit for JSON."""
        return {
            "method": self.method,
            "spectral": asdict(self.spectral) if self.spectral else None,
            "motion": self.motion,
            "seed": self.seed,
            "init_seed": self.init_seed,
        }


def motion_loss(method: str, spectral: SpectralSettings | None) -> MotionLoss:
    """All four terms in every cell; those a method does not minimise have weight 0 and are only reported."""
    settings = spectral or REPAIRED
    return MotionLoss(
        (
            WeightedTerm("denoising", float(method == "plain"), Denoising()),
            # On a v-prediction network the noise form is blind at high noise, where motion is decided.
            WeightedTerm("residual_cosine", float(method == "vmc"), ResidualCosine(space="output")),
            WeightedTerm("spectral_global", spectral.global_weight if spectral else 0.0, SpectralGlobal(settings)),
            WeightedTerm("spectral_local", spectral.local_weight if spectral else 0.0, SpectralLocal(settings)),
        )
    )


def sigma_at(level: float) -> float:
    """Noise level 0..1 to the sprites schedule's sigma; levels are shares of its timesteps."""
    table = sigmas()
    return float(table[round(level * (len(table) - 1))])


@dataclass(frozen=True)
class Training:
    """What training leaves behind besides the adapter: closing losses, and how strong the spectral terms pull."""

    losses: dict[str, float] = field(default_factory=dict)
    gradient_ratio: tuple[float, float] | None = None


def train_cell(model: SpritesModel, cell: Cell, protocol: Protocol) -> Training:
    """Train a LoRA on the cell's motion. It stays attached to the model."""
    clip = to_latent(reference_scene(cell.motion).render()[None])
    with torch.no_grad():
        context = model.prompt.encode([" ".join(REFERENCE)])

    def denoise(x_t: Tensor, sigma: Tensor) -> Tensor:
        return model.denoise(x_t, sigma, context.expand(len(x_t), -1, -1))

    adapter = attach(
        model.unet,
        layers_of(model.unet, "motion"),
        rank=protocol.rank,
        alpha=protocol.rank,
        generator=torch.Generator().manual_seed(cell.init_seed),
    )
    loss = motion_loss(cell.method, cell.spectral)
    settings = TrainingSettings(
        kind="v",
        sigma_at=sigma_at,
        steps=protocol.steps,
        batch_size=protocol.batch_size,
        learning_rate=protocol.learning_rate,
        level_bias=protocol.level_bias,
        level_range=protocol.level_range,
        seed=cell.seed,
    )
    before = gradient_ratio(denoise, clip, loss, adapter, settings) if cell.spectral else None
    history = train(denoise, [clip], [Phase(loss=loss)], adapter, settings).state.history[-_CLOSING_STEPS:]
    losses = {
        term.name: _mean([value for record in history for _, value in record.terms[term.name]]) for term in loss.terms
    }
    if before is None:
        return Training(losses)
    return Training(losses, (before, gradient_ratio(denoise, clip, loss, adapter, settings)))


def gradient_ratio(
    denoise: Denoise, clip: Tensor, loss: MotionLoss, adapter: Adapter, settings: TrainingSettings
) -> float:
    """Norm of the weighted spectral terms' gradient over that of the other terms, both in the LoRA's values.

    Of the mean over 8 noised copies at the quantiles of the training's noise levels; the draws are always the same.
    """
    generator = torch.Generator().manual_seed(0)
    low, high = settings.level_range
    quantiles = (torch.arange(_GRADIENT_DRAWS) + 0.5) / _GRADIENT_DRAWS
    levels = low + (high - low) * quantiles**settings.level_bias
    sigma = torch.tensor([settings.sigma_at(float(level)) for level in levels])
    x0 = clip.expand(_GRADIENT_DRAWS, -1, -1, -1, -1)
    noise = torch.randn(x0.shape, generator=generator)
    x_t = add_noise(x0, noise, sigma, settings.kind)
    prediction = Prediction.from_denoised(x0, noise, x_t, sigma, denoise(x_t, sigma), settings.kind)
    values = loss(prediction, generator)
    weighted = {term.name: term.weight * values[term.name].mean() for term in loss.terms if term.weight > 0}

    def norm(spectral: bool) -> float:
        chosen = [value for name, value in weighted.items() if name.startswith("spectral") == spectral]
        gradients = torch.autograd.grad(torch.stack(chosen).sum(), adapter.parameters(), retain_graph=True)
        return torch.cat([gradient.flatten() for gradient in gradients]).norm().item()

    return norm(True) / norm(False)


def reference_scene(motion: str) -> Scene:
    """The clip that is learned from: a red circle on a named motion."""
    return Scene(*REFERENCE, named_path(motion))


def sample_videos(model: SpritesModel, protocol: Protocol) -> Tensor:
    """Every prompt with every noise, prompts outermost: [N,F,H,W,3] in 0..1. The noises depend on the protocol alone."""
    generator = torch.Generator().manual_seed(protocol.noise_seed)
    shape = (protocol.noises, 3 * PATCH**2, FRAMES, SIZE // PATCH, SIZE // PATCH)
    noise = torch.randn(shape, generator=generator).repeat(len(protocol.prompts), 1, 1, 1, 1)
    prompts = [prompt for prompt in protocol.prompts for _ in range(protocol.noises)]
    videos = generate(model, prompts, noise, steps=protocol.sampler_steps, guidance=protocol.guidance)
    return videos.movedim(1, -1)


def drawn_videos(motion: str, protocol: Protocol) -> Tensor:
    """The oracle: each prompt's sprite rendered on the reference's path, [N,F,H,W,3]; one per prompt."""
    scenes = [Scene(*prompt.split(), named_path(motion)) for prompt in protocol.prompts]
    return torch.stack([scene.render() for scene in scenes]).movedim(1, -1)


def score_videos(videos: Tensor, motion: str, protocol: Protocol) -> dict[str, Any]:
    """Means over clips, shares in 0..1. `error` is in % of the frame width; `shape_leak` the share of clips that show
    the reference's shape, `flicker` the sd over time of the corner pixels (0..1), which no sprite should reach. Clips are
    in the order of the prompts."""
    reference = reference_scene(motion).render().movedim(0, -1)
    scores = [motion_score(video, reference) for video in videos]
    wanted = [tuple(prompt.split()) for prompt in protocol.prompts for _ in range(len(videos) // len(protocol.prompts))]
    shown = [classify(video) for video in videos]
    cosines = torch.tensor([score.cosine for score in scores])
    return {
        "cosine": cosines.mean().item(),
        "sd": cosines.std().item(),
        "error": _mean([score.error for score in scores]),
        "visible": _mean([score.visible for score in scores]),
        "colour_right": _mean([got[0] == want[0] for got, want in zip(shown, wanted, strict=True)]),
        "shape_right": _mean([got[1] == want[1] for got, want in zip(shown, wanted, strict=True)]),
        "shape_leak": _mean([got[1] == REFERENCE[1] for got in shown]),
        "flicker": videos[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].std(1).mean().item(),
        "clips": len(videos),
    }


def run_cell(cell: Cell, protocol: Protocol, weights: Path, sheets: Path | None = None) -> dict[str, Any]:
    """Everything measured in one cell, on one thread, fit for JSON. `sheets`: folder for a contact sheet of its clips."""
    torch.set_num_threads(1)
    started, cpu_started = time.perf_counter(), time.process_time()
    training = Training()
    if cell.method == "oracle":
        videos = drawn_videos(cell.motion, protocol)
    else:
        model = load_sprites(weights).requires_grad_(False)
        if cell.method in TRAINED:
            training = train_cell(model, cell, protocol)
        videos = sample_videos(model, protocol)
    result = {
        **score_videos(videos, cell.motion, protocol),
        "losses": training.losses,
        "gradient_ratio": training.gradient_ratio,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "pack": __version__,
        "sources": sources(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    if sheets:
        sheets.mkdir(parents=True, exist_ok=True)
        rows = [("reference", reference_scene(cell.motion).render().movedim(0, -1))]
        rows += [(f"clip {number}", video) for number, video in enumerate(videos, 1)]
        contact_sheet(rows, title=cell.name).save(sheets / f"{cell.name}.png")
    return _rounded(result)


def sources() -> str:
    """Fingerprint of the package's code: figures hold for one state of it, a change in draws or rounding moves single cells."""
    digest = hashlib.sha256()
    for file in sorted(Path(sma.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def _mean(values: list[float] | list[bool]) -> float:
    return sum(values) / len(values)


def _rounded(value: Any) -> Any:
    """Floats to 5 significant digits, so that the committed file stays readable."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value
