"""Makes the preset dirvnet.hippocampus3d: python train.py FOLDER (its images/ and labels/)"""

from zoo.recipes import hippocampus_datasets, registration_preset

if __name__ == "__main__":
    registration_preset(
        __file__,
        method="dirvnet",
        config={
            "dims": 3,
            "levels": 3,
            "units": 7,
            "filters": 8,
            "data_kernel": 3,
            "smoothness_kernel": 3,
            "momentum": 0.7,
            "smoothness": 0.1,
            "intensities": "robust",
        },
        datasets=hippocampus_datasets,
        steps=1000,
        learning_rate=1e-3,
        loss_weights={"smoothness": 0.1},
        data="Medical Segmentation Decathlon, hippocampus, first 140 of 200 cases",
        protocol="40 random pairs of the last 40 cases, held out, centred, Dice of 2 labels",
        summary="Hippocampus MRI (T1) of different subjects, trained without labels.",
        notes="The cases are left and right halves of 195 heads in an unknown order. The split is "
        "by blocks of case numbers: the first 140 are trained on, 20 lie between, the last 40 are "
        "only tested on; a head on both sides of a border cannot be ruled out. Training images "
        "were changed at random: gain, offset, noise, crops, small affine maps.",
        licence={
            "weights": "CC-BY-SA-4.0",
            "data": "CC-BY-SA-4.0",
            "attribution": "Medical Segmentation Decathlon, Task04 Hippocampus (Simpson et al., "
            "arXiv:1902.09063; Antonelli et al., Nature Communications 2022)",
        },
    )
