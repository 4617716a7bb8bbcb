"""Pictures to embeddings through llama.cpp's libmtmd, for every projector type that it knows."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import Cancelled, InvalidArgumentError, MismatchError
from ..gguf.head import GgufHead
from ..gguf.kinds import check_mmproj_file
from ..gguf.projector import PROJECTORS, projector_type
from ..native import library as _native
from ..native.interrupt import DeferredInterrupt
from ..pieces import Marker, Piece, View, views_of
from ..progress import ProgressFn
from .encoded import EncodedImage, EncodeTimings, PreparedImage
from .vision_file import VisionFile
from .vision_weights import NativeWeights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .cache import EmbeddingCache
    from .planner import TilerOverrides
    from .tiling import TilePlan


class LanguageModel(Protocol):
    """What libmtmd must know of the language model: `llm.LanguageModel`."""

    path: Path
    n_vocab: int

    @property
    def native_model(self) -> Any:
        """llama.cpp's handle."""

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a text."""


@dataclass(frozen=True)
class MtmdInfo:
    """What is known of a vision file that libmtmd runs."""

    projector_type: str
    n_embd_out: int
    weight_bytes: int
    image_size: int
    n_pos: int
    """Positions for each embedding: 4 where the language model has M-RoPE, else 1."""
    non_causal: bool


class MtmdVision(VisionFile):
    """One vision file in libmtmd, for one language model.

    One thread at a time may use it; `prepare` may run beside `encode_prepared`.

    Args:
        path: The mmproj GGUF.
        llm: The language model that it belongs to; must outlive this object.
        n_threads: Of the encoder.
        head: The file's head, if it was read and checked before.
        cache: Where encoded pictures are looked for, and kept.
        device: Name of the ggml device that computes: "BLUELM" for our kernels, "" for ggml's CPU backend.
            None: what is faster here, or "" if the environment's BLUELM_MTMD_DEVICE is 0.
        free_weights: Whether the weights leave memory after each picture, and are read again for the next.
        verbose: Let libmtmd's log through to stderr.

    Raises:
        ModelFormatError: libmtmd refuses the file; with its reason.
        UnsupportedModelError: it takes no pictures.
        MismatchError: its embeddings have another width than the language model's, or the vocabulary lacks
            the tokens that stand around pictures.
    """

    way = "mtmd"

    def __init__(
        self,
        path: str | os.PathLike[str],
        llm: LanguageModel,
        *,
        n_threads: int = 1,
        head: GgufHead | None = None,
        cache: EmbeddingCache | None = None,
        device: str | None = None,
        free_weights: bool = False,
        verbose: bool = False,
    ) -> None:
        self._weights: _MtmdWeights | None = None
        head = head or check_mmproj_file(path)
        super().__init__(head.path, cache)
        self._lib = _native.load()
        kind = projector_type(head)
        self._check_markers(llm, kind)
        params = _native.MtmdParams()
        _native.check(self._lib.bluelm_mtmd_params_default(_native.byref(params)))
        params.n_threads = n_threads
        params.verbose = int(verbose)
        self.device = _native.mtmd_device() if device is None else device
        """The ggml device that computes; "": ggml's CPU backend."""
        params.device = self.device.encode() or None
        self._free_weights = free_weights
        self._weights = _MtmdWeights(self.path, llm, params)
        with self._weights.use() as handle:
            info = self._read_info(handle)
        image_size = head.metadata.get("clip.vision.image_size")
        self.info = MtmdInfo(
            projector_type=kind,
            n_embd_out=info.n_embd,
            weight_bytes=sum(tensor.n_bytes for tensor in head.tensors),
            image_size=image_size if isinstance(image_size, int) else 0,
            n_pos=info.n_pos,
            non_causal=bool(info.non_causal),
        )
        self.prompt: tuple[str, str] = ("", "")
        self.image_token = ""
        self.last_profile: Mapping[str, float] = {}
        precision = os.environ.get("BLUELM_DEVICE_PRECISION", "int8")
        kernels = f"{self.device}, {_native.cpu_level()}, {precision}" if self.device else "CPU"
        self._arithmetic = f"libmtmd of llama-cpp-python {_native.llama_cpp_version()}, {kernels}"
        self._n_vocab = llm.n_vocab
        known = PROJECTORS.get(kind)
        self.overview = known.overview if known is not None else None
        """How the view of the whole picture stands alone; None where there is none."""
        around = (self.overview.before, self.overview.after) if self.overview is not None else ()
        self._around_overview = [
            [Marker(tuple(llm.tokenize(text, special=True)))] if text else [] for text in around
        ]

    def _check_markers(self, llm: LanguageModel, kind: str) -> None:
        known = PROJECTORS.get(kind)
        for marker in known.markers if known is not None else ():
            if len(llm.tokenize(marker, special=True)) != 1:
                raise MismatchError(
                    f"{self.path}: pictures of projector type {kind!r} stand between tokens like {marker!r}, "
                    f"which the vocabulary of {llm.path} lacks: they do not belong together"
                )

    @property
    def projector_type(self) -> str:
        """The projector's name in the file."""
        return self.info.projector_type

    @property
    def n_embd(self) -> int:
        """Width of the embeddings: the LLM's."""
        return self.info.n_embd_out

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._weights is not None and self._weights.is_loaded

    def unload(self) -> None:
        """Frees the weights as soon as nobody uses them; the next picture reads them again."""
        self._open_weights().unload()

    def _open_weights(self) -> _MtmdWeights:
        if self._weights is None or self._weights.is_closed:
            raise InvalidArgumentError("the vision encoder is closed")
        return self._weights

    def _read_info(self, handle: Any) -> Any:
        raw = _native.MtmdInfo()
        _native.check(self._lib.bluelm_mtmd_get_info(handle, _native.byref(raw)))
        return raw

    def prepare(self, image: Any, *, tiler: TilerOverrides = None) -> PreparedImage:
        """Reads a picture and finds out its pieces, without encoding it.

        Raises:
            ImageError: not a usable picture.
            InvalidArgumentError: tiler settings other than one view of the whole picture (max_tiles 1), or
                that where there is none; sides beyond 20000 pixels.
        """
        from .images import load_image

        weights = self._open_weights()
        overview_only = self._is_overview_only(tiler)
        start = time.perf_counter()
        rgb = load_image(image)
        decode_ms = (time.perf_counter() - start) * 1e3
        height, width = rgb.shape[:2]
        with weights.use() as handle:  # they stay until the picture is encoded
            pieces, chunks = self._pieces(handle, width, height, overview_only)
        n_tokens = sum(view.n_tokens for view in views_of(pieces))
        digest = self._digest(rgb, "overview" if overview_only else "")
        plan = _plan(width, height, self.info.image_size, len(views_of(pieces)), n_tokens)
        return PreparedImage(rgb, plan, n_tokens, decode_ms, digest, self.key_of(digest), pieces, chunks)

    def _is_overview_only(self, tiler: TilerOverrides) -> bool:
        """Whether these settings ask for one view of the whole picture: all that libmtmd can be told."""
        if tiler is None or (isinstance(tiler, Mapping) and not any(tiler.values())):
            return False
        if not isinstance(tiler, Mapping) or not set(tiler) <= {"max_cols", "max_rows", "max_tiles"}:
            raise InvalidArgumentError(
                f"{self.path}: projector type {self.info.projector_type!r} cuts pictures by itself; of the "
                "tiler's settings it knows max_tiles 1, for one view of the whole picture"
            )
        cols, rows, tiles = (tiler.get(key) for key in ("max_cols", "max_rows", "max_tiles"))
        if tiles != 1 and not (cols == rows == 1):
            raise InvalidArgumentError(
                f"{self.path}: projector type {self.info.projector_type!r} cuts pictures by itself, or makes "
                "one view (max_tiles 1)"
            )
        return True

    def _digest(self, rgb: NDArray[np.uint8], how: str) -> str:
        import numpy as np

        settings = {
            "encoder": self._arithmetic, "projector": self.info.projector_type, "shape": rgb.shape, "how": how
        }  # fmt: skip
        digest = hashlib.sha256(b"libmtmd picture\0" + json.dumps(settings, sort_keys=True).encode() + b"\0")
        digest.update(np.ascontiguousarray(rgb).data.cast("B"))
        return digest.hexdigest()

    def _picture(self, handle: Any, rgb: Any, width: int, height: int) -> _Picture:
        native = _native.c_void_p()
        pixels = None if rgb is None else _native.pointer(rgb, _native.c_uint8)
        _native.check(
            self._lib.bluelm_mtmd_picture_init(handle, pixels, width, height, _native.byref(native))
        )
        return _Picture(self._lib, native)

    def _pieces(
        self, handle: Any, width: int, height: int, overview_only: bool
    ) -> tuple[tuple[Piece, ...], tuple[int, ...]]:
        """The pieces of a picture, and libmtmd's index of each view."""
        with self._picture(handle, None, width, height) as picture:
            pieces = picture.pieces(is_mrope=self.info.n_pos > 1, non_causal=self.info.non_causal)
        for piece in pieces:
            if isinstance(piece, Marker) and not all(0 <= t < self._n_vocab for t in piece.tokens):
                raise MismatchError(
                    f"{self.path}: the language model's vocabulary lacks a token that stands around pictures "
                    f"of projector type {self.info.projector_type!r}: they do not belong together"
                )
        chunks = tuple(i for i, piece in enumerate(pieces) if isinstance(piece, View))
        if not overview_only or len(chunks) == 1:
            return pieces, chunks
        if self.overview is None:
            raise InvalidArgumentError(
                f"{self.path}: projector type {self.info.projector_type!r} has no view of the whole picture"
            )
        chosen = chunks[0 if self.overview.is_first else -1]
        view = pieces[chosen]
        assert isinstance(view, View)
        before, after = self._around_overview
        view = View(0, view.n_tokens, view.n_pos, view.positions, view.non_causal)
        return (*before, view, *after), (chosen,)

    def overview_tokens(self, picture: PreparedImage | EncodedImage) -> int:
        """Tokens that the picture would have as one view of the whole; all it has where there is no other."""
        views = views_of(picture.layout)
        if self.overview is None or len(views) == 1:
            return picture.n_tokens
        return views[0 if self.overview.is_first else -1].n_tokens

    def encode(
        self, image: Any, *, tiler: TilerOverrides = None, on_progress: ProgressFn | None = None
    ) -> EncodedImage:
        """Encodes one picture; see `prepare`."""
        return self.encode_prepared(self.prepare(image, tiler=tiler), on_progress=on_progress)

    def encode_prepared(
        self, picture: PreparedImage, *, on_progress: ProgressFn | None = None
    ) -> EncodedImage:
        """Encodes what `prepare` returned, view by view, or takes it from the cache.

        Raises:
            Cancelled: on_progress returned False; it is asked between views and within one.
            ModelFormatError: libmtmd refuses a view.
        """
        weights = self._open_weights()
        cache_key = self._cache_key(picture, on_progress)
        kept = self._cached(picture, cache_key, self.n_embd, on_progress)
        if kept is not None:
            return kept
        try:
            return self._encode(weights, picture, cache_key, on_progress)
        finally:
            if self._free_weights:
                weights.unload()

    def _encode(
        self,
        weights: _MtmdWeights,
        picture: PreparedImage,
        cache_key: str | None,
        on_progress: ProgressFn | None,
    ) -> EncodedImage:
        import numpy as np

        start = time.perf_counter()
        height, width = picture.rgb.shape[:2]
        rgb = np.ascontiguousarray(picture.rgb)
        out = np.empty((picture.n_tokens, self.n_embd), dtype=np.float32)
        views = views_of(picture.pieces)
        with (
            DeferredInterrupt() as interrupt,
            weights.use() as handle,
            self._picture(handle, rgb, width, height) as native,
        ):

            def report(stage: str, done: int, total: int) -> bool:
                if interrupt.pending:
                    return False
                return on_progress is None or on_progress(stage, done, total) is not False

            prepared = time.perf_counter()
            done = 0
            for view, i in zip(views, picture.native, strict=True):
                rows = out[view.first : view.first + view.n_tokens]
                bridge = _native.ProgressBridge(report)
                status = self._lib.bluelm_mtmd_encode(
                    handle, native.handle, i, done, len(views), bridge.callback, None,
                    _native.pointer(rows, _native.c_float), rows.size,
                )  # fmt: skip
                bridge.finish(status)
                done += 1
            if not report("encode", done, len(views)):
                raise Cancelled("encoding was cancelled")
        end = time.perf_counter()
        self._keep(cache_key, out)
        timings = EncodeTimings(
            picture.decode_ms, (prepared - start) * 1e3, 0.0, (end - prepared) * 1e3, (end - start) * 1e3,
            len(views),
        )  # fmt: skip
        return EncodedImage(out, picture.plan, timings, picture.key, picture.digest, pieces=picture.pieces)

    def close(self) -> None:
        """Frees the weights, as soon as nobody uses them."""
        if self._weights is not None:
            self._weights.close()

    def __enter__(self) -> MtmdVision:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_weights", None) is not None:
            self.close()


