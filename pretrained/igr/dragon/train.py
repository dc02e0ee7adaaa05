"""Makes the preset igr.dragon: python train.py dragon.obj"""

from zoo.recipes import surface_preset

if __name__ == "__main__":
    surface_preset(
        __file__,
        config={"entries": 2**15},
        steps=800,
        data="Stanford dragon, version of 50,000 vertices",
        summary="Signed distance to the Stanford dragon, in the units of the scan.",
        licence={
            "weights": "LicenseRef-noncommercial-research",
            "data": "LicenseRef-noncommercial-research",
            "terms": "Stanford 3D Scanning Repository: research use with credit, non-commercial",
            "attribution": "Model courtesy of the Stanford Computer Graphics Laboratory, Stanford "
            "3D Scanning Repository (http://graphics.stanford.edu/data/3Dscanrep/).",
        },
        notes="Trained on a decimated and rescaled version. Stanford asks for uses in good taste, "
        "for the dragon is a symbol of Chinese culture: no morphing, no destruction.",
    )
