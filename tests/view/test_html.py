"""Pages hold what they were given, say what they left out, fetch nothing, and work in a browser."""

import base64
import html
import io
import json
import re
import sys
import time

import numpy as np
import pytest
import trimesh
from chromium import Browser, chromium
from PIL import Image as Picture

import zoo
from zoo.data.image import Image
from zoo.geometry import Grid
from zoo.transform import Affine, Dense
from zoo.view import page_shapes, page_slices
from zoo.view.html import cloud_page, image_page, pair_page, path_page, surface_page
from zoo.view.images import intensity_window
from zoo.view.page import compact
from zoo.view.page_shapes import clustered

BALL = trimesh.creation.icosphere(2)
SHIFT = Affine(np.eye(3), [0.25, 0.0, -0.5])  # pulls; it moves points the other way


# What is in a page


def contents(page) -> tuple[list, dict, list]:
    """Traces, layout and frames, as the page hands them to plotly, numbers as arrays."""
    text = page.html()
    decoder, found = json.JSONDecoder(object_hook=unpacked), []
    at = re.search(r'Plotly\.newPlot\(\s*"figure",\s*', text).end()
    for _ in range(2):
        part, at = decoder.raw_decode(text, at)
        found.append(part)
        at = re.compile(r"\s*,\s*").match(text, at).end()
    frames = re.search(r"Plotly\.addFrames\('figure', ", text[at:])
    shown = decoder.raw_decode(text, at + frames.end())[0] if frames else []
    return (*found, shown)


def unpacked(part: dict):
    """An array of plotly's `bdata`, other objects as they are."""
    if "bdata" not in part:
        return part
    values = np.frombuffer(base64.b64decode(part["bdata"]), np.dtype(part["dtype"]))
    return values.reshape([int(n) for n in part.get("shape", "-1").split(",")])


def points_of(trace: dict) -> np.ndarray:
    return np.stack([trace[axis] for axis in "xyz" if axis in trace], axis=1)


def faces_of(trace: dict) -> np.ndarray:
    return np.stack([trace[side] for side in "ijk"], axis=1)


def picture_of(trace: dict) -> np.ndarray:
    head, data = trace["source"].split(",")
    assert head == "data:image/png;base64"
    picture = Picture.open(io.BytesIO(base64.b64decode(data)))
    return np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)


def by_name(traces: list) -> dict:
    return {trace.get("name"): trace for trace in traces}


def meshes() -> zoo.Pair:
    fixed = zoo.Scan(BALL.vertices, faces=BALL.faces)
    return zoo.Pair(fixed, zoo.Scan(1.5 * BALL.vertices, faces=BALL.faces), name="balls")


def images(shape=(20, 14), direction=None, channels=1) -> zoo.Pair:
    """Noise, so that every pixel is known by its value."""
    draws = np.random.default_rng(0).uniform(size=(2, *shape, channels))
    grid = Grid(shape, np.arange(1.0, 1.0 + len(shape)), direction=direction)
    return zoo.Pair(Image(draws[0], grid, "a"), Image(draws[1], grid, "b"))


def bent(pair: zoo.Pair, size: float = 0.8) -> Dense:
    field = size * np.random.default_rng(1).normal(size=(*pair.fixed.shape, pair.rank))
    return Dense(field, pair.fixed.grid)


# Shapes


def test_a_surface_is_in_its_page():
    page = surface_page({"ball": BALL, "</script><b>&": BALL}, points=BALL.vertices[:50])
    traces, layout, frames = contents(page)
    assert [trace["name"] for trace in traces] == ["ball", "</script><b>&", "scan"] and not frames
    np.testing.assert_allclose(points_of(traces[0]), BALL.vertices, atol=1e-6)
    np.testing.assert_array_equal(faces_of(traces[0]), BALL.faces)
    np.testing.assert_allclose(points_of(traces[2]), BALL.vertices[:50], atol=1e-6)
    ratio = layout["scene"]["aspectratio"]
    ranges = {axis: np.ptp(layout["scene"][f"{axis}axis"]["range"]) for axis in "xyz"}
    scales = [ratio[axis] / ranges[axis] for axis in "xyz"]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-6)
    assert all(trace["showlegend"] for trace in traces)


