"""Names of new files: what a user may type, and the file it gives."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("motion", "motion"),
        ("run/", "run"),
        ("run//", "run"),
        ("sub/.", "sub"),
        ("./a/./b", "a/b"),
        ("a/../b", "b"),
        ("a\\b", "a/b"),
        (" a / b ", "a/b"),
        ("name.", "name"),
        ("v1.5 . ", "v1.5"),
        ("...", None),
        ("", None),
        (" ", None),
        ("a/..", None),
        ("..", None),
        ("a/../../b", None),
        ("/a", None),
        ("\\a", None),
        ("C:\\a", None),
        ("CON", None),
        ("sub/Lpt1.x", None),
        ("console", "console"),
        ("a\nb", None),
        ("a?b", None),
        ("日本語", "日本語"),
        ("日" * 61, None),
    ],
)
def test_prefixes_become_names_that_every_system_takes(host, typed, name):
    paths = host.module("nodes.host.paths")
    if name is None:
        with pytest.raises(ValueError, match="prefix") as found:
            paths.clean_prefix(typed)
        assert "\n" not in str(found.value) and len(str(found.value)) < 200
    else:
        assert paths.clean_prefix(typed) == name


def test_new_names_pass_over_what_is_there_in_any_case(host, monkeypatch):
    paths = host.module("nodes.host.paths")
    first = next(paths.new_loras("taken"))
    assert first.name == "taken_00001_.safetensors"
    first.touch()
    # Where upper and lower case are one, this is how a file of the other spelling shows.
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.name == "taken_00002_.safetensors" or exists(path))
    assert [path.name for path in islice(paths.new_loras("taken"), 2)] == [
        "taken_00003_.safetensors",
        "taken_00004_.safetensors",
    ]


def test_the_hosts_words_for_the_date_stay(host):
    (path,) = islice(host.module("nodes.host.paths").new_loras("%year%/motion"), 1)
    assert path.parent.name.isdigit() and path.name == "motion_00001_.safetensors"
