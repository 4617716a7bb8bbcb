"""Training batches: pictures or windows of them, dense labels, packed questions and answers."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import torch
from PIL import Image, ImageDraw

from bluelm_gguf.demo.views import TILE, placement, views
from training.world import questions as Q
from training.world import scenes as S
from training.world.drawing import draw_item, render
from training.world.names import COLOURS, GLYPHS, KINDS_OF_ITEM, REGIONS, SHAPES, SIZES

CELL_SIZES = {
    "kind": len(KINDS_OF_ITEM) + 1,
    "colour": len(COLOURS) + 1,
    "size": 2,
    "region": 9,
    "col": 14,
    "row": 14,
    "char": len(GLYPHS) + 1,
    "next": len(GLYPHS) + 1,
    "ord": 12,
}
PATCH_SIZES = {"kind": len(KINDS_OF_ITEM) + 1, "colour": len(COLOURS) + 1, "off": 2, "char": len(GLYPHS) + 1}
COLOUR_LIST = list(COLOURS)
SKIP = -100
PREFIX_TEXT = "<|im_start|>user\n"


def labels(items, lines, h, w, regions, origin=(0, 0)):
    """Dense labels of one view.

    items: in view pixels; lines: of (char, ordinal, x, y, half width, half height); origin: of the view in
    the tile, pixels. `char` is the first glyph whose middle lies in a merged token, `next` the one after it.
    """
    ch, cw = (h + 1) // 2, (w + 1) // 2
    out = {
        "p_kind": np.zeros((h, w), np.int64),
        "p_colour": np.zeros((h, w), np.int64),
        "p_char": np.zeros((h, w), np.int64),
        "p_off": np.zeros((h, w, 2), np.float32),
    }
    out |= {"c_" + k: np.zeros((ch, cw), np.int64) for k in ("kind", "colour", "char", "next", "ord")}
    out |= {"c_" + k: np.full((ch, cw), SKIP, np.int64) for k in ("size", "region", "col", "row")}
    if items:
        mask = Image.new("L", (3 * w, 3 * h), 0)
        draw = ImageDraw.Draw(mask)
        for i, s in enumerate(items):
            draw_item(draw, s, i + 1, 3 / 14)
        ids = np.asarray(mask)[1::3, 1::3]
        yy, xx = np.mgrid[0:h, 0:w] * 14 + 7
        for i, s in enumerate(items):
            on = ids == i + 1
            kind = KINDS_OF_ITEM.index(s.kind) + 1
            colour = SKIP if s.colour is None else COLOUR_LIST.index(s.colour) + 1
            out["p_kind"][on], out["p_colour"][on] = kind, colour
            out["p_off"][on] = np.stack([(s.cx - xx[on]) / 40, (s.cy - yy[on]) / 40], -1)
            r, c = int(s.cy // 28), int(s.cx // 28)
            if 0 <= r < ch and 0 <= c < cw:
                out["c_kind"][r, c], out["c_colour"][r, c] = kind, colour
                out["c_col"][r, c], out["c_row"][r, c] = c + origin[0] // 28, r + origin[1] // 28
                if s.size_name is not None:
                    out["c_size"][r, c] = SIZES.index(s.size_name)
                if regions[i] is not None:
                    out["c_region"][r, c] = REGIONS.index(regions[i])
    for line in lines:
        for char, ordinal, x, y, hw, hh in line:
            k = GLYPHS.find(char) + 1
            if k == 0:
                continue
            r0, r1 = max(0, round((y - hh - 7) / 14)), max(0, round((y + hh - 7) / 14) + 1)
            c0, c1 = max(0, round((x - hw) / 14)), max(0, round((x + hw) / 14))
            out["p_char"][r0:r1, c0 : max(c1, c0 + 1)] = k
            r, c = int(y // 28), int(x // 28)
            if 0 <= r < ch and 0 <= c < cw:
                if out["c_char"][r, c] == 0:
                    out["c_char"][r, c], out["c_ord"][r, c] = k, min(ordinal, 11)
                elif out["c_next"][r, c] == 0:
                    out["c_next"][r, c] = k
    return out


def glyphs(text: S.Text, scale: float = 1.0, dx: float = 0.0, dy: float = 0.0):
    """(char, ordinal, x, y, half width, half height) of a line, enlarged by scale and then moved back."""
    steps = [b - a for a, b in zip(text.x, text.x[1:], strict=False)] or [text.font_size * 0.55]
    half = float(np.mean(steps)) / 2 * scale
    return [
        (char, i + 1, x * scale - dx, text.y * scale - dy, half, 0.36 * text.font_size * scale)
        for i, (char, x) in enumerate(zip(text.string, text.x, strict=True))
    ]


def scene_labels(scene: S.Scene, h: int, w: int):
    regions = [scene.region(s) for s in scene.items]
    return labels(scene.items, [glyphs(t) for t in scene.texts], h, w, regions, scene.origin)


class Tokens:
    """Token ids of questions and answers, with the weight of every answer token in the loss."""

    def __init__(self, tokenizer):
        self.tk = tokenizer
        self.cache: dict[str, tuple] = {}
        self.prefix = tokenizer.encode(PREFIX_TEXT, add_special_tokens=False).ids

    def question(self, text: str, first: bool, picture: bool = True):
        return self._ids(
            (("\n" if picture else "") if first else "<|im_end|>\n<|im_start|>user\n")
            + text
            + "<|im_end|>\n<|im_start|>assistant\n"
        )

    def _ids(self, text: str):
        if text not in self.cache:
            if len(self.cache) > 50000:
                self.cache.clear()
            self.cache[text] = self.tk.encode(text, add_special_tokens=False).ids
        return self.cache[text]

    def answer(self, qa: Q.QA):
        """Ids, and which of them carry the information. What stands in quotation marks is spelled."""
        name = "\0" + qa.key + "\0" + qa.answer
        if name not in self.cache:
            start = qa.answer.rfind(qa.key) if qa.key else 0
            end = start + len(qa.key)
            ids, key, at = [], [], 0
            for i, piece in enumerate(re.split('(?<=")([^"]*)(?=")', qa.answer, maxsplit=1)):
                for part in piece if i == 1 else [piece]:
                    enc = self.tk.encode(part, add_special_tokens=False)
                    ids += enc.ids
                    key += [a + at < end and b + at > start for a, b in enc.offsets]
                    at += len(part)
            self.cache[name] = ([*ids, self.tk.token_to_id("<|im_end|>")], [*key, False])
        return self.cache[name]


def pack(tokens: Tokens, lists, length: int, base, rng):
    """Packs the questions of each picture into `length` tokens; base [B]: the position after the image."""
    b = len(lists)
    ids, seg = np.zeros((b, length), np.int64), np.full((b, length), -1, np.int64)
    pos, target = np.zeros((b, length), np.int64), np.zeros((b, length), np.int64)
    weight, key = np.zeros((b, length), np.float32), np.zeros((b, length), bool)
    kinds = np.full((b, 24), -1, np.int64)
    for i, dialogues in enumerate(lists):
        at, n = 0, 0
        for turns in dialogues:
            line, parts = [], []
            for turn, qa in enumerate(turns):
                answer, is_key = tokens.answer(qa)
                line += tokens.question(qa.question, turn == 0, base[i] > len(tokens.prefix))
                parts.append((len(line), answer, is_key, qa.kind))
                line += answer if turn + 1 == len(turns) else answer[:-1]
            if at + len(line) - 1 > length:
                continue
            m = len(line) - 1  # the last <|im_end|> is a target only
            ids[i, at : at + m] = line[:m]
            pos[i, at : at + m] = base[i] + np.arange(m)
            n += 1
            seg[i, at : at + m] = n
            for start, answer, is_key, _ in parts:
                a = at + start - 1
                target[i, a : a + len(answer)] = answer
                weight[i, a : a + len(answer)] = [1.0 if k else 0.25 for k in is_key]
            # The accuracy counter looks at the last turn of a line
            start, answer, is_key, kind = parts[-1]
            key[i, at + start - 1 : at + start - 1 + len(answer)] = is_key
            kinds[i, n] = Q.KINDS.index(kind)
            at += m
    return {
        "ids": ids,
        "seg": seg,
        "pos": pos,
        "target": target,
        "weight": weight,
        "key": key,
        "kinds": kinds,
    }


class Batches(torch.utils.data.IterableDataset):
    """Endless batches of one phase: {"recipes": [(probability, name, batch size), ...], "qa_tokens": n}."""

    def __init__(self, tokenizer_file: str, phase: dict, seed: int, rank: int = 0):
        self.file, self.phase, self.seed, self.rank = tokenizer_file, phase, seed, rank

    def __iter__(self):
        from tokenizers import Tokenizer

        torch.set_num_threads(1)
        info = torch.utils.data.get_worker_info()
        worker = info.id if info else 0
        rng = np.random.default_rng([self.seed, self.rank, worker])
        order = np.random.default_rng(
            [self.seed, worker]
        )  # all ranks draw the same recipe, so that none waits long
        self.tokens = Tokens(Tokenizer.from_file(self.file))
        p = np.asarray([r[0] for r in self.phase["recipes"]], float)
        while True:
            _, name, size = self.phase["recipes"][int(order.choice(len(p), p=p / p.sum()))]
            yield self.batch(name, size, rng)

    def batch(self, name: str, size: int, rng) -> dict:
        if name == "text":
            made = self.text(size, rng)
        elif name == "large":
            made = self.large(size, rng)
        elif name.startswith("m5"):
            made = self.mosaic(size, rng)
        else:
            made = self.windows(name, size, rng)
        return {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in made.items()} | {"recipe": name}

    def _mode(self, rng, usual: dict[str, float]) -> str:
        modes = self.phase.get("modes", usual)
        p = np.asarray(list(modes.values()))
        return str(rng.choice(list(modes), p=p / p.sum()))

    def _ask(self, scene: S.Scene, rng) -> list:
        return Q.dialogues(scene, rng, self.phase.get("n_questions", 5), self.phase.get("weights"))

    def text(self, size: int, rng) -> dict:
        """Questions without a picture."""
        lists = [Q.dialogues(None, rng, self.phase.get("n_questions", 5)) for _ in range(size)]
        made = pack(self.tokens, lists, self.phase["qa_tokens"], [3] * size, rng)
        return made | {"image_pos": np.zeros((size, 0), np.int64)}

    def windows(self, name: str, size: int, rng) -> dict:
        """Windows of pictures of one tile.

        name: "w3", "w5", "w9", "w14" (cells a side); "x2" behind it: two views, one of them with text only;
        "e" behind it: no questions, for the dense targets alone; "f": the ViT stays as it is.
        """
        cells, k = int(name[1:].rstrip("ef").split("x")[0]), 2 if name.endswith("x2") else 1
        asks = "e" not in name
        last = 14 - cells
        edge = [
            last == 0 or rng.random() < 1.4 / (last + 1) for _ in range(2)
        ]  # the last row or column has one patch less
        h, w = (2 * cells - 1 if edge[0] else 2 * cells), (2 * cells - 1 if edge[1] else 2 * cells)
        side = (TILE if last == 0 else 14 * w, TILE if last == 0 else 14 * h)
        most = {3: 1, 5: 3, 9: 5, 14: 6}.get(cells, 4)
        sizes = {3: (34, 60), 5: (34, 100)}.get(cells, (34, 130))
        usual = {
            "distinct": 0.24,
            "count": 0.02 if cells < 9 else 0.3,
            "text": 0.42,
            "things": 0.26,
            "empty": 0.03,
            "unknown": 0.03,
        }
        pixels, rows, cols, lab, lists, image_pos, base = [], [], [], [], [], [], []
        for _ in range(size):
            scenes = []
            total = 1 if k == 1 else int(rng.choice([3, 3, 4, 5, 5, 7, 10, 17]))
            at = [0] if k == 1 else sorted(rng.choice(total, 2, replace=False).tolist())
            text_first = rng.random() < 0.5
            for v in range(k):
                r = last if edge[0] else int(rng.integers(0, last))
                c = last if edge[1] else int(rng.integers(0, last))
                mode, limit = self._mode(rng, usual), most
                if k == 2:
                    mode, limit = (
                        ("text", 0)
                        if (v == 0) == text_first
                        else (("distinct", "things")[int(rng.random() < 0.3)], most)
                    )
                scene = S.compose(
                    int(rng.integers(S.TRAIN_SEEDS.stop)),
                    width=side[0],
                    height=side[1],
                    origin=(28 * c, 28 * r),
                    mode=mode,
                    most=limit,
                    text_sizes=sizes,
                )
                scenes.append(scene)
                drawn = self._framed(scene, rng) if last == 0 else (scene, render(scene))
                scenes[-1] = drawn[0]
                pixels.append(drawn[1][: 14 * h, : 14 * w])
                rows.append(2 * r), cols.append(2 * c)
                lab.append(scene_labels(drawn[0], h, w))
                cell = (r + np.arange(cells))[:, None] * 14 + c + np.arange(cells)[None]
                image_pos.append(3 + 196 * at[v] + cell.reshape(-1))
            base.append(3 + 196 * total)
            if not asks:
                continue
            whole = scenes[0]
            if k == 2:
                whole = dataclasses.replace(
                    scenes[0],
                    items=scenes[0].items + scenes[1].items,
                    texts=scenes[0].texts or scenes[1].texts,
                    unknown=False,
                    grid=(2, 2),
                )
            lists.append(self._ask(whole, rng))
        out = {
            "pixels": np.stack(pixels),
            "rows": np.asarray(rows),
            "cols": np.asarray(cols),
            "views": np.asarray(k),
            "image_pos": np.stack(image_pos).reshape(size, -1),
        }
        out |= {key: np.stack([x[key] for x in lab]) for key in lab[0]}
        return out | pack(self.tokens, lists, self.phase["qa_tokens"], base, rng) if asks else out

    @staticmethod
    def _framed(scene: S.Scene, rng) -> tuple[S.Scene, np.ndarray]:
        """Some pictures are not square: drawn again as a piece of the tile, between black bars."""
        if rng.random() > 0.3:
            return scene, render(scene)
        short = int(rng.uniform(0.5, 0.97) * TILE)
        size = (TILE, short) if rng.random() < 0.5 else (short, TILE)
        mode = "text" if scene.texts else "count" if len(scene.items) > 2 else "distinct"
        inner = S.compose(
            int(rng.integers(S.TRAIN_SEEDS.stop)), width=size[0], height=size[1], frame=size, mode=mode
        )
        dx, dy = (TILE - size[0]) // 2, (TILE - size[1]) // 2
        canvas = np.zeros((TILE, TILE, 3), np.uint8)
        canvas[dy : dy + size[1], dx : dx + size[0]] = render(inner)
        items = tuple(dataclasses.replace(i, cx=i.cx + dx, cy=i.cy + dy) for i in inner.items)
        texts = tuple(dataclasses.replace(t, x=tuple(x + dx for x in t.x), y=t.y + dy) for t in inner.texts)
        return dataclasses.replace(
            inner, items=items, texts=texts, width=TILE, height=TILE, frame=size, origin=(-dx, -dy)
        ), canvas

    def mosaic(self, size: int, rng) -> dict:
        """Four windows of five tokens a side of one scene, and nothing between: many objects, few tokens."""
        pixels, rows, cols, lab, lists, image_pos = [], [], [], [], [], []
        for _ in range(size):
            top, left = (int(rng.integers(0, 4)) for _ in range(2))
            bottom, right = (int(rng.integers(a + 5, 9)) for a in (top, left))
            corners = [(top, left), (top, right), (bottom, left), (bottom, right)]
            background = S.random_background(rng)
            while len(S.visible_colours(background)) < 4:
                background = S.random_background(rng)
            colours = S.visible_colours(background)
            finish = S.pick(rng, S.FINISHES)
            roll, n = rng.random(), int(rng.integers(1, 6))
            if roll < self.phase.get("modes", {}).get("count", 0.4):
                target, colour = S.pick(rng, SHAPES), S.pick(rng, colours)
                uniform = rng.random() < 0.45
                others = [k for k in SHAPES if k != target]
                wanted = [(target, colour if uniform else S.pick(rng, colours)) for _ in range(n)]
                wanted += [
                    (S.pick(rng, others), S.pick(rng, colours)) for _ in range(int(rng.integers(0, 3)))
                ]
            else:
                n = min(n, 4) if roll < 0.85 else int(rng.integers(0, 3))
                kinds = rng.permutation(len(SHAPES))[:n]
                wanted = [
                    (SHAPES[k], colours[c])
                    for k, c in zip(kinds, rng.permutation(len(colours)), strict=False)
                ]
            text_at = int(rng.integers(4)) if roll >= 0.85 else -1
            room = [v for v in range(4) if v != text_at] * 2
            places = rng.permutation(len(room))[: len(wanted)]
            items, texts = [], ()
            for v, (r, c) in enumerate(corners):
                scene = S.compose(
                    int(rng.integers(S.TRAIN_SEEDS.stop)),
                    width=140,
                    height=140,
                    origin=(28 * c, 28 * r),
                    mode="text" if v == text_at else "distinct",
                    wanted=[w for w, p in zip(wanted, places, strict=False) if room[p] == v],
                    background=background,
                    finish=finish,
                    text_sizes=(34, 80),
                )
                pixels.append(render(scene))
                rows.append(2 * r), cols.append(2 * c)
                lab.append(scene_labels(scene, 10, 10))
                image_pos.append((3 + (r + np.arange(5))[:, None] * 14 + c + np.arange(5)[None]).reshape(-1))
                items += [dataclasses.replace(s, cx=s.cx + 28 * c, cy=s.cy + 28 * r) for s in scene.items]
                texts = texts or scene.texts
            whole = S.Scene(TILE, TILE, background, tuple(items), texts, (0, 0), (TILE, TILE))
            lists.append(self._ask(whole, rng))
        out = {
            "pixels": np.stack(pixels),
            "rows": np.asarray(rows),
            "cols": np.asarray(cols),
            "views": np.asarray(4),
            "image_pos": np.stack(image_pos).reshape(size, -1),
        }
        out |= {key: np.stack([x[key] for x in lab]) for key in lab[0]}
        return out | pack(self.tokens, lists, self.phase["qa_tokens"], [199] * size, rng)

    def large(self, size: int, rng) -> dict:
        """Whole pictures of several tiles, all of a batch with the same number of views."""
        grids = ([(2, 1), (1, 2)], [(3, 1), (1, 3)], [(2, 2)])[int(rng.choice(3, p=[0.6, 0.15, 0.25]))]
        pixels, lists, image_pos, base, lab = [], [], [], [], []
        for _ in range(size):
            mode = self._mode(rng, {"distinct": 0.3, "count": 0.15, "text": 0.35, "things": 0.1, "menu": 0.1})
            scene = S.compose(int(rng.integers(S.TRAIN_SEEDS.stop)), large=True, grids=grids, mode=mode)
            seen = views(render(scene))
            total = len(seen)
            pixels.append(seen)
            image_pos.append(3 + np.arange(196 * total))
            lists.append(self._ask(scene, rng))
            base.append(3 + 196 * total)
            cols, rows = scene.grid
            scale, _, _, left, top = placement(scene.width, scene.height, cols, rows)
            for v in range(total):
                lines = []
                if v:
                    ox, oy = ((v - 1) % cols) * TILE - left, ((v - 1) // cols) * TILE - top
                    lines = [glyphs(t, scale, ox, oy) for t in scene.texts]
                lab.append(labels((), lines, 27, 27, []))
        out = {
            "pixels": np.concatenate(pixels),
            "rows": np.zeros(size * total, np.int64),
            "cols": np.zeros(size * total, np.int64),
            "views": np.asarray(total),
            "image_pos": np.stack(image_pos),
        }
        out |= {key: np.stack([x[key] for x in lab]) for key in lab[0]}
        return out | pack(self.tokens, lists, self.phase["qa_tokens"], base, rng)
