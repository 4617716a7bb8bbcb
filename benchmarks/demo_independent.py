"""An independent test of the demo model: pictures and wordings that share nothing with its training.

    python -m benchmarks.demo_independent [-m LLM.gguf --mmproj MM.gguf] [--show] [--out PICTURES]

107 questions about pictures as somebody else's few lines of Pillow draw them: plain shapes on grey, emoji of
Noto Color Emoji, words and numbers in DejaVu and Liberation, a five-line menu; and questions without a
picture or beyond what a small model knows. Nothing here comes from bluelm_gguf.demo, and training imports
nothing from here.
Questions whose font is not installed are left out and counted as such.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bluelm_gguf import Model

FONT_FILES = {
    "dejavu": "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "dejavu-bold": "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf",
    "liberation": "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "liberation-serif": "/usr/share/fonts/truetype/liberation/LiberationSerif-Regular.ttf",
    "emoji": "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
}
RGB = {
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "orange": (255, 165, 0),
    "purple": (128, 0, 128),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
COUNT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
FAMILIES: dict[str, dict[str, str]] = {
    "colour": {c: rf"\b{c}\b" for c in (*RGB, "pink", "brown", "grey")},
    "shape": {
        s: rf"\b{s}s?\b" for s in ("circle", "square", "triangle", "star", "cross", "rectangle", "diamond")
    },
    "count": {str(n): rf"\b({w}|{n})\b" for n, w in enumerate(COUNT_WORDS)},
    "side": {
        "left": r"\bleft\b",
        "right": r"\bright\b",
        "above": r"\b(above|top|over)\b",
        "below": r"\b(below|bottom|under)\b",
    },
    "yes or no": {"yes": r"^yes\b", "no": r"^no\b"},
}
CLAIM = (
    r"(?i)\b((picture|image|it) shows?|there (is|are) (an?|one|two|three|four|the)|"
    r"the (word|number|shape) is)\b"
)
HONEST = (
    r"(?i)(demo model|small model|show me|picture|image|"
    r"(do not|don't|cannot|can't|not) (know|see|read|have|tell))"
)


@dataclass(frozen=True)
class Case:
    """One question; `want` is the value of `group`'s family, or a text, or empty for an honest answer."""

    group: str
    picture: str
    question: str
    want: str
    judged: str


