"""A program of a user, read by `mypy --strict` (make lint), never run.

A line that mypy has to refuse says so with `type: ignore[...]`; strict mode reports an ignore that is not
needed, so that the error is known to be seen.
"""

from __future__ import annotations

from bluelm_gguf import Chat, EncodedImage, ImageHandle, Model, Reply, ReplyStream


def on_progress(stage: str, done: int, total: int) -> bool:
    print(stage, done, total)
    return True


def generate(model: Model) -> str:
    picture: EncodedImage = model.encode("cat.png", tiler={"max_cols": 1}, on_progress=on_progress)
    reply: Reply = model.generate("x", images=[picture, "dog.png"], temp=0.5, max_tokens=3, stop="\n")
    stream: ReplyStream = model.stream("x", system="Be brief.", json_schema={"type": "object"}, seed=1)
    pieces: list[str] = list(stream)
    whole: Reply = model.stream("x", stop=["a", "b"], max_tokens=None, on_progress=on_progress).complete()
    tokens: tuple[int, ...] = whole.tokens
    return reply.text + "".join(pieces) + str(tokens)


def chat(model: Model) -> float:
    session: Chat = model.chat(system="Be brief.", context_full="stop")
    handle: ImageHandle = session.add_image(b"...", on_progress=on_progress)
    first: Reply = session.ask("x", images=[handle.result()], top_k=1)
    again: Reply = session.retry(temp=0.8).complete()
    session.save("chat", kv=True)
    return first.timings.decode_tps + again.timings.ttft_ms


async def later(model: Model) -> str:
    session = model.load_chat("chat")
    pieces = [piece async for piece in session.stream_async("x", min_p=0.1)]
    return "".join(pieces) + (await session.ask_async("y", max_tokens=5)).text


def mistakes(model: Model, session: Chat) -> None:
    model.generate("x", temperature=0.5)  # type: ignore[call-arg]
    model.generate("x", max_tokens="3")  # type: ignore[arg-type]
    model.stream("x", on_progress=len)  # type: ignore[arg-type]
    session.ask("x", max_token=3)  # type: ignore[call-arg]
    session.retry(images=["cat.png"])  # type: ignore[call-arg]
    model.chat(context_full="forget")  # type: ignore[arg-type]
