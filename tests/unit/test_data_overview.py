"""`stackelgrid data FILE`: what is found in exports, what they do not tell, and that its keys read them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stackelgrid import cli
from stackelgrid.scenarios.measured import spell_out
from stackelgrid.scenarios.measured.overview import describe_file
from stackelgrid.scenarios.measured.references import name_home
from stackelgrid.scenarios.yaml_file import parse
from tests.unit.test_measured_exports import DAY, EXPORTS, METERS, AnyGame, read


def describe(path: Path, **keys: Any) -> str:
    return "\n".join(describe_file(path, keys))


def find_keys(text: str) -> dict[str, Any]:
    """The keys of `data` that a description proposes."""
    block = text.split("in the same folder:\n")[1].partition("\n\n")[0]
    (keys,) = parse(block)["data"].values()
    return dict(keys)


UNTOLD = {
    "a day a row": {"unit"},
    "date and time apart, an empty last column": {"unit"},
    "seconds since 1970": {"unit"},
    "ends of intervals, 24:00": {"stamp"},
    "ends of half-hours with offsets": {"unit", "stamp"},
    "a history of states": {"unit"},
    "points between thousands": {"unit"},
}
"""Besides the zone, what the files do not tell."""
FOUND_ZONE = {"lines below the table, ten minutes past": "UTC"}


@pytest.mark.parametrize("name", METERS)
def test_keys_found_in_an_export_read_it_with_the_energy_that_it_has(name: str) -> None:
    data, column, energy = METERS[name]
    told = describe(EXPORTS / data["file"])
    found = find_keys(told)
    asked = {line.split()[0] for line in told.partition("does not tell")[2].splitlines()[1:]}
    assert found.get("timezone") == FOUND_ZONE.get(name)
    assert asked == UNTOLD.get(name, set()) | ({"timezone"} - found.keys())
    # What is asked for, and what is a choice: the day, its meter, how long a sample may hold.
    given = {key: data[key] for key in (*asked, "day", "where", "fill") if key in data}
    if "where" in data:
        found = {key: value for key, value in found.items() if key not in ("meter", "value")}
    hours, _ = read({**found, **given}, column)
    assert sum(hours) == pytest.approx(energy, rel=5e-5)


def test_description_has_span_totals_and_an_average_day() -> None:
    told = describe(EXPORTS / "lastgang_24.csv", timezone="Europe/Berlin", stamp="end").splitlines()
    assert told[0].endswith("lastgang_24.csv: 96 rows; columns 'Datum Zeit', 'kW'")
    for line in (
        "  its columns are separated by ';'",
        "  zone      Europe/Berlin",
        "  interval  15min, stamped at its end",
        f"  from      {DAY} 00:00",
        "  to        2025-06-15 00:00",
        "  gaps      none",
        "kW      96       kW    13.4 kWh  0.3    1.225  ▄▄▄▄▄▃▃▃▃▃▃▄▄▄▄▄▄██▇▇▃▃▄",
        "      stamp: end",
    ):
        assert line in told


def test_gaps_are_counted_and_the_first_are_listed(tmp_path: Path) -> None:
    rows = [f"{DAY} {hour:02d}:00,{hour}" for hour in range(24) if hour not in (3, 7, 8, 12, 15)]
    (tmp_path / "gaps.csv").write_text("\n".join(["time,kW", *rows]))
    assert (
        f"  gaps      1 missing from {DAY} 03:00, 2 missing from {DAY} 07:00, 1 missing from {DAY} 12:00 and 1 more"
        in describe(tmp_path / "gaps.csv").splitlines()
    )


TEXTS = {
    "days or months": (
        "date,time,kWh\n04/05/2025,00:00,1\n04/05/2025,00:30,2\n04/05/2025,01:00,1\n",
        "format    '04/05/2025 00:00' may be written as '%d/%m/%Y %H:%M' or '%m/%d/%Y %H:%M'",
    ),
    "decimals or thousands": (
        "time;kWh\n2025-06-14 00:00;1,464\n2025-06-14 01:00;2,512\n2025-06-14 02:00;1,500\n",
        "decimal   '1,464' may have three decimals, or thousands; give decimal, or thousands",
    ),
    "two units": (
        "time,use (kWh),peak (kW)\n2025-06-14 00:00,1,2\n2025-06-14 01:00,2,3\n2025-06-14 02:00,1,1\n",
        "unit      columns are in kWh (use (kWh)), kW (peak (kW))",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_can_be_read_in_two_ways_is_asked_for(name: str, tmp_path: Path) -> None:
    text, question = TEXTS[name]
    (tmp_path / "m.csv").write_text(text)
    assert question in describe(tmp_path / "m.csv").splitlines()


@given(
    name=st.sampled_from([data["file"] for data, _, _ in METERS.values()]),
    cuts=st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 200),
            st.sampled_from(["", "\n", ";", ",", '"', "24:00", "-1", "2025-03-30 02:30", "1e400", "<", "\0", "é"]),
        ),
        max_size=6,
    ),
)
@settings(max_examples=60, deadline=None)
def test_broken_export_is_described_or_refused(
    name: str, cuts: list[tuple[float, int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = (EXPORTS / name).read_text(encoding="utf-8")
    for where, length, piece in cuts:
        begin = int(where * len(text))
        text = text[:begin] + piece + text[begin + length :]
    path = tmp_path_factory.mktemp("broken") / "m.csv"
    path.write_text(text, encoding="utf-8")
    try:
        assert describe(path)
    except ValueError as refused:
        assert str(path) in str(refused)


REFUSED = {
    "no times": ("a;b\n1;2\n3;4\n", "separated by ';', 3 of its 3 lines have 2 cells, the first is 'a;b'. If there is"),
    "no names": (f"{DAY} 00:00;1\n{DAY} 01:00;2\n", "write one above it, as 'time;c2', and give time: time"),
    "nothing": ("\n", "it holds no data"),
    "prose": ("Dear customer,\nhere is nothing\n", "no line names columns"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_text_that_is_no_table_is_described(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text, expected = REFUSED[name]
    (tmp_path / "m.csv").write_text(text)
    monkeypatch.setattr("sys.argv", ["stackelgrid", "data", str(tmp_path / "m.csv")])
    assert cli.main() == 2
    told = capfd.readouterr().err
    assert told.startswith(str(tmp_path / "m.csv")) and expected in told
    assert told.count("\n") == 1


def test_data_command_refuses_what_is_not_readable_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(name: str, content: bytes = b"") -> str:
        if content:
            (tmp_path / name).write_bytes(content)
        monkeypatch.setattr("sys.argv", ["stackelgrid", "data", str(tmp_path / name)])
        assert cli.main() == 2
        told, error = capfd.readouterr()
        assert not told and error.count("\n") == 1 and error.startswith(str(tmp_path))
        return error

    days = "\n".join(["day,kWh", *(f"2025-06-{day},1{day % 3}" for day in range(10, 20))]).encode()
    assert "most rows are 24 hours apart, of which no slot's energy can be told; export intervals" in refuse("d", days)
    kinds = "".join(f"{DAY} {t:02d}:00,{h},{k},1\n" for t in range(8) for h in "AB" for k in ("in", "out"))
    assert (
        "several rows have the same time; choose those of one meter by where: {COLUMN: TEXT}, or give meter, the "
        "column that tells meters apart; there are house (A, B); kind (in, out)"
    ) in refuse("k.csv", f"time,house,kind,kWh\n{kinds}".encode())
    assert "none of its columns 'time', 'x' has numbers" in refuse("x.csv", f"time,x\n{DAY} 00:00,no\n".encode())
    assert "a folder, not a file" in refuse("")
    assert "a spreadsheet (.xlsx); save its sheet as CSV" in refuse("m.xlsx", b"PK\x03\x04\xff\xfe")


def test_folder_in_which_one_is_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^\.: cannot be read \(a folder"):
        describe(Path("."))


@pytest.mark.parametrize("word", ["Summe", "Total", "total:"])
def test_closing_row_is_left_out_and_told(word: str, tmp_path: Path) -> None:
    rows = [f"{DAY} {hour:02d}:00,{hour % 5}" for hour in range(24)]
    (tmp_path / "m.csv").write_text("\n".join(["time,kWh", *rows, f"{word},46"]))
    told = describe(tmp_path / "m.csv").splitlines()
    assert told[0].endswith("m.csv: 24 rows; columns 'time', 'kWh'")
    assert f"  its last row 26, '{word}', is no interval and is left out" in told
    hours, shown = read({"file": str(tmp_path / "m.csv"), "timezone": "UTC"}, "kWh")
    assert sum(hours) == sum(hour % 5 for hour in range(24)) and "its last row 26" in "".join(shown)


def test_day_per_row_up_to_24_asks_for_its_stamp(tmp_path: Path) -> None:
    ends = [f"{minute // 60:02d}:{minute % 60:02d}" for minute in range(15, 1441, 15)]
    rows = [f"2025-06-{day};{';'.join(str(n) for n in range(96))}" for day in (13, 14)]
    (tmp_path / "m.csv").write_text("\n".join([f"Tag;{';'.join(ends)}", *rows]))
    assert "stamp     its columns are from 00:15 to 24:00; give end if intervals end then" in describe(
        tmp_path / "m.csv"
    )
    keys = {"file": str(tmp_path / "m.csv"), "timezone": "UTC", "unit": "kWh", "reading": "interval"}
    with pytest.raises(ValueError, match=r"its columns are from 00:15 to 24:00; set data\.m\.stamp: end"):
        read(keys, "value")
    hours, _ = read({**keys, "stamp": "end"}, "value")
    assert hours == [sum(range(4 * hour, 4 * hour + 4)) for hour in range(24)]


def test_data_command_takes_keys(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["stackelgrid", "data", str(EXPORTS / "enel.csv"), "--set", "unit=kWh", "--set", "timezone=Europe/Rome"]
    monkeypatch.setattr("sys.argv", words)
    assert cli.main() == 0
    told = capfd.readouterr().out
    assert "13.389 kWh" in told and "layout: wide" in told and "does not tell" not in told
    monkeypatch.setattr("sys.argv", [*words, "--set", "unti=Wh"])
    assert cli.main() == 2
    assert capfd.readouterr().err == "--set unti=Wh: unti: unknown key; did you mean unit? (found 'Wh')\n"
    monkeypatch.setattr("sys.argv", [*words, "--set", "reading=sample"])
    assert cli.main() == 2
    assert capfd.readouterr().err.startswith("--set unit=kWh --set timezone=Europe/Rome --set reading=sample: a sample")


def write_autumn(path: Path, number: str, more: str = "") -> None:
    """Write the three days around a change of clocks to winter time, as their clocks show them, `more` in each row."""
    begin = datetime(2025, 10, 25, tzinfo=ZoneInfo("Europe/Berlin")).astimezone(UTC)
    times = [(begin + n * timedelta(minutes=15)).astimezone(ZoneInfo("Europe/Berlin")) for n in range(73 * 4)]
    rows = [f"{at:%d.%m.%Y;%H:%M};{number.format(n % 7)}{more}" for n, at in enumerate(times)]
    path.write_text("\n".join([f"Datum;Uhrzeit;Verbrauch (Wh){';kind' * bool(more)}", *rows]))


@pytest.mark.parametrize("number", ["1{},5", "1{}"])
@pytest.mark.parametrize("zone", [{}, {"timezone": "Europe/Berlin"}])
def test_hour_that_is_there_twice_is_no_second_meter(number: str, zone: dict[str, str], tmp_path: Path) -> None:
    write_autumn(tmp_path / "m.csv", number)
    told = describe(tmp_path / "m.csv", **zone)
    assert "meter" not in find_keys(told) and "where" not in told
    if zone:
        assert "  to        2025-10-28 00:00" in told.splitlines() and "  gaps      none" in told


def test_keys_of_a_file_with_the_autumn_change_read_all_of_its_energy(tmp_path: Path) -> None:
    write_autumn(tmp_path / "m.csv", "1{},5", ";A")
    found = find_keys(describe(tmp_path / "m.csv", timezone="Europe/Berlin"))
    hours, _ = read({**found, "file": str(tmp_path / "m.csv"), "day": "2025-10-25"}, "Verbrauch (Wh)", 73)
    assert sum(hours) == pytest.approx(sum(10.5 + n % 7 for n in range(73 * 4)) / 1000)


def test_repeated_hour_in_a_zone_without_a_change_is_asked_about(tmp_path: Path) -> None:
    write_autumn(tmp_path / "m.csv", "1{},5")
    told = describe(tmp_path / "m.csv", timezone="UTC")
    assert "several rows have the same time" in told and "meter" not in find_keys(told)


def test_few_numbers_at_each_time_are_meters_and_others_are_not(tmp_path: Path) -> None:
    rows = [f"{DAY} {hour:02d}:00,{meter},{hour % 5}" for meter in (1001, 1002) for hour in range(24)]
    (tmp_path / "m.csv").write_text("\n".join(["time,house,Wh", *rows]))
    found = find_keys(describe(tmp_path / "m.csv"))
    assert (found["meter"], found["value"]) == ("house", "Wh")
    for scattered in ("{}{}", "{}.5"):
        cells = [(hour, scattered.format(meter, hour % 5)) for meter in (1, 2) for hour in range(24)]
        rows = [f"{DAY} {hour:02d}:00,{cell},{hour % 3}" for hour, cell in cells]
        (tmp_path / "n.csv").write_text("\n".join(["time,Wh,more", *rows]))
        assert "several rows have the same time" in describe(tmp_path / "n.csv")


@pytest.mark.parametrize(
    "keys", [{"reading": "total", "stamp": "end"}, {"value": "kW"}, {"interval": "7min"}, {"unit": "kW", "exchange": 2}]
)
def test_keys_that_contradict_are_refused_by_their_name(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^data\.lastgang_24: ") as refused:
        describe(EXPORTS / "lastgang_24.csv", **keys)
    assert "pydantic" not in str(refused.value) and "whole file" not in str(refused.value)


def test_no_meter_may_be_said(tmp_path: Path) -> None:
    rows = [f"{DAY} {hour:02d}:00,{name},1" for hour in range(24) for name in "AB"]
    (tmp_path / "m.csv").write_text("\n".join(["time,house,Wh", *rows]))
    assert find_keys(describe(tmp_path / "m.csv"))["meter"] == "house"
    with pytest.raises(ValueError, match="most rows have the time of the row before"):
        describe(tmp_path / "m.csv", meter=None)


def test_column_of_times_is_no_home_and_one_of_texts_is_refused(tmp_path: Path) -> None:
    def list_homes(**more: Any) -> list[str]:
        data = {"file": "m.csv", "timezone": "UTC", "day": DAY, "time": ["Datum", "von"], "format": "%d.%m.%Y %H:%M"}
        homes = {"each_column_of": "m", "home": {"load_kw": {"column": "own"}}, **more}
        raw = {"slots": 24, "data": {"m": {**data, "decimal": ","}}, "homes": homes}
        return [home["id"] for home in spell_out(raw, tmp_path, AnyGame)["homes"]]

    names = ["Datum", "von", "bis", "Tag", "Zähler Haus 1 (kWh)", "Ålesund [kWh]", "20250614 (Wh)", "Note", "leer"]
    rows = [f"14.06.2025;{t:02d}:00;{t + 1:02d}:00;14.06.2025;0,{t % 5}1;1,5;20250{t % 5 + 1}14;ok;" for t in range(24)]
    (tmp_path / "m.csv").write_text("\n".join([";".join(names), *rows]), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"column Note: 'ok' is no number.*leave the column out by homes.except: \[Note"
    ):
        list_homes()
    with pytest.raises(ValueError, match="does not say the unit of its column 'leer'"):
        list_homes(**{"except": ["Note"]})
    assert list_homes(**{"except": ["Note", "leer"]}) == ["Zaehler-Haus-1", "Alesund", "20250614"]


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("Zähler Haus 1 (kWh)", "Zaehler-Haus-1"),
        ("Größe Öl [Wh]", "Groesse-Oel"),
        ("Café (Nord)", "Cafe-Nord"),
        ("use (EUR/MWh)", "use"),
        ("h07", "h07"),
        ("x" * 80, "x" * 64),
        ("日本", ""),
    ],
)
def test_home_is_named_by_its_column(column: str, name: str) -> None:
    assert name_home(column) == name


def test_columns_without_a_unit_are_named(tmp_path: Path) -> None:
    rows = [f"{DAY} {hour:02d}:00,{hour % 5},1" for hour in range(24)]
    (tmp_path / "m.csv").write_text("\n".join(["time,a,b", *rows]))
    assert "unit      it is not in the file for 'a', 'b'; give it, as in kWh" in describe(tmp_path / "m.csv")


def test_totals_are_told_as_a_guess_and_a_reset_is_asked_about(tmp_path: Path) -> None:
    stamps = [f"2025-06-{day} {hour:02d}:00" for day in (14, 15) for hour in range(24)]
    (tmp_path / "total.csv").write_text("\n".join(["time,kWh", *(f"{at},{n}" for n, at in enumerate(stamps))]))
    told = describe(tmp_path / "total.csv")
    assert find_keys(told)["reading"] == "total" and "(a guess: its numbers never fall" in told
    assert "a guess" not in describe(tmp_path / "total.csv", reading="total")
    (tmp_path / "days.csv").write_text("\n".join(["time,kWh", *(f"{at},{n % 24}" for n, at in enumerate(stamps))]))
    told = describe(tmp_path / "days.csv")
    assert "reading" not in find_keys(told) and "reading   its numbers rise and fall once; give total if" in told
