"""A fresh deployment for each test."""

from __future__ import annotations

from tests.harness import bench

__all__ = ["bench"]
