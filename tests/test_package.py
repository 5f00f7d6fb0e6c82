"""What is published: the wheel holds the core, every plugin and the catalogue, and works by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_works_without_the_checkout(tmp_path: Path) -> None:
    """Installed from the wheel, all plugins are found, the catalogue is read, and nothing of the tests is in it."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    plugins = {path.name for path in (ROOT / "plugins").glob("llmx_*")}
    assert tops == {"llmx", *plugins, next(top for top in tops if top.endswith(".dist-info"))}
    assert "llmx/registry.toml" in names

    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        "import json, llmx\nfrom llmx.catalogue import read_catalogue\nfrom llmx.registry import Registry\n"
        "registry, known = Registry(), len(read_catalogue().entries)\n"
        "print(json.dumps([llmx.__file__, known, len(registry.plugins), len(registry.broken)]))"
    )
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    where, known, found, broken = json.loads(done.stdout)
    assert where.startswith(str(site))
    assert known >= found  # an extra is an entry of its own
    assert (found, broken) == (len(plugins), 0)


def test_constraints_pin_all_that_the_tests_install() -> None:
    """Whatever `pip install -e '.[test]'` brings, directly or not, has its version in constraints.txt."""
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in pins if "==" in line}
    reached, left = set(), [("llmx", "test")]
    while left:
        name, extra = left.pop()
        if (name, extra) in reached:
            continue
        reached.add((name, extra))
        for each in map(Requirement, metadata.distribution(name).requires or []):
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                left += [(canonicalize_name(each.name), wanted) for wanted in ("", *each.extras)]
    names = {name for name, _ in reached} - {"llmx"}
    assert "torch" in names
    assert names <= pinned, sorted(names - pinned)