def test_a_mesh_without_faces_is_a_cloud():
    bare = trimesh.Trimesh(BALL.vertices, np.zeros((0, 3), int), process=False)
    assert contents(surface_page({"bare": bare}))[0][0]["type"] == "scatter3d"


def test_moved_meshes_are_coloured_by_displacement_and_go_back():
    pair = meshes()
    traces, layout, frames = contents(cloud_page(pair, SHIFT))
    named = by_name(traces)
    assert list(named) == ["fixed", "moving", "moved"]
    moving = pair.moving.points
    moved = SHIFT.move(moving)
    np.testing.assert_allclose(points_of(named["fixed"]), pair.fixed.points, atol=1e-6)
    np.testing.assert_allclose(points_of(named["moved"]), moved, atol=1e-6)
    np.testing.assert_array_equal(faces_of(named["moved"]), BALL.faces)
    length = np.linalg.norm([0.25, 0.5])
    np.testing.assert_allclose(named["moved"]["intensity"], length, rtol=1e-5)
    assert named["moving"]["visible"] == "legendonly"
    assert [step["label"] for step in layout["sliders"][0]["steps"]] == [
        frame["name"] for frame in frames
    ]
    for frame, time_ in zip(frames, np.linspace(0, 1, len(frames)), strict=True):
        assert frame["traces"] == [2]
        expected = moving + time_ * (moved - moving)
        np.testing.assert_allclose(points_of(frame["data"][0]), expected, atol=1e-6)


def test_without_a_transform_nothing_slides():
    traces, layout, frames = contents(cloud_page(meshes()))
    assert [trace["name"] for trace in traces] == ["fixed", "moving"]
    assert "sliders" not in layout and not frames


def test_clouds_in_the_plane_keep_their_shape():
    points = np.random.default_rng(0).normal(size=(40, 2))
    traces, layout, _ = contents(cloud_page(zoo.Pair(points, points + 1), Affine.identity(2)))
    assert layout["yaxis"]["scaleanchor"] == "x"
    np.testing.assert_allclose(points_of(by_name(traces)["fixed"]), points, atol=1e-6)
    np.testing.assert_array_equal(by_name(traces)["moved"]["marker"]["color"], 0)


def test_large_clouds_are_thinned_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr(page_shapes, "MOST_POINTS", 100)
    points = np.random.default_rng(0).normal(size=(400, 3))
    page = cloud_page(zoo.Pair(points, points[:90]))
    shown = points_of(by_name(contents(page)[0])["fixed"])
    known = {tuple(point) for point in points.astype(np.float32)}
    assert len(shown) == 100 and {tuple(point) for point in shown} <= known
    assert "fixed: 100 of 400 points." in page.notes[0] and "moving: 90 points" in page.notes[0]


def test_large_meshes_are_thinned_and_keep_their_form():
    ball = trimesh.creation.icosphere(5)
    kept, faces = clustered(ball.vertices, ball.faces, 2000)
    assert 1000 < len(kept) <= 2000 and len(set(kept)) == len(kept)
    assert faces.min() == 0 and faces.max() == len(kept) - 1
    assert all(len(set(face)) == 3 for face in faces)
    thin = trimesh.Trimesh(ball.vertices[kept], faces, process=False)
    assert thin.area == pytest.approx(ball.area, rel=0.03)
    assert thin.volume == pytest.approx(ball.volume, rel=0.03)
    same, all_faces = clustered(ball.vertices, ball.faces, len(ball.vertices))
    assert len(same) == len(ball.vertices) and all_faces is ball.faces


def test_few_points_far_away_do_not_widen_the_scene():
    points = np.random.default_rng(0).uniform(size=(500, 3))
    far = np.concatenate([points, [[20.0, 0, 0]]])
    page = cloud_page(zoo.Pair(far, points))
    assert max(contents(page)[1]["scene"]["xaxis"]["range"]) < 2
    assert "far from all others, which lie outside: 1." in page.notes[0]


