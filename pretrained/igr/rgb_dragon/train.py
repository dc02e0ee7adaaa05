"""Makes the preset igr.rgb_dragon: python train.py xyzrgb_dragon.obj"""

from zoo.recipes import surface_preset

if __name__ == "__main__":
    surface_preset(
        __file__,
        config={"entries": 2**15},
        steps=800,
        data="Stanford XYZ RGB dragon, version of 14,101 vertices",
        summary="Signed distance to the XYZ RGB dragon, in the units of the scan.",
        licence={
            "weights": "LicenseRef-noncommercial-research",
            "data": "LicenseRef-noncommercial-research",
            "terms": "Stanford 3D Scanning Repository: research use with credit, non-commercial",
            "attribution": "Model courtesy of the Stanford Computer Graphics Laboratory, Stanford "
            "3D Scanning Repository (http://graphics.stanford.edu/data/3Dscanrep/).",
        },
        notes="Trained on a strongly decimated version, of whose scales little is left. Stanford "
        "asks for uses in good taste: no morphing, no destruction.",
    )
