"""Our answer beside llama-mtmd-cli's, for tiny random pairs of the dialects that libmtmd runs.

    python scripts/compare_mtmd.py --stock build/stock/bin [DIALECT ...]        (`make pairs`: all of them)

Both get the same two files, picture, question and chat template, greedy, one thread. `make stock` builds
llama-mtmd-cli. Exit 1 where an answer differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))

import tiny_pairs  # noqa: E402

QUESTION = "what is this?"
N_TOKENS = 16
TRIES = 4  # llama-mtmd-cli's log is asynchronous, and sometimes lost at exit


def write_picture(path: Path) -> Path:
    """200 x 150 pixels, nothing symmetric in them."""
    y, x = np.mgrid[0:150, 0:200]
    rgb = np.stack([x * 255 // 200, y * 255 // 150, (x // 20 + y // 20) % 2 * 255], -1).astype(np.uint8)
    Image.fromarray(rgb).save(path)
    return path


def run(command: list[str]) -> str:
    """What a program writes to stdout, stripped."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=env, check=False)
    if done.returncode:
        return f"(exit {done.returncode}: {' '.join(done.stderr.split())[-200:]})"
    return done.stdout.strip()


def theirs(cli: Path, common: list[str]) -> str:
    """llama-mtmd-cli's answer, asked again where it lost its end."""
    options = ["--jinja", "--temp", "0", "--top-k", "1", "--no-warmup"]
    answers = [run([str(cli), *common, *options]) for _ in range(TRIES)]
    return max(answers, key=len)


def main() -> None:
    """Writes pairs, asks both, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dialects", nargs="*", metavar="DIALECT", help=", ".join(tiny_pairs.DIALECTS))
    parser.add_argument("--stock", type=Path, default=Path("build/stock/bin"), help="where llama-mtmd-cli is")
    options = parser.parse_args()
    unknown = set(options.dialects) - set(tiny_pairs.DIALECTS)
    if unknown:
        parser.error(f"no dialect {sorted(unknown)[0]!r}; there are {', '.join(tiny_pairs.DIALECTS)}")
    cli = options.stock / "llama-mtmd-cli"
    if not cli.is_file():
        parser.error(f"{cli} is not there: `make stock` builds it, or give --stock")
    n_different = 0
    with tempfile.TemporaryDirectory() as made:
        picture = write_picture(Path(made) / "picture.png")
        for name in options.dialects or tiny_pairs.DIALECTS:
            llm, mmproj = tiny_pairs.write_pair(Path(made), name)
            common = ["-m", str(llm), "--mmproj", str(mmproj), "--image", str(picture), "-p", QUESTION]
            common += ["-n", str(N_TOKENS), "-t", "1", "-c", "2048"]
            ours = run([sys.executable, "-m", "bluelm_gguf", "run", *common, "--no-cache"])
            other = theirs(cli, common)
            verdict = "equal" if ours == other else "DIFFERENT"
            n_different += ours != other
            print(
                f"{name:<12} {verdict}\n    bluelm-gguf     {ours}\n    llama-mtmd-cli  {other}", flush=True
            )
    raise SystemExit(1 if n_different else 0)


if __name__ == "__main__":
    main()
