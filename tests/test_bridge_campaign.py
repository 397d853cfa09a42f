"""The fault campaign's core rows, and that its audit and its table can say no."""

from __future__ import annotations

import csv
import dataclasses

import pytest

from hardware_bridge.backend import TWIN
from hardware_bridge.campaign import run
from hardware_bridge.campaign.audit import Audit, Logged
from hardware_bridge.campaign.catalogue import CORE, Outcome
from hardware_bridge.campaign.stand import Stand
from hardware_bridge.config import load
from hardware_bridge.protocol import PROTOCOL_1
from hardware_bridge.twin.faults import WireFault, flip

ROWS = [row for row in run.rows() if row.core and row.clock == "lockstep"]


def name(row):
    return f"{row.number} {row.fault}"


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_a_fault_is_named_in_time_and_no_limit_is_broken(row):
    outcome = run.perform(row)
    assert outcome.passed, (outcome.failures, outcome.violations[:5])
    assert outcome.named


def test_the_list_is_complete():
    numbers = {row.number for row in run.rows()}
    assert numbers == set(range(1, 38)) and len(CORE) == 25
    with pytest.raises(ValueError, match="no fault"):
        run.rows([99])


# The audit ------------------------------------------------------------------------------------------


def goals(**changed):
    """A sync write of the joints' goals, where the arm is measured, with some of them changed."""
    robot = load(TWIN)
    parts = {}
    for spec, angle in zip(robot.arm_profile().joints, robot.arm.ready):
        tick, speed = changed.get(spec.name, (spec.to_tick(angle), 4))
        parts[spec.id] = tick.to_bytes(2, "little") + speed.to_bytes(2, "little")
    return PROTOCOL_1.sync_write(30, 4, parts)


def measured():
    robot = load(TWIN)
    for spec, angle in zip(robot.arm_profile().joints, robot.arm.ready):
        yield Logged(0.0, "driver", PROTOCOL_1.read(spec.id, 36, 8))
        yield Logged(
            0.0, "servo", PROTOCOL_1.status(spec.id, 0, spec.to_tick(angle).to_bytes(2, "little") + bytes(6))
        )


def here(joint):
    robot = load(TWIN)
    index = [spec.name for spec in robot.arm_profile().joints].index(joint)
    return robot.arm_profile().joints[index].to_tick(robot.arm.ready[index])


@pytest.mark.parametrize(
    ("packet", "says"),
    [
        (goals(joint_1=(here("joint_1") + 1, 4)), None),
        (goals(joint_1=(here("joint_1") + 80, 4)), "lead 0.123 beyond 0.095"),
        (goals(joint_1=(here("joint_1") + 40, 4)), "goal moved 0.061 in 20 ms"),
        (goals(joint_1=(here("joint_1"), 0)), "speed 0.000 is 0 or beyond"),
        (goals(joint_1=(here("joint_1"), 100)), "speed 1.194 is 0 or beyond"),
        (goals(joint_1=(3000, 4)), "outside -1.180..1.180"),
        (goals(joint_2=(here("joint_2") + 1600, 4)), "outside the workspace"),
        (PROTOCOL_1.write(1, 6, bytes(4)), "4 bytes written at 6"),
        (PROTOCOL_1.write(1, 34, (800).to_bytes(2, "little")), "torque limit beyond"),
        (PROTOCOL_1.write(77, 24, b"\x01"), "none of this robot's"),
    ],
    ids=lambda value: "packet" if isinstance(value, bytes) else str(value),
)
def test_the_audit_sees_what_no_packet_may_do(packet, says):
    audit = Audit(load(TWIN))
    audit.feed(measured())
    audit.feed([Logged(0.0, "driver", goals()), Logged(0.02, "driver", packet)])
    told = "; ".join(violation.what for violation in audit.violations)
    assert (says in told) if says else not told


def test_a_stand_whose_driver_breaks_a_limit_is_told_so(tmp_path):
    with Stand(tmp_path) as stand:
        stand.episode()
        assert not stand.audit().violations
        send = stand.arm.send
        stand.arm.send = lambda wanted: send({**wanted, "joint_4": (wanted["joint_4"][0] + 0.4, 0.1)})
        stand.act(0.1)
        assert {violation.where for violation in stand.audit().violations} == {"joint_4"}


# The table ------------------------------------------------------------------------------------------


def test_a_row_that_fails_fails_the_campaign_and_stands_in_the_table(tmp_path, monkeypatch):
    good, *_ = run.rows([1])

    def broken(folder):
        raise OSError("no such robot")

    bad = dataclasses.replace(good, number=2, run=broken)
    silent = dataclasses.replace(good, number=3, run=lambda folder: Outcome(failures=["it was not named"]))
    monkeypatch.setattr(run, "rows", lambda only: [good, bad, silent])
    said = []
    assert run.campaign([], tmp_path, said.append) == 1
    assert said[-1].startswith("1 of 3 faults passed")
    with open(tmp_path / "campaign.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [line["passed"] for line in table] == ["pass", "FAIL", "FAIL"]
    assert "no such robot" in table[1]["failures"] and int(table[0]["packets"]) > 50
    assert "**FAIL** it was not named" in (tmp_path / "campaign.md").read_text(encoding="utf-8")
    assert '"commit"' in (tmp_path / "provenance.json").read_text(encoding="utf-8")


def test_the_same_damage_is_the_same_run(tmp_path):
    logs = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        with Stand(tmp_path / str(number)) as stand:
            stand.arm.link.slack = 2.0
            stand.episode()
            stand.line.wire.add(WireFault(flip(-9), servo_id=5, count=3))
            stand.act(0.3)
            logs.append(stand.log)
    assert logs[0] == logs[1]
