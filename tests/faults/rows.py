"""The rows of faults.md, each with its fault and its limit: what `make processes` and `make faults` play.

`NOT_YET` says which rows cannot be held yet, and why: they are left out of both, and nothing else is.
"""

from __future__ import annotations

from dataclasses import replace

from tests.faults.acts import (
    bridges,
    consumers,
    controls,
    hostile,
    job_store,
    limits,
    links,
    nats,
    refused,
    runners,
    sockets,
    talk,
)
from tests.faults.checks import Allow
from tests.faults.scene import Row
from tests.faults.stack import Setup
from tests.small_disk import NOT_HERE, can_mount

NUMBERS = frozenset({*range(1, 34), *range(36, 53), 55, 56})
"""Those that are played here; 34 and 35 are about who may do what: `tests/integration/test_permissions.py`. 53 is
`tests/faults/soak.py`, and 54 all that is in `tests/faults/chaos`."""

NOTHING: frozenset[str] = frozenset()
DROPS = Allow(drops=True)
ENDED = Allow(cut=True, unstored=True, reasons=frozenset({"error"}))
FULL = replace(ENDED, unfinished=True, tracebacks=("LogFull",))
LONG_WORDS = Setup(
    heartbeat_s=10,  # so that the orchestrator does not close the socket of a bridge that stands still
    runner_env={"UNPOD_FAULTS_PIECE_S": str(bridges.WORD_S), "UNPOD_FAULTS_WORDS": str(bridges.LONG_WORDS)},
)
SLOW_WORDS = Setup(runner_env={"UNPOD_FAULTS_PIECE_S": "0.03"})
R3 = Setup(cluster=True)
SKEWED = Setup(
    module="tests.faults.skewed",
    agent_module="tests.faults.skewed",
    bridge_env={"UNPOD_FAULTS_SKEW_S": "-600", "UNPOD_FAULTS_MODULE": "unpod_bridge"},
    runner_env={"UNPOD_FAULTS_SKEW_S": "600", "UNPOD_FAULTS_MODULE": "tests.faults.agent"},
)


def _resumed(policy: str) -> Setup:
    return replace(SLOW_WORDS, runner_env={**SLOW_WORDS.runner_env, "UNPOD_FAULTS_ON_RESUME": policy})


