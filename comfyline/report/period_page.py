"""The report of a period as one self-contained page: plots drawn as SVG, light and dark."""

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from comfyline.report.format import count, span, usd
from comfyline.report.period import LISTED, PeriodReport, comparison

_WITHIN_TIME = re.compile(r"(?<=\d) (?=h\b|min\b|s\b)|(?<=\d h) |(?<=\d min) ")


def period_page(report: PeriodReport) -> str:
    """Write the page; it asks the network for nothing and runs no script."""
    page = _template().render(report=report, comparison=comparison(report), listed=LISTED)
    return page.encode("utf-8", "replace").decode()


def _change(now: float, before: float) -> str:
    """Say how a figure compares with that of the period before; empty where there was none."""
    if not before:
        return ""
    percent = round((now / before - 1) * 100)
    return "as before" if not percent else f"{percent:+,} %".replace("-", "−")


def _unbroken(text: str) -> str:
    """Keep each length of time in a text on one line."""
    return _WITHIN_TIME.sub("\u00a0", text)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(usd=usd, span=span, unbroken=_unbroken)
    environment.globals.update(change=_change, count=count)
    return environment.get_template("period.html.j2")
