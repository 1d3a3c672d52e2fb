"""Messages between this process and its worker: a JSON head, and bytes."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import IO, Any

_LENGTHS = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Message:
    """A head and bytes."""

    head: dict[str, Any]
    content: bytes = b""


def write_message(stream: IO[bytes], message: Message) -> None:
    """Write a message: two lengths, the head as JSON, the content."""
    head = json.dumps(message.head).encode()
    stream.write(_LENGTHS.pack(len(head), len(message.content)))
    stream.write(head)
    stream.write(message.content)
    stream.flush()


def read_message(stream: IO[bytes]) -> Message:
    """Read a message.

    Raises:
        EOFError: the other side has ended.
        ValueError: the bytes are no message.
    """
    head_size, content_size = _LENGTHS.unpack(_read(stream, _LENGTHS.size))
    head = json.loads(_read(stream, head_size))
    if not isinstance(head, dict):
        raise ValueError("a message without a head")
    return Message(head, _read(stream, content_size))


def _read(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data
