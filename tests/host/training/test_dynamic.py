"""Training a MODEL whose weights the host places dynamically, its default on CUDA, by a stand-in for the host's patcher on a CPU."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch


@pytest.fixture
def dynamic(host):
    """Makes a MODEL's twin with dynamic placement, as far as a CPU has it; ``copies`` refers to the networks of its second copies."""
    from comfy.model_patcher import ModelPatcher, ModelPatcherDynamic
    from comfy.utils import set_attr_buffer

    class Dynamic(ModelPatcher):
        non_dynamic_delegate_model = None

        def is_dynamic(self):
            return True

        def get_non_dynamic_delegate(self):
            copy = ModelPatcherDynamic.get_non_dynamic_delegate(self)
            make.copies.append(weakref.ref(copy.model))
            return copy

        def pre_run(self):
            # What the host's patcher does when it loads, before every run: buffers are written back by their path.
            for key in list(self.backup_buffers):
                set_attr_buffer(self.model, key, self.backup_buffers.pop(key))
            self.backup_buffers.update(self.model.named_buffers())
            super().pre_run()

    def make(model):
        twin = Dynamic(model.model, model.load_device, model.offload_device)
        twin.cached_patcher_init = model.cached_patcher_init
        return twin

    make.copies = []
    return make


def alive(dynamic):
    gc.collect()
    return [copy for copy in dynamic.copies if copy() is not None]


def sample(host, case, model, scheduler="ddim_uniform"):
    text, latent = case.learning["positive"], {"samples": torch.zeros_like(case.learning["latent"]["samples"])}
    options = {"seed": 1, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": scheduler, "denoise": 1.0}
    (samples,) = host.call("KSampler", model=model, positive=text, negative=text, latent_image=latent, **options)
    return samples["samples"]


def test_it_trains_as_ever_and_the_second_copy_goes(case, dynamic):
    expected, losses = case.train(steps=2)
    model = dynamic(case.model)
    lora, found = case.train(model=model, steps=2)
    assert found == losses and all(torch.equal(lora[key], expected[key]) for key in expected)
    assert len(dynamic.copies) == 1
    assert model.non_dynamic_delegate_model is None and not alive(dynamic)


def test_the_second_copy_goes_after_a_cancel_and_after_an_error(host, case, dynamic, stop_at, monkeypatch):
    model = dynamic(case.model)
    stop_at(1, lambda: case.train(model=model))
    assert model.non_dynamic_delegate_model is None and len(dynamic.copies) == 1 and not alive(dynamic)

    def fail(*_, **__):
        raise ValueError("no memory")

    monkeypatch.setattr(host.module("nodes.train"), "train", fail)
    with pytest.raises(RuntimeError, match="unexpected error .ValueError: no memory"):
        case.train(model=model)
    assert model.non_dynamic_delegate_model is None and len(dynamic.copies) == 2 and not alive(dynamic)


def test_a_second_copy_that_was_there_before_stays(case, dynamic):
    """Sampling with hooks on the conditioning makes one, and uses it again."""
    model = dynamic(case.model)
    model.get_non_dynamic_delegate()
    before = model.non_dynamic_delegate_model
    case.train(model=model, steps=1)
    assert model.non_dynamic_delegate_model is before is not None


def test_a_lora_that_the_model_wears_takes_part(host, case, dynamic):
    """Also where the MODEL was sampled before, so that its own network has the LoRA on."""
    lora, _ = case.train(steps=3, learning_rate=0.05)
    options = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "first_frame": 0, "last_frame": -1}

    def wear(model):
        source = {"source": "trained", "lora": lora}
        return host.call("SMA_LoadMotionLoRA", model=model, source=source, apply="bypass", **options)[0]

    worn, expected = wear(dynamic(case.model)), case.forward(wear(case.model))
    assert (expected - case.forward(case.model)).abs().max() > 1e-3
    for sampled in (False, True):
        if sampled:
            sample(host, case, worn, "simple")
        assert torch.equal(case.forward(worn), expected)


def test_a_loader_that_cannot_load_again_is_refused_without_a_flag_alone(case, dynamic):
    model = dynamic(case.model)
    model.cached_patcher_init = None
    with pytest.raises(ValueError, match="placed dynamically .* Load it with a core loader"):
        case.train(model=model)


def test_runs_with_different_schedules_do_not_mix_them(host, sprites_case, dynamic):
    """Sampling, training and sampling again, with our network's own schedule and one that a node put in its place."""
    own = dynamic(sprites_case.model)
    (noded,) = host.call("ModelSamplingDiscrete", model=own, sampling="v_prediction", zsnr=False)
    tables = [model.get_model_object("model_sampling").sigmas.clone() for model in (own, noded)]
    assert not torch.equal(*tables)
    (fresh,) = host.call("ModelSamplingDiscrete", model=sprites_case.model, sampling="v_prediction", zsnr=False)
    expected = [sample(host, sprites_case, model) for model in (sprites_case.model, fresh)]
    _, losses = sprites_case.train(steps=2)
    for run in range(2):
        for model, table, samples in zip((own, noded), tables, expected, strict=True):
            assert torch.equal(sample(host, sprites_case, model), samples), run
            assert torch.equal(model.get_model_object("model_sampling").sigmas, table)
        assert sprites_case.train(model=own, steps=2)[1] == losses
