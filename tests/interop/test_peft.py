"""Adapters of PEFT on a GPT-2 of transformers, of random values: curvature in the low-rank factors alone.

In float64, where sums over 20 tokens round to 1e-15: 1e-10 is far above that.
"""

import curvature_cases as cases
import pytest
import torch
from interop_cases import EXTRA, theirs_to_mend
from torch import nn
from torch.func import functional_call
from torch.nn import functional

import eigenspan as es

peft = pytest.importorskip("peft", reason=EXTRA)
transformers = pytest.importorskip("transformers", reason=EXTRA)
pytestmark = theirs_to_mend


def network(**options):
    """One block of width 8, with adapters of rank 2 that are not zero."""
    torch.manual_seed(0)
    size = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    base = transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    choices = {"r": 2, "lora_alpha": 6, "target_modules": ["c_attn"], "fan_in_fan_out": True, **options}
    return peft.get_peft_model(base, peft.LoraConfig(init_lora_weights=False, **choices)).double().eval()


def tokens():
    ids = torch.randint(0, 11, (4, 6), generator=cases.generator(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids


def next_token(output, ids):
    return functional.cross_entropy(output["logits"][:, :-1].flatten(0, 1), ids[:, 1:].flatten())


LOSS = es.Loss(next_token, weight=lambda output, ids: ids[:, 1:].numel(), convex=True)


def as_function(model, names):
    """(point, function of the flat tensors of those names) of the logits, by functional_call alone."""
    named = {name: parameter.detach() for name, parameter in model.named_parameters() if name in names}
    point = torch.cat([tensor.flatten() for tensor in named.values()])
    sizes = [tensor.numel() for tensor in named.values()]

    def logits(vector):
        parts = zip(named.items(), vector.split(sizes), strict=True)
        return functional_call(model, {name: part.view_as(old) for (name, old), part in parts}, (), tokens()[0]).logits

    return point, logits


def dense_hessian(model, names):
    point, logits = as_function(model, names)
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        return torch.autograd.functional.hessian(lambda v: next_token({"logits": logits(v)}, tokens()[1]), point)


def dense_ggn(model, names):
    point, logits = as_function(model, names)
    value = logits(point).detach()
    J = torch.autograd.functional.jacobian(logits, point).reshape(value.numel(), -1)
    H = torch.autograd.functional.hessian(lambda out: next_token({"logits": out}, tokens()[1]), value)
    return J.mT @ H.reshape(value.numel(), value.numel()) @ J


@pytest.mark.parametrize(
    ("parameters", "tensors"), [(None, 2), ("*.lora_*", 2), ("*.lora_B.*", 1), ("*.c_attn.lora_A.default.weight", 1)]
)
def test_adapters_are_selected_by_name(parameters, tensors):
    """By default the adapters are what is trainable."""
    model = network()
    for kind, twin in [(es.Hessian, dense_hessian), (es.GGN, dense_ggn)]:
        A = kind(model, LOSS, [tokens()], parameters=parameters)
        assert len(A.parameters.names) == tensors
        assert all("lora_" in name for name in A.parameters.names)
        torch.testing.assert_close(A.to_dense(), twin(model, A.parameters.names), rtol=0, atol=1e-10)


def test_the_curvature_of_an_adapter_is_that_of_the_weights_that_it_is_merged_into():
    """The merged weight W₀ + 3 (B A)ᵀ is linear in B, so that the Hessian in B is Mᵀ H M."""
    model = network()
    A, B = (dict(model.named_parameters())[f"base_model.model.transformer.h.0.attn.c_attn.lora_{x}.default.weight"]
            for x in "AB")  # fmt: skip
    M = torch.autograd.functional.jacobian(lambda B: 3 * (B @ A.detach()).mT, B.detach())
    H_B = es.Hessian(model, LOSS, [tokens()], parameters="*.lora_B.*").to_dense()
    merged = model.merge_and_unload()
    H = es.Hessian(merged, LOSS, [tokens()], parameters="transformer.h.0.attn.c_attn.weight").to_dense()
    M = M.reshape(len(H), B.numel())
    torch.testing.assert_close(H_B, M.mT @ H @ M, rtol=0, atol=1e-10)
    assert float(H_B.norm()) > 1e-2


def test_solvers_and_masks_of_adapters():
    model = network()
    G = es.GGN(model, LOSS, [tokens()])
    eig = es.BlockLanczos(k=4).solve(G)
    expected = torch.linalg.eigvalsh(dense_ggn(model, G.parameters.names)).flip(0)[:4]
    torch.testing.assert_close(eig.eigenvalues, expected, rtol=0, atol=1e-8)  # as converged, squared
    mask = es.MaskSubspace.top_k(es.magnitude(G.parameters), 4)
    assert sum(mask.composition(G.parameters).counts) == 4
    assert 0 <= es.overlap(mask, eig.subspace) <= 1


def test_dropout_of_adapters_is_refused_with_its_name():
    model = network(lora_dropout=0.1).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout) and module.p != 0.1:
            raise AssertionError("the network itself drops as the adapter does")
    model.base_model.model.transformer.drop.eval()
    with pytest.raises(ValueError, match=r"drops entries at random with probability 0.1, .*call model.eval\(\) first"):
        es.Hessian(model, LOSS, [tokens()])
