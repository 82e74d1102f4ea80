"""Spectral Motion: video motion transfer for ComfyUI."""

try:
    import comfy.utils  # noqa: F401  present only inside ComfyUI; without it, tools such as pytest can still collect this folder
except ImportError:
    pass
else:
    from .nodes import comfy_entrypoint  # noqa: F401

    WEB_DIRECTORY = "./web"
