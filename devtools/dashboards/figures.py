"""Values as a person reads them: with their unit, three digits, and no more series than can be told apart."""

import math

from devtools.dashboards.answers import Asked
from devtools.dashboards.model import Unit
from devtools.dashboards.prometheus import Series

__all__ = ["legend", "most_of_them", "value"]

NOTHING = "-"


def value(number: float, unit: Unit) -> str:
    """The number with its unit; a dash for what is none."""
    if not math.isfinite(number):
        return NOTHING
    if unit is Unit.SHARE:
        return f"{number * 100:.3g} %"
    if unit is Unit.SECONDS:
        return _seconds(number)
    if unit in {Unit.BYTES, Unit.BYTES_PER_S}:
        return _bytes(number) + ("/s" if unit is Unit.BYTES_PER_S else "")
    text = f"{number:,.0f}" if number >= 100 or number == int(number) else f"{number:.3g}"
    return f"{text}/s" if unit is Unit.PER_S else text


def _seconds(number: float) -> str:
    if number >= 1 or number == 0:
        return f"{number:.3g} s"
    return f"{number * 1e3:.3g} ms" if number >= 1e-3 else f"{number * 1e6:.3g} µs"


def _bytes(number: float) -> str:
    for name in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.3g} {name}"
        number /= 1024
    return f"{number:.3g} GiB"


def legend(asked: Asked, series: Series) -> str:
    """The series' name, as Grafana would write it."""
    text = asked.query.legend
    for name, label in series.labels.items():
        text = text.replace(f"{{{{{name}}}}}", label)
    return text


def most_of_them(series: list[Series], count: int) -> list[Series]:
    """Those with the largest points, at most `count`; without those that are nothing all the time, if others are."""
    ranked = sorted(series, key=_top, reverse=True)
    alive = [one for one in ranked if _top(one) > 0]
    return (alive or ranked[:1])[:count]


def _top(series: Series) -> float:
    return max((number for _, number in series.points if math.isfinite(number)), default=-1.0)
