"""The page that a person sees at the service's address."""

import re
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import backend.web
from backend.cluster.monitor import ClusterState
from backend.cluster.queues import QueueState
from backend.embeddings.stores import StoreStats
from backend.errors import Reason
from backend.metrics import AnsweredRequest
from backend.types import Secret
from backend.web.access import Access
from backend.web.app import create_app
from backend.web.status.formatting import Speed
from backend.web.status.view import (
    Cause,
    ClusterView,
    Field,
    Outcomes,
    Problem,
    ProjectRow,
    Status,
)
from tests.support.service import Service

FULL = Status(
    headline="ready",
    is_ready=True,
    process="process 7, up 3 min",
    problems=(Problem("API key", "is not set", "set it"),),
    speeds=(Speed("Warm clicks", "on known images", (30.0, 20.0)), Speed("Encodes", "once per image")),
    outcomes=Outcomes(8, 1, 1),
    causes=(
        Cause(Reason.IMAGE_NOT_FOUND, 3, 43_200.0),
        Cause(Reason.NO_CONTEXT, 5),
    ),
    model=(Field("version", "demo@1a2b3c4d"), Field("device", "cpu")),
    tiers=(
        StoreStats("memory", 12, 128_000_000, 512_000_000), StoreStats("redis", 9, 3_000_000, 0),
        StoreStats("disk", 0, 5, 4, "No space left on device"),
    ),
    cache=(Field("numbers", "float16"),),
    work=(Field("being encoded or waiting", "2"),),
    cluster=ClusterView(
        ClusterState(True, ("vm:12", "vm:13"), (), (QueueState("interactive", 4, 1.2), QueueState("bulk", 0, 0.0)),
                     encodes=70, fetches=80, failures=9, round_trip_s=0.0004)
    ),
    projects=(ProjectRow("3", ("no control",)), ProjectRow("1")),
    requests=(
        AnsweredRequest(45_296.0, 1, 2, (), 1230.0, 100, {"embedding": 1200.0, "decoder": 30.0, "total": 1230.0},
                        is_click=True, project_id=1, task_id=5),
        AnsweredRequest(43_200.0, 1, 0, (Reason.NO_CONTEXT,), 20.0, 100, task_id=7),
        AnsweredRequest(43_200.0, 3, 0, (Reason.NO_CONTEXT, Reason.SIZE_MISMATCH), 7.0, 100, task_id=5),
    ),
)  # fmt: skip
FRESH = Status("loading the model", is_ready=False, speeds=(Speed("Warm clicks", "on known images"),))
TEMPLATES = Path(backend.web.__file__).parent / "templates"
VOID = {"meta", "link", "br", "img", "input", "hr"}
BROWSER = {"Accept": "text/html"}
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"


class Page(HTMLParser):
    """Checks that every tag is closed, and keeps what the page says and is made of.

    Attributes:
        texts: each text with the tag it stands in.
        tags: every tag with its attributes.
    """

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.tags = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", " ".join(data.split())))

    def texts_in(self, tag):
        return [text for name, text in self.texts if name == tag]

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def show():
    """Shows a status as the page that a browser gets."""
    with Service() as service:

        def show(status, access=None, **headers):
            app = create_app(service.segmenter, service.metrics, lambda: status, access or Access(1000))
            return app.test_client().get("/", headers={**BROWSER, **headers})

        yield show


@pytest.fixture
def page(show):
    return lambda status: Page(show(status).text)


def filled(value: Any, text: str) -> Any:
    """A status that says ``text`` wherever it says anything, and holds one of everything."""
    if isinstance(value, Reason):
        return value  # its texts are ours
    if isinstance(value, str):
        return text
    if isinstance(value, tuple):
        return tuple(filled(item, text) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: filled(getattr(value, field.name), text) for field in fields(value) if field.init}
        )
    return value


# What it says.


def test_it_says_whether_the_service_is_ready_and_which_process_speaks(page):
    parsed_page = page(FULL)
    assert ("span", "ready") in parsed_page.texts
    assert ("span", "process 7, up 3 min") in parsed_page.texts
    assert parsed_page.texts_in("title")[0] == "ready – PaddlePaddle SAM backend"


@pytest.mark.parametrize(("changes", "classes"), [
    ({"is_ready": True}, ["state", "ready"]), ({"is_ready": False}, ["state"]),
    ({"is_ready": False, "is_broken": True}, ["state", "broken"]),
])  # fmt: skip
def test_readiness_shows_in_more_than_words(page, changes, classes):
    spans = [attrs["class"].split() for attrs in page(replace(FULL, **changes)).of("span") if "class" in attrs]
    assert classes in spans


