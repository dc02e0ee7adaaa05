"""Makes the preset dirvnet.hippocampus3d: python train.py FOLDER (its images/ and labels/)"""

from zoo.recipes import hippocampus_datasets, registration_preset

if __name__ == "__main__":
    registration_preset(
        __file__,
        method="dirvnet",
        config={
            "dims": 3,
            "units": 5,
            "filters": 8,
            "data_kernel": 5,
            "smoothness_kernel": 3,
            "smoothness": 0.1,
            "intensities": "standard",
        },
        datasets=hippocampus_datasets,
        steps=1000,
        learning_rate=1e-3,
        loss_weights={"smoothness": 0.1},
        data="Medical Segmentation Decathlon, hippocampus, 140 of 200 cases",
        protocol="40 random pairs of 40 held out cases, centred, Dice of 2 labels",
        summary="Hippocampus MRI (T1) of different subjects, trained without labels.",
        licence={
            "weights": "CC-BY-SA-4.0, as the data",
            "data": "CC-BY-SA-4.0",
            "attribution": "Medical Segmentation Decathlon, Task04 Hippocampus (Simpson et al., "
            "arXiv:1902.09063; Antonelli et al., Nature Communications 2022)",
        },
    )
