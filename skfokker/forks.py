"""Processes that are forked off this one: torch in them works on one thread.

The threads of OpenMP do not survive a fork, but the child believes that they are there, and waits
for them for ever (https://github.com/pytorch/pytorch/issues/17199). On one thread it needs none.
"""

from __future__ import annotations

import os

import torch


def _one_thread() -> None:
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_one_thread)
