"""What the memory of an aggregator's process holds of single answers: all, or nothing where these are masked."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.process_memory import find_numbers, read_memory

from stackelgrid.attacks.targets import Population
from stackelgrid.runner import run
from stackelgrid.scenarios import load

HOMES = 10
CASE = {"population.homes": HOMES, "aggregators": 1, "leader.objective": "welfare"}
HOLDER = """
import array, gc, random, sys
draw = random.Random(7)
numbers = [draw.uniform(0.5, 9.5) for _ in range(4)]
kept = {
    "float64": lambda: array.array("d", numbers),
    "fixed point": lambda: array.array("q", [round(number * 2**32) for number in numbers]),
    "text": lambda: ",".join(map(repr, numbers)),
}[sys.argv[1]]()
print("ready", flush=True)
sys.stdin.read()
"""
"""A process that keeps numbers in one form, beside those that it has made it of."""


def read_or_skip(pid: int) -> list[bytes]:
    try:
        return read_memory(pid)
    except PermissionError:
        pytest.skip("this user may not read the memory of its own processes")


@pytest.mark.parametrize("form", ["float64", "fixed point", "text"])
def test_search_finds_numbers_in_the_form_in_which_a_process_keeps_them(form: str) -> None:
    draw = random.Random(7)
    kept, others = ([draw.uniform(0.5, 9.5) for _ in range(4)] for _ in range(2))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, form], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"ready\n"
        memory = read_or_skip(holder.pid)
        holder.communicate(b"")
    forms = {"float64": 4, "fixed point": 0, "text": 0} | {form: 3 if form == "fixed point" else 4}
    assert find_numbers(memory, [kept]) == forms
    assert find_numbers(memory, [others]) == {"float64": 0, "fixed point": 0, "text": 0}


@pytest.mark.parametrize("sums", ["off", "committee"])
def test_aggregator_holds_answers_in_memory_where_they_are_not_masked_and_else_none(sums: str, tmp_path: Path) -> None:
    privacy = {"privacy.sums": sums, "privacy.minimum_group": 5}
    folder, records = tmp_path / "run", list[dict[str, Any]]()
    memory: list[bytes] = []

    def look(record: dict[str, Any]) -> None:
        records.append(record)
        if len(records) == 3:
            log = (folder / "logs" / "a1.jsonl").read_text().splitlines()
            pid = next(line["pid"] for line in map(json.loads, log) if line["event"] == "started")
            memory.extend(read_or_skip(pid))

    scenario = load("user_oriented", [f"{key}={value}" for key, value in {**CASE, **privacy}.items()])
    played = run(scenario, transport="mqtt", out=folder, on_round=look)
    assert played.settled and memory
    # Of a home without storage the load is a closed form, so that it has the same bits here and there. One that draws
    # what its connection carries is left out, which the aggregator is told of.
    answers = [
        [load for load in home.find_load(np.array(record["price"])).tolist() if load != home.kw][:4]
        for home in Population.of(scenario, HOMES).homes
        for record in records[:3]
        if home.secrets.wear is None
    ]
    assert sum(map(len, answers)) > 20
    found = find_numbers(memory, answers)
    if sums == "off":
        assert found["float64"] > 0  # most may be overwritten, where the run is over when its memory is read
    else:
        assert found == {"float64": 0, "fixed point": 0, "text": 0}
    price = records[2]["price"]
    assert find_numbers(memory, [price])["float64"] == len(set(price))  # which it holds, masks or not
