"""`import cmal` is the public API: quick to import, with the model behind two names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cmal


def test_importing_cmal_loads_the_version_alone():
    code = "import sys, cmal; print([m for m in sys.modules if m in ('torch', 'numpy') or m.startswith('cmal.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['cmal.io', 'cmal.io.version']"


def test_the_model_class_and_its_loader_are_attributes_of_cmal():
    from cmal.hub.model import CmalModel

    assert cmal.CmalModel is CmalModel
    assert cmal.load == CmalModel.from_pretrained
    assert set(cmal.__all__) <= set(dir(cmal))


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'cmal' has no attribute 'lod'"):
        _ = cmal.lod
    assert not hasattr(cmal, "pretrain")
