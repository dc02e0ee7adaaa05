"""Renders the panels of a scene with polyscope: `python render.py scene.npz`, PNGs beside it.

A program of its own, because TensorFlow and a software OpenGL in one process can deadlock.
"""

import sys
from pathlib import Path

import numpy as np
import polyscope

COLOURS = ((0.36, 0.55, 0.74), (0.88, 0.60, 0.35), (0.47, 0.66, 0.47))
PIXELS = 560


def main(scene: Path):
    polyscope.set_verbosity(0)
    polyscope.set_allow_headless_backends(True)
    polyscope.set_use_prefs_file(False)
    polyscope.init()
    polyscope.set_ground_plane_mode("none")
    polyscope.set_window_size(PIXELS, PIXELS)
    # A distant eye and a narrow field of view, so that panels compare.
    polyscope.set_vertical_fov_degrees(16)
    arrays = np.load(scene)
    # Arrays are named points<panel>_<item> and faces<panel>_<item>.
    items = sorted(name.removeprefix("points") for name in arrays if name.startswith("points"))
    for panel in sorted({item.partition("_")[0] for item in items}, key=int):
        for item in (item for item in items if item.partition("_")[0] == panel):
            points = arrays[f"points{item}"]
            colour = COLOURS[int(item.partition("_")[2]) % len(COLOURS)]
            if f"faces{item}" in arrays:
                polyscope.register_surface_mesh(
                    item, points, arrays[f"faces{item}"], color=colour, smooth_shade=True
                )
            else:
                polyscope.register_point_cloud(item, points, radius=0.002, color=colour)
        polyscope.look_at((2.6, 2.0, 8.6), (0.0, 0.0, 0.0))
        polyscope.screenshot(str(scene.with_name(f"panel{panel}.png")), transparent_bg=False)
        polyscope.remove_all_structures()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
