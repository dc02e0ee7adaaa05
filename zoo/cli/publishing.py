"""`zoo push`: a preset to a hub, without TensorFlow."""

from __future__ import annotations

from zoo.cli.shared import command


def add_parsers(commands):
    """`push`."""
    sub = command(commands, "push", push, "upload a preset to a hub", json_option=False)
    sub.add_argument("preset", help="its folder, or its name")
    sub.add_argument("handle", help="the repository, hf://owner/name; made where there is none")
    sub.add_argument(
        "--private", action="store_true", help="a repository that is made is seen by you alone"
    )


def push(options):
    import zoo

    handle = zoo.push(options.preset, options.handle, private=options.private)
    print(f"load it with zoo.load({handle!r})")
