"""Checkpoints that a kill cannot spoil: written aside, synced, renamed; checked by hash when read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.files import read_json, sync_folder, write_json

MANIFEST = "manifest.json"
_ASIDE = ".writing"
#: How many of the newest are kept, the best beside them.
KEPT = 2


@dataclass(frozen=True)
class Restored:
    """A checkpoint that was read: its folder and the runner's own state in it."""

    folder: Path
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in folders numbered in the order of writing.

    Each holds what ``agent.save`` wrote and ``manifest.json``: the runner's state, and the SHA-256
    of every file. Agents may keep files that only grow beside these folders.

    Args:
        folder: ``checkpoints/`` of the run.
        say: receives one line about everything unusual.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self._say = say
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / _ASIDE, ignore_errors=True)
        self.best: dict[str, Any] | None = None

    def save(
        self, write: Callable[[Path], None], state: dict[str, Any], rank: list[float] | None = None
    ) -> Path:
        """Writes a checkpoint; the older ones stay until it is complete.

        Args:
            write: ``agent.save``.
            state: the runner's own, plain values.
            rank: how good the agent is by its last evaluation (larger is better); None: not evaluated here.

        Raises:
            OSError: it could not be written; the older checkpoints are untouched.
        """
        number = max(self._numbers(), default=0) + 1
        name = f"{number:05d}-step{state['env_steps']}"
        if rank is not None and (self.best is None or rank > self.best["rank"]):
            self.best = {"name": name, "rank": rank}
        aside = self.folder / _ASIDE
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            write(aside)
            files = {str(path.relative_to(aside)): _hash_synced(path) for path in _files(aside)}
            body = {"files": files, "state": state, "best": self.best}
            write_json(aside / MANIFEST, {**body, "sha256": _hash_of(body)})
            os.replace(aside, self.folder / name)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync_folder(self.folder)
        self._point("last", name)
        if self.best is not None:
            self._point("best", self.best["name"])
        self._remove_old(name)
        return self.folder / name

    def load_newest(self, usable: Callable[[Path, dict[str, Any]], None]) -> Restored | None:
        """The newest checkpoint that is whole; damaged ones are passed over, and said.

        Args:
            usable: restores from a folder and the runner's state; raises if that cannot be done.
        """
        for number in sorted(self._numbers(), reverse=True):
            folder = self._numbers()[number]
            try:
                manifest = verify(folder)
                usable(folder, manifest["state"])
            except Exception as error:  # noqa: BLE001 - whatever an agent's load raises, an older checkpoint may still serve
                self._say(f"checkpoint {folder.name} cannot be used, trying the one before: {error}")
                continue
            self.best = manifest["best"]
            return Restored(folder, manifest["state"])
        return None

    def clear(self) -> None:
        """Removes everything, files that an agent keeps beside its checkpoints included."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.best = None

    def _numbers(self) -> dict[int, Path]:
        folders = [path for path in self.folder.iterdir() if path.is_dir() and not path.is_symlink()]
        return {
            int(p.name.split("-")[0]): p
            for p in folders
            if p.name.split("-")[0].isdigit() and "-step" in p.name
        }

    def _point(self, link: str, name: str) -> None:
        """Makes ``checkpoints/last`` or ``best`` a link to a folder, in one step."""
        aside = self.folder / f".{link}-{uuid.uuid4().hex}"
        os.symlink(name, aside)
        os.replace(aside, self.folder / link)

    def _remove_old(self, newest: str) -> None:
        numbers = self._numbers()
        keep = {path.name for _, path in sorted(numbers.items())[-KEPT:]} | {newest}
        if self.best is not None:
            keep.add(self.best["name"])
        for path in numbers.values():
            if path.name not in keep:
                shutil.rmtree(path)


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, all of whose files are as they were written.

    Raises:
        ValueError: what is missing or differs.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or "sha256" not in manifest:
        raise ValueError(f"{MANIFEST} is missing or unreadable")
    claimed = manifest.pop("sha256")
    if claimed != _hash_of(manifest):
        raise ValueError(f"{MANIFEST} was changed or damaged")
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if _hash(path) != digest:
            raise ValueError(f"{name} is damaged (its SHA-256 differs from the manifest's)")
    return manifest


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _hash_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _hash_synced(path: Path) -> str:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    return _hash(path)
