"""Configs of the official repositories: their published values, in their published structure."""

from __future__ import annotations

import pytest

from sma.configs import official_config
from sma.losses import ResidualCosine, SpectralGlobal, SpectralLocal
from sma.spectral import OFFICIAL

SMA = {
    "pretrained_t2v_path": "showlab/show-1-base",
    "vid_name": "man_skate",
    "train_steps": 500,
    "validation_steps": 100,
    "seed": 12345,
    "lr": "1e-4",  # as PyYAML reads it
    "loss_mode": ["cos-res-freg"],
    "trainable_modules": [".to_q", ".to_k", ".to_v"],
    "num_inv_steps": 75,
    "threshold": 0.2,
    "ld_global": 0.08,
    "ld_local": 0.53,
    "num_levels": 2,
    "ld_levels": [1.0, 1.0, 0.5],
    "train_dataset": {"path": "video_images/${..vid_name}", "prompt": "A man is skateboarding.", "n_sample_frame": 8},
    "validation_sample_logger": {"prompts": ["A bear is skateboarding."]},
}
VMC = {
    "pretrained_t2v_path": "showlab/show-1-base",
    "vid_name": "bear",
    "logdir": "./outputs",
    "train_steps": 400,
    "validation_steps": 100,
    "seed": 12345,
    "lr": "1e-4",
    "num_inv_steps": 75,
    "train_dataset": {"path": "video_images/${..vid_name}", "prompt": "a brown bear is walking", "n_sample_frame": 8},
    "validation_sample_logger": {"prompts": ["a panda bear is walking"]},
}


def test_a_config_of_sma_is_the_cosine_and_its_terms_as_coded():
    config = official_config(SMA)
    assert (config.steps, config.learning_rate, config.seed, config.prompt, config.inversion_steps) == (
        500,
        1e-4,
        12345,
        "A man is skateboarding.",
        75,
    )
    cosine, over_time, over_space = config.motion_loss().terms
    assert (cosine.weight, cosine.term) == (1.0, ResidualCosine(absolute=True, over="frames", space="noise"))
    assert (over_time.weight, type(over_time.term)) == (0.08, SpectralGlobal)
    assert (over_space.weight, type(over_space.term)) == (0.53, SpectralLocal)
    settings = over_time.term.settings
    assert (settings.levels, settings.level_weights) == (2, (1.0, 1.0, 0.5))
    assert (settings.residual, settings.phase, settings.norm) == (OFFICIAL.residual, OFFICIAL.phase, OFFICIAL.norm)
    assert config.describe() == (
        "SMA: cosine + 0.08 global (2 levels weighted 1, 1, 0.5) + 0.53 local; 500 steps at 0.0001; 75 steps of inversion"
    )


def test_a_config_of_vmc_is_the_cosine_alone():
    config = official_config(VMC)
    (cosine,) = config.motion_loss("output").terms
    assert cosine.term == ResidualCosine(absolute=True, over="frames", space="output")
    assert config.describe().startswith("VMC: cosine; 400 steps at 0.0001; 75 steps of inversion")


@pytest.mark.parametrize(("silent", "steps"), [(VMC, 400), (SMA, 500)])
def test_a_silent_file_has_the_defaults_of_the_official_scripts(silent, steps):
    """Signatures of both scripts' train(): 400 and 500 steps, lr 3e-5, seed 12345, 30 inversion steps; .5, .2, 2 levels of weight 1."""
    kept = ("train_dataset", "loss_mode")
    config = official_config({name: value for name, value in silent.items() if name in kept})
    assert (config.steps, config.learning_rate, config.seed, config.inversion_steps) == (steps, 3e-5, 12345, 30)
    assert config.prompt == silent["train_dataset"]["prompt"]
    if silent is VMC:
        assert config.spectral is None
        return
    settings = config.spectral
    assert (settings.global_weight, settings.local_weight, settings.levels) == (0.5, 0.2, 2)
    assert settings.level_weights_for(2) == (1.0, 1.0, 1.0)
    assert (settings.wave, settings.delta, settings.base, settings.zero_border) == ("haar", 0.05, 1.0, False)


