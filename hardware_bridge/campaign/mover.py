"""A policy in a process of its own, for faults of processes: moves the base to and fro until it is ended.

``python -m hardware_bridge.campaign.mover CONFIG [stall]``. It tells the driver's process id once it acts;
with ``stall`` it holds its interpreter's lock three times for longer than 100 ms, tells what the driver made
of that, and ends.
"""

from __future__ import annotations

import itertools
import json
import sys
import time

from hardware_bridge.faults import FaultError
from hardware_bridge.process import DriverProcess

#: Near the rest pose (rad), so that the way home is short; and the speed (rad/s).
UP = (0.0, -1.4, 1.4, 0.1, 0.0)
PACE = 0.2


def up(door: DriverProcess, attempts: int = 5) -> None:
    """To the start; where a busy computer held the arm on its way, before any damage, once more."""
    for attempt in range(attempts):
        try:
            door.recover()
            door.go_to(UP)
            door.begin_episode()
            return
        except FaultError:
            if attempt == attempts - 1:
                raise


def main() -> int:
    config, *stall = sys.argv[1:]
    door = DriverProcess(config).start()
    up(door)
    began = time.monotonic()
    told = False
    while True:
        way = 1.0 if (time.monotonic() - began) // 3.0 % 2 < 1 else -1.0
        door.act([way * PACE, 0.0, 0.0, 0.0, 0.0])
        time.sleep(0.1)
        if not told and time.monotonic() - began > 0.6:
            told = True
            print(json.dumps({"driver": door.pid, "scheduling": door.scheduling}), flush=True)
            if stall:
                return _stall(door, began)


def _stall(door: DriverProcess, began: float) -> int:
    held = []
    for _ in range(3):
        door.act([PACE, 0.0, 0.0, 0.0, 0.0])
        started = time.monotonic()
        while time.monotonic() - started < 0.1:
            pow(7, 1_500_000)  # one call of C: no other thread of this process runs meanwhile
        held.append(time.monotonic() - started)
    numbers = [tick.number for tick in door.ticks(began)]
    report = {
        "held": max(held),
        "missing": len([1 for one, other in itertools.pairwise(numbers) if other != one + 1]),
        "late": door.statistics()["late"],
        "faults": [fault.kind for fault in door.latest.faults],
    }
    print(json.dumps(report), flush=True)
    return door.close()


if __name__ == "__main__":
    sys.exit(main())
