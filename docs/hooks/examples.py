"""Examples of docstrings as code: whatever begins with `>>>`, up to the next empty line."""

import re

import griffe

EXAMPLE = re.compile(r"^( *)>>> .*\n?(?:\1\S.*\n?)*", re.MULTILINE)


def fenced(text: str) -> str:
    """The text with its interactive examples as blocks of code, in their indentation."""

    def block(match: re.Match) -> str:
        margin = match[1]
        return f"{margin}```pycon\n{match[0].rstrip()}\n{margin}```\n"

    return EXAMPLE.sub(block, text)


class Examples(griffe.Extension):
    """Fences the examples of every docstring, before its sections are told apart."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
