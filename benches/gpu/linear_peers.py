"""flash-linear-attention on a GPU by device events, one JSON object a line; `linear.py` runs it beside ours."""

import json
import statistics
import sys

import torch
from peers import WARMUP, ceilings, event

# name: batch, tokens; 16 heads of width 128; the same as in linear.rs
CASES = {"b4_t2048": (4, 2048), "b4_t8192": (4, 8192), "b1_t65536": (1, 65536)}
OPERATIONS = ("lightning", "kda")
HEADS, WIDTH, SETS = 16, 128, 3


def report(case, which, ms):
    print(json.dumps({"by": "fla", "case": case, "pass": which, "ms": round(ms, 4)}), flush=True)


def lightning(q, k, v, g, beta):
    from fla.ops.lightning_attn import chunk_lightning_attn

    return chunk_lightning_attn(q, k, v, layer_idx=0, num_layers=2, scale=1.0)[0]


def kda(q, k, v, g, beta):
    from fla.ops.kda import chunk_kda

    return chunk_kda(q, k, v, g, beta)[0]


def inputs(operation, batch, tokens):
    shape = (batch, tokens, HEADS, WIDTH)
    q, k, v = (torch.randn(shape, dtype=torch.bfloat16, device="cuda") for _ in range(3))
    if operation == "lightning":
        return [q, k, v, None, None]
    q, k = (torch.nn.functional.normalize(x.float(), dim=-1).bfloat16() for x in (q, k))
    g = -0.1 * torch.rand(shape, device="cuda")
    return [q, k, v, g, torch.rand(shape[:3], device="cuda")]


def measure(operation, case, runs):
    batch, tokens = CASES[case]
    sets = [inputs(operation, batch, tokens) for _ in range(SETS)]
    run = {"lightning": lightning, "kda": kda}[operation]
    with torch.no_grad():
        times = [event(lambda: run(*sets[i % SETS])) for i in range(runs + WARMUP)]
    report(f"{operation}_{case}", "forward", statistics.median(times[WARMUP:]))
    times = []
    for i in range(runs + WARMUP):
        leaves = [None if x is None else x.detach().requires_grad_() for x in sets[i % SETS]]
        o = run(*leaves)
        cotangent = torch.ones_like(o)
        wanted = [x for x in leaves if x is not None]
        times.append(event(lambda: torch.autograd.grad(o, wanted, cotangent)))
    report(f"{operation}_{case}", "backward", statistics.median(times[WARMUP:]))


if __name__ == "__main__":
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    print(json.dumps({"by": "card", "case": "name", "name": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)
    ceilings()
    for operation in OPERATIONS:
        for case in CASES:
            try:
                measure(operation, case, runs)
            except Exception as error:  # a peer that is not installed or does not run is no failure of ours
                print(json.dumps({"by": "fla", "case": f"{operation}_{case}", "error": str(error)[:200]}), flush=True)
