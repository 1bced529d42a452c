"""The coordinates of a model: what is selected, in which order, and the way to tensors and back."""

import pytest
import torch
from torch import nn

from eigenspan.linops import MaskSubspace, ParameterSpace

# Name to number of entries, in the order of the coordinates.
SIZES = {"scale": 1, "stem.weight": 12, "stem.bias": 4, "body.0.weight": 4, "body.0.bias": 4, "body.2.weight": 8}


class Net(nn.Module):
    """Matrices, vectors and a scalar, in nested modules."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.stem = nn.Linear(3, 4)
        self.body = nn.Sequential(nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2, bias=False))
        self.register_buffer("steps", torch.zeros(3))


@pytest.fixture
def model(device):
    return Net().to(device)


@pytest.fixture
def space(model):
    return ParameterSpace(model)


def numbered(space):
    """Tensors whose entries are the numbers of their coordinates."""
    return space.unflatten(torch.arange(space.size, dtype=space.dtype, device=space.device))


class TestSpace:
    def test_follows_the_order_of_named_parameters(self, model, space):
        names = [name for name, _ in model.named_parameters()]
        assert list(space.names) == list(space.shapes) == list(space.slices) == list(SIZES) == names
        assert {name: shape.numel() for name, shape in space.shapes.items()} == SIZES
        assert space.size == sum(SIZES.values())
        assert [space.slices[name].start for name in names[1:]] == [space.slices[name].stop for name in names[:-1]]
        expected = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        assert torch.equal(space.values, expected)
        for name, parameter in model.named_parameters():
            assert torch.equal(space.values[space.slices[name]], parameter.detach().flatten())

    @pytest.mark.parametrize("selection", [None, "stem.weight"], ids=["all", "one tensor"])
    def test_the_point_is_a_copy(self, model, selection):
        space = ParameterSpace(model, selection)
        before = space.values.clone()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        assert torch.equal(space.values, before)
        space.values.zero_()
        assert model.stem.weight.any()
        assert not space.values.requires_grad

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    def test_is_of_the_dtype_and_device_of_the_model(self, model, device, dtype):
        space = ParameterSpace(model.to(dtype))
        assert space.dtype == dtype
        assert space.device.type == device
        assert repr(space) == f"<ParameterSpace 33 in 6 tensors {str(dtype)[6:]} {space.device}>"


class TestSelection:
    @pytest.mark.parametrize(
        ("select", "names"),
        [
            (lambda model: "*.weight", ["stem.weight", "body.0.weight", "body.2.weight"]),
            (lambda model: "body.?.weight", ["body.0.weight", "body.2.weight"]),
            (lambda model: "body.[!2].*", ["body.0.weight", "body.0.bias"]),
            (lambda model: "*", list(SIZES)),
            (lambda model: "stem", ["stem.weight", "stem.bias"]),
            (lambda model: "body", ["body.0.weight", "body.0.bias", "body.2.weight"]),
            (lambda model: "body.0", ["body.0.weight", "body.0.bias"]),
            (lambda model: "stem.bias", ["stem.bias"]),
            (lambda model: model.body, ["body.0.weight", "body.0.bias", "body.2.weight"]),
            (lambda model: model, list(SIZES)),
            (lambda model: model.scale, ["scale"]),
            (lambda model: [model.body[2], "stem.bias", model.scale], ["scale", "stem.bias", "body.2.weight"]),
            (lambda model: ("scale", "stem", "stem.*"), ["scale", "stem.weight", "stem.bias"]),
            (lambda model: (p for p in model.stem.parameters()), ["stem.weight", "stem.bias"]),
        ],
    )
    def test_in_the_order_of_the_model_each_once(self, model, select, names):
        assert list(ParameterSpace(model, select(model)).names) == names

    def test_a_name_is_not_a_prefix_of_another_name(self):
        """``"1"`` is module 1, not module 10 too."""
        model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(11)))
        assert ParameterSpace(model, "1").names == ("1.weight", "1.bias")

    def test_frozen_parameters_are_left_out_unless_they_are_named(self, model):
        model.stem.requires_grad_(False)
        assert not any(name.startswith("stem") for name in ParameterSpace(model).names)
        assert ParameterSpace(model, "stem.*").names == ("stem.weight", "stem.bias")
        assert ParameterSpace(model, model.stem.bias).names == ("stem.bias",)

    @pytest.mark.parametrize("select", [lambda m: None, lambda m: "2", lambda m: "2.weight", lambda m: m[2]])
    def test_tied_weights_count_once_and_answer_to_every_name(self, select):
        """The second layer's weight is the first's; selecting that layer by name or module takes both its tensors."""
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3))
        model[2].weight = model[0].weight
        space = ParameterSpace(model, select(model))
        assert space.names == ("0.weight",) if select(model) == "2.weight" else ("0.weight", "2.bias")
        assert space.size == 9 + 3 * ("2.bias" in space.names)

    @pytest.mark.parametrize(
        ("selection", "error", "message"),
        [
            ("steem.*", ValueError, r"'steem.\*' matches no parameter; the names are .*stem\.weight"),
            ("steps", ValueError, "'steps' matches no parameter"),
            ("ste", ValueError, "'ste' matches no parameter"),
            (["stem", "nothing"], ValueError, "'nothing' matches no parameter"),
            (torch.ones(3), ValueError, "Tensor that is not the model's own"),
            (nn.Linear(3, 4), ValueError, "Linear that is not the model's own"),
            (nn.Tanh(), ValueError, "Tanh that is not the model's own, or has no parameters"),
            ([], ValueError, r"the list in parameters= is empty"),
            ([3], TypeError, "name patterns, modules and tensors, got int"),
        ],
    )
    def test_selections_that_match_nothing(self, model, selection, error, message):
        with pytest.raises(error, match=message):
            ParameterSpace(model, selection)

    def test_an_equal_tensor_is_not_the_models_own(self, model):
        for tensor in (model.stem.weight.detach().clone(), model.stem.weight.detach(), model.steps):
            with pytest.raises(ValueError, match="not the model's own"):
                ParameterSpace(model, tensor)

    def test_a_module_that_is_partly_foreign(self, model):
        """Half of its parameters is the model's own; the other half would be left out in silence."""
        other = nn.Linear(3, 4)
        other.weight = model.stem.weight
        with pytest.raises(ValueError, match="Linear that is not the model's own"):
            ParameterSpace(model, other)

    def test_many_names_are_shown_in_part(self):
        with pytest.raises(ValueError, match=r"names are 0\.weight, .*5\.bias, …$"):
            ParameterSpace(nn.Sequential(*(nn.Linear(1, 1) for _ in range(7))), "x")

    def test_nothing_to_select(self, model):
        with pytest.raises(ValueError, match="the model has none"):
            ParameterSpace(nn.Tanh())
        with pytest.raises(ValueError, match="all are frozen; set requires_grad"):
            ParameterSpace(model.requires_grad_(False))
        with pytest.raises(ValueError, match="no entries"):
            ParameterSpace(nn.ParameterList([torch.empty(0, 3)]))


