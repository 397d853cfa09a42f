"""The episode store: every frame once, sequences of one task, the same after a trip to disk."""

import numpy as np
import pytest

from meld_agents.episodes import EpisodeStore, Trials

K, T, TASKS = 2, 4, 3


def trials(tasks, first=0):
    """Trials whose frames, rewards and actions spell out (task, number, episode, step)."""
    n = len(tasks)
    code = np.zeros((n, K, T + 1, 4), np.float32)
    code[..., 0] = np.asarray(tasks)[:, None, None]
    code[..., 1] = (first + np.arange(n))[:, None, None]
    code[..., 2] = np.arange(K)[None, :, None]
    code[..., 3] = np.arange(T + 1)
    frames = np.broadcast_to(code[:, :, :, None, None, :3], (n, K, T + 1, 8, 8, 3)).astype(np.uint8)
    return Trials(frames.copy(), code[..., 2:], code[..., 3].copy(), 10 * code[..., 3])


@pytest.fixture
def store():
    store = EpisodeStore(TASKS)
    store.add(np.array([0, 1]), trials([0, 1]))
    store.add(np.array([1, 2, 1]), trials([1, 2, 1], first=2))
    return store


def test_each_frame_is_held_once(store):
    assert store.num_trials == 5
    frames = 5 * K * (T + 1)
    assert store.nbytes == frames * (8 * 8 * 3 + 2 * 4 + 4 + 4)


def test_lived_pairing_keeps_trials_whole_and_in_order(store):
    batch = store.sample(np.random.default_rng(0), 50)
    assert batch.action.shape == (50, K * (T + 1), 2)
    numbers = batch.observation[:, :, 0, 0, 1]
    assert (numbers == numbers[:, :1]).all()
    assert (batch.action[:, :, 0] == np.repeat(np.arange(K), T + 1)).all()
    assert (batch.observation[:, :, 0, 0, 0] == batch.task[:, None]).all()


def test_independent_pairing_mixes_episodes_of_one_task(store):
    batch = store.sample(np.random.default_rng(0), 200, "independent")
    assert (batch.observation[:, :, 0, 0, 0] == batch.task[:, None]).all()
    numbers = batch.observation[:, :, 0, 0, 1]
    assert (numbers[:, 0] != numbers[:, -1]).any()


def test_single_episodes_for_agents_without_trial_memory(store):
    batch = store.sample(np.random.default_rng(0), 50, episodes=1)
    assert batch.reward.shape == (50, T + 1)
    assert set(batch.action[:, 0, 0]) == {0.0, 1.0}


def test_episode_starts_are_marked(store):
    starts = store.sample(np.random.default_rng(0), 3).episode_start
    assert (np.flatnonzero(starts[0]) == [0, T + 1]).all()


def test_tasks_are_drawn_uniformly_however_much_data_each_has(store):
    tasks = store.sample(np.random.default_rng(0), 3000).task
    assert np.abs(np.bincount(tasks) - 1000).max() < 150


def test_frames_are_drawn_from_everywhere(store):
    frames = store.sample_frames(np.random.default_rng(0), 2000)
    seen = {tuple(frame[0, 0]) for frame in frames}
    assert len(seen) == 5 * K  # every episode of every trial


def test_windows_are_successive_frames_of_one_episode(store):
    frames, actions = store.sample_windows(np.random.default_rng(0), 500, 3)
    assert frames.shape == (500, 3, 8, 8, 3)
    assert (frames == frames[:, :1]).all()  # of one trial and episode
    assert (np.diff(actions[:, :, 1], axis=1) == 1).all()
    assert set(actions[:, 0, 1]) == set(range(T - 1))


def test_features_are_cached_per_frame(store):
    with pytest.raises(LookupError, match="cache_features"):
        store.sample(np.random.default_rng(0), 2, features=True)
    store.cache_features(lambda frames: frames[:, 0, 0, :].astype(np.float32))
    batch = store.sample(np.random.default_rng(0), 20, features=True)
    assert batch.observation is None
    assert (batch.features[:, :, 0] == batch.task[:, None]).all()


def test_disk_gives_back_the_same_and_writes_each_block_once(store, tmp_path):
    first = store.save(tmp_path)
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    store.add(np.array([0]), trials([0], first=9))
    digests = store.save(tmp_path)
    assert digests[: len(first)] == first
    assert all((tmp_path / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    other = EpisodeStore(TASKS)
    other.load(tmp_path, digests)
    one, two = (s.sample(np.random.default_rng(1), 20) for s in (store, other))
    assert all(np.array_equal(a, b) for a, b in zip(one, two) if a is not None)


def test_an_earlier_checkpoint_sees_only_its_own_blocks(store, tmp_path):
    early = store.save(tmp_path)[:1]
    other = EpisodeStore(TASKS)
    other.load(tmp_path, early)
    assert other.num_trials == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_blocks_are_refused(store, tmp_path, damage):
    digests = store.save(tmp_path)
    path = tmp_path / "000001.npz"
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with pytest.raises(ValueError, match="000001"):
        EpisodeStore(TASKS).load(tmp_path, digests)


def test_nonsense_is_refused(store):
    with pytest.raises(ValueError, match=r"0\.\.2"):
        store.add(np.array([3]), trials([3]))
    with pytest.raises(ValueError, match="disagree"):
        store.add(np.array([0, 1]), trials([0]))
    with pytest.raises(LookupError, match="empty"):
        EpisodeStore(TASKS).sample(np.random.default_rng(0), 1)
