import unicodedata
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrdist.run.lung_apply import TABLE, mask_names

PARTS = st.sampled_from(["x", "X", "x.png", "x.jpg", "x.JPG", "x.png.png", "é.png", "é.png", TABLE, "1.2.3", "1.2.4"])
PATHS = st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), unique=True, max_size=12)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.jpg", "b/x.jpg", "y.dcm"], ["a/x.png", "b/x.png", "y.png"]),
        (["x.png", "x.jpg", "y.jpg"], ["x.png.png", "x.jpg.png", "y.png"]),
        (["1.2.840.1", "1.2.840.2"], ["1.2.840.1.png", "1.2.840.2.png"]),
        (["noext", "Dr. Who.left"], ["noext.png", "Dr. Who.png"]),
        (["x.png", "x.jpg", "x.jpg.dcm"], ["x.png.png", None, None]),
    ],
)
def test_a_mask_is_called_as_its_image_and_by_its_whole_name_where_that_is_another_ones_too(paths, names):
    for found, name in zip(mask_names(paths), names, strict=True):
        assert found == name or (name is None and found.endswith(".png"))


@given(PATHS)
def test_no_two_masks_share_a_name_whatever_images_are_called_and_whatever_the_file_system_tells_apart(paths):
    keys = [unicodedata.normalize("NFC", name).casefold() for name in mask_names(paths)]
    assert len(set(keys)) == len(paths)
    folders = {str(parent) for key in keys for parent in PurePosixPath(key).parents}
    assert not folders.intersection([*keys, TABLE])
    assert TABLE not in keys
    assert all(key.endswith(".png") for key in keys)


@given(PATHS, st.randoms())
def test_the_name_of_a_mask_does_not_depend_on_the_order_of_images(paths, random):
    shuffled = random.sample(paths, len(paths))
    assert dict(zip(paths, mask_names(paths), strict=True)) == dict(zip(shuffled, mask_names(shuffled), strict=True))
