"""Reads where the tensors of a safetensors file lie.

The format is 8 bytes of header length (little endian), a JSON header, then raw data
(https://github.com/huggingface/safetensors, "Format"). It is read here with numpy alone, because that also
covers bfloat16 and needs neither torch nor the whole file in memory.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import CheckpointError
from .stored import ITEM_BYTES, StoredTensor

MAX_HEADER_BYTES = 100_000_000


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Reads and checks the header of one file.

    Raises:
        CheckpointError: missing, cut off or damaged.
    """
    again = "the download is incomplete or damaged; fetch the file again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(f"{path} is no safetensors file or is cut off ({size} bytes); {again}")
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; fetch every file that the index names") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise CheckpointError(f"{path} has a header that is not JSON; {again}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a header that is no JSON object; {again}")
    tensors: dict[str, StoredTensor] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
            begin, end = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{path} describes tensor {name!r} wrongly; {again}") from None
        count = 1
        for n in shape:
            count *= n
        if not 0 <= begin <= end or min(shape, default=1) < 0:
            raise CheckpointError(f"{path} describes tensor {name!r} wrongly; {again}")
        if 8 + length + end > size:
            raise CheckpointError(
                f"{path} is cut off: tensor {name!r} ends behind the file's {size} bytes; {again}"
            )
        if dtype in ITEM_BYTES and count * ITEM_BYTES[dtype] != end - begin:
            raise CheckpointError(
                f"{path} gives tensor {name!r} {end - begin} bytes for shape {list(shape)}; {again}"
            )
        tensors[name] = StoredTensor(name, path, dtype, shape, 8 + length + begin, end - begin)
    return tensors
