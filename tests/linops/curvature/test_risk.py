"""What is refused before any product, and with which words."""

import curvature_cases as cases
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

import eigenspan as es

LOSS = nn.CrossEntropyLoss()


def build(model=None, loss=LOSS, data=None, **options):
    return es.Hessian(
        cases.mlp() if model is None else model, loss, cases.classes() if data is None else data, **options
    )


class TestData:
    def test_a_generator_is_refused(self):
        batch = cases.classes()
        with pytest.raises(TypeError, match="only once"):
            build(data=(part for part in [batch]))
        with pytest.raises(TypeError, match="only once"):
            build(data=iter([batch]))

    def test_memory_that_runs_out_is_told_and_not_taken_for_a_loss_that_cannot_be_cut(self):
        def loss(output, target):
            if len(output) == 4:  # halves of the first eight
                raise torch.OutOfMemoryError("no memory left")
            return functional.cross_entropy(output, target)

        with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
            build(loss=loss, data=cases.classes(40))

    def test_a_data_set_of_samples_is_refused(self):
        with pytest.raises(TypeError, match="DataLoader"):
            build(data=TensorDataset(*cases.classes()))

    @pytest.mark.parametrize("data", [torch.zeros(3, 6), "data", 7])
    def test_what_holds_no_batches_is_refused(self, data):
        with pytest.raises(TypeError, match="batch"):
            build(data=data)

    def test_no_batch_is_refused(self):
        with pytest.raises(ValueError, match="no batch"):
            build(data=[])

    def test_no_sample_is_refused(self):
        X, y = cases.classes()
        with pytest.raises(ValueError, match="total weight 0"):
            build(data=(X[:0], y[:0]))

    def test_only_ignored_targets_are_refused(self):
        X, y = cases.classes()
        with pytest.raises(ValueError, match="total weight 0"):
            build(data=(X, torch.full_like(y, -100)))

    def test_a_batch_that_is_no_pair_is_refused(self):
        with pytest.raises(TypeError, match="pair"):
            build(data=[cases.classes()[0]])

    def test_class_weights_of_another_dtype_are_named(self):
        with pytest.raises(ValueError, match=r"so have class weights, loss\.to\(dtype\)"):
            build(loss=nn.CrossEntropyLoss(weight=torch.ones(4)))

    def test_another_dtype_is_refused(self):
        X, y = cases.classes()
        with pytest.raises(TypeError, match=r"float64.*float32"):
            build(data=(X.float(), y))

    @pytest.mark.parametrize("change", [torch.Tensor.double, lambda y: y + 100], ids=["float", "out of range"])
    def test_classes_that_are_none_are_refused(self, change):
        X, y = cases.classes()
        with pytest.raises(
            ValueError, match=r"does not take this batch of torch\.float64 .* integers below the number"
        ):
            build(data=(X, change(y)))

    @pytest.mark.parametrize("wrapped", [lambda batch: batch, lambda batch: [batch]], ids=["batch", "list"])
    def test_arrays_of_numpy_are_refused_as_such(self, wrapped):
        batch = tuple(part.numpy() for part in cases.classes())
        with pytest.raises(TypeError, match=r"its arrays of NumPy are to be tensors, torch.as_tensor\(x\)"):
            build(data=wrapped(batch))

    def test_a_class_of_losses_is_refused_as_such(self):
        with pytest.raises(TypeError, match=r"got the class CrossEntropyLoss: CrossEntropyLoss\(\)"):
            build(loss=nn.CrossEntropyLoss)

    def test_data_drawn_anew_are_refused(self):
        class Augmented(Dataset):
            def __len__(self):
                return 8

            def __getitem__(self, index):
                return torch.randn(6, dtype=torch.float64), 0

        with pytest.raises(ValueError, match="two passes"):
            build(data=DataLoader(Augmented(), batch_size=4))

    def test_shuffling_that_drops_samples_is_refused(self):
        loader = DataLoader(TensorDataset(*cases.classes()), batch_size=4, shuffle=True, drop_last=True)
        with pytest.raises(ValueError, match="drop_last"):
            build(data=loader)