RUNNERS: tuple[Row, ...] = (
    Row(number=1, name="SIGKILL the runner, between turns", act=runners.killed_between_turns, within_s=2.0),
    Row(
        number=2,
        name="SIGKILL the runner in mid-reply",
        act=runners.killed_in_mid_reply,
        within_s=2.0,
        setup=_resumed("continue"),
    ),
    Row(
        number=2,
        variant="apologise",
        name="the same, with an apology",
        act=runners.killed_in_mid_reply,
        within_s=2.0,
        setup=_resumed("apologise"),
        allow=Allow(cut=True),
    ),
    Row(
        number=2,
        variant="repeat",
        name="the same, repeated",
        act=runners.killed_in_mid_reply,
        within_s=2.0,
        setup=_resumed("repeat"),
        allow=Allow(again=True),
    ),
    Row(
        number=3,
        name="SIGKILL the runner after a publish, before its ack",
        act=runners.dies_at_its_failpoint,
        within_s=2.0,
        setup=Setup(runner_failpoint="journal.published", failpoint_at=(10, 60)),
    ),
    Row(number=4, name="SIGKILL the runner inside a hook", act=runners.killed_in_a_hook, within_s=2.0),
    Row(
        number=5,
        name="SIGKILL inside a step, its result not recorded",
        act=runners.dies_at_its_failpoint,
        then=runners.steps_are_not_repeated,
        within_s=2.0,
        setup=Setup(runner_failpoint="step.returned", failpoint_at=(2, 8)),
        orders=frozenset({"step"}),
    ),
    Row(
        number=5,
        variant="stored",
        name="SIGKILL inside a step, its result recorded",
        act=runners.dies_at_its_failpoint,
        then=runners.steps_are_not_repeated,
        within_s=2.0,
        setup=Setup(runner_failpoint="step.stored", failpoint_at=(2, 8)),
        orders=frozenset({"step"}),
    ),
    Row(number=6, name="SIGSTOP the runner, takeover, SIGCONT", act=runners.frozen_and_thawed, within_s=5.0),
    Row(number=7, name="two runners answer one dispatch", act=runners.answers_late, within_s=1.0),
    Row(
        number=9,
        name="the only runner is killed, a new one starts later",
        act=runners.the_only_one_dies,
        within_s=2.0,
        setup=Setup(runners=1),
    ),
    Row(
        number=10,
        name="rolling restart of every runner",
        act=runners.rolling_restart,
        within_s=2.0,
        setup=Setup(runner_env={"UNPOD_FAULTS_DRAIN_S": "1"}),
    ),
    Row(
        number=37,
        name="a hook burns the processor",
        act=runners.burns,
        within_s=15.0,  # the call itself waits for two runners to freeze
        setup=Setup(runners=3, runner_env={"UNPOD_FAULTS_BURN_S": "9"}),
        allow=Allow(cut=True),
    ),
    Row(
        number=38,
        name="a hook kills its process at one input",
        act=runners.one_input_kills,
        then=runners.few_have_died,
        within_s=5.0,
        setup=Setup(runners=4),
        allow=Allow(cut=True),
    ),
    Row(
        number=40,
        name="the last record is missed by the runner",
        act=runners.the_last_record_is_missed,
        setup=Setup(wired=True),
    ),
    Row(
        number=40,
        variant="bridge",
        name="the last record is missed by the bridge",
        act=runners.the_last_command_is_missed,
        setup=Setup(wired=True),
        allow=Allow(drops=True, shadow_s=4.0),  # where the moment is long, another bridge goes on with its calls
    ),
    Row(
        number=41,
        name="other code takes over",
        act=runners.deployed,
        then=runners.nothing_old_is_said,
        within_s=2.0,
        allow=Allow(diverged=True),
    ),
    Row(
        number=52,
        name="tools and hooks hang in all threads, then SIGTERM",
        act=runners.hangs_in_all_threads,
        within_s=2.0,
        setup=Setup(runner_env={"UNPOD_FAULTS_DRAIN_S": "1"}),
    ),
    Row(number=43, name="killed in post-call cleanup", act=runners.killed_in_cleanup, within_s=2.0),
    Row(
        number=43,
        variant="busy",
        name="the same, while others talk",
        act=runners.killed_in_cleanup_under_load,
        within_s=2.0,
    ),
)

