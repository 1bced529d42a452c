"""What a solve takes by the sizes of its parts: products, flops and vectors."""

from __future__ import annotations

import attrs

from .sketches import Sketch


@attrs.frozen(kw_only=True)
class Workload:
    """What a solver reckons that it takes for an operator, from sizes alone.

    Vectors are those of one side, or pairs of a left and a right one where singular values are solved for.

    Attributes:
        products: expected, checks inside; None where `Solver._total` knows them.
        rule: how they were expected, as a phrase; "" where they are known.
        width: columns of most blocks that it multiplies.
        passes: blocks.
        basis: vectors of a basis that grows, at most.
        working: vectors beside it at the peak, without the result.
        row_flops: of its algebra with tall blocks, for each of their rows.
        core: the size of its largest small matrix.
        core_flops: of the decompositions of small matrices.
        algebra_width: columns of a block that its algebra is as fast as, if that is not ``width``.
        dense: whether the core is the matrix itself, in the dtype and on the device of the operator, with what it takes
            inside ``working``.
        factor_products: with the transpose of the factor of the operator.
        sketch: a test matrix, if it draws any.
        sketched: columns of test matrices that it draws, or vectors that it multiplies by one.
    """

    products: int | None = None
    rule: str = ""
    width: int
    passes: int
    basis: int = 0
    working: float
    row_flops: float = 0.0
    core: int
    core_flops: float
    algebra_width: int | None = None
    dense: bool = False
    factor_products: int = 0
    sketch: Sketch | None = None
    sketched: int = 0
