"""Site hook: the commands on the command line page, from the click commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from tvlt_deploy.cli import main

MARK = "<!-- commands -->"
COMMON = ("verbose", "quiet")
"""Options of every command, which the page describes once."""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the mark by a section for each command."""
    return markdown.replace(MARK, commands_text()) if MARK in markdown else markdown


def commands_text() -> str:
    """Markdown of every command, in alphabetical order."""
    return "\n".join(line for name in sorted(main.commands) for line in _section(name, main.commands[name]))


def _section(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"tvlt-deploy {name}")
    text, _, example = inspect.cleandoc(command.help or "").partition("Example: ")
    yield from (f"### {name}", "", text.strip(), "")
    yield from ("```text", context.get_usage().removeprefix("Usage: "), "```", "")
    if example:
        yield from ("Example:", "", "```text", example.strip(), "```", "")
    for option in command.get_params(context):
        if isinstance(option, click.Option) and not option.is_eager and option.name not in COMMON:
            yield _option(option, context)
    yield ""


def _option(option: click.Option, context: click.Context) -> str:
    names, help_text = option.get_help_record(context) or ("", "")
    return f"- `{' '.join(names.split())}`: {help_text}"
