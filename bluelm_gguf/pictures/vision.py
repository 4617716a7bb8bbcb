"""The vision encoder: pictures to embeddings, through libbluelm."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgumentError
from ..gguf.head import GgufHead
from ..gguf.kinds import check_mmproj_file
from ..native import library as _native
from ..native.interrupt import DeferredInterrupt
from ..native.machine import default_threads
from ..progress import ProgressFn
from .encoded import EncodedImage, EncodeTimings, PreparedImage
from .identity import picture_digest
from .planner import PicturePlanner, TilerOverrides
from .vision_file import VisionFile
from .vision_weights import VisionWeights

if TYPE_CHECKING:
    from .cache import EmbeddingCache
    from .tiling import TilePlan


class VisionEncoder(VisionFile):
    """The vision tower, downsampler and projector of one mmproj file.

    One thread at a time may use it.

    Args:
        path: The mmproj GGUF (docs/mmproj.md).
        n_threads: None: the physical cores this process may use.
        batch: Tiles per run of the encoder, 1..17 (paper section 3.3: 4).
        pipeline: Whether the patch embedding of the next batch overlaps the encoder's blocks for this one.
        free_weights: Whether the weights are streamed, and what little of them is in memory leaves it after
            each picture.
        cache: Where encoded pictures are looked for, and kept.
        weights: "resident" (in memory) or "streamed": left in the file, each block read and rearranged when
            its turn comes, for up to 8 tiles together. That saves nearly all of the weights' memory and costs
            the reading in every encode.
        activations: "int8", "float" (bf16 or float32: slower, closer to the original), or "auto": int8 for
            q8_0 and q4_0 files, float for the others.

    Raises:
        ModelFileError, ModelFormatError, UnsupportedModelError, OutOfMemoryError, InvalidArgumentError.
    """

    way = "own"
    projector_type = "bluelm"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_threads: int | None = None,
        batch: int = 4,
        pipeline: bool = False,
        weights: str = "resident",
        activations: str = "auto",
        head: GgufHead | None = None,
        cache: EmbeddingCache | None = None,
        free_weights: bool = False,
    ) -> None:
        self._weights: VisionWeights | None = None
        head = head or check_mmproj_file(path)
        super().__init__(head.path, cache)
        self.last_profile: Mapping[str, float] = {}
        """`EncodeTimings.profile` of the picture that was encoded last."""
        self._lib = _native.load()
        params = _native.VisionParams()
        _native.check(self._lib.bluelm_vision_params_default(_native.byref(params)))
        params.n_threads = n_threads or default_threads()
        params.batch = batch
        params.pipeline = int(pipeline)
        params.weights = _choice("weights", weights, _native.WEIGHTS)
        params.activations = _choice("activations", activations, _native.ACTIVATIONS)
        if free_weights:
            params.weights = _native.WEIGHTS["streamed"]
        self._weights = VisionWeights(self.path, params, free=free_weights)
        # Each of these rounds in its own way; threads, batches and streaming change no bit.
        self._arithmetic = f"activations {params.activations}, {_native.cpu_level()}"
        self._planner = PicturePlanner(self.path)
        self.info = self._planner.info
        self.tiler = self._planner.tiler
        """What the file asks for."""
        with self._weights.use() as handle:
            prefix, suffix = _native.c_char_p(), _native.c_char_p()
            _native.check(
                self._lib.bluelm_vision_get_prompt(handle, _native.byref(prefix), _native.byref(suffix))
            )
            self.prompt: tuple[str, str] = (_text(prefix.value), _text(suffix.value))
            """Texts before and after a picture's tokens."""
        image_token = head.metadata.get("bluelm.prompt.image_token")
        self.image_token = image_token if isinstance(image_token, str) else ""
        """What the chat template writes where a picture belongs; empty: pictures go before the text."""

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory at the moment."""
        return self._weights is not None and self._weights.is_loaded

    def unload(self) -> None:
        """Frees the weights; the next picture reads them again. Everything else works without them."""
        self._open_weights().unload()

    def _open_weights(self) -> VisionWeights:
        if self._weights is None or self._weights.is_closed:
            raise InvalidArgumentError("the vision encoder is closed")
        return self._weights

    @property
    def n_embd(self) -> int:
        """Width of the embeddings: the LLM's."""
        return self.info.n_embd_out

    def plan(self, width: int, height: int, *, tiler: TilerOverrides = None) -> TilePlan:
        """Plans the tiles of a picture of width x height pixels, and counts its tokens.

        Raises:
            InvalidArgumentError: an unknown or impossible tiler setting, or sizes outside 1..20000.
        """
        self._open_weights()
        return self._planner.plan(width, height, tiler=tiler)

    def overview_tokens(self, picture: PreparedImage | EncodedImage) -> int:
        """Tokens that the picture would have as one view of the whole."""
        return min(self.info.tokens_per_tile, picture.n_tokens)

    def prepare(self, image: Any, *, tiler: TilerOverrides = None) -> PreparedImage:
        """Reads a picture and plans its tiles, without encoding it.

        Raises:
            ImageError: not a usable picture.
            InvalidArgumentError: an unknown or impossible tiler setting.
        """
        from .images import load_image

        self._open_weights()
        start = time.perf_counter()
        rgb = load_image(image)
        decode_ms = (time.perf_counter() - start) * 1e3
        plan = self.plan(rgb.shape[1], rgb.shape[0], tiler=tiler)
        digest = picture_digest(rgb, plan.params)
        n_tokens = plan.n_tokens(self.info.tokens_per_tile)
        return PreparedImage(rgb, plan, n_tokens, decode_ms, digest, self.key_of(digest))

    def encode(
        self,
        image: Any,
        *,
        tiler: TilerOverrides = None,
        on_progress: ProgressFn | None = None,
    ) -> EncodedImage:
        """Encodes one picture.

        Args:
            image: Path, bytes, PIL image or uint8 array [H, W, 3].
            tiler: Departures from the tiler that the file asks for, see `tiler_params`; for example
                {"max_cols": 1, "max_rows": 1} makes one view of the whole picture.
            on_progress: Called with ("encode", tiles done, tiles in all); returning False cancels.

        Raises:
            ImageError, InvalidArgumentError, OutOfMemoryError.
            Cancelled: on_progress returned False.
        """
        return self.encode_prepared(self.prepare(image, tiler=tiler), on_progress=on_progress)

    def encode_prepared(
        self, picture: PreparedImage, *, on_progress: ProgressFn | None = None
    ) -> EncodedImage:
        """Encodes what `prepare` returned, or takes it from the cache."""
        import numpy as np

        weights = self._open_weights()
        cache_key = self._cache_key(picture, on_progress)
        kept = self._cached(picture, cache_key, self.n_embd, on_progress)
        if kept is not None:
            return kept
        height, width = picture.rgb.shape[:2]
        rgb = np.ascontiguousarray(picture.rgb)
        out = np.empty((picture.n_tokens, self.n_embd), dtype=np.float32)
        n_out = _native.c_int64(0)
        native_timings = _native.VisionTimings()
        with DeferredInterrupt() as interrupt, weights.use() as handle:

            def report(stage: str, done: int, total: int) -> bool:
                if interrupt.pending:
                    return False
                return on_progress is None or on_progress(stage, done, total) is not False

            bridge = _native.ProgressBridge(report)
            status = self._lib.bluelm_vision_encode(
                handle,
                _native.byref(picture.plan.params.to_native()),
                _native.pointer(rgb, _native.c_uint8),
                width,
                height,
                bridge.callback,
                None,
                _native.pointer(out, _native.c_float),
                out.size,
                _native.byref(n_out),
                _native.byref(native_timings),
            )
            bridge.finish(status)
            raw_profile = _native.VisionProfile()
            _native.check(self._lib.bluelm_vision_get_profile(handle, _native.byref(raw_profile)))
        self.last_profile = _profile(raw_profile)
        self._keep(cache_key, out)
        return EncodedImage(
            embeddings=out,
            plan=picture.plan,
            timings=EncodeTimings(
                decode_ms=picture.decode_ms,
                resize_ms=native_timings.resize_ms,
                patch_embd_ms=native_timings.patch_embd_ms,
                vit_ms=native_timings.vit_ms,
                total_ms=native_timings.total_ms,
                n_batches=native_timings.n_batches,
                profile=self.last_profile,
            ),
            key=picture.key,
            digest=picture.digest,
        )

    def close(self) -> None:
        """Frees the weights, as soon as nobody uses them."""
        if self._weights is not None:
            self._weights.close()

    def __enter__(self) -> VisionEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_weights", None) is not None:
            self.close()


def _profile(raw: _native.VisionProfile) -> dict[str, float]:
    names = [field[0] for field in raw._fields_ if field[0].endswith("_ms")]
    result = {name: float(getattr(raw, name)) for name in names}
    result["gops"] = 2e-6 * raw.multiply_adds / raw.total_ms if raw.total_ms > 0 else 0.0
    return result


def _choice(name: str, value: str, choices: Mapping[str, int]) -> int:
    if value not in choices:
        raise InvalidArgumentError(f"{name} is {value!r}, not one of {', '.join(choices)}")
    return choices[value]


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", errors="replace")
