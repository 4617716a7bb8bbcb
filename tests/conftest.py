"""Shared by every test directory: makes tests/ importable (checkpoints.py, reference_model.py)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
