"""Templates of the methods that a motion loss rides on, on the embedded model and on ZeroScope."""

from __future__ import annotations

from dataclasses import replace

from template_parts import Method, Start, one_line_a_paragraph
from templates_of_unets import UNETS, family_files

ZEROSCOPE = next(backbone for backbone in UNETS if backbone.name == "zeroscope")
FILES = family_files("cerspense/zeroscope_v2_576w", "zeroscope_v2_576w")
# Both methods' published code draws all noise levels alike and decays weights.
AS_PUBLISHED = {"noise_low": 0.0, "noise_high": 1.0, "noise_bias": 1.0, "weight_decay": 0.01}
DEBIASED = {"method": "debiased (MotionDirector)", "method.beta": 1.0}
COSINE = {"method": "residual cosine (VMC)", "method.denoising_weight": 0.0}
DUAL = {"method": "dual path (MotionDirector)"}
FULL = {"layers": "temporal q, k, v", "adapter": "full weights (VMC)"}


YOUR_FILM = """
- **Your film**: pick or upload it in *Load Motion Clip*; its line says which frames the model will see."""
YOUR_FILM_IN_SPRITES = """
- **Your film**: pick or upload it in *Load Motion Clip* and empty the training prompt. The sprites model knows red, green, blue, yellow,
cyan, magenta, circle, square, triangle, and plain, stripes, clouds for the ground."""
WITHOUT = """
- **Without the LoRA**: set *strength_model* to 0 and press *Run* again; the training is not repeated."""
LOOKS = """
- **The looks** are saved beside the motion in output/loras, as *…_spatial_clip1*: an ordinary LoRA. Of several clips in one batch each
has its own, and all share the temporal one."""
WITHOUT_LEARNING = """
- **Without what was learned**: set *strength_model* to 0; the clip is then inverted once more, and the noise alone carries its motion."""
AS_MANY_STEPS = """
- **Steps** of *Invert Clip* and of *BasicScheduler* are one number that divides 1000: the way down then meets the noise levels of the way up."""


METHODS: tuple[Method, ...] = (
    Method(
        name="sprites-motiondirector",
        backbone=None,
        alignment=DEBIASED,
        training=DUAL | {"steps": 150, "save_every": 150},
        note=one_line_a_paragraph(
            """## MotionDirector's dual path in a minute
**Learn** goes two ways: a spatial LoRA learns from single frames how the clip looks; it stays on while the temporal LoRA learns from all frames,
by the *debiased* loss, what is left: how it moves. **Make** wears the temporal LoRA alone, the only output of *Train Motion LoRA*. Press
*Run*: about a minute on a laptop CPU."""
            + YOUR_FILM_IN_SPRITES
            + WITHOUT
            + LOOKS
            + """
- **Spectral Loss** (SMA) joins the temporal part only. Both weights 0: MotionDirector alone."""
        ),
    ),
    Method(
        name="sprites-vmc",
        backbone=None,
        alignment=COSINE | {"method.compare": "network output", "method.form": "code"},
        spectral={"form": "repaired"},
        training=FULL | {"learning_rate": 0.001},
        start=Start(steps=25, refinements=1),
        note=one_line_a_paragraph(
            """## VMC and SMA in a minute
**Learn** trains the whole weights of temporal queries, keys and values, by VMC's cosine between frame differences, with SMA beside it. **Make**
inverts the clip through the trained model and starts the new video from that noise. Press *Run*: about a minute on a laptop CPU.
- **Prompts**: VMC trains on what moves and nothing else, "a cat is roaring" and not "a cat is roaring on the grass"; looks and place belong
into the new prompt. The sprites model has no words for motion, so its training prompt names the sprite."""
            + YOUR_FILM_IN_SPRITES
            + """
- **With and without SMA**: both weights of *Spectral Loss* 0 is VMC alone. What SMA did beside this cosine is in the
repository's benchmarks/README.md, there with LoRAs and from fresh noise."""
            + WITHOUT_LEARNING
            + AS_MANY_STEPS
            + """
- **Not as published**: VMC compares the predicted noise. This model predicts v, and its noise says nothing where motion is decided; hence
*network output*. *zeroscope-vmc* has the published settings."""
        ),
    ),
    Method(
        name="zeroscope-motiondirector",
        backbone=ZEROSCOPE,
        alignment=DEBIASED,
        training=DUAL | AS_PUBLISHED | {"dropout": 0.1},
        sampling={"cfg": 12.0},
        note=one_line_a_paragraph(
            f"""## MotionDirector on ZeroScope v2 576w
- **Files**: {FILES}
- **As published** for one clip: a spatial LoRA learns from single frames how the clip looks; it stays on while the temporal LoRA learns
from all 24 frames, by the *debiased* loss, what is left: how it moves. Rank 32, dropout 0.1, 300 steps at 5e-4, all noise levels alike;
30 DDIM steps, cfg 12. The temporal LoRA alone is worn.
- **Not as published**: *motion* adapts the temporal convolutions too, 292 layers instead of 170; the new video starts from fresh noise,
theirs from half of the clip's inverted noise (*Invert Clip* and *Motion Noise: blend*, wired as in *zeroscope-vmc*); *Spectral Loss* (SMA)
joins the temporal part. Both weights 0: MotionDirector alone."""
            + YOUR_FILM
            + " Describe in *Training prompt* what moves."
            + LOOKS
            + WITHOUT
            + """
- **Memory**: its authors report about 14 GB of VRAM for 16 frames of 384x384. Run here on tiny random weights only: out of memory, take 16
frames or weights *float8*."""
        ),
    ),
    Method(
        name="zeroscope-vmc",
        backbone=replace(ZEROSCOPE, training_prompt="a circle is moving"),
        alignment=COSINE | {"method.compare": "noise", "method.form": "code"},
        spectral={"form": "official code"},
        training=FULL | AS_PUBLISHED | {"steps": 400, "learning_rate": 1e-4, "save_every": 400},
        start=Start(steps=50, refinements=0),
        note=one_line_a_paragraph(
            f"""## VMC and SMA on ZeroScope v2 576w
- **Files**: {FILES}
- **As published**, there on Show-1: the whole weights of temporal queries, keys and values learn by VMC's cosine between frame differences of
the noise, 400 steps at 1e-4; the clip is inverted through the trained model under an empty prompt, and the new video starts from that
noise, at cfg 9.
- **Prompts**: the training prompt says what moves and nothing else, "a cat is roaring" and not "a cat is roaring on the grass"; looks
and place belong into the new prompt.
- **With and without SMA**: *Spectral Loss* in the official code's form. There is no official config for ZeroScope: this form's own weights,
0.4 and 0.2, are those of the official README, for 64x40 pixels; this latent has 72x40, and the loss of this form grows with size. Both 0: VMC
alone. Unmeasured on this model."""
            + AS_MANY_STEPS
            + " Published are 75."
            + YOUR_FILM
            + WITHOUT_LEARNING
            + """
- **Memory**: 74 million weights learn, about 2 GB beside the model, and the file has 300 MB. Run here on tiny random weights only: out of
memory, take 16 frames; the published clips have 8."""
        ),
    ),
)
