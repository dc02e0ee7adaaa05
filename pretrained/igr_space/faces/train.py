"""Makes the preset `igr_space.faces`: python pretrained/igr_space/faces/train.py FACES.npz

The file holds `vertices` `[shapes, n, 3]` of one topology `faces`, and `names` as "id00/smile".
Interrupted training goes on from its last epoch when the same command is given again.

Four people are too few to tell what a fifth looks like. Of the 18 faces of the ICT face model those
of two people were held out: they were met at a Chamfer distance of 0.0328 from whole scans and
0.0331 from halves, where the closest training face has 0.0384 and the floor is 0.0125 (in 11
minutes on one core), and codes of two expressions of one of them looked alike. So its weights are
not shipped; some hundred people are what to train on.
"""

import itertools
from pathlib import Path

import numpy as np

import zoo
from zoo.recipes import space_preset

EXPRESSIONS = ("neutral", "smile", "open_mouth", "anger")
MEMBERS = [f"id0{number}/{name}" for number, name in itertools.product(range(3), EXPRESSIONS)]
HELD_OUT = [f"id03/{name}" for name in EXPRESSIONS] + ["id07/neutral"]


def face(name: str, path: Path) -> zoo.Scan:
    """One face, in centimetres."""
    with np.load(path) as file:
        (number,) = np.flatnonzero(file["names"] == name)
        return zoo.Scan(file["vertices"][number], faces=file["faces"], name=name)


def left_half(scan: zoo.Scan) -> zoo.Scan:
    """The points of a face on the side of positive x."""
    return scan.subset(scan.points[:, 0] > 0)


if __name__ == "__main__":
    space_preset(
        __file__,
        scan_of=face,
        seeds=[*MEMBERS, "id06/neutral"],
        test_seeds=HELD_OUT,
        config={"codes": 24, "points_per_step": 2048, "shapes_per_step": 4},
        steps=4000,
        argument=("faces", "the file of faces"),
        part=("one half", left_half),
        open_scans=True,
        data="faces of the ICT face model",
        licence={
            "weights": "MIT",
            "data": "MIT",
            "attribution": "ICT-FaceKit, USC Institute for Creative Technologies (Li et al., "
            "Learning Formation of Physically-Based Face Attributes, CVPR 2020)",
        },
        summary="Faces with expressions as codes: completes one from its half, blends two.",
        notes="Learned from thirteen faces of four people, in centimetres, upright and facing "
        "along z; the two people held out are in no expression among them. The faces are open at "
        "neck and back; the field closes them, and distances are measured with meshes trimmed "
        "there.",
    )
