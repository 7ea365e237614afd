"""Pages of the site that are files of the repository elsewhere: README, examples, CONTRIBUTING and CHANGELOG."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples/index.md",
}
"""Where each file is on the site."""

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
"""The target of a link of Markdown that is a path."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and for the examples their configurations, scripts and figures."""
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=for_the_site(text, source)))
    for path in sorted((ROOT / "examples").rglob("*")):
        if path.suffix in (".yaml", ".py", ".png"):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links of pages in docs/ to files of the repository lead to their pages."""
    if page.file.generated_by:
        return markdown
    return for_the_site(markdown, f"docs/{page.file.src_uri}")


def for_the_site(markdown: str, source: str) -> str:
    """Return a file of the repository with links that lead to pages of the site.

    Args:
        markdown: its text.
        source: its path in the repository.
    """
    here = (ROOT / source).parent
    page = PAGES.get(source, source.removeprefix("docs/"))

    def target(match: re.Match[str]) -> str:
        path = (here / match[1]).resolve().relative_to(ROOT).as_posix()
        return posixpath.relpath(PAGES.get(path, path.removeprefix("docs/")), posixpath.dirname(page) or ".")

    return LINK.sub(target, markdown)
