"""Ids are derived: another process, and another version, must come to the same ones."""

from __future__ import annotations

import pytest

from unpod.core.ids import command_id, derive, message_id, record_id, step_id


def test_what_is_derived_never_changes_between_versions() -> None:
    assert record_id("call-1", "bridge", 1) == "654487759d354c25536ac06ed4c93efa"
    assert record_id("call-1", "owner", 1) == "ebe9afcf8d3b1f93844a8e50d88a4976"
    assert command_id("call-1", "cause", "main", "say", 0) == "104ad5e70a8f9fe9307e91e87995ddd7"
    assert step_id("call-1", "cause", "main", "charge", 0) == "6f0d89586d1529b0eab5af2e842eda61"


def test_parts_do_not_run_into_each_other() -> None:
    assert derive("ab", "c") != derive("a", "bc")
    assert derive("a", "") != derive("a")
    assert derive("a:1") != derive("a", 1)


def test_a_command_and_a_step_of_the_same_name_differ() -> None:
    assert command_id("s", "c", "h", "say", 0) != step_id("s", "c", "h", "say", 0)


def test_the_second_use_of_a_verb_is_another_command() -> None:
    assert command_id("s", "c", "h", "say", 0) != command_id("s", "c", "h", "say", 1)


def test_a_new_owner_writes_the_same_id_under_another_message_id() -> None:
    identifier = record_id("s", "owner", 7)
    assert message_id(identifier, 3) == f"{identifier}@3"
    assert message_id(identifier, 3) != message_id(identifier, 4)


@pytest.mark.parametrize("session", ["s1", "call 1/\N{BLACK TELEPHONE}", "x" * 4_000])
@pytest.mark.parametrize("index", [1, 10, 123_456])
def test_a_record_is_known_by_its_writer_and_its_number(session: str, index: int) -> None:
    assert record_id(session, "bridge", index) == derive("record", session, "bridge", index)
    assert record_id(session, "bridge", index) != record_id(session, "owner", index)
