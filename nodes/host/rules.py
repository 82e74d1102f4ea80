"""Which clips a MODEL takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...sma.roles import Family, family_of


def family_of_model(model: Any) -> Family:
    """The family of a MODEL, with the compression of its VAE and the patch of its network: members of a family may differ there.

    An unknown kind of model has no roles, and takes whatever its VAE does.
    """
    network, latents = model.get_model_object("diffusion_model"), model.get_model_object("latent_format")
    try:
        family = family_of(network)
    except ValueError:
        family = Family(name=type(network).__name__, signature="", roles={}, motion=(), looks=())
    patch = getattr(network, "patch_size", family.patch)
    return replace(
        family,
        temporal=latents.temporal_downscale_ratio,
        spatial=latents.spacial_downscale_ratio,
        patch=patch if isinstance(patch, int) else patch[-1],
    )
