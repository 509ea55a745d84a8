"""A hook of MkDocs: each tag of an equation, as [UO-7], leads to the page of its game, where it is defined.

A tag that no page defines is a warning, so that `mkdocs build --strict` fails.
"""

from __future__ import annotations

import logging
import re
from html import unescape

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_DEFINED = re.compile(r"\*\*\[([A-Z]{2}-\w+)\]\*\*")
_TAG = re.compile(r"\[([A-Z]{2}-\w+)\]")
_CODE = re.compile(r"<(pre|code)\b.*?</\1>", re.DOTALL)
_ELEMENT = re.compile(r"<[^>]*>")

_log = logging.getLogger("mkdocs.plugins.link_equations")
_pages: dict[str, str] = {}
"""The page that defines each tag."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Find the definitions of all tags, before any page is rendered."""
    _pages.clear()
    for file in files.documentation_pages():
        _pages.update(dict.fromkeys(_DEFINED.findall(file.content_string), file.src_uri))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Give each definition an anchor, and each tag a link."""
    anchored = _DEFINED.sub(lambda found: f'<a id="{found[1].lower()}"></a>**\\[{found[1]}\\]**', markdown)
    up = "../" * page.file.src_uri.count("/")
    links = [f"[{tag}]: {up}{where}#{tag.lower()}" for tag, where in _pages.items()]
    return "\n".join([anchored, "", *links])


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Warn of the tags that have no link."""
    plain = unescape(_ELEMENT.sub("", _CODE.sub("", html)))
    for tag in sorted({*_TAG.findall(plain)} - _pages.keys()):
        _log.warning("Doc file '%s' names the equation [%s], which no page defines.", page.file.src_uri, tag)
    return html
