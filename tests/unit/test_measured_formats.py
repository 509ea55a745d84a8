"""Formats of meters, portals and markets: each read with what it says by itself, checked against sums by hand.

Where a layout was taken from is noted with it.
"""

import zoneinfo
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from stackelgrid.scenarios.measured import spell_out
from stackelgrid.scenarios.measured.overview import describe_file


class AnyGame(BaseModel):
    slots: int = 24
    money: str = "cents"


def read(
    folder: Path, text: str, column: str, data: dict[str, Any], slots: int = 24, key: str = "load_kw"
) -> list[float]:
    (folder / "m.txt").write_text(text, encoding="utf-8")
    raw = {"slots": slots, "data": {"m": {"file": "m.txt"} | data}, key: {"from": "m", "column": column}}
    return list(spell_out(raw, folder, AnyGame)[key])


def refusal(folder: Path, text: str, column: str = "x", **data: Any) -> str:
    with pytest.raises(ValueError) as caught:
        read(folder, text, column, {"day": "2025-06-14", "timezone": "UTC"} | data)
    return str(caught.value)


# NEM12: AEMO, Meter Data File Format Specification NEM12 & NEM13; examples in aguinane/nem-reader, docs/file-format.md.


def nem12(values: list[float], unit: str = "kWh", quality: str = "A", more: str = "") -> str:
    cells = ",".join(map(str, values))
    minutes = 1440 // len(values)
    return (
        "100,NEM12,202506160900,MDA1,Ret1\n"
        f"200,CCCC123456,E1B1,E1,E1,N1,METSER123,{unit},{minutes},\n"
        f"300,20250614,{cells},{quality},,,20250616040404,\n{more}"
        f"200,CCCC123456,E1B1,B1,B1,N1,METSER123,{unit},{minutes},\n"
        f"300,20250614,{','.join(['0.5'] * len(values))},A,,,20250616040404,\n"
        "200,CCCC123456,E1B1,Q1,Q1,N1,METSER123,kVArh,30,\n"
        f"300,20250614,{','.join(['7'] * 48)},A,,,20250616040404,\n900\n"
    )


@pytest.mark.parametrize("count", [48, 96, 288])
def test_nem12_is_read_in_the_time_of_the_market(count: int, tmp_path: Path) -> None:
    values = [round(0.01 * number, 2) for number in range(count)]
    # In Sydney's winter the local time is that of the market, UTC+10.
    day = {"day": "2025-06-14", "reading": "interval"}
    hours = read(tmp_path, nem12(values), "CCCC123456 E1", day)
    each = count // 24
    assert hours == pytest.approx([sum(values[each * hour : each * (hour + 1)]) for hour in range(24)])
    assert read(tmp_path, nem12(values), "CCCC123456 B1", day) == pytest.approx([0.5 * each] * 24)
    utc = {"first": "2025-06-13T14:00Z", "reading": "interval"}
    assert read(tmp_path, nem12(values), "CCCC123456 E1", utc) == hours
    told = "\n".join(describe_file(tmp_path / "m.txt", {}))
    assert "it is in the format NEM12" in told and "CCCC123456 Q1 is in kVArh and left out" in told
    assert f"{sum(values):.5g} kWh" in told and "CCCC123456 Q1  " not in told


def test_nem12_intervals_without_data_are_missing(tmp_path: Path) -> None:
    text = nem12([1.0, 2.0] * 24, quality="V", more="400,1,4,A,,\n400,5,6,N,,\n400,7,48,S14,1,\n")
    day = {"day": "2025-06-14"}
    with pytest.raises(ValueError, match=r"2025-06-14 02:00 is missing, one of 2"):
        read(tmp_path, text, "CCCC123456 E1", day)
    filled = read(tmp_path, text, "CCCC123456 E1", day | {"fill": {"slots": 1}})
    assert filled[1:4] == pytest.approx([3.0, 2.0 - 1 / 3 + 2.0 - 2 / 3, 3.0])


NEM12_REFUSED = {
    "cut off": (nem12([1.0] * 48).replace(",1.0", "", 1), "row 3: no quality follows 48 intervals of 30 minutes"),
    "no day": (nem12([1.0] * 48).replace("20250614,1", "2025,1"), "row 3: it has no day as 20250614"),
    "no meter": ("100,NEM12,2025,a,b\n300,20250614,1\n", "row 2: a day without the record 200"),
    "an odd interval": (nem12([1.0] * 48).replace(",kWh,30,", ",kWh,7,"), "row 2: no interval of 5, 15, 30 or 60"),
    "another unit": (nem12([1.0] * 48), "has column CCCC123456 E1 in kWh; correct data.m.unit, now Wh"),
    "nothing": ("100,NEM12,2025,a,b\n900\n", "it holds no energy"),
}


