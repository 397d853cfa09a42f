"""The insertion sensor: chatter is no insertion, an insertion dates from its first touch."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from hardware_bridge import config
from hardware_bridge.faults import KINDS
from hardware_bridge.insertion import (
    Carrier,
    Delay,
    DryContact,
    InsertionSensor,
    SensorError,
    SensorStuck,
    SwitchPorts,
    TwinContact,
    Watch,
    probe,
    snmp_get,
    snmp_values,
)


class Script:
    """A probe that says what the test wants, at a time that the test sets."""

    name, tells_port = "script", True

    def __init__(self, delay=(0.0, 0.0), tells_port=True):
        self.delay, self.tells_port = Delay(*delay), tells_port
        self.now, self.ports = 0.0, (False, False)

    def clock(self):
        return self.now

    def sample(self):
        return self.ports

    def close(self):
        pass


def play(script, sensor, *contacts):
    """(ms, port or None) each; polls every millisecond from one to the next; all states."""
    states = []
    for at, port in contacts:
        while round(1000 * script.now) < at:
            script.now = round(script.now + 0.001, 6)
            if round(1000 * script.now) == at:
                script.ports = tuple(index == port for index in range(2))
            states.append(sensor.poll())
    return states


def sensor_of(script, debounce=0.05):
    sensor = InsertionSensor(script, debounce, script.clock)
    sensor.poll()
    return sensor


def test_an_insertion_is_known_once_it_lasts_and_dates_from_the_first_touch():
    script = Script()
    sensor = sensor_of(script)
    states = play(script, sensor, (100, 1), (105, None), (108, 1), (112, None), (120, 1), (168, 1))
    assert not any(state.inserted for state in states) and not states[-1].settled
    states = play(script, sensor, (171, 1))
    assert states[-1].inserted and states[-1].port == 1 and states[-1].settled
    assert states[-1].since == pytest.approx(0.100) and states[-1].uncertainty <= 0.0011


def test_a_touch_that_came_to_nothing_does_not_date_a_later_insertion():
    script = Script()
    sensor = sensor_of(script)
    play(script, sensor, (100, 0), (110, None))
    states = play(script, sensor, (400, 0), (500, 0))
    assert states[-1].since == pytest.approx(0.400)


def test_chatter_alone_is_no_insertion():
    script = Script()
    sensor = sensor_of(script)
    states = play(script, sensor, *[(100 + 20 * k, 0 if k % 2 == 0 else None) for k in range(50)])
    assert not any(state.inserted for state in states)


def test_a_plug_that_slips_out_is_out_from_the_first_parting():
    script = Script()
    sensor = sensor_of(script)
    play(script, sensor, (100, 0), (300, None), (310, 0), (320, None), (369, None))
    assert sensor.poll().inserted
    state = play(script, sensor, (372, None))[-1]
    assert not state.inserted and state.port is None and state.since == pytest.approx(0.300)


def test_a_late_probe_dates_back_and_says_how_sure_it_is():
    script = Script(delay=(1.0, 4.0), tells_port=False)
    sensor = sensor_of(script)
    play(script, sensor, (3000, 0), (3100, 0))
    state = sensor.poll()
    assert state.inserted and state.port is None
    assert state.since == pytest.approx(0.5) and 1.5 <= state.uncertainty < 1.51
    assert sensor.dwell == pytest.approx(4.05)


def test_before_an_episode_nothing_may_be_in():
    script = Script()
    sensor = sensor_of(script)
    sensor.check_free()
    script.ports = (False, True)
    with pytest.raises(SensorStuck, match=r"before the episode began.*Pull the plug"):
        sensor.check_free()  # it has not lasted, and is not nothing
    script.now = 1.0
    with pytest.raises(SensorStuck, match="port 1"):
        sensor.check_free()
    assert SensorStuck.kind in KINDS and SensorError.kind in KINDS


def test_a_negative_debounce_is_refused():
    with pytest.raises(ValueError, match="debounce"):
        InsertionSensor(Script(), -0.1)


# ---------------------------------------------------------------- probes


def test_the_carrier_is_read_where_the_kernel_shows_it(tmp_path):
    folder = tmp_path / "eth1"
    folder.mkdir()
    carrier = Carrier("eth1", tmp_path)
    (folder / "carrier").write_text("0\n")
    assert carrier.sample() == (False,)
    (folder / "carrier").write_text("1\n")
    assert carrier.sample() == (True,)
    (folder / "carrier").write_text("up\n")
    with pytest.raises(SensorError, match="holds 'up'"):
        carrier.sample()
    with pytest.raises(SensorError, match=r"no network interface eth7; there are eth1.*Correct"):
        Carrier("eth7", tmp_path).sample()


def test_an_interface_that_is_off_is_named(tmp_path, monkeypatch):
    def down(*args, **kwargs):
        raise OSError(22, "Invalid argument")

    carrier = Carrier("eth1", tmp_path)
    monkeypatch.setattr("pathlib.Path.read_text", down)
    with pytest.raises(SensorError, match=r"switched off.*sudo ip link set eth1 up"):
        carrier.sample()


def test_the_kernels_own_interface_can_be_read():
    if not os.path.exists("/sys/class/net/lo/carrier"):
        pytest.skip("this machine shows no interfaces")
    assert Carrier("lo").sample() == (True,)


def test_dry_contacts_are_bits_of_the_adapters_lines(monkeypatch):
    master, slave = os.openpty()
    try:
        with pytest.raises(SensorError, match="no modem lines"):
            DryContact(os.ttyname(slave), ["cts"])
        bits = [0x020]  # CTS, as Linux has it
        monkeypatch.setattr(DryContact, "_lines", lambda self: bits[0])
        contact = DryContact(os.ttyname(slave), ["dsr", "cts"])
        assert contact.sample() == (False, True)
        bits[0] = 0x100
        assert contact.sample() == (True, False)
        contact.close()
    finally:
        os.close(master)
        os.close(slave)
    with pytest.raises(SensorError, match=r"cannot be opened.*by-id"):
        DryContact("/dev/nothing", ["cts"])


def test_the_twins_plug_is_a_file(tmp_path):
    path = tmp_path / "contact"
    with pytest.raises(SensorError, match="Start the twin"):
        TwinContact(path).sample()
    path.write_text("0 1 0\n")
    assert TwinContact(path).sample() == (False, True, False)
    path.write_text("yes")
    with pytest.raises(SensorError, match="holds 'yes'"):
        TwinContact(path).sample()


#: Encoded by hand from X.690 and RFC 3416: ifOperStatus.3 asked by request 1 with community "public".
GOLDEN = bytes.fromhex(
    "302802010104067075626c6963a01b0201010201000201003010300e060a2b060102010202010803" + "0500"
)


def test_a_question_to_a_switch_is_as_the_standard_has_it():
    packet = snmp_get(1, "public", [(1, 3, 6, 1, 2, 1, 2, 2, 1, 8, 3)])
    assert packet == GOLDEN
    long = snmp_get(1, "public", [(1, 3, 6, 1, 2, 1, 2, 2, 1, 8, 1000 + i) for i in range(20)])
    assert long[1] == 0x82 and b"\x08\x87\x68" in long  # length in two bytes; 1000 in base 128


class Switch(threading.Thread):
    """Answers like a switch with interfaces 3 and 4, and first sends the answer to an old question."""

    def __init__(self):
        super().__init__(daemon=True)
        self.status = {3: 2, 4: 1}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.1)
        self.running = True

    def run(self):
        while self.running:
            try:
                data, address = self.socket.recvfrom(2048)
            except TimeoutError:
                continue
            at = data.index(b"\xa0")
            request = data[at + 4 : at + 4 + data[at + 3]]
            names = [data[i + 11] for i in range(len(data)) if data[i : i + 2] == b"\x06\x0a"]
            self.socket.sendto(self.answer(b"\x63", names), address)
            self.socket.sendto(self.answer(request, names), address)

    def answer(self, request, names):
        bindings = b""
        for name in names:
            value = b"\x02\x01" + bytes([self.status[name]]) if name in self.status else b"\x81\x00"
            inner = b"\x06\x0a\x2b\x06\x01\x02\x01\x02\x02\x01\x08" + bytes([name]) + value
            bindings += b"\x30" + bytes([len(inner)]) + inner
        body = b"\x02" + bytes([len(request)]) + request + b"\x02\x01\x00\x02\x01\x00"
        body += b"\x30" + bytes([len(bindings)]) + bindings
        message = b"\x02\x01\x01\x04\x06public\xa2" + bytes([len(body)]) + body
        return b"\x30" + bytes([len(message)]) + message


def test_a_switch_is_asked_port_by_port():
    switch = Switch()
    switch.start()
    host = f"127.0.0.1:{switch.socket.getsockname()[1]}"
    ports = SwitchPorts(host, (3, 4), timeout=5.0)
    try:
        assert ports.sample() == (False, True)
        switch.status[3] = 1
        assert ports.sample() == (True, True)
        ports._ports = (3, 9)
        with pytest.raises(SensorError, match="knows no interface of 3, 9"):
            ports.sample()
    finally:
        switch.running = False
        switch.join()
        switch.socket.close()
        ports.close()


def test_a_switch_that_is_silent_or_talks_nonsense_is_named():
    with pytest.raises(OSError, match="is no SNMP"):
        snmp_values(b"\x30\x05hello")
    with pytest.raises(OSError, match="is no SNMP"):
        snmp_values(b"")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        ports = SwitchPorts(f"127.0.0.1:{silent.getsockname()[1]}", (3,), timeout=0.02)
        with pytest.raises(SensorError, match=r"does not answer.*community"):
            ports.sample()
        ports.close()


def test_a_configuration_names_its_probe(tmp_path):
    (tmp_path / "contact").write_text("0")
    assert isinstance(probe(config.Insertion("twin", device=str(tmp_path / "contact")), ""), TwinContact)
    assert isinstance(probe(config.Insertion("carrier", interface="lo"), ""), Carrier)
    switch = probe(config.Insertion("switch", host="10.0.0.2"), "")
    assert isinstance(switch, SwitchPorts) and switch._address == ("10.0.0.2", 161)
    switch.close()
    with pytest.raises(SensorError, match="/dev/servos"):
        probe(config.Insertion("dry_contact", pins=("cts",)), "/dev/servos")
    with pytest.raises(SensorError, match=r"insertion.device is missing"):
        probe(config.Insertion("twin"), "")


def test_a_thread_watches_and_passes_on_what_it_cannot_read(tmp_path):
    path = tmp_path / "contact"
    path.write_text("0")
    with Watch(InsertionSensor(TwinContact(path), 0.01), period=0.002) as watch:
        assert not watch.read(20.0).inserted
        path.write_text("1")
        deadline = time.monotonic() + 20.0
        while not (state := watch.read()).inserted and time.monotonic() < deadline:
            time.sleep(0.005)
        assert state.inserted and state.port == 0
        path.unlink()
        while time.monotonic() < deadline:
            try:
                watch.read()
            except SensorError as error:
                assert "cannot be read" in str(error)
                break
            time.sleep(0.005)
        else:
            pytest.fail("a missing file was not noticed")


def test_a_probe_that_hangs_is_no_old_answer():
    class Hanging(TwinContact):
        def sample(self):
            if calls.pop():
                release.wait(20.0)
            return (False,)

    calls, release = [True] * 50 + [False], threading.Event()
    with Watch(InsertionSensor(Hanging("none"), 0.01), period=0.002) as watch:
        assert not watch.read(20.0).inserted
        time.sleep(0.3)
        with pytest.raises(SensorError, match=r"silent for 0.2 s"):
            watch.read(0.2)
        release.set()


def test_a_switch_needs_a_number_for_its_port():
    with pytest.raises(SensorError, match="'snmp' is no port"):
        SwitchPorts("switch:snmp", [1])
