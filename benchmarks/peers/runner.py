"""A contender seen from the runner: a process that is told what to do, and answers with milliseconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Contender:
    """A running process (contender.py has the protocol) and its times by kind of work.

    Args:
        name: What the table calls it.
        script: File beside this one.
        arguments: Its command line.
    """

    def __init__(self, name: str, script: str, *arguments: object) -> None:
        self.name = name
        self.times: dict[str, list[float]] = {}
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._await("ready")

    def _await(self, word: str = "") -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # What libraries print while they load is passed over.
            if not word or line.strip() == word:
                return line.strip()
        raise SystemExit(f"{self.name} ended with {self._process.wait()}: run {self._process.args} by hand")

    def tell(self, line: str, answer: str = "") -> str:
        """Sends a line of the protocol and returns the answer; waits for a given one."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._await(answer)

    def time(self, work: str, *, keep: bool) -> None:
        """Does the work once, and remembers its time if it is to be kept."""
        took = float(self.tell(work))
        if keep:
            self.times.setdefault(work, []).append(took)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def take_turns(contenders: list[Contender], works: list[str], rounds: int) -> None:
    """Every work by every contender, round by round; the first round warms up and is not kept."""
    for work in works:
        for index in range(rounds + 1):
            for contender in contenders:
                contender.time(work, keep=index > 0)
    for contender in contenders:
        contender.close()
