"""What the tests beside other packages share: the extra to install, and what those packages warn of themselves."""

import pytest

EXTRA = "pip install 'eigenspan[interop]'"

# What PyTorch and transformers deprecate, curvlinops, laplace-torch and peft still use.
theirs_to_mend = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
]
