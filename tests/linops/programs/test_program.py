"""What programs are made of: values with a size, arguments in trees."""

import torch

from eigenspan.linops.programs.program import Value, leaves, mapped


def test_values_take_what_their_shape_and_type_say():
    assert Value.like(torch.ones(2, 3, dtype=torch.float32)).nbytes == 24


def test_trees_are_walked_in_order_and_keep_their_form():
    tree = (1, [2, (3,)], {"a": 4})
    assert list(leaves(tree)) == [1, 2, 3, 4]
    assert mapped(lambda leaf: leaf * 2, tree) == (2, [4, (6,)], {"a": 8})
