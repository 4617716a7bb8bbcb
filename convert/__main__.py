"""`python -m bluelm_gguf.convert CHECKPOINT_DIR -o OUT_DIR`."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from . import LLM_TYPES, MMPROJ_TYPES, convert


def _progress(stage: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{stage}: {done / 1e6:.0f}/{total / 1e6:.0f} MB", end=end, file=sys.stderr, flush=True)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # unwinds, so that temporary files go


def main(arguments: list[str] | None = None) -> int:
    """Parses, converts, prints; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bluelm_gguf.convert", description=__doc__)
    parser.add_argument("checkpoint_dir", help="config.json, safetensors and tokenizer files")
    parser.add_argument("-o", "--out", required=True, help="directory for the two GGUF files")
    parser.add_argument("--llm-type", choices=LLM_TYPES, default="q4_0")
    parser.add_argument("--mmproj-type", choices=MMPROJ_TYPES, default="q8_0")
    parser.add_argument("--name", help="of the model; default: the model card's or the directory's")
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix of the LLM")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, write nothing")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--llm-only", action="store_true", help="write no mmproj")
    only.add_argument("--vision-only", action="store_true", help="write no LLM")
    only.add_argument("--llm", metavar="LLM.gguf", help="write the mmproj that goes with this file")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        result = convert(
            options.checkpoint_dir,
            options.out,
            llm_type=options.llm_type,
            mmproj_type=options.mmproj_type,
            name=options.name,
            llm_only=options.llm_only,
            vision_only=options.vision_only,
            llm=options.llm,
            imatrix=options.imatrix,
            dry_run=options.dry_run,
            on_progress=_progress,
        )
    except ValueError as error:  # ConversionError, or options that do not go together
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cancelled; nothing was written", file=sys.stderr)
        return 130
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    print(result.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
