"""What measuring against other suites needs, short of installing them."""

from __future__ import annotations

import pytest

from benchmarks.errors import RequestError
from benchmarks.peers import speed_row, steps_per_second
from benchmarks.peers.metaworld_pixels import DEFAULT_VENV, MARKER, arguments, installed


def test_ratios_are_taken_round_by_round():
    """A machine that is slow for one round slows both: neither ratio of medians nor of means would be 10."""
    row = speed_row("ours", [100.0, 10.0, 240.0], times_peer=[10.0, 1.0, 2.0])
    assert row == {
        "subject": "ours",
        "steps_per_second": 100.0,
        "slowest_round": 10.0,
        "fastest_round": 240.0,
        "times_peer": 10.0,
    }


def test_a_round_has_a_step_at_least_and_counts_tasks():
    calls = []
    assert steps_per_second(lambda: calls.append(1), 20, 0.0) > 20
    assert calls == [1]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("ten years")
    with pytest.raises(RequestError, match="name another folder"):
        installed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_interrupted_installation_begins_anew(tmp_path, monkeypatch):
    """pip without an index and with nothing at hand fails at once, network or not."""
    (tmp_path / MARKER).write_text("unfinished\n")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "torn.py").write_text("half a f")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RequestError, match="pip could not install metaworld"):
        installed(tmp_path)
    assert not (tmp_path / "lib" / "torn.py").exists()
    assert (tmp_path / MARKER).read_text() == "unfinished\n"


def test_its_environment_is_ignored_by_git_and_where_throughput_looks(root):
    assert DEFAULT_VENV == root / ".venv-metaworld" == arguments([]).venv
    assert f"{DEFAULT_VENV.name}/" in (root / ".gitignore").read_text().splitlines()
