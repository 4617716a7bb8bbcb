"""The file that a conversation is saved in.

A zip archive without compression, with

    conversation.json     what was said, as tokens too; which pictures belong where; the model files needed
    pictures/0.f32 ...    embeddings, float32 [n_tokens, n_embd], little-endian
    kv.bin                what llama_state_seq_get_data wrote, if asked for

Nothing is ever unpacked to a path, nothing in it is executed, and no member can be larger than the file:
loading one from a stranger costs no more than reading it. Numbers are checked before they are used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BluelmError, ConversationError
from ..files import one_line, write_atomically
from ..llm.context_full import Policy
from ..llm.prompt import Turn
from ..pictures.tiling import TilePlan, TilerParams
from ..pieces import Marker, Piece, View
from ..version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "bluelm-gguf conversation"
VERSION = 1

_JSON = "conversation.json"
_KV = "kv.bin"
_MAX_JSON_BYTES = 64 << 20
_BLOCK = 4 << 20
_PLAN_NUMBERS = (
    "width", "height", "cols", "rows", "tile", "fit_width", "fit_height", "pad_left", "pad_top", "n_tiles",
    "effective", "wasted",
)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class ModelFile:
    """A file that a conversation needs; its place does not matter."""

    name: str
    n_bytes: int
    identity: str
    """See identity.py."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a conversation."""

    digest: str
    plan: TilePlan
    embeddings: NDArray[np.float32]
    pieces: tuple[Piece, ...] = ()
    """Views and the tokens around them; (): one view of all rows."""


@dataclass
class Run:
    """Neighbouring cells of the KV cache: tokens, or rows of one picture."""

    tokens: list[int] = field(default_factory=list)
    picture: int | None = None
    """Index of the picture; None: these are tokens."""
    first: int = 0
    n_rows: int = 0

    @property
    def n(self) -> int:
        """How many cells."""
        return len(self.tokens) + self.n_rows


@dataclass(frozen=True)
class KvState:
    """What the KV cache held."""

    llama_cpp: str
    """Version of llama-cpp-python, whose llama.cpp wrote it."""
    type_k: str
    type_v: str
    runs: tuple[Run, ...]
    """From position 0 on."""


@dataclass(frozen=True)
class Conversation:
    """Everything of a chat. `images` of turns, and `pending`, are indices of `pictures`."""

    llm: ModelFile
    mmproj: ModelFile | None
    """None where there are no pictures."""
    n_ctx: int
    system: str | None
    turns: tuple[Turn, ...]
    n_dropped: int
    """How many of the oldest turns are no longer sent, since the context was full."""
    dropped_before: tuple[tuple[int, int], ...]
    """The same before questions: (index of the turn, how many)."""
    context_full: Policy
    pictures: tuple[Picture, ...]
    pending: tuple[int, ...]
    kv: KvState | None = None


# ------------------------------------------------------------------------------------------------------ write


def write(path: Path, conversation: Conversation, *, kv: NDArray[np.uint8] | None = None) -> None:
    """Writes the file, or leaves what was there.

    Args:
        path: Where. An older conversation is replaced; any other file is not.
        kv: The bytes that belong to `conversation.kv`.

    Raises:
        ConversationError: the file cannot be written, or is something else.
    """
    path = Path(path)
    try:
        if path.exists() and not _is_conversation(path):
            raise ConversationError(f"{path}: exists and is no saved conversation; choose another name")
        with write_atomically(path, durable=True) as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr(_member(_JSON), json.dumps(_to_json(conversation), indent=1))
            for i, picture in enumerate(conversation.pictures):
                rows = picture.embeddings.astype("<f4", order="C", copy=False)
                with archive.open(_member(_picture_name(i)), "w", force_zip64=True) as out:
                    out.write(rows.data.cast("B"))
            if kv is not None:
                with archive.open(_member(_KV), "w", force_zip64=True) as out:
                    for start in range(0, len(kv), _BLOCK):
                        out.write(kv[start : start + _BLOCK].data)
    except OSError as error:
        if isinstance(error, BluelmError):
            raise
        raise ConversationError(f"{path}: cannot be written ({one_line(error)})") from None


