"""What Chromium makes of picture files: the tables that the decoder is compared with, from the browser itself.

The editor says a picture's size to be its ``naturalWidth`` and ``naturalHeight``, and draws what a canvas shows.
"""

import base64
from collections.abc import Sequence

import pytest

pytest.importorskip("playwright", reason="no playwright: see tests/e2e/requirements.txt")

from model.images.files import kind_of
from tests.support import damaged_files, orientation_files
from tests.support.orientation_files import SIZE_WH, UPRIGHT

pytestmark = pytest.mark.browser
AT_ONCE_BYTES = 8_000_000

LOOK = """async (files) => {
    const seen = [];
    for (const [kind, data] of files) {
        const image = new Image();
        image.src = `data:image/${kind};base64,${data}`;
        try { await image.decode(); } catch (error) { seen.push(null); continue; }
        const canvas = document.createElement("canvas");
        const width = canvas.width = image.naturalWidth, height = canvas.height = image.naturalHeight;
        const context = canvas.getContext("2d");
        context.drawImage(image, 0, 0);
        const spots = [[1, 1], [3, 1], [1, 3], [3, 3]].map(([x, y]) =>
            Array.from(context.getImageData(Math.floor(x * width / 4), Math.floor(y * height / 4), 1, 1).data));
        seen.push([width, height, spots]);
    }
    return seen;
}"""


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


def look(page, files: Sequence[bytes]) -> list[tuple[int, int, list[tuple[int, ...]]] | None]:
    """What the browser shows of each file: width, height and the colours of the four quarters; None where nothing."""
    results, batch, waiting = [], [], 0
    for number, data in enumerate(files):
        batch.append([(kind_of(data) or "jpeg").lower(), base64.b64encode(data).decode()])
        waiting += len(data)
        if waiting > AT_ONCE_BYTES or number == len(files) - 1:
            results += page.evaluate(LOOK, batch)
            batch, waiting = [], 0
    return [
        picture
        and (
            picture[0],
            picture[1],
            [tuple(int(c > 127) * 255 for c in spot[:3]) if spot[3] == 255 else () for spot in picture[2]],
        )
        for picture in results
    ]


def test_every_way_of_saying_an_orientation_counts_as_the_table_says(page):
    cases = [(case, stored) for case in orientation_files.cases() for stored in range(10)]
    for (case, stored), picture in zip(cases, look(page, [case.make(stored) for case, stored in cases]), strict=True):
        turn = stored if case.is_turned and 1 <= stored <= 8 else 1
        size_wh = SIZE_WH[::-1] if turn > 4 else SIZE_WH
        assert picture == (*size_wh, UPRIGHT[turn]), (case.name, stored)


def test_damaged_files_are_shown_as_the_table_says(page):
    cases = damaged_files.cases()
    for case, picture in zip(cases, look(page, [case.data for case in cases]), strict=True):
        is_complete = picture is not None and picture[2] == UPRIGHT[1]
        assert is_complete == case.is_shown, (case.name, picture)
