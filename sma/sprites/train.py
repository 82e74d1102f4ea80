"""Train the sprites model: `python -m sma.sprites.train --start first.safetensors`. The README here says what it costs and gives."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..networks.unet3d_transformers import write_out_attention
from .data import Batch, random_batch
from .model import DEFAULT_WEIGHTS, SpritesModel, read_weights, save, sigmas, to_latent
from .prompt import SLOTS, none_token, null_token

logger = logging.getLogger(__name__)
# One sprite on a plain ground, without frame positions: the model of pack 0.1.0, which knows colours and shapes already.
FIRST_EDITION = "92a70b662e2e78789e94f3451a150e302211c3f5800e5e0585f4012c3978f139"


@dataclass(frozen=True)
class TrainSettings:
    """The recipe. With the same settings, machine and torch build every run draws the same clips, noise and weights.

    drop_prompt: share of clips that lose the whole prompt (for guidance); drop_word and drop_ground: share that loses the
    word of a sprite's slot or of the ground, so that "red" or "triangle" alone is a prompt as well. start: SHA-256 of the
    weights file it starts from, empty for random weights.
    """

    steps: int = 3500
    batch: int = 12
    learning_rate: float = 1e-3
    warmup: int = 60
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.998
    drop_prompt: float = 0.10
    drop_word: float = 0.03
    drop_ground: float = 0.3
    seed: int = 0
    start: str = FIRST_EDITION

    def __post_init__(self) -> None:
        if self.steps < 2 or self.batch < 1:
            raise ValueError(f"{self.steps} steps of {self.batch} clips train nothing; use at least 2 steps of 1 clip.")

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, flat, linear to zero over the second half."""
        return self.learning_rate * min(1.0, (step + 1) / self.warmup, 2 * (self.steps - step) / self.steps)


def prompt_tokens(clips: Batch) -> Tensor:
    """The whole prompt of every clip, [B,5]."""
    columns = {"colour": clips.sprite.colour, "shape": clips.sprite.shape, "ground": clips.ground.kind}
    for slot, words in (("other_colour", clips.other.colour), ("other_shape", clips.other.shape)):
        columns[slot] = torch.where(clips.other.shown, words, none_token(slot))
    return torch.stack([columns[slot] for slot in SLOTS], 1)


def drop_words(tokens: Tensor, settings: TrainSettings, generator: torch.Generator) -> Tensor:
    """Tokens [B,5] with some of them null."""
    chance = torch.rand(tokens.shape, generator=generator)
    limits = [settings.drop_ground if slot == "ground" else settings.drop_word for slot in SLOTS]
    whole = torch.rand(len(tokens), 1, generator=generator) < settings.drop_prompt
    nulls = torch.tensor([null_token(slot) for slot in SLOTS])
    return torch.where(whole | (chance < torch.tensor(limits)), nulls, tokens)


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """What one step sees: network input and v target [B,12,F,8,8], timestep [B], tokens [B,5]."""

    x: Tensor
    target: Tensor
    timestep: Tensor
    tokens: Tensor


def training_batch(settings: TrainSettings, step: int, alpha_bar: Tensor) -> TrainingBatch:
    """It depends on the seed and the step's number only, so a resumed run sees what an unbroken one does."""
    generator = torch.Generator().manual_seed(settings.seed * 10_000_019 + step)
    count = settings.batch
    clips = random_batch(count, generator)
    x0 = to_latent(clips.video)
    noise = torch.randn(x0.shape, generator=generator)
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    timestep = (strata * len(alpha_bar)).long().clamp(max=len(alpha_bar) - 1)
    signal = alpha_bar[timestep].sqrt().view(-1, 1, 1, 1, 1)
    spread = (1 - alpha_bar[timestep]).sqrt().view(-1, 1, 1, 1, 1)
    tokens = drop_words(prompt_tokens(clips), settings, generator)
    return TrainingBatch(signal * x0 + spread * noise, signal * noise - spread * x0, timestep, tokens)


