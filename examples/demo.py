"""Asks the embedded demo model about the pictures in examples/images (this is `make demo`).

python examples/demo.py
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from bluelm_gguf import Model

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Answers every question of images/questions.json and says how many answers were right."""
    questions = json.loads((IMAGES / "questions.json").read_text(encoding="utf-8"))
    started = time.perf_counter()
    right = 0
    with Model() as model:
        print(
            f"The embedded demo model, loaded in {time.perf_counter() - started:.1f} s, about drawn pictures:"
        )
        for item in questions:
            encoded = model.encode(IMAGES / item["image"])
            plan = encoded.plan
            views = "one view" if plan.n_tiles == 1 else f"{plan.cols}:{plan.rows} grid, {plan.n_tiles} views"
            print(f"\n{item['image']} ({plan.width}x{plan.height}, {views})")
            print(f"  > {item['question']}")
            print("  ", end="")
            stream = model.stream(item["question"], images=[encoded], max_tokens=48)
            for piece in stream:
                print(piece, end="", flush=True)
            ok = stream.reply.text.strip() == item["answer"]
            right += ok
            t = stream.reply.timings
            verdict = "right" if ok else f"expected: {item['answer']}"
            times = f"image {encoded.timings.total_ms:.0f} ms, prefill {t.prefill_ms:.0f} ms"
            print(f"\n  [{verdict}; {t.image_tokens} image tokens, {times}]")
    print(f"\n{right} of {len(questions)} right. Next, after `source .venv/bin/activate`:")
    print("  bluelm-gguf chat examples/images/poster-large.png")
    print("  python -m bluelm_gguf.demo draw     (more pictures like these)")


if __name__ == "__main__":
    main()
