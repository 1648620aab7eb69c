"""Which files the commands take: images that files, folders and patterns stand for, and lists of class names."""

import argparse
import os
import pathlib
import shutil

import PIL.Image
import pytest

from sfocus_tf import commands
from sfocus_tf.data.patterns import images_named


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Images, hidden and stray ones beside them, and circles of links."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "a.jpg", "inner/b.PNG", "inner/deep/c.jpg", ".hidden.jpg", "._a.jpg", ".ipynb_checkpoints/a.jpg",
        "inner/@eaDir/b.jpg", "__MACOSX/a.jpg", "x.jpg/d.jpg", "out/figure.png",
    ):  # fmt: skip
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 8)).save(path)
    (tmp_path / "set" / "notes.txt").write_text("no image")
    (tmp_path / "set" / "inner" / "up").symlink_to("..")
    (tmp_path / "set" / "inner" / "again").symlink_to("../inner")
    (tmp_path / "set" / "gone.jpg").symlink_to("nowhere")
    return tmp_path / "set"


def files(*given):
    found = images_named(list(given), leave_out=pathlib.Path("set/out").resolve())
    return [str(path) for path in found]


ALL = ["set/a.jpg", "set/inner/b.PNG", "set/inner/deep/c.jpg", "set/x.jpg/d.jpg"]


def test_a_folder_stands_for_its_images(folder):
    assert files("set") == ALL
    assert files("set/x.jpg") == ["set/x.jpg/d.jpg"]
    os.chdir(folder)
    assert [str(path) for path in images_named(["."], leave_out=folder / "out")] == [name[4:] for name in ALL]


def test_what_the_user_names_is_taken(folder):
    assert files("set/.hidden.jpg", "set/notes.txt") == ["set/.hidden.jpg", "set/notes.txt"]
    assert files("set/.ipynb_checkpoints") == ["set/.ipynb_checkpoints/a.jpg"]
    assert files("set/__MACOSX") == files("set/__MACOSX/*.jpg") == ["set/__MACOSX/a.jpg"]
    assert files("set/.h*.jpg") == ["set/.hidden.jpg"]
    folder.rename(folder.parent / ".set")
    assert len(files(".set")) == len(ALL) + 1  # with `out`, which is elsewhere now


def test_a_pattern_stands_for_the_images_it_matches(folder):
    assert files("set/*.jpg") == ["set/a.jpg"]
    assert files("set/*/*.jpg") == ["set/x.jpg/d.jpg"]
    assert files("set/inner/*/*.jpg") == ["set/inner/deep/c.jpg", "set/inner/up/a.jpg"]
    assert files("set/**/*.jpg") == [ALL[0], *ALL[2:]]
    assert files("set/**") == files("**/*.*") == ALL
    assert files("s*/**/inner/**/[bc].*") == ["set/inner/b.PNG", "set/inner/deep/c.jpg"]
    assert files("set/**/deep/c.jpg") == ["set/inner/deep/c.jpg"]


@pytest.mark.parametrize("given", ["set/*.gif", "set/**/*.gif", "set/gone.jpg", "nowhere", "nowhere/**/*.jpg"])
def test_what_stands_for_no_image_is_named(given, folder):
    with pytest.raises(FileNotFoundError, match="IMAGE='.*': no image there"):
        files(given)


@pytest.mark.parametrize("given", ["set/caf\udce9.jpg", "set", "set/*.jpg", "set/**/*.jpg"])
def test_names_that_are_not_utf8_are_shown(given, folder):
    shutil.copy(folder / "a.jpg", folder / "caf\udce9.jpg")
    with pytest.raises(ValueError, match=r"the name of .*set/caf\\xe9.jpg is not UTF-8: rename it"):
        files(given)


def class_names(path, classes):
    return commands._class_names(argparse.Namespace(class_names=str(path)), None, classes)


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfcat\r\ndog\r\n\r\n", b"cat\ndog", b"cat\ndog\n\n \n", b"cat\rdog\r"])
def test_class_names_as_any_editor_saves_them(content, tmp_path):
    (tmp_path / "names.txt").write_bytes(content)
    assert class_names(tmp_path / "names.txt", 2) == ("cat", "dog")


def test_class_names_that_cannot_be_used(tmp_path):
    path = tmp_path / "names.txt"
    for content in ("café\ndog\n".encode("latin-1"), "cat\ndog\n".encode("utf-16")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="--class_names: .*names.txt is not UTF-8"):
            class_names(path, 2)
    path.write_text("cat\n\ndog\n")
    with pytest.raises(ValueError, match="--class_names='.*names.txt': line 2 is blank"):
        class_names(path, 3)
    path.write_text("cat\ndog\n")
    with pytest.raises(ValueError, match="2 lines for 3 classes"):
        class_names(path, 3)
