"""Makes the preset igr.drill: python train.py drill_shaft_vrip.ply"""

from zoo.recipes import surface_preset

if __name__ == "__main__":
    surface_preset(
        __file__,
        config={"entries": 2**15},
        steps=800,
        open_scan=True,
        data="Stanford drill bit (drill_shaft_vrip.ply), 1,961 vertices",
        summary="Signed distance to the shaft of a drill of 1.6 mm, in metres.",
        licence={
            "weights": "LicenseRef-noncommercial-research",
            "data": "LicenseRef-noncommercial-research",
            "terms": "Stanford 3D Scanning Repository: research use with credit, non-commercial",
            "attribution": "Model courtesy of the Stanford Computer Graphics Laboratory, Stanford "
            "3D Scanning Repository (http://graphics.stanford.edu/data/3Dscanrep/).",
        },
        notes="The scan is as noisy as its edges are long, and open at one end, which the network "
        "closes; `mesh(trim=scan)` leaves it open.",
    )
