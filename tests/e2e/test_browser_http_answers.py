"""That the table of answers says of each what a real Chromium does with it."""

import pytest

from tests.support.http_answers import NOT_SHOWN, SHOWN, UNENDING, AnswerServer, answer

pytestmark = pytest.mark.browser

_SHOW = """names => Promise.all(names.map(name => new Promise(done => {
    const image = new Image();
    image.onload = () => done([name, image.naturalWidth > 0]);
    image.onerror = () => done([name, false]);
    image.src = '/' + name;
})))"""


def test_chromium_shows_what_the_table_says(browser):
    page_answer = {"page": answer(body=b"<html></html>").replace(b"image/png", b"text/html")}
    with AnswerServer(answers={**SHOWN, **NOT_SHOWN, **UNENDING, **page_answer}) as server:
        page = browser.new_page()
        try:
            page.goto(f"{server.url}/page")
            shown = dict(page.evaluate(_SHOW, [*SHOWN, *NOT_SHOWN, *UNENDING]))
        finally:
            page.close()
    assert {name for name, is_shown in shown.items() if is_shown} == set(SHOWN)