class TestDtypes:
    def test_mixed_dtypes_are_named(self, model):
        model.body[2].double()
        with pytest.raises(TypeError, match=r"stem.weight is torch.float32 .*body.2.weight is torch.float64"):
            ParameterSpace(model, ["stem", "body"])
        assert ParameterSpace(model, "body.2").dtype == torch.float64

    def test_mixed_devices_are_named(self, model):
        model.body[2].to("meta")
        with pytest.raises(TypeError, match=r"stem.weight is .* on (cpu|cuda:0) and body.2.weight is .* on meta"):
            ParameterSpace(model, ["stem", "body"])

    @pytest.mark.parametrize("dtype", [torch.complex64, torch.int64], ids=str)
    def test_only_real_floating_point_has_curvature(self, dtype):
        model = nn.ParameterList([nn.Parameter(torch.ones(2, dtype=dtype), requires_grad=False)])
        with pytest.raises(TypeError, match=f"0 is {dtype}"):
            ParameterSpace(model, "0")


class TestFlatten:
    def test_a_vector_there_and_back(self, space):
        x = torch.randn(space.size, device=space.device)
        tensors = space.unflatten(x)
        assert {name: tensor.shape for name, tensor in tensors.items()} == space.shapes
        assert torch.equal(space.flatten(tensors), x)

    @pytest.mark.parametrize("k", [0, 1, 3])
    def test_a_block_there_and_back(self, space, k):
        for X in (
            torch.randn(space.size, k),
            torch.randn(k, space.size).mT,
            torch.randn(2 * space.size, 2 * k)[::2, ::2],
        ):
            X = X.to(space.device)
            tensors = space.unflatten(X)
            assert {name: tensor.shape for name, tensor in tensors.items()} == {
                name: (k, *shape) for name, shape in space.shapes.items()
            }
            flat = space.flatten(tensors)
            assert torch.equal(flat, X)
            assert flat.mT.is_contiguous()
            for j in range(k):
                column = space.unflatten(X[:, j])
                assert all(torch.equal(tensors[name][j], column[name]) for name in space.names)

    def test_the_values_are_the_parameters(self, model, space):
        for name, tensor in space.unflatten(space.values).items():
            assert torch.equal(tensor, model.get_parameter(name).detach())

    @pytest.mark.parametrize("k", [1, 4])
    def test_contiguous_columns_are_not_copied(self, space, k):
        for X in (torch.randn(k, space.size).mT, torch.randn(space.size)):
            for tensor in space.unflatten(X).values():
                assert tensor.untyped_storage().data_ptr() == X.untyped_storage().data_ptr()

    def test_flatten_copies(self, model):
        space = ParameterSpace(model, "stem.bias")
        tensor = torch.zeros(4)
        space.flatten({"stem.bias": tensor}).fill_(1)
        assert not tensor.any()

    def test_takes_tensors_in_any_order(self, space):
        tensors = numbered(space)
        assert torch.equal(space.flatten(dict(reversed(tensors.items()))), space.flatten(tensors))

    def test_differentiates(self, space):
        """Gradients pass through both ways: curvature products rely on it."""
        x = torch.randn(space.size, requires_grad=True)
        (space.flatten(space.unflatten(x)) * torch.arange(space.size)).sum().backward()
        assert torch.equal(x.grad, torch.arange(space.size, dtype=torch.float32))

    @pytest.mark.parametrize("shape", [(32,), (34,), (32, 2), (2, 33), (33, 2, 2), ()])
    def test_coordinates_of_another_size(self, space, shape):
        with pytest.raises(ValueError, match=r"expected \(33,\) or \(33, k\) coordinates, got shape"):
            space.unflatten(torch.zeros(shape))

    @pytest.mark.parametrize(
        ("name", "shape", "message"),
        [
            ("stem.weight", (3, 4), r"stem.weight has shape \(3, 4\), expected \(4, 3\) or \(k, …\)"),
            ("stem.weight", (12,), "stem.weight has shape"),
            ("scale", (2, 1), "scale has shape"),
            ("stem.bias", (2, 2, 4), "stem.bias has shape"),
            ("stem.bias", (2, 4), "scale and stem.bias hold different numbers"),
            ("scale", (5,), "scale and stem.weight hold different numbers"),
        ],
    )
    def test_tensors_of_another_shape(self, space, name, shape, message):
        tensors = {**numbered(space), name: torch.zeros(shape, device=space.device)}
        with pytest.raises(ValueError, match=message):
            space.flatten(tensors)

    def test_tensors_missing_or_left_over(self, space):
        tensors = numbered(space)
        for wrong in ({**tensors, "other": tensors["scale"]}, {name: tensors[name] for name in space.names[1:]}):
            with pytest.raises(ValueError, match=r"expected tensors named .*scale"):
                space.flatten(wrong)


