"""The language of the pages for people: the browser's, of English and Chinese, and no text is forgotten."""

import ast
import inspect
import json
import re

import pytest

from backend.concurrency.byte_budget import Use
from backend.decoders.training import State
from backend.errors import Reason
from backend.label_studio import tokens
from backend.settings import ABOUT_DEMO
from backend.web import pages, readiness
from backend.web.access import Access
from backend.web.app import create_app
from backend.web.status import formatting, snapshot
from backend.web.status.formatting import format_ms
from model.weights.parameters import CAPABILITIES
from tests.support.service import STATUS, Service

CHINESE = pages.CHINESE["status"]
SAME = {"USE_DEFAULT_BANNED_SUBNETS=false", "Redis", "{} MB", "{} GB"}
"""What is the same in every language, besides codes: of reasons, stages, and queues."""

PARTS = {
    " of {}", ", one of {}, each with figures of its own", "process {}", "{} since {}{}{}", "{}, of {}", "{}, pinned",
    "{}, up {}", "{} worker{}", "{} {}, {}", "{} {}, {} of {}", "entry",
    "entries",
}  # fmt: skip
"""Of these, the texts are put together that the last test looks at."""

UNSEEN = {"demo", "miss", "score", "total", "values: expected at least one, got none"}


def has_chinese(text):
    """Whether the page's script finds a translation: of the text, or of each item of a list."""
    if text in CHINESE:
        return True
    patterns = (re.escape(english).replace(r"\{\}", "(.+?)") for english in CHINESE if "{}" in english)
    return any(re.fullmatch(pattern, text) for pattern in patterns) or (
        ", " in text and all(map(has_chinese, text.split(", ")))
    )


def texts_of(module):
    """The texts that a module's functions make, but for those of its docstrings; ``{}`` stands for what varies."""
    tree = ast.parse(inspect.getsource(module))
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts.add("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            texts.add(node.value)
    return {text for text in texts if re.search("[A-Za-z]{2}", text)}


@pytest.fixture
def get():
    """Asks for the status page as a browser that prefers a language."""
    with Service() as service:
        app = create_app(service.segmenter, service.metrics, lambda: STATUS, Access(1000))
        yield lambda accepted: app.test_client().get("/", headers={"Accept": "text/html", "Accept-Language": accepted})


@pytest.mark.parametrize(
    ("accepted", "language"), [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en,zh;q=0.8", "en"), ("", "en")]
)
def test_the_status_page_follows_the_browsers_language(get, accepted, language):
    page = get(accepted)
    assert f'<html lang="{language}">' in page.text
    assert page.headers["Vary"] == "Accept-Language"
    texts = json.loads(re.search(r"const TEXTS = (.*);\n", page.text)[1])
    assert texts == (CHINESE if language == "zh" else {})


def test_every_text_of_its_template_has_a_chinese_one():
    template = (pages.TEMPLATES / "status.html").read_text()
    template = re.sub(r"(?s)<style.*?</style>|<script.*?</script>|{%.*?%}", "", template.replace("{% else %}", "<>"))
    shown = {text.strip() for text in re.findall(r">([^<>]+)<", re.sub(r"{{.*?}}", "{}", template))}
    shown |= set(re.findall(r'aria-label="([^"]+)"', re.sub(r"{{.*?}}", "{}", template)))
    shown |= {text for code in re.findall(r"{{(.*?)}}", template) for text in re.findall('"([^"]+)"', code)}
    shown = {text for text in shown if re.search("[A-Za-z]{2}", text)} - SAME - PARTS
    assert len(shown) > 50
    assert {text for text in shown if not has_chinese(text)} == set()


@pytest.mark.parametrize("module", [snapshot, readiness, formatting])
def test_every_text_that_is_made_for_it_has_a_chinese_one(module):
    assert {text for text in texts_of(module) - SAME - PARTS - UNSEEN if not has_chinese(text)} == set()


@pytest.mark.parametrize(
    "text",
    [
        *(text for reason in Reason for text in (reason.meaning, reason.remedy) if text),
        *(capability.replace("_", " ") for capability in CAPABILITIES if capability != "score"),
        *(f"3 MB {use.value}" for use in Use), "of 900 MB", "of 1.2 GB", "3 MB of 512 MB", "97 % of 300",
        *(f"{state.value} since 12:00:00{more}" for state in State if state.value != "none" for more in ("", ": why")),
        ABOUT_DEMO, tokens.NO_API_KEY, tokens.NEW_API_KEY, Reason.STORE_UNAVAILABLE.remedy,
        "process 7, one of 2, each with figures of its own, up 3 min", "project 1, task 5",
        "task 5", "3 tasks", "1 entry, 3 MB", "4 entries, 128 MB of 512 MB",
        "2 workers", *(format_ms(span) for span in (1, 20, 2_000, 200_000, 7_500_000, 1e9)),
    ],
)  # fmt: skip
def test_what_a_process_says_has_a_chinese_text(text):
    assert has_chinese(text)


@pytest.mark.parametrize("texts", pages.CHINESE.values(), ids=pages.CHINESE)
def test_a_translation_has_as_many_places_for_what_varies(texts):
    assert [english for english, chinese in texts.items() if english.count("{}") != chinese.count("{}")] == []
