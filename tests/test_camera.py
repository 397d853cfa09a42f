"""Frames: fresh, undisturbed by other environments, freed, and clear errors without OpenGL."""

from __future__ import annotations

import gc
import threading

import gymnasium as gym
import numpy as np
import pytest

import meld_envs
from meld_envs import gl

NAV, CHEETAH = list(meld_envs.FAMILIES)[:2]


def test_frames_are_fresh_and_contiguous():
    env = gym.make_vec(NAV, num_envs=3)
    first, _ = env.reset(seed=0)
    kept = first.copy()
    second = env.step(np.ones((3, 2)))[0]
    assert first.flags.c_contiguous
    assert first.flags.owndata
    assert not np.shares_memory(first, second)
    assert (first == kept).all()
    assert (first != second).any()
    env.close()


def test_environments_do_not_disturb_each_other():
    """Train and test, other models, other sizes, pictures for people: as if each were alone."""
    wanted = [(NAV, 32, 3), (CHEETAH, 64, 2), (NAV, 64, 1), (CHEETAH, 40, 2)]

    def make(env_id, size, num_envs):
        return gym.make_vec(env_id, num_envs=num_envs, image_size=size, render_mode="rgb_array")

    def frames(env, step):
        seen = env.reset(seed=1)[0] if step == 0 else env.step(np.full(env.action_space.shape, 0.5))[0]
        return np.concatenate([seen.ravel(), *(picture.ravel() for picture in env.render())])

    alone = []
    for arguments in wanted:
        env = make(*arguments)
        alone.append([frames(env, step) for step in range(3)])
        env.close()
    envs = [make(*arguments) for arguments in wanted]
    for step in range(3):
        for env, expected in zip(envs, alone, strict=True):
            assert (frames(env, step) == expected[step]).all()
        if step == 1:
            envs[0].close()  # the others' frames are not its own
            envs[0].reset(seed=1)
            envs[0].step(np.full(envs[0].action_space.shape, 0.5))
    for env in envs:
        env.close()


def test_environments_may_live_in_several_threads():
    expected = gym.make(CHEETAH).unwrapped.reset(seed=0)[0]
    seen = []

    def draw():
        env = gym.make(CHEETAH).unwrapped
        seen.extend(env.reset(seed=0)[0] for _ in range(3))
        env.close()

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 12
    assert all((frame == expected).all() for frame in seen)


def owned():
    """How many framebuffers the drawing threads hold."""
    return sum(len(worker._owned) for worker in gl.WORKERS.get(2))


def settle():
    """Waits until the drawing threads have nothing left to do."""
    for worker in gl.WORKERS.get(2):
        worker.submit(int).result()


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_what_the_graphics_library_holds_is_freed(how):
    gc.collect()
    settle()
    before = owned()
    env = gym.make_vec(NAV, num_envs=4, num_threads=2)
    env.reset()
    assert owned() == before + 2
    if how == "closed":
        env.close()
        env.close()
    else:
        del env
        gc.collect()
        settle()
    assert owned() == before


@pytest.mark.parametrize("wanted", ["egl", "osmesa"])
def test_without_opengl_the_error_says_what_to_install(wanted, run_python):
    other = {"egl": "osmesa", "osmesa": "egl"}[wanted]
    script = (
        "import gymnasium as gym, meld_envs\n"
        f"env = gym.make({NAV!r})\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        env.reset()\n"
        "    except meld_envs.GLError as error:\n"
        "        print(error)\n"
        f"state = gym.make({NAV!r}, obs_type='state')\n"
        "state.reset(seed=0)\n"
        "print(state.step(state.action_space.sample())[0].shape)"
    )
    # PyOpenGL bound to the other platform: MuJoCo then refuses the wanted one, as if it were missing.
    result = run_python("-c", script, env={"MUJOCO_GL": wanted, "PYOPENGL_PLATFORM": other})
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("libegl1") == 2
    assert result.stdout.count("libosmesa6") == 2
    assert result.stdout.count(f"{wanted}: ImportError") == 2
    assert "(2,)" in result.stdout


def test_osmesa_stands_in_when_egl_fails(run_python):
    script = (
        "import gymnasium as gym, meld_envs; from meld_envs import gl\n"
        f"env = gym.make({NAV!r})\n"
        "try:\n"
        "    print('frame', env.reset(seed=0)[0].mean(), gl.create_context().__class__.__module__)\n"
        "except meld_envs.GLError as error:\n"
        "    print(error)"
    )
    result = run_python("-c", script, env={"MUJOCO_GL": "", "MUJOCO_EGL_DEVICE_ID": "99"})
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    if result.stdout.startswith("frame"):
        assert "mujoco.osmesa" in result.stdout
    else:  # OSMesa is not installed here
        assert "egl: " in result.stdout
        assert "osmesa: " in result.stdout


def test_the_users_environment_variables_are_left_alone(run_python):
    script = (
        "import os; before = dict(os.environ)\n"
        f"import gymnasium as gym, meld_envs; gym.make({NAV!r}).reset()\n"
        "changed = {k for k in {*before, *os.environ} if before.get(k) != os.environ.get(k)}\n"
        "assert changed <= {'PYOPENGL_PLATFORM'}, changed"
    )
    result = run_python("-c", script)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, "an environment that nobody closed leaves quietly"
