"""The demo model in PyTorch: a small qwen3moe (or its dense twin, qwen3), and Muon.

Shapes in comments: N tokens, T positions, E experts, K used experts, d width, f feed-forward width.
Weights of the large matrices are bfloat16 copies while training; everything runs in float32 for export.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; the dense twin has ``n_expert`` 0 and the active width as ``d_ff``."""

    n_vocab: int = 1536
    d: int = 256
    n_layer: int = 4
    n_head: int = 4
    n_head_kv: int = 2
    d_head: int = 64
    n_expert: int = 8
    n_used: int = 2
    d_ff: int = 256
    n_ctx: int = 1024
    rope_base: float = 1e5
    eps: float = 1e-6

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def dense_twin(shape: Shape) -> Shape:
    """The dense model with the same active parameters: the used experts side by side, no router."""
    return Shape(**{**asdict(shape), "n_expert": 0, "n_used": 0, "d_ff": shape.d_ff * shape.n_used})


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rope_tables(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin [T, d_head/2] of the NEOX (rotate-half) rotary embedding."""
    half = shape.d_head // 2
    freq = shape.rope_base ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = torch.arange(length, dtype=torch.float32)[:, None] * freq
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of each head: x [B, T, H, d_head]."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Reorder(torch.autograd.Function):
    """``x[forward]`` whose backward is a plain gather: autograd's own index_put is slow on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x[forward]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad[inverse], None, None


def causal_attention(q: Tensor, k: Tensor, v: Tensor, chunk: int = 256) -> Tensor:
    """Causal attention of q, k, v [B, H, T, d_head], a chunk of queries at a time.

    In bfloat16 on a CPU this takes half the time of ``scaled_dot_product_attention``, forward and backward.
    """
    length, scale, parts = q.shape[2], q.shape[3] ** -0.5, []
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        scores = (q[:, :, start:end] * scale) @ k[:, :, :end].mT
        future = torch.full((end - start, end), float("-inf"), dtype=q.dtype).triu(start + 1)
        parts.append((scores + future).softmax(-1) @ v[:, :, :end])
    return torch.cat(parts, dim=2)


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, width_kv = shape.n_head * shape.d_head, shape.n_head_kv * shape.d_head
        self.q = nn.Parameter(torch.randn(width, shape.d) * shape.d**-0.5)
        self.k = nn.Parameter(torch.randn(width_kv, shape.d) * shape.d**-0.5)
        self.v = nn.Parameter(torch.randn(width_kv, shape.d) * shape.d**-0.5)
        self.o = nn.Parameter(torch.randn(shape.d, width) * (width * 2 * shape.n_layer) ** -0.5)
        # 1.5 instead of 1: sharper attention from the start, look-up is learnt sooner.
        self.q_norm = nn.Parameter(torch.full((shape.d_head,), 1.5))
        self.k_norm = nn.Parameter(torch.full((shape.d_head,), 1.5))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, T, d] in the dtype of the weights -> [B, T, d]."""
        s, (b, t, _) = self.shape, x.shape
        qkv = F.linear(x, torch.cat([self.q, self.k, self.v]))
        q, k, v = qkv.view(b, t, -1, s.d_head).split([s.n_head, s.n_head_kv, s.n_head_kv], dim=2)
        q = rotate(rms_norm(q.float(), self.q_norm, s.eps), cos, sin).to(x.dtype).transpose(1, 2)
        k = rotate(rms_norm(k.float(), self.k_norm, s.eps), cos, sin).to(x.dtype)
        group = s.n_head // s.n_head_kv
        k = k.repeat_interleave(group, dim=2).transpose(1, 2)
        v = v.repeat_interleave(group, dim=2).transpose(1, 2)
        y = causal_attention(q, k, v)
        return F.linear(y.transpose(1, 2).reshape(b, t, -1), self.o)


class Experts(nn.Module):
    """Top-K routed SwiGLU experts; the router's softmax is renormalised over the chosen ones."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        e, f, d = shape.n_expert, shape.d_ff, shape.d
        self.router = nn.Parameter(torch.randn(e, d) * 0.02)
        self.gate = nn.Parameter(torch.randn(e, f, d) * d**-0.5)
        self.up = nn.Parameter(torch.randn(e, f, d) * d**-0.5)
        self.down = nn.Parameter(torch.randn(e, d, f) * (f * 2 * shape.n_layer) ** -0.5)
        self.aux: Tensor = torch.zeros(())  # balance and z-loss of the last forward pass
        self.shares: Tensor = torch.zeros(e)  # share of the token slots each expert got

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, d] float32 -> weights [N, K], experts [N, K]; sets the auxiliary losses."""
        s = self.shape
        logits = F.linear(x, self.router)
        top, chosen = logits.topk(s.n_used, dim=-1)
        self.shares = torch.bincount(chosen.detach().flatten(), minlength=s.n_expert) / chosen.numel()
        mean_prob = logits.softmax(-1).mean(0)
        balance = s.n_expert * (self.shares * mean_prob).sum()
        self.aux = 0.03 * balance + 1e-4 * logits.logsumexp(-1).square().mean()
        return top.softmax(-1), chosen

    def forward(self, x: Tensor) -> Tensor:
        """x [N, d] float32 (normalised) -> [N, d]."""
        s, n = self.shape, x.shape[0]
        weights, chosen = self.route(x)
        slots = chosen.flatten()  # slot i belongs to token i // K
        forward = slots.argsort(stable=True)
        inverse = torch.empty_like(forward)
        inverse[forward] = torch.arange(forward.numel())
        spread = x.to(self.gate.dtype)[:, None, :].expand(n, s.n_used, s.d).reshape(-1, s.d)
        counts = torch.bincount(slots, minlength=s.n_expert).tolist()
        parts = Reorder.apply(spread, forward, inverse).split(counts)
        done = [
            F.linear(F.silu(F.linear(part, gate)) * F.linear(part, up), down)
            for part, gate, up, down in zip(parts, self.gate, self.up, self.down, strict=True)
        ]
        y = Reorder.apply(torch.cat(done), inverse, forward).view(n, s.n_used, s.d)
        return (y.float() * weights[..., None]).sum(1)


class Dense(nn.Module):
    """The SwiGLU of the dense twin."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d, f = shape.d, shape.d_ff
        self.gate = nn.Parameter(torch.randn(f, d) * d**-0.5)
        self.up = nn.Parameter(torch.randn(f, d) * d**-0.5)
        self.down = nn.Parameter(torch.randn(d, f) * (f * 2 * shape.n_layer) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, d] -> [N, d]."""
        x = x.to(self.gate.dtype)
        return F.linear(F.silu(F.linear(x, self.gate)) * F.linear(x, self.up), self.down).float()


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.eps = shape.eps
        self.attn_norm = nn.Parameter(torch.ones(shape.d))
        self.ffn_norm = nn.Parameter(torch.ones(shape.d))
        self.attn = Attention(shape)
        self.ffn = Experts(shape) if shape.n_expert else Dense(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The residual stream x [B, T, d] stays float32."""
        h = rms_norm(x, self.attn_norm, self.eps).to(self.attn.q.dtype)
        x = x + self.attn(h, cos, sin).float()
        h = rms_norm(x, self.ffn_norm, self.eps)
        return x + self.ffn(h.flatten(0, 1)).view_as(x)


