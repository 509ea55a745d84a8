"""Brokers for the tests: real processes on free ports of the loopback interface, one of each kind per session."""

from collections.abc import Iterator

import pytest

import broker


@pytest.fixture(scope="session")
def mosquitto_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if broker.find_mosquitto() is None:
        pytest.skip("Mosquitto is not installed")
    with broker.start("mosquitto", tmp_path_factory.mktemp("mosquitto")) as running:
        yield running.url


@pytest.fixture(scope="session")
def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with broker.start("embedded", tmp_path_factory.mktemp("embedded")) as running:
        yield running.url
