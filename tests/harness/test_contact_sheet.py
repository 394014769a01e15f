from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from harness.contact_sheet import MAX_COLUMNS, Column, contact_sheet

RED, GREEN, BLUE = (201, 11, 12), (13, 202, 14), (15, 16, 203)


def flat(color: tuple[int, int, int], size: int = 28) -> np.ndarray:
    """uint8 [3, size, size]."""
    return np.broadcast_to(np.array(color, np.uint8)[:, None, None], (3, size, size))


def draw(path: Path, *arguments: object, **options: object) -> np.ndarray:
    contact_sheet(*arguments[:1], path, "a title", **options)  # type: ignore[arg-type]
    return np.asarray(Image.open(path))


def where(sheet: np.ndarray, color: tuple[int, int, int]) -> tuple[int, int, int, int, int]:
    """(pixels, first row, last row, first column, last column) of ``color``."""
    rows, columns = np.nonzero((sheet == color).all(-1))
    return len(rows), rows.min(), rows.max(), columns.min(), columns.max()


def test_rows_are_classes_and_columns_are_trials(tmp_path: Path) -> None:
    columns: list[Column] = [("one", [[flat(RED)], [flat(GREEN)]]), ("two", [[flat(BLUE)], []])]
    sheet = draw(tmp_path / "made" / "sheet.png", columns)
    side = 84  # 28 pixels, three times
    for color in (RED, GREEN, BLUE):
        pixels, top, bottom, left, right = where(sheet, color)
        assert pixels == side**2
        assert (bottom - top, right - left) == (side - 1, side - 1)
    assert where(sheet, RED)[3] == where(sheet, GREEN)[3] < where(sheet, BLUE)[3]
    assert where(sheet, RED)[1] == where(sheet, BLUE)[1] < where(sheet, GREEN)[1]
    assert where(sheet, (238, 238, 238))[0] == side**2  # nothing kept for this class


def test_images_are_enlarged_without_smoothing(tmp_path: Path) -> None:
    digit = (load_digits().images[0] / 16).astype(np.float32)
    sheet = draw(tmp_path / "sheet.png", [("", [[digit[None]]])], class_names=[""])
    shades = np.rint(digit * 255).astype(np.uint8)
    expected = np.repeat(np.repeat(shades, 10, 0), 10, 1)
    found = [
        (row, column)
        for row in range(sheet.shape[0] - 79)
        for column in range(sheet.shape[1] - 79)
        if (sheet[row, column : column + 80, 0] == expected[0]).all()
        and (sheet[row : row + 80, column : column + 80] == expected[..., None]).all()
    ]
    assert len(found) == 1


def test_gray_colour_and_layouts_are_the_same_picture(tmp_path: Path) -> None:
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
    forms = [gray, gray[None], gray[..., None], np.stack([gray] * 3), np.stack([gray] * 3, -1), gray / 255.0]
    sheets = [draw(tmp_path / f"{number}.png", [("x", [[form]])]) for number, form in enumerate(forms)]
    for sheet in sheets[1:]:
        np.testing.assert_array_equal(sheet, sheets[0])


def test_several_images_share_a_cell(tmp_path: Path) -> None:
    four = [flat(RED), flat(GREEN), flat(BLUE), flat((90, 91, 92))]
    sheet = draw(tmp_path / "sheet.png", [("four", [four])])
    red, green, blue = where(sheet, RED), where(sheet, GREEN), where(sheet, BLUE)
    assert red[1] == green[1] < blue[1]
    assert red[3] == blue[3] < green[3]
    assert green[3] - red[4] == 3  # a seam of two pixels


def test_many_trials_are_cut_and_the_title_says_so(tmp_path: Path) -> None:
    many: list[Column] = [(f"seed={number}", [[flat(RED, 8)]]) for number in range(MAX_COLUMNS + 6)]
    sheet, all_shown = draw(tmp_path / "many.png", many), draw(tmp_path / "all.png", many[:MAX_COLUMNS])
    assert sheet.shape[1] == all_shown.shape[1]
    assert (sheet != all_shown[: sheet.shape[0]]).any()  # the title, and nothing below it
    differing = np.nonzero((sheet != all_shown).any((1, 2)))[0]
    assert differing.max() < where(sheet, RED)[1]


def test_real_images_go_first_and_apart(tmp_path: Path) -> None:
    sheet = draw(tmp_path / "sheet.png", [("made", [[flat(RED)]])], real=("real", [[flat(BLUE)]]))
    _, top, bottom, _, right = where(sheet, BLUE)
    (rule,) = np.nonzero((sheet[top : bottom + 1] == 150).all((0, 2)))[0]
    assert right < rule < where(sheet, RED)[3]


def test_long_headings_stay_in_their_columns(tmp_path: Path) -> None:
    heading = "dp_energy_guided privacy.epsilon=10 " + "x" * 60
    sheet = draw(tmp_path / "sheet.png", [("", [[flat(RED)]]), (heading, [[flat(BLUE)]]), ("", [[flat(GREEN)]])])
    _, top, _, left, _ = where(sheet, BLUE)
    ink = np.nonzero((sheet[45:top].max(-1) < 100).any(0))[0]  # below the title, above the images
    assert left - 1 <= ink.min()
    assert ink.max() < where(sheet, GREEN)[3]


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    for image, words in ((np.zeros((2, 8, 8), np.uint8), r"shape \(2, 8, 8\)"), (np.zeros((8, 8), np.int64), "int64")):
        with pytest.raises(ValueError, match=words):
            contact_sheet([("x", [[image]])], tmp_path / "sheet.png", "title")
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([("x", [[], []])], tmp_path / "sheet.png", "title")
