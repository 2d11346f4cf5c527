"""SimCLR on a plain ViT in PyTorch, without edge-train.

Names and structure are timm's: fused qkv, `scaled_dot_product_attention`, every token through
every block, a norm at the end and the class token of it. S sequences, N patches, T tokens with
the class token, K kept patches, D width, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class PatchEmbed(nn.Module):
    """Pictures to tokens."""

    def __init__(self, patch_px: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_px, stride=patch_px)

    def forward(self, images: Tensor) -> Tensor:
        """(S, 3, height, width) -> (S, N, D)."""
        grid: Tensor = self.proj(images)
        return grid.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(S, T, D) -> (S, T, D)."""
        count, tokens, width = x.shape
        qkv = self.qkv(x).reshape(count, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (S, H, T, D / H)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(count, tokens, width))
        return projected


class Block(nn.Module):
    """Pre-norm transformer block with an MLP four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(width, 4 * width))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(S, T, D) -> (S, T, D)."""
        x = x + self.attn(self.norm1(x))
        residual: Tensor = self.mlp(self.norm2(x))
        return x + residual


class VisionTransformer(nn.Module):
    """The encoder."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        patch_px: int,
        tokens: int,
        width: int,
        depth: int,
        heads: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.patch_embed = PatchEmbed(patch_px, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor, keep: Tensor | None) -> Tensor:
        """Features of pictures.

        Args:
            images: (S, height, width, 3) uint8.
            keep: (S, K), the patches to keep, after adding positions; None for all.

        Returns:
            (S, D).
        """
        pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 255
        x = self.patch_embed((pixels - self.mean) / self.std) + self.pos_embed[:, 1:]
        if keep is not None:
            x = x.gather(1, keep[:, :, None].expand(-1, -1, x.shape[2]))
        class_token = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        tokens: Tensor = self.norm(self.blocks(torch.cat([class_token, x], dim=1)))
        return tokens[:, 0]


class SimCLR(nn.Module):
    """Encoder, projector and NT-Xent."""

    def __init__(
        self, encoder: VisionTransformer, widths: tuple[int, int, int], temperature: float
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = nn.Sequential(
            nn.Linear(widths[0], widths[1]),
            nn.LayerNorm(widths[1]),
            nn.GELU(),
            nn.Linear(widths[1], widths[2]),
        )
        self.temperature = temperature

    def forward(self, views: Tensor, keep: Tensor | None) -> Tensor:
        """Loss of two views of each picture.

        Args:
            views: (2, B, height, width, 3) uint8.
            keep: (2, B, K) or None.
        """
        kept = None if keep is None else keep.flatten(0, 1)
        features = self.encoder(views.flatten(0, 1), kept)
        z = functional.normalize(self.projector(features), dim=1)  # (2B, P)
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        scores = (z @ z.t() / self.temperature).masked_fill(itself, float("-inf"))
        partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
        return functional.cross_entropy(scores, partner)
