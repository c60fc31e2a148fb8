"""The PyTorch side of images_vs_torch: for each line `network training` on stdin, one timed run, in ms on stdout. Networks are timm's; NAT is
written here, since no release of its authors has kernels for CPUs with biases by position."""

import contextlib
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

# What its own imports may print is no time.
with contextlib.redirect_stdout(sys.stderr):
    import timm

torch.set_num_threads(int(sys.argv[1]))
BATCH, SIDE = 8, 224


class NeighborhoodAttention(nn.Module):
    """Keys and values of every neighbourhood side by side, an image at a time, so that the copies stay in near memory."""

    def __init__(self, dim, heads, window=7):
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.rpb = nn.Parameter(0.02 * torch.randn(heads, (2 * window - 1) ** 2))
        self.tables = {}

    def indices(self, y, x):
        if (y, x) not in self.tables:
            k, axes = self.window, []
            for n in (y, x):
                at = torch.arange(n)
                keys = (at - k // 2).clamp(0, n - k)[:, None] + torch.arange(k)
                axes.append((keys, keys - at[:, None] + k - 1))
            (ky, oy), (kx, ox) = axes
            join = lambda a, b, width: (a[:, None, :, None] * width + b[None, :, None, :]).reshape(y * x, k * k)
            self.tables[y, x] = join(ky, kx, x), join(oy, ox, 2 * k - 1)
        return self.tables[y, x]

    def forward(self, x):
        b, y, columns, d = x.shape
        keys, offsets = self.indices(y, columns)
        n, h = y * columns, self.heads
        q, k, v = self.qkv(x).view(b, n, 3, h, d // h).permute(2, 0, 3, 1, 4)
        bias = self.rpb[:, offsets]
        out = []
        for q, k, v in zip(q * (d // h) ** -0.5, k, v):
            logits = torch.einsum("hnd,hnwd->hnw", q, k[:, keys]) + bias
            out.append(torch.einsum("hnw,hnwd->hnd", logits.softmax(-1), v[:, keys]))
        return self.proj(torch.stack(out).permute(0, 2, 1, 3).reshape(b, y, columns, d))


class Block(nn.Module):
    def __init__(self, dim, heads, ratio):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), NeighborhoodAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Conv(nn.Module):
    """A convolution 3 x 3 with a stride of 2 over maps with channels last, and a norm."""

    def __init__(self, convs):
        super().__init__()
        self.convs = nn.Sequential(*convs)
        self.norm = nn.LayerNorm(convs[-1].out_channels)

    def forward(self, x):
        return self.norm(self.convs(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def nat_mini():
    dim, depths, heads = 64, (3, 4, 6, 5), (2, 4, 8, 16)
    conv = lambda a, b, bias: nn.Conv2d(a, b, 3, 2, 1, bias=bias)
    layers = [Conv([conv(3, dim // 2, True), conv(dim // 2, dim, True)])]
    for level, (depth, h) in enumerate(zip(depths, heads)):
        width = dim << level
        layers += [Block(width, h, 3) for _ in range(depth)]
        if level < 3:
            layers.append(Conv([conv(width, 2 * width, False)]))

    class Nat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.norm, self.head = nn.Sequential(*layers), nn.LayerNorm(8 * dim), nn.Linear(8 * dim, 1000)

        def forward(self, images):
            x = self.norm(self.layers(images.permute(0, 2, 3, 1)))
            return self.head(x.flatten(1, 2).mean(1))

    return Nat()


TIMM = {"deit_tiny": "deit_tiny_patch16_224", "deit_small": "deit_small_patch16_224", "deit_base": "deit_base_patch16_224"}
models = {}
for line in sys.stdin:
    name, training = line.split()
    if name not in models:
        models[name] = nat_mini() if name == "nat_mini" else timm.create_model(TIMM.get(name, name))
    model = models[name]
    images, classes = torch.randn(BATCH, 3, SIDE, SIDE), torch.arange(BATCH)
    start = time.perf_counter()
    if training == "1":
        model.train()
        F.cross_entropy(model(images), classes).backward()
    else:
        model.eval()
        with torch.no_grad():
            model(images)
    elapsed = time.perf_counter() - start
    model.zero_grad(set_to_none=True)
    print(1e3 * elapsed, flush=True)