def test_a_path_is_in_its_page():
    path = np.stack([BALL.vertices * scale for scale in (1.0, 1.2, 1.7)])
    page = path_page(path, BALL.faces, BALL.vertices[:10] + 3, title="growth")
    traces, layout, frames = contents(page)
    assert page.title == "growth" and [t["name"] for t in traces] == ["start", "shape", "target"]
    assert [frame["name"] for frame in frames] == ["0.00", "0.50", "1.00"]
    for frame, places, way in zip(frames, path, (0, 0.2, 0.7), strict=True):
        np.testing.assert_allclose(points_of(frame["data"][0]), places, atol=1e-6)
        np.testing.assert_allclose(frame["data"][0]["intensity"], way, atol=1e-6)
    np.testing.assert_allclose(points_of(traces[2]), BALL.vertices[:10] + 3, atol=1e-6)
    assert layout["scene"]["xaxis"]["range"][1] > 3.5


def test_a_long_path_is_thinned_in_time():
    path = np.arange(101.0)[:, None, None] + np.random.default_rng(0).normal(size=(5, 3))
    page = path_page(path)
    frames = contents(page)[2]
    assert len(frames) == 22 and frames[-1]["name"] == "1.00"
    np.testing.assert_allclose(points_of(frames[-1]["data"][0]), path[-1], rtol=1e-6)
    assert "22 of 101 times" in page.notes[0]


def test_positions_far_from_the_origin_are_told_apart():
    far = 5e6 + np.linspace(0, 1, 50)
    assert compact(far).dtype == np.float64 and compact(far - 5e6).dtype == np.float32
    assert len(np.unique(compact(far))) == 50


# Images


def test_images_are_in_their_page():
    pair = images()
    transform = bent(pair)
    traces, layout, frames = contents(image_page(pair, transform))
    assert not frames
    shown = [picture_of(trace) for trace in traces if trace["type"] == "image"]
    moved = transform.warp(pair.moving)
    fixed, moving = (image.array[..., 0].T for image in (pair.fixed, pair.moving))
    low, high = intensity_window(fixed)
    expected = np.rint(255 * np.clip((fixed - low) / (high - low), 0, 1))
    np.testing.assert_array_equal(shown[0], expected)
    # Moved, then moving, share a window: their order of grey values is kept in both.
    for picture, array in ((shown[1], moved.array[..., 0].T), (shown[2], moving)):
        inside = (picture > 0) & (picture < 255)
        assert np.corrcoef(picture[inside], array[inside])[0, 1] > 0.999
    assert traces[0]["dx"] == 1 and traces[0]["dy"] == 2  # mm
    menu = [each["label"] for each in layout["updatemenus"][0]["buttons"]]
    assert menu == ["fixed, moved", "fixed, moving", "fixed − moved", "fixed − moving"]
    blend = layout["sliders"][0]["steps"][-1]
    assert blend["args"] == [{"opacity": 1.0}, [1, 2]]


def test_differences_are_white_where_there_are_none():
    pair = images()
    same = zoo.Pair(
        pair.fixed, Image(pair.fixed.array + np.eye(20, 14)[..., None], pair.fixed.grid)
    )
    shown = [picture_of(t) for t in contents(image_page(same))[0] if t["type"] == "image"][2]
    apart = np.eye(20, 14).T > 0
    assert (np.ptp(shown[~apart].astype(int), axis=-1) < 3).all()
    assert (shown[apart][:, 2].astype(int) - shown[apart][:, 0] > 50).all()  # fixed is less: blue


def test_the_determinant_is_centred_on_one_and_folds_are_marked():
    pair = images()
    transform = bent(pair)
    determinant = transform.jacobian_determinant(pair.fixed.grid)
    named = by_name(contents(image_page(pair, transform))[0])
    shown = named["determinant"]
    np.testing.assert_allclose(shown["customdata"], determinant.T, rtol=1e-5, atol=1e-6)
    unfolded = determinant.T > 0.01
    np.testing.assert_allclose(shown["z"][unfolded], np.log(determinant.T[unfolded]), atol=1e-4)
    assert shown["zmin"] == -shown["zmax"] < 0
    assert shown["colorbar"]["ticktext"][2] == "1" and shown["colorbar"]["tickvals"][2] == 0
    folded = determinant <= 0
    assert 5 < folded.sum() < folded.size
    name = f"folds ({100 * folded.mean():.2f} %)"
    marks = points_of(named[name])[:-1] / [1, 2]
    assert {tuple(each) for each in marks} == {tuple(each) for each in np.argwhere(folded)}


