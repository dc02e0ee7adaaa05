"""Makes the preset nephi.hippocampus3d: python train.py FOLDER (its images/ and labels/)"""

from zoo.recipes import hippocampus_datasets, registration_preset

if __name__ == "__main__":
    registration_preset(
        __file__,
        method="nephi",
        config={"dims": 3, "size": (48, 64, 48), "normalisation": "group", "points": 2048},
        datasets=hippocampus_datasets,
        steps=4000,
        learning_rate=1e-3,
        loss_weights={"consistency": 1.0},
        refined={"epochs": 5},
        data="Medical Segmentation Decathlon, hippocampus, first 140 of 200 cases",
        protocol="40 random pairs of the last 40 cases, held out, centred, Dice of 2 labels",
        summary="Hippocampus MRI (T1) of different subjects, trained without labels.",
        notes="Weak: `dirvnet.hippocampus3d` reaches 0.752 on these pairs. The similarity is one "
        "correlation of the whole field, in which the border of padded volumes counts, too. With "
        "masks of the padding and 8,192 points fits end at 0.728 and fold at 0.26 % of the points; "
        "the same with more weight on consistency is what to try. "
        "The cases are left and right halves of 195 heads in an unknown order. The split is "
        "by blocks of case numbers: the first 140 are trained on, 20 lie between, the last 40 are "
        "only tested on; a head on both sides of a border cannot be ruled out.",
        licence={
            "weights": "CC-BY-SA-4.0",
            "data": "CC-BY-SA-4.0",
            "attribution": "Medical Segmentation Decathlon, Task04 Hippocampus (Simpson et al., "
            "arXiv:1902.09063; Antonelli et al., Nature Communications 2022)",
        },
    )
