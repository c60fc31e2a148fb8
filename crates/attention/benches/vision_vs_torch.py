"""The PyTorch side of vision_vs_torch: for each line `case variant backward` on stdin, one timed run, in ms on stdout; `nan` where PyTorch has no
such thing."""

import math
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(int(sys.argv[1]))


def window(length, k, p):
    start = min(max(p - k // 2, 0), length - k)
    return range(start, start + k)


def seen(grid, k):
    """The dense mask of a neighbourhood, True = seen."""
    masks = [torch.zeros(n, n, dtype=torch.bool) for n in grid]
    for mask, n in zip(masks, grid):
        for p in range(n):
            mask[p, list(window(n, k, p))] = True
    whole = masks[0]
    for mask in masks[1:]:
        n, m = whole.shape[0], mask.shape[0]
        whole = (whole[:, None, :, None] & mask[None, :, None, :]).reshape(n * m, n * m)
    return whole


class Neighborhood:
    def __init__(self, grid, k, variant):
        n = math.prod(grid)
        self.inputs = [torch.randn(1, 4, n, 32, requires_grad=True) for _ in range(3)]
        mask = seen(grid, k)
        if variant == "dense":
            self.run = lambda q, key, v: F.scaled_dot_product_attention(q, key, v, attn_mask=mask)
        else:
            from torch.nn.attention.flex_attention import create_block_mask, flex_attention

            blocks = create_block_mask(lambda b, h, i, j: mask[i, j], None, None, n, n, device="cpu")
            compiled = torch.compile(flex_attention)
            self.run = lambda q, key, v: compiled(q, key, v, block_mask=blocks)


class Window:
    """7 x 7 windows of a 56 x 56 map, cut out and put back."""

    def __init__(self):
        self.inputs = [torch.randn(1, 56, 56, 4, 32, requires_grad=True) for _ in range(3)]

    def run(self, q, k, v):
        cut = lambda x: x.view(1, 8, 7, 8, 7, 4, 32).permute(0, 1, 3, 5, 2, 4, 6).reshape(64, 4, 49, 32)
        o = F.scaled_dot_product_attention(*map(cut, (q, k, v)))
        return o.view(1, 8, 8, 4, 7, 7, 32).permute(0, 1, 4, 2, 5, 3, 6).reshape(1, 56, 56, 4, 32)


class Channel:
    """Groups of 32 channels over the 3136 tokens of a map."""

    def __init__(self):
        self.inputs = [torch.randn(4, 3, 3136, 32, requires_grad=True) for _ in range(3)]

    def run(self, x, y, z):
        weights = ((x * 32**-0.5).transpose(-1, -2) @ y).softmax(-1)
        return (weights @ z.transpose(-1, -2)).transpose(-1, -2)


class Halo:
    """Blocks of 8 with a halo of 3 on a map of 64 x 64, 8 heads of 8, as timm computes it."""

    def __init__(self):
        self.inputs = [torch.randn(1, 64, 64, 64, requires_grad=True) for _ in range(3)]
        self.inputs += [torch.randn(27, 8, requires_grad=True) for _ in range(2)]

    @staticmethod
    def logits(q, rel, mask):
        b, h, w, dim = q.shape
        win = (rel.shape[0] + 1) // 2
        x = (q @ rel.transpose(-1, -2)).reshape(-1, w, rel.shape[0])
        x = F.pad(F.pad(x, [0, 1]).flatten(1), [0, rel.shape[0] - w])
        x = x.reshape(-1, w + 1, rel.shape[0])[:, :w, win - 1 :]
        return x.reshape(b, h, 1, w, win).expand(-1, -1, win, -1, -1).permute(mask)

    def run(self, q, k, v, height, width):
        b, c, y, x = q.shape
        heads, d, block, halo, win = 8, 8, 8, 3, 14
        q = q.reshape(heads, d, y // block, block, x // block, block).permute(0, 2, 4, 3, 5, 1)
        q = q.reshape(heads, -1, block * block, d)
        cut = lambda t: F.pad(t, [halo] * 4).unfold(2, win, block).unfold(3, win, block).reshape(heads, d, -1, win * win).permute(0, 2, 3, 1)
        k, v = cut(k), cut(v)
        square = q.reshape(-1, block, block, d)
        rel = self.logits(square, width, (0, 1, 3, 2, 4)) + self.logits(square.transpose(1, 2), height, (0, 3, 1, 4, 2))
        attn = (q * d**-0.5) @ k.transpose(-1, -2) + rel.reshape(heads, -1, block * block, win * win)
        o = attn.softmax(-1) @ v
        o = o.reshape(heads, y // block, x // block, block, block, d).permute(0, 5, 1, 3, 2, 4)
        return o.reshape(b, c, y, x)


class Routed:
    """Each of 8 x 8 regions of a map of 64 x 64 sees four; 2 heads of 32. Keys and values gathered, as the authors do."""

    def __init__(self):
        self.inputs = [torch.randn(1, 64, 64, 64, requires_grad=True) for _ in range(3)]

    def run(self, q, k, v):
        cut = lambda x: x.view(8, 8, 8, 8, 64).transpose(1, 2).reshape(64, 64, 64)
        q, k, v = map(cut, (q, k, v))
        with torch.no_grad():
            index = (q.mean(1) @ k.mean(1).T).topk(4).indices
        heads = lambda x: x.reshape(64, -1, 2, 32).transpose(1, 2)
        q, k, v = heads(q), heads(k[index].reshape(64, 256, 64)), heads(v[index].reshape(64, 256, 64))
        o = ((q * 64**-0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
        return o.transpose(1, 2).reshape(8, 8, 8, 8, 64).transpose(1, 2).reshape(1, 64, 64, 64)


class Strip:
    """3136 queries of one number, 49 keys, values of 64."""

    def __init__(self):
        self.inputs = [torch.randn(4, 1, n, w, requires_grad=True) for n, w in ((3136, 1), (49, 1), (49, 64))]

    def run(self, q, k, v):
        return (q @ k.transpose(-1, -2)).softmax(-1) @ v


class Polarized:
    """The block of the paper, parallel, with projections of every token, on 8 maps of 64 x 48 with 256 channels."""

    def __init__(self):
        self.inputs = [torch.randn(8, 256, 64, 48, requires_grad=True)]
        conv = torch.nn.Conv2d
        self.layers = torch.nn.ModuleList([conv(256, 1, 1), conv(256, 128, 1), conv(128, 256, 1), conv(256, 128, 1), conv(256, 128, 1)])
        self.norm = torch.nn.LayerNorm(256)

    def run(self, x):
        wq, wv, wz, sq, sv = self.layers
        b, c = x.shape[:2]
        z = wv(x).flatten(2) @ wq(x).flatten(2).softmax(-1).transpose(1, 2)
        channels = self.norm(wz(z[..., None]).flatten(1)).sigmoid()[..., None, None]
        p = sq(x).mean((2, 3)).softmax(-1)
        tokens = (p[:, None] @ sv(x).flatten(2)).sigmoid().view(b, 1, *x.shape[2:])
        return channels * x + tokens * x


def make(case, variant):
    grids = {"na1d": ([4096], 129), "na2d_13": ([64, 64], 13), "na2d_7": ([56, 56], 7), "na3d": ([16, 16, 16], 5)}
    if case in grids:
        return Neighborhood(*grids[case], variant)
    return {"window": Window, "channel": Channel, "halo": Halo, "routed": Routed, "strip": Strip, "polarized": Polarized}[case]()


made, told = {}, set()
for line in sys.stdin:
    case, variant, backward = line.split()
    try:
        if (case, variant) not in made:
            made = {(case, variant): make(case, variant)} if not made or next(iter(made))[0] != case else made | {(case, variant): make(case, variant)}
        it = made[case, variant]
        weights = list(it.layers.parameters()) + list(it.norm.parameters()) if case == "polarized" else []
        inputs = it.inputs if backward == "1" else [x.detach() for x in it.inputs]
        with torch.set_grad_enabled(backward == "1"):
            start = time.perf_counter()
            o = it.run(*inputs)
            if backward == "1":
                torch.autograd.grad(o.sum(), it.inputs + weights)
            elapsed = time.perf_counter() - start
        print(elapsed * 1e3, flush=True)
    except Exception as error:
        if line not in told:
            print(f"{case} {variant}: {str(error).splitlines()[0]}", file=sys.stderr)
            told.add(line)
        print("nan", flush=True)
