"""Figures as words: percentages, durations, large numbers, lists."""

from collections.abc import Sequence


def percent(share: float) -> str:
    """0.974 as 97 %; shares near 0 and 1 keep a digit after the point. The blank does not break."""
    value = 100 * share
    exact = 0 < value < 1 or 99 < value < 100
    return f"{value:.1f}\u00a0%" if exact else f"{value:.0f}\u00a0%"


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `6 min 05 s`, `3 h 20 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def amount(count: float) -> str:
    """1234 as 1,234; 3890000 as 3.89 million."""
    for limit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(count) >= limit:
            return f"{count / limit:.3g} {name}"
    return f"{count:,.0f}"


def size(count: float) -> str:
    """Bytes in powers of 1000."""
    for limit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= limit:
            return f"{count / limit:.3g} {name}"
    return f"{count:.0f} bytes"


def listing(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
