"""Renders the pages for people, in English or Chinese."""

import json
import secrets
from pathlib import Path

from flask import Request, Response, render_template, request

from backend.web.status import formatting

TEMPLATES = Path(__file__).with_name("templates")
CHINESE: dict[str, dict[str, str]] = {
    page: json.loads((TEMPLATES / f"{page}.zh.json").read_text("utf-8")) for page in ("status", "try")
}
"""The texts of each page by the English ones; ``{}`` stands for what varies, and lists are translated item by item."""


def language_of(http_request: Request) -> str:
    """Return the language that a browser prefers of ``en`` and ``zh``; ``en`` if it names neither."""
    return http_request.accept_languages.best_match(("en", "zh")) or "en"


def render(page: str, **about: object) -> Response:
    """Return a page, ``status`` or ``try``, for the current request; its script puts its texts into their language."""
    language = language_of(request)
    texts = CHINESE[page] if language == "zh" else {}
    nonce = secrets.token_urlsafe(16)
    text = render_template(f"{page}.html", nonce=nonce, language=language, texts=texts, formatting=formatting, **about)
    return Response(text, mimetype="text/html", headers={"Vary": "Accept-Language"})
