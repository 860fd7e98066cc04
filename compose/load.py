"""Callers for the local orchestrator: they dial the demo's pizzeria all the time, and do what people do.

::

    python compose/load.py --url http://127.0.0.1:9000 --calls-per-minute 60
    python compose/load.py --url http://127.0.0.1:9000 --calls 20

Each caller follows one of the demo's scripts: plain turns, a barge-in, a transfer, a card number in a recording pause,
hanging up in mid-reply, an end by the agent. Called with `--agent`, they say the same to yours, and take any answer. It
says each ten seconds how many calls it has placed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator

import msgspec

from unpod_cli.demo.calls import CALLS
from unpod_orchestrator import (
    AnyStep,
    ExpectsEnd,
    ExpectsRecording,
    ExpectsTransfer,
    HearsAll,
    HearsReply,
    HearsSpeech,
)

DEMO = "pizzeria"
REPORT_S = 10.0


def taking_any_answer(steps: Iterable[AnyStep]) -> Iterator[AnyStep]:
    """Yield the steps without what only the demo's agent says and does."""
    for step in steps:
        match step:
            case HearsSpeech():
                yield HearsAll(within_s=step.within_s)
            case HearsReply():
                yield HearsReply(within_s=step.within_s)
            case ExpectsEnd() | ExpectsRecording() | ExpectsTransfer():
                continue
            case _:
                yield step


def place(url: str, key: str, agent: str, speed: float) -> str:
    """Place one call; return "" or why it was refused."""
    steps = random.choice(CALLS).scenario(speed).steps
    script = [msgspec.to_builtins(step) for step in (steps if agent == DEMO else taking_any_answer(steps))]
    request = urllib.request.Request(
        f"{url}/_local/calls",
        json.dumps({"agent_id": agent, "script": script}).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code}: {error.read(200).decode('utf-8', 'replace')}"
    except OSError as error:
        return str(error)


async def main() -> int:
    """Place calls until there are enough, or for ever; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:9000", help="the local orchestrator (%(default)s)")
    parser.add_argument("--key", default="sk_local", help="its API key (%(default)s)")
    parser.add_argument("--agent", default=DEMO, help="whom to call (%(default)s)")
    parser.add_argument("--speed", type=float, default=1.0, help="the orchestrator's own --speed (%(default)s)")
    parser.add_argument("--calls-per-minute", type=float, default=60.0, help="how many (%(default)s)")
    parser.add_argument("--calls", type=int, default=0, help="after how many to end; 0 for never (%(default)s)")
    options = parser.parse_args()
    placed = refused = 0
    why = ""
    loop = asyncio.get_running_loop()
    report_at = loop.time() + REPORT_S
    while not options.calls or placed + refused < options.calls:
        problem = await asyncio.to_thread(place, options.url, options.key, options.agent, options.speed)
        placed, refused, why = placed + (not problem), refused + bool(problem), problem or why
        if loop.time() >= report_at:
            report_at = loop.time() + REPORT_S
            print(f"{placed} calls placed, {refused} refused{f' (the last: {why})' if why else ''}", flush=True)
        await asyncio.sleep(random.expovariate(options.calls_per_minute / 60))
    print(f"{placed} calls placed, {refused} refused{f' (the last: {why})' if why else ''}", flush=True)
    return 0 if placed else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
