"""The Chinese README has what the English one has: headings, code, pictures, links, tables and numbers of rows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
pytestmark = pytest.mark.skipif(not CHINESE.exists(), reason="reads the source tree's own files")
FENCE = re.compile(r"(?ms)^ *```.*?^ *```$")


def prose(path):
    return FENCE.sub("", path.read_text())


def headings(path):
    return re.findall(r"(?m)^(#+) (.+)$", prose(path))


def links(path):
    """Where the links of a document lead, except to the other language and within the document."""
    targets = re.findall(r"\]\(([^)]+)\)", prose(path))
    return sorted(link for link in targets if not link.startswith(("#", "README")))


def rows(path):
    """The names of code that begin the rows of tables, and how many cells each row has."""
    lines = [line.strip().strip("|").split("|") for line in prose(path).splitlines() if line.strip().startswith("|")]
    return [(re.findall(r"`[^`]+`", cells[0]), len(cells)) for cells in lines]


def figures(path):
    """The numbers in each row of the tables."""
    return [re.findall(r"\d+(?:\.\d+)?", line) for line in prose(path).splitlines() if line.strip().startswith("|")]


def slug(heading):
    """The anchor of a heading, as the hosts of repositories make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_headings_have_the_same_order_and_levels():
    assert [level for level, _ in headings(CHINESE)] == [level for level, _ in headings(ENGLISH)]


def test_every_block_of_code_is_the_same():
    assert FENCE.findall(CHINESE.read_text()) == FENCE.findall(ENGLISH.read_text())


def test_links_and_pictures_are_the_same():
    assert links(CHINESE) == links(ENGLISH)


def test_tables_have_the_same_rows():
    assert rows(CHINESE) == rows(ENGLISH)


def test_tables_have_the_same_figures():
    differing = [
        (ours, theirs)
        for ours, theirs in zip(figures(CHINESE), figures(ENGLISH), strict=True)
        if set(theirs) - set(ours) or set(ours) - set(theirs)
    ]
    assert differing == []


def test_inline_code_of_the_chinese_readme_is_that_of_the_english_one():
    code = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
    assert set(code.findall(prose(CHINESE))) == set(code.findall(prose(ENGLISH).replace("\n", " ")))


@pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=lambda path: path.name)
def test_links_within_the_document_lead_to_a_heading(path):
    anchors = {slug(heading) for _, heading in headings(path)}
    assert {link for link in re.findall(r"\]\(#([^)]+)\)", prose(path)) if link not in anchors} == set()


def test_each_names_the_other_language():
    assert "(README.zh-CN.md)" in ENGLISH.read_text()
    assert "(README.md)" in CHINESE.read_text()
