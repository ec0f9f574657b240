"""What others wrote is what `VENDOR.toml` says it is; what is ours is small."""

from __future__ import annotations

import hashlib
import tomllib

from tests.dashboard.vendor import VENDOR

STATIC = VENDOR.parent


def test_vendored_files_are_those_of_the_list() -> None:
    """Byte for byte, none missing and none besides, each package with its licence beside it."""
    packages = tomllib.loads((VENDOR / "VENDOR.toml").read_text())["package"]
    listed = {file["name"]: file["sha256"] for package in packages for file in package["files"]}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.iterdir()}
    del found["VENDOR.toml"]
    assert found == listed
    for package in packages:
        assert any(file["name"].endswith(".LICENSE") for file in package["files"])
        assert package["licence"] in ("0BSD", "MIT")


def test_the_sheet_and_the_script_are_small_and_load_nothing_of_others() -> None:
    sheet, script = ((STATIC / f"dashboard.{kind}").read_text() for kind in ("css", "js"))
    assert len(sheet.splitlines()) <= 200 and "light-dark(" in sheet and "color-scheme: light dark" in sheet
    assert len(script.splitlines()) <= 100
    for text in (sheet, script):
        assert "http:" not in text and "https:" not in text and "@import" not in text
    assert not [word for word in ("innerHTML", "insertAdjacentHTML", "eval(", "new Function") if word in script]
