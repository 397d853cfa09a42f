"""Tasks are values; task sets are seeded and disjoint."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

import meld_envs
from meld_envs.env import load_family
from meld_envs.tasks import Task, TaskSet

FAMILIES = [load_family(path) for path in meld_envs.FAMILIES.values()]
#: Families of two tasks, which are both the train and the test tasks.
PAIRS = [family for family in FAMILIES if family.num_train_tasks == 2]
FAMILIES = [family for family in FAMILIES if family not in PAIRS]
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def draw(family, train=30, test=10, seed=0):
    return TaskSet.draw(family.draw_task, train, test, seed)


@every_family
def test_tasks_are_values(family):
    task = draw(family).train[0]
    same = Task.from_dict(json.loads(json.dumps(task.to_dict())))
    backwards = Task(task.family, dict(reversed(task.parameters.items())), task.hidden)  # as a tool may sort
    for twin in (same, backwards, pickle.loads(pickle.dumps(task)), copy.deepcopy(task)):
        assert twin == task
        assert hash(twin) == hash(task)
        assert twin.vector().tobytes() == task.vector().tobytes()
    assert task != draw(family).train[1]
    assert family.name in repr(task)
    with pytest.raises(AttributeError, match="immutable"):
        task.family = "Other"
    with pytest.raises(TypeError):
        task.parameters[next(iter(task.parameters))] = 0.0


@every_family
def test_the_hidden_vector_follows_the_family(family):
    task = draw(family).train[0]
    assert task.hidden == family.parameter_names
    assert task.vector().tolist() == [task.parameters[name] for name in family.parameter_names]
    assert task.vector().dtype == np.float64


@every_family
def test_task_sets_repeat_and_are_disjoint(family):
    tasks = draw(family)
    assert tasks == draw(family)
    assert (len(tasks.train), len(tasks.test)) == (30, 10)
    assert len(set(tasks.train) | set(tasks.test)) == 40
    assert draw(family, seed=1).train[0] not in tasks.train
    assert TaskSet.from_dict(json.loads(json.dumps(tasks.to_dict()))) == tasks


@every_family
def test_a_longer_train_list_leaves_the_test_list_alone(family):
    few, many = draw(family, train=5), draw(family, train=60)
    assert few.test == many.test
    assert few.train == many.train[:5]
    more_tests = draw(family, train=5, test=25)
    assert more_tests.train == few.train
    assert more_tests.test[:10] == few.test
    seen_alone = draw(family, train=10, test=1).train
    assert not set(seen_alone) & set(few.test), "the two lists have generators of their own"


@every_family
def test_the_global_generator_is_neither_read_nor_written(family):
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    tasks = draw(family)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert draw(family) == tasks


@pytest.mark.parametrize("family", PAIRS, ids=lambda family: family.name)
def test_families_of_two_tasks_train_and_test_on_both(family):
    tasks = family.draw_task_set(2, 2, seed=0)
    assert tasks.train == tasks.test == family.draw_task_set(2, 2, seed=1).train
    assert tasks.train[0] != tasks.train[1]
    assert TaskSet.from_dict(json.loads(json.dumps(tasks.to_dict()))) == tasks
    assert {family.draw_task(np.random.default_rng(seed)) for seed in range(20)} == set(tasks.train)
    with pytest.raises(ValueError, match="only 2 tasks"):
        family.draw_task_set(3, 2, seed=0)


def coin(rng):
    return Task("Coin", {"side": float(rng.integers(2))}, ["side"])


def test_a_family_with_too_few_tasks_says_so():
    assert len(TaskSet.draw(coin, 1, 1, 0).train) == 1
    with pytest.raises(ValueError, match="Coin has no 2 different tasks"):
        TaskSet.draw(coin, 2, 1, 0)
    one = Task("Coin", {"side": 1.0}, ["side"])
    with pytest.raises(ValueError, match="disjoint"):
        TaskSet([one], [one])


@pytest.mark.parametrize("plain", [{}, {"family": "Coin"}, {"family": "Coin", "parameters": 3, "hidden": []}])
def test_what_is_no_task_is_refused(plain):
    with pytest.raises(ValueError, match="not a task"):
        Task.from_dict(plain)
