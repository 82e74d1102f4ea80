"""A cell of the motion benchmark: it repeats, pairs with its variants and with nothing else, and measures what it says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.motion import current, make_cells, missing, read_lines, run
from benchmarks.motion_measures import diversity, ground_of, measure, random_videos, reference_scene, sample_videos
from benchmarks.motion_methods import FORMS, METHODS, UNTRAINED, Form, motion_loss
from benchmarks.motion_training import Protocol, Trainer, own_seed
from benchmarks.sprites_cells import Cell, run_cell
from sma.plan import SPATIAL, TEMPORAL, of_clip
from sma.spectral import REPAIRED
from sma.sprites.data import COLOURS, Scene, named_path
from sma.sprites.ground import Ground
from sma.sprites.model import SpritesModel, load_sprites, save

QUICK = Protocol(noises=2, sampler_steps=2, fit_draws=4)
MEASURED = ("cosine", "error", "fit", "diversity", "losses", "gradient_ratio")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random ones: nothing here depends on what the model draws."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save(SpritesModel(), path)
    return path


@pytest.fixture
def trainer(weights):
    def make(method: str = "plain", form: str = "off", motion: str = "circle", seed: int = 0) -> Trainer:
        model = QUICK.load(weights)
        return Trainer(model, reference_scene(motion, seed), method, form, motion, seed, 6e-3, QUICK)

    return make


@pytest.mark.parametrize("form", ["null", "repaired", "balanced"])
def test_a_cell_runs_from_training_to_figures_and_gives_them_again(form, weights):
    cell = Cell.of("plain", form, "back", seed=3, steps=2)
    first, second = (run_cell(cell, QUICK, weights) for _ in range(2))
    assert {key: first[key] for key in MEASURED} == {key: second[key] for key in MEASURED}
    assert [snapshot["steps"] for snapshot in first["snapshots"]] == [2]
    assert first["snapshots"][0]["fit"] == first["fit"] > 0
    assert (first["gradient_ratio"] is None) == (form == "null")
    assert json.loads(json.dumps(first)) == first


@pytest.mark.parametrize("method", [name for name in METHODS if name not in UNTRAINED])
def test_every_method_trains_what_it_is_sampled_with(method, trainer):
    trained = trainer(method, "repaired")
    before = trained.adapter.state_dict()
    trained.train_to(1)
    after = trained.adapter.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    temporal = {name for name, _ in trained.adapter.named_parameters([TEMPORAL]) if name.endswith(".up")}
    # In a random model the last of the temporal convolutions is zero, which keeps gradients from those before it.
    assert {name for name in temporal if "temp_convs" not in name} <= moved
    assert {"denoising", "residual_cosine", "spectral_global", "spectral_local"} <= trained.closing_losses().keys()
    assert trained.gradient_ratio() > 0


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if form.settings])
def test_every_form_adds_its_terms_to_the_methods_own(form):
    loss = motion_loss("plain", form)
    weighted = {term.name: term.weight for term in loss.terms if term.weight > 0}
    settings = FORMS[form].settings
    expected = {"spectral_global": settings.global_weight, "spectral_local": settings.local_weight}
    assert weighted == {"denoising": 1.0, **{name: weight for name, weight in expected.items() if weight}}
    assert loss.spectral_share == FORMS[form].spectral_share


def test_variants_share_every_draw_and_the_null_differs_in_its_initial_values_alone(trainer, monkeypatch):
    feather = replace(REPAIRED, global_weight=1e-9, local_weight=1e-9)
    monkeypatch.setitem(FORMS, "feather", Form("next to nothing", feather))
    runs = [trainer("plain", form) for form in ("off", "feather", "null")]
    for own in runs:
        own.train_to(1)
    # A fresh LoRA changes nothing, so the first step shows noise and levels alone, the second the adapter as well.
    plain, spectral, null = (own.closing_losses() for own in runs)
    assert plain == spectral == null
    for own in runs:
        own.train_to(2)
    plain, spectral, null = (own.closing_losses()["denoising"] for own in runs)
    assert spectral == pytest.approx(plain, rel=1e-3)
    assert null != pytest.approx(plain, rel=1e-3)


def test_the_dual_paths_temporal_group_starts_as_it_would_alone_and_is_sampled_alone(trainer):
    dual, debiased = trainer("dual"), trainer("debiased")
    names = dict(dual.adapter.named_parameters([TEMPORAL]))
    alone = dict(debiased.adapter.named_parameters())
    assert names.keys() == alone.keys() and all(torch.equal(names[name], alone[name]) for name in names)
    looks = set(dual.adapter.groups[of_clip(SPATIAL, 0)])
    with dual.sampling():
        assert {key for key, on in dual.adapter._enabled.items() if not on} == looks
    assert all(dual.adapter._enabled.values())


def test_pairs_of_motion_and_seed_share_no_draw(trainer, weights):
    places = [("circle", 0), ("circle", 1), ("back", 0)]
    purposes = ("initial values", "other initial values", "training", "fit", "sampling", "ground")
    seeds = [own_seed(purpose, *place) for purpose in purposes for place in places]
    assert len(set(seeds)) == len(seeds)
    trained = [trainer(motion=motion, seed=seed) for motion, seed in places]
    first = [next(own.adapter.named_parameters())[1] for own in trained]
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    grounds = {round(reference_scene(*place).ground.shade.item(), 6) for place in places}
    assert len(grounds) == 3
    model = load_sprites(weights)
    one, other = (sample_videos(model, *place, QUICK) for place in places[:2])
    assert not torch.allclose(one, other)


def test_snapshots_are_taken_on_the_way_and_change_nothing(weights):
    cell = Cell.of("dual", "off", "circle", seed=0, steps=2)
    plain, watched = run_cell(cell, QUICK, weights), run_cell(cell, QUICK, weights, snapshots=(1, 3))
    assert {key: watched[key] for key in MEASURED} == {key: plain[key] for key in MEASURED}
    assert [snapshot["steps"] for snapshot in watched["snapshots"]] == [1, 2, 3]
    assert len({snapshot["fit"] for snapshot in watched["snapshots"]}) == 3


def test_a_fit_is_the_same_number_for_all_forms_until_they_train(trainer):
    fits = {trainer(method, form).fit() for method, form in (("plain", "off"), ("plain", "null"), ("dual", "paper"))}
    assert len(fits) == 1
    assert fits != {trainer(seed=1).fit()}


def test_bfloat16_is_close_to_float32(weights):
    cell = Cell.of("plain", "off", "circle", seed=0, steps=2)
    fits = [run_cell(cell, replace(QUICK, autocast=autocast), weights)["fit"] for autocast in (False, True)]
    assert fits[0] != fits[1] == pytest.approx(fits[0], rel=0.02)


@pytest.mark.parametrize("motion", ["circle", "back"])
def test_the_oracle_needs_no_weights_and_scores_like_the_reference(motion, tmp_path):
    result = run_cell(Cell.of("oracle", "off", motion, 0), Protocol(), tmp_path / "absent", sheets=tmp_path / "sheets")
    assert result["cosine"] > 0.98 and result["visible"] == 1.0
    assert result["colour_right"] == result["shape_right"] == 1.0
    assert result["colour_leak"] == result["shape_leak"] == 0.0
    assert result["flicker"] == pytest.approx(0.0, abs=1e-6)
    assert [file.name for file in (tmp_path / "sheets").iterdir()] == [f"oracle_{motion}_seed0.png"]


def test_random_clips_show_the_chance_level_of_the_colours():
    shares = [
        measure(random_videos("circle", seed, Protocol()), reference_scene("circle", seed), Protocol())["colour_right"]
        for seed in range(8)
    ]
    assert sum(shares) / len(shares) == pytest.approx(1 / len(COLOURS), abs=0.12)


def test_a_ground_leaks_by_its_share_and_only_where_there_is_a_texture():
    generator = torch.Generator().manual_seed(1)
    textured = Scene("red", "circle", named_path("circle"), Ground.random(1, generator, "stripes"))
    path = named_path("back")

    def clip(share: float) -> torch.Tensor:
        ground = replace(textured.ground, amplitude=share * textured.ground.amplitude)
        return Scene("green", "square", path, ground).render().movedim(0, -1)

    for share in (0.0, 0.5, 1.0):
        leak, shade, unevenness = ground_of(clip(share), textured)
        assert leak == pytest.approx(share, abs=0.05)
        assert shade == pytest.approx(0.0, abs=0.02)
        assert (unevenness > 0.01) == (share > 0)
    plain = Scene("red", "circle", path, 0.1)
    leak, shade, _ = ground_of(Scene("green", "square", path, 0.4).render().movedim(0, -1), plain)
    assert leak is None and shade == pytest.approx(0.3, abs=1e-3)
    assert ground_of(torch.tensor(COLOURS["red"]).expand(8, 32, 32, 3), plain) is None


def test_diversity_is_the_distance_within_a_prompt():
    dark, bright = torch.zeros(8, 16, 16, 3), torch.full((8, 16, 16, 3), 0.5)
    assert diversity(torch.stack([dark, bright, bright, bright]), prompts=2) == pytest.approx(0.25)
    assert diversity(torch.stack([dark, bright]), prompts=2) is None


def test_a_stopped_run_goes_on_with_what_is_missing(weights, tmp_path):
    results = tmp_path / "lines.jsonl"
    cells = make_cells([[("base", "off"), ("plain", "off"), ("plain", "balanced")]], ["circle"], steps=2)
    done = [{**cell.identity(QUICK, "sha"), "snapshots": [{"steps": 2}]} for cell in cells[:2]]
    # The last line is what a killed run left.
    results.write_text("".join(json.dumps(line) + "\n" for line in done) + json.dumps(done[0])[:40])
    assert missing(cells, read_lines(results), QUICK, "sha") == cells[2:]
    # Snapshots asked for later are made up for, of the runs that have them.
    todo = missing(cells, read_lines(results), QUICK, "sha", (1,))
    assert todo == cells[1:]
    run(todo, QUICK, weights, "sha", results, processes=1, snapshots=(1,))
    lines = read_lines(results)
    assert missing(cells, lines, QUICK, "sha", (1,)) == []
    assert len(lines) == 4 and len(current(lines, QUICK, "sha")) == 3
    (off,) = (line for line in current(lines, QUICK, "sha") if (line["method"], line["form"]) == ("plain", "off"))
    assert [snapshot["steps"] for snapshot in off["snapshots"]] == [1, 2]
    assert off["cosine"] == off["snapshots"][-1]["cosine"]
