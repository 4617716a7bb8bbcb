"""LLaVA-OneVision: a checkpoint through the converter and the runtime, against `transformers`' own code."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import onevision
import pytest
import torch
from bluelm_gguf.convert import ConversionError, convert
from checkpoints import make_bluelm_v_checkpoint
from llm_context import LlmContext
from native_vision import NativeVision
from safetensors.torch import load_file, save_file
from tolerances import relative_error
from transformers import PreTrainedTokenizerFast

from bluelm_gguf import Model, VisionEncoder, errors
from bluelm_gguf.llm.prompt import ImageSegment, TextSegment, Turn
from bluelm_gguf.tiling import cut

# Square, wide, tall, tiny, thin, more than nine tiles (shrunk), and sides that leave odd paddings.
SIZES = [
    (384, 384), (300, 200), (16, 12), (640, 480), (333, 999), (1000, 80), (1500, 1200), (701, 1399),
    (2300, 390),
]  # fmt: skip


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes with noise, [height, width, 3] uint8."""
    rng = np.random.default_rng(seed + width * 7919 + height)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x * a + y * b) for a, b in rng.uniform(-0.05, 0.05, (3, 2))]
    rgb = 127 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 20, (height, width, 3))
    return np.clip(rgb, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """Models this small only lose by more threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Checkpoint, reference and converted files by layout and options."""
    cache: dict[tuple[Any, ...], Any] = {}

    def make(layout: str, mmproj_type: str = "f32", **options: Any) -> Any:
        key = (layout, mmproj_type, *sorted(options.items()))
        if key not in cache:
            base = tmp_path_factory.mktemp(layout)
            directory, model = onevision.make_checkpoint(base / "ck", layout, **options)
            cache[key] = (
                directory,
                model,
                convert(directory, base / "out", llm_type="f32", mmproj_type=mmproj_type),
            )
        return cache[key]

    return make


@pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_features_are_those_of_transformers(size: tuple[int, int], made: Any) -> None:
    _, model, result = made("hub")
    rgb = picture(*size)
    expected = onevision.features(model, rgb)
    with VisionEncoder(result.mmproj_path, n_threads=1) as encoder:
        assert encoder.plan(*size).n_tokens(729) == len(expected)
        ours = encoder.encode(rgb).embeddings
    assert ours.shape == expected.shape
    assert relative_error(ours, expected) < 1e-4


def test_the_layouts_are_one_model(made: Any) -> None:
    """Same weights under three sets of names: the same embeddings, bit for bit."""
    rgb = picture(500, 420)
    found = []
    for layout in onevision.LAYOUTS:
        with VisionEncoder(made(layout)[2].mmproj_path, n_threads=1) as encoder:
            found.append(encoder.encode(rgb).embeddings)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


@pytest.mark.parametrize("max_tiles", [9, 2])
def test_assembly_of_any_shape(max_tiles: int, made: Any) -> None:
    """Tiles of 4 x 4 tokens, so that grids up to 6:6 cost little; compared is how they are put together."""
    _, model, result = made("hub", image_size=56, max_tiles=max_tiles)
    rnd = random.Random(max_tiles)
    shapes = [(1, 1), (1, 300), (300, 1), (337, 337), (336, 335), (5000, 20), (20, 5000), (113, 112)]
    shapes += [(rnd.randint(1, 700), rnd.randint(1, 700)) for _ in range(60)]
    n_shrunk = 0
    with (
        VisionEncoder(result.mmproj_path, n_threads=1) as encoder,
        NativeVision(result.mmproj_path, n_threads=1) as raw,
    ):
        for width, height in shapes:
            rgb = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)
            encoded = encoder.encode(rgb)
            views = raw.encode_tiles(cut(rgb, encoded.plan))
            expected = onevision.packed(model, views, width, height)
            assert encoded.n_tokens == encoded.plan.n_tokens(16) == len(expected), (width, height)
            assert np.abs(encoded.embeddings - expected).max() < 2e-6 * np.abs(views).max(), (width, height)
            n_shrunk += encoded.plan.cols * encoded.plan.rows > 1.3 * max_tiles
    assert n_shrunk > 5