@pytest.mark.parametrize("name", NEM12_REFUSED)
def test_nem12_that_breaks_its_format_is_refused(name: str, tmp_path: Path) -> None:
    text, expected = NEM12_REFUSED[name]
    unit = {"unit": "Wh"} if name == "another unit" else {}
    assert expected in refusal(tmp_path, text, "CCCC123456 E1", timezone="Etc/GMT-10", **unit)


# Ausgrid, solar home electricity data: a title, a row per customer, category and day, columns stamped at their end;
# the names of the columns are those that other readers of the data set look for.


def test_ausgrid_day_a_row_becomes_homes(tmp_path: Path) -> None:
    clock = [f"{minutes // 60 % 24}:{minutes % 60:02d}" for minutes in range(30, 1441, 30)]
    rows = ["2012-2013 Solar home electricity data" + "," * 53]
    rows.append(",".join(["Customer,Generator Capacity,Postcode,Consumption Category,date", *clock, "Row Quality"]))
    for customer in (1, 2):
        for category, scale in (("GC", 1), ("GG", 100)):
            for day in ("30/06/2013", "1/07/2013"):
                numbers = [str(scale * customer * (half + 1) / 1000) for half in range(48)]
                rows.append(",".join([str(customer), "3.78", "2076", category, day, *numbers, ""]))
    text = "\n".join(rows)
    data = {"timezone": "Australia/Sydney", "layout": "wide", "stamp": "end", "format": "%d/%m/%Y", "time": "date"}
    data |= {"unit": "kWh", "day": "2013-07-01", "meter": "Customer", "reading": "interval"}
    hours = read(tmp_path, text, "2", data | {"where": {"Consumption Category": "GC"}})
    assert hours == pytest.approx([2 * (4 * hour + 3) / 1000 for hour in range(24)])
    told = "\n".join(describe_file(tmp_path / "m.txt", {"where": {"Consumption Category": "GG"}, "stamp": "end"}))
    assert "meter: Customer" in told and "layout: wide" in told and "%d/%m/%Y" in told
    assert "from      2013-06-30 00:00" in told and "to        2013-07-02 00:00" in told


# Green Button: NAESB REQ.21 (ESPI); entries and links as in the SDK's sample (MartyBurns/OpenESPI) and in
# peter279k/green-button-converter. Readings in 10^powerOfTenMultiplier of the unit of measure, 72 Wh or 38 W.

_ENTRY = '<entry><link rel="self" href="{}"/>{}<title>{}</title><content>{}</content></entry>'


def green_button(power: int = 0, uom: int = 72, flows: tuple[int, ...] = (1, 19), count: int = 96) -> str:
    first = int(datetime(2025, 6, 14, tzinfo=UTC).timestamp())
    point = "RetailCustomer/9/UsagePoint/01"
    parts = [_ENTRY.format(point, "", "Single family", "<UsagePoint><kind>0</kind></UsagePoint>")]
    for number, flow in enumerate(flows, 1):
        reading, kind = f"{point}/MeterReading/{number}", f"ReadingType/{number}"
        link = f'<link rel="related" href="{kind}"/>'
        parts.append(_ENTRY.format(reading, link, "", "<MeterReading/>"))
        fields = f"<flowDirection>{flow}</flowDirection><powerOfTenMultiplier>{power}</powerOfTenMultiplier>"
        parts.append(_ENTRY.format(kind, "", "", f"<ReadingType>{fields}<uom>{uom}</uom></ReadingType>"))
        values = "".join(
            "<IntervalReading><timePeriod><duration>900</duration>"
            f"<start>{first + 900 * place}</start></timePeriod><value>{number * (place % 7)}</value></IntervalReading>"
            for place in range(count)
        )
        parts.append(_ENTRY.format(f"{reading}/IntervalBlock/1", "", "", f"<IntervalBlock>{values}</IntervalBlock>"))
    feed = "".join(parts).replace("<UsagePoint>", '<UsagePoint xmlns="http://naesb.org/espi">')
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">{feed}</feed>'


def test_green_button_is_read_in_its_unit_and_direction(tmp_path: Path) -> None:
    counts = [place % 7 for place in range(96)]
    hours = [sum(counts[4 * hour : 4 * hour + 4]) for hour in range(24)]
    day = {"day": "2025-06-14", "timezone": "UTC"}
    delivered = read(tmp_path, green_button(power=3), "Single family delivered", day)
    assert delivered == pytest.approx(hours)  # 10^3 Wh
    received = read(tmp_path, green_button(power=-3), "Single family received", day)
    assert received == pytest.approx([2e-6 * hour for hour in hours])
    power = read(tmp_path, green_button(uom=38, flows=(1,)), "Single family delivered", day)
    assert power == pytest.approx([hour / 4000 for hour in hours])
    told = "\n".join(describe_file(tmp_path / "m.txt", {}))
    assert "it is Green Button" in told and "Single family delivered" in told and "format: epoch" in told