BRIDGES: tuple[Row, ...] = (
    Row(
        number=10,
        variant="bridges",
        name="rolling restart of every bridge",
        act=bridges.rolling_restart,
        within_s=3.0,
        allow=DROPS,
    ),
    Row(number=11, name="SIGKILL the bridge between frames", act=bridges.killed, within_s=3.0, allow=DROPS),
    Row(
        number=12,
        name="SIGKILL the bridge after a claim, before the write",
        act=bridges.dies_at_its_failpoint,
        then=bridges.what_was_claimed_is_unknown,
        within_s=3.0,
        setup=Setup(bridge_failpoint="line.claim_stored"),
        allow=DROPS,
    ),
    Row(
        number=13,
        name="SIGKILL the bridge after the write, before the receipt",
        act=bridges.dies_at_its_failpoint,
        then=bridges.what_was_claimed_is_unknown,
        within_s=3.0,
        setup=Setup(bridge_failpoint="line.delivered"),
        allow=DROPS,
    ),
    Row(
        number=14,
        name="two bridges redial one call",
        act=bridges.killed,
        within_s=3.0,
        setup=Setup(bridges=3),
        allow=DROPS,
    ),
    Row(
        number=15,
        name="SIGSTOP the bridge, SIGCONT",
        act=bridges.frozen_and_thawed,
        within_s=5.0,
        allow=Allow(drops=True, shadow_s=15.0),
    ),
    Row(
        number=39,
        name="runner and bridge killed at once",
        act=bridges.killed_with_a_runner,
        within_s=5.0,
        allow=DROPS,
    ),
    Row(
        number=39,
        variant="slow",
        name="the same, in the middle of slow words",
        act=bridges.killed_with_a_runner,
        within_s=5.0,
        setup=SLOW_WORDS,
        allow=DROPS,
    ),
    Row(
        number=44,
        name="SIGSTOP the bridge in mid-reply, with a text waiting",
        act=bridges.still_for_too_long,
        then=bridges.all_take_calls,
        within_s=5.0,
        setup=LONG_WORDS,
        allow=Allow(drops=True, shadow_s=6.0),
    ),
    Row(
        number=44,
        variant="short",
        name="the same, for less than makes another take its calls",
        act=bridges.still_for_a_moment,
        then=bridges.all_take_calls,
        within_s=5.0,
        setup=LONG_WORDS,
        allow=Allow(drops=True, shadow_s=6.0),
    ),
)

SOCKETS: tuple[Row, ...] = (
    Row(number=8, name="the same job.assign twice", act=sockets.assigned_twice),
    Row(number=16, name="the call socket drops", act=sockets.call_sockets_drop, within_s=1.0, allow=DROPS),
    Row(number=17, name="the control socket drops", act=sockets.control_sockets_drop),
    Row(
        number=18,
        name="the worker stops reading, buffers full",
        act=sockets.buffers_are_full,
        within_s=10.0,
        allow=Allow(drops=True, shadow_s=4.0),
    ),
    Row(
        number=18,
        variant="quiet",
        name="the worker stops reading, half-open",
        act=sockets.half_open,
        within_s=10.0,
        allow=Allow(drops=True, shadow_s=4.0),
        slow=True,
    ),
    Row(number=19, name="the key is refused, the orchestrator is too old", act=sockets.the_key_is_refused),
)

LOG: tuple[Row, ...] = (
    Row(number=20, name="kill -9 of NATS, restarted", act=nats.killed_and_restarted, within_s=2.0),
    Row(number=21, name="kill -9 of an R3 leader", act=nats.leader_killed, within_s=10.0, setup=R3),
    Row(
        number=21,
        variant="follower",
        name="kill -9 of an R3 follower",
        act=nats.follower_killed,
        within_s=1.0,
        setup=R3,
        slow=True,
    ),
    Row(
        number=21,
        variant="term",
        name="SIGTERM of an R3 leader",
        act=nats.leader_terminated,
        within_s=1.0,
        setup=R3,
    ),
    Row(
        number=21,
        variant="term-follower",
        name="SIGTERM of an R3 follower",
        act=nats.follower_terminated,
        within_s=1.0,
        setup=R3,
        slow=True,
    ),
    Row(number=22, name="kill -9 of all three, restarted", act=nats.all_nodes_killed, within_s=10.0, setup=R3),
    Row(
        number=45,
        name="SIGSTOP of one NATS node of three, under talking calls",
        act=nats.node_stands_still,
        within_s=10.0,
        setup=R3,
        allow=Allow(drops=True, shadow_s=6.0),
    ),
    Row(number=23, name="NATS away in mid-call", act=nats.away, within_s=2.0),
    Row(number=24, name="NATS away past the bound", act=nats.away_for_too_long, allow=ENDED),
    Row(number=25, name="the stream is full", act=nats.full, setup=Setup(max_mb=16), allow=FULL, closes=False),
    Row(number=26, name="clocks ten minutes apart", act=nats.clocks_apart, within_s=2.0, setup=SKEWED),
)

