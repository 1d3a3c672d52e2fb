"""Tasks for the worker process, of every kind that may go wrong."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

Answer = tuple[Any, bytes]


def echo(arguments: Mapping[str, Any], content: bytes) -> Answer:
    sys.stdout.write("this must not get among the answers")
    return [os.getpid(), arguments], content[::-1]


def fail(arguments: Mapping[str, Any], content: bytes) -> Answer:
    raise KeyError("nothing there")


def die(arguments: Mapping[str, Any], content: bytes) -> Answer:
    os.kill(os.getpid(), arguments["signal"])
    return None, b""


def leave(arguments: Mapping[str, Any], content: bytes) -> Answer:
    os._exit(7)


def spin(arguments: Mapping[str, Any], content: bytes) -> Answer:
    while True:
        pass


def take(arguments: Mapping[str, Any], content: bytes) -> Answer:
    block = b"x" * arguments["bytes"]
    time.sleep(20)
    return len(block), b""
