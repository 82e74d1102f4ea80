"""Video networks the host does not carry, built on diffusers' classes. Diffusers is imported when one is built."""
