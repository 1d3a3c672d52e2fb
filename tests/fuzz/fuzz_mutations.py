"""Mutants of files, drawn by Hypothesis: of bytes, of protobuf fields, of text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

NUMBERS = (
    -(2**63),
    -(2**31),
    -2,
    -1,
    0,
    1,
    2,
    3,
    7,
    16,
    31,
    64,
    127,
    255,
    2**15,
    2**24,
    2**31 - 1,
    2**31,
    2**32,
)
BIG_NUMBERS = (*NUMBERS, 2**40, 2**53, 2**62, 2**63 - 1)
FLOATS = (0.0, -0.0, 1e-45, 1e300, -1.0, 0.5, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    "x",
    "w",
    "w1",
    "../x",
    "/etc/passwd",
    "a" * 300,
    "\x1b[2J",
    "\n",
    "\u202e",
    "[red]",
    "ai.onnx",
    "own",
    "N",
)
NO_TEXT = "\ue000"
"""Stands for bytes that are no UTF-8, which cannot be assigned to a field of text."""

_INTEGERS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_UINT32,
}
_FLOATS = {FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE}


@st.composite
def mutated_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw a file with some of its bytes changed, removed, repeated or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.sampled_from((1, 1, 2, 4)))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(("flip", "set", "cut", "remove", "repeat", "insert", "number"))):
            case "flip" if data:
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "set" if data:
                data[start] = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF)))
            case "cut":
                del data[len(data) - start :]
            case "remove":
                del data[start : start + draw(st.integers(1, 32))]
            case "repeat":
                data[start:start] = data[start : start + draw(st.integers(1, 64))]
            case "insert":
                data[start:start] = draw(st.binary(min_size=1, max_size=12))
            case _:
                width = draw(st.sampled_from((1, 2, 4, 8)))
                order = draw(st.sampled_from(("little", "big")))
                number = draw(st.sampled_from(BIG_NUMBERS)) % (1 << 8 * width)
                data[start : start + width] = number.to_bytes(width, order)
    return bytes(data)


@st.composite
def mutated_message(draw: st.DrawFn, seeds: Sequence[bytes], kind: type[Message] = onnx.ModelProto) -> bytes:
    """Draw a serialised message with some of its fields changed."""
    message = kind.FromString(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        messages = list(_messages(message))
        # Most messages are small ones far inside; some of the changes go to the larger ones around them.
        if draw(st.integers(0, 3)) == 0:
            messages = messages[: max(1, len(messages) // 4)]
        owner = draw(st.sampled_from(messages))
        set_fields = [field for field, _ in owner.ListFields()]
        fields = set_fields if set_fields and draw(st.booleans()) else list(owner.DESCRIPTOR.fields)
        if fields:
            _change(draw, owner, draw(st.sampled_from(fields)), messages)
    return message.SerializeToString().replace(NO_TEXT.encode(), b"\xff\xfe\x80")


def _messages(message: Message) -> Iterator[Message]:
    """A message and those in it, breadth first."""
    pending = [message]
    while pending:
        found = pending.pop(0)
        yield found
        for field, content in found.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                pending += [content] if isinstance(content, Message) else content


def _change(draw: st.DrawFn, owner: Message, field: FieldDescriptor, messages: Sequence[Message]) -> None:
    content: Any = getattr(owner, field.name)
    repeated = not isinstance(content, str | bytes | int | float | Message)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        alike = [found for found in messages if found.DESCRIPTOR is field.message_type] or [None]
        other = draw(st.sampled_from(alike))
        if not repeated:
            if other is None or draw(st.booleans()):
                owner.ClearField(field.name)
            else:
                copy = type(other).FromString(other.SerializeToString())  # type: ignore[union-attr]
                content.CopyFrom(copy)
            return
        action = draw(st.sampled_from(("remove", "clear", "double", "add", "many")))
        if action == "add" or not content:
            content.add() if other is None else content.add().CopyFrom(
                type(other).FromString(other.SerializeToString())
            )
            return
        place = draw(st.integers(0, len(content) - 1))
        if action == "remove":
            del content[place]
        elif action == "clear":
            del content[:]
        else:
            for _ in range(1 if action == "double" else 40):
                content.add().CopyFrom(content[place])
        return
    value = draw(_value(field, content))
    if not repeated:
        setattr(owner, field.name, value)
        return
    values = list(content)
    place = draw(st.integers(0, len(values)))
    match draw(st.sampled_from(("set", "insert", "remove", "clear", "many"))):
        case "set" if place < len(values):
            values[place] = value
        case "remove":
            del values[place : place + 1]
        case "clear":
            values = []
        case "many":
            values += [value] * 70
        case _:
            values.insert(place, value)
    del content[:]
    content.extend(values)


def _value(field: FieldDescriptor, content: Any) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.type in _INTEGERS:
        wide = field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)
        low = 0 if field.type in (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_UINT32) else -(2**63)
        high = 2**63 if wide else 2**31
        return st.sampled_from([n for n in BIG_NUMBERS if max(low, -high) <= n < high]) | st.integers(0, 40)
    if field.type in _FLOATS:
        return st.sampled_from(FLOATS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        old = content if isinstance(content, bytes) else b""
        return st.sampled_from((b"", old[:-1], old + old, b"\xff" * 8, b"\0" * 3, bytes(len(old))))
    return st.sampled_from((*TEXTS, NO_TEXT))


VALUES = (
    "nan", "inf", "-inf", "-1", "0", "1", "true", '""', "[]", "{}", "1e400", "-0.0", "9" * 20, "0.5",
    '"\\u001b[2J"', "[[1, 2], [3]]", "1979-05-27", '"packed"', "[nan]", "[-1]", '["x"]', "1e-320",
    '"²:4"', '"2:4"',
)  # fmt: skip

KEYS = ("names", "ratio", "pass", '"\\u001b"', "a.b")


@st.composite
def mutated_toml(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw a TOML file with some values, keys or lines replaced, or with any bytes changed."""
    if draw(st.integers(0, 3)) == 0:
        return draw(mutated_bytes(seeds))
    lines = draw(st.sampled_from(seeds)).decode().splitlines()
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        key, equals, value = lines[place].partition("=")
        match draw(st.sampled_from(("value", "value", "value", "number", "key", "remove", "double", "move"))):
            case "value" if equals:
                lines[place] = f"{key}= {draw(st.sampled_from(VALUES))}"
            case "number" if re.search(r"\d", value):
                number = re.search(r"[0-9.]+", value)
                assert number is not None
                new = draw(st.sampled_from(VALUES))
                lines[place] = f"{key}={value[: number.start()]}{new}{value[number.end() :]}"
            case "key" if equals:
                lines[place] = f"{draw(st.sampled_from(KEYS))} ={value}"
            case "remove" if len(lines) > 1:
                del lines[place]
            case "double":
                lines.insert(place, lines[place])
            case _:
                lines.insert(draw(st.integers(0, len(lines))), lines[place])
    return "\n".join(lines).encode()


@st.composite
def mutated_json(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """Draw a JSON file with one of its values replaced, or with any bytes changed."""
    if draw(st.booleans()):
        return draw(mutated_bytes(seeds))
    text = draw(st.sampled_from(seeds)).decode()
    values = list(re.finditer(r'"[^"]*"|[\d.e+-]+|true|false|null|\[\]|\{\}', text))
    found = draw(st.sampled_from(values))
    new = draw(
        st.sampled_from(
            (
                "null",
                "NaN",
                "Infinity",
                "-1",
                "1e999",
                '""',
                "[]",
                "{}",
                "true",
                '"\\ud800"',
                "9" * 400,
                "[" * 5000,
            )
        )
    )
    return (text[: found.start()] + new + text[found.end() :]).encode()
