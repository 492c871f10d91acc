"""The page at ``/try``: masks of a picture that is dropped on it, in a browser and without Label Studio."""

import json
import secrets
from pathlib import Path

from flask import Flask, Request, Response, abort, render_template, request

CHINESE: dict[str, str] = json.loads(Path(__file__).with_name("templates").joinpath("try.zh.json").read_text("utf-8"))
"""The page's texts by the English ones; ``{}`` stands for what varies."""


def language_of(asked: Request) -> str:
    """Return the language that a browser prefers of ``en`` and ``zh``; ``en`` if it names neither."""
    return asked.accept_languages.best_match(("en", "zh")) or "en"


def add(app: Flask, samples: Path, max_body_bytes: int, *, finds_words: bool) -> None:
    """Add the page, and the pictures that it offers.

    The page sends what Label Studio would send to ``/predict``, with the picture as a ``data:`` address; so it has the
    limits of every click, and of the picture nothing is kept but its embedding. It refuses pictures beyond
    ``max_body_bytes`` itself.
    """
    names = sorted(path.name for path in samples.glob("*.jpg"))

    @app.get("/try")
    def page() -> Response:
        nonce, language = secrets.token_urlsafe(16), language_of(request)
        texts = CHINESE if language == "zh" else {}
        about = {"samples": names, "max_body_bytes": max_body_bytes, "nonce": nonce, "finds_words": finds_words}
        text = render_template("try.html", **about, language=language, texts=texts)
        return Response(text, mimetype="text/html", headers={"Vary": "Accept-Language"})

    @app.get("/try/samples/<name>")
    def sample(name: str) -> Response:
        if name not in names:
            abort(404)
        return Response((samples / name).read_bytes(), mimetype="image/jpeg")
