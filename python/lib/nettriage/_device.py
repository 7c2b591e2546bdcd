"""Devices: what networks run on."""

from __future__ import annotations

import importlib.util
from typing import Any


def options(device: str, precision: str) -> dict[str, Any]:
    """A device as the binding takes it, with the PyTorch of this interpreter."""
    spec = importlib.util.find_spec("torch") if device.startswith("torch:") else None
    places = None if spec is None else spec.submodule_search_locations
    return {"device": device, "precision": precision, "torch": places[0] if places else None}
