"""In a checkout the extension is built apart from the Python code, and may be older."""

from __future__ import annotations

from pathlib import Path

import pytest

import thack
from thack import _native
from thack.errors import ThackError


def test_the_module_carries_the_interface_that_it_was_built_for() -> None:
    assert Path(thack.__file__).with_name("_thack.pyi").read_text("utf-8") == _native.INTERFACE
    assert thack.__version__ == _native.version


@pytest.mark.parametrize("interface", [_native.INTERFACE.replace("stride", "pitch"), ""])
def test_one_of_another_interface_is_refused(interface: str) -> None:
    if not (Path(thack.__file__).parents[2] / "Cargo.toml").is_file():
        pytest.skip("not a checkout: the two come together")
    with pytest.raises(ThackError, match="the native module is older than the Python code") as caught:
        _native.check_interface(interface)
    assert caught.value.hint == "next: make install"


def test_one_module_imports_the_extension() -> None:
    package = Path(thack.__file__).parent
    found = [path.name for path in package.rglob("*.py") if "_thack" in path.read_text("utf-8")]
    assert found == ["_native.py"]