def test_the_grid_is_deformed():
    pair = images((30, 30))
    grid = by_name(contents(image_page(pair, Affine(np.eye(2), [3.0, 4.0])))[0])["deformed grid"]
    lines = points_of(grid)
    lines = lines[np.isfinite(lines).all(axis=1)]
    # Voxels of 1 mm x 2 mm, moved by 3 mm and 4 mm.
    np.testing.assert_allclose(lines.min(axis=0), [3, 4], atol=1e-5)
    np.testing.assert_allclose(lines.max(axis=0), [29 + 3, 58 + 4], atol=1e-5)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_pictures_stand_upright_whatever_the_order_of_voxels(signs, axis):
    pair = images((8, 7, 6), direction=np.diag(signs))
    grid = pair.fixed.grid
    # What grows towards left, posterior and superior.
    for world in {0, 1, 2} - {axis}:
        ramp = Image(grid.coordinates()[..., world][..., None], grid)
        page = image_page(zoo.Pair(ramp, ramp), slice_axis=axis)
        picture = picture_of(contents(page)[0][0]).astype(int)
        down, right = picture[-1, 0] - picture[0, 0], picture[0, -1] - picture[0, 0]
        horizontal = world == min(w for w in range(3) if w != axis)
        assert (right > 100 and down == 0) if horizontal else (right == 0 and abs(down) > 100)
        if not horizontal:
            assert np.sign(down) == (-1 if world == 2 else 1)


def test_marks_lie_where_the_pictures_have_them():
    """A fold, a bright voxel and a landmark at one place of a mirrored grid."""
    grid = Grid((9, 8, 7), (1, 2, 3), direction=np.diag([-1, -1, 1]))
    place = (2, 1, 4)
    array = np.zeros((*grid.shape, 1))
    array[place] = 1
    field = np.zeros((*grid.shape, 3))
    field[place][0] = -3  # folds around it
    landmark = grid.to_world(np.array([place], float))
    spot = Image(array, grid)
    pair = zoo.Pair(spot, spot, fixed_landmarks=landmark, moving_landmarks=landmark)
    transform = Dense(field, grid)
    folded = np.argwhere(transform.jacobian_determinant(grid)[:, :, 4] <= 0)
    traces, _, frames = contents(image_page(pair, transform))
    frame = frames[4]
    kinds = dict(zip(frame["traces"], frame["data"], strict=True))
    named = {traces[number].get("name"): data for number, data in kinds.items()}
    bright = np.argwhere(picture_of(kinds[0]) > 200)[0][::-1] * [1, 2]  # column and row, mm
    np.testing.assert_array_equal(bright, [6, 12])
    np.testing.assert_allclose(points_of(named["fixed landmarks"]), [bright])
    folds = next(data for name, data in named.items() if name and name.startswith("folds"))
    expected = {(8.0 - i, 2 * (7.0 - j)) for i, j in folded}
    assert {tuple(each) for each in points_of(folds)[:-1]} == expected and expected


def test_volumes_have_a_slider_over_slices():
    pair = images((9, 8, 40))
    page = image_page(pair, bent(pair, 0.1))
    traces, layout, frames = contents(page)
    names = [step["label"] for step in layout["sliders"][1]["steps"]]
    assert len(frames) == 32 and names == [frame["name"] for frame in frames]
    assert names[0] == "0" and names[-1] == "39" and "32 of 40 slices" in page.notes[0]
    low, high = intensity_window(pair.fixed.array)
    bar = next(
        k for k, trace in enumerate(traces) if trace.get("visible") is False and "marker" in trace
    )
    for name, frame in zip(names, frames, strict=True):
        assert bar not in frame["traces"]
        array = pair.fixed.array[:, :, int(name), 0].T
        expected = np.rint(255 * np.clip((array - low) / (high - low), 0, 1))
        np.testing.assert_array_equal(picture_of(frame["data"][0]), expected)
    assert frames[layout["sliders"][1]["active"]]["data"][0]["source"] == traces[0]["source"]


