"""From starting `bluelm-gguf chat` in a pseudo-terminal to a prompt that takes keys.

python benchmarks/chat_start.py [-r 5] [CHAT ARGUMENTS ...]          # without any: the demo model
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from pseudo_terminal import CTRL_D, Terminal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    args, chat_arguments = parser.parse_known_args()
    times = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as state:
            start = time.perf_counter()
            terminal = Terminal("chat", *chat_arguments, env={"XDG_STATE_HOME": state})
            terminal.prompt()
            times.append(time.perf_counter() - start)
            terminal.send(CTRL_D)
            terminal.exit_code()
            terminal.close()
    print(f"ready to type after {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
