"""The networks, as the notebooks build them, have the numbers of parameters that the decks report."""

from lib import models, transfer

import measurements
import pytest

pytestmark = pytest.mark.usefixtures("study")


@pytest.mark.parametrize(("name", "parameters"), [
    ("A1", 315_722), ("A2", 653_386), ("A3", 164_394), ("E2", 403_658), ("E5", 274_826)])  # the deck's 275K
def test_a_network_from_scratch_has_its_parameters(name, parameters):
    """Exactly."""
    assert measurements.network(name).count_params() == parameters


@pytest.mark.parametrize(("backbone", "notebook", "head", "parameters", "trainable"), [
    ("EfficientNetB0", "10_efficientnetb0", ("pooled_head", 128), 4_214_829, {None: 165_258, -48: 2_470_554}),
    ("EfficientNetV2B0", "11_efficientnetv2b0", ("with_head",), 6_255_962, {None: 333_578}),
])  # fmt: skip
def test_a_fine_tuned_network_has_its_parameters(backbone, notebook, head, parameters, trainable):
    """In all, and those that are trained: of the head alone, and with so many last layers of the trunk."""
    trunk, _ = transfer.trunk(backbone, (32, 32, 3), 32, weights="random")
    build, *options = head
    model = measurements.functions(notebook, images=measurements.ten_classes())[build](trunk, *options)
    assert model.count_params() == parameters
    for until, count in trainable.items():
        transfer.freeze(trunk, until=until)
        assert models.count_parameters(model)["trainable_parameters"] == count
