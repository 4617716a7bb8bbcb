"""What a conversion may be asked for, and which wishes go together: for Python and the command line alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .output.tensor_types import BY_LLAMA_CPP, LLM_TYPES, MMPROJ_TYPES


class OptionError(ValueError):
    """An option that does not exist or does not go with another.

    Attributes:
        option: its name in Python, "llm_type"; on the command line it is --llm-type.
    """

    def __init__(self, option: str, reason: str) -> None:
        """Keeps the reason; names of other options stand in it in braces."""
        self.option = option
        self._reason = reason
        super().__init__(f"{option} {self.reason()}")

    def reason(self, spell: Callable[[str], str] = str) -> str:
        """What is wrong, with names of options spelled as the reader knows them."""
        return re.sub(r"\{(\w+)\}", lambda match: spell(match[1]), self._reason)


@dataclass(frozen=True)
class Options:
    """What `convert` is asked for; see there.

    Raises:
        OptionError: a type that does not exist, or options that exclude each other.
    """

    llm_type: str = "q4_0"
    mmproj_type: str = "q8_0"
    name: str | None = None
    llm_only: bool = False
    vision_only: bool = False
    llm: str | Path | None = None
    imatrix: str | Path | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("llm_type", self.llm_type, LLM_TYPES),
            ("mmproj_type", self.mmproj_type, MMPROJ_TYPES),
        ):
            if value not in allowed:
                raise OptionError(option, f"is {value!r}; choose from {', '.join(allowed)}")
        if self.llm_only and self.vision_only:
            raise OptionError("llm_only", "excludes {vision_only}; give one of them, or none for both files")
        if self.llm_only and self.llm is not None:
            raise OptionError("llm_only", "excludes {llm}, with which only the vision file is written")
        if self.imatrix is None:
            return
        if not self.writes_llm:
            why = "{llm}" if self.llm is not None else "{vision_only}"
            raise OptionError("imatrix", f"has no use with {why}: no LLM is written")
        if self.llm_type not in BY_LLAMA_CPP:
            raise OptionError(
                "imatrix",
                f"has no use with {{llm_type}} {self.llm_type}, only with {', '.join(BY_LLAMA_CPP)}",
            )

    @property
    def writes_llm(self) -> bool:
        """Whether an LLM is to be written."""
        return not self.vision_only and self.llm is None

    @property
    def writes_mmproj(self) -> bool:
        """Whether an mmproj is to be written where the model has a vision part."""
        return not self.llm_only
