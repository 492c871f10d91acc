"""The page at /try: its routes, its headers, who may open it, and the setting that turns it off."""

import json
import re

import pytest

from backend.settings import Settings, read
from backend.types import Secret
from backend.web import pages
from backend.web.access import Access
from backend.web.app import create_app
from model.demo import SAMPLES
from tests.support.service import MB, STATUS, Service

TEMPLATES = pages.TEMPLATES
KEYS = {"Esc", "Enter", "Alt"}
"""Of the keyboard, the same in every language."""

LOGIN = ("annotator", "password")


@pytest.fixture
def client_of():
    """Returns a client of an application with the page."""
    with Service() as service:

        def client_of(access=None, samples=SAMPLES, **options):
            parts = (service.segmenter, service.metrics, lambda: STATUS, access or Access(20 * MB))
            return create_app(*parts, samples=samples, **options).test_client()

        yield client_of


@pytest.fixture
def client(client_of):
    return client_of()


def test_the_page_offers_every_sample_that_ships(client):
    page = client.get("/try")
    assert (page.status_code, page.mimetype) == (200, "text/html")
    offered = re.findall(r'data-sample="([^"]+)"', page.text)
    assert offered == sorted(path.name for path in SAMPLES.glob("*.jpg"))
    for name in offered:
        sample = client.get(f"/try/samples/{name}")
        assert (sample.status_code, sample.mimetype) == (200, "image/jpeg")
        assert sample.data == (SAMPLES / name).read_bytes()


@pytest.mark.parametrize("path", ["/try", "/try/samples/gears.jpg"])
def test_no_other_page_shows_it_in_a_frame_and_no_browser_guesses_or_keeps_it(client, path):
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


def test_only_its_own_script_and_style_run_and_it_connects_to_its_service_alone(client):
    pages = [client.get("/try").text for _ in range(2)]
    nonces = set()
    for page in pages:
        policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
        (nonce,) = set(re.findall(r'nonce="([^"]+)"', page))
        nonces.add(nonce)
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules == {
            "default-src": "'none'",
            "style-src": f"'nonce-{nonce}'",
            "script-src": f"'nonce-{nonce}'",
            "connect-src": "'self'",
            "img-src": "'self' data: blob:",
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        assert not re.findall(r"<[^>]+ (?:style|on\w+)=", page.split("<script")[0]), "the policy would refuse these"
    assert len(nonces) == 2, "one for each answer"


def test_it_names_no_address_outside_the_service(client):
    page = client.get("/try").text
    assert set(re.findall(r"https?://[\w./-]+", page)) == {"http://www.w3.org/2000/svg"}


def test_it_has_a_field_for_words_where_there_is_a_detector(client_of):
    assert 'id="words"' not in client_of().get("/try").text
    assert '<label for="words">' in client_of(finds_words=True).get("/try").text


def test_it_knows_the_largest_request(client_of):
    assert "MAX_BODY_BYTES = 1234;" in client_of(Access(1234)).get("/try").text


@pytest.mark.parametrize("path", ["/try", "/try/samples/gears.jpg"])
def test_with_credentials_configured_only_those_who_give_them_see_it(client_of, path):
    client = client_of(Access(20 * MB, user=LOGIN[0], password=Secret(LOGIN[1])))
    refused = client.get(path)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Basic"), "a browser asks for them"
    assert client.get(path, auth=LOGIN).status_code == 200


@pytest.mark.parametrize(
    "name", ["samples.json", "gone.jpg", "../demo.safetensors", "..%2fdemo.safetensors", "%2e%2e/x"]
)
def test_it_serves_its_samples_and_no_other_file(client, name):
    assert client.get(f"/try/samples/{name}").status_code == 404


@pytest.mark.parametrize("path", ["/try", "/try/samples/gears.jpg"])
def test_turned_off_it_does_not_exist(client_of, path):
    assert client_of(samples=None).get(path).status_code == 404


def test_it_is_on_unless_the_setting_turns_it_off():
    assert Settings().try_page
    assert not read({"PADDLE_SAM_TRY_PAGE": "false"}).try_page


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("zh-TW", "zh"), ("en-US,en;q=0.9,zh;q=0.8", "en"), ("de", "en"), ("", "en"),
        ("en;q=0.5, zh", "zh"), ("*", "en"), ("nonsense;;q=x", "en"),
    ],
)  # fmt: skip
def test_the_page_follows_the_browsers_language(client, accepted, language):
    page = client.get("/try", headers={"Accept-Language": accepted})
    assert f'<html lang="{language}">' in page.text
    assert page.headers["Vary"] == "Accept-Language"
    texts = json.loads(re.search(r"const TEXTS = (.*);\n", page.text)[1])
    assert texts == (pages.CHINESE["try"] if language == "zh" else {})


def test_every_text_of_the_page_has_a_chinese_one():
    page = (TEMPLATES / "try.html").read_text()
    page = re.sub(r"(?s)<style.*?</style>|<script.*?</script>|{%.*?%}|{{.*?}}", "", page)
    texts_of_page = {text.strip() for text in re.findall(r">([^<>]+)<", page)}
    texts_of_page |= set(re.findall(r'aria-label="([^"]+)"', page))
    texts_of_page = {text for text in texts_of_page if len(text) > 1 and text not in KEYS}
    script = (TEMPLATES / "try.js").read_text()
    texts_of_script = {
        re.sub(r"\$\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}", "{}", text)
        for text in re.findall(r'say\((?:`(.+?)`|"(.+?)")[,)]', script)
        for text in text
        if text
    }
    assert len(texts_of_script) >= 8
    assert (texts_of_page | texts_of_script) - set(pages.CHINESE["try"]) - {"{} in {} ms · score {}"} == set()
