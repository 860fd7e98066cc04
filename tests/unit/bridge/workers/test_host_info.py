"""Where a worker says that it runs."""

from __future__ import annotations

import pytest

from unpod_bridge.workers.host_info import CLOUDS, REGIONS, Description, describe


def found(**environment: str) -> Description:
    return describe(environment, hostname=lambda: "box", address=lambda: "10.0.0.1")


def test_a_plain_machine() -> None:
    assert found() == Description("box", "10.0.0.1", None, "local")


def test_every_override() -> None:
    assert found(
        UNPOD_WORKER_HOSTNAME="edge-1.example",
        UNPOD_WORKER_ADDRESS="2001:db8::7",
        UNPOD_WORKER_REGION="mars-1",
        UNPOD_WORKER_DEPLOYMENT="cloud",
    ) == Description("edge-1.example", "2001:db8::7", "mars-1", "cloud")


@pytest.mark.parametrize("name", ["HOSTNAME", "ADDRESS", "REGION", "DEPLOYMENT"])
@pytest.mark.parametrize("bad", ["   ", "a b", "x\r\ny", "-", "ü" * 9, "x" * 5000])
def test_a_bad_override_is_ignored(name: str, bad: str) -> None:
    assert found(**{f"UNPOD_WORKER_{name}": bad}) == found()


def test_a_bad_override_is_named_in_the_log_without_its_value(caplog: pytest.LogCaptureFixture) -> None:
    found(UNPOD_WORKER_DEPLOYMENT="basement")
    assert "UNPOD_WORKER_DEPLOYMENT" in caplog.text
    assert "basement" not in caplog.text


@pytest.mark.parametrize("name", REGIONS)
def test_regions_of_platforms(name: str) -> None:
    assert found(**{name: "eu-west-1"}).region == "eu-west-1"


def test_the_first_region_that_makes_sense_counts() -> None:
    assert found(AWS_REGION=" ", FLY_REGION="ams", REGION="x").region == "ams"
    assert found(AWS_REGION="no region!", REGION="x").region == "x"
    assert found(UNPOD_WORKER_REGION="mine", AWS_REGION="eu").region == "mine"
    assert found(UNPOD_WORKER_REGION="not valid", AWS_REGION="eu").region == "eu"


@pytest.mark.parametrize("name", CLOUDS)
def test_platforms_are_clouds(name: str) -> None:
    assert found(**{name: "1"}).deployment == "cloud"
    assert found(**{name: "1", "UNPOD_WORKER_DEPLOYMENT": "Local"}).deployment == "local"
    assert found(**{name: " "}).deployment == "local"


def test_what_cannot_be_found_out_is_none() -> None:
    assert describe({}, hostname=lambda: None, address=lambda: None) == Description()
    assert describe({}, hostname=lambda: "", address=lambda: "?").hostname is None


def test_this_machine() -> None:
    assert describe({}).deployment == "local"
