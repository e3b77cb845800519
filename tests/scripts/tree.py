"""The files of the source tree, for the scripts that judge it: what git tracks, or, in an unpacked archive, everything
but build directories."""

import pathlib
import subprocess


def tracked_files(root: pathlib.Path) -> list[pathlib.Path]:
    """Paths relative to `root`, sorted, files that exist only."""
    listing = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, check=False) if (root / ".git").exists() else None
    if listing is not None and listing.returncode == 0:
        names = [pathlib.Path(name) for name in listing.stdout.decode().split("\0") if name]
    else:
        names = [path.relative_to(root) for path in root.rglob("*")]
        names = [name for name in names
                 if not name.parts[0].startswith(("build", ".git", ".venv")) and "__pycache__" not in name.parts]
    return sorted(name for name in names if (root / name).is_file())
