"""The science of spectral motion transfer: no host, no nodes; usable from a notebook."""

__version__ = "0.1.0"
