"""The transformers of a UNet3D: over the pixels of a frame, and over the frames of a pixel."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-6  # of the group norm before a transformer, whatever the config says of the other norms


class Attention(nn.Module):
    """Attention of tokens [B, N, width] over a context [B, L, context], or over themselves."""

    # Computed by PyTorch's own kernel, or as three plain operations: see write_out_attention.
    written_out = False

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        # Each token's width is cut into heads, and every head attends alone.
        q, k, v = (
            tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for tokens in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        if self.written_out:
            weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
            mixed = weights.to(v.dtype) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))


def write_out_attention(network: nn.Module) -> None:
    """Makes every attention of a UNet3D three plain operations: on a CPU, in bfloat16 and with few tokens, the faster way."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.written_out = True


class GatedProjection(nn.Module):
    """A linear layer whose second half, through GELU, gates the first (GEGLU)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = self.proj(x).chunk(2, dim=-1)
        return hidden * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedProjection(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, attention over a context (or itself again) and a feed-forward, each added to the tokens [B, N, width]."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, context, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        tokens = tokens + self.attn1(self.norm1(tokens))
        tokens = tokens + self.attn2(self.norm2(tokens), context)
        return tokens + self.ff(self.norm3(tokens))


class _Transformer(nn.Module):
    """Group norm, a block on tokens of width heads * head, and projections into and out of it."""

    def __init__(self, channels: int, heads: int, head: int, groups: int, context: int | None) -> None:
        super().__init__()
        width = heads * head
        self.norm = nn.GroupNorm(groups, channels, eps=_EPS)
        self.proj_in = nn.Linear(channels, width)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context or width, heads)])
        self.proj_out = nn.Linear(width, channels)


class SpatialTransformer(_Transformer):
    """Each frame's pixels attend to each other and to a context [B*F, L, D]."""

    def __init__(self, channels: int, head: int, groups: int, context: int) -> None:
        super().__init__(channels, channels // head, head, groups, context)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # [B*F, H*W, width]
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return self.proj_out(tokens).transpose(1, 2).reshape(x.shape) + x


class TemporalTransformer(_Transformer):
    """The frames of each pixel attend to each other, twice."""

    def __init__(self, channels: int, heads: int, head: int, groups: int) -> None:
        super().__init__(channels, heads, head, groups, None)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        video = x.unflatten(0, (-1, frames))  # [B, F, C, H, W]
        batch, _, channels, height, width = video.shape
        normed = self.norm(video.transpose(1, 2))
        tokens = self.proj_in(normed.permute(0, 3, 4, 2, 1).reshape(-1, frames, channels))  # [B*H*W, F, width]
        for block in self.transformer_blocks:
            tokens = block(tokens)
        out = self.proj_out(tokens).reshape(batch, height, width, frames, channels)
        return out.permute(0, 3, 4, 1, 2).reshape(x.shape) + x
