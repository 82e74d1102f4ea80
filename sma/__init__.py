"""The science of Spectral Motion: residuals, spectral losses, adapters, training. It never imports the host."""