def test_plans_are_those_of_transformers(made: Any) -> None:
    """Grid, size and place of the picture: the views are equal byte by byte."""
    _, model, result = made("hub", image_size=56)
    rnd = random.Random(5)
    with VisionEncoder(result.mmproj_path, n_threads=1) as encoder:
        for _ in range(60):
            width, height = rnd.randint(1, 500), rnd.randint(1, 500)
            rgb = picture(width, height)
            views = cut(rgb, encoder.plan(width, height))
            pixels = onevision.inputs(model, rgb)["pixel_values"][0].numpy()
            assert pixels.shape[0] == len(views), (width, height)
            theirs = np.rint((pixels * 0.5 + 0.5) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
            assert np.array_equal(theirs, views), (width, height)


def test_a_single_view_ends_with_one_newline(made: Any) -> None:
    _, model, result = made("hub", image_size=56)
    rgb = picture(90, 70)
    with (
        VisionEncoder(result.mmproj_path, n_threads=1) as encoder,
        NativeVision(result.mmproj_path, n_threads=1) as raw,
    ):
        encoded = encoder.encode(rgb, tiler={"method": "single"})
        views = raw.encode_tiles(cut(rgb, encoded.plan))
    assert encoded.n_tokens == encoded.plan.n_tokens(16) == 17
    assert np.array_equal(encoded.embeddings, onevision.packed(model, views, 90, 70))
    assert np.array_equal(encoded.embeddings[-1], model.model.image_newline.detach().numpy())


def test_a_picture_of_which_nothing_is_left_is_refused(made: Any) -> None:
    """1 pixel in a grid of 6 x 6: the crop takes every row, and there is no thumbnail."""
    _, _, result = made("hub", image_size=56)
    with VisionEncoder(result.mmproj_path, n_threads=1) as encoder:
        tiler = {"thumbnail": "none", "grids": ((6, 6),)}
        with pytest.raises(errors.InvalidArgumentError, match="thumbnail"):
            encoder.plan(500, 1, tiler=tiler)
        assert encoder.plan(500, 1, tiler={"grids": ((6, 6),)}).n_tokens() == 16


def test_prompt_and_answer_are_those_of_transformers(made: Any) -> None:
    """Prompt text, logits of the next token, and 16 greedy tokens."""
    directory, model, result = made("hub", tied=True)
    rgb, question = picture(300, 200), "What is in this picture?"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>user <image>\nWhat")

    batch = onevision.inputs(model, rgb)
    n_image = len(onevision.features(model, rgb))
    expanded = text.replace("<image>", "<image>" * n_image)
    ids = tokenizer(expanded, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids, **batch).logits[0, -1].numpy()
        answer = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **batch, do_sample=False, max_new_tokens=16,
            eos_token_id=model.config.text_config.vocab_size - 1, pad_token_id=0,
        )[0, ids.shape[1] :].tolist()  # fmt: skip

    with Model(result.llm_path, mmproj=result.mmproj_path, n_ctx=2048, n_threads=1) as llm:
        encoded = llm.encode(rgb)
        segments = llm.engine.prompts.build([Turn("user", question, (encoded,))])
        ours: list[int] = []
        for segment in segments:
            assert isinstance(segment, ImageSegment | TextSegment)
            image_id = [model.config.image_token_index] * n_image
            ours += image_id if isinstance(segment, ImageSegment) else list(segment.tokens)
        assert ours == ids[0].tolist()
        reply = llm.generate(question, images=[encoded], max_tokens=16)
    assert reply.timings.image_tokens == n_image
    with LlmContext(result.llm_path, n_ctx=2048, n_batch=512) as context:
        for segment in segments:
            what = segment.image.embeddings if isinstance(segment, ImageSegment) else segment.tokens
            context.prefill(what, context.n_past())
        assert relative_error(context.logits()[None], logits[None]) < 1e-4
        assert context.greedy(16) == answer
    assert reply.text == tokenizer.decode(answer, skip_special_tokens=True)


def test_a_picture_that_does_not_fit_is_refused_before_it_is_encoded(made: Any) -> None:
    _, _, result = made("hub", tied=True)
    with (
        Model(result.llm_path, mmproj=result.mmproj_path, n_ctx=1024, n_threads=1) as llm,
        pytest.raises(errors.ContextFullError, match="1024"),
    ):
        llm.generate("?", images=[picture(640, 480)], on_progress=lambda stage, *_: stage != "encode")


