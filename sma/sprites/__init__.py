"""The embedded tiny text-to-video model: coloured shapes that move, 8 frames of 16x16 pixels."""