class TestCoordinates:
    def test_labels_number_the_tensors(self, space):
        labels = space.labels()
        assert labels.dtype == torch.int64
        assert labels.device == space.device
        assert labels.tolist() == [i for i, name in enumerate(space.names) for _ in range(SIZES[name])]

    def test_module_labels_number_the_holders(self, space, model):
        assert space.module_names == ("", "stem", "body.0", "body.2")
        labels = space.module_labels()
        assert (labels.dtype, labels.device) == (torch.int64, space.device)
        sizes = [sum(p.numel() for p in model.get_submodule(name).parameters(False)) for name in space.module_names]
        assert labels.tolist() == [i for i, size in enumerate(sizes) for _ in range(size)]

    def test_a_module_that_is_not_selected_has_no_number(self, model):
        space = ParameterSpace(model, ["scale", "body.2"])
        assert space.module_names == ("", "body.2")
        assert space.module_labels().tolist() == [0] + [1] * 8

    @pytest.mark.parametrize("patterns", [("stem.bias",), ("*.weight",), ("body", "scale"), ("stem", "stem.*"), ("*",)])
    def test_indices_are_those_of_the_matching_tensors(self, space, model, patterns):
        """Marked in the tensors, found again in the coordinates."""
        chosen = ParameterSpace(model, patterns).names
        marks = {name: torch.full(shape, float(name in chosen)) for name, shape in space.shapes.items()}
        indices = space.indices(*patterns)
        assert indices.device == space.device
        assert indices.tolist() == space.flatten(marks).nonzero()[:, 0].tolist()

    def test_indices_of_nothing(self, model):
        with pytest.raises(ValueError, match=r"'body' matches no parameter; the names are stem\.weight, stem\.bias"):
            ParameterSpace(model, "stem").indices("stem", "body")