def test_large_images_are_thinned_and_the_page_says_so(monkeypatch):
    monkeypatch.setitem(page_slices.PIXELS, 2, 10)
    pair = images()
    page = image_page(pair)
    trace = contents(page)[0][0]
    assert picture_of(trace).shape == (7, 10) and (trace["dx"], trace["dy"]) == (2, 4)
    assert "one pixel of 2 × 2" in page.notes[0]


def test_colours_stay_colours():
    pair = images(channels=3)
    shown = picture_of(contents(pair_page(pair))[0][0])
    assert shown.shape == (14, 20, 3) and np.ptp(shown.astype(int), axis=-1).max() > 100


# The page


def test_a_page_is_one_file_that_fetches_nothing(tmp_path):
    page = surface_page({"<i>ball": BALL})
    path = page.save(tmp_path / "new" / "ball.html")
    text = path.read_text()
    assert text == page.html() and list(path.parent.iterdir()) == [path]
    own = text.replace(re.search(r"<script>/\*\*\n\* plotly.js.*?</script>", text, re.S)[0], "")
    assert len(own) < 100_000 < 4_000_000 < len(text)
    assert "http" not in own.lower() and "<link" not in text and not re.search(r"\ssrc=", own)
    assert 'src="http' not in text and "<i>ball" not in own and "&lt;i&gt;ball" in own


def test_a_page_shows_itself_in_a_notebook():
    page = cloud_page(meshes())
    inside = re.fullmatch(r'<iframe srcdoc="([^"]*)".*></iframe>', page._repr_html_(), re.S)
    assert html.unescape(inside[1]) == page.html()


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    page = surface_page({"ball": BALL})
    (tmp_path / "page.html").write_text("before")
    monkeypatch.setattr(type(page), "html", lambda self: "\udcff")  # which no file holds
    with pytest.raises(UnicodeEncodeError):
        page.save(tmp_path / "page.html")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def test_what_installs_plotly_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ImportError, match="a page needs plotly: pip install plotly"):
        surface_page({"ball": BALL})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: surface_page({}), "meshes is empty"),
        (lambda: surface_page({"a": 3}), "meshes must hold trimesh.Trimesh, not 3"),
        (lambda: surface_page({}, np.full((4, 3), np.nan)), "points must be finite"),
        (lambda: surface_page({"ball": BALL}).save("page.png"), "path must end in .html"),
        (lambda: cloud_page(3), "pair must be a Pair, not 3"),
        (lambda: cloud_page(images()), "pair must be one of clouds"),
        (
            lambda: cloud_page(meshes(), "no"),
            "transform must be a Transform or a Measured or None, not 'no'",
        ),
        (lambda: cloud_page(meshes(), Affine.identity(2)), "transform must carry points of rank 3"),
        (lambda: image_page(meshes()), "pair must be one of images"),
        (
            lambda: image_page(images(), 3),
            "transform must be a Transform or a Measured or None, not 3",
        ),
        (lambda: image_page(images(), Affine.identity(3)), "transform must be of rank 2"),
        (lambda: image_page(images((4, 5, 6)), slice_axis=3), "slice_axis must be at most 2"),
        (lambda: path_page(np.zeros((1, 4, 3))), "path must have the shape"),
        (lambda: path_page(np.zeros((2, 4, 3)), [[0, 1, 4]]), "faces must be indices of the 4"),
        (lambda: path_page(np.zeros((2, 4, 3)), [[0.5, 1, 2]]), "faces must be whole numbers"),
        (lambda: path_page(np.zeros((2, 4, 3)), None, np.zeros((4, 2))), "target must have"),
        (lambda: path_page(np.zeros((2, 4, 3)), title=3), "title must be a word"),
        (lambda: pair_page([]), "pair must be a Pair, not"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


# In a browser


@pytest.fixture
def browser(tmp_path):
    if chromium() is None:
        pytest.skip("needs Chromium: chromium, chromium-browser or google-chrome, or CHROMIUM")
    with Browser(tmp_path / "profile", (1000, 700)) as opened:
        yield opened


def pixels(browser: Browser) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(browser.picture())).convert("RGB")).astype(int)


