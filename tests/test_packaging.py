"""The package as a stranger meets it: what it installs, who imports whom, what the README promises."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

#: docs/architecture.md, "who may import whom"; and the extra of setup.cfg that must suffice for each.
MAY_IMPORT = {
    "meld_envs": {"meld_envs"},
    "meld_agents": {"meld_agents", "meld_envs"},
    "hardware_bridge": {"hardware_bridge", "meld_envs"},
    "benchmarks": {"benchmarks", "meld_agents", "meld_envs"},
}
OWN = set(MAY_IMPORT)
EXTRA = {"meld_envs": "", "meld_agents": "agents", "hardware_bridge": "hardware", "benchmarks": "bench"}
#: Imported only where they are asked for, with a hint at what to install.
OPTIONAL = {
    "meld_envs": {"dm_control"},
    "meld_agents": {"stable_baselines3", "sb3_contrib"},
    "hardware_bridge": {
        *("cv2", "matplotlib", "minari"),
        *("rclpy", "diagnostic_msgs", "sensor_msgs", "std_msgs", "std_srvs"),
    },
    "benchmarks": {"matplotlib", "ray", "stable_baselines3", "sb3_contrib"},
}

SOURCES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def requirements(extra: str) -> list[Requirement]:
    """All that an extra asks for, those it contains included; "" is the plain installation."""
    config = setup_cfg()
    lines = config["options"]["install_requires"].split("\n")
    if extra:
        lines += config["options.extras_require"][extra].split("\n")
    found = []
    for line in filter(None, map(str.strip, lines)):
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) == "meld-suite":
            found += [inner for name in sorted(requirement.extras) for inner in requirements(name)]
        else:
            found.append(requirement)
    return found


def pins() -> dict[str, str]:
    """The versions of constraints.txt that apply to this Python, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    here = [pin for pin in parsed if pin.marker is None or pin.marker.evaluate()]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in here}


def closure(start: list[Requirement]) -> set[str]:
    """Canonical names of everything that these requirements install on this machine."""
    seen: set[str] = set()
    queue = [(canonicalize_name(r.name), tuple(r.extras)) for r in start]
    while queue:
        name, extras = queue.pop()
        if name in seen or name.startswith(
            ("nvidia-", "cuda-", "triton")
        ):  # torch's own choice, by its build
            continue
        seen.add(name)
        for line in importlib.metadata.requires(name) or []:
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in ("", *extras)):
                queue.append((canonicalize_name(inner.name), tuple(inner.extras)))
    return seen


def imported(path: Path) -> set[str]:
    """The top-level packages that a source file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(path.relative_to(ROOT).parts[0] if node.level else (node.module or "").split(".")[0])
    return names


def readme_examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize(
    "extra", ["", "agents", "bench", "sb3", "cameras", "hardware", "minari", "test", "dev"]
)
def test_tested_versions_are_versions_we_allow(extra):
    tested = pins()
    for requirement in requirements(extra):
        name = canonicalize_name(requirement.name)
        assert name in tested, f"constraints.txt does not pin {requirement}"
        assert requirement.specifier.contains(tested[name]), f"constraints.txt has {name}=={tested[name]}"


def test_nothing_that_we_install_is_left_to_chance():
    unpinned = closure(requirements("test")) - set(pins())
    assert not unpinned, f"constraints.txt does not pin {sorted(unpinned)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_architecture(path):
    package = path.relative_to(ROOT).parts[0]
    names = imported(path) - set(sys.stdlib_module_names)
    forbidden = (names & OWN) - MAY_IMPORT[package]
    assert not forbidden, f"{package} must not import {sorted(forbidden)} (docs/architecture.md)"
    installed = closure(requirements(EXTRA[package]))
    owners = importlib.metadata.packages_distributions()
    for name in names - OWN - OPTIONAL[package]:
        distributions = {canonicalize_name(owner) for owner in owners.get(name, [name])}
        assert distributions & installed, f"setup.cfg does not install {name} for {package}"


BLOCK = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None  # importing it now raises ImportError
"""

IMPORT_ALL = """
import importlib, pkgutil, meld_envs
for module in pkgutil.walk_packages(meld_envs.__path__, "meld_envs."):
    importlib.import_module(module.name)
"""

USE_ALL = """
import gymnasium as gym
for id in meld_envs.FAMILIES:
    env = gym.make(id, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.render()
    env.close()
print("done")
"""


def test_environments_work_with_the_plain_installation(run_python):
    """Whatever `pip install -e .` does not bring is made unimportable."""
    plain = closure(requirements(""))
    owners = importlib.metadata.packages_distributions()
    foreign = {name for name, given in owners.items() if not {canonicalize_name(d) for d in given} & plain}
    blocked = sorted((foreign | OWN) - {"meld_envs"})
    assert "torch" in blocked
    result = run_python("-c", BLOCK.format(blocked=blocked) + IMPORT_ALL + USE_ALL)
    assert result.stdout == "done\n", result.stderr


@pytest.mark.parametrize("module", ["interface", "settings", "registry", "reference"])
def test_what_a_third_party_agent_needs_comes_without_torch(module, run_python):
    code = (
        BLOCK.format(blocked=["torch", "benchmarks", "yaml"]) + f"import meld_agents.{module}\nprint('done')"
    )
    result = run_python("-c", code)
    assert result.stdout == "done\n", result.stderr


def test_readme_has_the_four_examples():
    assert len(readme_examples()) == 4


@pytest.mark.parametrize("number", range(4))
def test_readme_example_does_what_it_says(number, run_python, tmp_path):
    """Each example's comments that begin with ``prints`` are its promise."""
    code = readme_examples()[number]
    result = run_python("-W", "error", "-", stdin=code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    promised = re.findall(r"# prints (.*)$", code, re.M)
    assert promised, "the example promises nothing"
    assert result.stdout.splitlines() == promised


DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
    local = [target for target in targets if not target.startswith(("http:", "https:", "mailto:"))]
    missing = [target for target in local if not (document.parent / target).exists()]
    assert not missing, f"{document.name} links to {missing}"


def test_make_lists_what_it_can_do():
    listing = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("bench", "test", "lint", "clean"):
        assert re.search(rf"^  {target} ", listing, re.M), listing


def test_setup_refuses_what_it_does_not_know():
    result = subprocess.run(
        [ROOT / "tools" / "setup.sh", "everything"], capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "bench test dev" in result.stderr


def test_check_gl_draws_and_says_with_what(run_python):
    result = run_python("tools/check_gl.py")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("off-screen OpenGL: ")


def test_check_gl_without_a_driver_says_why(run_python):
    """With an empty list of EGL vendors the library loads and finds nobody who draws."""
    env = {"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_FILENAMES": "/dev/null"}
    result = run_python("tools/check_gl.py", env=env)
    assert result.returncode == 1
    assert "no off-screen OpenGL:\n  egl: " in result.stderr
