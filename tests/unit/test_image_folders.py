"""Images become the inputs that the formula says, numbered by their folders."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from models.builder import Net
from onnx import TensorProto
from PIL import Image

from shrinkc import ir as shrinkc_ir
from shrinkc.errors import CalibrationError, RecipeError
from shrinkc.evidence import preprocessing, sources

Model = Callable[..., ir.Model]


@pytest.fixture
def taking(saved: Callable[..., Path]) -> Model:
    """A model that takes an input of some shape and gives it back."""

    def make(shape: list[int | str], elem: int = TensorProto.FLOAT) -> ir.Model:
        net = Net()
        net.output(net.op("Identity", net.input("x", shape, elem)), elem)
        return shrinkc_ir.load(saved(net))

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


def draw(path: Path, pixels: Any, **options: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def recipe(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return str(path)


PIXELS = noise(6, 4, 3)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("unit", PIXELS / 255),
        ("raw", PIXELS.astype(float)),
        ("imagenet", (PIXELS / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("imagenet-inception", PIXELS / 127.5 - 1),
        ("imagenet-caffe", PIXELS[..., ::-1] - np.asarray([103.939, 116.779, 123.68])),
    ],
)
def test_presets_are_their_formulas(preset: str, expected: np.ndarray, taking: Model, folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png", PIXELS)
    keys = (Path(preprocessing.__file__).parent / "presets" / f"{preset}.toml").read_text().replace("crop = 0.875", "")
    for shape, axes in ((["n", 3, 6, 4], (2, 0, 1)), (["n", 6, 4, 3], (0, 1, 2)), (["n", "h", "w", 3], (0, 1, 2))):
        whole = recipe(tmp_path, "size = [6, 4]\n" + keys)
        data = sources.load(folder, taking(shape), preprocess=whole)
        np.testing.assert_allclose(data.inputs["x"][0], expected.transpose(axes), rtol=0, atol=1e-4)
        assert data.inputs["x"].dtype == np.float32
        assert data.labels is None


def test_grey_is_one_channel(taking: Model, folder: Path) -> None:
    draw(folder / "a.png", noise(6, 4))
    data = sources.load(folder, taking(["n", 1, 6, 4]), preprocess="grey")
    np.testing.assert_allclose(data.inputs["x"][0, 0], noise(6, 4) / 255, atol=1e-6)


def test_bytes_go_in_as_they_are(taking: Model, folder: Path) -> None:
    draw(folder / "a.png", PIXELS)
    model = taking(["n", 6, 4, 3], TensorProto.UINT8)
    assert np.array_equal(sources.load(folder, model, preprocess="raw").inputs["x"][0], PIXELS)
    with pytest.raises(CalibrationError, match="expected uint8, found float32"):
        sources.load(folder, model, preprocess="unit")


def test_the_middle_is_cut_out_where_the_proportions_differ(taking: Model, folder: Path, tmp_path: Path) -> None:
    wide = noise(8, 20, 3)
    draw(folder / "a.png", wide)
    model = taking(["n", 3, "h", "w"])
    keys = 'scale = 1\nlayout = "NCHW"\n'
    exact = sources.load(folder, model, preprocess=recipe(tmp_path, keys + "size = 8"))
    assert np.array_equal(exact.inputs["x"][0], wide[:, 6:14].transpose(2, 0, 1))
    cropped = sources.load(folder, model, preprocess=recipe(tmp_path, keys + "size = 6\ncrop = 0.75"))
    assert np.array_equal(cropped.inputs["x"][0], wide[1:7, 7:13].transpose(2, 0, 1))
    assert sources.load(folder, model, preprocess="imagenet").inputs["x"].shape == (1, 3, 224, 224)


def test_a_letterbox_keeps_the_proportions_and_pads(taking: Model, folder: Path, tmp_path: Path) -> None:
    draw(folder / "a.png", np.full((4, 8, 3), 200))
    path = recipe(tmp_path, 'scale = 1\nresize = "letterbox"\npad = 7')
    x = sources.load(folder, taking(["n", 3, 16, 16]), preprocess=path).inputs["x"][0, 0]
    assert (x[4:12] == 200).all()
    assert (x[:4] == 7).all()
    assert (x[12:] == 7).all()


def test_photographs_are_turned_upright(taking: Model, folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    draw(folder / "a.png", PIXELS, exif=exif)
    data = sources.load(folder, taking(["n", 4, 6, 3]), preprocess="raw")
    assert np.array_equal(data.inputs["x"][0], np.rot90(PIXELS, -1))


def test_class_folders_give_labels_in_the_order_of_their_names(taking: Model, folder: Path) -> None:
    for name, value in (("dog", 3), ("cat", 1), ("eel", 5)):
        for number in range(4):
            draw(folder / name / f"{number}.png", np.full((6, 4, 3), value))
    (folder / "cat" / "notes.txt").write_text("no image")
    data = sources.load(folder, taking(["n", 3, 6, 4]), preprocess="raw", most=6)
    assert data.inputs["x"][:, 0, 0, 0].tolist() == [1, 1, 3, 3, 5, 5]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.class_names == ("cat", "dog", "eel")


def test_folders_called_by_numbers_are_those_classes(taking: Model, folder: Path) -> None:
    for name in ("2", "10", "7"):
        draw(folder / name / "a.png", np.full((6, 4, 3), int(name)))
    data = sources.load(folder, taking(["n", 3, 6, 4]), preprocess="raw")
    assert data.labels is not None
    assert data.labels.tolist() == data.inputs["x"][:, 0, 0, 0].astype(int).tolist()
    assert data.class_names == ()


def test_one_folder_in_the_folder_is_no_class(taking: Model, folder: Path) -> None:
    draw(folder / "all" / "a.png", PIXELS)
    assert sources.load(folder, taking(["n", 3, 6, 4]), preprocess="raw").labels is None


@pytest.mark.parametrize(
    ("shape", "preprocess", "expected"),
    [
        (["n", 3, 6, 4], None, "--preprocess"),
        (["n", 1, 6, 4], "unit", "found 3 channels"),
        (["n", 12], "unit", "one input of four axes"),
        (["n", 3, 6, 4], "size = 8", "expected [samples, 3, 6, 4], found [1, 3, 8, 8]"),
    ],
)
def test_images_that_do_not_fit_the_model_are_refused(
    shape: list[int | str], preprocess: str | None, expected: str, taking: Model, folder: Path, tmp_path: Path
) -> None:
    draw(folder / "a.png", PIXELS)
    given = recipe(tmp_path, preprocess) if preprocess and "=" in preprocess else preprocess
    with pytest.raises(CalibrationError) as caught:
        sources.load(folder, taking(shape), preprocess=given)
    assert expected in str(caught.value)


def test_broken_images_and_other_depths_are_named(taking: Model, folder: Path) -> None:
    (folder / "a.png").write_bytes(b"no image")
    with pytest.raises(CalibrationError, match=r"a\.png"):
        sources.load(folder, taking(["n", 3, 6, 4]), preprocess="raw")
    Image.fromarray(np.full((6, 4), 40_000, np.uint16)).save(folder / "a.png")
    with pytest.raises(CalibrationError, match="8 bits a channel, found mode I;16"):
        sources.load(folder, taking(["n", 3, 6, 4]), preprocess="raw")


def test_loose_images_beside_class_folders_are_refused(taking: Model, folder: Path) -> None:
    draw(folder / "a.png", PIXELS)
    draw(folder / "cat" / "b.png", PIXELS)
    with pytest.raises(CalibrationError, match=r"found a\.png beside folders"):
        sources.load(folder, taking(["n", 3, 6, 4]), preprocess="raw")


def test_without_pillow_the_command_that_installs_it_is_told(
    taking: Model, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(folder / "a.png", PIXELS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CalibrationError, match=r"pip install .shrinkc\[images\]"):
        sources.load(folder, taking(["n", 3, 6, 4]), preprocess="raw")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sise = 3", "did you mean size?"),
        ("zebra = 3", "known: description, size"),
        ("size = 0", "expected a number of pixels, or [height, width], found 0"),
        ("size = [1, 2, 3]", "found [1, 2, 3]"),
        ('size = "224"', "found '224'"),
        ("size = true", "found True"),
        ('resize = "shrink"', "one of shortest, stretch, letterbox"),
        ("crop = 1.5", "at most 1, found 1.5"),
        ("pad = 3", "only with resize = 'letterbox'"),
        ('resize = "letterbox"\npad = 256', "from 0 to 255"),
        ('resize = "stretch"\ncrop = 0.5', "only with resize = 'shortest'"),
        ("scale = inf", "found inf"),
        ("mean = [1, 2]", "expected 1 or 3 for RGB, found [1, 2]"),
        ('channels = "grey"\nstd = [1, 2, 3]', "expected 1 for grey"),
        ("std = [1, 0, 1]", "above 0"),
        ("mean = []", "found []"),
        ('channels = ["RGB"]', "one of RGB, BGR, grey"),
        ("size = ", "not a TOML file"),
    ],
)
def test_mistakes_in_a_preprocessing_file_name_key_and_cure(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        preprocessing.load(recipe(tmp_path, text))
    assert expected in str(caught.value)


def test_every_preset_loads_and_an_unknown_one_lists_them() -> None:
    for name in preprocessing.presets():
        assert preprocessing.load(name).description
    with pytest.raises(RecipeError, match="presets: grey, imagenet, imagenet-caffe, imagenet-inception, raw, unit"):
        preprocessing.load("imagnet")
