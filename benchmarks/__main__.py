"""`python -m benchmarks [NAME …] [--write FILE]`: measure, print, and keep the tables."""

import argparse

import jax

jax.config.update("jax_enable_x64", True)

from . import census, engine, ensemble, families, hessian  # noqa: E402
from .common import RESULTS  # noqa: E402

BENCHMARKS = {
    "census": census.run,
    "hand-over": census.hand_over,
    "ensemble": ensemble.run,
    "engine": engine.run,
    "hessian": hessian.run,
    "families": families.run,
    "published-table": families.published_table,
}


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("which", nargs="*", choices=[*BENCHMARKS, []], help="all of them when none is named")
    parser.add_argument("--write", metavar="FILE", help="also write benchmarks/results/FILE.md")
    arguments = parser.parse_args()
    parts = []
    for name in arguments.which or BENCHMARKS:
        parts.append(BENCHMARKS[name]())
        print(parts[-1], flush=True)
    if arguments.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{arguments.write}.md").write_text("\n".join(parts))


if __name__ == "__main__":
    main()