class _MtmdWeights(NativeWeights):
    """libmtmd's context; the language model that it was made for must outlive it."""

    def __init__(self, path: str | os.PathLike[str], llm: LanguageModel, params: Any) -> None:
        super().__init__(path, free=False)
        self._llm = llm
        self._params = params

    def _init(self) -> None:
        handle = _native.c_void_p()
        with DeferredInterrupt() as interrupt:
            bridge = _native.ProgressBridge(lambda *_: not interrupt.pending)
            status = self._lib.bluelm_mtmd_init(
                os.fsencode(self.path), self._llm.native_model, _native.byref(self._params), bridge.callback,
                None, _native.byref(handle),
            )  # fmt: skip
            if status == 0:
                self._handle = handle
            bridge.finish(status)

    def _free_handle(self, handle: Any) -> None:
        self._lib.bluelm_mtmd_free(handle)


class _Picture:
    """libbluelm's handle of one picture, as a context manager."""

    def __init__(self, lib: Any, handle: Any) -> None:
        self._lib = lib
        self.handle = handle

    def __enter__(self) -> _Picture:
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.bluelm_mtmd_picture_free(self.handle)

    def pieces(self, *, is_mrope: bool, non_causal: bool) -> tuple[Piece, ...]:
        n = _native.c_int32(0)
        _native.check(self._lib.bluelm_mtmd_picture_size(self.handle, _native.byref(n)))
        pieces: list[Piece] = []
        first = 0
        for i in range(n.value):
            raw = _native.MtmdPiece()
            _native.check(self._lib.bluelm_mtmd_picture_get_piece(self.handle, i, _native.byref(raw)))
            if not raw.is_view:
                pieces.append(Marker(tuple(self._ints(raw.n_tokens, "tokens", i).tolist())))
                continue
            positions = self._positions(i, raw.n_tokens) if is_mrope else None
            pieces.append(View(first, raw.n_tokens, raw.n_pos, positions, non_causal))
            first += raw.n_tokens
        return tuple(pieces)

    def _ints(self, n: int, what: str, *arguments: int) -> NDArray[np.int32]:
        import numpy as np

        out = np.empty(n, dtype=np.int32)
        function = getattr(self._lib, f"bluelm_mtmd_picture_get_{what}")
        _native.check(function(self.handle, *arguments, _native.pointer(out, _native.c_int32), out.size))
        return out

    def _positions(self, i: int, n_tokens: int) -> NDArray[np.int32]:
        import numpy as np

        at_0, at_1 = (self._ints(4 * n_tokens, "positions", i, pos).reshape(4, -1) for pos in (0, 1))
        return np.stack([at_0, at_1 - at_0])


def _plan(width: int, height: int, tile: int, n_views: int, n_tokens: int) -> TilePlan:
    """What is known of how libmtmd cuts a picture, as far as a plan can say."""
    from .tiling import TilePlan, TilerParams

    return TilePlan(
        params=TilerParams(method="single"), width=width, height=height, cols=1, rows=1, tile=tile or 1,
        fit_width=width, fit_height=height, pad_left=0, pad_top=0, thumbnail_index=None, n_tiles=n_views,
        effective=width * height, wasted=0, image_tokens=n_tokens,
    )  # fmt: skip
