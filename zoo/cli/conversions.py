"""`zoo convert`: the authors' weight files as presets."""

from __future__ import annotations

from pretrained.cache import sha256
from zoo.cli.arguments import settings
from zoo.cli.shared import add_setting, check_folder, command, load_keras, place, source


def add_parsers(commands):
    """`convert`."""
    sub = command(
        commands, "convert", convert, "write the authors' weights as a preset", json_option=False
    )
    sub.add_argument(
        "file",
        type=source,
        help="a state dict of PointPWC-Net or DiVRoC (.pth), or weights of IGR: the authors' .pth "
        "or nnabla's .h5",
    )
    sub.add_argument("--to", choices=("igr", "pointpwc"), required=True, help="the method")
    sub.add_argument("--out", type=place, required=True, help="the preset folder to write")
    add_setting(sub)
    sub.add_argument("--overwrite", action="store_true", help="replace an existing preset")


def convert(options):
    check_folder(options.out, options.overwrite, empty_is_free=False)
    config = settings(options.to, options.set)
    load_keras()
    from zoo.checkpoints import READERS

    model = READERS[options.to](options.file, **config)
    folder = model.save_preset(
        options.out,
        overwrite=options.overwrite,
        summary=f"{options.to} with the weights of {options.file.name}, as its authors made them.",
        licence={"weights": "as the authors' file", "data": "as the authors' file"},
        notes=f"Converted by `zoo convert` from {options.file.name}, SHA-256 "
        f"{sha256(options.file)}. Its coordinates are those that the authors' network was "
        "trained in.",
    )
    print(f"{folder}: load it with zoo.load({str(folder)!r})")
