"""The vision encoder: pictures to embeddings, through libbluelm."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BluelmError, Cancelled, InvalidArgumentError
from ..file_stamp import FileStamp, combine
from ..gguf.head import GgufHead
from ..gguf.kinds import check_mmproj_file
from ..native import library as _native
from ..native.interrupt import DeferredInterrupt
from ..native.machine import default_threads
from ..progress import ProgressFn
from .identity import file_sha256, picture_digest
from .planner import PicturePlanner, TilerOverrides
from .vision_weights import VisionWeights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .cache import EmbeddingCache
    from .tiling import TilePlan


@dataclass(frozen=True)
class EncodeTimings:
    """Milliseconds of one encode; the parts overlap where the pipeline runs, so they may exceed the total."""

    decode_ms: float
    """Reading the picture file."""
    resize_ms: float
    """Resize, pad, cut."""
    patch_embd_ms: float
    vit_ms: float
    """Transformer blocks, downsampler and projector."""
    total_ms: float
    """Wall time in the encoder."""
    n_batches: int
    profile: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Where the time in the encoder went: milliseconds by stage, in the order of the network, `total_ms`, and
    `gops`: the whole arithmetic (2 operations for a multiply-add) over the total, in 1e9 per second. What a
    thread waits for at the end of a stage counts as part of it. Empty for a picture from the cache."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A picture as the LLM takes it; may be used in any number of questions."""

    embeddings: NDArray[np.float32]
    """[n_tokens, n_embd], views in the plan's order, or put together as the file asks."""
    plan: TilePlan
    timings: EncodeTimings
    key: str
    """Tells pictures apart within this process: the same pixels, cut in the same way and encoded by the same
    file, have the same."""
    digest: str
    """Of the pixels and the tiler's settings, see `identity.picture_digest`; the same on every machine."""
    is_cached: bool = False
    """Whether the embeddings were read from the cache on disk."""

    @property
    def n_tokens(self) -> int:
        """Rows of the embeddings."""
        return int(self.embeddings.shape[0])


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A picture that was read and planned, and is not encoded yet."""

    rgb: NDArray[np.uint8]
    plan: TilePlan
    n_tokens: int
    decode_ms: float
    digest: str
    key: str
    """As the encoded picture will have them."""


class VisionEncoder:
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
        self.stamp = FileStamp.of(path)
        """Tells whether another file has taken its place since."""
        self._sha256: str | None = None
        self.last_profile: Mapping[str, float] = {}
        """`EncodeTimings.profile` of the picture that was encoded last."""
        self._cache = cache
        head = head or check_mmproj_file(path)
        self.path = head.path
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

    def identity(self, *, go_on: Callable[[], object] | None = None) -> str:
        """SHA-256 of the file. It is computed when first asked for; with a cache, once for all processes.

        Args:
            go_on: Called every few milliseconds; what it raises ends the work.

        Raises:
            ModelFileError: the file is gone.
            MismatchError: it is another one than was loaded.
        """
        if self._sha256 is None:
            remembered = self._cache.digests if self._cache is not None else None
            self._sha256 = file_sha256(self.stamp, remembered=remembered, go_on=go_on)
        return self._sha256

    def key_of(self, digest: str) -> str:
        """`EncodedImage.key` of a picture with this digest."""
        return combine(digest, self.stamp.local_id, self._arithmetic)

    def plan(self, width: int, height: int, *, tiler: TilerOverrides = None) -> TilePlan:
        """Plans the tiles of a picture of width x height pixels, and counts its tokens.

        Raises:
            InvalidArgumentError: an unknown or impossible tiler setting, or sizes outside 1..20000.
        """
        self._open_weights()
        return self._planner.plan(width, height, tiler=tiler)

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
        if self._cache is not None and cache_key is not None:
            kept = self._cache.get(cache_key, shape=(picture.n_tokens, self.n_embd))
            if kept is not None:
                n_tiles = picture.plan.n_tiles
                if on_progress is not None and on_progress("encode", n_tiles, n_tiles) is False:
                    raise Cancelled("encoding was cancelled")
                timings = EncodeTimings(picture.decode_ms, 0.0, 0.0, 0.0, 0.0, 0)
                return EncodedImage(kept, picture.plan, timings, picture.key, picture.digest, is_cached=True)
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
        if self._cache is not None and cache_key is not None:
            self._cache.put(cache_key, out)
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

    def _cache_key(self, picture: PreparedImage, on_progress: ProgressFn | None) -> str | None:
        """The picture's place in the cache; None without a cache."""
        if self._cache is None:
            return None

        def go_on() -> None:
            is_stopped = on_progress is not None and on_progress("encode", 0, picture.plan.n_tiles) is False
            if is_stopped or interrupt.pending:
                raise Cancelled("encoding was cancelled")

        try:
            with DeferredInterrupt() as interrupt:
                identity = self.identity(go_on=go_on)
            return combine("bluelm embeddings", picture.digest, identity, self._arithmetic)
        except Cancelled:
            raise
        except BluelmError as error:
            self._cache.warn(str(error))
            return None

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
