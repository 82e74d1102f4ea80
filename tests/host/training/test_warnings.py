"""Warnings of Train Motion LoRA: each where it is due, and none for a good clip, prompt and learning rate."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def warned(host, monkeypatch) -> list[str]:
    """Warnings that nodes leave on themselves."""
    lines: list[str] = []
    report = host.module("nodes.host.report").Report
    warn = report.warn
    monkeypatch.setattr(report, "warn", lambda self, text: lines.append(text) or warn(self, text))
    return lines


def test_a_good_training_warns_of_nothing(case, warned):
    case.train(steps=2)
    assert warned == []


@pytest.mark.parametrize(("frames", "side"), [(4, 8), (8, 16)], ids=["4 frames", "32x32 pixels"])
def test_another_length_or_size_than_sprites_learned_is_said(sprites_case, warned, frames, side):
    latent = torch.rand(1, 12, frames, side, side, generator=torch.Generator().manual_seed(0))
    sprites_case.train(steps=2, latent={"samples": latent})
    (warning,) = warned
    assert f"never saw {frames} frames of {2 * side}x{2 * side} pixels" in warning
    assert "was trained on 8 frames of 16x16 pixels" in warning


def test_a_clip_that_does_not_move_is_said(host, case, warned):
    picture = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    (latent,) = host.call("VAEEncode", pixels=picture.repeat(case.frames, 1, 1, 1), vae=case.vae)
    samples = latent["samples"]
    # Wan's VAE makes another kind of latent of the first frame, and with random weights also of the next ones.
    still = torch.cat([samples[:, :, :1], samples[:, :, -1:].expand_as(samples[:, :, 1:])], 2)
    case.train(steps=2, latent={"samples": still})
    assert (
        [text for text in warned if text.startswith("The clip does not move: all its frames are the same")]
        == warned
        != []
    )


def test_words_that_the_prompt_model_ignores_are_said_by_the_prompt_and_by_the_trainer(
    host, sprites_case, warned, caplog
):
    (positive,) = host.call("CLIPTextEncode", clip=sprites_case.clip, text="red wombat")
    (warning,) = warned
    assert "reads nothing in 'wombat'" in warning and warning in caplog.text
    warned.clear()
    (other,) = host.call("CLIPTextEncode", clip=sprites_case.clip, text="red circle on plain")
    assert warned == []
    (both,) = host.call("ConditioningConcat", conditioning_to=positive, conditioning_from=other)
    sprites_case.train(steps=2, positive=both)
    assert warned == [warning]


def test_a_learning_rate_that_diverges_is_said(host, sprites_case, warned, said):
    model, clip, _ = host.call("SMA_LoadSpritesModel")
    (positive,) = host.call("CLIPTextEncode", clip=clip, text="red square on plain")
    sprites_case.train(model=model, positive=positive, steps=6, learning_rate=6e-3)
    assert warned == []
    sprites_case.train(model=model, positive=positive, steps=6, learning_rate=0.5)
    (warning,) = warned
    assert warning.startswith("The training diverged") and "Lower learning_rate" in warning
    assert any(line.startswith("Loss on the clip at the same noise: ") for line in said)


@pytest.mark.parametrize("share", [0.5, 1.5, 3.0])
def test_memory_that_is_tight_or_missing_is_said(host, sprites_case, warned, monkeypatch, share):
    import comfy.model_management

    memory = host.module("nodes.host.memory")
    found = []
    monkeypatch.setattr(
        host.module("nodes.train"), "estimate", lambda *a, **k: found.append(memory.estimate(*a, **k)) or found[0]
    )
    sprites_case.train(steps=2)
    warned.clear()
    needed = found[0].adapter + found[0].activations
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: int(needed * share))
    found.clear()
    sprites_case.train(steps=2)
    kind = {0.5: "Memory does not fit: ", 1.5: "Memory is tight: ", 3.0: None}[share]
    assert [text.startswith(kind) for text in warned] == [True] if kind else warned == []
