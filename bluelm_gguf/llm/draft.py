"""The prompt of a conversation while it is not decided how many of its oldest turns are left out."""

from __future__ import annotations

from collections.abc import Sequence

from .context_full import shortened
from .prompt import PromptBuilder, Segment, Turn, n_tokens


class Drafts:
    """The prompts without the n oldest turns, each built once.

    Args:
        prompts: Builds them.
        turns: The whole conversation. Pictures need not be encoded: how many tokens they have is enough.
        texts: Texts that the last turn may have; None: the one it has.
    """

    def __init__(
        self, prompts: PromptBuilder, turns: Sequence[Turn], texts: Sequence[str] | None = None
    ) -> None:
        self._prompts = prompts
        self._turns = turns
        self._texts = texts
        self._built: dict[int, list[list[Segment]]] = {}

    def variants(self, n: int) -> list[list[Segment]]:
        """The prompt without the n oldest turns, once for each text."""
        if n not in self._built:
            turns = shortened(self._turns, n)
            self._built[n] = (
                [self._prompts.build(turns)]
                if self._texts is None
                else self._prompts.build_variants(turns, self._texts)
            )
        return self._built[n]

    def count(self, n: int) -> int:
        """Tokens of the prompt without the n oldest turns, with the first of the texts."""
        return n_tokens(self.variants(n)[0])
