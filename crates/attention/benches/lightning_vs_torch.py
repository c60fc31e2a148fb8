"""The PyTorch side of lightning_vs_torch: for each JSON request on stdin, one timed run, in ms on stdout.

`chunked` is lightning attention in blocks, eager, as one writes it in PyTorch: the masked left product inside a block, the carried state
between blocks, gradients by automatic differentiation. It comes in two forms: block after block, and all blocks in batched products with
only the states in a loop. `sdpa` is torch.nn.functional.scaled_dot_product_attention, causal.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(int(sys.argv[1]))


def factors(slopes, c):
    i = torch.arange(c)
    distance = i[:, None] - i[None, :]
    slopes = slopes[:, None, None]
    inside = torch.where(distance >= 0, torch.exp(-slopes * distance.clamp(min=0)), torch.zeros(()))
    read = torch.exp(-slopes * (i[:, None] + 1))
    write = torch.exp(-slopes * (c - 1 - i[:, None]))
    return inside, read, write, torch.exp(-slopes * c)


def in_turn(q, k, v, slopes, c):
    inside, read, write, over = factors(slopes, c)
    state, outs = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3]), []
    for q, k, v in zip(q.split(c, 2), k.split(c, 2), v.split(c, 2)):
        outs.append((q @ k.mT * inside) @ v + (q * read) @ state)
        state = state * over + (k * write).mT @ v
    return torch.cat(outs, 2)


def batched(q, k, v, slopes, c):
    b, h, t, _ = q.shape
    inside, read, write, over = (x[:, None] for x in factors(slopes, c))
    q, k, v = (x.view(b, h, t // c, c, -1) for x in (q, k, v))
    added = (k * write).mT @ v
    over = over[:, 0]
    states = [torch.zeros_like(added[:, :, 0])]
    for x in added.unbind(2)[:-1]:
        states.append(states[-1] * over + x)
    return ((q @ k.mT * inside) @ v + (q * read) @ torch.stack(states, 2)).view(b, h, t, -1)


def sdpa(q, k, v, slopes, c):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


FORMS = {"in_turn": in_turn, "batched": batched, "sdpa": sdpa}
inputs = {}
for line in sys.stdin:
    request = json.loads(line)
    shape = tuple(request["shape"])
    if shape not in inputs:
        inputs = {shape: [torch.randn(shape, requires_grad=True) for _ in range(3)] + [torch.randn(shape)]}
    q, k, v, cotangent = inputs[shape]
    slopes = torch.tensor(request["slopes"])
    with torch.set_grad_enabled(request["backward"]):
        start = time.perf_counter()
        o = FORMS[request["form"]](q, k, v, slopes, request["block"])
        if request["backward"]:
            torch.autograd.grad(o, [q, k, v], cotangent)
        elapsed = time.perf_counter() - start
    print(elapsed * 1e3, flush=True)