@pytest.mark.parametrize(("mmproj_type", "least"), [("q8_0", 0.999), ("f16", 0.99999)])
def test_quantised_towers(mmproj_type: str, least: float, made: Any) -> None:
    _, model, result = made("original", mmproj_type)
    rgb = picture(640, 480)
    expected = onevision.features(model, rgb)
    with VisionEncoder(result.mmproj_path, n_threads=1) as encoder:
        ours = encoder.encode(rgb).embeddings
    products = np.sum(ours * expected, axis=-1)
    cosine = products / (np.linalg.norm(ours, axis=-1) * np.linalg.norm(expected, axis=-1))
    print(f"{mmproj_type}: cosine mean {cosine.mean():.6f}, worst {cosine.min():.6f}")
    assert cosine.mean() > least


def test_original_layout_has_its_own_conversation(made: Any) -> None:
    """Without a template beside the weights: ChatML with the system text of the training."""
    _, _, result = made("original")
    with Model(result.llm_path, mmproj=result.mmproj_path, n_ctx=2048, n_threads=1) as llm:
        encoded = llm.encode(picture(30, 30))
        before, image, after = llm.engine.prompts.build([Turn("user", "Hi", (encoded,))])
        assert isinstance(image, ImageSegment)
        start = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        assert list(before.tokens) == llm.llm.tokenize(start, special=True)
        end = "\nHi<|im_end|>\n<|im_start|>assistant\n"
        assert list(after.tokens) == llm.llm.tokenize(end, special=True)


def _stitched(
    views: np.ndarray, plan: Any, newline: np.ndarray, *, column_major: bool, top_left: bool
) -> np.ndarray:
    """Step by step as docs/mmproj.md has it, without shrinking. views [n, g*g, n_embd]."""
    g = round(views.shape[1] ** 0.5)
    local = np.delete(views, plan.thumbnail_index, axis=0) if plan.thumbnail_index is not None else views
    maps = local.reshape(plan.rows, plan.cols, g, g, -1)
    if column_major:
        maps = maps.swapaxes(2, 3)
    board = maps.swapaxes(1, 2).reshape(plan.rows * g, plan.cols * g, -1)
    height, width = board.shape[:2]
    if plan.width / plan.height > width / height:
        margin = (height - int(round(plan.height * (width / plan.width), 7))) // 2
        board = board[: height - 2 * margin] if top_left else board[margin : height - margin]
    else:
        margin = (width - int(round(plan.width * (height / plan.height), 7))) // 2
        board = board[:, : width - 2 * margin] if top_left else board[:, margin : width - margin]
    rows = [np.concatenate([row, newline[None]]) for row in board]
    parts = {None: [], 0: [views[0]], len(views) - 1: [views[-1]]}[plan.thumbnail_index]
    parts = parts + rows if plan.thumbnail_index in (None, 0) else rows + parts
    return np.concatenate(parts)


@pytest.mark.parametrize("column_major", [False, True])
def test_other_tilers_and_token_orders(column_major: bool, tmp_path: Path) -> None:
    """The same assembly behind the 2 x 2 merge, with the thumbnail elsewhere, and with other paddings."""
    config: dict[str, Any] = {"assembly": {"method": "anyres", "max_tiles": 0}}
    order = {"token_order": "column_major" if column_major else "row_major"}
    directory = make_bluelm_v_checkpoint(
        tmp_path / "ck", vision={"image_size": 70}, projector=order, config=config
    )
    newline = np.linspace(-1, 1, 64, dtype=np.float32)
    tensors = load_file(directory / "model.safetensors") | {"image_newline": torch.from_numpy(newline)}
    save_file(tensors, directory / "model.safetensors")
    result = convert(directory, tmp_path / "out", mmproj_type="f32", vision_only=True)
    settings: list[dict[str, Any]] = [
        {}, {"thumbnail": "last"}, {"thumbnail": "none"}, {"fit": "pad_top_left"},
        {"fit": "stretch"}, {"method": "llava_next", "fit_rounding": "ceil"},
    ]  # fmt: skip
    with (
        VisionEncoder(result.mmproj_path, n_threads=1) as encoder,
        NativeVision(result.mmproj_path, n_threads=1) as raw,
    ):
        for width, height in ((130, 60), (75, 200), (211, 199)):
            rgb = picture(width, height)
            for tiler in settings:
                encoded = encoder.encode(rgb, tiler=tiler)
                views = raw.encode_tiles(cut(rgb, encoded.plan))
                assert encoded.plan.n_tiles > 1
                shown = dataclasses.replace(encoded.plan, width=encoded.plan.cols, height=encoded.plan.rows)
                expected = _stitched(
                    views, shown if tiler.get("fit") == "stretch" else encoded.plan, newline,
                    column_major=column_major, top_left=tiler.get("fit") == "pad_top_left",
                )  # fmt: skip
                assert np.array_equal(encoded.embeddings, expected), (width, height, tiler)