def start_from(model: SpritesModel, path: Path) -> None:
    """Take over what a weights file knows: the network, and those words whose slots it has. Words that are new say nothing yet.

    Raises:
        ValueError: a weights file of another network.
    """
    config, parts = read_weights(path)
    if config != model.config:
        raise ValueError(f"{path.name} is of another network; start from a file with the config {model.config}.")
    model.unet.load_state_dict(parts["unet"])
    with torch.no_grad():
        for slot in SLOTS:
            table = model.prompt.get_submodule(slot).weight.zero_()
            known = parts["prompt"].get(f"{slot}.weight", table)
            table[: len(known)] = known


def train(
    settings: TrainSettings, out: Path, *, start: Path | None = None, checkpoint_every: float = 180.0
) -> SpritesModel:
    """Run the recipe and write the averaged weights to `out`; returns that model.

    start: the weights file that the settings name by its SHA-256.

    Every `checkpoint_every` seconds the state goes to `<out>.checkpoint` and the average so far to `<out>.partial`;
    a run that finds a checkpoint of the same settings goes on from there.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = SpritesModel()
    if settings.start != (_sha256(start) if start else ""):
        raise ValueError(
            f"The recipe starts from weights of the SHA-256 {settings.start or '(none)'}; give that file with --start."
        )
    if start:
        start_from(model, start)
    average = copy.deepcopy(model).requires_grad_(False)
    # Sequences have 8 to 64 tokens: on a CPU written-out attention makes a bfloat16 step 1.6 times as fast.
    write_out_attention(model.unet)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=settings.betas)
    checkpoint = out.with_name(out.name + ".checkpoint")
    first, used, history = 0, 0.0, []
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != json.dumps(asdict(settings)):
            raise ValueError(f"{checkpoint} belongs to a run with other settings; delete it or choose another --out.")
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first, used, history = state["step"], state["cpu_seconds"], state["history"]
        logger.info("going on at step %d", first)
    alpha_bar = 1 / (1 + sigmas().square())
    losses: list[float] = []
    cpu_start, saved = time.process_time() - used, time.monotonic()

    def record(step: int) -> dict[str, object]:
        return {
            **asdict(settings),
            "done": step,
            "cpu_seconds": round(time.process_time() - cpu_start, 1),
            "torch": torch.__version__,
            "history": history,
        }

    for step in range(first, settings.steps):
        batch = training_batch(settings, step, alpha_bar)
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model.velocity(batch.x, batch.timestep, model.prompt(batch.tokens))
        loss = (output.float() - batch.target).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        losses.append(loss.item())
        decay = min(settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        done = step + 1
        if done % 50 == 0 or done == settings.steps:
            history.append([done, round(sum(losses) / len(losses), 5)])
            losses.clear()
            logger.info("step %d loss %.4f cpu %.0f s", done, history[-1][1], time.process_time() - cpu_start)
        if time.monotonic() - saved > checkpoint_every:
            saved = time.monotonic()
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            state = {
                "settings": json.dumps(asdict(settings)),
                "step": done,
                "cpu_seconds": time.process_time() - cpu_start,
                "history": history,
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            fresh = checkpoint.with_name(checkpoint.name + ".new")
            torch.save(state, fresh)
            fresh.replace(checkpoint)
            save(average, out.with_name(out.name + ".partial"), record(done))
    save(average, out, record(settings.steps))
    checkpoint.unlink(missing_ok=True)
    out.with_name(out.name + ".partial").unlink(missing_ok=True)
    return average.eval()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to start from; none: from random ones")
    parser.add_argument("--steps", type=int, default=TrainSettings.steps)
    parser.add_argument("--seed", type=int, default=TrainSettings.seed)
    parser.add_argument("--out", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--checkpoint-every", type=float, default=180.0, metavar="SECONDS")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(
        TrainSettings(
            steps=arguments.steps, seed=arguments.seed, start=_sha256(arguments.start) if arguments.start else ""
        ),
        arguments.out,
        start=arguments.start,
        checkpoint_every=arguments.checkpoint_every,
    )


if __name__ == "__main__":
    main()