JOBS: tuple[Row, ...] = (
    Row(
        number=49,
        name="the job store is full",
        act=job_store.full,
        then=job_store.no_job_is_left,
        within_s=1.0,
        setup=Setup(max_mb=128),
    ),
    Row(
        number=49,
        variant="away",
        name="the job store takes nothing for a while",
        act=job_store.away,
        then=job_store.no_job_is_left,
        within_s=1.0,
    ),
    Row(
        number=50,
        name="a bridge is killed, and another started, behind many finished jobs",
        act=job_store.many_finished,
        within_s=3.0,
        allow=DROPS,
    ),
)

SHARED: tuple[Row, ...] = (
    Row(number=51, name="another agent's runner uses up the message ids", act=limits.ids_are_used_up, within_s=2.0),
    Row(
        number=55,
        name="one call's code floods `say`",
        act=limits.one_floods,
        within_s=5.0,  # what the call itself has to say waits behind its flood
        setup=Setup(max_mb=64),
    ),
    Row(
        number=55,
        variant="ended",
        name="the same, beyond its share of a small log",
        act=limits.one_floods_a_small_log,
        within_s=2.0,
        setup=Setup(max_mb=16),
    ),
    Row(
        number=55,
        variant="litter",
        name="one call's code writes garbage past the runtime",
        act=limits.one_litters,
        within_s=2.0,
        setup=Setup(max_mb=64),
    ),
    Row(
        number=56,
        name="the disk under NATS is full",
        act=limits.disk_is_full,
        within_s=2.0,
        setup=Setup(disk_mb=64),
    ),
    Row(
        number=56,
        variant="one",
        name="the disk under one NATS node of three is full",
        act=limits.disk_of_one_is_full,
        within_s=10.0,
        setup=Setup(cluster=True, disk_mb=64),
        slow=True,
    ),
)

TALK: tuple[Row, ...] = (
    Row(
        number=27,
        name="the metrics consumer is killed and run again",
        act=consumers.killed_and_rerun,
        then=consumers.it_counts_what_the_log_says,
        within_s=2.0,
    ),
    Row(
        number=27,
        variant="traces",
        name="the traces consumers are killed and run again",
        act=consumers.traces_killed_and_rerun,
        then=consumers.it_has_sent_what_the_log_says,
        within_s=2.0,
    ),
    Row(
        number=27,
        variant="analytics",
        name="the analytics consumer is killed and run again",
        act=consumers.analytics_killed_and_rerun,
        then=consumers.its_rows_are_those_of_the_log,
        within_s=2.0,
    ),
    Row(
        number=28,
        name="hooks that raise, hang, flood",
        act=talk.hooks_misbehave,
        then=talk.their_failures_are_recorded,
        within_s=5.0,
        allow=Allow(tracebacks=("this hook always raises",)),
        orders=NOTHING,
    ),
    Row(
        number=29,
        name="brains that raise, hang, say nothing, say 10 MB",
        act=talk.brains_misbehave,
        then=talk.their_errors_are_told,
        within_s=2.0,
        allow=Allow(cut=True, tracebacks=("the brain is broken",)),
        orders=NOTHING,
    ),
    Row(number=30, name="barge-in at every point", act=talk.barge_in, allow=Allow(cut=True), orders=NOTHING),
    Row(number=31, name="hostile frames", act=hostile.frames, within_s=2.0, allow=DROPS, orders=NOTHING),
    Row(number=32, name="hostile session ids", act=hostile.session_ids),
    Row(number=32, variant="agents", name="hostile agent ids", act=hostile.agent_ids, slow=True),
    Row(
        number=36,
        name="one control three times, a thousand at one session",
        act=controls.twice_and_many,
        then=controls.each_was_done_once,
        within_s=2.0,
    ),
    Row(
        number=36,
        variant="killed",
        name="controls while a runner and a bridge are killed",
        act=controls.while_they_die,
        then=controls.they_were_told_the_truth,
        within_s=12.0,  # a bridge that dies with a call on probation is remembered for 10 s
        allow=DROPS,
    ),
    Row(number=33, name="forged headers", act=hostile.headers, within_s=2.0, allow=Allow(forged=True)),
    Row(
        number=42,
        variant="socket",
        name="recording paused, then the socket drops",
        act=talk.pause_then_drop,
        allow=DROPS,
        orders=NOTHING,
    ),
    Row(
        number=42,
        variant="nats",
        name="recording paused, then NATS is killed",
        act=talk.pause_then_kill_nats,
        orders=NOTHING,
    ),
    Row(
        number=42,
        variant="runner",
        name="recording paused, then a runner is killed",
        act=talk.pause_then_kill_runner,
        allow=Allow(diverged=True),  # a hook that runs again does not get the text
        orders=NOTHING,
    ),
    Row(
        number=42,
        variant="bridge",
        name="recording paused, then a bridge is killed",
        act=talk.pause_then_kill_bridge,
        allow=DROPS,
        orders=NOTHING,
    ),
)