@pytest.mark.parametrize(
    "mark",
    [
        {"loss_mode": ["cos-res-freg"]},
        {"trainable_modules": [".to_q", ".to_k", ".to_v"]},
        {"threshold": 0.2},
        {"save_config": True},
        {"sr2_strength": 0.8},
        {"sr2_steps": 50},
        {"num_levels": 2},
        {"train_prompt": "cars are moving."},
    ],
)
def test_a_key_of_smas_script_alone_makes_a_file_smas(mark):
    """VMC's script would refuse it; SMA's gives its two terms their default weights."""
    settings = official_config(VMC | mark).spectral
    assert (settings.global_weight, settings.local_weight) == (0.5, 0.2)


def test_what_only_concerns_paths_and_precision_is_passed_over():
    machine = {"ddim_inv_scheduler_path": "scheduler", "mixed_precision": "no", "gradient_checkpointing": False}
    assert official_config(SMA | machine | {"exp_name": "_1"}) == official_config(SMA)


def test_a_missing_prompt_is_said():
    assert official_config({"train_steps": 400}).describe().endswith("30 steps of inversion; no training prompt")


def test_saved_configs_and_defaults_of_the_official_code():
    config = official_config({"train_steps": 400, "train_prompt": "cars are moving.", "ld_global": 1.0})
    assert (config.learning_rate, config.seed, config.prompt) == (3e-5, 12345, "cars are moving.")
    assert (config.spectral.global_weight, config.spectral.local_weight, config.spectral.levels) == (1.0, 0.2, 2)
    assert config.spectral.level_weights_for(2) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ld_globl": 1.0, "lambda": 2}, "The config has lambda, ld_globl, which neither SMA nor VMC knows; remove"),
        ({"ld_global": "much"}, "ld_global is 'much'; it must be a number from 0 to 100. Correct it in the config"),
        ({"ld_local": -1}, "ld_local is -1; it must be a number from 0 to 100"),
        ({"lr": True}, "lr is True"),
        ({"train_steps": 2.5}, "train_steps is 2.5; it must be a whole number from 1 to 100000"),
        ({"num_levels": 0}, "num_levels is 0; it must be a whole number from 1 to 16"),
        ({"ld_levels": [1.0]}, "level_weights has 1 values; 2 levels need 3"),
        ({"ld_levels": 1.0}, "ld_levels is 1.0; it must be a list of numbers"),
        ({"trainable_modules": [".to_q"]}, "it must be .to_q, .to_k and .to_v, as published"),
        ({"loss_mode": ["mse"]}, "loss_mode is ['mse']; only ['cos-res-freg'] is known"),
        ({"train_dataset": "bear"}, "train_dataset is 'bear'; it must hold the prompt"),
        ({"num_levels": 10**9}, "num_levels is 1000000000; it must be a whole number from 1 to 16"),
        ({"num_levels": 10**5000}, "num_levels is a number of 5001 digits; it must be a whole number from 1 to 16"),
        ({"ld_levels": [1.0] * 10**6}, "it must be a list of numbers, one more than num_levels"),
        ({"ld_levels": [float("inf")] * 3}, "ld_levels is inf; it must be a number from 0 to 100"),
        ({"lr": float("nan")}, "lr is nan; it must be a number from 0 to 1"),
        ({"ld_global": 10**400}, "ld_global is a number of 401 digits; it must be a number from 0 to 100"),
        ({"seed": 2**70}, "it must be a whole number from 0 to 18446744073709551615"),
        ({"train_steps": 10**12}, "it must be a whole number from 1 to 100000"),
        ({"train_prompt": "a" * 10**7}, "it must be text of 10000 characters at most"),
        ({"x" * 10**6: 1}, "which neither SMA nor VMC knows"),
        ({i: 1 for i in range(10**5)}, " and 99995 others, which neither SMA nor VMC knows"),
        ({"train_dataset": [[["a"] * 10**5] * 10**5] * 10**5}, "it must hold the prompt and the frames"),
        ({"train_prompt": 3}, "The training prompt is 3; it must be text"),
    ],
)
def test_what_is_not_understood_is_refused(changes, message):
    with pytest.raises(ValueError) as error:
        official_config(SMA | changes)
    said = str(error.value)
    assert message in said and len(said) < 400 and "\n" not in said


def test_a_seed_keeps_all_its_digits():
    assert official_config(SMA | {"seed": 2**64 - 1}).seed == 2**64 - 1


@pytest.mark.parametrize("content", [None, "text", [1], {}, {"model": "sd"}])
def test_other_files_are_no_configs(content):
    with pytest.raises(
        ValueError, match="The file is no config of SMA or VMC: it has no train_steps and no train_dataset"
    ):
        official_config(content)
