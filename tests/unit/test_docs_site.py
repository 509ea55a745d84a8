"""The documentation as a site: it is built strictly, so that what leads nowhere is an error."""

import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).parents[2]
PAGE = """# Page

Equation [UO-7] is **[UO-7]** x = 1; `[UO-8]` is code, and the [heading](#page) is above.
"""


def build_site(folder: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Build a site of one page as `make docs` does; return the page."""
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    docs = folder / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(page)
    own = {"docs_dir": str(docs), "site_dir": str(folder / "site"), "nav": [{"Page": "index.md"}], "theme": "mkdocs"}
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, **own))
    return (folder / "site" / "index.html").read_text()


def test_tag_of_an_equation_leads_to_its_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build_site(tmp_path, PAGE, monkeypatch)
    assert 'Equation <a href="index.html#uo-7">UO-7</a> is <a id="uo-7"></a><strong>[UO-7]</strong>' in built
    assert "<code>[UO-8]</code>" in built


@pytest.mark.parametrize(
    "mistake",
    ["[another](nowhere.md)", "[another](index.md#nowhere)", "[another](../README.md)", "as in [UO-8]"],
    ids=["broken link", "broken anchor", "link out of the site", "tag that nothing defines"],
)
def test_site_is_not_built_with_what_leads_nowhere(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Abort):
        build_site(tmp_path, f"{PAGE}\n{mistake}\n", monkeypatch)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_page_outside_the_site_leads_to_files_that_are_there(page: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