class Model(nn.Module):
    """Token ids [B, T] -> logits [B, T, n_vocab]; input and output embeddings are tied."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Parameter(torch.randn(shape.n_vocab, shape.d) * shape.d**-0.5)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.norm = nn.Parameter(torch.ones(shape.d))
        self.tables = rope_tables(shape, shape.n_ctx)

    def forward(self, ids: Tensor) -> Tensor:
        cos, sin = (table[: ids.shape[1]] for table in self.tables)
        x = F.embedding(ids, self.embed)
        for block in self.blocks:
            x = block(x, cos, sin)
        dtype = self.blocks[0].attn.q.dtype
        return F.linear(rms_norm(x, self.norm, self.shape.eps).to(dtype), self.embed.to(dtype)).float()

    def aux_loss(self) -> Tensor:
        """Router losses of the last forward pass, summed over layers."""
        return sum((b.ffn.aux for b in self.blocks if isinstance(b.ffn, Experts)), torch.zeros(()))

    def matrix_names(self) -> list[str]:
        """Parameters that Muon trains (kept in bfloat16); the others get AdamW in float32."""
        ends = (".q", ".k", ".v", ".o", ".gate", ".up", ".down")
        return [name for name, _ in self.named_parameters() if name.endswith(ends)]


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix of each g [..., rows, cols], by Newton-Schulz in bfloat16."""
    a, b, c = 3.4445, -4.7750, 2.0315  # the quintic's usual coefficients: fast, to about 0.7..1.2
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


def muon_step(weight: Tensor, grad: Tensor, momentum: Tensor, lr: float, decay: float) -> None:
    """One Muon update of a float32 matrix (or stack of matrices) in place, Nesterov momentum 0.95."""
    momentum.lerp_(grad, 0.05)
    update = orthogonalise(grad.lerp(momentum, 0.95))
    weight.mul_(1 - lr * decay).sub_(update, alpha=lr * 0.2 * math.sqrt(max(weight.shape[-2:])))


def adamw_step(weight: Tensor, grad: Tensor, state: tuple[Tensor, Tensor], lr: float, step: int) -> None:
    """One AdamW update of a float32 tensor in place, without weight decay (norms, router, embedding)."""
    mean, square = state
    mean.lerp_(grad, 0.1)
    square.lerp_(grad.square(), 0.02)
    corrected = (square / (1 - 0.98**step)).sqrt_().add_(1e-8)
    weight.addcdiv_(mean / (1 - 0.9**step), corrected, value=-lr)
