"""Chats in several threads and in asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from bluelm_gguf import Cancelled, ImageError, Model

QUESTIONS = ("what is this?", "and the user?", "<|im_end|> is this the end?", "Grüße 🙂")


def in_threads(*works: Callable[[], object]) -> None:
    """Runs them side by side and raises what one of them raised."""
    failed: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_two_threads_on_one_chat(shared_model: Model, files) -> None:
    """Their questions come one after the other, each with the turns before it and its own pictures."""
    chat = shared_model.chat()
    replies: dict[str, object] = {}

    def ask(name: str) -> None:
        for i in range(4):
            if i % 2:
                chat.add_image(files.small)
            question = f"{name}{i}?"
            replies[question] = chat.ask(question, max_tokens=5).tokens

    in_threads(lambda: ask("a"), lambda: ask("b"))
    assert [t.role for t in chat.turns] == ["user", "assistant"] * 8
    assert sum(len(t.images) for t in chat.turns) == 4
    for name in "ab":  # each thread's own in order
        assert [t.text for t in chat.turns if t.text.startswith(name) and t.role == "user"] == [
            f"{name}{i}?" for i in range(4)
        ]
    for i in range(0, 16, 2):
        with shared_model.stream_turns(chat.turns[: i + 1], max_tokens=5) as stream:
            list(stream)
        assert stream.reply is not None
        assert stream.reply.tokens == replies[chat.turns[i].text]


def test_two_chats_on_one_model(shared_model: Model, files) -> None:
    def conversation() -> list[tuple[int, ...]]:
        chat, out = shared_model.chat(), []
        for i, question in enumerate(QUESTIONS):
            if i % 2 == 0:
                chat.add_image(files.large if i else files.small)
            out.append(chat.ask(question, max_tokens=8).tokens)
        return out

    alone = conversation()
    together: list[list[tuple[int, ...]]] = []
    in_threads(
        lambda: together.append(conversation()),
        lambda: together.append(conversation()),
        lambda: shared_model.generate("what?", images=[files.small], max_tokens=8),
    )
    assert together == [alone, alone]


def test_adding_and_removing_while_others_ask(shared_model: Model, files) -> None:
    """Nothing hangs, and the conversation stays one."""
    chat = shared_model.chat()

    def disturb() -> None:
        for i in range(12):
            handle = chat.add_image(files.small)
            if i % 3 == 0:
                handle.cancel()
            elif i % 3 == 1:
                chat.remove_image(handle)
            else:
                handle.add_done_callback(lambda h: chat.remove_image(h))

    def ask() -> None:
        for i in range(6):
            chat.ask(f"{i}?", max_tokens=3)

    in_threads(disturb, ask, disturb)
    chat.wait()
    assert [t.role for t in chat.turns] == ["user", "assistant"] * 6
    turns = chat.turns
    reply = chat.ask("and?", max_tokens=6)
    pictures = chat.turns[-2].images
    with shared_model.stream_turns([*turns, chat.turns[-2]], max_tokens=6) as stream:
        list(stream)
    assert stream.reply is not None and stream.reply.tokens == reply.tokens, len(pictures)


# ------------------------------------------------------------------------------------------------ asyncio


def test_the_loop_goes_on(shared_model: Model, files) -> None:
    """Other tasks run while pictures are encoded and prefilled and while an answer is made."""

    async def main() -> None:
        ticks = 0
        waiting: list[tuple[int, threading.Event]] = []  # for so many ticks

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                while waiting and waiting[0][0] <= ticks:
                    waiting.pop(0)[1].set()
                await asyncio.sleep(0)

        def on_progress(*_: object) -> None:
            """Computing goes on only when the loop has."""
            ticked = threading.Event()
            waiting.append((ticks + 5, ticked))
            assert ticked.wait(60), "the loop stands still"

        ticking = asyncio.create_task(tick())
        chat = shared_model.chat()
        encoded = await chat.add_image(files.large, on_progress=on_progress)
        assert encoded.n_tokens == 588
        reply = await chat.ask_async("what is this?", max_tokens=12, on_progress=on_progress)
        pieces = [p async for p in chat.stream_async("and?", max_tokens=12, on_progress=on_progress)]
        ticking.cancel()
        assert [t.text for t in chat.turns] == ["what is this?", reply.text, "and?", "".join(pieces)]
        assert len(pieces) > 3 and ticks >= 20
        expected = shared_model.chat()
        expected.add_image(files.large)
        assert expected.ask("what is this?", max_tokens=12).tokens == reply.tokens

    asyncio.run(main())


def test_many_tasks_at_once(shared_model: Model) -> None:
    """More than the loop's thread pool has threads, and one of them is slow to take its answer."""

    async def one(i: int) -> str:
        chat = shared_model.chat()
        pieces = []
        async for piece in chat.stream_async(f"{i % 2}?", max_tokens=4):
            pieces.append(piece)
            await asyncio.sleep(0)
        return "".join(pieces)

    async def main() -> list[str]:
        return await asyncio.gather(*(one(i) for i in range(40)))

    answers = asyncio.run(main())
    assert set(answers[::2]) == {answers[0]} and set(answers[1::2]) == {answers[1]}


def test_cancelling_a_task_cancels_the_answer(shared_model: Model) -> None:
    async def main() -> None:
        chat = shared_model.chat()
        begun = asyncio.Event()

        async def ask() -> None:
            async for _ in chat.stream_async("what is this?", max_tokens=2000):
                begun.set()

        task = asyncio.create_task(ask())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The model is free at once, and what was answered stays.
        partial = chat.turns[-1]
        assert partial.tokens is not None and 0 < len(partial.tokens) < 1500
        reply = await chat.ask_async("and?", max_tokens=6)
        stream = shared_model.stream_turns(chat.turns[:-1], max_tokens=6)
        assert "".join([piece async for piece in stream]) == reply.text
        assert stream.reply is not None and stream.reply.tokens == reply.tokens

    asyncio.run(main())


def test_leaving_an_async_loop_early(shared_model: Model) -> None:
    async def main() -> None:
        chat = shared_model.chat()
        pieces = chat.stream_async("what?", max_tokens=2000)
        async for _ in pieces:
            break
        await pieces.aclose()
        assert len(chat.turns) == 2
        assert (await chat.ask_async("and?", max_tokens=3)).tokens

    asyncio.run(main())


def test_errors_arrive_in_asyncio(shared_model: Model, files) -> None:
    async def main() -> None:
        chat = shared_model.chat()
        with pytest.raises(ImageError):
            await chat.add_image(b"no picture")
        with pytest.raises(ImageError):
            await chat.ask_async("what?")
        with pytest.raises(Cancelled):
            await chat.ask_async("what?", on_progress=lambda *_: False)
        handle = chat.add_image(files.small)
        encoded = await handle
        assert encoded is await handle
        assert (await chat.ask_async("what?", max_tokens=3)).timings.image_tokens == 196

    asyncio.run(main())
