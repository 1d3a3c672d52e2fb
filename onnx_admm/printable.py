"""Text from files, escaped for a terminal.

Names in models, data and recipes may contain any character: an escape sequence can change a terminal's title
or hide lines, a line break can fake a row of a table, a direction mark can reverse the text.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text with every character that is not printable escaped, as Python writes it.

    Letters of all scripts, digits, signs and the plain space stay. Control characters, line breaks, marks of
    direction, invisible characters and lone surrogates become ``\\x1b``, ``\\n``, ``\\u202e`` and so on.

    Example:
        >>> printable("conv\\x1b[2J")
        'conv\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
