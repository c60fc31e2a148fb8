"""The PyTorch side of flow_vs_torch: for each line `name B H T D backward` on stdin, one timed run, in ms on stdout."""

import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(int(sys.argv[1]))

EPS = 1e-6


def factors(q, k):
    """What sinks and sources are multiplied by. [B, H, T, 1] each; q, k after the feature map."""
    n = torch.arange(1, q.shape[2] + 1, dtype=q.dtype)[:, None]
    qe, ke = q + EPS, k + EPS
    incoming = (qe * (k.cumsum(2) + EPS)).sum(-1, keepdim=True)
    outgoing = (ke * (q.cumsum(2) + EPS)).sum(-1, keepdim=True)
    conserved_in = (qe * ((k * (n / outgoing)).cumsum(2) + EPS)).sum(-1, keepdim=True) / n
    conserved_out = (ke * ((q * (n / incoming)).cumsum(2) + EPS)).sum(-1, keepdim=True) / n
    weight = conserved_out.clamp(-1, 1).exp()
    return torch.sigmoid(conserved_in) / incoming, n * weight / weight.cumsum(2)


def flow(q, k, v, c=64):
    """Causal Flow attention: cumulative sums, then linear attention in chunks, all of them batched."""
    b, h, t, d = q.shape
    q, k = torch.sigmoid(q), torch.sigmoid(k)
    sink, source = factors(q, k)
    q, k = q * sink, k * source
    if t % c:
        q, k, v = (F.pad(x, (0, 0, 0, -t % c)) for x in (q, k, v))
    q, k, v = (x.reshape(b, h, -1, c, x.shape[-1]) for x in (q, k, v))
    added = k.transpose(-1, -2) @ v
    states = added.cumsum(2) - added
    o = q @ states + (q @ k.transpose(-1, -2)).tril() @ v
    return o.reshape(b, h, -1, o.shape[-1])[:, :, :t]


def definition(q, k, v):
    q, k = torch.sigmoid(q), torch.sigmoid(k)
    sink, source = factors(q, k)
    return sink * ((q @ k.transpose(-1, -2)).tril() @ (source * v))


def inputs_of(*shape, dtype=torch.float32):
    return [torch.randn(*shape, dtype=dtype).requires_grad_() for _ in range(3)] + [torch.randn(*shape, dtype=dtype)]


def check():
    torch.manual_seed(0)
    *x, do = inputs_of(2, 3, 150, 8, dtype=torch.float64)
    o, o2 = flow(*x), definition(*x)
    gradients = [torch.autograd.grad((o * do).sum(), x) for o in (o, o2)]
    errors = [(a - b).abs().max().item() for a, b in zip((o, *gradients[0]), (o2, *gradients[1]))]
    assert max(errors) < 1e-10, errors


def main():
    check()
    kept = (None, None)
    for line in sys.stdin:
        name, *numbers = line.split()
        *shape, backward = map(int, numbers)
        if kept[0] != shape:
            kept = (shape, inputs_of(*shape))
        *x, do = kept[1]
        with torch.set_grad_enabled(bool(backward)):
            start = time.perf_counter()
            o = F.scaled_dot_product_attention(*x, is_causal=True) if name == "sdpa" else flow(*x)
            if backward:
                torch.autograd.grad(o, x, do)
            elapsed = time.perf_counter() - start
        print(elapsed * 1e3, flush=True)


main()
