"""The report of a period as one self-contained page: plots drawn as SVG, light and dark."""

import re
from functools import cache

from jinja2 import Template

from comfyline.report.format import span, usd
from comfyline.report.page_template import page_template
from comfyline.report.period import PeriodReport, comparison

_WITHIN_TIME = re.compile(r"(?<=\d) (?=h\b|min\b|s\b)|(?<=\d h) |(?<=\d min) ")


def period_page(report: PeriodReport) -> str:
    """Write the page; it asks the network for nothing and runs no script."""
    page = _template().render(report=report, comparison=comparison(report))
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
    template = page_template("period.html.j2", usd=usd, span=span, unbroken=_unbroken)
    template.globals["change"] = _change
    return template
