"""Lists that pickers offer, made of folders in every state."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def lists(host):
    return host.module("nodes.host.lists")


def _raise(error):
    def find():
        raise error

    return find


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied"), "permission denied"),
        (OSError(5, "Input/output error"), "input/output error"),
        (ValueError("bad"), "a file in it is damaged"),
        (RecursionError(), "a file in it is damaged"),
    ],
)
def test_a_list_that_cannot_be_made_says_so_once_in_the_log(lists, caplog, error, reason):
    place = f"some place {reason} {type(error).__name__}"
    for _ in range(3):
        assert lists.offered(place, _raise(error)) == [f"{place} cannot be read ({reason})"]
    assert lists.offered(place, _raise(error), always=["x"]) == ["x", f"{place} cannot be read ({reason})"]
    assert caplog.text.count(f"{place} cannot be read") == 1


def test_what_is_found_is_offered_and_an_empty_place_is_named(lists):
    assert lists.offered("a", lambda: ["x"], always=["y"]) == ["x", "y"]
    assert lists.offered("a", list) == ["nothing found in a"]
    assert lists.offered("a", list, hint=False) == []
    assert lists.offered("a", list, always=["y"]) == ["y"]


def test_a_file_in_the_place_of_a_folder_is_the_reason(lists, tmp_path):
    (tmp_path / "loras").write_text("")
    (offered,) = lists.offered("output/loras", list, folders=lambda: [str(tmp_path / "loras")])
    assert offered == "output/loras cannot be read (a file is in its place)"


def test_folders_are_found_though_links_lead_in_circles(lists, tmp_path):
    """Three folders that each hold links to all: followed to the end they would be more than the atoms of the earth."""
    names = ["a", "b", "c"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "index").write_text("")
    for name, to in itertools.product(names, names):
        (tmp_path / name / f"to {to}").symlink_to(tmp_path / to)
    (tmp_path / "a" / "to all").symlink_to(tmp_path)
    found = lists.folders_with("index", [str(tmp_path)])
    assert {"a", "b", "c", "a/to b", "a/to b/to c"} <= set(found) and len(found) < 40
    assert list(lists.folders_with("index", [str(tmp_path)], nested=False)) == ["a", "b", "c"]
    assert lists.folders_with("index", [str(tmp_path / "gone")]) == {}


def test_the_hosts_list_heals_when_a_folder_is_gone(host, lists):
    import folder_paths

    folder = Path(host.base) / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "passing.safetensors").write_bytes(b"")
    assert "passing.safetensors" in lists.host_files("loras")
    away = folder.rename(folder.with_name("away"))
    try:
        with pytest.raises(FileNotFoundError):
            folder_paths.get_filename_list("loras")
        assert "passing.safetensors" not in lists.host_files("loras")
        assert "passing.safetensors" not in folder_paths.get_filename_list("loras")
    finally:
        away.rename(folder)
        (folder / "passing.safetensors").unlink()


def test_links_out_of_the_input_folder_are_not_offered(host, tmp_path):
    clips, folder = host.module("nodes.host.clips"), Path(host.base) / "input"
    (tmp_path / "outside.mp4").write_bytes(b"")
    (folder / "inside.mp4").write_bytes(b"")
    (folder / "out.mp4").symlink_to(tmp_path / "outside.mp4")
    (folder / "in.mp4").symlink_to(folder / "inside.mp4")
    try:
        offered = clips.choices()
        assert {"inside.mp4", "in.mp4"} <= set(offered) and "out.mp4" not in offered
        with pytest.raises(ValueError, match="There is no clip 'out.mp4'"):
            clips.find("out.mp4")
        assert clips.find("in.mp4")
    finally:
        for name in ("inside.mp4", "out.mp4", "in.mp4"):
            (folder / name).unlink()


def test_every_list_of_a_schema_is_made_here(host, lists, monkeypatch):
    """Where nothing can be read at all, every node still has its schema."""
    import asyncio
    import os

    extension = asyncio.run(host.module("nodes").comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    for name in ("iterdir", "glob", "rglob", "is_dir", "is_file", "exists", "stat"):
        monkeypatch.setattr(Path, name, refuse)
    for name in ("scandir", "listdir", "walk"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(os.path, "getmtime", refuse)
    for node in nodes:
        assert node.define_schema().node_id
