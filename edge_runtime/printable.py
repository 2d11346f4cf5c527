"""Text from files and names, made safe to show: on a terminal, in a log, on a page."""

_ESCAPED_BYTES = range(0xDC80, 0xDD00)  # how Python keeps bytes that are not UTF-8


def printable(text: str) -> str:
    r"""`text` on one line, with everything that is not a visible character escaped.

    A name may hold escape sequences that move the cursor, line breaks that forge a line of
    ours, marks such as U+202E that reverse what follows, and bytes that are not UTF-8: they
    become `\x1b`, `\n`, `\u202e` and `\xff`.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _escaped(character) for character in text
    )


def printable_lines(text: str) -> str:
    """`printable` for a text of several lines, whose line breaks are meant."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(character: str) -> str:
    number = ord(character)
    if number in _ESCAPED_BYTES:
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
