"""The documents that users read, and their code blocks."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
_KINDS = ("words", "sequences", "graphs", "images", "latent")
_NAMES = (*_KINDS, "search", "clusters", "storage", "gpu", "operations", "schedulers", "publish", "pipeline", "migrate")
_NAMES += ("databricks", "packaging")
GUIDES = [ROOT / "docs" / "guide" / f"{name}.md" for name in _NAMES]
USER_DOCS = [ROOT / "README.md", *GUIDES]
ALL_DOCS = [*USER_DOCS, *(ROOT / name for name in ("CHANGELOG.md", "benchmarks/README.md")), *ROOT.glob("docs/*.md")]


class Block(NamedTuple):
    """A code block."""

    document: str
    skipped: bool
    """Whether a comment above it says why it is not run."""
    language: str
    body: str

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell block, in words; make's are left out, since they run these very tests."""
        lines = (shlex.split(line, comments=True) for line in self.body.replace("\\\n", " ").splitlines())
        return [words for words in lines if words and words[0] != "make"]


def blocks(path: Path) -> list[Block]:
    """Return the code blocks of a document in their order."""
    matches = re.findall(r"(<!-- not run: [^>]+-->\n)?```(\w*)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    return [Block(path.name, bool(reason), language, body) for reason, language, body in matches]


def prose(path: Path) -> str:
    """Return a document without its code blocks."""
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
