"""What is data below a folder and what is not: hidden files, those of systems, links, names, other people's lists."""

import os
import pathlib
import shutil

import PIL.Image
import pytest

from sfocus_tf import data
from sfocus_tf.data.files import text_lines
from sfocus_tf.data.listing import folders_in, images_below
from tests import archives

HIDDEN = (".ipynb_checkpoints", ".thumbnails", ".git", "...")
STRAY = (
    "__MACOSX", "@eaDir", "@EADIR", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__",
    "Thumbs.db", "thumbs.db", "desktop.ini", "Desktop.ini", "#recycle", "LOST.DIR", "FOUND.000", "@sharebin",
)  # fmt: skip


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (8, 8)).save(path, "PNG")
    return path


def names(folder):
    return [os.path.relpath(path, folder) for path in images_below(folder)]


@pytest.fixture
def class_folders(tmp_path):
    """Two images a class, in a data folder that is hidden itself, below another."""
    root = tmp_path / ".cache" / ".set"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for number in (1, 2):
                image(root / split / name / f"{number}.jpg")
    return root


def files_of(root, split="train"):
    source = data.load("folder", split, data_dir=root).source
    return [os.path.relpath(path, root / split) for path in source.files], source.class_names


WITHOUT_STRAYS = (["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"], ("cat", "dog"))


@pytest.mark.parametrize("name", HIDDEN + STRAY)
def test_hidden_and_stray_folders_are_no_data_at_any_depth(name, class_folders):
    for split in ("train", "test"):
        image(class_folders / split / name / "1.jpg")
        image(class_folders / split / "cat" / name / "1.jpg")
        image(class_folders / split / "cat" / name / "inner" / "1.jpg")
        image(class_folders / split / "dog" / "inner" / name / "1.jpg")
    image(class_folders / name / "cat" / "1.jpg")
    assert files_of(class_folders) == files_of(class_folders, "test") == WITHOUT_STRAYS
    # Yet with another name they are.
    (class_folders / "train" / "cat" / name).rename(class_folders / "train" / "cat" / "more")
    assert files_of(class_folders)[0][2:4] == ["cat/more/1.jpg", "cat/more/inner/1.jpg"]


def test_hidden_and_stray_files_are_no_data(class_folders):
    cat = class_folders / "train" / "cat"
    for name in ("._1.jpg", ".jpg", ".hidden.png", "Thumbs.db", "desktop.ini", ".DS_Store", "notes.txt"):
        (cat / name).write_bytes(b"no image")
        (class_folders / "train" / name).write_bytes(b"no image")
    assert files_of(class_folders) == WITHOUT_STRAYS


@pytest.mark.parametrize("name", ["recycled", "Recycler", "recycle", "trash", "thumbs", "desktop"])
def test_classes_of_names_like_those_of_systems_are_kept(name, class_folders):
    for split in ("train", "test"):
        image(class_folders / split / name / "1.jpg")
    files, class_names = files_of(class_folders)
    assert f"{name}/1.jpg" in files and len(files) == 5 and set(class_names) == {"cat", "dog", name}


def test_a_folder_called_like_an_image_is_a_folder(class_folders):
    image(class_folders / "train" / "cat" / "x.jpg" / "3.png")
    (class_folders / "train" / "dog" / "empty.png").mkdir()
    assert files_of(class_folders)[0] == ["cat/1.jpg", "cat/2.jpg", "cat/x.jpg/3.png", "dog/1.jpg", "dog/2.jpg"]


def test_links_to_folders_and_files_are_followed(class_folders, tmp_path):
    image(tmp_path / "elsewhere" / "inner" / "3.jpg")
    cat = class_folders / "train" / "cat"
    (cat / "more").symlink_to(tmp_path / "elsewhere")
    (cat / "4.jpg").symlink_to(tmp_path / "elsewhere" / "inner" / "3.jpg")
    (class_folders / "train" / "eel").symlink_to(tmp_path / "elsewhere")
    (class_folders / "test" / "eel").symlink_to(tmp_path / "elsewhere")
    files, class_names = files_of(class_folders)
    assert files == ["cat/1.jpg", "cat/2.jpg", "cat/4.jpg", "cat/more/inner/3.jpg"] + WITHOUT_STRAYS[0][2:] + [
        "eel/inner/3.jpg"
    ]
    assert class_names == ("cat", "dog", "eel")


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "inner", "nowhere", "loop", "/"])
def test_links_in_circles_or_to_nowhere_are_left_out(target, class_folders):
    cat = class_folders / "train" / "cat"
    image(cat / "inner" / "3.jpg")
    (cat / "loop").symlink_to(target)
    (cat / "inner" / "loop").symlink_to(cat)
    (cat / "loop.jpg").symlink_to(target)
    (class_folders / "train" / "up").symlink_to("..")
    files, class_names = files_of(class_folders)
    assert files == ["cat/1.jpg", "cat/2.jpg", "cat/inner/3.jpg", "dog/1.jpg", "dog/2.jpg"]
    assert class_names == ("cat", "dog")


