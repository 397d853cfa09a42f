"""Playing: which keys make which action, how an episode goes, and what happens without a display."""

from __future__ import annotations

import numpy as np
import pytest

from meld_envs import play
from meld_envs.play import DOWN, LEFT, NEXT, RESET, RIGHT, UP, Game, Keyboard

NAV = "meld/PointNav-v0"
SHIFT = min(play.SHIFTS)


def pressed(keyboard, *codes):
    """What the keyboard asks for while these keys are held."""
    for code in codes:
        keyboard.press(code)
    action = keyboard.action(keyboard.look().held)
    for code in codes:
        keyboard.release(code)
    return action.tolist()


def test_arrows_move_two_actions_at_once():
    keyboard = Keyboard(2)
    assert pressed(keyboard, RIGHT) == [1, 0]
    assert pressed(keyboard, LEFT, UP) == [-1, 1]
    assert pressed(keyboard, DOWN, SHIFT) == [0, -play.FINE]
    assert pressed(keyboard, LEFT, RIGHT) == [0, 0]


def test_every_action_has_a_pair_of_keys_of_its_own():
    keyboard = Keyboard(7)
    codes = [code for pair in keyboard.pairs[:7] for code in pair]
    assert len(set(codes)) == 14 and not {RESET, NEXT} & set(codes)
    for index, (plus, minus) in enumerate(keyboard.pairs[:7]):
        assert pressed(keyboard, plus) == np.eye(7)[index].tolist()
        assert pressed(keyboard, minus) == (-np.eye(7)[index]).tolist()
        row = keyboard.table(4.0).splitlines()[2 + index].split()
        assert row == [str(index + 1), chr(plus), chr(minus)]


def test_digits_reach_more_than_eight_actions():
    keyboard = Keyboard(17)
    pressed(keyboard, ord("3"))
    assert pressed(keyboard, ord("Q")) == np.eye(17)[16].tolist()
    assert pressed(keyboard, ord("W")) == [0] * 17  # there is no eighteenth
    assert "17       Q   A   after 3" in keyboard.table(4.0)


def test_a_tap_between_two_looks_counts_once():
    keyboard = Keyboard(2)
    keyboard.press(RIGHT)
    keyboard.release(RIGHT)
    assert keyboard.look().held == {RIGHT}
    assert keyboard.look().held == set()


def test_a_held_command_counts_once():
    keyboard = Keyboard(2)
    keyboard.press(RESET)
    assert keyboard.look().command == RESET
    assert keyboard.look().command is None


class Script:
    """A person: does to the keyboard, at each look around, what comes next; then closes the window."""

    def __init__(self, keyboard, *deeds):
        self._keyboard, self._deeds = keyboard, list(deeds)

    def is_open(self):
        if not self._deeds:
            return False
        method, code = self._deeds.pop(0) or (None, None)
        if method:
            getattr(self._keyboard, method)(code)
        return True


@pytest.fixture
def env(monkeypatch):
    """PointNav whose window is never opened, in a time that does not pass."""
    env = play.open_env(NAV, "train", None)
    monkeypatch.setattr(env._batch._window, "show", lambda *what: None)
    monkeypatch.setattr(play.time, "sleep", lambda seconds: None)
    yield env
    env.close()


def test_the_clock_starts_with_the_first_move_and_held_keys_go_on(env, capsys):
    keyboard = Keyboard(2)
    person = Script(keyboard, None, None, ("press", RIGHT), *[None] * 30)
    assert Game(env, keyboard, person.is_open).play(episodes=1, task=3) == 1
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert len(told) == env.episode_steps
    assert env.state() == pytest.approx([1.4, 0.0])  # at the wall


def test_keys_held_over_an_end_do_not_start_the_next_episode(env, capsys):
    keyboard = Keyboard(2)
    person = Script(keyboard, ("press", RIGHT), *[None] * 60)
    assert Game(env, keyboard, person.is_open).play(task=3) == 1
    assert capsys.readouterr().out.count("step ") == env.episode_steps
    assert env.state() == pytest.approx([0.0, 0.0])


def test_reset_stays_and_next_goes_on(env, capsys):
    keyboard = Keyboard(2)
    person = Script(keyboard, ("press", RESET), None, ("press", NEXT), None, None, None)
    assert Game(env, keyboard, person.is_open).play(task=29) == 0
    told = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("task")]
    assert told == ["task 29 of train", "task 29 of train", "task 0 of train"]


def test_success_is_told(env, capsys):
    keyboard = Keyboard(2)
    person = Script(keyboard, ("press", RIGHT), *[None] * 5, ("release", RIGHT), *[None] * 30)
    game = Game(env, keyboard, person.is_open)
    game._tasks = [env.family.task(goal_x=1.0, goal_y=0.0)]
    game.play(episodes=1, task=0)
    out = capsys.readouterr().out
    assert "SUCCESS" in out and "success at step 6, and at the end" in out


def test_without_a_display_it_says_so_and_names_the_gallery(monkeypatch, capsys):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(play.sys, "platform", "linux")
    assert play.main([NAV]) == 2
    told = capsys.readouterr().err
    assert "no display" in told and f"python -m meld_envs.gallery --envs {NAV}" in told


def test_a_display_that_is_gone_is_no_display(run_python):
    """In a process of its own: GLFW remembers."""
    result = run_python("-m", "meld_envs.play", NAV, env={"DISPLAY": ":987", "WAYLAND_DISPLAY": ""})
    assert result.returncode == 2
    assert "cannot be opened" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["meld/PointNaw-v0"], "Did you mean: `PointNav`"),
        (["CartPole-v1"], "CartPole-v1 is not a family"),
        ([NAV, "--task", "30"], "numbered 0 to 29; there is no 30"),
        ([NAV, "--seed", "-1"], "--seed must not be negative"),
        ([NAV, "--episodes", "0"], "--episodes must be at least 1"),
    ],
)
def test_what_cannot_be_followed_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        play.main(arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
