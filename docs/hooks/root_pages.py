"""Site hook: pages whose source is a file at the repository root (CONTRIBUTING.md and others), and links to them."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT_PAGES = {
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root pages to the site, with their links rewritten to the site's layout."""
    root = Path(config.config_file_path).parent
    for source, target in ROOT_PAGES.items():
        text = (root / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=site_links(text)))
    return files


def site_links(text: str) -> str:
    """Links of a root page as seen from `project/`: `docs/x.md` is `../x.md`, `SECURITY.md` is `security.md`."""
    text = re.sub(r"\]\(docs/", "](../", text)
    for source, target in ROOT_PAGES.items():
        text = text.replace(f"]({source}", f"]({Path(target).name}")
    return text


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links from a page one folder below `docs/` to a root page lead to its place on the site."""
    for source, target in ROOT_PAGES.items():
        markdown = markdown.replace(f"](../../{source}", f"](../{target}")
    return markdown
