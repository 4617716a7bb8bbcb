"""python -m training.world eval | draw"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def _use(args: argparse.Namespace) -> None:
    from .fonts import use_assets

    if args.assets is not None:
        use_assets(args.assets)


def _eval(args: argparse.Namespace) -> int:
    from bluelm_gguf import Model

    from .evaluate import evaluate

    _use(args)
    if (args.model is None) != (args.mmproj is None):
        print("eval: -m and --mmproj belong together", file=sys.stderr)
        return 2
    with Model(args.model, mmproj=args.mmproj, n_ctx=4096, n_threads=args.threads) as model:
        report = evaluate(
            model, pictures=args.pictures, seed=args.seed, progress=sys.stderr.isatty() or args.progress
        )
    print(json.dumps(report.as_dict(), indent=1) if args.json else report.markdown())
    return 0


def _draw(args: argparse.Namespace) -> int:
    from .evaluate import draw

    _use(args)
    for name, n in draw(Path(args.out), args.pictures, args.seed):
        print(f"{name}: {n} questions", file=sys.stderr)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.world",
        description="The embedded demo model: evaluate it, draw its pictures.",
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser(
        "eval", help="accuracy by kind of question on held-out pictures, with two controls"
    )
    command.add_argument("-m", "--model", help="LLM GGUF (default: the embedded demo model)")
    command.add_argument("--mmproj", help="vision GGUF")
    command.add_argument("--pictures", type=int, default=400)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("-t", "--threads", type=int, help="default: the physical cores")
    command.add_argument("--json", action="store_true")
    command.add_argument("--progress", action="store_true", help="report on stderr even if it is no terminal")
    command.set_defaults(run=_eval)
    command = commands.add_parser("draw", help="sample pictures with their questions")
    command.add_argument("-o", "--out", default="pictures")
    command.add_argument("--pictures", type=int, default=12)
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=_draw)
    for each in commands.choices.values():
        each.add_argument(
            "--assets", type=Path, help="emoji pictures of more sets (training/assets.py makes them)"
        )
    args = parser.parse_args()
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
