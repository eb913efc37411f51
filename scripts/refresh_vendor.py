"""Refreshes the page's vendored libraries: `python scripts/refresh_vendor.py [--check]`.

Each library comes from the npm registry by `npm pack` (which checks the registry's own integrity hash), at the version
written here. Files are copied unchanged; `vendor.json` and `NOTICE.md` are written anew. `--check` needs no network: it
only compares the committed files with the hashes in `vendor.json`.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

VENDOR = Path(__file__).parent.parent / "adapters" / "browser" / "vendor"


@dataclass(frozen=True, slots=True)
class Library:
    """An npm package. `files` maps a path in it to the name kept here; `bundles` names what its file contains."""

    name: str
    version: str
    licence: str
    home: str
    files: dict[str, str]
    bundles: str = ""


LIBRARIES = (
    Library(
        "markdown-it",
        "15.0.3",
        "MIT",
        "https://github.com/markdown-it/markdown-it",
        {"dist/browser/markdown-it.esm.min.mjs": "markdown-it.js", "LICENSE": "LICENSE.markdown-it.txt"},
    ),
    Library(
        "dompurify",
        "3.4.18",
        "Apache-2.0 (of Apache-2.0 OR MPL-2.0)",
        "https://github.com/cure53/DOMPurify",
        {"dist/purify.es.mjs": "dompurify.js", "LICENSE": "LICENSE.dompurify.txt"},
    ),
    Library(
        "@highlightjs/cdn-assets",
        "11.12.0",
        "BSD-3-Clause",
        "https://highlightjs.org/",
        {"es/highlight.min.js": "highlight.js", "LICENSE": "LICENSE.highlight.txt"},
    ),
    # What markdown-it's browser file contains; only their licences are kept.
    Library(
        "mdurl",
        "2.1.0",
        "MIT",
        "https://github.com/markdown-it/mdurl",
        {"LICENSE": "LICENSE.mdurl.txt"},
        "markdown-it.js",
    ),
    Library(
        "uc.micro",
        "3.0.0",
        "MIT",
        "https://github.com/markdown-it/uc.micro",
        {"LICENSE.txt": "LICENSE.uc.micro.txt"},
        "markdown-it.js",
    ),
    Library(
        "linkify-it",
        "6.1.0",
        "MIT",
        "https://github.com/markdown-it/linkify-it",
        {"LICENSE": "LICENSE.linkify-it.txt"},
        "markdown-it.js",
    ),
    Library(
        "entities",
        "8.1.0",
        "BSD-2-Clause",
        "https://github.com/fb55/entities",
        {"LICENSE": "LICENSE.entities.txt"},
        "markdown-it.js",
    ),
    Library(
        "punycode.js",
        "2.3.1",
        "MIT",
        "https://mths.be/punycode",
        {"LICENSE-MIT.txt": "LICENSE.punycode.txt"},
        "markdown-it.js",
    ),
)


def refresh() -> None:
    """Fetches all files, and only then puts them in the place of the committed ones."""
    known = {f"{entry['package']}@{entry['version']}": entry["integrity"] for entry in committed()}
    record, bodies = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for library in LIBRARIES:
            package = f"{library.name}@{library.version}"
            packed = subprocess.run(
                ["npm", "pack", package, "--json", "--silent"], cwd=folder, check=True, capture_output=True, text=True
            )
            told = json.loads(packed.stdout)
            entry = next(iter(told.values())) if isinstance(told, dict) else told[0]
            if known.get(package, entry["integrity"]) != entry["integrity"]:
                raise SystemExit(f"{package} is not what it was: {entry['integrity']}, committed {known[package]}")
            with tarfile.open(Path(folder) / entry["filename"]) as tar:
                for path, name in library.files.items():
                    member = tar.extractfile(f"package/{path}")
                    if member is None:
                        raise SystemExit(f"{package} has no file {path}")
                    body = bodies[name] = member.read()
                    record.append(
                        {
                            "file": name,
                            "sha256": hashlib.sha256(body).hexdigest(),
                            "bytes": len(body),
                            "package": library.name,
                            "version": library.version,
                            "path": path,
                            "licence": library.licence,
                            "integrity": entry["integrity"],
                        }
                    )
            print(f"{package}: {', '.join(library.files.values())}")  # noqa: T201
    VENDOR.mkdir(parents=True, exist_ok=True)
    for old in VENDOR.iterdir():
        old.unlink()
    for name, body in bodies.items():
        (VENDOR / name).write_bytes(body)
    (VENDOR / "vendor.json").write_text(json.dumps(record, indent=1) + "\n")
    (VENDOR / "NOTICE.md").write_text(notice())


def committed() -> list[dict[str, str]]:
    """The files' record, as it was written last."""
    record = VENDOR / "vendor.json"
    return json.loads(record.read_text()) if record.exists() else []


def notice() -> str:
    lines = [
        "# Libraries of others in this folder",
        "",
        "Unchanged files of npm packages, refreshed by `scripts/refresh_vendor.py`; hashes in `vendor.json`.",
        "",
        "| package | version | licence | text | in |",
        "|---|---|---|---|---|",
    ]
    for library in LIBRARIES:
        *code, text = library.files.values()
        where = code[0] if code else library.bundles
        lines.append(f"| [{library.name}]({library.home}) | {library.version} | {library.licence} | {text} | {where} |")
    return "\n".join(lines) + "\n"


def check() -> list[str]:
    """What is wrong with the committed files: a sentence each."""
    record = committed()
    wrong = []
    for entry in record:
        file = VENDOR / entry["file"]
        if not file.is_file():
            wrong.append(f"{file.name} is missing")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
            wrong.append(f"{file.name} is not the file of {entry['package']} {entry['version']}")
    known = {entry["file"] for entry in record} | {"vendor.json", "NOTICE.md"}
    wrong += [f"{file.name} is in no package listed" for file in sorted(VENDOR.iterdir()) if file.name not in known]
    if (VENDOR / "NOTICE.md").read_text() != notice():
        wrong.append("NOTICE.md is not what the list of libraries says")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare the committed files with their hashes")
    if parser.parse_args().check:
        wrong = check()
        sys.exit("\n".join(wrong) if wrong else 0)
    refresh()


if __name__ == "__main__":
    main()
