"""What an answer consists of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ..pictures.tiling import TilePlan

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Timings:
    """Times in milliseconds, rates in tokens per second, counts in tokens. What did not happen is 0."""

    wait_ms: float = 0.0
    """Waiting for the background work on the question's pictures, and for others to let the model go."""
    encode_ms: float = 0.0
    """Encoding the pictures of this call; 0 where they came encoded."""
    prefill_ms: float = 0.0
    """Bringing the prompt (pictures and text) into the KV cache."""
    prefill_tps: float = 0.0
    decode_ms: float = 0.0
    """Computing the answer, token by token, without the time that the caller took between two pieces."""
    decode_tps: float = 0.0
    ttft_ms: float = 0.0
    """Time to first token, from the call on."""
    total_ms: float = 0.0
    """From the call to the last token."""
    image_tokens: int = 0
    """Tokens of pictures in the prompt."""
    image_tokens_prefilled: int = 0
    """Of these, how many had to be computed; the others were in the KV cache already."""
    text_tokens: int = 0
    text_tokens_prefilled: int = 0
    generated_tokens: int = 0
    images_encoded: int = 0
    """Pictures of this question that went through the vision encoder, in this call or in the background."""
    images_cached: int = 0
    """Pictures of this question that came from the cache on disk."""

    def as_dict(self) -> dict[str, float | int]:
        """All fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Reply:
    """One answer."""

    text: str
    finish_reason: FinishReason
    """"stop": the model ended its answer or a stop string came; "length": max_tokens or the context is used
    up; "cancelled": the caller ended it."""
    timings: Timings
    plans: tuple[TilePlan, ...] = ()
    """How the pictures of this call were cut."""
    tokens: tuple[int, ...] = ()
    """The generated tokens, without the one that ended the answer."""
    dropped_turns: int = 0
    """How many of the conversation's oldest turns had to go for this question to fit into the context."""

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON; the tokens are left out."""
        return {
            "text": self.text,
            "finish_reason": self.finish_reason,
            "timings": {k: round(v, 3) for k, v in self.timings.as_dict().items()},
            "images": [plan_as_dict(plan) for plan in self.plans],
        }

    def __str__(self) -> str:
        return self.text


def plan_as_dict(plan: TilePlan) -> dict[str, Any]:
    """A tile plan as plain types: the outcome, without the candidates it was chosen from."""
    return {"method": plan.method} | {k: v for k, v in vars(plan).items() if k != "params"}
