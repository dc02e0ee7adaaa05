"""`zoo list | show | verify`: what there is, without TensorFlow."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from zoo.cli.arguments import is_preset
from zoo.cli.shared import FAILED, command, load_keras


def add_parsers(commands):
    """`list`, `show` and `verify`."""
    sub = command(commands, "list", list_names, "list methods and presets")
    sub.add_argument("pattern", nargs="?", default="*", help="wildcard, such as 'igr*'")
    sub.add_argument("--pretrained", action="store_true", help="presets only")
    for fact in ("task", "data", "traits"):
        sub.add_argument(f"--{fact}", help=f"only methods with this {fact}")
    sub.add_argument("--dims", type=int, help="only methods for this dimension")
    sub.add_argument(
        "--licence", help="only presets whose weights have this SPDX licence: a wildcard, 'CC0-*'"
    )

    sub = command(
        commands, "show", show, "show the card of a preset, or a method with its arguments"
    )
    sub.add_argument("name")

    sub = command(commands, "verify", verify, "hash the files of presets again")
    sub.add_argument("preset", nargs="*", help="names or folders; all when left out")
    sub.add_argument(
        "--golden",
        action="store_true",
        help="also load each one and compare its output with the stored one",
    )
    sub.add_argument(
        "--rehash",
        action="store_true",
        help="first state anew what the named presets hold, after an edit of preset.json, of the "
        "recipe or the picture, or for format 1; never altered weights",
    )


def list_names(options):
    import registry
    import zoo
    from zoo.api import presets

    facts = {
        name: getattr(options, name)
        for name in ("task", "data", "traits", "dims")
        if getattr(options, name) is not None
    }
    rows = []
    if not options.pretrained and options.licence is None and "." not in options.pattern:
        for entry in registry.find(options.pattern, **facts):
            note = f"broken: {entry.error}" if entry.error else entry.summary
            rows.append({"name": entry.name, "kind": "method", "summary": note})
    wanted = set(zoo.find("*", pretrained=True, licence=options.licence, **facts))
    pattern = options.pattern if "." in options.pattern else f"{options.pattern}.*"
    for preset in presets(pattern):
        if preset.name in wanted:
            summary = preset.manifest.get("summary", "")
            rows.append({"name": preset.name, "kind": "preset", "summary": summary})
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:{width}}  {row['kind']:6}  {row['summary']}")
    if not rows:
        under = "" if options.licence is None else f" under the licence {options.licence!r}"
        print(f"zoo: nothing matches {options.pattern!r}{under}", file=sys.stderr)
        return FAILED


def show(options):
    import zoo
    from zoo.api import info

    if options.json and is_preset(options.name):
        print(json.dumps(info(options.name).manifest, indent=2, ensure_ascii=False))
    elif options.json:
        import dataclasses

        import registry
        from registry.signatures import arguments

        entry = registry.get(options.name)
        facts = dataclasses.asdict(entry) | {"target": entry.where}
        known = (None if entry.error else arguments(entry.target)) or ()
        facts["arguments"] = [
            dataclasses.asdict(each) | {"default": each.value, "required": each.default is None}
            for each in known
        ]
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print(zoo.describe(options.name), end="")


def verify(options):
    import pretrained
    from zoo.api import info, presets

    if options.rehash and not options.preset:
        raise ValueError("--rehash needs the names or folders of the presets.")
    if options.rehash:
        for name in options.preset:
            # One that was edited cannot be read as a preset before it is stated anew.
            pretrained.rehash(name if Path(name, "preset.json").is_file() else info(name).folder)
    found = [info(name) for name in options.preset] if options.preset else presets()
    problems = {preset.name: pretrained.verify(preset) for preset in found}
    if options.golden:
        _compare_golden(found, problems)
    if options.json:
        print(json.dumps(problems, indent=2))
    else:
        for name, issues in problems.items():
            print(f"{name}: {'; '.join(issues) or 'good'}")
    return FAILED if any(problems.values()) else 0


def _compare_golden(found, problems: dict[str, list[str]]):
    """Adds what the computed outputs tell, of the presets whose files are sound."""
    import zoo

    load_keras()
    for preset in found:
        if problems[preset.name]:
            continue
        try:
            zoo.load(str(preset.folder), golden=True)
        except (ValueError, OSError) as error:
            problems[preset.name].append(str(error))