def coloured(picture: np.ndarray) -> int:
    return int((np.ptp(picture, axis=-1) > 40).sum())


def drawn(browser: Browser, enough: int = 10_000) -> np.ndarray:
    """The window once it has so many coloured pixels."""
    end = time.monotonic() + 60
    while coloured(picture := pixels(browser)) < enough and time.monotonic() < end:
        browser.settle()
    assert coloured(picture) >= enough
    return picture


def slide(browser: Browser, number: int, share: float) -> None:
    """Clicks on a slider, at a share of its length."""
    rail = browser.run(
        f"(r => [r.left, r.top, r.width, r.height])(document.querySelectorAll("
        f"'.slider-rail-touch-rect')[{number}].getBoundingClientRect())"
    )
    margin = 10
    browser.click(rail[0] + margin + share * (rail[2] - 2 * margin), rail[1] + rail[3] / 2)


def press(browser: Browser, number: int) -> None:
    """Clicks on a button of the page."""
    place = browser.run(
        f"(r => [r.left + r.width / 2, r.top + r.height / 2])(document.querySelectorAll("
        f"'.updatemenu-button')[{number}].getBoundingClientRect())"
    )
    browser.click(*place)


def check_quiet(browser: Browser) -> None:
    assert browser.errors == []
    schemes = {address.partition(":")[0] for address in browser.asked}
    assert schemes <= {"file", "data", "blob"} and "file" in schemes


def test_shapes_turn_up_and_move_in_a_browser(browser, tmp_path):
    pair = meshes()
    browser.open(cloud_page(pair, SHIFT).save(tmp_path / "balls.html"))
    after = drawn(browser)
    figure = "document.getElementById('figure')"
    first = f"{figure}._fullData[2].x[0]"
    moved = SHIFT.move(pair.moving.points)
    assert browser.run(first) == pytest.approx(moved[0, 0], abs=1e-6)
    slide(browser, 0, 0.0)
    assert browser.run(f"{figure}.layout.sliders[0].active") == 0
    assert browser.run(first) == pytest.approx(pair.moving.points[0, 0], abs=1e-6)
    before = drawn(browser)
    assert (np.abs(after - before).max(axis=-1) > 20).sum() > 2000
    browser.run(
        f"{figure}.seen = []; "
        f"{figure}.on('plotly_animatingframe', frame => {figure}.seen.push(frame.name)); 1"
    )
    press(browser, 0)  # play
    browser.wait(f"{figure}.seen.length === 11")
    assert browser.run(f"{figure}.seen[10]") == "100%"
    assert browser.run(first) == pytest.approx(moved[0, 0], abs=1e-6)
    check_quiet(browser)


def test_images_slide_and_blend_in_a_browser(browser, tmp_path):
    pair = images((12, 10, 6))
    transform = bent(pair, 0.2)
    browser.open(image_page(pair, transform).save(tmp_path / "images.html"))
    middle = drawn(browser)
    figure = "document.getElementById('figure')"
    data = f"{figure}._fullData"
    slide(browser, 0, 1.0)
    assert browser.run(f"{data}[1].opacity") == 1
    slide(browser, 1, 0.0)
    first = drawn(browser)
    assert (np.abs(first - middle).max(axis=-1) > 20).sum() > 5000
    # The blend stays as it was when the slice changes.
    assert browser.run(f"{data}[1].opacity") == 1
    determinant = transform.jacobian_determinant(pair.fixed.grid)[:, :, 0].T
    kept = f"{data}.find(trace => trace.name === 'determinant')"
    shown = browser.run(f"[...{kept}.customdata[0]]")
    np.testing.assert_allclose(shown, determinant[0], rtol=1e-4)
    press(browser, 2)  # fixed - moved
    assert browser.run(f"{data}.slice(0, 6).map(trace => trace.visible)") == [
        False, False, False, True, False, True,
    ]  # fmt: skip
    check_quiet(browser)
