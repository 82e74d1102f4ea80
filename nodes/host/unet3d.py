"""diffusers' UNet3DConditionModel behind the call the host makes, as an ordinary MODEL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from ...sma.networks.unet3d import build_unet3d


class HostUNet3D(nn.Module):
    """The network under the host's calling convention; its children, and so its state-dict keys, are diffusers' own."""

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, device=None, operations: Any = None) -> None:
        super().__init__()
        self.dtype = dtype
        network = build_unet3d(config, operations=operations, device=device, dtype=dtype)
        for name, child in network.named_children():
            self.add_module(name, child)
        # Not registered as a module: the children are ours, diffusers' object only knows the order to call them in.
        object.__setattr__(self, "_network", network.requires_grad_(False).eval())

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, control=None, transformer_options=None, **_: Any
    ) -> Tensor:
        """x [B, C, F, H, W], timesteps [B], context [B, L, D] -> [B, C, F, H, W]."""
        return self._network(x, timesteps, encoder_hidden_states=context).sample


def model_from_unet3d(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    sampling_settings: Mapping[str, Any],
    model_type: comfy.model_base.ModelType,
    latent_format: type[comfy.latent_formats.LatentFormat],
    name: str,
    reload: Callable[..., comfy.model_patcher.ModelPatcher],
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """An ordinary MODEL around a UNet3D.

    Args:
        weights: state dict with diffusers' keys.
        config: diffusers' config.json.
        sampling_settings: the host's names: beta_schedule, linear_start, linear_end, timesteps, zsnr.
        latent_format: with ``latent_dimensions = 3``.
        name: the class name the MODEL carries into LoRA metadata.
        reload: called as ``reload(disable_dynamic=...)`` when the host needs the model again without dynamic placement.
        disable_dynamic: no dynamic placement of weights, whatever the host is set to.

    Raises:
        ValueError: the weights do not fit the network.
    """
    weights = dict(weights)
    dtype = next(iter(weights.values())).dtype
    load_device = comfy.model_management.get_torch_device()
    compute_dtype = comfy.model_management.unet_manual_cast(dtype, load_device)
    settings = type(
        name, (comfy.supported_models_base.BASE,), {"latent_format": latent_format, "unet_extra_config": {}}
    )
    model_config = settings({"config": config})
    model_config.sampling_settings = dict(sampling_settings)
    model_config.set_inference_dtype(dtype, compute_dtype)
    model_class = type(name, (comfy.model_base.BaseModel,), {})
    model = model_class(model_config, model_type=model_type, unet_model=HostUNet3D)
    missing, surplus = model.diffusion_model.load_state_dict(weights, strict=False)
    if missing or surplus:
        raise ValueError(
            f"The {name} weights lack {len(missing)} and have {len(surplus)} surplus tensors, "
            f"for example {[*missing, *surplus][0]!r}. Use the file that belongs to this network."
        )
    offload_device = comfy.model_management.unet_offload_device()
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    patcher.cached_patcher_init = (reload, ())
    return patcher
