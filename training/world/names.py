"""What the demo model has names for: colours, shapes, things, places."""

from __future__ import annotations

Rgb = tuple[int, int, int]

# Several usual values of each colour; drawings vary them a little.
COLOURS: dict[str, tuple[Rgb, ...]] = {
    "red": ((214, 32, 36), (255, 0, 0), (220, 20, 60), (178, 24, 24)),
    "orange": ((250, 135, 10), (255, 165, 0), (255, 140, 0)),
    "yellow": ((246, 220, 30), (255, 255, 0), (255, 215, 0)),
    "green": ((34, 152, 52), (0, 128, 0), (0, 200, 0), (0, 255, 0), (60, 179, 113)),
    "blue": ((36, 78, 214), (0, 0, 255), (30, 144, 255), (0, 0, 150)),
    "purple": ((136, 46, 168), (128, 0, 128), (148, 0, 211)),
    "pink": ((255, 150, 190), (255, 105, 180), (255, 182, 193)),
    "brown": ((130, 75, 30), (139, 69, 19), (110, 60, 30)),
    "black": ((14, 14, 16), (0, 0, 0), (30, 30, 30)),
    "white": ((250, 250, 250), (255, 255, 255)),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "rectangle", "diamond", "heart")
REGIONS = (
    "in the top left", "at the top", "in the top right",
    "on the left", "in the middle", "on the right",
    "in the bottom left", "at the bottom", "in the bottom right",
)  # fmt: skip
SIZES = ("small", "big")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")

# name: code point of its emoji
THINGS: dict[str, int] = {
    "cat": 0x1F431, "dog": 0x1F436, "mouse": 0x1F42D, "rabbit": 0x1F430, "fox": 0x1F98A, "bear": 0x1F43B,
    "panda": 0x1F43C, "tiger": 0x1F42F, "lion": 0x1F981, "cow": 0x1F42E, "pig": 0x1F437, "frog": 0x1F438,
    "monkey": 0x1F435, "chicken": 0x1F414, "penguin": 0x1F427, "elephant": 0x1F418, "fish": 0x1F41F,
    "butterfly": 0x1F98B, "bee": 0x1F41D, "snail": 0x1F40C, "turtle": 0x1F422, "octopus": 0x1F419,
    "apple": 0x1F34E, "banana": 0x1F34C, "lemon": 0x1F34B, "strawberry": 0x1F353, "pear": 0x1F350,
    "carrot": 0x1F955, "tomato": 0x1F345, "mushroom": 0x1F344, "bread": 0x1F35E, "cheese": 0x1F9C0,
    "pizza": 0x1F355, "burger": 0x1F354, "egg": 0x1F95A, "cake": 0x1F382, "ice cream": 0x1F366,
    "car": 0x1F697, "bus": 0x1F68C, "bicycle": 0x1F6B2, "train": 0x1F682, "plane": 0x2708, "rocket": 0x1F680,
    "boat": 0x26F5, "house": 0x1F3E0, "tree": 0x1F333, "flower": 0x1F33B, "sun": 0x2600, "moon": 0x1F319,
    "cloud": 0x2601, "umbrella": 0x2602, "key": 0x1F511, "book": 0x1F4D6, "phone": 0x1F4F1, "clock": 0x23F0,
    "scissors": 0x2702, "hammer": 0x1F528, "ball": 0x26BD, "guitar": 0x1F3B8, "ghost": 0x1F47B,
    "smiling face": 0x1F600, "sad face": 0x1F622,
}  # fmt: skip
EMOJI = THINGS | {"heart": 0x2764}
KINDS_OF_ITEM = (*SHAPES, *THINGS)
GLYPHS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.,:-!?$%&/"

_PLURALS = {
    "cross": "crosses", "mouse": "mice", "fox": "foxes", "fish": "fish", "butterfly": "butterflies",
    "strawberry": "strawberries", "tomato": "tomatoes", "bread": "breads", "cheese": "cheeses",
    "bus": "buses", "scissors": "scissors", "octopus": "octopuses",
}  # fmt: skip


def plural(name: str) -> str:
    return _PLURALS.get(name, name + "s")


def article(phrase: str) -> str:
    if phrase.endswith(("scissors", "bread", "cheese")):
        return phrase
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
