"""`python -m tests.fuzz --inputs 1e6 --seed 0`: a table of answers; exit code 1 after a traceback."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.fuzz import fuzz


def main() -> None:
    """Fuzz and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=float, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds of inputs whose name contains this")
    options = parser.parse_args()
    result = fuzz(int(options.inputs), options.seed, options.only)
    rows = ["| input | tried | taken | refused in one line | tracebacks | CPU s |", "|---|---|---|---|---|---|"]
    for name, count in result.counts.items():
        tried = count.accepted + count.refused + count.crashed
        rows.append(
            f"| {name} | {tried:,} | {count.accepted:,} | {count.refused:,} | {count.crashed:,} | "
            f"{count.cpu_seconds:.0f} |"
        )
    crashed = sum(count.crashed for count in result.counts.values())
    sys.stdout.write("\n".join([*rows, f"{result.inputs:,} inputs, {crashed:,} tracebacks, seed {options.seed}", ""]))
    sys.stderr.write("\n".join(result.crashes))
    sys.exit(1 if crashed else 0)


if __name__ == "__main__":
    main()