class TestEmbedding:
    @pytest.mark.parametrize("selection", [["body.2", "stem.bias"], "scale", None], ids=str)
    def test_places_coordinates_by_name(self, model, space, selection):
        part = ParameterSpace(model, selection)
        E = space.embedding(part)
        assert (E.shape, E.dtype, E.device) == ((space.size, part.size), space.dtype, space.device)
        assert torch.equal(E.T @ space.values, part.values)
        placed = space.unflatten(E @ part.values)
        for name, tensor in space.unflatten(space.values).items():
            assert torch.equal(placed[name], tensor if name in part.names else torch.zeros_like(tensor))

    def test_of_another_order(self, model, space):
        """By name, not by place: a model may list the same tensors otherwise."""
        reversed_order = nn.Module()
        reversed_order.body, reversed_order.stem = model.body, model.stem
        part = ParameterSpace(reversed_order, ["stem", "body"])
        assert part.names[0].startswith("body")
        assert torch.equal(space.embedding(part).T @ space.values, part.values)

    def test_subspaces_of_selected_parameters(self, model, space):
        part = ParameterSpace(model, "stem")
        mask = MaskSubspace.top_k(part.values.abs(), 5)
        E = space.embedding(part)
        large = mask.embedded(E)
        assert torch.equal(space.values[large.mask], part.values[mask.mask])
        assert torch.equal(large.extracted(E).mask, mask.mask)
        with pytest.raises(ValueError, match="does not lie in the 16 coordinates"):
            large.complement().extracted(E)

    def test_what_does_not_fit(self, model, space):
        part = ParameterSpace(model, "stem")
        with pytest.raises(ValueError, match=rf"{space} has a tensor scale, which {part} has not"):
            part.embedding(space)
        model.stem = nn.Linear(4, 4, device=space.device)
        with pytest.raises(ValueError, match=r"stem\.weight has shape \(4, 4\) in .*, \(4, 3\) in "):
            space.embedding(ParameterSpace(model, "stem"))
        with pytest.raises(TypeError, match="differ in dtype or device"):
            part.embedding(ParameterSpace(Net().to(space.device, torch.float64), "stem"))
        with pytest.raises(TypeError, match=r"embeds another ParameterSpace, got Net; take H\.parameters"):
            space.embedding(model)
