"""`Chat.save` and `Model.load_chat`: between a chat's state and the file of conversation.py.

What a saved conversation needs to go on is checked before anything is changed: the same language model (its
tokens mean nothing to another), the same vision file (the embeddings are its), and a context that holds the
conversation. Where the files lie, and on which machine, does not matter. A KV state is an extra: one that
this llama.cpp, or this type of KV cache, cannot take is left out with a warning and computed again.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ContextFullError, MismatchError
from ..file_stamp import FileStamp
from ..llm.context_full import shortened
from ..llm.ledger import Cell, cells_of, common
from ..llm.prompt import Turn, n_tokens
from ..native import library as _native
from ..pictures.encoded import EncodedImage, EncodeTimings
from ..pictures.identity import llm_identity
from .conversation import (
    Conversation,
    ConversationFile,
    KvState,
    ModelFile,
    Picture,
    Run,
    file_buffer,
    write,
)
from .engine import Engine
from .history import ChatState


def save(
    engine: Engine, state_now: Callable[[], ChatState], path: str | os.PathLike[str], *, kv: bool
) -> None:
    """Writes a chat's state to a file; see `Chat.save`.

    Args:
        state_now: Gives the state; with kv, it is called while nobody answers.
    """
    path = Path(path)
    llm = _llm_file(engine)
    if state_now().images:
        _mmproj_file(engine)  # not with the lock held: it may read the whole file
    with contextlib.ExitStack() as stack:
        cache = None
        if kv:
            with engine.lock.held():
                conversation = _conversation(engine, state_now(), llm, engine.ledger.cells)
                n_cells = sum(run.n for run in conversation.kv.runs) if conversation.kv is not None else 0
                # What is behind belongs to other chats, and must not get into this one's file.
                if n_cells and engine.ledger.keep(n_cells) == n_cells:
                    cache = stack.enter_context(file_buffer(path.parent, engine.llm.state_bytes()))
                    cache = cache[: engine.llm.read_state(cache)]
        if cache is None:
            conversation = _conversation(engine, state_now(), llm, [])
        write(path, conversation, kv=cache)


def load(engine: Engine, path: str | os.PathLike[str]) -> ChatState:
    """Reads a chat's state, and its KV state into the cache; see `Model.load_chat`."""
    with ConversationFile(path) as file:
        saved = file.conversation
        _check_files(engine, file)
        images = [_encoded(engine, picture) for picture in saved.pictures]
        state = ChatState(
            system=saved.system,
            turns=tuple(
                Turn(turn.role, turn.text, tuple(images[i] for i in turn.images), turn.tokens)
                for turn in saved.turns
            ),
            n_dropped=saved.n_dropped,
            dropped_before=saved.dropped_before,
            pending=tuple(images[i] for i in saved.pending),
            context_full=saved.context_full,
        )
        _check_context(engine, file, state)
        if saved.kv is None:
            return state
        with file.kv() as cache:
            cells = _cells(saved.kv, images)
            fault = _kv_fault(engine, saved.kv, len(cells))
            with engine.lock.held():
                if fault is None and not engine.ledger.restore(cells, cache, images):
                    fault = "llama.cpp refuses it"
            del cache
        if fault is not None:
            warnings.warn(
                f"{file.path}: its KV state is left out, and is computed again: {fault}", stacklevel=3
            )
        return state


# ------------------------------------------------------------------------------------------------------- save


def _llm_file(engine: Engine) -> ModelFile:
    """The language model that was loaded.

    Raises:
        MismatchError: another file has its path by now.
    """
    head = engine.llm.head
    identity = llm_identity(head)
    if FileStamp.of(head.path) != engine.llm.stamp:
        raise MismatchError(f"{head.path}: the file was changed while it was in use; load the model again")
    return ModelFile(head.path.name, head.file_bytes, identity)


def _mmproj_file(engine: Engine) -> ModelFile:
    vision = engine.need_vision()
    return ModelFile(vision.path.name, vision.stamp.size, vision.identity())


def _conversation(engine: Engine, state: ChatState, llm: ModelFile, cells: Sequence[Cell]) -> Conversation:
    """What is written of a state, with the beginning of these cells that belongs to it."""
    pictures: dict[str, tuple[int, EncodedImage]] = {}
    for image in state.images:
        pictures.setdefault(image.key, (len(pictures), image))

    for _, image in pictures.values():
        if image.key != engine.need_vision().key_of(image.digest):
            raise MismatchError(
                "the conversation holds a picture that another vision file encoded, and cannot be saved"
            )

    def indices(images: Sequence[EncodedImage]) -> tuple[int, ...]:
        return tuple(pictures[image.key][0] for image in images)

    if cells:
        prompt = engine.prompts.build(shortened(state.asked, state.n_dropped))
        cells = cells[: common(cells, cells_of(prompt))]
    return Conversation(
        llm=llm,
        mmproj=_mmproj_file(engine) if pictures else None,
        n_ctx=engine.n_ctx,
        system=state.system,
        turns=tuple(Turn(turn.role, turn.text, indices(turn.images), turn.tokens) for turn in state.turns),
        n_dropped=state.n_dropped,
        dropped_before=state.dropped_before,
        context_full=state.context_full,
        pictures=tuple(
            Picture(image.digest, image.plan, image.embeddings, image.pieces)
            for _, image in pictures.values()
        ),
        pending=indices(state.pending),
        kv=_kv_state(engine, cells, {key: i for key, (i, _) in pictures.items()}) if cells else None,
    )


