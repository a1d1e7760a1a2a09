"""How numbers and foreign text are said to people: money, time, counts, one line, no controls."""


def usd(amount: float | None) -> str:
    """Write an amount of US dollars, with as many digits as it needs; None (unknown) is `…`."""
    if amount is None:
        return "…"
    if 0 < amount < 0.0001:  # noqa: PLR2004 - four digits are what is shown
        return "<$0.0001"
    if amount >= 10:  # noqa: PLR2004 - fractions of a cent say nothing in a large amount
        return f"${amount:,.2f}"
    whole, _, fraction = f"{amount:.4f}".partition(".")
    return f"${whole}.{fraction.rstrip('0').ljust(2, '0')}"


def span(seconds: float | None) -> str:
    """Write a length of time in the two units that matter; None (unknown) is `…`."""
    if seconds is None:
        return "…"
    if seconds < 10:  # noqa: PLR2004 - below this a tenth can be felt
        return f"{max(seconds, 0):.1f}".removesuffix(".0") + " s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def count(number: int, noun: str) -> str:
    """Write a number with its noun: `1 job`, `12 jobs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def one_line(text: str) -> str:
    """Put text from elsewhere on one line, without control characters.

    An error message may quote an answer of a server: escape sequences in it must not reach the
    terminal, and line breaks must not tear a log line apart.
    """
    return "".join(char for char in " ".join(text.split()) if char.isprintable())
