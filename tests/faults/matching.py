"""Which frames of the worker have no record in the log: both are in order, and some frames are equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from unpod_orchestrator import LoggedFrame

Payload: TypeAlias = Mapping[str, object]
FIGURES: Final = frozenset({"metric", "turn.metrics", "state"})
_NEVER: Final = 1_000_000
_MANY: Final = 2_000_000
"""Beyond so many comparisons the first answer has to do."""


def left_out(
    frames: Sequence[LoggedFrame], records: Sequence[Payload], may: Callable[[LoggedFrame], bool]
) -> list[LoggedFrame]:
    """Return the frames without a record, as few as possible of them such as may not be missing."""
    quick = _greedy(frames, records)
    if all(may(frame) for frame in quick) or len(frames) * len(records) > _MANY:
        return quick
    return _cheapest(frames, records, may) or quick


def same(frame: LoggedFrame, payload: Payload) -> bool:
    """Whether a record can be a frame's; of a withheld one only its kind is stored, or what is known to be harmless."""
    if payload == frame.raw:
        return True
    told = {name: value for name, value in payload.items() if name != "withheld"}
    return (bool(payload.get("withheld")) or frame.event in FIGURES) and _part_of(told, frame.raw)


def _part_of(told: Payload, whole: Payload) -> bool:
    return all(value in (whole.get(name), "", None) for name, value in told.items()) and told["event"] == whole["event"]


def _greedy(frames: Sequence[LoggedFrame], records: Sequence[Payload]) -> list[LoggedFrame]:
    """Give each record the first frame that it can be of."""
    following = iter(records)
    record = next(following, None)
    missing: list[LoggedFrame] = []
    for frame in frames:
        if record is not None and same(frame, record):
            record = next(following, None)
        else:
            missing.append(frame)
    return missing


def _cheapest(
    frames: Sequence[LoggedFrame], records: Sequence[Payload], may: Callable[[LoggedFrame], bool]
) -> list[LoggedFrame]:
    """Give all records their frames at the least cost; [] where that cannot be."""
    prices = [0 if may(frame) else 1 for frame in frames]
    costs = [[0] + [_NEVER] * len(records)]
    for frame, price in zip(frames, prices, strict=True):
        above = costs[-1]
        row = [above[0] + price]
        for index, record in enumerate(records):
            skipped = above[index + 1] + price
            row.append(min(skipped, above[index]) if same(frame, record) else skipped)
        costs.append(row)
    if costs[-1][-1] >= _NEVER:
        return []
    missing: list[LoggedFrame] = []
    index = len(records)
    for number in range(len(frames), 0, -1):
        if costs[number][index] == costs[number - 1][index] + prices[number - 1]:
            missing.insert(0, frames[number - 1])
        else:
            index -= 1
    return missing
