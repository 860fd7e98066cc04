"""A call on one time axis: what its worker sent and got, its log, what was done, and what processes wrote about it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.faults.chaos.judge import Harmed
from tests.faults.chaos.nemesis import Deed
from tests.faults.chaos.plan import BRIDGE, RUNNER
from tests.faults.process import Process

_STAMP: Final = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ")
_SHOWN: Final = 1_000


def dump(harmed: Harmed, findings: Sequence[str], deeds: Sequence[Deed], processes: Sequence[Process]) -> str:
    """Return the call as a text, a line for each thing, with seconds since it was placed."""
    found = [
        *_frames(harmed),
        *_records(harmed),
        *_deeds(harmed, deeds),
        *(line for process in processes for line in _written(harmed, process)),
    ]
    head = [harmed.name, f"session {harmed.caller.session}", *findings, ""]
    return "\n".join((*head, *(f"{at:9.3f} {line}" for at, line in sorted(found, key=lambda each: each[0])), ""))


def _frames(harmed: Harmed) -> Iterator[tuple[float, str]]:
    for frame in harmed.frames:
        way = "agent  >" if frame.direction == "in" else "caller >"
        yield frame.t_s, f"{way} {str(frame.raw)[:_SHOWN]}"
    for what, times in (("lost", harmed.caller.downs), ("there again", harmed.caller.ups)):
        for at in times:
            yield at - harmed.origin, f"socket {what}"
    for at, code in harmed.call.dials:
        yield at, f"dialled: {'let in' if code is None else code}"


def _records(harmed: Harmed) -> Iterator[tuple[float, str]]:
    for record in harmed.records:
        envelope = record.envelope
        writer = f"epoch {envelope.epoch} {envelope.source}" if envelope.index else envelope.source
        what = f"{record.channel} {envelope.index:4} {writer} {envelope.type} {record.data.decode()[:_SHOWN]}"
        yield envelope.time - harmed.clock_offset - harmed.origin, f"log {record.seq:6} {what}"


def _deeds(harmed: Harmed, deeds: Sequence[Deed]) -> Iterator[tuple[float, str]]:
    mine = set(map(id, harmed.about))
    for deed in deeds:
        mark = "*****" if id(deed) in mine else "(...)"
        yield deed.began - harmed.origin, f"{mark} {deed} begins"
        if deed.ended is not None and deed.ended > deed.began:
            yield deed.ended - harmed.origin, f"{mark} {deed} is over"


def _written(harmed: Harmed, process: Process) -> Iterator[tuple[float, str]]:
    holders = {*harmed.holders(BRIDGE), *harmed.holders(RUNNER)}
    for line in process.text.splitlines():
        stamp = _STAMP.match(line)
        mine = harmed.caller.session in line or harmed.call.job_id in line
        warns = process.id in holders and " INFO " not in line and " job job-" not in line
        if stamp and (mine or warns):
            at = time.mktime(time.strptime(stamp[1], "%Y-%m-%d %H:%M:%S")) + int(stamp[2]) / 1000
            yield at - harmed.clock_offset - harmed.origin, f"{process.label} ({process.id}): {line[24:][:_SHOWN]}"


def write(directory: Path, number: int, text: str) -> Path:
    """Write a dump; return where it is."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"call-{number}.txt"
    file.write_text(text)
    return file
