"""Read the XML of meters and markets: Green Button (ESPI, NAESB REQ.21) and ENTSO-E's publication of prices (A44).

A document that declares entities is refused before it is parsed. Readings count as rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from stackelgrid.scenarios.measured.table import Row, Table

_LARGEST = 32 * 2**20
"""The longest document that is read: its tree takes many times the memory."""
_HEADER = ["meter", "time", "value"]
_KEYS = {"time": "time", "meter": "meter", "value": "value"}
_UOM = {"38": "W", "72": "Wh"}
_FLOW = {"1": "delivered", "19": "received", "4": "net"}
_MINUTES = {str(60 * minutes): minutes for minutes in (1, 5, 10, 15, 30, 60)}
"""The length of an interval by the seconds in `duration`."""
_POWERS_OF_TEN = range(-12, 13)
_WHOLE = re.compile(r"-?\d{1,15}")
_RESOLUTION = re.compile(r"PT(\d{1,4})M")
_MOST_REPEATS = 100
"""Intervals per point: a day of 25 hours in quarters that has one price."""
_REPEATS = "A03"
"""The type of a curve whose points stand for those that follow and are left out."""


def is_xml(text: str) -> bool:
    """Tell by its first character."""
    return text[:200].lstrip().startswith("<")


def read_xml(text: str) -> Table:
    """Read a document of one of these kinds. Raises `ValueError`."""
    if len(text) > _LARGEST:
        raise ValueError(f"an XML document larger than {_LARGEST // 2**20} MiB; export fewer days")
    if "<!DOCTYPE" in text:  # without it, there are no entities either
        raise ValueError("an XML document with a DOCTYPE, which no meter writes; export it again")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"not XML ({error}); export it again") from None
    kind = _name(root)
    if kind == "Publication_MarketDocument":
        return _read_prices(root)
    if next(_all(root, "IntervalReading"), None) is not None:
        return _read_green_button(root)
    raise ValueError(
        f"an XML document <{kind[:60]}>, neither of Green Button (IntervalReading) nor of day-ahead prices "
        "(Publication_MarketDocument); export it as CSV"
    )


# --- Green Button ---


@dataclass
class _Feed:
    """The parts of a Green Button feed by the links to them: titles of usage points, types of readings, and blocks."""

    titles: dict[str, str] = field(default_factory=dict)
    related: dict[str, set[str]] = field(default_factory=dict)
    types: dict[str, Element] = field(default_factory=dict)
    blocks: list[tuple[str, Element]] = field(default_factory=list)

    @classmethod
    def of(cls, root: Element) -> _Feed:
        """Sort the entries of a feed."""
        feed = cls()
        for entry in _all(root, "entry"):
            links = [(link.get("rel", ""), link.get("href", "")) for link in _all(entry, "link")]
            here = next((href for rel, href in links if rel == "self"), "")
            for part in (part for content in _all(entry, "content") for part in content):
                match _name(part):
                    case "UsagePoint":
                        feed.titles[here] = _text(entry, "title")
                    case "MeterReading":
                        feed.related[here] = {href for rel, href in links if rel == "related"}
                    case "ReadingType":
                        feed.types[here] = part
                    case "IntervalBlock":
                        feed.blocks.append((here, part))
        return feed

    def find_type(self, here: str) -> Element:
        """Find the type of a block's readings by its meter reading's links; one is that of all."""
        if len(self.types) == 1:
            return next(iter(self.types.values()))
        related = next((links for href, links in self.related.items() if here.startswith(f"{href}/")), set())
        found = [kind for href, kind in self.types.items() if href in related]
        if len(found) != 1:
            raise ValueError(
                f"{len(self.types)} types of readings, none linked to block {here[:60]!r}; export it again"
            )
        return found[0]

    def find_title(self, here: str) -> str:
        """Find the title of a block's usage point."""
        return next((title for href, title in self.titles.items() if here.startswith(f"{href}/")), "")


