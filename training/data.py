"""Training batches: pictures or windows of them, dense labels, packed questions and answers."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from PIL import Image, ImageDraw

from bluelm_gguf.demo import questions as Q
from bluelm_gguf.demo import scenes as S
from bluelm_gguf.demo.views import TILE, placement, views

CELL_SIZES = {
    "shape": len(S.SHAPES) + 1,
    "colour": len(S.COLOURS) + 1,
    "size": 2,
    "region": 5,
    "char": len(S.GLYPHS) + 1,
    "ord": 6,
}
PATCH_SIZES = {"shape": len(S.SHAPES) + 1, "colour": len(S.COLOURS) + 1, "off": 2, "char": len(S.GLYPHS) + 1}
COLOUR_LIST = list(S.COLOURS)
SKIP = -100
PREFIX_TEXT = "<|im_start|>user\n"


def labels(shapes, glyphs, h, w, regions):
    """Dense labels of one view.

    shapes: in view pixels; glyphs: (char, ordinal, x, y, half width, half height).
    """
    ch, cw = (h + 1) // 2, (w + 1) // 2
    out = {
        "p_shape": np.zeros((h, w), np.int64),
        "p_colour": np.zeros((h, w), np.int64),
        "p_char": np.zeros((h, w), np.int64),
        "p_off": np.zeros((h, w, 2), np.float32),
    }
    out |= {"c_" + k: np.zeros((ch, cw), np.int64) for k in ("shape", "colour", "char", "ord")}
    out |= {"c_size": np.full((ch, cw), SKIP, np.int64), "c_region": np.full((ch, cw), SKIP, np.int64)}
    if shapes:
        mask = Image.new("L", (3 * w, 3 * h), 0)
        draw = ImageDraw.Draw(mask)
        for i, s in enumerate(shapes):
            S.draw_shape(draw, s, i + 1, 3 / 14)
        ids = np.asarray(mask)[1::3, 1::3]
        yy, xx = np.mgrid[0:h, 0:w] * 14 + 7
        for i, s in enumerate(shapes):
            on = ids == i + 1
            kind, colour = S.SHAPES.index(s.kind) + 1, COLOUR_LIST.index(s.colour) + 1
            out["p_shape"][on], out["p_colour"][on] = kind, colour
            out["p_off"][on] = np.stack([(s.cx - xx[on]) / 40, (s.cy - yy[on]) / 40], -1)
            r, c = int(s.cy // 28), int(s.cx // 28)
            if 0 <= r < ch and 0 <= c < cw:
                out["c_shape"][r, c], out["c_colour"][r, c] = kind, colour
                out["c_size"][r, c] = S.SIZES.index(s.size_name)
                if regions[i] is not None:
                    out["c_region"][r, c] = S.REGIONS.index(regions[i])
    for char, ordinal, x, y, hw, hh in glyphs:
        k = S.GLYPHS.index(char) + 1
        r0, r1 = max(0, round((y - hh - 7) / 14)), max(0, round((y + hh - 7) / 14) + 1)
        c0, c1 = max(0, round((x - hw - 7) / 14)), max(0, round((x + hw - 7) / 14) + 1)
        out["p_char"][r0:r1, c0:c1] = k
        r, c = int(y // 28), int(x // 28)
        if 0 <= r < ch and 0 <= c < cw:
            out["c_char"][r, c], out["c_ord"][r, c] = k, ordinal
    return out


def scene_labels(scene: S.Scene, h: int, w: int):
    glyphs = []
    if scene.text is not None:
        t = scene.text
        adv = (t.x[1] - t.x[0]) / 2 if len(t.x) > 1 else 14
        glyphs = [
            (ch, i + 1, x, t.y, min(adv, 12), 0.36 * t.font_size)
            for i, (ch, x) in enumerate(zip(t.string, t.x, strict=True))
        ]
    return labels(scene.shapes, glyphs, h, w, [scene.region(s) for s in scene.shapes])


class Tokens:
    """Token ids of questions and answers, with the weight of every answer token in the loss."""

    def __init__(self, tokenizer):
        self.tk = tokenizer
        self.cache: dict[str, tuple] = {}
        self.prefix = tokenizer.encode(PREFIX_TEXT, add_special_tokens=False).ids

    def question(self, text: str, first: bool):
        return self._ids(
            ("\n" if first else "<|im_end|>\n<|im_start|>user\n")
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
        name = "\0" + qa.key + "\0" + qa.answer
        if name not in self.cache:
            enc = self.tk.encode(qa.answer, add_special_tokens=False)
            start = qa.answer.rfind(qa.key)
            end = start + len(qa.key)
            key = [a < end and b > start for a, b in enc.offsets]
            self.cache[name] = ([*enc.ids, self.tk.token_to_id("<|im_end|>")], [*key, False])
        return self.cache[name]


def pack(tokens: Tokens, lists, length: int, base, rng):
    """Packs the questions of each picture into `length` tokens; base [B]: the position after the image."""
    b = len(lists)
    ids, seg = np.zeros((b, length), np.int64), np.full((b, length), -1, np.int64)
    pos, target = np.zeros((b, length), np.int64), np.zeros((b, length), np.int64)
    weight, key = np.zeros((b, length), np.float32), np.zeros((b, length), bool)
    kinds = np.full((b, 24), -1, np.int64)
    for i, qas in enumerate(lists):
        at, n, j = 0, 0, 0
        while j < len(qas):
            turns = 2 if rng.random() < 0.12 and j + 1 < len(qas) else 1
            line, parts = [], []
            for turn, qa in enumerate(qas[j : j + turns]):
                answer, is_key = tokens.answer(qa)
                line += tokens.question(qa.question, turn == 0)
                parts.append((len(line), answer, is_key, qa.kind))
                line += answer if turn + 1 == turns else answer[:-1]
            j += turns
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
        if name == "large":
            made = self.large(size, rng)
        elif name.startswith("m5"):
            made = self.mosaic(size, rng)
        else:
            made = self.windows(name, size, rng)
        return {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in made.items()} | {"recipe": name}

    def windows(self, name: str, size: int, rng) -> dict:
        """Windows of pictures of one tile.

        name: "w3", "w5", "w9", "w14" (cells a side); "x2" behind it: two views, one of them with text only;
        "e" behind it: no questions, for the dense targets alone; "f": the ViT stays as it is.
        """
        cells, k = int(name[1:].rstrip("ef").split("x")[0]), 2 if name.endswith("x2") else 1
        asks = not name.endswith("e")
        last = 14 - cells
        edge = [
            last == 0 or rng.random() < 1.4 / (last + 1) for _ in range(2)
        ]  # the last row or column has one patch less
        h, w = (2 * cells - 1 if edge[0] else 2 * cells), (2 * cells - 1 if edge[1] else 2 * cells)
        side = (TILE if last == 0 else 14 * w, TILE if last == 0 else 14 * h)
        most = {3: 1, 5: 3, 9: 4, 14: 5}.get(cells, 4)
        pixels, rows, cols, lab, lists, image_pos, base = [], [], [], [], [], [], []
        for _ in range(size):
            scenes = []
            total = 1 if k == 1 else int(rng.choice([3, 3, 4, 5, 5, 7, 10, 17]))
            at = [0] if k == 1 else sorted(rng.choice(total, 2, replace=False).tolist())
            text_first = rng.random() < 0.5
            for v in range(k):
                r = last if edge[0] else int(rng.integers(0, last))
                c = last if edge[1] else int(rng.integers(0, last))
                mode, limit = None, most
                if k == 2:
                    mode, limit = (
                        ("text", 0)
                        if (v == 0) == text_first
                        else (("distinct", "count")[int(rng.random() < 0.3)], most)
                    )
                elif "modes" in self.phase:
                    mode = str(rng.choice(list(self.phase["modes"]), p=list(self.phase["modes"].values())))
                elif rng.random() < {3: 0.45, 5: 0.25}.get(cells, 0.5 if not asks else 0.3):
                    mode = "text"
                scene = S.compose(
                    int(rng.integers(S.TRAIN_SEEDS.stop)),
                    width=side[0],
                    height=side[1],
                    origin=(28 * c, 28 * r),
                    mode=mode,
                    closed_words=False,
                    most=limit,
                )
                scenes.append(scene)
                pixels.append(S.render(scene)[: 14 * h, : 14 * w])
                rows.append(2 * r), cols.append(2 * c)
                lab.append(scene_labels(scene, h, w))
                cell = (r + np.arange(cells))[:, None] * 14 + c + np.arange(cells)[None]
                image_pos.append(3 + 196 * at[v] + cell.reshape(-1))
            base.append(3 + 196 * total)
            if not asks:
                continue
            whole = scenes[0]
            if k == 2:
                whole = dataclasses.replace(
                    scenes[0],
                    shapes=scenes[0].shapes + scenes[1].shapes,
                    text=scenes[0].text or scenes[1].text,
                    grid=(2, 2),
                )
            lists.append(Q.questions(whole, rng, self.phase.get("n_questions", 5), self.phase.get("weights")))
        out = {
            "pixels": np.stack(pixels),
            "rows": np.asarray(rows),
            "cols": np.asarray(cols),
            "views": np.asarray(k),
            "image_pos": np.stack(image_pos).reshape(size, -1),
        }
        out |= {key: np.stack([x[key] for x in lab]) for key in lab[0]}
        return out | pack(self.tokens, lists, self.phase["qa_tokens"], base, rng) if asks else out

    def mosaic(self, size: int, rng) -> dict:
        """Four windows of five tokens a side of one scene, and nothing between: many objects, few tokens."""
        pixels, rows, cols, lab, lists, image_pos = [], [], [], [], [], []
        for _ in range(size):
            top, left = (int(rng.integers(0, 4)) for _ in range(2))
            bottom, right = (int(rng.integers(a + 5, 9)) for a in (top, left))
            corners = [(top, left), (top, right), (bottom, left), (bottom, right)]
            background = S.random_background(rng)
            colours = S.visible_colours(background)
            roll, n = rng.random(), int(rng.integers(1, 5))
            if roll < self.phase.get("modes", {}).get("count", 0.4):
                target = S.pick(rng, S.SHAPES)
                others = [k for k in S.SHAPES if k != target]
                kinds = [target] * n + [S.pick(rng, others) for _ in range(int(rng.integers(0, 3)))]
                wanted = [(k, S.pick(rng, colours)) for k in kinds]
            else:
                n = n if roll < 0.8 else int(rng.integers(0, 3))
                kinds = rng.permutation(len(S.SHAPES))[:n]
                wanted = [
                    (S.SHAPES[k], colours[c])
                    for k, c in zip(kinds, rng.permutation(len(colours)), strict=False)
                ]
            text_at = int(rng.integers(4)) if roll >= 0.8 else -1
            room = [v for v in range(4) if v != text_at] * 2
            places = rng.permutation(len(room))[: len(wanted)]
            shapes, text = [], None
            for v, (r, c) in enumerate(corners):
                scene = S.compose(
                    int(rng.integers(S.TRAIN_SEEDS.stop)),
                    width=140,
                    height=140,
                    origin=(28 * c, 28 * r),
                    mode="text" if v == text_at else "distinct",
                    closed_words=False,
                    wanted=[w for w, p in zip(wanted, places, strict=True) if room[p] == v],
                    background=background,
                )
                pixels.append(S.render(scene))
                rows.append(2 * r), cols.append(2 * c)
                lab.append(scene_labels(scene, 10, 10))
                image_pos.append((3 + (r + np.arange(5))[:, None] * 14 + c + np.arange(5)[None]).reshape(-1))
                shapes += [dataclasses.replace(s, cx=s.cx + 28 * c, cy=s.cy + 28 * r) for s in scene.shapes]
                text = text or scene.text
            whole = S.Scene(TILE, TILE, background, tuple(shapes), text, (0, 0), (TILE, TILE))
            lists.append(Q.questions(whole, rng, self.phase.get("n_questions", 5), self.phase.get("weights")))
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
        grids = ([(2, 1), (1, 2)], [(3, 1), (1, 3)], [(2, 2)])[int(rng.choice(3, p=[0.45, 0.2, 0.35]))]
        pixels, lists, image_pos, base, lab = [], [], [], [], []
        for _ in range(size):
            scene = S.compose(
                int(rng.integers(S.TRAIN_SEEDS.stop)), large=True, closed_words=False, grids=grids
            )
            seen = views(S.render(scene))
            total = len(seen)
            pixels.append(seen)
            image_pos.append(3 + np.arange(196 * total))
            lists.append(Q.questions(scene, rng, self.phase.get("n_questions", 5), self.phase.get("weights")))
            base.append(3 + 196 * total)
            cols, rows = scene.grid
            scale, _, _, left, top = placement(scene.width, scene.height, cols, rows)
            for v in range(total):
                glyphs = []
                if v and scene.text is not None:
                    ox, oy = ((v - 1) % cols) * TILE - left, ((v - 1) // cols) * TILE - top
                    t = scene.text
                    glyphs = [
                        (ch, i + 1, x * scale - ox, t.y * scale - oy, 12, 0.36 * t.font_size * scale)
                        for i, (ch, x) in enumerate(zip(t.string, t.x, strict=True))
                    ]
                    if not 0 <= glyphs[0][2] < TILE or not 0 <= glyphs[0][3] < TILE:
                        glyphs = []
                lab.append(labels([], glyphs, 27, 27, []))
        out = {
            "pixels": np.concatenate(pixels),
            "rows": np.zeros(size * total, np.int64),
            "cols": np.zeros(size * total, np.int64),
            "views": np.asarray(total),
            "image_pos": np.stack(image_pos),
        }
        out |= {key: np.stack([x[key] for x in lab]) for key in lab[0]}
        return out | pack(self.tokens, lists, self.phase["qa_tokens"], base, rng)
