"""`zoo list | show | verify`: what there is, without TensorFlow."""

from __future__ import annotations

import json
import sys

from zoo.cli.shared import FAILED, is_preset


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
    if not options.pretrained and "." not in options.pattern:
        for entry in registry.find(options.pattern, **facts):
            note = f"broken: {entry.error}" if entry.error else entry.summary
            rows.append({"name": entry.name, "kind": "method", "summary": note})
    wanted = set(zoo.find("*", pretrained=True, **facts))
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
        print(f"zoo: nothing matches {options.pattern!r}", file=sys.stderr)
        return FAILED


def show(options):
    import zoo
    from zoo.api import info

    if options.json and is_preset(options.name):
        print(json.dumps(info(options.name).manifest, indent=2, ensure_ascii=False))
    elif options.json:
        import dataclasses

        import registry

        entry = registry.get(options.name)
        facts = dataclasses.asdict(entry) | {"target": entry.where}
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print(zoo.describe(options.name), end="")


def verify(options):
    import pretrained
    from zoo.api import info, presets

    found = [info(name) for name in options.preset] if options.preset else presets()
    problems = {preset.name: pretrained.verify(preset) for preset in found}
    if options.json:
        print(json.dumps(problems, indent=2))
    else:
        for name, issues in problems.items():
            print(f"{name}: {'; '.join(issues) or 'good'}")
    return FAILED if any(problems.values()) else 0
