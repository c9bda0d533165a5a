"""Printed hints name the called program."""

from __future__ import annotations

import sys

import pytest

from stacked_ram.runtime.program import program


@pytest.mark.parametrize(
    ("called", "train", "draw"),
    [
        ("main.py", "main.py", "viz.py"),
        ("/clone/main.py", "/clone/main.py", "/clone/viz.py"),
        ("../prepare_data.py", "../main.py", "../viz.py"),
        ("notebook.py", "main.py", "viz.py"),
    ],
)
def test_a_script_names_the_other_scripts(called, train, draw, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert (program(), program("viz")) == (f"python3 {train}", f"python3 {draw}")


def test_an_installed_command_names_the_installed_ones(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/stacked-ram-viz"])
    assert (program(), program("prepare")) == ("stacked-ram", "stacked-ram-prepare")