OFTEN: frozenset[str] = frozenset({"runner-silent", "runner-deaf", "bridge-cut", "bridge-mute", "bridge-slow"})
"""What of row 47 is played each time; one way to lose a link is much like another."""
HARMS: tuple[links.Harm, ...] = (links.cut, links.silent, links.deaf, links.mute, links.slow, links.trickle)
WIRED = Setup(wired=True)

LINKS: tuple[Row, ...] = tuple(
    row
    for harm in HARMS
    for row in (
        Row(
            number=47,
            variant=f"runner-{harm.__name__}",
            name=f"a runner's link to NATS: {(harm.__doc__ or '').splitlines()[0]}",
            act=links.of_a_runner(harm),
            within_s=2.0,
            setup=WIRED,
            slow=f"runner-{harm.__name__}" not in OFTEN,
        ),
        Row(
            number=47,
            variant=f"bridge-{harm.__name__}",
            name=f"a bridge's link to NATS: {(harm.__doc__ or '').splitlines()[0]}",
            act=links.of_a_bridge(harm),
            within_s=2.0,
            setup=WIRED,
            allow=Allow(drops=True, shadow_s=15.0),
            slow=f"bridge-{harm.__name__}" not in OFTEN,
        ),
    )
)

REFUSED: tuple[Row, ...] = (
    *(
        Row(
            number=46,
            variant=variant,
            name=f"controls expire while the worker cannot be reached: {(meanwhile.__doc__ or '').splitlines()[0]}",
            act=refused.expires(meanwhile),
            then=refused.nobody_has_noticed,
            within_s=2.0,
            allow=Allow(drops=True, shadow_s=4.0 if variant else 0.5),
            slow=variant in ("handover", "killed"),
        )
        for variant, meanwhile in (
            ("", refused.nothing_else),
            ("takeover", refused.a_runner_dies),
            ("handover", refused.a_bridge_leaves),
            ("killed", refused.a_bridge_dies),
        )
    ),
    Row(
        number=48,
        name="a cold transfer is refused by the worker",
        act=refused.transfers_are_refused,
        then=refused.the_sessions_know,
        within_s=3.0,  # what is said in the first second, or two, shows nothing yet, and is answered with the next text
        allow=Allow(cut=True),
        orders=NOTHING,
    ),
)

ROWS: tuple[Row, ...] = tuple(
    sorted(
        (*RUNNERS, *BRIDGES, *SOCKETS, *LOG, *JOBS, *LINKS, *REFUSED, *SHARED, *TALK),
        key=lambda row: (row.number, row.variant),
    )
)

NOT_YET: dict[str, str] = {} if can_mount() else {"56": NOT_HERE, "56-one": NOT_HERE}
"""The key of a row, and why it is left out."""

PLAYED: tuple[Row, ...] = tuple(row for row in ROWS if row.key not in NOT_YET)
