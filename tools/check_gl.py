"""Says whether this machine can draw off screen, by drawing.

    python tools/check_gl.py

Tries MuJoCo's headless backends in turn, or only the one that ``MUJOCO_GL`` names, each in a process
of its own because the choice is made once, when mujoco is imported. Prints the first that drew a
picture and what drew it, and exits with 0; otherwise prints why each failed and exits with 1.
"""

from __future__ import annotations

import os
import subprocess
import sys

BACKENDS = ("egl", "osmesa")
PATIENCE = 60.0  # seconds; a driver that hangs counts as one that fails

SCENE = """
<mujoco>
  <worldbody>
    <light pos="0 0 3"/>
    <geom type="sphere" size="1" rgba="1 0 0 1"/>
    <camera name="front" pos="0 -4 0" xyaxes="1 0 0 0 0 1"/>
  </worldbody>
</mujoco>
"""


def main() -> int:
    """Tries every backend in turn; returns the exit status."""
    if "--draw" in sys.argv[1:]:
        print(draw())
        return 0
    reasons = []
    for backend in candidates():
        drawn, message = attempt(backend)
        if drawn:
            print(f"off-screen OpenGL: {backend}, {message}")
            return 0
        reasons.append(f"{backend}: {message}")
    print("no off-screen OpenGL:\n  " + "\n  ".join(reasons), file=sys.stderr)
    return 1


def candidates() -> tuple[str, ...]:
    """The user's own choice where there is one, otherwise all."""
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    return (chosen,) if chosen in BACKENDS else BACKENDS


def attempt(backend: str) -> tuple[bool, str]:
    """Draws with one backend in a fresh process; returns whether it did, and the drawer or the reason."""
    environment = {**os.environ, "MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    command = [sys.executable, __file__, "--draw"]
    try:
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {PATIENCE:.0f} seconds"
    lines = (result.stdout if result.returncode == 0 else result.stderr).strip().splitlines()
    return result.returncode == 0, lines[-1].strip() if lines else f"exit status {result.returncode}"


def draw() -> str:
    """Draws a red ball, looks whether it is red, and returns the name of what drew it."""
    import mujoco
    from OpenGL import GL

    model = mujoco.MjModel.from_xml_string(SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, height=64, width=64) as renderer:
        renderer.update_scene(data, camera="front")
        red, green, blue = (int(value) for value in renderer.render()[32, 32])
        name = GL.glGetString(GL.GL_RENDERER)
    if red < 64 or red < 2 * max(green, blue):
        raise SystemExit(f"a red ball came out as ({red}, {green}, {blue})")
    return name.decode() if name else "an unnamed renderer"


if __name__ == "__main__":
    sys.exit(main())
