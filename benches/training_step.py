"""One training step of a small language model: Regard with each mixer against softmax attention in eager PyTorch, interleaved in one run.

    cargo bench --workspace --bench training_step --no-run     # prints the path of the program
    python benches/training_step.py PROGRAM [--setting nanogpt|wide] [--mixers softmax,lightning,…] [--rounds N]

Settings: `nanogpt` is nanoGPT's character model for a CPU (batch 12, context 64, width 128), `wide` has batch 8, context 256 and width 256.
Both: 4 layers, 4 heads, 65 tokens, LayerNorm without bias, GELU, learned positions, tied head.
The step: forward, cross entropy, backward, clip to norm 1, AdamW. f32, 2 threads.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

import torch
from torch import nn
from torch.nn import functional as F

SETTINGS = {"nanogpt": (12, 64, 128), "wide": (8, 256, 256)}  # as in the program: batch, context, width
VOCAB, LAYERS, HEADS, THREADS = 65, 4, 4, 2


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = Norm(width), Norm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        b, t, width = x.shape
        q, k, v = (y.view(b, t, HEADS, -1).transpose(1, 2) for y in self.qkv(self.norm1(x)).split(width, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    def __init__(self, context, width):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(VOCAB, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(LAYERS))
        self.norm = Norm(width)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids):
        x = self.embedding(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


def torch_round(setting, steps):
    batch, context, width = SETTINGS[setting]
    torch.manual_seed(0)
    model = Model(context, width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    i = torch.arange(batch * (context + 1))
    ids = ((i * i + 7 * i) % VOCAB).view(batch, context + 1)
    x, y = ids[:, :-1], ids[:, 1:]
    times = []
    for step in range(steps + 3):
        start = time.perf_counter()
        loss = F.cross_entropy(model(x).reshape(-1, VOCAB), y.reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step >= 3:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def regard_round(program, mixer, setting, steps):
    env = dict(os.environ, RAYON_NUM_THREADS=str(THREADS))
    command = [program, mixer, setting, str(steps)]
    return json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--setting", choices=SETTINGS, default="nanogpt")
    parser.add_argument("--mixers", default="softmax")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    mixers = args.mixers.split(",")
    ours, theirs = {mixer: [] for mixer in mixers}, []
    for _ in range(args.rounds):
        theirs.append(torch_round(args.setting, args.steps))
        for mixer in mixers:
            ours[mixer].append(regard_round(args.program, mixer, args.setting, args.steps))
    peer = statistics.median(theirs)
    print(json.dumps({"setting": args.setting, "torch": torch.__version__, "torch_softmax_ms": round(peer, 2)}))
    for mixer, rounds in ours.items():
        step = statistics.median(r["step_ms"] for r in rounds)
        print(json.dumps({"mixer": mixer, "ratio": round(step / peer, 3), "step_ms": round(step, 2)}))


if __name__ == "__main__":
    main()
