"""Text in a model's protobuf: names, operators, documentation, metadata.

``onnx.proto`` is proto2, where parsers check no encoding, and the Python library returns ``bytes`` in place
of a ``str`` for text that is not UTF-8. So this is checked once, before any name is used.
"""

from __future__ import annotations

from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from onnx_admm.errors import ModelError

_SHOWN_BYTES = 40
_TEXT, _MESSAGE = FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE


def check_text(proto: onnx.ModelProto, where: str) -> None:
    """Refuse text that is not UTF-8, anywhere in a model.

    Raises:
        ModelError: names the field and shows its content.
    """
    pending: list[Message] = [proto]
    while pending:
        message = pending.pop()
        for field, content in message.ListFields():
            kind = field.type
            if kind == _TEXT:
                if type(content) is not str:
                    _check(content, message, field.name, where)
            elif kind == _MESSAGE:
                if isinstance(content, Message):
                    pending.append(content)
                else:
                    pending += content


def _check(content: Any, message: Message, field: str, where: str) -> None:
    texts = [content] if isinstance(content, bytes) else content
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise ModelError(
            f"text that is not UTF-8, as {field} of a {message.DESCRIPTOR.name}",
            where=where,
            got=repr(wrong[:_SHOWN_BYTES]),
            hint="Export the model again, with names in UTF-8.",
        )
