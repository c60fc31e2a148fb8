"""The PyTorch side of kda_vs_torch: for each line `name B H T K backward` on stdin, one timed run, in ms on stdout."""

import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(int(sys.argv[1]))


def decayed_products(q, k, gc, beta):
    """tril(q k^T exp(gc_i - gc_j)) and strict tril(beta k k^T exp(gc_i - gc_j)) by halves: no exponent is above 0. [..., C, K]"""
    *lead, c, d = q.shape
    a_qk = torch.diag_embed((q * k).sum(-1))
    a_kk = torch.zeros_like(a_qk)
    beta_k = k * beta
    s = 1
    while s < c:
        pairs = [x.view(*lead, c // (2 * s), 2 * s, d) for x in (q, beta_k, k, gc)]
        rows_q, rows_k, columns, g = pairs
        middle = g[..., s - 1 : s, :]
        down = (g[..., s:, :] - middle).exp()
        columns = columns[..., :s, :] * (middle - g[..., :s, :]).exp()
        rows = torch.cat([rows_q[..., s:, :] * down, rows_k[..., s:, :] * down], -2)
        product = rows @ columns.transpose(-1, -2)
        i = torch.arange(c // (2 * s))
        shape = (*lead, c // (2 * s), 2 * s, c // (2 * s), 2 * s)
        a_qk.view(shape)[..., i, s:, i, :s] = product[..., :s, :].movedim(-3, 0)
        a_kk.view(shape)[..., i, s:, i, :s] = product[..., s:, :].movedim(-3, 0)
        s *= 2
    return a_qk, a_kk


def chunks(x, c):
    """[B, T, H, n] as [B, H, N, C, n], filled up with zeros."""
    b, t, h, n = x.shape
    x = F.pad(x, (0, 0, 0, 0, 0, -t % c))
    return x.view(b, -1, c, h, n).permute(0, 3, 1, 2, 4).contiguous()


def kda(q, k, v, g, beta, c=64):
    """Kimi Delta Attention in chunks: WY form, chunks batched, the state in order."""
    b, t, h, d_k = q.shape
    q = q * d_k**-0.5
    q, k, v, g, beta = (chunks(x, c) for x in (q, k, v, g, beta[..., None]))
    gc = g.cumsum(-2)
    a_qk, a_kk = decayed_products(q, k, gc, beta)
    since = gc.exp()
    right = torch.cat([v * beta, k * beta * since], -1)
    u, w = torch.linalg.solve_triangular(a_kk, right, upper=False, unitriangular=True).split([v.shape[-1], d_k], -1)
    q_start, k_end, total = q * since, k * (gc[..., -1:, :] - gc).exp(), since[..., -1, :, None]
    state = q.new_zeros(b, h, d_k, v.shape[-1])
    states, writes = [], []
    for n in range(q.shape[2]):
        write = u[:, :, n] - w[:, :, n] @ state
        states.append(state)
        writes.append(write)
        state = state * total[:, :, n] + k_end[:, :, n].transpose(-1, -2) @ write
    o = q_start @ torch.stack(states, 2) + a_qk @ torch.stack(writes, 2)
    return o.permute(0, 2, 3, 1, 4).reshape(b, -1, h, v.shape[-1])[:, :t], state


def definition(q, k, v, g, beta):
    state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])
    outs = []
    for t in range(q.shape[1]):
        state = state * g[:, t].exp()[..., None]
        delta = v[:, t] - (state * k[:, t][..., None]).sum(-2)
        state = state + (beta[:, t][..., None] * k[:, t])[..., None] * delta[..., None, :]
        outs.append((state * (q[:, t] * q.shape[3] ** -0.5)[..., None]).sum(-2))
    return torch.stack(outs, 1), state


def inputs_of(b, h, t, d, dtype=torch.float32):
    q, v, do = (torch.randn(b, t, h, d, dtype=dtype) for _ in range(3))
    k = F.normalize(torch.randn(b, t, h, d, dtype=dtype), dim=-1)
    g = -torch.rand(b, t, h, d, dtype=dtype)
    beta = torch.rand(b, t, h, dtype=dtype)
    return [x.requires_grad_() for x in (q, k, v, g, beta)] + [do]


def check():
    torch.manual_seed(0)
    *x, do = inputs_of(2, 3, 150, 8, torch.float64)
    (o, s), (o2, s2) = kda(*x), definition(*x)
    gradients = [torch.autograd.grad((o * do).sum() + s.sin().sum(), x) for o, s in ((o, s), (o2, s2))]
    errors = [(a - b).abs().max().item() for a, b in zip((o, s, *gradients[0]), (o2, s2, *gradients[1]))]
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
        if name == "sdpa":
            x, do = [y.detach().transpose(1, 2).contiguous().requires_grad_() for y in x[:3]], do.transpose(1, 2).contiguous()
        with torch.set_grad_enabled(bool(backward)):
            start = time.perf_counter()
            o = F.scaled_dot_product_attention(*x, is_causal=True) if name == "sdpa" else kda(*x)[0]
            if backward:
                torch.autograd.grad(o, x, do)
            elapsed = time.perf_counter() - start
        print(elapsed * 1e3, flush=True)


main()