def test_names_stand_before_their_texts(page):
    texts = page(FULL).texts
    for name, text in (("version", "demo@1a2b3c4d"), ("device", "cpu"), ("being encoded or waiting", "2"),
                       ("Redis answers in", "0.4 ms"), ("encoded by all workers", "70"),
                       ("fetched by all workers", "80"), ("given up by all workers", "9"),
                       ("numbers", "float16")):  # fmt: skip
        assert texts[texts.index(("dt", name)) + 1] == ("dd", text)


def test_speeds_are_shown_in_figures_and_drawn_as_bars_that_can_be_read_out(page):
    parsed_page = page(FULL)
    assert "20 ms" in parsed_page.texts_in("p")
    charts = [
        attrs for attrs in parsed_page.of("svg") if attrs.get("role") == "img" and "median" in attrs["aria-label"]
    ]
    assert [chart["aria-label"] for chart in charts] == [
        "Warm clicks: the last 2, oldest first; median 20 ms, 95 % within 30 ms"
    ]
    assert "none yet" in parsed_page.texts_in("small")


def test_causes_come_with_what_to_do_about_them(page):
    cells = [text for tag, text in page(FULL).texts if tag in ("code", "td")]
    index = cells.index("image_not_found")
    what_to_do = f"{Reason.IMAGE_NOT_FOUND.meaning} → {Reason.IMAGE_NOT_FOUND.remedy}"
    assert cells[index : index + 4] == ["image_not_found", "3", "12:00:00", what_to_do]
    index = cells.index("no_context")
    assert cells[index : index + 3] == ["no_context", "5", Reason.NO_CONTEXT.meaning]


def test_tiers_show_how_full_they_are_or_why_they_are_passed_over(page):
    parsed_page = page(FULL)
    assert "12 entries, 128 MB of 512 MB" in parsed_page.texts_in("span")
    assert "9 entries, 3 MB" in parsed_page.texts_in("span")
    assert "No space left on device" in parsed_page.texts_in("span")
    assert [attrs["width"] for attrs in parsed_page.of("rect") if attrs.get("class") == "used"] == ["25.0", "100.0"]


def test_one_of_a_kind_is_shown_in_the_singular(page):
    alone = replace(FULL.cluster.state, worker_names=("vm:12",))
    tiers = (StoreStats("memory", 1, 3_000_000, 0),)
    parsed_page = page(replace(FULL, tiers=tiers, cluster=replace(FULL.cluster, state=alone)))
    assert "1 entry, 3 MB" in parsed_page.texts_in("span")
    assert ("h3", "1 worker") in parsed_page.texts


def test_before_the_first_connection_it_shows_what_label_studio_refuses(page):
    parsed_page = page(FRESH)
    assert "reserved network address" in parsed_page.texts_in("i")
    assert "USE_DEFAULT_BANNED_SUBNETS=false" in parsed_page.texts_in("code")


def test_the_team_is_shown_where_there_is_one(page):
    texts = page(FULL).texts
    assert ("h3", "2 workers") in texts
    assert ("code", "vm:12") in texts
    index = texts.index(("td", "interactive"))
    assert texts[index + 1 : index + 3] == [("td", "4"), ("td", "1.2 s")]
    assert texts[texts.index(("td", "bulk")) + 1 :][:2] == [("td", "0"), ("td", "–")]
    assert ("h2", "Work") in page(replace(FULL, cluster=None)).texts


def test_before_the_first_look_at_the_team_nothing_is_made_up(page):
    texts = page(replace(FULL, cluster=ClusterView())).texts
    assert texts[texts.index(("dt", "workers")) + 1] == ("dd", "not looked yet")
    for cluster in (ClusterView(), ClusterView(headline="Redis does not answer")):
        assert ("dt", "Redis answers in") not in page(replace(FULL, cluster=cluster)).texts


def test_projects_show_what_their_labeling_config_lacks(page):
    texts = page(FULL).texts
    assert texts[texts.index(("th", "3")) + 1] == ("p", "no control")
    assert texts[texts.index(("th", "1")) + 1] == ("td", "can be answered")


def test_problems_have_a_place_of_their_own_only_where_there_are_any(page):
    texts = page(FULL).texts
    index = texts.index(("h2", "Look at"))
    assert texts[index + 1 : index + 4] == [("b", "API key"), ("span", "is not set"), ("li", "→ set it")]
    assert ("h2", "Look at") not in page(replace(FULL, problems=())).texts


def test_it_shows_the_last_requests_newest_first(page):
    cells = page(FULL).texts_in("td")
    assert cells[-17:] == ["12:34:56", "click", "project 1, task 5", "2", "1.2 s", "embedding 1200, decoder 30",
                           "12:00:00", "opened", "task 7", "0", "20 ms", "no_context",
                           "12:00:00", "3 tasks", "0", "7.0 ms", "no_context, size_mismatch"]  # fmt: skip
    rows = [attrs.get("class") for attrs in page(FULL).of("tr")]
    assert rows[-3:] == [None, None, "failure"]


