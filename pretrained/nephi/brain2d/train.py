"""Makes the preset nephi.brain2d: python train.py FOLDER_WITH_axial_slices.npz"""

import numpy as np

from zoo.data.augmentation import Augmented
from zoo.data.image import Image
from zoo.data.pair import Pair
from zoo.data.pairs import all_pairs
from zoo.geometry import Grid
from zoo.recipes import registration_preset

TEST = 12  # subjects, the last ones


def datasets(folder):
    with np.load(folder / "axial_slices.npz") as stored:
        images, labels = stored["images"].astype(np.float32), stored["labels"].astype(np.int32)
    images = [Image(image, Grid(image.shape)) for image in images]
    training = Augmented(all_pairs(images[:-TEST], batch_size=8, steps=100))
    held = list(zip(images[-TEST:], labels[-TEST:], strict=True))
    test = [
        Pair(fixed, moving, fixed_labels=fixed_labels, moving_labels=moving_labels)
        for number, (fixed, fixed_labels) in enumerate(held)
        for moving, moving_labels in (held[(number + 1) % TEST], held[(number + 5) % TEST])
    ]
    return training, test


if __name__ == "__main__":
    registration_preset(
        __file__,
        method="nephi",
        config={"dims": 2, "size": 128, "similarity": "lncc", "points": 4096, "probes": 64},
        datasets=datasets,
        steps=10_000,
        learning_rate=1e-3,
        loss_weights={"consistency": 1.0},
        refined={"epochs": 5},
        data="axial T1 slices of the ANTs tutorial, 33 of 45 subjects",
        protocol=f"24 pairs of {TEST} held out subjects, Dice of 4 tissue labels",
        summary="Axial brain slices (T1) of different subjects, trained without labels.",
        licence={
            "weights": "GPL-2.0, as the data",
            "data": "GPL-2.0",
            "attribution": "ANTsTutorial (Brian Avants, github.com/stnava/ANTsTutorial), "
            "Pediatric Template of Brain Perfusion",
        },
    )