# ENTSO-E, publication of day-ahead prices (A44): Publication_MarketDocument 7.3; in a curve of type A03 a point stands
# for the positions after it that are left out (Transparency Platform, RESTful API guide). The CSV of the platform as
# in 2025: "MTU (CET/CEST)","Area","Sequence","Day-ahead Price (EUR/MWh)", with (CET), (CEST) on days of 23 or 25 hours.


def prices(points: str, curve: str = "A03", start: str = "2025-06-13T22:00Z", end: str = "2025-06-14T22:00Z") -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        '<Publication_MarketDocument xmlns="urn:iec62325.351:tc57wg16:451-3:publicationdocument:7:3"><type>A44</type>'
        '<TimeSeries><in_Domain.mRID codingScheme="A01">10YBE----------2</in_Domain.mRID>'
        "<currency_Unit.name>EUR</currency_Unit.name><price_Measure_Unit.name>MWH</price_Measure_Unit.name>"
        f"<curveType>{curve}</curveType><Period><timeInterval><start>{start}</start><end>{end}</end></timeInterval>"
        f"<resolution>PT15M</resolution>{points}</Period></TimeSeries></Publication_MarketDocument>"
    )


def point(position: object, amount: object) -> str:
    return f"<Point><position>{position}</position><price.amount>{amount}</price.amount></Point>"


SPOT = {"day": "2025-06-14", "timezone": "Europe/Brussels", "exchange": 100}


def test_day_ahead_prices_of_quarters_are_money_per_kwh(tmp_path: Path) -> None:
    text = prices("".join(point(number, number - 49) for number in range(1, 97)))
    hours = read(tmp_path, text, "10YBE----------2", SPOT, key="wholesale_price")
    assert hours == pytest.approx([0.1 * (4 * hour - 48 + 1.5) for hour in range(24)])
    repeated = prices(point(1, 100) + point(3, 50) + point(95, 20))
    found = read(tmp_path, repeated, "10YBE----------2", SPOT, key="wholesale_price")
    assert found == pytest.approx([7.5] + [5.0] * 22 + [3.5])
    with pytest.raises(ValueError, match=r"00:15\+02:00 is missing, one of 93"):
        single = prices(point(1, 100) + point(3, 50) + point(96, 20), "A01")
        read(tmp_path, single, "10YBE----------2", SPOT, key="wholesale_price")


@pytest.mark.parametrize(("day", "hours"), [("2025-03-30", 23), ("2025-10-26", 25)])
def test_prices_in_the_csv_of_the_platform_are_read_on_days_of_any_length(day: str, hours: int, tmp_path: Path) -> None:
    brussels = zoneinfo.ZoneInfo("Europe/Brussels")
    begin = datetime.fromisoformat(day).replace(tzinfo=brussels).astimezone(UTC)
    rows = ['"MTU (CET/CEST)","Area","Sequence","Day-ahead Price (EUR/MWh)","Intraday Period (CET/CEST)"']
    for number in range(4 * hours):
        edges = [(begin + (number + more) * timedelta(minutes=15)).astimezone(brussels) for more in (0, 1)]
        span = " - ".join(f"{at:%d/%m/%Y %H:%M:%S} ({at.tzname()})" for at in edges)
        rows += [f'"{span}","BZN|BE","Sequence {sequence}","{number * sequence}",""' for sequence in (1, 2)]
    chosen = {"where": {"Sequence": "Sequence 1"}, "exchange": 100, "day": day}
    found = read(tmp_path, "\n".join(rows), "Day-ahead Price (EUR/MWh)", chosen, hours, "wholesale_price")
    assert found == pytest.approx([0.1 * (4 * hour + 1.5) for hour in range(hours)])
    told = "\n".join(describe_file(tmp_path / "m.txt", {}))
    assert "timezone: Europe/Brussels" in told and "meter: Sequence" in told and "unit: EUR/MWh" in told


# Nord Pool's data portal: "Delivery Start (CET)";"Delivery End (CET)";"SE3 Price (EUR)", days first, prices per MWh.


