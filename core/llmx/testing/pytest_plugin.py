"""The conformance kit in pytest: a test marked with the name of a plugin runs once for each of its checks.

@pytest.mark.llmx_plugin("llmx-lion")
def test_conforms(llmx_check):
    llmx_check()
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from llmx.recipe import Part
    from llmx.testing.frame import Check

MARK = "llmx_plugin(name, options={}): run the conformance suite of every part of a plugin, with options by part name"


CALLED = pytest.StashKey[bool]()
"""Of a test that takes `llmx_check`: whether it has called it."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARK)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each check of each part that the mark names."""
    if "llmx_check" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("llmx_plugin")
    if mark is None:
        raise pytest.UsageError(f'{metafunc.definition.nodeid}: mark it with @pytest.mark.llmx_plugin("NAME")')
    pairs = _checks(*mark.args, **mark.kwargs)
    ids = [f"{part.kind}-{part.offer.component.name}-{check.name}" for part, check in pairs]
    metafunc.parametrize("llmx_check", pairs, ids=ids, indirect=True)


def _checks(name: str, options: dict[str, dict[str, object]] | None = None) -> list[tuple[Part, Check]]:
    from llmx.registry import Registry
    from llmx.testing.frame import parts_of, suite

    return [(part, check) for part in parts_of(name, Registry(), options or {}) for check in suite(part.kind)]


@pytest.fixture
def llmx_check(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], None]:
    """Do one check; call it in the test, which fails if it does not."""
    from llmx.testing.frame import Subject, run_check

    part, check = request.param
    request.node.stash[CALLED] = False

    def do() -> None:
        request.node.stash[CALLED] = True
        result = run_check(check, Subject(part, tmp_path))
        if result.status == "skipped":
            pytest.skip(result.message)
        if result.status == "failed":
            pytest.fail(f"{result.component}: {result.promise}\n{result.message}", pytrace=False)

    return do


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a test that would pass without having done its check; one that is skipped or fails by itself stays so."""
    result = yield
    if not pyfuncitem.stash.get(CALLED, True):
        pytest.fail("the test takes llmx_check and never calls it: nothing was checked", pytrace=False)
    return result
