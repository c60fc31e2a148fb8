"""A training step of a GPT-2 of the small size, ours and PyTorch's, on a GPU in one run: a table, and JSON for `--out`.

    cargo build --release -p regard-train --features cuda --bench gpu_step      # prints the path of the program
    python3 benches/gpu/step.py PROGRAM [--out results.json]
"""

import argparse
import json
import pathlib
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from run import lines

VOCAB, WIDTH, LAYERS, HEADS, CONTEXT, BATCH = 32000, 768, 12, 12, 1024, 8
SHAPES = [(768, 2304), (768, 768), (768, 3072), (3072, 768), (768, 32000)]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, HEADS, -1).transpose(1, 2) for y in self.qkv(self.norms[0](x)).split(WIDTH, 2))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, WIDTH))
        return x + self.down(functional.gelu(self.up(self.norms[1](x)), approximate="tanh"))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH, bias=False)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions(torch.arange(CONTEXT, device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.view(-1, VOCAB), targets.view(-1))


def step_ms(compiled, precision, windows=6, length=10):
    torch.manual_seed(0)
    model = Model().cuda()
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    ids = torch.randint(VOCAB, (BATCH, CONTEXT), device="cuda")

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = run(ids, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    times = []
    for _ in range(windows + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(length):
            loss = step()
        loss.item()
        times.append(1e3 * (time.perf_counter() - start) / length)
    return statistics.median(times[1:])


def product_ms(n, m, dtype, which, count=50):
    tokens = BATCH * CONTEXT
    sets = [[torch.randn(s, device="cuda", dtype=dtype) for s in ((tokens, n), (n, m), (tokens, m))] for _ in range(3)]
    work = {
        "forward": lambda x, w, dy: x @ w,
        "of_input": lambda x, w, dy: dy @ w.T,
        "of_weight": lambda x, w, dy: x.T @ dy,
    }[which]
    for i in range(3):
        work(*sets[i])
    torch.cuda.synchronize()
    start = time.perf_counter()
    for i in range(count):
        work(*sets[i % 3])
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - start) / count


def peers():
    x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        x @ x
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        x @ x
    torch.cuda.synchronize()
    yield {"by": "torch", "case": "peak", "TFLOP/s": round(20 * 2 * 8192**3 / (time.perf_counter() - start) * 1e-12)}
    for dtype, count in ((torch.bfloat16, 50), (torch.float32, 5)):
        for n, m in SHAPES:
            for which in ("forward", "of_input", "of_weight"):
                ms = product_ms(n, m, dtype, which, count)
                kind = "BF16" if dtype == torch.bfloat16 else "F32"
                rate = round(2 * BATCH * CONTEXT * n * m / ms * 1e-9)
                yield {"by": "torch", "case": f"{n}x{m}", "dtype": kind, "pass": which, "ms": round(ms, 4), "TFLOP/s": rate}
    for precision in ("bf16", "f32"):
        yield {"by": "eager", "case": "step", "precision": precision, "ms": round(step_ms(False, precision), 3)}
    yield {"by": "compiled", "case": "step", "precision": "bf16", "ms": round(step_ms(True, "bf16"), 3)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("program")
    arguments.add_argument("--out", type=pathlib.Path)
    args = arguments.parse_args()
    results = lines([args.program]) + list(peers())
    if args.out:
        args.out.write_text("".join(json.dumps(line) + "\n" for line in results))
    peak = next(line["TFLOP/s"] for line in results if line["case"] == "peak")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, bf16 products of 8192³ at {peak} TFLOP/s")
    print(f"{'case':<14}{'dtype':<7}{'pass':<11}{'regard':>10}{'torch':>10}   TFLOP/s")
    ours = {(r["case"], r["dtype"], r["pass"]): r["TFLOP/s"] for r in results if r["by"] == "regard" and "pass" in r}
    for r in results:
        if r["by"] == "torch" and "pass" in r:
            found = ours.get((r["case"], r["dtype"], r["pass"]), "-")
            print(f"{r['case']:<14}{r['dtype']:<7}{r['pass']:<11}{found:>10}{r['TFLOP/s']:>10}")
    for r in results:
        if r["case"] == "step":
            print(f"step {r['precision']:<6}{r['by']:<10}{r['ms']:>9.3f} ms")


if __name__ == "__main__":
    main()
