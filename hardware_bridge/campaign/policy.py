"""Faults of the policy: actions that are none, that ask for too much, that come late or all at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from hardware_bridge.campaign.bus import SLOT, held
from hardware_bridge.campaign.catalogue import Outcome, real_row, row
from hardware_bridge.campaign.stand import Stand
from hardware_bridge.limiter import Change
from hardware_bridge.safety import Mode

#: What is no action, by what is wrong with it.
NO_ACTIONS: dict[str, Any] = {
    "NaN": [0.1, np.nan, 0.0, 0.0, 0.0],
    "infinite": [np.inf] * 5,
    "-infinite": [0.0, 0.0, -np.inf, 0.0, 0.0],
    "four numbers": np.zeros(4),
    "two rows": np.zeros((2, 5)),
    "a number": 0.1,
    "texts": ["a"] * 5,
    "complex": np.zeros(5, dtype=complex),
    "nothing": None,
    "ragged": [[0.1], [0.1, 0.2], 0.0, 0.0, 0.0],
}


@row(
    29, "actions that are none, one at a time", "NaN, infinite, of other shapes and types",
    "refused before any arithmetic, zero velocity, counted", SLOT,
)  # fmt: skip
def no_action(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    for name, action in NO_ACTIONS.items():
        stand.act(0.4)
        stand.strike()
        received = stand.safety.act(action, stand.beat.now(), next(stand.numbers))
        outcome.expect(not received.accepted, f"{name} was accepted")
        stand.idle(0.1)
        sight = stand.seen("action invalid", "policy")
        outcome.expect(sight is not None and sight.after <= within, f"{name} was not named in time")
        command = stand.driver.command
        outcome.expect(command is not None and not command.velocity.any(), f"{name}: it went on")
        stand.due = 0.0
    count = stand.safety.faults.counts["action invalid"]
    outcome.expect(count == len(NO_ACTIONS), f"{count} were counted")
    outcome.expect(stand.safety.mode is Mode.POLICY, f"the arm is {stand.safety.mode.value}")
    outcome.named, outcome.after = f"action invalid (policy), {count} of {len(NO_ACTIONS)}", 0.0
    outcome.reaction = "refused, braked; the next good action counts"


@row(29, "three actions in a row that are none", "NaN three times", "the episode ends, held", SLOT)
def three(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    for _ in range(3):
        stand.strike()
        stand.safety.act([np.nan] * 5, stand.beat.now(), next(stand.numbers))
        stand.idle(0.3 if not stand.seen("actions invalid") else SLOT)
    outcome.saw(stand.seen("actions invalid", "policy"), "actions invalid", within)
    held(stand, outcome)


@row(
    30, "actions beyond every limit", "200 times the speed, each joint to its end, the arm into the table",
    "clipped or projected; what was really sent is told", SLOT,
)  # fmt: skip
def beyond(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    stand.strike()
    changes: set[Change] = set()
    speed = np.array(stand.robot.arm.speed)
    for direction, times in (([1, -1, -1, 1, 1], 20), ([0, 1, 1, 0, 0], 20)):  # aside, then down there
        for _ in range(times):
            stand.safety.act(40.0 * np.array(direction, dtype=float), stand.beat.now(), next(stand.numbers))
            for _ in range(15):
                stand.idle(SLOT)
                command = stand.driver.command
                assert command is not None
                changes.update(command.changes)
                outcome.expect(bool((np.abs(command.velocity) <= speed).all()), "told more than is allowed")
    needed = {Change.SPEED, Change.WORKSPACE}
    outcome.expect(needed <= changes, f"only {[change.name for change in changes]} were told")
    outcome.expect(stand.safety.mode is Mode.POLICY, f"the arm is {stand.safety.mode.value}")
    outcome.named = "changes: " + "; ".join(sorted(change.value for change in changes))
    outcome.after, outcome.reaction = 0.0, "clipped and projected, the episode went on"


@row(
    31, "no action for 2 s, then five that were waiting", "nothing is sent; then five of them at once",
    "braking within 450 ms; none of the five is ever obeyed", 0.45,
)  # fmt: skip
def stalled(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    stand.safety.act(stand.wish(), stand.beat.now(), next(stand.numbers))
    stand.strike()
    stand.idle(2.0)
    outcome.saw(stand.seen("policy stalled", "policy"), "policy stalled", within)
    issued = stand.struck + 0.303 * np.arange(1, 6)
    held(stand, outcome)
    reference = stand.safety.reference
    for at in issued:
        received = stand.safety.act(stand.wish(), stand.beat.now(), next(stand.numbers), float(at))
        outcome.expect(not received.accepted, "an action that had waited was accepted")
    stand.idle(0.3)
    outcome.expect(np.array_equal(reference, stand.safety.reference), "the arm moved")


@row(
    31, "late and bursty actions in an episode", "one that is 0.6 s old; then five new ones at once",
    "the late one dropped; of five only the newest counts", SLOT,
)  # fmt: skip
def burst(stand: Stand, outcome: Outcome, within: float) -> None:
    stand.episode()
    stand.strike()
    now = stand.beat.now()
    late = stand.safety.act(stand.wish(), now, next(stand.numbers), now - 0.6)
    outcome.expect(not late.accepted, "a late action was accepted")
    stand.idle(SLOT)
    outcome.saw(stand.seen("action late", "policy"), "action late", within)
    stand.strike()
    for speed in (0.2, 0.2, 0.2, 0.2, 0.1):
        stand.safety.act([speed, 0, 0, 0, 0], stand.beat.now(), next(stand.numbers))
    start = stand.safety.reference[0]
    stand.idle(0.3)
    outcome.saw(stand.seen("actions bursty", "policy"), "actions bursty", within)
    moved = float(stand.safety.reference[0] - start)
    outcome.expect(0.0 < moved <= 0.3 * 0.2, f"five at once moved it by {moved:.3f} rad")
    outcome.expect(stand.safety.mode is Mode.POLICY, f"the arm is {stand.safety.mode.value}")
    outcome.reaction = "late one dropped, only the newest of five obeyed"


@real_row(
    34, "the wall clock jumps", "an hour forwards, then two back, in the midst of an episode",
    "every byte to the servos is the same as without", 0.0, clock="lockstep",
)  # fmt: skip
def clock(folder: Path, within: float) -> Outcome:
    outcome = Outcome(after=0.0)
    logs = []
    for name, jumps in (("steady", (0.0, 0.0)), ("jumping", (3600.0, -3600.0))):
        (folder / name).mkdir()
        with Stand(folder / name) as stand:
            stand.arm.link.slack = 2.0  # a reply that a busy computer delays would be a difference, too
            stand.episode()
            for jump in jumps:
                now, ns = time.time, time.time_ns
                with (
                    mock.patch("time.time", lambda now=now, jump=jump: now() + jump),
                    mock.patch("time.time_ns", lambda ns=ns, jump=jump: ns() + int(jump * 1e9)),
                ):
                    stand.act(0.5)
            outcome.expect(not stand.named, f"{name}: {stand.named} were named")
            outcome.count(stand.audit())
            logs.append([packet for packet in stand.log if packet.by == "driver"])
    outcome.expect(logs[0] == logs[1], "the commands differ")
    outcome.expect(len(logs[0]) > 100, "too little was compared")
    outcome.named = "nothing, as it should be"
    outcome.reaction = f"{len(logs[0])} packets, the same with and without"
    return outcome
