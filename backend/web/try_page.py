"""The page at ``/try``: masks of a picture that is dropped on it, in a browser and without Label Studio."""

from pathlib import Path

from flask import Flask, Response, abort

from backend.web import pages


def add(app: Flask, samples: Path, max_body_bytes: int, *, finds_words: bool) -> None:
    """Add the page, and the pictures that it offers.

    The page sends what Label Studio would send to ``/predict``, with the picture as a ``data:`` address; so it has the
    limits of every click, and of the picture nothing is kept but its embedding. It refuses pictures beyond
    ``max_body_bytes`` itself.
    """
    names = sorted(path.name for path in samples.glob("*.jpg"))

    @app.get("/try")
    def page() -> Response:
        return pages.render("try", samples=names, max_body_bytes=max_body_bytes, finds_words=finds_words)

    @app.get("/try/samples/<name>")
    def sample(name: str) -> Response:
        if name not in names:
            abort(404)
        return Response((samples / name).read_bytes(), mimetype="image/jpeg")
