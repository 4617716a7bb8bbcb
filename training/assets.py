"""Emoji pictures for training, from npm packages of free sets: SET/CODEPOINT.png, 128 pixels.

    npm pack emoji-datasource-twitter@16.0.0 openmoji@17.0.0   # Twemoji (CC-BY 4.0), OpenMoji (CC BY-SA 4.0)
    python training/assets.py OUT emoji-datasource-twitter-16.0.0.tgz openmoji-17.0.0.tgz

OpenMoji needs rsvg-convert (Debian: librsvg2-bin). Noto Color Emoji is a font (fonts-noto-color-emoji).
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.world.names import EMOJI


def main(out: str, *archives: str) -> None:
    for archive in archives:
        style = "openmoji" if "openmoji" in Path(archive).name else "twemoji"
        folder = Path(out) / style
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {}
        for code in EMOJI.values():
            for ending in ("", "-fe0f"):
                wanted[f"package/color/svg/{code:X}{ending.upper()}.svg"] = code
                wanted[f"package/img/twitter/64/{code:x}{ending}.png"] = code
        done = set()
        with tarfile.open(archive) as tar:
            for member in tar:
                code = wanted.get(member.name)
                file = tar.extractfile(member) if code is not None and code not in done else None
                if code is None or file is None:
                    continue
                data, target = file.read(), folder / f"{code:x}.png"
                if member.name.endswith(".svg"):
                    subprocess.run(["rsvg-convert", "-w", "128", "-o", target], input=data, check=True)
                else:
                    target.write_bytes(data)
                done.add(code)
        missing = [name for name, code in EMOJI.items() if code not in done]
        print(f"{folder}: {len(done)} pictures" + (f", without {missing}" if missing else ""))


if __name__ == "__main__":
    main(*sys.argv[1:])
