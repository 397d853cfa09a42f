"""What the driver's process makes of messages, without the process: nothing here waits for the clock."""

from __future__ import annotations

import json
import socket
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest

from hardware_bridge.campaign.stand import Stand
from hardware_bridge.process import DriverProcess, Host
from hardware_bridge.safety import Mode, Received

LONGEST = 1 << 16  # bytes of a message


@pytest.fixture
def host(tmp_path):
    """A host whose cell is a stand in lockstep, and the other end of its socket."""
    with Stand(tmp_path) as stand:
        stand.start()
        stand.safety.begin_episode(stand.beat.now())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            theirs.setblocking(False)
            host = Host.__new__(Host)
            host._messages, host._asked, host._received = theirs, deque(), (0, Received(True))
            host._stop, host._inside, host._unsent = False, False, 0
            host.beat = SimpleNamespace(leaving=False)
            host.cell = SimpleNamespace(safety=stand.safety, driver=stand.driver, rig=stand.rig)
            yield host, ours, stand


@pytest.mark.parametrize(
    "data",
    [
        json.dumps({"do": "act", "arguments": [[0.123456789] * 9000, 1, 0.0]}).encode(),
        b"{",
        b"\xff\xfe",
    ],
    ids=["longer than is received", "cut off", "no text"],
)
def test_a_message_that_cannot_be_read_is_named_and_the_driver_goes_on(data, host):
    served, ours, stand = host
    ours.send(data)
    served._serve()
    stand.idle(0.1)
    assert stand.safety.faults.counts["action invalid"] == 1
    assert stand.safety.mode is Mode.POLICY


def test_a_request_that_nobody_knows_is_answered(host):
    served, ours, _ = host
    ours.send(json.dumps({"do": "acknowledge", "arguments": [1, 2, 3], "ask": 1}).encode())
    ours.send(json.dumps({"do": "dance", "arguments": [], "ask": 2}).encode())
    served._serve()
    assert json.loads(ours.recv(LONGEST))["error"]["type"] == "TypeError"
    served._answer(served._asked.popleft())
    assert json.loads(ours.recv(LONGEST))["error"]["type"] == "AttributeError"


def test_an_action_is_never_longer_than_a_message():
    door, told = DriverProcess("none.yaml"), []
    door._tell = lambda name, *arguments, ask=None: told.append(arguments)
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for action in (np.random.default_rng(0).random((64, 128, 3)), "x" * 10**6, deep):
        door.act(action)
    assert all(len(json.dumps(arguments)) < LONGEST // 2 for arguments in told)
