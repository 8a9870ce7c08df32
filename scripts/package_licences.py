#!/usr/bin/env python3
"""Lists the crates that are linked into the programs and copies their licences' texts.

usage: cargo metadata --format-version 1 | scripts/package_licences.py FOLDER
"""

import json
import shutil
import sys
from pathlib import Path

TEXTS = ("license", "licence", "copying", "notice", "unlicense")


def linked(metadata: dict) -> set[str]:
    """Ids of all packages that the workspace's own need to run, not to build or test."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    found, left = set(), list(metadata["workspace_members"])
    while left:
        package = left.pop()
        if package in found:
            continue
        found.add(package)
        for dependency in nodes[package]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                left.append(dependency["pkg"])
    return found - set(metadata["workspace_members"])


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    metadata = json.load(sys.stdin)
    ids = linked(metadata)
    packages = sorted((p for p in metadata["packages"] if p["id"] in ids), key=lambda p: (p["name"], p["version"]))
    lines = []
    for package in packages:
        name = f"{package['name']}-{package['version']}"
        lines.append(f"{name}: {package['license'] or 'see its text'}\n")
        source = Path(package["manifest_path"]).parent
        roots = [source]
        if package["name"] == "llama-cpp-sys-2":
            roots.append(source / "llama.cpp")
        for root in roots:
            for text in sorted(root.iterdir()):
                if text.is_file() and text.name.lower().startswith(TEXTS):
                    copy = folder / (name if root == source else "llama.cpp") / text.name
                    copy.parent.mkdir(exist_ok=True)
                    shutil.copyfile(text, copy)
    (folder / "CRATES.txt").write_text("".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
