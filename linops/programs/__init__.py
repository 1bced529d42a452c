"""Linear functions of tensors as lists of operations: recorded, shortened, widened to blocks, run without autograd."""