@contextlib.contextmanager
def file_buffer(directory: Path, n_bytes: int) -> Iterator[NDArray[np.uint8]]:
    """Bytes to write into, which are the pages of a file without a name: a KV cache is not in memory twice.

    Raises:
        ConversationError: no room for it.
    """
    import numpy as np

    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(dir=directory))
            _allocate(file.fileno(), n_bytes)
            pages = mmap.mmap(file.fileno(), n_bytes)
        except OSError as error:
            raise ConversationError(f"{directory}: no room for the KV state ({one_line(error)})") from None
        yield np.frombuffer(pages, dtype=np.uint8)  # the mapping goes with the last array that shows it


def _allocate(handle: int, n_bytes: int) -> None:
    """Makes a file so long, on the disk too: writing to a mapped page that finds no room kills a process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, n_bytes)
        return
    for start in range(0, n_bytes, _BLOCK):
        os.write(handle, bytes(min(_BLOCK, n_bytes - start)))


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name)  # stored, and with the same date in every file


def _picture_name(i: int) -> str:
    return f"pictures/{i}.f32"


def _is_conversation(path: Path) -> bool:
    with path.open("rb") as file:  # the first member's local header, then its name
        return file.read(30 + len(_JSON))[30:] == _JSON.encode()


def _to_json(conversation: Conversation) -> dict[str, Any]:
    kv = conversation.kv
    return {
        "format": FORMAT,
        "version": VERSION,
        "written_by": __version__,
        "llm": dataclasses.asdict(conversation.llm),
        "mmproj": None if conversation.mmproj is None else dataclasses.asdict(conversation.mmproj),
        "n_ctx": conversation.n_ctx,
        "context_full": conversation.context_full,
        "system": conversation.system,
        "n_dropped": conversation.n_dropped,
        "dropped_before": [list(pair) for pair in conversation.dropped_before],
        "turns": [dataclasses.asdict(turn) for turn in conversation.turns],
        "pending": list(conversation.pending),
        "pictures": [
            {
                "digest": picture.digest,
                "shape": list(picture.embeddings.shape),
                "pieces": [_piece_to_json(piece) for piece in picture.pieces],
                "plan": {name: getattr(picture.plan, name) for name in _PLAN_NUMBERS}
                | {
                    "thumbnail_index": picture.plan.thumbnail_index,
                    "image_tokens": picture.plan.image_tokens,
                    "params": dataclasses.asdict(TilerParams.from_native(picture.plan.params.to_native())),
                },
            }
            for picture in conversation.pictures
        ],
        "kv": None if kv is None else dataclasses.asdict(kv),
    }


# ------------------------------------------------------------------------------------------------------- read


class ConversationFile:
    """A saved conversation, opened for reading; close it, or use it as a context manager.

    Raises:
        ConversationError: missing, unreadable, damaged, or of another version.

    Attributes:
        conversation: What is in it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stack = contextlib.ExitStack()
        try:
            with contextlib.ExitStack() as stack:
                self._file = stack.enter_context(self.path.open("rb"))
                self._archive = stack.enter_context(self._open_archive())
                self.conversation = self._read()
                self._stack = stack.pop_all()
        except OSError as error:
            if isinstance(error, BluelmError):
                raise
            raise ConversationError(f"{self.path}: {one_line(error)}") from None

    def __enter__(self) -> ConversationFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._stack.close()

    def damaged(self, what: str) -> ConversationError:
        """The error for a file that is not what it should be."""
        return ConversationError(f"{self.path}: the saved conversation is damaged ({what})")

    def _open_archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self._file)
        except OSError:
            raise
        except Exception:  # whatever zipfile runs into: BadZipFile, struct.error, ValueError, ...
            start = os.pread(self._file.fileno(), 30 + len(_JSON), 0) if hasattr(os, "pread") else b""
            if start[30:] == _JSON.encode():
                raise self.damaged("its end is missing") from None
            raise ConversationError(f"{self.path}: not a saved conversation") from None

    def _read(self) -> Conversation:
        self._members = {info.filename: info for info in self._archive.infolist()}
        if _JSON not in self._members:
            raise ConversationError(f"{self.path}: not a saved conversation")
        n_file = os.fstat(self._file.fileno()).st_size
        for info in self._archive.infolist():
            is_plain = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
            if not is_plain or info.file_size != info.compress_size or info.file_size > n_file:
                raise self.damaged(f"{info.filename!r} is not stored plainly")
        if self._members[_JSON].file_size > _MAX_JSON_BYTES:
            raise self.damaged(f"{_JSON} is larger than {_MAX_JSON_BYTES >> 20} MiB")
        try:
            values = json.loads(self._bytes(_JSON))
        except (ValueError, RecursionError):
            raise self.damaged(f"{_JSON} cannot be read") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ConversationError(f"{self.path}: not a saved conversation")
        if values.get("version") != VERSION:
            raise ConversationError(
                f"{self.path}: saved in version {values.get('version')!r} of the format, by bluelm-gguf "
                f"{values.get('written_by')!r}; this is {__version__}, which reads version {VERSION}"
            )
        try:
            return self._conversation(_Reader(values))
        except _Wrong as wrong:
            raise self.damaged(str(wrong)) from None
        except BluelmError as error:
            if isinstance(error, ConversationError):
                raise
            raise self.damaged(str(error)) from None  # tiler settings that libbluelm refuses

    def _bytes(self, name: str) -> bytes:
        if name not in self._members:
            raise self.damaged(f"{name} is missing")
        try:
            return self._archive.read(self._members[name])
        except OSError:
            raise
        except Exception as error:  # BadZipFile for a wrong checksum, EOFError, ...
            raise self.damaged(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from None

    def _conversation(self, values: _Reader) -> Conversation:
        pictures = tuple(self._picture(i, one) for i, one in enumerate(values.each("pictures")))
        turns = tuple(_turn(i, one, len(pictures)) for i, one in enumerate(values.each("turns")))
        last = max(len(turns) - 1, 0)
        conversation = Conversation(
            llm=_model_file(values.inner("llm")),
            mmproj=None if values.get("mmproj") is None else _model_file(values.inner("mmproj")),
            n_ctx=values.number("n_ctx", 1, 2**31 - 1),
            system=values.optional("system", str),
            turns=turns,
            n_dropped=values.number("n_dropped", 0, last) // 2 * 2,  # whole questions with their answers
            dropped_before=values.pairs("dropped_before", last),
            context_full="stop" if values.one_of("context_full", ("drop", "stop")) == "stop" else "drop",
            pictures=pictures,
            pending=values.numbers("pending", 0, len(pictures) - 1),
            kv=None if values.get("kv") is None else _kv_state(values.inner("kv"), pictures),
        )
        if pictures and conversation.mmproj is None:
            raise _Wrong("pictures without a vision file")
        if conversation.kv is not None and _KV not in self._members:
            raise _Wrong(f"{_KV} is missing")
        return conversation

    def _picture(self, i: int, values: _Reader) -> Picture:
        import numpy as np

        shape = values.numbers("shape", 1, 2**24)
        if len(shape) != 2:
            raise _Wrong("a picture's shape")
        name = _picture_name(i)
        if name in self._members and self._members[name].file_size != 4 * shape[0] * shape[1]:
            raise _Wrong(f"{name} has another size than its shape says")
        raw = self._bytes(name)
        embeddings = np.frombuffer(raw, dtype="<f4").reshape(shape).astype(np.float32)
        if not np.isfinite(embeddings).all():
            raise _Wrong(f"{name} holds values that are no numbers")
        pieces = _read_pieces(values, shape[0])
        return Picture(values.text("digest"), _plan(values.inner("plan")), embeddings, pieces)

    @contextlib.contextmanager
    def kv(self) -> Iterator[NDArray[np.uint8]]:
        """The bytes of the KV state, as pages of the file.

        Raises:
            ConversationError: they are damaged.
        """
        import numpy as np

        info = self._members[_KV]
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            head = pages[info.header_offset : info.header_offset + 30]
            if len(head) != 30 or head[:4] != b"PK\3\4":
                raise self.damaged(_KV)
            lengths = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            start = info.header_offset + 30 + lengths
            if start + info.file_size > len(pages):
                raise self.damaged(_KV)
            crc = 0
            for at in range(start, start + info.file_size, _BLOCK):
                crc = zlib.crc32(pages[at : min(at + _BLOCK, start + info.file_size)], crc)
            if crc != info.CRC:
                raise self.damaged(f"{_KV} has another checksum")
            state: Any = np.frombuffer(pages, dtype=np.uint8, count=info.file_size, offset=start)
            try:
                yield state
            finally:
                del state


class _Wrong(Exception):
    """A value that a sound file would not have."""


class _Reader:
    """Values by name, of the types and in the ranges that they must have."""

    def __init__(self, values: Any) -> None:
        if not isinstance(values, dict):
            raise _Wrong("not an object")
        self._values = values

    def get(self, name: str) -> Any:
        if name not in self._values:
            raise _Wrong(f"{name} is missing")
        return self._values[name]

    def has(self, name: str) -> bool:
        return name in self._values

    def _typed(self, name: str, kind: type[T]) -> T:
        value = self.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _Wrong(f"{name} is no {kind.__name__}")
        return value

    def text(self, name: str) -> str:
        return self._typed(name, str)

    def optional(self, name: str, kind: type[T]) -> T | None:
        return None if self.get(name) is None else self._typed(name, kind)

    def number(self, name: str, low: int, high: int) -> int:
        value = self._typed(name, int)
        if not low <= value <= high:
            raise _Wrong(f"{name} is {value}")
        return value

    def numbers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        return _numbers(name, self._typed(name, list), low, high)

    def pairs(self, name: str, high: int) -> tuple[tuple[int, int], ...]:
        found = [_numbers(name, pair, 0, high) for pair in self._typed(name, list) if isinstance(pair, list)]
        if any(len(pair) != 2 for pair in found) or len(found) != len(self.get(name)):
            raise _Wrong(f"{name} holds no pairs")
        return tuple((a, b) for a, b in found)

    def one_of(self, name: str, allowed: Sequence[str]) -> str:
        value = self.text(name)
        if value not in allowed:
            raise _Wrong(f"{name} is {value!r}")
        return value

    def inner(self, name: str) -> _Reader:
        return _Reader(self.get(name))

    def each(self, name: str) -> list[_Reader]:
        return [_Reader(value) for value in self._typed(name, list)]


def _numbers(name: str, values: Sequence[Any], low: int, high: int) -> tuple[int, ...]:
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _Wrong(f"{name} holds {value!r:.40}")
    return tuple(values)


def _model_file(values: _Reader) -> ModelFile:
    return ModelFile(values.text("name"), values.number("n_bytes", 0, 2**63 - 1), values.text("identity"))


def _turn(i: int, values: _Reader, n_pictures: int) -> Turn:
    tokens = values.get("tokens")
    return Turn(
        role=values.one_of("role", ("user", "assistant")[i % 2 : i % 2 + 1]),  # they alternate
        text=values.text("text"),
        images=values.numbers("images", 0, n_pictures - 1),
        tokens=None if tokens is None else values.numbers("tokens", 0, 2**31 - 1),
    )


def _piece_to_json(piece: Piece) -> dict[str, Any]:
    if isinstance(piece, Marker):
        return {"tokens": list(piece.tokens)}
    positions = None if piece.positions is None else piece.positions.ravel().tolist()
    return {
        "n_tokens": piece.n_tokens, "n_pos": piece.n_pos, "non_causal": piece.non_causal,
        "positions": positions,
    }  # fmt: skip


def _read_pieces(values: _Reader, n_rows: int) -> tuple[Piece, ...]:
    """Views in order of their rows, which are all of the picture's."""
    import numpy as np

    if not values.has("pieces"):  # a file of before there were pieces
        return ()
    pieces: list[Piece] = []
    first = 0
    for one in values.each("pieces"):
        if one.has("tokens"):
            pieces.append(Marker(one.numbers("tokens", 0, 2**31 - 1)))
            continue
        n_tokens, n_pos = one.number("n_tokens", 1, 2**24), one.number("n_pos", 1, 2**24)
        positions = None
        if one.get("positions") is not None:
            flat = one.numbers("positions", 0, 2**24)
            if len(flat) != 8 * n_tokens or max(flat[4 * n_tokens :]) > 1:
                raise _Wrong("positions of a view")
            positions = np.array(flat, dtype=np.int32).reshape(2, 4, n_tokens)
        elif n_pos != n_tokens:
            raise _Wrong("a view without positions")
        pieces.append(View(first, n_tokens, n_pos, positions, one.get("non_causal") is True))
        first += n_tokens
    if pieces and first != n_rows:
        raise _Wrong("views that are not the picture's rows")
    return tuple(pieces)


def _plan(values: _Reader) -> TilePlan:
    params = values.inner("params")
    alpha = params.get("alpha")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool):
        raise _Wrong("alpha is no number")
    grids = params.get("grids")
    if not isinstance(grids, list) or not all(isinstance(g, list) and len(g) == 2 for g in grids):
        raise _Wrong("grids are no pairs")
    thumbnail_index, image_tokens = values.get("thumbnail_index"), values.get("image_tokens")
    numbers: dict[str, Any] = {
        "grids": tuple(_numbers("grids", grid, 1, 2**15) for grid in grids),
        "tile": params.number("tile", 1, 2**15),
        "alpha": float(alpha),
        "thumbnail_for_single": bool(params.get("thumbnail_for_single")),
        "pad_rgb": params.numbers("pad_rgb", 0, 255),
    }
    names: dict[str, Any] = {
        name: params.text(name) for name in ("method", "thumbnail", "fit", "filter", "fit_rounding")
    }
    tiler = TilerParams(**numbers, **names)
    tiler.to_native()  # knows the names
    return TilePlan(
        params=tiler,
        thumbnail_index=None if thumbnail_index is None else values.number("thumbnail_index", 0, 2**16),
        image_tokens=None if image_tokens is None else values.number("image_tokens", 1, 2**24),
        **{name: values.number(name, 0, 2**40) for name in _PLAN_NUMBERS},
    )


def _kv_state(values: _Reader, pictures: Sequence[Picture]) -> KvState:
    runs = []
    for one in values.each("runs"):
        picture, tokens = one.get("picture"), one.numbers("tokens", 0, 2**31 - 1)
        first, n_rows = one.number("first", 0, 2**31 - 1), one.number("n_rows", 0, 2**31 - 1)
        if picture is not None:
            index = one.number("picture", 0, len(pictures) - 1)
            if tokens or first + n_rows > len(pictures[index].embeddings):
                raise _Wrong("a run of rows that its picture does not have")
        elif n_rows:
            raise _Wrong("a run of rows without a picture")
        runs.append(Run(list(tokens), picture, first, n_rows))
    return KvState(values.text("llama_cpp"), values.text("type_k"), values.text("type_v"), tuple(runs))
