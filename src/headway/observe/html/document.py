"""The page: sections in their order, with the style and the script inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources

from headway.observe.html.details import details, warnings
from headway.observe.html.groups import Goal, group_runs
from headway.observe.html.markup import Html, element, join
from headway.observe.html.participation import participation
from headway.observe.html.progress import progress
from headway.observe.html.staleness import staleness
from headway.observe.html.summary import summary
from headway.observe.html.timeline import timeline
from headway.observe.html.verdict import subject, verdict
from headway.observe.result import Result

__all__ = ["render"]


def render(results: Sequence[Result], *, goal: Goal | None = None, title: str | None = None) -> str:
    """The whole page. The same results give the same characters.

    Args:
        results: The runs; none is a page that says so.
        goal: What the runs were to reach.
        title: The page's title; by default it names the task.
    """
    groups = group_runs(results)
    tasks = list(dict.fromkeys(run.task for run in results))
    named = title or (f"Headway: {', '.join(tasks)}" if tasks else "Headway: no runs")
    sections: list[Html] = []
    rules = Html("")
    if groups:
        curves, rules = progress(groups, goal)
        sections = [
            _section("summary", "Summary", summary(groups, goal)),
            _section("progress", "Progress", curves),
            _section("staleness", "Staleness", staleness(groups)),
            _section("timeline", "Who trained when", timeline(groups)),
            _section("clients", "Clients", participation(groups)),
            _section("details", "Configuration and environment", details(groups)),
        ]
    heed = warnings(groups)
    if heed is not None:
        sections.insert(0, _section("warnings", "Warnings", heed))
    header = element(
        "header",
        element("p", named, class_="title"),
        element("h1", verdict(groups, goal)),
        element("p", subject(groups), class_="subject"),
        _contents(sections),
    )
    return _document(named, rules, join(header, element("main", sections), _footer()))


def _section(name: str, title: str, content: Html) -> Html:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, content, id=name, aria_labelledby=f"{name}-title")


def _contents(sections: Sequence[Html]) -> Html | None:
    links = [element("a", title, href=f"#{name}") for name, title in _titles(sections)]
    return element("nav", links, aria_label="Sections") if links else None


def _titles(sections: Sequence[Html]) -> Iterator[tuple[str, str]]:
    short = {"timeline": "Timeline", "details": "Configuration"}
    for section in sections:
        name = section.split('id="', 2)[1].split('"', 1)[0].removesuffix("-title")
        yield name, short.get(name, name.capitalize())


def _footer() -> Html:
    return element("footer", "Made by Headway. This file is complete: it loads nothing.")


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def _hatches() -> Html:
    """Patterns for work that was thrown away, one for each colour, and one for no colour."""
    hatches = [
        element(
            "pattern",
            element("rect", width=5, height=5, class_=name),
            element("path", d="M-1 1l2-2M0 5l5-5M4 6l2-2", class_="hatch"),
            id=f"hatch-{name}",
            patternUnits="userSpaceOnUse",
            width=5,
            height=5,
        )
        for name in ("k0", "k1", "k2", "k3", "k4", "k5", "gone")
    ]
    defs = element("defs", hatches)
    return element("svg", defs, width=0, height=0, class_="defs", aria_hidden="true")


def _document(title: str, rules: Html, body: Html) -> str:
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Nothing but this very script may run, whatever a label or a warning contains.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Html(f"{_asset('report.css')}\n{rules}")),
    )
    content = element(
        "body",
        _hatches(),
        element("div", body, class_="page"),
        element("div", id="tip", role="status", hidden=True),
        element("script", Html(script)),
    )
    return f"<!doctype html>\n{element('html', head, content, lang='en')}\n"
