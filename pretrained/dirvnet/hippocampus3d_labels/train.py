"""Makes dirvnet.hippocampus3d_labels: python train.py FOLDER (its images/ and labels/)"""

import numpy as np

from zoo.data.image import Image
from zoo.data.pair import Pair
from zoo.data.pairs import PairDataset, all_pairs
from zoo.recipes import registration_preset

SHAPE = (48, 64, 48)
TEST, VALIDATION = 40, 20  # cases that are not trained on; the second were for choosing settings


def datasets(folder):
    names = sorted(path.name for path in (folder / "images").glob("*.nii.gz"))
    order = np.random.default_rng(0).permutation(len(names))
    test = [_case(folder, names[k]) for k in order[:TEST]]
    cases = [_case(folder, names[k]) for k in order[TEST + VALIDATION :]]
    images, labels = zip(*cases, strict=True)
    training = all_pairs(images, labels, batch_size=2, shape=SHAPE, align="centre", steps=50)
    random = np.random.default_rng(1)
    drawn = [random.choice(TEST, 2, replace=False) for _ in range(40)]
    pairs = [
        Pair(fixed, moving, fixed_labels=fixed_labels, moving_labels=moving_labels)
        for (fixed, fixed_labels), (moving, moving_labels) in (
            (test[first], test[second]) for first, second in drawn
        )
    ]
    return training, PairDataset(pairs, shape=SHAPE, align="centre").pairs


def _case(folder, name):
    labels = Image.read(folder / "labels" / name).array[..., 0]
    return Image.read(folder / "images" / name).centred(), labels.astype(np.int32)


if __name__ == "__main__":
    registration_preset(
        __file__,
        method="dirvnet",
        config={
            "dims": 3,
            "units": 4,
            "filters": 8,
            "data_kernel": 3,
            "smoothness_kernel": 3,
            "spacing": 3,
            "smoothness": 0.1,
            "features": 4,
            "intensities": "standard",
            "labels": (1, 2),
        },
        datasets=datasets,
        steps=500,
        learning_rate=2e-3,
        loss_weights={"labels": 1.0, "similarity": 0.3, "smoothness": 0.1},
        data="Medical Segmentation Decathlon, hippocampus, 140 of 200 cases",
        protocol="40 random pairs of 40 held out cases, centred, Dice of 2 labels",
        summary="Hippocampus MRI (T1) of different subjects, trained on the overlap of labels.",
        licence={
            "weights": "CC-BY-SA-4.0, as the data",
            "data": "CC-BY-SA-4.0",
            "attribution": "Medical Segmentation Decathlon, Task04 Hippocampus (Simpson et al., "
            "arXiv:1902.09063; Antonelli et al., Nature Communications 2022)",
        },
        notes="Labels are needed for training only; registration takes the two images.",
    )
