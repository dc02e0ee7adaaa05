"""The built-in methods: the whole zoo on one screen. A class is imported when it is asked for."""

from registry import Entry, add_method

ENTRIES = (
    Entry(
        name="affine",
        target="zoo.models.affine:AffineRegistration",
        task="registration",
        data=("image", "points"),
        dims=(2, 3),
        traits=("per-instance", "linear", "invertible"),
        summary="Rigid, similarity or affine alignment of images and clouds.",
        paper="Adam on an image pyramid; iterated closest points, Besl and McKay, PAMI 1992",
    ),
    Entry(
        name="chain",
        target="zoo.registration.chain:Chain",
        task="registration",
        data=("image", "points"),
        dims=(2, 3),
        traits=("per-instance", "composition"),
        summary="One registration, then another for what is left; also written affine+dirvnet.",
    ),
    Entry(
        name="dirvnet",
        target="zoo.models.dirvnet:DIRVNet",
        task="registration",
        data=("image",),
        dims=(2, 3),
        traits=("learned", "unrolled", "interpretable"),
        summary="A few learned descent steps with fields of experts on an image pyramid.",
        paper="DIRV-Net, github.com/TMS-Namespace/DIRV-Net; arXiv:1704.00447, arXiv:1906.05528",
    ),
    Entry(
        name="divroc",
        target="zoo.models.divroc:DiVRoC",
        task="registration",
        data=("points",),
        dims=(2, 3),
        traits=("per-instance", "deformable", "invertible"),
        summary="Large clouds, deformed by smooth fields found by optimisation, coarse to fine.",
        paper="Heinrich et al., Chasing clouds, ICCV 2023; may be covered by EP4535285A3",
    ),
    Entry(
        name="igr",
        target="zoo.models.igr:IGR",
        task="surface",
        data=("points", "mesh"),
        dims=(2, 3),
        traits=("per-instance", "signed-distance"),
        summary="A scan as the zero set of a network whose gradient has unit length.",
        paper="Gropp et al., ICML 2020, arXiv:2002.10099",
    ),
    Entry(
        name="nephi",
        target="zoo.models.nephi:NePhi",
        task="registration",
        data=("image",),
        dims=(2, 3),
        traits=("learned", "per-instance", "deformable", "continuous"),
        summary="Images registered by networks of coordinates, there and back, that a code steers.",
        paper="Tian et al., NePhi, ECCV 2024, arXiv:2309.07322",
    ),
    Entry(
        name="resnet_lddmm",
        target="zoo.models.resnet_lddmm:ResNetLDDMM",
        task="registration",
        data=("points", "mesh"),
        dims=(2, 3),
        traits=("per-instance", "deformable", "diffeomorphic", "invertible"),
        summary="Meshes and clouds carried onto each other by a flow of residual blocks.",
        paper="Ben Amor, Arguillere and Shao, TPAMI 2023, arXiv:2102.07951",
    ),
)

for entry in ENTRIES:
    add_method(entry)
