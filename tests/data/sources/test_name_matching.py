import pytest

from coterie.data.sources.name_matching import match_names


@pytest.mark.parametrize(
    ("wanted", "names", "images"),
    [
        (["a/1.png", "./b/1.png", "b\\1.png"], ["a/1.png", "b/1.png"], [(0,), (1,), (1,)]),  # paths below the root
        (
            ["/data/set/a/1.png", "/elsewhere/2.png"],
            ["a/1.png", "b/2.png"],
            [(0,), (1,)],
        ),  # absolute, here and elsewhere
        (
            ["set/a/1.png", "other/a/1.png"],
            ["a/1.png", "b/1.png"],
            [(0,), ()],
        ),  # the folder of the images is the first's
        (["1.png", "2"], ["a/1.png", "2.jpg"], [(0,), (1,)]),  # file name, stem
        (["1.jpg", "b/2.tif"], ["a/1.png", "a/2.png"], [(0,), (1,)]),  # another suffix
        (["1", "12", "7"], ["001.png", "012.png", "0007.png"], [(0,), (1,), (2,)]),  # numbers
        (["1", "01"], ["1.png", "01.png"], [(0,), (1,)]),  # the stem itself goes before its number
        (["x.png", "", "nan"], ["1.png"], [(), (), ()]),
        (["1.png", "1.png"], ["1.png", "1.png"], [(0, 1), (0, 1)]),  # listed twice, labeled twice
        (["u\u0308.png"], ["\xfc.png"], [(0,)]),  # composed in another way
        (["v1.5"], ["v1.5.png"], [(0,)]),  # a dot that is no suffix
        (
            ["images/1.png", "masks/1.png"],
            ["1.png"],
            [(0,), ()],
        ),  # one image is named surely, the other one is not here
    ],
)
def test_names_are_found(wanted: list[str], names: list[str], images: list[tuple[int, ...]]) -> None:
    root = "/data/images" if wanted[0].startswith("images") else "/data/set"
    found = match_names(wanted, names, root)
    assert (list(found.images), found.ambiguous) == (images, ())


def test_folders_decide_between_equal_file_names() -> None:
    names = ["x/cat/1.png", "x/dog/1.png", "y/dog/1.png"]
    assert match_names(["cat/1.png", "y/dog/1"], names).images == ((0,), (2,))


def test_ambiguous_names_are_told_with_two_of_the_images() -> None:
    found = match_names(["1.png", "dog/1", "2"], ["cat/1.png", "dog/1.png", "a/02.png", "b/2.jpg", "c/2.png"])
    assert found.images == ((), (1,), ())
    assert found.ambiguous == (("1.png", "cat/1.png", "dog/1.png"), ("2", "b/2.jpg", "c/2.png"))