def test_each_real_folder_is_read_once(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    image(one / "1.jpg")
    image(other / "2.jpg")
    (one / "to").symlink_to(other)
    (other / "back").symlink_to(one)
    (one / "again").symlink_to(other)
    assert names(one) == ["1.jpg", "again/2.jpg"] and names(other) == ["2.jpg", "back/1.jpg"]
    # The folder itself comes before a link to it.
    image(one / "z" / "3.jpg")
    (one / "a").symlink_to("z")
    assert names(one) == ["1.jpg", "again/2.jpg", "z/3.jpg"]
    assert [folder.name for folder in folders_in(one)] == ["a", "again", "to", "z"]


def test_a_link_does_not_lead_above_a_folder_that_another_link_led_to(tmp_path):
    """Else `cat` would have the images of `dog`."""
    image(tmp_path / "set" / "cat" / "1.jpg")
    image(tmp_path / "set" / "dog" / "2.jpg")
    image(tmp_path / "far" / "away" / "3.jpg")
    image(tmp_path / "far" / "4.jpg")
    (tmp_path / "set" / "cat" / "link").symlink_to(tmp_path / "far" / "away")
    (tmp_path / "far" / "away" / "back").symlink_to(tmp_path / "set")
    (tmp_path / "far" / "away" / "up").symlink_to(tmp_path / "far")
    assert names(tmp_path / "set" / "cat") == ["1.jpg", "link/3.jpg"]


def not_utf8(path):
    """A name in Latin-1."""
    return pathlib.Path(os.fsdecode(os.fsencode(path) + b"/caf\xe9"))


@pytest.mark.parametrize("place", ["file", "folder", "class", "root"])
def test_names_that_are_not_utf8_are_shown(place, class_folders):
    if place == "file":
        shutil.copy(class_folders / "train/cat/1.jpg", f"{not_utf8(class_folders / 'train/cat')}.jpg")
    elif place == "folder":
        image(not_utf8(class_folders / "train" / "cat") / "1.jpg")
    elif place == "class":
        image(not_utf8(class_folders / "train") / "1.jpg")
    else:
        class_folders.rename(not_utf8(class_folders.parent))
        class_folders = not_utf8(class_folders.parent)
    with pytest.raises(ValueError, match=r"the name of .*caf\\xe9.* is not UTF-8: rename it"):
        data.load("folder", "train", data_dir=class_folders)


def test_names_beyond_ascii_are_read_and_other_files_may_have_any_name(class_folders):
    image(class_folders / "train" / "cat" / "café 猫.jpg")
    (pathlib.Path(f"{not_utf8(class_folders / 'train' / 'cat')}.txt")).write_text("no image")
    assert files_of(class_folders)[0][2] == "cat/café 猫.jpg"


def test_stray_files_in_the_layouts_of_archives(tmp_path):
    archives.caltech256(tmp_path / "caltech")
    folder = tmp_path / "caltech" / "256_ObjectCategories"
    image(folder / "001.ak47" / "._001_0001.jpg")
    (folder / "001.ak47" / "folder.jpg").mkdir()
    (folder / "002.american-flag").write_text("no folder")
    assert data.load("caltech256", "train", data_dir=tmp_path / "caltech").source.size == 120
    assert data.load("caltech256", "test", data_dir=tmp_path / "caltech").source.size == 6

    archives.imagenet(tmp_path / "imagenet")
    for split in ("train", "val"):
        image(tmp_path / "imagenet" / split / "n01440764" / ".thumbs" / "1.JPEG")
        image(tmp_path / "imagenet" / split / "@eaDir" / "n01440764" / "1.JPEG")
        image(tmp_path / "imagenet" / split / "n01443537" / "._n01443537_0.JPEG")
    for split in ("train", "test"):
        source = data.load("ilsvrc2012", split, data_dir=tmp_path / "imagenet").source
        assert source.size == 4 and source.class_names == ("n01440764", "n01443537")


def as_notepad_saves_it(path):
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")


def test_lists_with_a_byte_order_mark_and_other_line_ends(tmp_path):
    archives.cub(tmp_path / "cub")
    archives.voc(tmp_path / "voc")
    for path in (tmp_path / "cub").rglob("*.txt"):
        as_notepad_saves_it(path)
    for path in (tmp_path / "voc").rglob("*.txt"):
        as_notepad_saves_it(path)
    cub = data.load("cub200", "train", data_dir=tmp_path / "cub").source
    assert [os.path.basename(path) for path in cub.files] == ["1.jpg", "3.jpg"] and cub.class_names == ("Wren", "Crow")
    voc = data.load("voc2012", "test", data_dir=tmp_path / "voc").source
    assert [os.path.basename(path) for path in voc.files] == ["val_0.jpg"]


@pytest.mark.parametrize("content", ["café\n".encode("latin-1"), "cat\n".encode("utf-16")])
def test_lists_that_are_not_utf8_are_named(content, tmp_path):
    archives.cub(tmp_path / "cub")
    archives.voc(tmp_path / "voc")
    for path in (tmp_path / "cub/CUB_200_2011/classes.txt", tmp_path / "voc/VOCdevkit/VOC2012/ImageSets/Main/val.txt"):
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"data_dir: .*classes.txt is not UTF-8 \(at byte [03]\): save it as UTF-8"):
        data.load("cub200", "train", data_dir=tmp_path / "cub")
    with pytest.raises(ValueError, match="data_dir: .*val.txt is not UTF-8"):
        data.load("voc2012", "test", data_dir=tmp_path / "voc")


def test_lines_of_a_text_file(tmp_path):
    path = tmp_path / "names.txt"
    for content, lines in (
        (b"\xef\xbb\xbfcat\r\n\r\ndog \r\n\r\n \r\n", ["cat", "", "dog"]),
        ("café\u2028x\n".encode(), ["café\u2028x"]),
        (b"cat\rdog", ["cat", "dog"]),
        (b"\xef\xbb\xbf\r\n", []),
        (b"", []),
    ):
        path.write_bytes(content)
        assert text_lines("--names", path) == lines
