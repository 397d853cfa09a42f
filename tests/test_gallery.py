"""The gallery: what its pictures show, what its command writes, and how it fails."""

from __future__ import annotations

import sys

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from meld_envs import gallery
from meld_envs.families.point_nav import PointNav

NAV = "meld/PointNav-v0"
GREEN = (26, 166, 51)  # of the goal's marker


def has_colour(picture, colour, tolerance=12):
    """Whether a good part of a picture has a colour, give or take."""
    near = np.abs(np.asarray(picture, dtype=int) - colour).max(axis=-1) <= tolerance
    return near.sum() > 100


@pytest.fixture(scope="module")
def film():
    return gallery.shoot(NAV, seed=3, task_index=2)


def test_people_see_the_goal_and_the_agent_does_not(film):
    for episode in film.episodes:
        assert has_colour(episode.people[0], GREEN)
        assert not has_colour(episode.seen[0].repeat(8, 0).repeat(8, 1), GREEN)


def test_expert_and_random_policy_live_the_same_task(film):
    expert, random = film.episodes
    assert (expert.people[0] == random.people[0]).all()
    assert expert.successes[-1] and not random.successes[-1]
    assert expert.rewards.sum() > random.rewards.sum()
    assert (expert.seen[0] != expert.seen[-1]).any() and (expert.people[0] != expert.people[-1]).any()
    assert len(expert.seen) == len(expert.people) == PointNav.episode_steps + 1


def test_title_names_what_is_hidden(film):
    task = gallery.make_env(NAV).task_set.test[2]
    for name, value in task.parameters.items():
        assert f"{name} = {value:.3g} m" in film.hidden


def test_seed_and_task_decide(film):
    same = gallery.shoot(NAV, seed=3, task_index=2)
    assert (same.episodes[1].people == film.episodes[1].people).all()
    other = gallery.shoot(NAV, seed=4, task_index=2)
    assert (other.episodes[1].people[-1] != film.episodes[1].people[-1]).any()
    assert gallery.shoot(NAV, task_index=1).hidden != film.hidden


@pytest.mark.parametrize(("steps", "frames"), [(20, 2), (20, 5), (20, 21), (3, 8)])
def test_strips_show_first_and_last_step_and_none_twice(steps, frames):
    shown = gallery.evenly_spaced(steps, frames)
    assert shown[0] == 0 and shown[-1] == steps
    assert len(set(shown)) == len(shown) == min(frames, steps + 1)


def test_sheet_has_light_margins_and_grows_with_the_strips(film):
    small, large = gallery.sheet(film, 4), gallery.sheet(film, 16)
    for margin in (small[: gallery.MARGIN], small[:, : gallery.MARGIN], small[:, -gallery.MARGIN :]):
        assert (margin == gallery.PAPER).all()
    assert large.shape[0] > small.shape[0] and large.shape[1] == small.shape[1]
    assert has_colour(small, gallery.GOOD), "no caption says success"


def test_text_is_cut_to_its_width():
    short, long = gallery._text("goal", 20, width=90), gallery._text("goal " * 40, 20, width=90)
    assert short.shape == long.shape == (28, 90, 3)
    assert (short[:, 60:] == gallery.PAPER).all() and not (long[:, 60:] == gallery.PAPER).all()


def test_command_writes_sheet_film_and_sheet_of_all(tmp_path, capsys):
    assert gallery.main(["--out", str(tmp_path), "--envs", NAV, "--frames", "3"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"PointNav-v0.png", "PointNav-v0.mp4", "gallery.png"}
    for name in ("PointNav-v0.png", "gallery.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width == gallery.PAGE + 2 * gallery.MARGIN
    assert "PointNav-v0.png" in capsys.readouterr().out


def test_film_runs_at_the_control_rate_and_holds_both_episodes(film, tmp_path):
    gallery.write_film(tmp_path / "film.mp4", gallery.film_frames(film), film.fps)
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "film.mp4"))
    held = round(PointNav.control_hz) - 1  # the last frame stays for a second
    assert frames == 2 * (PointNav.episode_steps + 1 + held)
    assert seconds == pytest.approx(frames / PointNav.control_hz, abs=0.1)


def test_a_family_whose_expert_fails_is_named(tmp_path, capsys, monkeypatch):
    def no_expert(self, world, parameters):
        raise ImportError("scripted experts need a package")

    monkeypatch.setattr(PointNav, "expert", no_expert)
    assert gallery.main(["--out", str(tmp_path), "--envs", NAV]) == 1
    assert f"{NAV} failed: ImportError: scripted experts need a package" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_failure_costs_no_other_family(tmp_path, capsys):
    assert gallery.main(["--out", str(tmp_path), "--frames", "2", "--envs", "CartPole-v1", NAV]) == 1
    assert "[1/2] CartPole-v1 failed: ValueError" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"PointNav-v0.png", "PointNav-v0.mp4", "gallery.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--envs", "meld/PointNaw-v0"], "Did you mean: `PointNav`"),
        (["--frames", "1"], "--frames must be at least 2"),
        (["--task", "-1"], "must not be negative"),
    ],
)
def test_what_cannot_be_followed_is_refused_at_once(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        gallery.main(arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("module", ["PIL", "imageio_ffmpeg"])
def test_what_is_missing_is_named_with_a_hint(module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit):
        gallery.main(["--envs", NAV])
    assert f"needs {module}: pip install" in capsys.readouterr().err


def test_foreign_environments_and_missing_tasks_are_refused():
    with pytest.raises(ValueError, match=r"CartPole-v1 is not a family"):
        gallery.shoot("CartPole-v1")
    with pytest.raises(ValueError, match=r"numbered 0 to 9; there is no 10"):
        gallery.shoot(NAV, task_index=10)
