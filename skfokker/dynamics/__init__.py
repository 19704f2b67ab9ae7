"""Equations beyond a potential: any drift, diffusion and interaction."""

from __future__ import annotations

from .equation import Equation

__all__ = ["Equation"]
