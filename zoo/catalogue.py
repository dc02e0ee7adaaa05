"""The built-in methods: the whole zoo on one screen. A class is imported when it is asked for."""

from registry import Entry, register

ENTRIES = (
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
)

for entry in ENTRIES:
    register(entry)
