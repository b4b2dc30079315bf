"""The Markdown pages of the repository and their code blocks."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


def _pages() -> dict[str, str]:
    """Returns the text of every page, in the order in which a user meets them."""
    first = ("README.md", "warp_translate/training/README.md", "warp_translate/serving/README.md")
    paths = [
        path
        for folder in ("experiments", "launch", "tests", "warp_translate")
        for path in sorted((ROOT / folder).rglob("[A-Z]*.md"))
    ]
    names = dict.fromkeys([*first, *(path.relative_to(ROOT).as_posix() for path in paths)])
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names}


PAGES = _pages()


class Block(NamedTuple):
    """A fenced code block."""

    page: str
    needs: str  # From the comment "<!-- needs ... -->" before the block; empty if it runs here.
    language: str
    code: str

    def lines(self) -> list[str]:
        """The commands of a bash block, continuation lines joined."""
        return [line for line in self.code.replace("\\\n", " ").splitlines() if line.strip()]


BLOCKS = [
    Block(page, *found)
    for page, text in PAGES.items()
    for found in re.findall(r"(?:<!-- needs ([^>]+) -->\n)?```(\w+)\n(.*?)```", text, re.S)
]


def lines(page: str | None = None) -> list[list[str]]:
    """Returns the words of every bash command, up to a pipe."""
    found = [
        shlex.split(line, comments=True)
        for block in BLOCKS
        if block.language == "bash" and page in (None, block.page)
        for line in block.lines()
    ]
    return [words[: words.index("|")] if "|" in words else words for words in found]


def commands() -> list[list[str]]:
    """Returns the words after ``warp-translate``, for every command of the package."""
    return [
        words[words.index("warp-translate") + 1 :] for words in lines() if "warp-translate" in words
    ]
