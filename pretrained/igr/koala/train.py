"""Makes the preset igr.koala: python train.py koala.obj"""

from zoo.models.igr import AUTHORS
from zoo.recipes import surface_preset

if __name__ == "__main__":
    surface_preset(
        __file__,
        config=AUTHORS | {"width": 256, "depth": 8, "points_per_step": 2048},
        steps=2500,
        learning_rate=2e-3,
        data="koala (odedstein-meshes)",
        summary="Signed distance to a koala, free for any use with attribution.",
        licence={
            "weights": "CC-BY-3.0",
            "data": "CC-BY-3.0",
            "terms": "https://creativecommons.org/licenses/by/3.0/",
            "attribution": "Koala by YahooJAPAN (thingiverse.com/thing:182225), modified version "
            "from odedstein-meshes (Oded Stein, github.com/odedstein/meshes).",
        },
        notes="This is a CPU-sized configuration (8 x 256); `train.py --paper` trains the "
        "authors'.",
    )
