"""The embedded tiny text-to-video model: coloured shapes that move, 8 frames of 32x32 pixels."""
