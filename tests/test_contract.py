"""Every method keeps the contract of the zoo, on the Keras backend in use."""

import pytest

import registry
import zoo
from zoo import testing


@pytest.mark.parametrize("name", zoo.find())
def test_contract(name):
    clauses = testing.check(name)
    assert len(clauses) == len(testing.CONTRACT)


def test_a_broken_method_fails_by_clause():
    class Untrained(zoo.Model):
        """A model without a loss."""

    with registry.isolated():
        zoo.add_method("untrained", task="surface", data="points")(Untrained)
        with pytest.raises(AssertionError, match=r"^untrained: .*NotImplementedError"):
            testing.check("untrained")
