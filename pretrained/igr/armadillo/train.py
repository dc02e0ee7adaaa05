"""Makes the preset igr.armadillo: python train.py armadillo.obj"""

from zoo.recipes import surface_preset

if __name__ == "__main__":
    surface_preset(
        __file__,
        config={"entries": 2**15},
        steps=800,
        preview_turn=180.0,
        data="Stanford armadillo, version of 49,990 vertices",
        summary="Signed distance to the Stanford armadillo, in the units of the scan.",
        licence={
            "weights": "LicenseRef-noncommercial-research",
            "data": "LicenseRef-noncommercial-research",
            "terms": "Stanford 3D Scanning Repository: research use with credit, non-commercial",
            "attribution": "Model courtesy of the Stanford Computer Graphics Laboratory, Stanford "
            "3D Scanning Repository (http://graphics.stanford.edu/data/3Dscanrep/).",
        },
        notes="Trained on a decimated version; detail below about one unit is missing from it.",
    )
