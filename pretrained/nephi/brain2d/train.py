"""Makes the preset nephi.brain2d: python train.py FOLDER_WITH_axial_slices.npz

The preset is not shipped: made by this recipe, one pass takes the pairs held out from a Dice of
0.732 to 0.715, fifty steps of `fit(pair)` to 0.760, where `dirvnet.brain2d` reaches 0.815. The
correlation of whole slices follows the outline of the head; with "lncc" from there the loss of the
33 subjects falls, and so does the Dice of the others: they are few for an encoder of 666,696
weights.
"""

from zoo.data.augmentation import Augmented
from zoo.recipes import brain_slices_datasets, registration_preset


def datasets(folder):
    training, test = brain_slices_datasets(folder, batch_size=4, steps=100)
    return Augmented(training), test


if __name__ == "__main__":
    registration_preset(
        __file__,
        method="nephi",
        config={"dims": 2, "size": 128, "points": 2048, "probes": 64},
        datasets=datasets,
        steps=8000,
        learning_rate=1e-3,
        loss_weights={"consistency": 1.0},
        refined={"epochs": 5},
        data="axial T1 slices of the ANTs tutorial, 33 of 45 subjects",
        protocol="24 pairs of 12 held out subjects, Dice of 4 tissue labels",
        summary="Axial brain slices (T1) of different subjects, trained without labels.",
        licence={
            "weights": "GPL-2.0-only",
            "data": "GPL-2.0-only",
            "attribution": "ANTsTutorial (Brian Avants, github.com/stnava/ANTsTutorial), "
            "Pediatric Template of Brain Perfusion",
        },
    )