def test_refused(tmp_path: Path) -> None:
    """What the converter cannot put together is named."""

    def refused(match: str, layout: str, changes: dict[str, Any], drop: str = "") -> None:
        directory, _ = onevision.make_checkpoint(tmp_path / str(len(list(tmp_path.iterdir()))), layout)
        config = json.loads((directory / "config.json").read_text()) | changes
        (directory / "config.json").write_text(json.dumps(config))
        if drop:
            tensors = load_file(directory / "model.safetensors")
            save_file(
                {k: v for k, v in tensors.items() if not k.startswith(drop)}, directory / "model.safetensors"
            )
        with pytest.raises(ConversionError, match=match):
            convert(directory, tmp_path / "out", llm_type="f32", mmproj_type="f32", dry_run=True)

    refused("vision_aspect_ratio is 'pad'", "hub", {"vision_aspect_ratio": "pad"})
    refused("no multiple of the tower's 384", "hub", {"image_grid_pinpoints": [[384, 400]]})
    refused("are not those of config.json", "hub", {"image_grid_pinpoints": [[384, 384]]})
    refused("strategy is 'default'", "hub", {"vision_feature_select_strategy": "default"})
    refused("missing: image_newline", "hub", {}, "image_newline")
    refused("mm_patch_merge_type is 'spatial'", "original", {"mm_patch_merge_type": "spatial"})
    refused("model.vision_tower", "original", {}, "model.vision_tower")


def test_grids_in_every_spelling(tmp_path: Path) -> None:
    """Pairs of pixels are (width, height) in the original and (height, width) in `transformers`."""
    cases: list[tuple[str, Any, list[tuple[int, int]]]] = [
        ("original", [[384, 768], [1152, 384]], [(1, 2), (3, 1)]),
        ("original", "(1x1),...,(2x3)", [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]),
        ("original", "(1x2),(3x1)", [(1, 2), (3, 1)]),
        ("hub", [[384, 768], [1152, 384]], [(2, 1), (1, 3)]),
        ("hub", None, [(c, r) for c in range(1, 7) for r in range(1, 7)]),
    ]
    for i, (layout, pinpoints, grids) in enumerate(cases):
        directory, _ = onevision.make_checkpoint(tmp_path / str(i), layout)
        (directory / "preprocessor_config.json").unlink(missing_ok=True)
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | {"image_grid_pinpoints": pinpoints}))
        result = convert(directory, tmp_path / "out", mmproj_type="f32", vision_only=True)
        with VisionEncoder(result.mmproj_path, n_threads=1) as encoder:
            assert sorted(encoder.tiler.grids) == sorted(grids), (layout, pinpoints)


def test_damaged_files_are_refused(made: Any, tmp_path: Path) -> None:
    whole = made("hub", image_size=56)[2].mmproj_path.read_bytes()
    for old, new, message in (
        (b"mm.image_newline", b"mm.image_newlime", "tensor mm.image_newline is missing"),
        (b"\x06\0\0\0\0\0\0\0anyres", b"\x06\0\0\0\0\0\0\0anyrex", "'anyrex', not one of concat, anyres"),
        (b"\x04\0\0\0\0\0\0\0ceil", b"\x04\0\0\0\0\0\0\0cell", "'cell', not one of floor, ceil"),
    ):
        assert whole.count(old) == 1, old
        (tmp_path / "bad.gguf").write_bytes(whole.replace(old, new))
        with pytest.raises(errors.ModelFormatError, match=message):
            VisionEncoder(tmp_path / "bad.gguf")


def test_info_and_tiles_count_as_the_encoder_does(made: Any) -> None:
    from typer.testing import CliRunner

    from bluelm_gguf.cli.main import app
    from bluelm_gguf.gguf.info import describe

    path = made("hub")[2].mmproj_path
    done = CliRunner().invoke(app, ["tiles", "2304x2304", "--mmproj", str(path)])
    assert done.exit_code == 0, done.output
    with VisionEncoder(path, n_threads=1) as encoder:
        n_tokens = encoder.plan(2304, 2304).n_tokens()
        most = max(encoder.plan(w, h).n_tokens() for w in range(300, 2305, 61) for h in range(300, 2305, 61))
    assert f"{n_tokens} tokens" in done.output
    found = describe(path)
    assert most <= found.max_tokens_per_image < 1.1 * most
    assert found.assembly == "anyres"