def _read_green_button(root: Element) -> Table:
    """Read the readings of every usage point and direction."""
    feed = _Feed.of(root)
    rows: list[Row] = []
    units: set[str] = set()
    lengths: set[str] = set()
    for here, block in feed.blocks:
        kind = feed.find_type(here)
        uom, flow = _text(kind, "uom"), _text(kind, "flowDirection")
        if uom not in _UOM:
            raise ValueError(f"readings in the unit of measure {uom[:20] or 'none'}, not Wh (72) or W (38)")
        units.add(_UOM[uom])
        power = int(_whole(kind, "powerOfTenMultiplier", "0"))
        if power not in _POWERS_OF_TEN:
            raise ValueError(f"powerOfTenMultiplier {power} is none of a meter; export it again")
        meter = " ".join(filter(None, (feed.find_title(here), _FLOW.get(flow, f"flow {flow}".strip()))))
        for reading in _all(block, "IntervalReading"):
            value = Decimal(_whole(reading, "value")).scaleb(power)
            rows.append((len(rows) + 1, [meter, _whole(reading, "start"), f"{value:f}"]))
            lengths.add(_text(reading, "duration"))
    if not rows:
        raise ValueError("it holds no readings in entries of an Atom feed; export it again")
    if len(units) > 1:
        raise ValueError("its readings are in Wh and W; export them apart")
    keys = {**_KEYS, "format": "epoch", "unit": units.pop()}
    if len(lengths) == 1 and (minutes := _MINUTES.get(lengths.pop())):
        keys["interval"] = f"{minutes}min"
    return Table(_HEADER, 1, {}, rows, ["it is Green Button"], keys)


# --- prices of ENTSO-E ---


def _read_prices(root: Element) -> Table:
    """Read the prices of every area, and of every sequence and resolution where there are several."""
    series = list(_all(root, "TimeSeries"))
    resolutions = {_text(period, "resolution") for part in series for period in _all(part, "Period")}
    rows: list[Row] = []
    units: set[str] = set()
    for part in series:
        currency, per = _text(part, "currency_Unit.name"), _text(part, "price_Measure_Unit.name")
        units.add(f"{currency}/MWh" if currency and per == "MWH" else "")
        sequence = _text(part, "classificationSequence_AttributeInstanceComponent.position")
        names = [_text(part, "in_Domain.mRID"), f"sequence {sequence}" if sequence else ""]
        for period in _all(part, "Period"):
            resolution = _text(period, "resolution")
            area = " ".join(filter(None, [*names, resolution if len(resolutions) > 1 else ""]))
            for at, value in _list_points(period, resolution, _text(part, "curveType") == _REPEATS):
                rows.append((len(rows) + 1, [area, at.isoformat(), value]))
    if not rows:
        raise ValueError(f"it holds no prices{_describe_reason(root)}")
    keys = dict(_KEYS)
    if len(units) == 1 and "" not in units:
        keys["unit"] = units.pop()
    if len(resolutions) == 1:
        keys["interval"] = f"{_read_minutes(resolutions.pop())}min"
    return Table(_HEADER, 1, {}, rows, ["it is a publication of prices by ENTSO-E"], keys)


def _read_minutes(resolution: str) -> int:
    """Read the length of an interval, as in PT15M."""
    match = _RESOLUTION.fullmatch(resolution)
    if match is None or not int(match[1]) or 60 % int(match[1]):
        raise ValueError(f"a resolution {resolution[:20]!r} is no part of an hour, as PT15M is; export it again")
    return int(match[1])


def _list_points(period: Element, resolution: str, repeats: bool) -> Iterator[tuple[datetime, str]]:
    """List the points of a period; of a curve that `repeats`, each until the next, or the end."""
    step = timedelta(minutes=_read_minutes(resolution))
    try:
        begin, end = (datetime.fromisoformat(_text(period, edge)) for edge in ("start", "end"))
        count = (end - begin) // step
    except (ValueError, TypeError):
        raise ValueError("a Period without start and end as 2025-06-13T22:00Z; export it again") from None
    points = {int(_whole(point, "position")): _text(point, "price.amount") for point in _all(period, "Point")}
    if points and (not 1 <= min(points) <= max(points) <= count or count > len(points) * _MOST_REPEATS):
        raise ValueError(f"positions outside a Period of {count} intervals from {begin.isoformat()}; export it again")
    value = ""
    for position in range(1, count + 1 if points else 1):
        value = points.get(position, value if repeats else "")
        if value:
            yield begin + (position - 1) * step, value


def _describe_reason(root: Element) -> str:
    """Give the reason that a document has for being empty."""
    text = _text(root, "text")
    return f" ({text[:120]})" if text else "; export it again"


# --- elements, whatever their namespace ---


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _all(element: Element, name: str) -> Iterator[Element]:
    return (inside for inside in element.iter() if _name(inside) == name)


def _text(element: Element, name: str) -> str:
    """Give the text of the first element of that name inside, empty where there is none."""
    found = next(_all(element, name), None)
    return (found.text or "").strip() if found is not None else ""


def _whole(element: Element, name: str, default: str = "") -> str:
    """Give the whole number in the first element of that name inside."""
    text = _text(element, name) or default
    if _WHOLE.fullmatch(text) is None:
        raise ValueError(f"<{name}> {text[:20]!r} is no whole number; export it again")
    return text