class TestLoss:
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_loss_that_is_not_finite_is_refused(self, value):
        X, y = cases.classes()
        with pytest.raises(ValueError, match="loss over the data is"):
            build(data=(X * value, y))

    def test_a_gradient_that_is_not_finite_is_refused(self):
        with pytest.raises(ValueError, match="gradient is not"):
            build(loss=lambda output, target: (output - output.detach()).norm(dim=1).sqrt().sum())

    def test_a_loss_that_is_no_scalar_is_refused(self):
        with pytest.raises(ValueError, match="scalar"):
            build(loss=lambda output, target: output)
        with pytest.raises(ValueError, match="scalar"):
            build(loss=lambda output, target: 1.0)

    def test_a_loss_that_ignores_the_parameters_is_refused(self):
        with pytest.raises(ValueError, match="does not depend"):
            build(loss=lambda output, target: output.detach().sum())
        with pytest.raises(ValueError, match="does not depend"):
            build(loss=lambda output, target: target.double().mean())

    def test_a_random_loss_is_refused(self):
        with pytest.raises(ValueError, match="random"):
            build(loss=lambda output, target: LOSS(functional.dropout(output), target))

    def test_a_loss_that_does_not_add_up_is_refused_once_data_are_cut(self):
        def spread(output, target):
            return output.std()

        build(loss=spread)
        X, y = cases.classes()
        for options in [{"micro_batch_size": 4}, {"data": [(X[:5], y[:5]), (X[5:], y[5:])]}]:
            with pytest.raises(ValueError, match="is not that of its parts"):
                build(loss=spread, **options)

    def test_a_stated_weight_makes_it_add_up(self):
        """A mean over positive targets only, which no one can guess."""

        def masked_mean(output, target):
            kept = target > 0
            return (functional.cross_entropy(output, target, reduction="none") * kept).sum() / kept.sum()

        with pytest.raises(ValueError, match="is not that of its parts"):
            build(loss=masked_mean, micro_batch_size=6)
        stated = es.Loss(masked_mean, weight=lambda output, target: float((target > 0).sum()))
        cut = build(loss=stated, micro_batch_size=3).to_dense()
        # float64, another order of summation
        torch.testing.assert_close(cut, build(loss=masked_mean).to_dense(), rtol=1e-10, atol=1e-12)


class TestModel:
    @pytest.mark.parametrize(
        ("layer", "name"),
        [
            (nn.Dropout(0.5), "Dropout"),
            (nn.BatchNorm1d(6), "BatchNorm1d"),
            (nn.MultiheadAttention(6, 2, dropout=0.1), "MultiheadAttention"),
            (nn.LSTM(6, 6, num_layers=2, dropout=0.1), "LSTM"),
        ],
    )
    def test_training_mode_is_refused_by_name(self, layer, name):
        model = nn.Sequential()
        model.add_module("culprit", layer)
        model.append(nn.Linear(6, 3))
        with pytest.raises(ValueError, match=rf"'culprit' \({name}\)"):
            build(model=model.double())

    def test_dropout_that_drops_nothing_is_fine(self):
        model = nn.Sequential(nn.Dropout(0.0), cases.mlp())
        assert build(model=model).shape == (53, 53)

    def test_batch_statistics_in_evaluation_mode_are_refused(self):
        model = nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False), cases.mlp()).double().eval()
        with pytest.raises(ValueError, match="track_running_stats"):
            build(model=model)

    def test_what_is_no_module_is_refused(self):
        with pytest.raises(TypeError, match="Module"):
            build(model=lambda x: x)

    def test_no_parameters_are_refused(self):
        with pytest.raises(ValueError, match="no parameters selected"):
            build(model=nn.Tanh())
        with pytest.raises(ValueError, match="frozen"):
            build(model=cases.mlp().requires_grad_(False))
        with pytest.raises(ValueError, match="matches no parameter"):
            build(parameters="layer9.*")

    def test_parameters_of_two_dtypes_are_refused(self):
        model = cases.mlp()
        model[2].float()
        with pytest.raises(TypeError, match=r"0\.weight.*2\.weight"):
            build(model=model)

    def test_frozen_backbone(self):
        model = cases.mlp()
        model[0].requires_grad_(False)
        assert build(model=model).parameters.names == ("2.weight", "2.bias")

    def test_an_operation_without_batching_names_the_way_out(self):
        class Branching(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = cases.mlp()

            def forward(self, X):
                output = self.net(X)
                return output if output.sum() > -1e9 else -output

        H = build(model=Branching(), chunk_size=4)
        expected = build().to_dense()
        torch.testing.assert_close(build(model=Branching(), chunk_size=1).to_dense(), expected, rtol=1e-12, atol=1e-14)
        try:
            product = H @ torch.eye(53, dtype=torch.float64)
        except RuntimeError as error:
            assert "chunk_size=1" in str(error)  # noqa: PT017
        else:
            torch.testing.assert_close(product, expected, rtol=1e-10, atol=1e-12)
