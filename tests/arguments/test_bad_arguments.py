"""Whatever is wrong with an argument of the public API is said at once, and by its name."""

from collections import Counter

import campaign
import keras
import numpy as np
import pytest
import targets

import zoo
from zoo.layers import FieldsOfExperts, PiecewiseLinear, ScalingAndSquaring
from zoo.losses import LNCC, NCC
from zoo.ops.arguments import checked, positive

MOST = 1000
TINY = {"levels": 1, "units": 1, "filters": 2, "data_kernel": 3, "smoothness_kernel": 3}


@pytest.fixture(scope="module")
def answers():
    """`(case, verdict, what was said)` of a draw of all cases, every argument among them."""
    drawn = campaign.cases(targets.all_targets(), MOST)
    return [(case, *campaign.verdict(case)) for case in drawn]


def of_kind(answers, kind: str) -> list[str]:
    return [f"{case}: {said}" for case, found, said in answers if found == kind]


def test_every_public_constructor_takes_part(answers):
    called = {case.target.call for case, _, _ in answers}
    rooms = (zoo.layers, zoo.losses)
    public = {getattr(room, name) for room in rooms for name in room.__all__}
    assert {each for each in public if isinstance(each, type)} <= called
    assert len(answers) == MOST


def test_nothing_is_accepted_in_silence(answers):
    assert of_kind(answers, "accepted") == []


def test_nothing_keeps_anybody_waiting(answers):
    assert of_kind(answers, "hung") == []


def test_answers_are_clear(answers):
    found = Counter(kind for _, kind, _ in answers)
    assert found["clear"] >= 0.97 * len(answers), of_kind(answers, "obscure")


def test_obscure_and_silent_answers_would_be_seen():
    def careless(count):
        return range(count) if count != 10**12 else keras.ops.zeros(count)

    target = campaign.Target("careless", careless, {"count": 3}, {"count": "whole"})
    verdicts = {str(case): campaign.verdict(case)[0] for case in campaign.cases([target])}
    assert verdicts["careless(count='3')"] == "obscure"
    assert verdicts["careless(count=True)"] == "accepted"

    def endless(count):
        while count:
            count = max(count, 1)

    case = campaign.Case(campaign.Target("endless", endless), "count", 3)
    assert campaign.verdict(case, seconds=1)[0] == "hung"


def test_numbers_of_numpy_are_numbers():
    model = zoo.create("dirvnet", dims=np.int64(2), **{k: np.int32(v) for k, v in TINY.items()})
    assert type(model.get_config()["levels"]) is int
    loss = LNCC(window=np.array([3, 5]), epsilon=np.float32(0.5), squared=np.bool_(False))
    assert loss.get_config()["window"] == (3, 5) and loss.squared is False
    assert NCC(squared=np.True_).squared is True
    stage = zoo.create("divroc", stages=[{"lattice": np.int64(4), "across": np.False_}])
    assert stage.schedule[0].lattice == 4 and stage.schedule[0].across is False
    assert len(zoo.data.shapes.sphere(np.int64(5), radius=np.float16(2))) == 5


def test_objects_of_keras_are_taken():
    experts = FieldsOfExperts(
        2, 3, PiecewiseLinear(3), keras.initializers.RandomNormal(0.0, 0.1), dtype="float32"
    )
    again = FieldsOfExperts.from_config(experts.get_config())
    assert isinstance(again.kernel_initializer, keras.initializers.RandomNormal)
    model = zoo.create("dirvnet", dims=2, **TINY)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, 10)))
    model.compile("adam", loss_weights={"smoothness": np.float32(0.5)})
    assert model.loss_weights["smoothness"] == 0.5


def test_symbolic_tensors_pass():
    velocity = keras.Input((None, None, 2))
    model = keras.Model(velocity, ScalingAndSquaring(np.int64(3))(velocity))
    assert model(np.zeros((1, 5, 4, 2), np.float32)).shape == (1, 5, 4, 2)
    images = np.random.default_rng(0).random((2, 6, 6, 1)).astype(np.float32)
    net = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(1, 1)])
    # The weights of the samples are a tensor of the graph when the loss sees them.
    net.compile("sgd", NCC())
    history = net.fit(images, images, sample_weight=np.array([1.0, 0.5]), verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_weights_are_untouched_by_a_refused_fit():
    model = zoo.create("dirvnet", dims=2, **TINY)
    before = [np.array(weight) for weight in model.get_weights()]
    images = np.random.default_rng(0).random((2, 12, 12, 1)).astype(np.float32)
    holes = images.copy()
    holes[0, 3, 3] = np.nan
    for bad in (holes, images[:0], images[:1], images[..., [0, 0]], images.astype(complex)):
        with pytest.raises(ValueError, match="^x"):
            model.fit({"fixed": images, "moving": bad}, verbose=0)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        model.fit({"fixed": images, "moving": images}, epochs=0)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_loss_is_not_ignored():
    with pytest.raises(ValueError, match="loss must be None: .* loss_weights"):
        zoo.create("igr", encoding=None, width=8, depth=2, skips=(2,)).compile(loss="mse")


def test_what_is_decorated_looks_as_before():
    def area(width: int, height: float = 2.0, *, wide: bool = False, **rest):
        """Of a rectangle."""
        return width * height

    wrapped = checked(width=(1, 9), height=positive)(area)
    assert (
        wrapped.__doc__ == area.__doc__ and wrapped(3) == 6 and wrapped(np.int8(3), height=1) == 3
    )
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'width'"):
        wrapped()
    with pytest.raises(ValueError, match="^width must be at most 9, not 10"):
        wrapped(10)
    with pytest.raises(ValueError, match="^wide must be True or False, not 1"):
        wrapped(3, wide=1)
    with pytest.raises(ValueError, match="^workers must be a whole number of at least 1, not None"):
        wrapped(3, workers=None)
