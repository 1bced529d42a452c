"""Trees of tensors are taken apart in a fixed order, and put together with their own types."""

import dataclasses
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
import torch

from eigenspan.linops.curvature.outputs import taken_apart


@dataclasses.dataclass
class Output:
    """Tensors, something that is none, and a field that is computed."""

    logits: Any
    hidden: Any = None
    name: str = "output"
    count: int = dataclasses.field(init=False)

    def __post_init__(self):
        self.count = 7


@dataclasses.dataclass(frozen=True)
class Frozen:
    logits: Any


class Pair(NamedTuple):
    left: Any
    right: Any


def tensor(i):
    return torch.full((2,), float(i))


@pytest.mark.parametrize(
    ("tree", "count"),
    [
        (tensor(0), 1),
        ((tensor(0), tensor(1)), 2),
        ([tensor(0), [tensor(1), (tensor(2),)]], 3),
        ({"b": tensor(0), "a": tensor(1)}, 2),
        (OrderedDict(b=tensor(0), a={"c": (tensor(1), 3)}), 2),
        (Pair(tensor(0), [tensor(1), None]), 2),
        (Output(tensor(0), (tensor(1), {"x": tensor(2)})), 3),
        (Output(Frozen(tensor(0)), Pair(tensor(1), "text")), 2),
        ((), 0),
        ((None, 3, "text", Output), 0),
    ],
)
def test_tensors_come_in_order_and_go_back_to_their_places(tree, count):
    tensors, together = taken_apart(tree)
    assert [float(found[0]) for found in tensors] == list(range(count))
    again, _ = taken_apart(together(tensors))
    assert all(found is original for found, original in zip(again, tensors, strict=True))
    others = [tensor(10 + i) for i in range(count)]
    for _ in range(2):
        replaced, _ = taken_apart(together(others))
        assert all(found is other for found, other in zip(replaced, others, strict=True))
    untouched, _ = taken_apart(tree)
    assert all(found is original for found, original in zip(untouched, tensors, strict=True))


def test_types_and_whatever_is_no_tensor_stay():
    tree = Output([tensor(0), None], Pair((tensor(1),), {"x": 3, "y": tensor(2)}), name="mine")
    _, together = taken_apart(tree)
    a, b, c = (tensor(10 + i) for i in range(3))
    found = together([a, b, c])
    assert type(found) is Output
    assert (found.name, found.count) == ("mine", 7)
    assert type(found.logits) is list
    assert found.logits[0] is a
    assert found.logits[1] is None
    assert type(found.hidden) is Pair
    assert type(found.hidden.left) is tuple
    assert found.hidden.left[0] is b
    assert found.hidden.right["x"] == 3
    assert found.hidden.right["y"] is c


def test_a_type_of_data_class_is_no_tree():
    tensors, together = taken_apart((Output, tensor(0)))
    assert len(tensors) == 1
    assert together(tensors)[0] is Output


def test_graphs_go_through():
    """What is put together is made of the tensors given, not of copies: derivatives reach them."""
    x = tensor(1).requires_grad_()
    tensors, together = taken_apart({"a": (2 * x,), "b": 3})
    together(tensors)["a"][0].sum().backward()
    assert torch.equal(x.grad, torch.tensor([2.0, 2.0]))
