"""Where records stand, as a message carries it."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unpod.core.dispatch_messages import TO_RUNNER, Start, encode
from unpod.core.positions import MOST, Positions, Trail, pack, unpack
from unpod.errors import ProtocolViolation


def trail(*seqs: int) -> Trail:
    made = Trail()
    for seq in seqs:
        made.add(seq)
    return made


@given(records=st.dictionaries(st.integers(1, 2**62), st.integers(0, 3)), through=st.integers(0, 2**62))
def test_what_is_packed_is_unpacked(records: dict[int, int], through: int) -> None:
    parts = [[seq for seq in sorted(records) if records[seq] == writer] for writer in range(4)]
    packed = pack(through, [trail(*part) for part in parts[:3]], parts[3])
    assert unpack(packed) == Positions(tuple(sorted(records)), through)


def test_it_travels_in_json() -> None:
    packed = pack(9, [trail(1, 300)], [2])
    start = Start(job="j", agent="a", session="s", epoch=2, until_seq=9, positions=packed)
    assert msgspec.json.decode(encode(start))["positions"] == base64.b64encode(packed).decode()
    assert TO_RUNNER.decode(encode(start)) == start
    assert unpack(packed).seqs == (1, 2, 300)


def test_a_record_in_a_busy_log_takes_two_bytes() -> None:
    assert len(bytes(trail(*range(1, 1_000_000, 1_000)))) <= 2_010


def test_what_comes_twice_or_late_is_passed_over() -> None:
    assert unpack(pack(9, [trail(5, 5, 3, 6)])).seqs == (5, 6)


def test_of_a_full_trail_only_the_beginning_is_known() -> None:
    full = trail(*range(1, 2 * MOST, 2))
    assert full.is_full
    found = unpack(pack(10 * MOST, [full, trail(2)]))
    kept = len(found.seqs) - 1
    assert MOST // 2 - 10 < kept <= MOST // 2
    assert (found.seqs[-1], found.through) == (2 * kept - 1, 2 * kept - 1)
    assert pack(3, [full]) == pack(3, [trail(*range(1, 2 * kept, 2))])


def test_the_most_of_three_writers_fit_in_a_message() -> None:
    far = trail(*range(2**40, 2**40 + MOST * 2**20, 2**20))
    assert far.is_full
    start = Start(job="j", agent="a", session="s", epoch=2, until_seq=9, positions=pack(1, [far, far]))
    assert len(encode(start)) < 256 * 1024


def test_a_part_may_be_asked_for() -> None:
    assert Positions((1, 4, 7), 9).since(4) == (4, 7)
    assert Positions((1, 4, 7), 6).since(2) == (4,)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01" * 7, b"\x01" * 11])
def test_what_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        unpack(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        found = unpack(data)
    except ProtocolViolation:
        return
    assert list(found.seqs) == sorted(set(found.seqs))
    assert all(seq > 0 for seq in found.seqs)
