"""Writes report.html: one file with its data, style and script, which loads nothing.

The content security policy allows the page's own style and script, by their hashes, and pictures
inside. The script puts names into the page as text only. Links to image files are relative.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from mxrcnn.files import atomic_write

FILE_NAME = "report.html"


def write_page(content: Mapping[str, Any], path: Path) -> None:
    """Write the page of a `content` atomically."""
    style, script, body = (_resource(f"page.{kind}") for kind in ("css", "js", "html"))
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    # no "<" can end the script element, or begin a comment in it
    data = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    with atomic_write(path) as handle:
        handle.write(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(content['title'])}</title>\n<style>{style}</style></head>\n"
            f'{body}<script type="application/json" id="content">'
        )
        handle.write(data.replace("<", "\\u003c"))
        handle.write(f"</script>\n<script>{script}</script>\n</html>\n")


def _resource(name: str) -> str:
    return files("mxrcnn.evaluation.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"sha256-{digest}"