def _kv_state(engine: Engine, cells: Sequence[Cell], indices: dict[str, int]) -> KvState:
    runs: list[Run] = []
    for cell in cells:
        if isinstance(cell, int):
            if runs and runs[-1].picture is None:
                runs[-1].tokens.append(cell)
            else:
                runs.append(Run(tokens=[cell]))
            continue
        picture, row = indices[cell[0]], cell[1]
        last = runs[-1] if runs else None
        if last is not None and last.picture == picture and last.first + last.n_rows == row:
            last.n_rows += 1
        else:
            runs.append(Run(picture=picture, first=row, n_rows=1))
    return KvState(_native.llama_cpp_version(), engine.llm.type_k, engine.llm.type_v, tuple(runs))


# ------------------------------------------------------------------------------------------------------- load


def _check_files(engine: Engine, file: ConversationFile) -> None:
    """Raises MismatchError where the conversation needs other model files."""
    saved, llm = file.conversation, _llm_file(engine)
    if saved.llm.identity != llm.identity:
        raise MismatchError(
            f"{file.path}: saved with another language model ({_difference(saved.llm, llm)}); load that one"
        )
    top = max((token for turn in saved.turns for token in turn.tokens or ()), default=0)
    if top >= engine.llm.n_vocab:
        raise file.damaged(f"token {top} of a vocabulary of {engine.llm.n_vocab}")
    if saved.mmproj is None:
        return
    if engine.vision is None:
        raise MismatchError(
            f"{file.path}: holds pictures, but the model was loaded without a vision file; give "
            f"{saved.mmproj.name} as the mmproj"
        )
    mmproj = _mmproj_file(engine)
    if saved.mmproj.identity != mmproj.identity:
        raise MismatchError(
            f"{file.path}: its pictures were encoded with another vision file "
            f"({_difference(saved.mmproj, mmproj)}); load that one"
        )
    for picture in saved.pictures:
        if picture.embeddings.shape[1] != engine.n_embd:
            raise file.damaged(f"embeddings of width {picture.embeddings.shape[1]}, not {engine.n_embd}")


def _difference(saved: ModelFile, loaded: ModelFile) -> str:
    """Two files in a few words; names and sizes may be the same."""
    if (saved.name, saved.n_bytes) == (loaded.name, loaded.n_bytes):
        return f"{saved.name}, of the same name and size but with other contents"
    return f"{saved.name} of {saved.n_bytes:,} bytes, not {loaded.name} of {loaded.n_bytes:,}"


def _check_context(engine: Engine, file: ConversationFile, state: ChatState) -> None:
    """Raises ContextFullError where a smaller context than before does not hold the conversation."""
    saved = file.conversation
    if engine.n_ctx >= saved.n_ctx or not (state.turns or state.pending):
        return
    needed = n_tokens(engine.prompts.build(shortened(state.asked, state.n_dropped))) + 1
    if needed > engine.n_ctx:
        raise ContextFullError(
            f"{file.path}: the conversation needs {needed} tokens of context and was saved with "
            f"{saved.n_ctx}, but the model was loaded with {engine.n_ctx}; load it with more"
        )


def _encoded(engine: Engine, picture: Picture) -> EncodedImage:
    timings = EncodeTimings(0.0, 0.0, 0.0, 0.0, 0.0, 0)
    key = engine.need_vision().key_of(picture.digest)
    return EncodedImage(picture.embeddings, picture.plan, timings, key, picture.digest, pieces=picture.pieces)


def _cells(kv: KvState, images: Sequence[EncodedImage]) -> list[Cell]:
    cells: list[Cell] = []
    for run in kv.runs:
        cells += run.tokens
        if run.picture is not None:
            cells += [(images[run.picture].key, run.first + i) for i in range(run.n_rows)]
    return cells


def _kv_fault(engine: Engine, kv: KvState, n_cells: int) -> str | None:
    """Why a KV state cannot be used here; None if nothing speaks against it."""
    if kv.llama_cpp != _native.llama_cpp_version():
        return f"written by llama-cpp-python {kv.llama_cpp}, and this is {_native.llama_cpp_version()}"
    llm = engine.llm
    if (kv.type_k, kv.type_v) != (llm.type_k, llm.type_v):
        here = f"{llm.type_k}/{llm.type_v}"
        return f"of type {kv.type_k}/{kv.type_v} (K/V), and the model was loaded with {here}"
    if n_cells > engine.n_ctx:
        return f"{n_cells} tokens, and the context holds {engine.n_ctx}"
    return None
