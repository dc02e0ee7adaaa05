"""Makes the preset igr.bunny: python train.py bun_zipper.ply"""

from zoo.recipes import surface_preset

if __name__ == "__main__":
    surface_preset(
        __file__,
        config={"entries": 2**15},
        steps=800,
        open_scan=True,
        data="Stanford bunny (bun_zipper.ply)",
        summary="Signed distance to the Stanford bunny, in metres.",
        licence={
            "weights": "LicenseRef-noncommercial-research",
            "data": "LicenseRef-noncommercial-research",
            "terms": "Stanford 3D Scanning Repository: research use with credit, non-commercial",
            "attribution": "Model courtesy of the Stanford Computer Graphics Laboratory, Stanford "
            "3D Scanning Repository (http://graphics.stanford.edu/data/3Dscanrep/).",
        },
        notes="The scan has holes in the base, which the network closes; `mesh(trim=scan)` leaves "
        "them open. The Hausdorff distance without trimming is the size of the largest hole.",
    )
