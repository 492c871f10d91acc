"""The documentation as tests read it: headings, links, tables and code blocks of Markdown files."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^( *)(`{3,})(\w*)\s*$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of code; ``before`` is the paragraph that it follows."""

    language: str
    text: str
    before: str
    line: int


@dataclass(frozen=True)
class Table:
    """A table: the cells of its head, and of each row."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Document:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def _parts(self) -> tuple[tuple[str, ...], tuple[Block, ...]]:
        """The lines outside of code blocks (empty ones in place of those inside), and the blocks."""
        prose: list[str] = []
        blocks: list[Block] = []
        inside: tuple[int, str, str] | None = None
        block_lines: list[str] = []
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1):
            fence = _FENCE.match(line)
            if inside is None and fence:
                inside, block_lines = (number, fence[1], fence[3]), []
            elif inside is not None and fence and not fence[3]:
                blocks.append(Block(inside[2], "\n".join(block_lines), _last_paragraph(prose), inside[0]))
                inside = None
            elif inside is not None:
                block_lines.append(line.removeprefix(inside[1]))
            prose.append("" if inside is not None or fence else line)
        assert inside is None, f"{self.path}: a code block has no end"
        return tuple(prose), tuple(blocks)

    @property
    def prose(self) -> tuple[str, ...]:
        return self._parts[0]

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self._parts[1]

    @property
    def headings(self) -> tuple[str, ...]:
        return tuple(line.lstrip("#").strip() for line in self.prose if re.match(r"#{1,6} ", line))

    @cached_property
    def anchors(self) -> frozenset[str]:
        """What a link into this file may name, by GitHub's rule."""
        names: list[str] = []
        for heading in self.headings:
            plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
            count = sum(name == plain or re.fullmatch(re.escape(plain) + r"-\d+", name) is not None for name in names)
            names.append(f"{plain}-{count}" if count else plain)
        return frozenset(names)

    @property
    def links(self) -> tuple[str, ...]:
        return tuple(match[1] for line in self.prose for match in _LINK.finditer(re.sub(_CODE, "", line)))

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(target for line in self.prose for target in re.findall(r"!\[[^\]]*\]\(([^()\s]+)\)", line))

    @property
    def words_in_code(self) -> Iterator[str]:
        """What stands between backticks in the text."""
        for line in self.prose:
            yield from _CODE.findall(line)

    @property
    def tables(self) -> Iterator[Table]:
        rows: list[tuple[str, ...]] = []
        for line in (*self.prose, ""):
            if line.lstrip().startswith("|"):
                rows.append(tuple(cell.strip() for cell in line.strip().strip("|").split("|")))
            elif rows:
                head, rule, *body = rows
                assert all(set(cell) <= set(":- ") for cell in rule), f"{self.path}: {head} is no head of a table"
                assert all(len(row) == len(head) for row in body), f"{self.path}: the table {head} is ragged"
                yield Table(head, tuple(body))
                rows = []

    def section(self, heading: str) -> str:
        """Return the text below a heading, code blocks left out, up to the next one of its level."""
        lines = iter(self.prose)
        level = next(len(line) - len(line.lstrip("#")) for line in lines if line.lstrip("#").strip() == heading)
        lines_below: list[str] = []
        for line in lines:
            if re.match(rf"#{{1,{level}}} ", line):
                break
            lines_below.append(line)
        return "\n".join(lines_below)


def _last_paragraph(prose: list[str]) -> str:
    lines: list[str] = []
    for line in reversed(prose):
        if line.strip():
            lines.insert(0, line.strip())
        elif lines:
            break
    return " ".join(lines)


def documents() -> tuple[Document, ...]:
    """Return every document that people are meant to read."""
    paths = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
    return tuple(Document(path) for path in (*paths, ROOT / "model" / "demo" / "README.md"))


def document(name: str) -> Document:
    """Return one of them by its path from the project's root."""
    return Document(ROOT / name)
