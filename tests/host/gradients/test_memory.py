"""The memory that a training takes: weights that are not copied, and an estimate that holds."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages made inside: those alive now, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {storage._cdata for storage in _storages((args, kwargs))}
        answer = function(*args, **(kwargs or {}))
        for storage in _storages(answer):
            if storage._cdata not in given | self._known:
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return answer

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storages(value) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            yield leaf.untyped_storage()
        elif isinstance(leaf, torch.UntypedStorage):  # a tensor is made over it
            yield leaf


FAMILIES = ("wan", "wan_i2v", "wan_5b", "ltx", "hunyuan", "sprites")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_more_than_the_weights_is_resident_before_the_first_step(load, family):
    case = load(family)
    memory = case.host.module("nodes.host.memory")
    case.inside(lambda denoiser: None)  # the host may place weights when a model runs first
    weights = memory.storage_bytes(case.model.model)
    with LiveBytes() as live:
        inside, added, clip = case.inside(
            lambda denoiser: (memory.storage_bytes(denoiser.network), live.now, denoiser.clip.nbytes)
        )
    assert 0 < inside <= weights
    # The host's copies of the latent, beside which these small networks are not large.
    assert added - 6 * clip <= 0.02 * weights


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_of_activations_is_right_within_a_factor(load, monkeypatch, family, size, checkpoint):
    case = load(family)
    case = case if checkpoint else case.without_checkpoints()
    if size == "small":
        families = type(case).inside.__globals__["FAMILIES"]
        layers, (batch, channels, *_) = families[family]
        sides = {"ltx": (5, 16, 16), "sprites": (8, 16, 16)}.get(family, (5, 24, 24))
        monkeypatch.setitem(families, family, (layers, (batch, channels, *sides)))

    def job(denoiser):
        adapter = case.adapter(denoiser)
        estimate = case.host.module("nodes.host.memory").estimate(denoiser, adapter, batch=1, checkpoint=checkpoint)
        with LiveBytes() as memory:
            case.loss(denoiser).backward()
        gradients = sum(value.grad.nbytes for value in adapter.parameters())
        adapter.detach()
        return estimate.activations, memory.peak - gradients

    estimated, measured = case.inside(job)
    assert 0.6 * estimated < measured < 1.25 * estimated


def test_the_estimate_tells_its_parts_and_warns_where_they_do_not_fit(load, monkeypatch):
    import comfy.model_management

    case = load("wan")
    module = case.host.module("nodes.host.memory")

    def estimated(free, batch=1):
        monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: free)

        def job(denoiser):
            adapter = case.adapter(denoiser)
            answer = module.estimate(denoiser, adapter, batch=batch, checkpoint=True)
            hooks = [module for module in denoiser.network.modules() if module._forward_pre_hooks]
            adapter.detach()
            assert not hooks and not any(module._forward_hooks for module in denoiser.network.modules())
            return answer, sum(value.nbytes for value in adapter.parameters())

        return case.inside(job)

    enough, values = estimated(10**9)
    assert enough.weights == module.storage_bytes(case.model.model.diffusion_model)
    assert enough.adapter == 7 * values
    assert enough.total == enough.weights + enough.adapter + enough.activations
    assert str(enough).startswith(f"about {enough.total / 1e6:.0f} MB of memory, {enough.weights / 1e6:.0f} MB of it")
    assert enough.warning() == ""
    needed = enough.adapter + enough.activations
    assert estimated(2 * needed)[0].warning() == ""
    tight = estimated(1.5 * needed)[0].warning()
    assert tight.startswith(f"Memory is tight: training needs about {needed / 1e3:.0f} KB beside the model, and ")
    missing = estimated(5000)[0].warning()
    assert missing.startswith("Memory does not fit: ") and "5 KB are free. Use fewer frames" in missing
    assert estimated(10**9, batch=3)[0].activations == 3 * enough.activations


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_no_more_memory_than_its_limit(load, monkeypatch, tmp_path, version):
    module = load("wan").host.module("nodes.host.memory")
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    device = torch.device("cpu")
    assert module.free_memory(device) > 10**6
    folder = tmp_path / "memory" if version == 1 else tmp_path
    folder.mkdir(exist_ok=True)
    limit, used = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    (folder / f"memory.{limit}").write_text("10000\n")
    (folder / f"memory.{used}").write_text("9000\n")
    (folder / "memory.stat").write_text("anon 8000\ninactive_file 500\n")
    assert module.free_memory(device) == 1500
    (folder / "memory.stat").unlink()
    assert module.free_memory(device) == 1000
    if version == 2:
        (folder / "memory.max").write_text("max\n")
        assert module.free_memory(device) > 10**6


def test_shared_and_quantised_weights_are_counted_once_and_whole(load):
    module = load("wan").host.module("nodes.host.memory")
    whole = torch.nn.Linear(4, 4, bias=False)
    tied = torch.nn.Linear(4, 4, bias=False)
    tied.weight = whole.weight
    assert module.storage_bytes(torch.nn.Sequential(whole, tied)) == 64
    sizes = [module.storage_bytes(load("wan", storage).model.model) for storage in ("float32", "float8_e4m3fn")]
    assert 0.25 < sizes[1] / sizes[0] < 0.9
