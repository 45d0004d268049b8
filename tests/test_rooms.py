"""If these fail, an import climbs to a higher room of dmpo/ or runs in a circle, or the README has an old map."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType

import pytest

from tests.markdown import ROOT


def load_rooms() -> ModuleType:
    """.ci/rooms.py, which is no package."""
    spec = importlib.util.spec_from_file_location("rooms", ROOT / ".ci" / "rooms.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rooms = load_rooms()


def test_imports_go_down_only() -> None:
    assert rooms.upward(rooms.read_imports()) == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert rooms.circles(rooms.read_imports()) == []


def test_every_room_is_there_and_has_its_place() -> None:
    assert {rooms.room_of(module) for module in rooms.read_imports()} == set(rooms.ROOMS)


def test_the_top_of_the_package_stays_small() -> None:
    top = [path for path in (ROOT / "dmpo").iterdir() if not path.is_symlink() and path.name != "__pycache__"]
    assert len([path for path in top if path.is_dir()]) <= 15
    assert len([path for path in top if path.suffix == ".py"]) <= 6


def test_the_map_is_drawn_from_the_code() -> None:
    drawn = (ROOT / "docs" / "map.svg").read_text(encoding="utf-8")
    assert drawn == rooms.draw(rooms.read_imports()), "run: python .ci/rooms.py --draw docs/map.svg"


def test_no_test_module_imports_another() -> None:
    """What two of them need stands in a file of its own: one may then be run, moved or changed without the other."""
    pattern = re.compile(r"^\s*(from \S*\btest_|(from \S+ )?import (.*\b)?test_)", re.MULTILINE)
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert len(files) > 100
    assert [path for path in files if pattern.search(path.read_text(encoding="utf-8"))] == []


def test_an_import_that_climbs_is_named() -> None:
    imports = {"dmpo.losses.wdce": {"dmpo.config.keys"}, "dmpo.config.keys": set(), "dmpo.new": {"dmpo.kernels"}}
    assert rooms.upward(imports) == [
        "dmpo.losses.wdce imports dmpo.config.keys: config stands above losses",
        "dmpo.new imports dmpo.kernels: new is no room; add it to ROOMS in .ci/rooms.py",
    ]


@pytest.mark.parametrize("length", [2, 3])
def test_a_circle_is_named(length: int) -> None:
    ring = [f"dmpo.run.{name}" for name in "abc"[:length]]
    imports = {module: {ring[(number + 1) % length]} for number, module in enumerate(ring)}
    assert rooms.circles(imports) == [" imports ".join([*ring, ring[0]])]


def test_imports_of_every_form_are_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    package = tmp_path / "dmpo"
    (package / "run").mkdir(parents=True)
    (tmp_path / "kernels").mkdir()
    files = {
        "__init__.py": "",
        "trainer.py": "from .run import lock\nfrom .run.folder import make\nimport dmpo.kernels\n",
        "run/__init__.py": "",
        "run/lock.py": "def late():\n    from ..trainer import x\n",
        "run/folder.py": "from dmpo.run import lock, absent\n",
    }
    for name, text in files.items():
        (package / name).write_text(text)
    (tmp_path / "kernels" / "__init__.py").write_text("from .launch import path\n")
    assert rooms.read_imports(tmp_path) == {
        "dmpo.trainer": {"dmpo.run.lock", "dmpo.run.folder", "dmpo.kernels"},
        "dmpo.run": set(),
        "dmpo.run.lock": {"dmpo.trainer"},
        "dmpo.run.folder": {"dmpo.run.lock", "dmpo.run"},
        "dmpo.kernels": set(),
    }
