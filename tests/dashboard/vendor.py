"""`make vendor`: fetches what `VENDOR.toml` lists from its npm packages; fails where a digest differs.

With `--new` it writes the digests of what it got into the file, after a version there was changed by hand.
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

VENDOR = Path(__file__).parents[2] / "bridge/dashboard/static/vendor"


def main() -> None:
    listing = VENDOR / "VENDOR.toml"
    text = listing.read_text()
    for package in tomllib.loads(text)["package"]:
        with tempfile.TemporaryDirectory() as folder:
            wanted = f"{package['name']}@{package['version']}"
            subprocess.run(["npm", "pack", "--silent", wanted], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            (packed,) = Path(folder).glob("*.tgz")
            with tarfile.open(packed) as archive:
                for file in package["files"]:
                    member = archive.extractfile(f"package/{file['path']}")
                    assert member is not None, file["path"]
                    content = member.read()
                    digest = hashlib.sha256(content).hexdigest()
                    if digest != file["sha256"] and "--new" not in sys.argv:
                        sys.exit(f"{wanted}: {file['path']} has another digest: {digest}")
                    text = text.replace(file["sha256"], digest)
                    (VENDOR / file["name"]).write_bytes(content)
    listing.write_text(text)


if __name__ == "__main__":
    main()
