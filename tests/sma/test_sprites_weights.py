from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from safetensors import safe_open

from sma.sprites.evaluate import EvaluationSettings, evaluate
from sma.sprites.model import DEFAULT_WEIGHTS, UNET_CONFIG, SpritesModel, load_sprites
from sma.sprites.train import TrainSettings


@pytest.fixture(scope="module")
def model() -> SpritesModel:
    return load_sprites()


def test_shipped_weights_are_small_and_record_the_recipe_that_rebuilds_them() -> None:
    assert DEFAULT_WEIGHTS.stat().st_size <= 8e6
    with safe_open(str(DEFAULT_WEIGHTS), framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["config"])["unet"] == UNET_CONFIG
    record = json.loads(metadata["training"])
    recipe = json.loads(json.dumps(asdict(TrainSettings())))
    assert {key: record[key] for key in recipe} == recipe
    assert record["done"] == recipe["steps"]


def test_shipped_model_draws_what_is_asked_and_moves_it_as_it_likes(model: SpritesModel) -> None:
    figures = evaluate(model, EvaluationSettings(clips=1, steps=12))
    assert figures["colour_right"] == 1.0
    assert figures["shape_right"] >= 0.9
    assert figures["visible"] >= 0.98
    assert figures["pair_both_shown"] >= 0.7
    assert abs(figures["motion_cosine_random"][0]) < 0.35
    assert figures["speed_and_extent_px"][0] > 0.5


def test_evaluation_repeats_itself_and_depends_on_its_seed(model: SpritesModel) -> None:
    first, again, other = (evaluate(model, EvaluationSettings(clips=1, steps=2, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_untrained_weights_fail_the_same_evaluation() -> None:
    assert evaluate(SpritesModel().eval(), EvaluationSettings(clips=1, steps=2))["shape_right"] < 0.7


def test_empty_evaluation_is_refused() -> None:
    with pytest.raises(ValueError, match="0 clips"):
        EvaluationSettings(clips=0)
