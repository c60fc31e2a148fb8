"""The linear mechanisms and flash-linear-attention on a GPU in one run: a table, and JSON for `--out`.

    cargo build --release --workspace --features cuda --bench gpu_linear      # prints the path of the program
    python3 benches/gpu/linear.py PROGRAM [--runs N] [--out results.json]
"""

import argparse
import json
import pathlib
import sys

from run import lines

# tensors [B, T, H, K] of 2 bytes that each pass reads and writes once; KDA's log decays count twice, being f32
MOVED = {("lightning", "forward"): 4, ("lightning", "backward"): 7, ("kda", "forward"): 6, ("kda", "backward"): 11}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("program")
    arguments.add_argument("--runs", type=int, default=20)
    arguments.add_argument("--out", type=pathlib.Path)
    args = arguments.parse_args()
    here = pathlib.Path(__file__).parent
    results = lines([sys.executable, str(here / "linear_peers.py"), str(args.runs)]) + lines([args.program, str(args.runs)])
    if args.out:
        args.out.write_text("".join(json.dumps(line) + "\n" for line in results))
    from linear_peers import CASES, HEADS, OPERATIONS, WIDTH

    copy = next(line["TB/s"] for line in results if "TB/s" in line)
    card = next(line for line in results if line["case"] == "name")
    print(f"{card['name']}, PyTorch {card['torch']}, copy at {copy} TB/s; milliseconds")
    print(f"{'case':<22}{'pass':<10}{'regard':>10}{'fla':>10}{'/fla':>8}{'of copy':>9}")
    for operation in OPERATIONS:
        for case, (batch, tokens) in CASES.items():
            for which in ("forward", "backward"):
                name = f"{operation}_{case}"
                found = {line["by"]: line["ms"] for line in results if line["case"] == name and line.get("pass") == which}
                if "regard" not in found:
                    continue
                ours = found["regard"]
                peer = f"{found['fla']:>10.3f}{ours / found['fla']:>8.2f}" if "fla" in found else f"{'-':>10}{'-':>8}"
                bytes_moved = MOVED[operation, which] * 2 * batch * tokens * HEADS * WIDTH
                print(f"{name:<22}{which:<10}{ours:>10.3f}{peer}{bytes_moved / ours * 1e-9 / copy:>9.1%}")


if __name__ == "__main__":
    main()
