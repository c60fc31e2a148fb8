"""One training step of nanoGPT's character model for a CPU: Regard against eager PyTorch, interleaved in one run.

    cargo bench -p regard-models --bench training_step --no-run     # prints the path of the program
    python benches/training_step.py PROGRAM [rounds]

The model: 4 layers, 4 heads, width 128, context 64, batch 12, 65 tokens, LayerNorm without bias, GELU, learned positions, tied head.
The step: forward, cross entropy, backward, clip to norm 1, AdamW. f32, 2 threads.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

BATCH, CONTEXT, VOCAB, WIDTH, LAYERS, HEADS = 12, 64, 65, 128, 4, 4
THREADS = 2


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return F.layer_norm(x, (WIDTH,), self.weight, None, 1e-5)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = Norm(), Norm()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, HEADS, -1).transpose(1, 2) for y in self.qkv(self.norm1(x)).split(WIDTH, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(VOCAB, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = Norm()
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids):
        x = self.embedding(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


def torch_round(steps):
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    i = torch.arange(BATCH * (CONTEXT + 1))
    ids = ((i * i + 7 * i) % VOCAB).view(BATCH, CONTEXT + 1)
    x, y = ids[:, :-1], ids[:, 1:]
    times = []
    for step in range(steps + 5):
        start = time.perf_counter()
        loss = F.cross_entropy(model(x).reshape(-1, VOCAB), y.reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step >= 5:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def main():
    program, rounds, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 7, 60
    torch.set_num_threads(THREADS)
    env = dict(os.environ, RAYON_NUM_THREADS=str(THREADS))
    ours, theirs, parts = [], [], []
    for _ in range(rounds):
        out = json.loads(subprocess.run([program, "softmax", str(steps)], env=env, capture_output=True, text=True, check=True).stdout)
        ours.append(out["step_ms"])
        parts.append(out)
        theirs.append(torch_round(steps))
    a, b = statistics.median(ours), statistics.median(theirs)
    part = {k: round(statistics.median(p[k] for p in parts), 2) for k in ("forward_ms", "backward_ms", "update_ms")}
    print(json.dumps({"regard_ms": round(a, 2), "torch_ms": round(b, 2), "ratio": round(a / b, 3), "torch": torch.__version__, **part}))


if __name__ == "__main__":
    main()
