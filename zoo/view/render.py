"""Renders the panels of a scene with polyscope: `python render.py scene.npz`, PNGs beside it.

A program of its own, because TensorFlow and a software OpenGL in one process can deadlock.
"""

import sys
from pathlib import Path

import numpy as np
import polyscope

PIXELS = 900


def main(scene: Path):
    polyscope.set_verbosity(0)
    polyscope.set_allow_headless_backends(True)
    polyscope.set_use_prefs_file(False)
    polyscope.init()
    polyscope.set_ground_plane_mode("none")
    polyscope.set_window_size(PIXELS, PIXELS)
    arrays = np.load(scene)
    polyscope.set_vertical_fov_degrees(float(arrays["field_of_view"]))
    # Arrays are named points<panel>, colours<panel> and, of meshes, faces<panel>.
    for panel in (name.removeprefix("points") for name in arrays if name.startswith("points")):
        points, colours = arrays[f"points{panel}"], arrays[f"colours{panel}"]
        if f"faces{panel}" in arrays:
            polyscope.register_surface_mesh(
                panel, points, arrays[f"faces{panel}"], color=tuple(colours), smooth_shade=True
            )
        else:
            # Few points are large, so that they are seen, many are small, so that they part.
            radius = float(np.clip(0.3 / np.sqrt(len(points)), 0.002, 0.01))
            cloud = polyscope.register_point_cloud(panel, points, radius=radius)
            colours = np.broadcast_to(colours, points.shape)
            cloud.add_color_quantity("colours", colours, enabled=True)
        polyscope.look_at(arrays["eye"], (0.0, 0.0, 0.0))
        polyscope.screenshot(str(scene.with_name(f"panel{panel}.png")), transparent_bg=False)
        polyscope.remove_all_structures()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
