"""What this plugin adds. Kept apart from the class, so that listing it imports nothing heavy."""

from zoo import Entry

ENTRIES = [
    Entry(
        "mirror",
        "zoo_plugin_example.mirror:Mirror",
        task="registration",
        data="points",
        summary="Points mirrored at the origin.",
    )
]
