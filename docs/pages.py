"""Pages of the documentation that are made from other files of the repository when it is built."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
COPIES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README as the first page, the other pages of the project, and all settings."""
    for source, target in COPIES.items():
        text = _relinked((ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, target, content=text))
    files.append(File.generated(config, "settings.md", content=settings_page()))
    return files


def settings_page() -> str:
    """Return every property file of this package, with its comments, as one page."""
    folder = ROOT / "properties"
    parts = ["# Settings\n\nEvery setting with its default. A later layer wins: `overall.yaml`, "]
    parts.append("`generative.yaml`, the model, the data set, the recipe, then your own.\n")
    for file in sorted(folder.rglob("*.yaml"), key=lambda file: (len(file.parts), file)):
        if file.name != "sources.yaml":
            name, text = file.relative_to(folder), file.read_text(encoding="utf-8")
            parts.append(f"\n## {name}\n\n```yaml\n{text.rstrip()}\n```\n")
    return "".join(parts)


def _relinked(text: str) -> str:
    """Links from the root of the repository to pages of the site; links to other files as text."""

    def replace(match: re.Match[str]) -> str:
        label, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        if target in COPIES:
            return f"[{label}]({COPIES[target]}{anchor})"
        if target.startswith("docs/"):
            return f"[{label}]({target.removeprefix('docs/')}{anchor})"
        return label

    return _LINK.sub(replace, text)
