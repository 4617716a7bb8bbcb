"""What encode.py and llm.py share: contenders that take turns, the machine's limits, and the file of results.

A contender is a process that is told what to do, and answers with milliseconds: contender.py.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from bluelm_gguf.cli import bench_results as bench

HERE = Path(__file__).resolve().parent
LIMITS = ("bandwidth_gbs", "int8_gops", "bf16_gflops", "f32_gflops")
SLOW_MS = 2000.0  # a call that takes longer needs no second warm-up


class Contender:
    """A running process and its times by kind of work.

    Args:
        name: What the table calls it.
        script: File beside this one.
        arguments: Its command line.
        level: BLUELM_CPU_LEVEL for it; empty for the environment's.
    """

    def __init__(self, name: str, script: str, *arguments: object, level: str = "") -> None:
        self.name = name
        self.times: dict[str, list[float]] = {}
        self.last = 0.0  # ms of the last call
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        print(f"starting {name}", file=sys.stderr, flush=True)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # until close()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env=os.environ | ({"BLUELM_CPU_LEVEL": level} if level else {}),
        )  # fmt: skip
        self._await("ready")

    def _await(self, word: str = "") -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # What libraries print while they load is passed over.
            if not word or line.strip() == word:
                return line.strip()
        self._fail()

    def _fail(self) -> NoReturn:
        code = self._process.wait()
        self._log.seek(0)
        reason = "\n".join(self._log.read().strip().splitlines()[-15:])
        raise SystemExit(f"{self.name} ended with {code}:\n{reason}")

    def tell(self, line: str, answer: str = "") -> str:
        """Sends a line of the protocol and returns the answer; waits for a given one."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()
        return self._await(answer)

    def time(self, work: str, *, keep: bool) -> None:
        """Does the work once, and remembers its time if it is to be kept."""
        self.last = float(self.tell(work))
        if keep:
            self.times.setdefault(work, []).append(self.last)

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._log.close()


def take_turns(contenders: list[Contender], work: str, rounds: int) -> None:
    """A work by every contender, round by round.

    The first round warms up and is not kept; who took long for its last work has done that already. Who is
    slow gets two rounds: they are compared by factors.
    """
    for index in range(rounds + 1):
        for contender in contenders:
            is_slow = contender.last > SLOW_MS
            if is_slow and (index == 0 or (index > 2 and contender.last > 5 * SLOW_MS)):
                continue
            contender.time(work, keep=index > 0)
    for contender in contenders:
        print(f"{contender.name}: {work}: {contender.times[work]} ms", file=sys.stderr, flush=True)


def converter() -> str:
    """Digits that change with our converter: files that an older one made are not used again."""
    digest = hashlib.sha256()
    for path in sorted((HERE.parents[1] / "convert").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def limits(threads: int) -> dict[str, Any]:
    """A row of bluelm-bench: read bandwidth and peaks now, the machine's name, the library's build."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "limits.json"
        command = [bench.program(), "--synthetic", "demo", "--roofline", "-t", str(threads)]
        command += ["-p", "1", "-n", "0", "-r", "1", "--json", out]
        done = subprocess.run(command, env=bench.environment(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"bluelm-bench: {done.stderr.strip()}")
        return bench.read(out)[0]


def best_limits(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The highest of each of several measurements: a limit is what can be reached."""
    return {name: max(float(row[name] or 0) for row in rows) for name in LIMITS}


def versions(*packages: str) -> dict[str, str]:
    """Of what is installed."""
    found = {}
    for name in ("llama-cpp-python", *packages):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def save(path: Path, row: dict[str, Any], run: dict[str, Any], *, append: bool) -> dict[str, Any]:
    """Writes a run to a file of results, beside the runs that are there or instead of them.

    Args:
        path: The file.
        row: What `limits` returned: it names the machine.
        run: Everything else; what is in "setting" must be equal for runs of one file.
        append: Keep what is there.
    """
    machine = {name: row[name] for name in ("cpu", "n_cores", "n_threads", "cpu_level")}
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
    result = {"machine": machine, "runs": [{"time": now, "build": row["build"], **run}]}
    if append and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["machine"] != machine or before["runs"][0]["setting"] != run["setting"]:
            raise SystemExit(f"{path.name} has runs of another machine or setting: leave --append out")
        result["runs"] = before["runs"] + result["runs"]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    return result