def test_before_the_first_request_it_says_what_to_do(page):
    parsed_page = page(FRESH)
    assert any("Connect this address in Label Studio" in text for text in parsed_page.texts_in("li"))
    assert "Warm clicks" not in parsed_page.texts_in("h2")
    assert "Last requests" not in parsed_page.texts_in("h2")


# What it is made of.


def test_what_others_wrote_stays_text_wherever_it_stands(show):
    answer = show(filled(FULL, NASTY))
    parsed_page = Page(answer.text)
    assert len(parsed_page.of("script")) == 1
    assert not parsed_page.of("img")
    assert not any(name.startswith("on") for _, attrs in parsed_page.tags for name in attrs)
    assert "{{ 7 * 7 }}" in answer.text


def test_every_word_of_a_status_is_shown_and_escaped(page):
    """Every field gets a text of its own, so that a forgotten one is found."""
    number = iter(range(1000))

    def marked(value):
        if isinstance(value, Reason):
            return value
        if isinstance(value, str):
            return f"<{next(number)}>"
        if isinstance(value, tuple):
            return tuple(map(marked, value))
        if is_dataclass(value):
            return replace(
                value, **{field.name: marked(getattr(value, field.name)) for field in fields(value) if field.init}
            )
        return value

    status = replace(FULL, cluster=replace(FULL.cluster, problems=(), headline=""))
    text = re.sub(r"<script.*?</script>|<style>.*?</style>", "", str(page_text(marked(status))), flags=re.DOTALL)
    shown = {int(word) for word in re.findall(r"&lt;(\d+)&gt;", text)}
    hidden = set(range(next(number))) - shown
    # The cluster's headline, which the status' own headline repeats, and where each request's embedding was found.
    assert len(hidden) == 1 + len(FULL.requests), hidden


def page_text(status):
    with Service() as service:
        app = create_app(service.segmenter, service.metrics, lambda: status, Access(1000))
        return app.test_client().get("/", headers=BROWSER).text


def test_it_needs_nothing_from_elsewhere(show):
    """No address of another host: it has to show in a closed network, and behind a prefix."""
    text = show(FULL).text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert "http://" not in text
    assert "https://" not in text
    assert 'href="/' not in text
    assert "src=" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_only_its_own_script_may_run(show):
    first, second = (Page(show(FULL).text) for _ in range(2))
    nonces = []
    for response in (first, second):
        [policy] = [
            meta["content"] for meta in response.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"
        ]
        [script] = response.of("script")
        assert f"script-src 'nonce-{script['nonce']}'" in policy
        assert "default-src 'none'" in policy
        nonces.append(script["nonce"])
    assert nonces[0] != nonces[1]
    assert not any("style" in attrs for _, attrs in first.tags)


def test_without_scripts_it_refreshes_itself(show):
    head = show(FULL).text.split("</head>")[0]
    assert re.search(r'<noscript><meta http-equiv="refresh" content="\d+"></noscript>', head)
    assert "refresh" not in head.replace('<noscript><meta http-equiv="refresh"', "")


def test_it_is_never_kept_by_a_cache(show):
    assert show(FULL).headers["Cache-Control"] == "no-store"


def test_it_can_be_read_out(page):
    parsed_page = page(FULL)
    assert parsed_page.of("html") == [{"lang": "en"}]
    assert len(parsed_page.texts_in("h1")) == 1
    levels = [int(tag[1]) for tag, _ in parsed_page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(attrs.get("scope") in ("col", "row") for attrs in parsed_page.of("th"))
    assert all(attrs.get("role") == "img" or attrs.get("aria-hidden") == "true" for attrs in parsed_page.of("svg"))
    assert all(attrs["aria-label"] for attrs in parsed_page.of("svg") if attrs.get("role") == "img")


def test_it_is_behind_the_same_door_as_everything_else(show):
    locked = Access(1000, user="operator", password=Secret("open"))
    assert show(FULL, locked).status_code == 401
    assert show(FULL, locked, Authorization="Basic b3BlcmF0b3I6b3Blbg==").status_code == 200


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_colours_can_be_distinguished(scheme):
    """WCAG 2.2's contrast of 4.5 to 1 for text, on every background that it stands on."""
    colours = palette(scheme)
    pairs = [(word, ground) for word in ("text", "soft", "bad", "accent") for ground in ("page", "card")]
    pairs += [("text", "bad-page"), ("bad", "bad-page"), ("on", "good"), ("on", "bad"), ("on", "warn")]
    poor = {(word, ground): contrast(colours[word], colours[ground]) for word, ground in pairs}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 4.5} == {}


def palette(scheme):
    text = (TEMPLATES / "status.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", light if scheme == "light" else dark))


def contrast(first, second):
    brighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    shares = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_shares_of_nothing_are_nothing():
    assert Outcomes().shares == (0, 0, 0)
    assert sum(Outcomes(3, 2, 1).shares) == pytest.approx(100)
