"""Makes the preset igr.fish: python train.py fish.obj"""

from zoo.models.igr import AUTHORS
from zoo.recipes import surface_preset

if __name__ == "__main__":
    surface_preset(
        __file__,
        config=AUTHORS | {"width": 256, "depth": 8, "points_per_step": 2048},
        steps=2500,
        learning_rate=2e-3,
        data="fish (odedstein-meshes)",
        summary="Signed distance to a fish, free for any use.",
        licence={
            "weights": "CC0-1.0",
            "data": "LicenseRef-public-domain",
            "attribution": "Mesh from odedstein-meshes (Oded Stein, github.com/odedstein/meshes).",
        },
        notes="This is a CPU-sized configuration (8 x 256); `train.py --paper` trains the "
        "authors'.",
    )
