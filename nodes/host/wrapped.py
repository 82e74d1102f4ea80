"""Networks of ``sma/networks`` behind the call the host makes, as ordinary MODELs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.supported_models_base
import comfy.utils
import torch
from torch import Tensor, nn

from ...sma.clip.size import ClipSize
from .weights import load_exactly

# How weights may be kept; the host chooses what it computes in.
STORAGE: dict[str, torch.dtype | None] = {
    "as stored": None,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
}
_EIGHT_BIT = (torch.float8_e4m3fn, torch.float8_e5m2)


class SD15Video(comfy.latent_formats.SD15):
    """Latents [B, 4, F, H/8, W/8] of Stable Diffusion 1's image VAE, frame by frame."""

    latent_dimensions = 3


class HostNetwork(nn.Module):
    """A network of ``sma/networks`` under the host's calling convention; its children, and so its state-dict keys, are the network's own.

    A subclass names the builder, ``(config, *, operations, device, dtype) -> nn.Module``, as ``build = staticmethod(...)``, and where its
    weights know one length and size of clips only, that as ``trained_on``.
    """

    build: ClassVar[Callable[..., nn.Module]]
    trained_on: ClassVar[ClipSize | None] = None

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, device=None, operations: Any = None) -> None:
        super().__init__()
        self.dtype = dtype
        network = self.build(config, operations=operations, device=device, dtype=dtype)
        if dtype in _EIGHT_BIT:
            # Norms and biases are a thousandth of the memory and lose the most; 8-bit files keep them whole as well.
            for module in network.modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None and parameter.ndim < 2:
                        module._parameters[name] = nn.Parameter(parameter.float(), requires_grad=False)
        for name, child in network.named_children():
            self.add_module(name, child)
        # Not registered as a module: the children are ours, the network only knows the order to call them in.
        object.__setattr__(self, "_network", network.requires_grad_(False).eval())

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, control=None, transformer_options=None, **_: Any
    ) -> Tensor:
        """x [B, C, F, H, W], timesteps [B], context [B, L, D] -> [B, C, F, H, W].

        Raises:
            ValueError: a ControlNet, which these networks have no place for.
        """
        if control is not None:
            raise ValueError(f"{type(self._network).__name__} takes no ControlNet; remove it from the conditioning.")
        return self.predict(x, timesteps, context)

    def predict(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """The network's answer, [B, C, F, H, W]."""
        return self._network(x, timesteps, context)


class _NoiseStart:
    """A new video starts where diffusers starts it: at noise of the variance that the network saw in training.

    Divided by sqrt(1 + s^2), what the network sees of x = s n has a variance below 1, and of x = sqrt(1 + s^2) n it is n itself, which is
    diffusers' x_T. The host does that only at the highest sigma of all, which ddim_uniform and others never reach. An all-zero latent
    holds nothing, here as in the host's guider. Any other keeps the host's rule s n + x0: a video to be changed, or one whose noise
    was added before (then n is 0).
    """

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        empty = not torch.any(latent_image)
        return super().noise_scaling(sigma, noise, latent_image, max_denoise or empty)


class _OwnSchedule:
    """A schedule that stays with its object.

    Where the host places weights dynamically it writes every buffer back by its path before a run, and a node may have put another
    schedule there since: both would then sample with the other's noise levels. What is no buffer is not written; and what was another
    object's is not taken.
    """

    def set_sigmas(self, sigmas: Tensor) -> None:
        vars(self).update(sigmas=sigmas.float(), log_sigmas=sigmas.log().float())

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        if name not in vars(self):
            super().register_buffer(name, tensor, persistent)


class _EpsSampling(_OwnSchedule, _NoiseStart, comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    pass


class _VSampling(
    _OwnSchedule, _NoiseStart, comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION
):
    pass


_SAMPLING = {
    comfy.model_base.ModelType.EPS: _EpsSampling,
    comfy.model_base.ModelType.V_PREDICTION: _VSampling,
}


class _VideoModel(comfy.model_base.BaseModel):
    def __init__(self, model_config: Any, model_type: comfy.model_base.ModelType, unet_model: type[nn.Module]) -> None:
        super().__init__(model_config, model_type=model_type, unet_model=unet_model)
        self.model_sampling = _SAMPLING[model_type](model_config)

    def scale_latent_inpaint(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, **_: Any) -> Tensor:
        # What a mask keeps is content, also where it is zero: the host's rule in every case.
        sigma = sigma.reshape([-1] + [1] * (noise.ndim - 1))
        return comfy.model_sampling.EPS.noise_scaling(self.model_sampling, sigma, noise, latent_image)


def model_from_network(
    network: type[HostNetwork],
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    sampling_settings: Mapping[str, Any],
    model_type: comfy.model_base.ModelType,
    latent_format: type[comfy.latent_formats.LatentFormat],
    name: str,
    reload: Callable[..., comfy.model_patcher.ModelPatcher],
    *,
    disable_dynamic: bool = False,
    dtype: torch.dtype | None = None,
) -> comfy.model_patcher.ModelPatcher:
    """An ordinary MODEL around a network of ``sma/networks``.

    Args:
        network: the network's class.
        weights: state dict with diffusers' keys.
        config: diffusers' config.json.
        sampling_settings: the host's names: beta_schedule, linear_start, linear_end, timesteps, zsnr.
        model_type: EPS or V_PREDICTION.
        latent_format: with ``latent_dimensions = 3``.
        name: the class name the MODEL carries into LoRA metadata.
        reload: called as ``reload(disable_dynamic=...)`` when the host needs the model again without dynamic placement.
        disable_dynamic: no dynamic placement of weights, whatever the host is set to.
        dtype: what the weights are kept in; None for that of most of them. With 8 bits norms and biases stay in float32.

    Raises:
        ValueError: the weights do not fit the network.
    """
    dtype = dtype or comfy.utils.weight_dtype(weights)
    load_device = comfy.model_management.get_torch_device()
    compute_dtype = comfy.model_management.unet_manual_cast(dtype, load_device)
    settings = type(
        name, (comfy.supported_models_base.BASE,), {"latent_format": latent_format, "unet_extra_config": {}}
    )
    model_config = settings({"config": config})
    model_config.sampling_settings = dict(sampling_settings)
    model_config.set_inference_dtype(dtype, compute_dtype)
    model = type(name, (_VideoModel,), {})(model_config, model_type, network)
    load_exactly(model.diffusion_model, weights, name)
    offload_device = comfy.model_management.unet_offload_device()
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    patcher.cached_patcher_init = (reload, ())
    return patcher


def describe(model: comfy.model_patcher.ModelPatcher) -> str:
    """A MODEL of :func:`model_from_network` in a few words, e.g. "UNet3D 320-640-1280-1280, 1412 M parameters, float16"; what it is
    computed in follows where that is something else."""
    network = model.model
    widths = "-".join(map(str, network.model_config.unet_config["config"]["block_out_channels"]))
    size = comfy.utils.calculate_parameters(network.diffusion_model.state_dict()) / 1e6
    kept, computed = (
        str(dtype).removeprefix("torch.") for dtype in (network.get_dtype(), network.get_dtype_inference())
    )
    text = f"{type(network).__name__} {widths}, {size:.{0 if size >= 10 else 1}f} M parameters, {kept}"
    return text if kept == computed else f"{text} (computed in {computed})"
