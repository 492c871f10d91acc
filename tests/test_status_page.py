"""The page that a person sees at the service's address."""

from html.parser import HTMLParser

import pytest

from backend.app import Access, create_app
from backend.status import Request, Row, Status
from tests.service import Service

READY = Status(
    headline="ready",
    is_ready=True,
    model=(Row("version", "demo@1a2b3c4d"), Row("device", "cpu")),
    cache=(Row("memory", "12 images, 3 of 512 MB"), Row("disk", "No space left on device", is_problem=True)),
    queue=(Row("being encoded or waiting", "2"),),
    problems=(),
    requests=(Request("12:34:56", 1, 2, 1234.56, "embedding 1200, decoder 30"),),
)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Tags(HTMLParser):
    """Checks that every tag is closed, and keeps the text of each."""

    def __init__(self):
        super().__init__()
        self.open, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", " ".join(data.split())))


@pytest.fixture
def page():
    """The texts of the page that shows a status, as (tag, text)."""
    with Service() as service:

        def page(status):
            app = create_app(service.segmenter, service.metrics, lambda: status, Access(1000))
            answer = app.test_client().get("/", headers={"Accept": "text/html"})
            assert answer.status_code == 200
            tags = Tags()
            tags.feed(answer.text)
            tags.close()
            assert tags.open == []
            return tags.texts

        yield page


def changed(**changes):
    return Status(**{**READY.__dict__, **changes})


def test_it_shows_what_the_status_says(page):
    texts = page(READY)
    assert ("span", "ready") in texts
    for name, text in (("version", "demo@1a2b3c4d"), ("device", "cpu"), ("memory", "12 images, 3 of 512 MB")):
        place = texts.index(("dt", name))
        assert texts[place + 1] == ("dd", text)


def test_it_shows_the_last_requests_newest_first(page):
    older = Request("12:00:00", 3, 0, 7.0, "", ("no_context", "size_mismatch"))
    cells = [text for tag, text in page(changed(requests=(*READY.requests, older))) if tag == "td"]
    assert cells == ["12:34:56", "1", "2", "1235", "embedding 1200, decoder 30",
                     "12:00:00", "3", "0", "7", "no_context, size_mismatch"]  # fmt: skip


def test_before_the_first_request_it_says_what_to_do(page):
    assert any("Connect this address in Label Studio" in text for _, text in page(changed(requests=())))


def test_problems_have_a_place_of_their_own_only_where_there_are_any(page):
    assert ("h2", "Look at") not in page(READY)
    texts = page(changed(problems=(Row("project 3", "no control", is_problem=True),)))
    assert texts[texts.index(("h2", "Look at")) + 1 :][:2] == [("dt", "project 3"), ("dd", "no control")]


def test_what_others_wrote_stays_text(page):
    nasty = "<script>alert(1)</script>\"'&"
    row = Row(nasty, nasty, is_problem=True)
    texts = page(
        changed(headline=nasty, model=(row,), problems=(row,), requests=(Request(nasty, 1, 1, 1.0, nasty, (nasty,)),))
    )
    assert not any(tag == "script" for tag, _ in texts)
    assert sum(text == nasty for _, text in texts) == 8


def test_it_needs_nothing_from_elsewhere(page):
    """No address of another host: it has to show in a closed network, and behind a prefix."""
    with Service() as service:
        app = create_app(service.segmenter, service.metrics, lambda: READY, Access(1000))
        text = app.test_client().get("/", headers={"Accept": "text/html"}).text
    assert "http://" not in text
    assert "https://" not in text
    assert 'href="/' not in text
    assert "src=" not in text
