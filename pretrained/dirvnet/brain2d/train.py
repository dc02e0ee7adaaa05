"""Makes the preset dirvnet.brain2d: python train.py FOLDER_WITH_axial_slices.npz"""

from functools import partial

from zoo.recipes import brain_slices_datasets, registration_preset

if __name__ == "__main__":
    registration_preset(
        __file__,
        method="dirvnet",
        config={
            "levels": 4,
            "units": 5,
            "filters": 8,
            "data_kernel": 5,
            "smoothness": 0.05,
            "intensities": "standard",
        },
        datasets=partial(brain_slices_datasets, batch_size=4, steps=50),
        steps=500,
        learning_rate=1e-3,
        loss_weights={"smoothness": 0.1},
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
