"""In a checkout the native module is built apart from the Python code, and may be behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

import thack
from thack import _thack
from thack.errors import ThackError


def test_the_module_carries_the_interface_that_it_was_built_for() -> None:
    assert Path(thack.__file__).with_name("_thack.pyi").read_text("utf-8") == _thack.INTERFACE
    assert thack.__version__ == _thack.__version__


def test_one_of_another_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (Path(thack.__file__).parents[2] / "Cargo.toml").is_file():
        pytest.skip("not a checkout: the two come together")
    monkeypatch.setattr(_thack, "INTERFACE", _thack.INTERFACE.replace("stride", "pitch"))
    with pytest.raises(ThackError, match="the native module is older than the Python code") as caught:
        thack._native()
    assert caught.value.hint == "next: make install"
    monkeypatch.delattr(_thack, "INTERFACE")
    with pytest.raises(ThackError, match="older than"):
        thack._native()
