"""Ours and its peers on a GPU in one run: a table, and JSON for `--out`.

    cargo build --release --workspace --features cuda --bench gpu      # prints the path of the program
    python3 benches/gpu/run.py PROGRAM [--runs N] [--out results.json]
"""

import argparse
import json
import pathlib
import subprocess
import sys

# multiply-adds of the forward pass in units of B·H·T·S·K; a causal problem has half; the backward pass has 2.5 times as many
FORWARD, BACKWARD = 2, 5


def lines(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("program")
    arguments.add_argument("--runs", type=int, default=20)
    arguments.add_argument("--out", type=pathlib.Path)
    args = arguments.parse_args()
    here = pathlib.Path(__file__).parent
    sys.path.insert(0, str(here))
    results = lines([sys.executable, str(here / "peers.py"), str(args.runs)]) + lines([args.program, str(args.runs)])
    if args.out:
        args.out.write_text("".join(json.dumps(line) + "\n" for line in results))
    peak = next(line["TFLOP/s"] for line in results if "TFLOP/s" in line)
    card = next(line for line in results if line["case"] == "name")
    print(f"{card['name']}, PyTorch {card['torch']}, bf16 products at {peak} TFLOP/s")
    from peers import CASES

    peers = ("flash", "cudnn", "flex")
    print(f"{'case':<20}{'pass':<10}{'regard':>10}" + "".join(f"{by:>10}" for by in peers) + "".join(f"{'/' + by:>8}" for by in peers) + f"{'of peak':>9}")

    for case, (b, h, _, t, s, width) in CASES.items():
        for which, products in (("forward", FORWARD), ("backward", BACKWARD)):
            found = {line["by"]: line["ms"] for line in results if line["case"] == case and line.get("pass") == which}
            if "regard" not in found:
                continue
            ours = found["regard"]
            operations = 2 * products * b * h * t * s * width / (2 if t > 1 else 1)
            columns = [f"{found[by]:>10.3f}" if by in found else f"{'-':>10}" for by in ("regard", *peers)]
            ratios = [f"{ours / found[by]:>8.2f}" if by in found else f"{'-':>8}" for by in peers]
            print(f"{case:<20}{which:<10}{''.join(columns + ratios)}{operations / ours * 1e-9 / peak:>9.1%}")


if __name__ == "__main__":
    main()
