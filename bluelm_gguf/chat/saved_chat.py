"""`Chat.save` and `Model.load_chat`: between a chat and the file of conversation.py.

What a saved conversation needs to go on is checked before anything is changed: the same language model (its
tokens mean nothing to another), the same vision file (the embeddings are its), and a context that holds the
conversation. Where the files lie, and on which machine, does not matter. A KV state is an extra: one that
this llama.cpp, or this type of KV cache, cannot take is left out with a warning and computed again.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ContextFullError, MismatchError
from ..file_stamp import FileStamp
from ..llm.context_full import shortened
from ..llm.ledger import Cell, cells_of, common
from ..llm.prompt import Turn, n_tokens
from ..native import library as _native
from ..pictures.identity import llm_identity
from ..pictures.vision import EncodedImage, EncodeTimings
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

if TYPE_CHECKING:
    from ..model import Model
    from .chat import Chat


def save(chat: Chat, path: str | os.PathLike[str], *, kv: bool) -> None:
    """See `Chat.save`."""
    chat._check_open()
    model, path = chat._model, Path(path)
    if kv:
        chat.wait()
    for handle in chat.pending_images:
        handle.exception()  # waits; a picture that failed stays out
    llm = _llm_file(model)
    if chat.pending_images or any(turn.images for turn in chat.turns):
        _mmproj_file(model)  # not with the model's lock held: it may read the whole file
    with contextlib.ExitStack() as stack:
        state = None
        if kv:
            with model._lock.held():
                conversation = _snapshot(chat, llm, model._ledger.cells)
                n_cells = sum(run.n for run in conversation.kv.runs) if conversation.kv is not None else 0
                # What is behind belongs to other chats, and must not get into this one's file.
                if n_cells and model._ledger.keep(n_cells) == n_cells:
                    state = stack.enter_context(file_buffer(path.parent, model.llm.state_bytes()))
                    state = state[: model.llm.read_state(state)]
        if state is None:
            conversation = _snapshot(chat, llm, [])
        write(path, conversation, kv=state)


def load(model: Model, path: str | os.PathLike[str]) -> Chat:
    """See `Model.load_chat`."""
    with ConversationFile(path) as file:
        saved = file.conversation
        _check_files(model, file)
        images = [_encoded(model, picture) for picture in saved.pictures]
        turns = [
            Turn(turn.role, turn.text, tuple(images[i] for i in turn.images), turn.tokens)
            for turn in saved.turns
        ]
        pending = [images[i] for i in saved.pending]
        _check_context(model, file, turns, pending)
        with contextlib.ExitStack() as stack:
            state: Any = stack.enter_context(file.kv()) if saved.kv is not None else None
            chat = model.chat(system=saved.system, context_full=saved.context_full)
            with chat._background.changing():
                chat._turns[:] = turns
                chat._n_dropped = saved.n_dropped
                chat._dropped_before = dict(saved.dropped_before)
            if saved.kv is not None:
                cells = _cells(saved.kv, images)
                fault = _kv_fault(model, saved.kv, len(cells))
                with model._lock.held():
                    if fault is None and not model._ledger.restore(cells, state):
                        fault = "llama.cpp refuses it"
                if fault is not None:
                    warnings.warn(
                        f"{file.path}: its KV state is left out, and is computed again: {fault}", stacklevel=3
                    )
            del state
        for image in pending:
            chat.add_image(image)
        return chat


# ------------------------------------------------------------------------------------------------------- save


def _llm_file(model: Model) -> ModelFile:
    """The language model that was loaded.

    Raises:
        MismatchError: another file has its path by now.
    """
    head = model.llm.head
    identity = llm_identity(head)
    if FileStamp.of(head.path) != model.llm.stamp:
        raise MismatchError(f"{head.path}: the file was changed while it was in use; load the model again")
    return ModelFile(head.path.name, head.file_bytes, identity)


def _mmproj_file(model: Model) -> ModelFile:
    vision = model._need_vision()
    return ModelFile(vision.path.name, vision.stamp.size, vision.identity())


def _snapshot(chat: Chat, llm: ModelFile, cells: Sequence[Cell]) -> Conversation:
    """The chat as it is now, with the beginning of these cells that belongs to it."""
    model = chat._model
    with chat._background.changing():
        turns, n_dropped = list(chat._turns), chat._n_dropped
        dropped_before = tuple(sorted(chat._dropped_before.items()))
        pending = [handle._encoded for handle in chat.pending_images if handle._encoded is not None]
    pictures: dict[str, tuple[int, EncodedImage]] = {}
    for image in [*(image for turn in turns for image in turn.images), *pending]:
        pictures.setdefault(image.key, (len(pictures), image))

    for _, image in pictures.values():
        if image.key != model._need_vision().key_of(image.digest):
            raise MismatchError(
                "the conversation holds a picture that another vision file encoded, and cannot be saved"
            )

    def indices(images: Sequence[EncodedImage]) -> tuple[int, ...]:
        return tuple(pictures[image.key][0] for image in images)

    if cells:
        asked = [*chat._front(), *turns, Turn("user", "a", tuple(pending))]
        cells = cells[: common(cells, cells_of(model._prompts.build(shortened(asked, n_dropped))))]
    return Conversation(
        llm=llm,
        mmproj=_mmproj_file(model) if pictures else None,
        n_ctx=model.n_ctx,
        system=chat.system,
        turns=tuple(Turn(turn.role, turn.text, indices(turn.images), turn.tokens) for turn in turns),
        n_dropped=n_dropped,
        dropped_before=dropped_before,
        context_full=chat._context_full,
        pictures=tuple(Picture(image.digest, image.plan, image.embeddings) for _, image in pictures.values()),
        pending=indices(pending),
        kv=_kv_state(model, cells, {key: i for key, (i, _) in pictures.items()}) if cells else None,
    )


def _kv_state(model: Model, cells: Sequence[Cell], indices: dict[str, int]) -> KvState:
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
    return KvState(_native.llama_cpp_version(), model.llm.type_k, model.llm.type_v, tuple(runs))


# ------------------------------------------------------------------------------------------------------- load


def _check_files(model: Model, file: ConversationFile) -> None:
    """Raises MismatchError where the conversation needs other model files."""
    saved, llm = file.conversation, _llm_file(model)
    if saved.llm.identity != llm.identity:
        raise MismatchError(
            f"{file.path}: saved with another language model ({_difference(saved.llm, llm)}); load that one"
        )
    top = max((token for turn in saved.turns for token in turn.tokens or ()), default=0)
    if top >= model.llm.n_vocab:
        raise file.damaged(f"token {top} of a vocabulary of {model.llm.n_vocab}")
    if saved.mmproj is None:
        return
    if model.vision is None:
        raise MismatchError(
            f"{file.path}: holds pictures, but the model was loaded without a vision file; give "
            f"{saved.mmproj.name} as the mmproj"
        )
    mmproj = _mmproj_file(model)
    if saved.mmproj.identity != mmproj.identity:
        raise MismatchError(
            f"{file.path}: its pictures were encoded with another vision file "
            f"({_difference(saved.mmproj, mmproj)}); load that one"
        )
    for picture in saved.pictures:
        if picture.embeddings.shape[1] != model.n_embd:
            raise file.damaged(f"embeddings of width {picture.embeddings.shape[1]}, not {model.n_embd}")


def _difference(saved: ModelFile, loaded: ModelFile) -> str:
    """Two files in a few words; names and sizes may be the same."""
    if (saved.name, saved.n_bytes) == (loaded.name, loaded.n_bytes):
        return f"{saved.name}, of the same name and size but with other contents"
    return f"{saved.name} of {saved.n_bytes:,} bytes, not {loaded.name} of {loaded.n_bytes:,}"


def _check_context(
    model: Model, file: ConversationFile, turns: Sequence[Turn], pending: Sequence[EncodedImage]
) -> None:
    """Raises ContextFullError where a smaller context than before does not hold the conversation."""
    saved = file.conversation
    if model.n_ctx >= saved.n_ctx or not (turns or pending):
        return
    front = [Turn("system", saved.system)] if saved.system else []
    asked = [*front, *turns, Turn("user", "a", tuple(pending))]
    needed = n_tokens(model._prompts.build(shortened(asked, saved.n_dropped))) + 1
    if needed > model.n_ctx:
        raise ContextFullError(
            f"{file.path}: the conversation needs {needed} tokens of context and was saved with "
            f"{saved.n_ctx}, but the model was loaded with {model.n_ctx}; load it with more"
        )


def _encoded(model: Model, picture: Picture) -> EncodedImage:
    timings = EncodeTimings(0.0, 0.0, 0.0, 0.0, 0.0, 0)
    key = model._need_vision().key_of(picture.digest)
    return EncodedImage(picture.embeddings, picture.plan, timings, key, picture.digest)


def _cells(kv: KvState, images: Sequence[EncodedImage]) -> list[Cell]:
    cells: list[Cell] = []
    for run in kv.runs:
        cells += run.tokens
        if run.picture is not None:
            cells += [(images[run.picture].key, run.first + i) for i in range(run.n_rows)]
    return cells


def _kv_fault(model: Model, kv: KvState, n_cells: int) -> str | None:
    """Why a KV state cannot be used here; None if nothing speaks against it."""
    if kv.llama_cpp != _native.llama_cpp_version():
        return f"written by llama-cpp-python {kv.llama_cpp}, and this is {_native.llama_cpp_version()}"
    llm = model.llm
    if (kv.type_k, kv.type_v) != (llm.type_k, llm.type_v):
        here = f"{llm.type_k}/{llm.type_v}"
        return f"of type {kv.type_k}/{kv.type_v} (K/V), and the model was loaded with {here}"
    if n_cells > model.n_ctx:
        return f"{n_cells} tokens, and the context holds {model.n_ctx}"
    return None
