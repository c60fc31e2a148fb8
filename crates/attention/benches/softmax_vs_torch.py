"""The PyTorch side of softmax_vs_torch: for each line `B H T K causal backward` on stdin, one timed run, in ms on stdout."""

import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(int(sys.argv[1]))
inputs = {}
for line in sys.stdin:
    *shape, causal, backward = map(int, line.split())
    key = tuple(shape)
    if key not in inputs:
        inputs = {key: [torch.randn(shape, requires_grad=True) for _ in range(3)] + [torch.randn(shape)]}
    q, k, v, cotangent = inputs[key]
    with torch.set_grad_enabled(bool(backward)):
        start = time.perf_counter()
        o = F.scaled_dot_product_attention(q, k, v, is_causal=bool(causal))
        if backward:
            torch.autograd.grad(o, [q, k, v], cotangent)
        elapsed = time.perf_counter() - start
    print(elapsed * 1e3, flush=True)
