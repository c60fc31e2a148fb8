"""PyTorch's attention on a GPU by device events, one JSON object a line; `run.py` runs it beside ours. See README.md."""

import json
import statistics
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

# name: batch, heads, groups, queries, keys, width; the same as in regard.rs
CASES = {
    "causal_t2048": (4, 16, 16, 2048, 2048, 128),
    "causal_t8192": (4, 16, 16, 8192, 8192, 128),
    "causal_gqa_t8192": (4, 16, 4, 8192, 8192, 128),
    "causal_w64_t8192": (4, 16, 16, 8192, 8192, 64),
    "decode_s8192": (64, 32, 8, 1, 8192, 128),
}
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
# compiled anew for each shape, which takes longer than all the rest
FLEX = ("causal_t8192", "causal_gqa_t8192")
SETS, WARMUP = 3, 3


def report(by, case, which, ms):
    print(json.dumps({"by": by, "case": case, "pass": which, "ms": round(ms, 4)}), flush=True)


def event(work):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def measure(case, runs):
    b, h, g, t, s, width = CASES[case]

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.bfloat16, device="cuda")

    sets = [(draw(b, h, t, width), draw(b, g, s, width), draw(b, g, s, width)) for _ in range(SETS)]
    cotangent = draw(b, h, t, width)

    def timed(by, attend):
        try:
            with torch.no_grad():
                times = [event(lambda: attend(*sets[i % SETS])) for i in range(runs + WARMUP)]
            report(by, case, "forward", statistics.median(times[WARMUP:]))
            if t == 1:
                return
            times = []
            for i in range(runs + WARMUP):
                inputs = [x.detach().requires_grad_() for x in sets[i % SETS]]
                o = attend(*inputs)
                times.append(event(lambda: torch.autograd.grad(o, inputs, cotangent)))
            report(by, case, "backward", statistics.median(times[WARMUP:]))
        except Exception as error:  # a peer that does not run is no failure of ours
            print(json.dumps({"by": by, "case": case, "error": (str(error).splitlines() or [repr(error)])[0]}), flush=True)

    for by, backend in BACKENDS.items():
        with sdpa_kernel(backend):
            timed(by, lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=t > 1, enable_gqa=h != g))
    if case in FLEX:
        mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, t, s, device="cuda")
        flex = torch.compile(flex_attention, dynamic=False)
        timed("flex", lambda q, k, v: flex(q, k, v, block_mask=mask, enable_gqa=h != g))


def ceilings():
    """What the card copies and multiplies, in this run."""
    x = torch.empty(1 << 30, dtype=torch.bfloat16, device="cuda").normal_()
    y = torch.empty_like(x)
    ms = statistics.median(event(lambda: y.copy_(x)) for _ in range(10))
    print(json.dumps({"by": "card", "case": "copy", "TB/s": round(2 * x.nbytes / ms * 1e-9, 3)}), flush=True)
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    ms = statistics.median(event(lambda: a @ b) for _ in range(20))
    print(json.dumps({"by": "card", "case": "matmul", "TFLOP/s": round(2 * 8192**3 / ms * 1e-9, 1)}), flush=True)


if __name__ == "__main__":
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    print(json.dumps({"by": "card", "case": "name", "name": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)
    ceilings()
    for case in CASES:
        measure(case, runs)