def test_prices_of_nord_pool_are_per_mwh_in_central_european_time(tmp_path: Path) -> None:
    rows = ["Delivery Start (CET);Delivery End (CET);SE3 Price (EUR);SE4 Price (EUR)"]
    for hour in range(24):
        quarters = [f"14.06.2025 {hour:02d}:{minute:02d}:00" for minute in (0, 15, 30, 45)]
        rows += [f"{at};;{hour},50;{2 * hour},00" for at in quarters]
    data = {"day": "2025-06-14", "decimal": ",", "exchange": 100}
    found = read(tmp_path, "\n".join(rows), "SE4 Price (EUR)", data, key="wholesale_price")
    assert found == pytest.approx([0.2 * hour for hour in range(24)])
    # Another file's money in brackets says nothing of an energy.
    told = refusal(tmp_path, "time,Price (EUR)\n2025-06-14 00:00,1\n", "Price (EUR)")
    assert "m.txt does not say the unit of its column" in told


# Home Assistant: what `sum` and `start` mean is in home-assistant/core, components/sensor/recorder.py; the columns are
# those of klausj1/homeassistant-statistics and of other exports of the table.


def test_statistics_of_home_assistant_have_the_energy_of_their_hour(tmp_path: Path) -> None:
    rows = ["statistic_id\tunit\tstart\tmin\tmax\tmean\tsum\tstate"]
    for number in range(25):
        at = datetime(2025, 6, 13, 23) + number * timedelta(hours=1)
        rows.append(f"sensor.import\tkWh\t{at:%d.%m.%Y %H:%M}\t\t\t\t{100 + number * (number + 1) / 2}\t0")
        rows.append(f"sensor.power\tW\t{at:%d.%m.%Y %H:%M}\t0\t900\t{number * 10}\t\t")
    text = "\n".join(rows)
    day = {"day": "2025-06-14", "timezone": "Europe/Berlin"}
    # At the end of the hour from 00:00 on (number 1) there is 1 kWh more than at that of the hour before.
    assert read(tmp_path, text, "sensor.import", day | {"reading": "interval"}) == pytest.approx(range(1, 25))
    assert read(tmp_path, text, "sensor.power", day) == pytest.approx([0.01 * hour for hour in range(1, 25)])
    told = "\n".join(describe_file(tmp_path / "m.txt", {}))
    assert "it has statistics of Home Assistant" in told and "300 kWh" in told
    with pytest.raises(ValueError, match=r"has column sensor\.power in W; correct data\.m\.unit, now kWh"):
        read(tmp_path, text, "sensor.power", day | {"unit": "kWh"})


def test_sums_that_skip_an_hour_leave_it_missing(tmp_path: Path) -> None:
    rows = [f"sensor.import,kWh,2025-06-14 {hour:02d}:00,{hour}" for hour in range(24) if hour != 7]
    text = "\n".join(["statistic_id,unit,start,sum", "sensor.import,kWh,2025-06-13 23:00,-1", *rows])
    with pytest.raises(ValueError, match=r"2025-06-14 07:00 is missing, one of 2"):
        read(tmp_path, text, "sensor.import", {"day": "2025-06-14", "timezone": "UTC"})


# Hostile documents

_BOMB = '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;">]>'
HOSTILE = {
    "an entity bomb": (prices("").replace("?><Pub", f"?>{_BOMB}<Pub"), "a DOCTYPE, which no meter writes"),
    "a cut": (prices("")[:-30], "not XML"),
    "another document": ("<html><body>Log in</body></html>", "an XML document <html>, neither of Green Button"),
    "deep": ("<a>" * 100_000 + "</a>" * 100_000, "an XML document <a>"),
    "no prices": (prices(""), "it holds no prices"),
    "a reason": (
        "<Publication_MarketDocument><Reason><text>No matching data found</text></Reason></Publication_MarketDocument>",
        "it holds no prices (No matching data found)",
    ),
    "an odd resolution": (prices(point(1, 1)).replace("PT15M", "P1M"), "a resolution 'P1M' is no part of an hour"),
    "no start": (prices(point(1, 1), start="soon"), "a Period without start and end as 2025-06-13T22:00Z"),
    "some offset": (prices(point(1, 1), start="2025-06-13T22:00"), "a Period without start and end"),
    "a position outside": (prices(point(97, 1)), "positions outside a Period of 96 intervals"),
    "endless": (prices(point(1, 1), end="2199-06-14T22:00Z"), "positions outside a Period of"),
    "a text as position": (prices(point("x", 1)), "<position> 'x' is no whole number"),
    "a power of a million": (green_button(power=10**6), "powerOfTenMultiplier 1000000 is none of a meter"),
    "a text as value": (green_button(flows=(1,)).replace("<value>1<", "<value>one<"), "<value> 'one' is no whole"),
    "gas": (green_button(uom=119), "readings in the unit of measure 119, not Wh (72) or W (38)"),
    "loose blocks": (green_button().replace('rel="related"', 'rel="x"'), "2 types of readings, none linked to block"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_document_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    text, expected = HOSTILE[name]
    told = refusal(tmp_path, text)
    assert expected in told and f"{tmp_path / 'm.txt'}: " in told and "\n" not in told