def plain(
    things: list[tuple[str, str, tuple[int, int], int]], size: tuple[int, int], back: str
) -> Image.Image:
    """(kind, colour, top left corner, side) on a flat background."""
    image = Image.new("RGB", size, back)
    pen = ImageDraw.Draw(image)
    for kind, colour, (x, y), side in things:
        box = (x, y, x + side, y + side)
        if kind == "circle":
            pen.ellipse(box, fill=RGB[colour])
        elif kind == "square":
            pen.rectangle(box, fill=RGB[colour])
        else:
            pen.polygon([(x + side // 2, y), (x + side, y + side), (x, y + side)], fill=RGB[colour])
    return image


def lettered(text: str, font: str, points: int, size: tuple[int, int], ink: str = "black") -> Image.Image:
    image = Image.new("RGB", size, "white")
    face = ImageFont.truetype(FONT_FILES[font], points)
    ImageDraw.Draw(image).text((size[0] / 2, size[1] / 2), text, font=face, fill=ink, anchor="mm")
    return image


def emoji(character: str) -> Image.Image:
    glyph = Image.new("RGBA", (136, 128), (0, 0, 0, 0))
    face = ImageFont.truetype(FONT_FILES["emoji"], 109)
    ImageDraw.Draw(glyph).text((0, 0), character, font=face, embedded_color=True)
    image = Image.new("RGB", (384, 384), "white")
    glyph = glyph.resize((204, 192))
    image.paste(glyph, (90, 96), glyph)
    return image


def menu() -> Image.Image:
    image = Image.new("RGB", (600, 700), (255, 253, 245))
    pen = ImageDraw.Draw(image)
    big, face = (
        ImageFont.truetype(FONT_FILES["dejavu-bold"], 64),
        ImageFont.truetype(FONT_FILES["dejavu"], 48),
    )
    pen.text((300, 70), "MENU", font=big, fill="black", anchor="mm")
    for i, (dish, price) in enumerate((("Soup", "4"), ("Salad", "6"), ("Pizza", "9"), ("Cake", "5"))):
        pen.text((60, 190 + 120 * i), dish, font=face, fill="black", anchor="lm")
        pen.text((540, 190 + 120 * i), price, font=face, fill="black", anchor="rm")
    return image


C, S, T = "circle", "square", "triangle"
SCENES: dict[str, Callable[[], Image.Image]] = {
    # one
    "a1": lambda: plain([(C, "red", (110, 120), 140)], (384, 384), "lightgrey"),
    "a2": lambda: plain([(S, "blue", (60, 60), 120)], (300, 300), "grey"),
    "a3": lambda: plain([(T, "green", (140, 90), 150)], (400, 400), "silver"),
    "a4": lambda: plain([(S, "yellow", (200, 180), 100)], (384, 384), "grey"),
    "a5": lambda: plain([(C, "black", (50, 70), 90)], (256, 256), "lightgrey"),
    # two
    "a6": lambda: plain([(S, "red", (50, 140), 100), (S, "blue", (230, 140), 100)], (384, 384), "lightgrey"),
    "a7": lambda: plain([(C, "green", (40, 150), 90), (S, "red", (250, 150), 90)], (384, 384), "silver"),
    "a8": lambda: plain([(T, "blue", (60, 60), 100), (C, "yellow", (230, 220), 110)], (400, 400), "grey"),
    "a9": lambda: plain([(C, "white", (40, 50), 100), (C, "white", (160, 150), 100)], (300, 300), "grey"),
    "a10": lambda: plain(
        [(T, "red", (140, 30), 110), (S, "green", (140, 230), 110)], (384, 384), "lightgrey"
    ),
    # three
    "a11": lambda: plain(
        [(C, "red", (30, 60), 80), (C, "red", (150, 200), 80), (C, "red", (270, 90), 80)],
        (384, 384),
        "lightgrey",
    ),
    "a12": lambda: plain(
        [(S, "black", (30, 40), 80), (T, "red", (240, 40), 90), (C, "blue", (140, 240), 90)],
        (384, 384),
        "silver",
    ),
    "a13": lambda: plain(
        [(T, "green", (20, 150), 80), (T, "blue", (150, 150), 80), (T, "red", (280, 150), 80)],
        (384, 384),
        "grey",
    ),
    "a14": lambda: plain(
        [(S, "white", (40, 40), 70), (S, "white", (200, 60), 70), (C, "orange", (120, 190), 80)],
        (300, 300),
        "grey",
    ),
    "a15": lambda: plain(
        [(C, "purple", (20, 20), 90), (S, "orange", (270, 20), 90), (S, "blue", (145, 260), 90)],
        (384, 384),
        "lightgrey",
    ),
    # broader set
    "b1": lambda: plain([(S, "red", (90, 90), 120)], (300, 300), "white"),
    "b2": lambda: plain([(C, "blue", (60, 90), 150), (T, "red", (380, 100), 140)], (600, 340), "white"),
    "b3": lambda: plain([(T, "yellow", (100, 80), 200)], (400, 360), "black"),
    "b4": lambda: plain([(C, "green", (250, 40), 100), (S, "black", (60, 230), 100)], (400, 400), "white"),
    "b5": lambda: plain(
        [
            (S, c, (30 + 120 * (i % 3), 80 + 150 * (i // 3)), 70)
            for i, c in enumerate(("red", "red", "red", "red"))
        ],
        (384, 384),
        "white",
    ),
    "b6": lambda: plain([(C, "blue", (30 + 90 * i, 150), 60) for i in range(4)], (400, 360), "lightgrey"),
    "b7": lambda: plain([(T, "green", (60, 60), 90), (T, "green", (220, 200), 90)], (384, 384), "white"),
    "b8": lambda: plain(
        [(C, "red", (50, 60), 80), (S, "blue", (220, 50), 80), (C, "red", (140, 220), 80)],
        (384, 384),
        "lightgrey",
    ),
    "menu": menu,
    "hello-word": lambda: lettered("hello", "dejavu", 90, (384, 384)),
    "stop": lambda: lettered("STOP", "dejavu-bold", 100, (400, 300), "red"),
    "open": lambda: lettered("OPEN", "liberation", 90, (384, 384)),
    "exit": lambda: lettered("EXIT", "dejavu", 80, (384, 384), "green"),
    "cat": lambda: lettered("cat", "liberation-serif", 120, (384, 384)),
    "house": lambda: lettered("house", "liberation", 80, (384, 384)),
    "Paris": lambda: lettered("Paris", "liberation-serif", 90, (384, 256)),
    "tea": lambda: lettered("Tea", "dejavu", 110, (384, 384), "blue"),
    "n7": lambda: lettered("7", "dejavu", 200, (384, 384)),
    "n42": lambda: lettered("42", "liberation", 150, (384, 384)),
    "n305": lambda: lettered("305", "dejavu-bold", 110, (384, 384)),
    "n1984": lambda: lettered("1984", "liberation-serif", 100, (384, 384)),
    "n68": lambda: lettered("68", "dejavu", 90, (500, 300)),
    "n250": lambda: lettered("250", "liberation", 120, (400, 400), "red"),
}
EMOJI = {
    "cat": "🐱",
    "dog": "🐶",
    "apple": "🍎",
    "car": "🚗",
    "house": "🏠",
    "heart": "❤",
    "sun": "☀",
    "fish": "🐟",
    "tree": "🌳",
    "banana": "🍌",
}


def cases() -> list[Case]:
    made: list[Case] = []

    def ask(group: str, picture: str, question: str, want: str, judged: str | None = None) -> None:
        made.append(Case(group, picture, question, want, judged or group))

    # 45: plain shapes on grey, one to three
    for picture, (kind, colour) in {
        "a1": (C, "red"),
        "a2": (S, "blue"),
        "a3": (T, "green"),
        "a4": (S, "yellow"),
        "a5": (C, "black"),
    }.items():
        ask("shape", picture, "What shape is this?", kind)
        ask("colour", picture, f"What color is the {kind}?", colour)
        ask("count", picture, "How many objects are there?", "1")
    ask("count", "a6", "How many objects are there?", "2")
    ask("count", "a6", "how many squares can you see?", "2")
    ask("yes or no", "a6", "Is there a circle in the image?", "no")
    ask("colour", "a7", "What color is the square?", "red")
    ask("shape", "a7", "What is the green thing?", C)
    ask("count", "a7", "How many shapes are in this picture?", "2")
    ask("colour", "a8", "What colour is the triangle", "blue")
    ask("colour", "a8", "and the circle, what color is it?", "yellow")
    ask("yes or no", "a8", "Is there a triangle?", "yes")
    ask("count", "a9", "How many circles?", "2")
    ask("colour", "a9", "What color are the shapes?", "white")
    ask("shape", "a9", "What shapes are in the picture?", C)
    ask("count", "a10", "Number of objects?", "2")
    ask("colour", "a10", "Please tell me the color of the square.", "green")
    ask("shape", "a10", "Which shape is red?", T)
    ask("count", "a11", "How many circles are there?", "3")
    ask("colour", "a11", "What color are the circles?", "red")
    ask("yes or no", "a11", "Can you see a square?", "no")
    ask("count", "a12", "How many objects are there?", "3")
    ask("colour", "a12", "What color is the square?", "black")
    ask("shape", "a12", "What is the blue shape?", C)
    ask("count", "a13", "how many triangles are there", "3")
    ask("yes or no", "a13", "Is there a red triangle?", "yes")
    ask("count", "a14", "How many squares do you see?", "2")
    ask("colour", "a14", "What is the color of the circle?", "orange")
    ask("count", "a14", "How many shapes are there in total?", "3")
    ask("colour", "a15", "What color is the circle?", "purple")
    ask("shape", "a15", "What shape is the orange one?", S)
    ask("count", "a15", "How many squares are there?", "2")
    ask("yes or no", "a15", "Do you see a triangle?", "no")
    # 62: a broader set
    ask("shape", "b1", "Can you tell me which shape you see?", S)
    ask("shape", "b3", "which geometric shape is it?", T)
    ask("shape", "b2", "What shape is the blue object?", C)
    ask("shape", "b2", "What is the red object?", T)
    ask("shape", "b4", "What's the black shape?", S)
    ask("shape", "b4", "What's the green one?", C)
    ask("shape", "b5", "What are these shapes?", S)
    ask("shape", "b6", "What kind of shapes are there?", C)
    ask("colour", "b1", "what colour is it?", "red")
    ask("colour", "b3", "what's the color of the triangle?", "yellow")
    ask("colour", "b2", "Which color does the circle have?", "blue")
    ask("colour", "b2", "Could you tell me the colour of the triangle, please?", "red")
    ask("colour", "b4", "color of the square?", "black")
    ask("colour", "b4", "What color is that circle?", "green")
    ask("colour", "b6", "What colour are the circles?", "blue")
    ask("colour", "b7", "What color do the triangles have?", "green")
    ask("count", "b1", "How many squares are in the image?", "1")
    ask("count", "b2", "How many things can you count?", "2")
    ask("count", "b5", "How many squares are there?", "4")
    ask("count", "b6", "Count the circles please", "4")
    ask("count", "b7", "How many triangles do you see?", "2")
    ask("count", "b8", "How many circles are there?", "2")
    ask("count", "b8", "How many shapes in all?", "3")
    ask("count", "b8", "How many red circles are there?", "2")
    ask("side", "b2", "Is the circle to the left or to the right of the triangle?", "left")
    ask("side", "b2", "Is the triangle left or right of the circle?", "right")
    ask("side", "a7", "Which side of the square is the circle on, left or right?", "left")
    ask("side", "a10", "Is the triangle above or below the square?", "above")
    ask("side", "a10", "Is the square over or under the triangle?", "below")
    ask("side", "b4", "Is the square to the left or right of the circle?", "left")
    for name in EMOJI:
        ask("emoji", "emoji " + name, "What is this?", name, "text")
    for picture in ("stop", "open", "exit", "cat", "house", "Paris", "tea", "hello-word"):
        want = "hello" if picture == "hello-word" else picture
        ask(
            "word",
            picture,
            "What does it say?" if len(want) % 2 else "Which word is written here?",
            want,
            "text",
        )
    for picture in ("n7", "n42", "n305", "n1984", "n68", "n250"):
        ask(
            "number",
            picture,
            "What number is this?" if len(picture) % 2 else "Which number do you see?",
            picture[1:],
            "text",
        )
    ask("menu", "menu", "How much is the pizza?", "9", "count or text")
    ask("menu", "menu", "What does the soup cost?", "4", "count or text")
    ask("menu", "menu", "What is the headline?", "menu", "text")
    ask("no picture", "", "hello", "", "honest")
    ask("no picture", "", "What color is the circle?", "", "honest")
    ask("no picture", "", "What do you see?", "", "honest")
    ask("beyond", "", "Who is the president of France?", "", "honest")
    ask("beyond", "", "What can you do?", "", "honest")
    return made


def is_right(case: Case, answer: str) -> bool:
    """One value of the family, and the right one; a text anywhere as a whole word, whatever its case."""
    if case.judged == "honest":
        return bool(re.search(HONEST, answer)) and not re.search(CLAIM, answer)
    if case.judged == "text" or (case.judged == "count or text" and re.search(rf"\b{case.want}\b", answer)):
        others = re.findall(r"\d+", answer) if case.want.isdigit() else []
        return bool(re.search(rf"(?i)\b{re.escape(case.want)}\b", answer)) and set(others) <= {case.want}
    family = FAMILIES["count" if case.judged == "count or text" else case.judged]
    return [v for v, pattern in family.items() if re.search(pattern, answer, re.IGNORECASE)] == [case.want]


def picture_of(case: Case) -> Image.Image | None:
    if not case.picture:
        return None
    if case.picture.startswith("emoji "):
        return emoji(EMOJI[case.picture.removeprefix("emoji ")])
    return SCENES[case.picture]()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", help="LLM GGUF (default: the embedded demo model)")
    parser.add_argument("--mmproj", help="vision GGUF")
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("--show", action="store_true", help="print every question and answer")
    parser.add_argument("--out", type=Path, help="write the pictures into this folder")
    args = parser.parse_args()
    right: dict[str, list[bool]] = {}
    left_out = 0
    with Model(args.model, mmproj=args.mmproj, n_ctx=4096, n_threads=args.threads) as model:
        for case in cases():
            try:
                picture = picture_of(case)
            except OSError:
                left_out += 1
                continue
            if args.out is not None and picture is not None:
                args.out.mkdir(parents=True, exist_ok=True)
                picture.save(args.out / (case.picture.replace(" ", "-") + ".png"))
            images = [picture] if picture is not None else []
            answer = model.generate(case.question, images=images, max_tokens=48).text.strip()
            good = is_right(case, answer)
            right.setdefault(case.group, []).append(good)
            if args.show:
                print(f"{'ok ' if good else 'NO '} {case.picture:12} {case.question} -> {answer}")
    print("\n| questions | asked | right |\n|---|---:|---:|")
    for group, marks in right.items():
        print(f"| {group} | {len(marks)} | {sum(marks)} |")
    every = [m for marks in right.values() for m in marks]
    print(f"| all | {len(every)} | {sum(every)} ({sum(every) / max(1, len(every)):.0%}) |")
    if left_out:
        print(f"\n{left_out} questions left out: their font is not installed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
