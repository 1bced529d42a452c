"""The callback for the Trainer of transformers, on a small GPT-2 with random values, and the loss of such models."""

import copy
import json
import logging
import types

import curvature_cases as cases
import pytest
import torch

import eigenspan as es

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install 'eigenspan[transformers]'"
)
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'eigenspan[transformers]'")

from eigenspan.studies.transformers import CurvatureCallback, own_loss  # noqa: E402 - needs them

# Of transformers itself: names of PyTorch and Python that it still uses, and pinned memory on a machine without a GPU.
pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory"),
]
LAST = "transformer.h.1.mlp"


def gpt2(attention="sdpa", seed=0, **changes):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=19,
        n_positions=12,
        n_embd=8,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=attention,
        **changes,
    )
    return transformers.GPT2LMHeadModel(config)


def batch(rows=6, seed=1):
    """Rows of twelve tokens, of which some have no label."""
    ids = torch.randint(19, (rows, 12), generator=torch.Generator().manual_seed(seed))
    labels = ids.clone()
    labels[0, 5:] = -100
    return {"input_ids": ids, "labels": labels}


BATCH = batch()


def rows_of(data):
    return [{name: tensor[i] for name, tensor in data.items()} for i in range(len(data["input_ids"]))]


def train(directory, callbacks, model=None, steps=4, resume=None, **options):
    model = gpt2() if model is None else model
    arguments = transformers.TrainingArguments(
        output_dir=str(directory / "trainer"),
        per_device_train_batch_size=2,
        max_steps=steps,
        learning_rate=0.05,
        seed=3,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
        **{"save_strategy": "no", **options},
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows_of(batch(24, seed=5)), callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return model


def recorded(directory):
    return json.loads((directory / "results.json").read_text())["records"]


def reference_hessian(model, data):
    """Of the last layer's MLP, row by row by double backward through the math kernel."""
    chosen = [parameter for name, parameter in model.named_parameters() if name.startswith(LAST)]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        first = torch.autograd.grad(model(**data).loss, chosen, create_graph=True)
    gradient = torch.cat([part.flatten() for part in first])
    rows = (torch.autograd.grad(entry, chosen, retain_graph=True) for entry in gradient)
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_records_are_those_of_the_dense_hessian(tmp_path, attention):
    """In float32, to 1e-4 of the largest eigenvalue: the reference rounds in each of its own products."""
    callback = CurvatureCallback(BATCH, tmp_path / "curvature", every=2, k=4, parameters=LAST)
    model = train(tmp_path, [callback], gpt2(attention))
    records = recorded(tmp_path / "curvature")
    assert [record["step"] for record in records] == [0, 2, 4]
    for record, network in ((records[0], gpt2(attention)), (records[-1], copy.deepcopy(model))):
        values = torch.linalg.eigvalsh(reference_hessian(network.eval(), BATCH).double())
        expected = values[values.abs().argsort(descending=True)][:4].tolist()
        assert record["eigenvalues"] == pytest.approx(expected, abs=1e-4 * abs(expected[0]))
        assert record["loss"] == pytest.approx(float(network(**BATCH).loss.detach()), rel=1e-6)
    assert (tmp_path / "curvature" / "report.html").exists()


@pytest.mark.parametrize("mode", [{"bf16": True}, {"gradient_checkpointing": True}], ids=str)
def test_other_ways_to_train_are_recorded_in_the_dtype_of_the_parameters(tmp_path, mode):
    callback = CurvatureCallback(BATCH, tmp_path / "curvature", steps=[4], k=4, parameters=LAST)
    network = copy.deepcopy(train(tmp_path, [callback], **mode)).float().eval()
    vars(network).pop("forward", None)  # of mixed precision
    (record,) = recorded(tmp_path / "curvature")
    values = torch.linalg.eigvalsh(reference_hessian(network, BATCH).double())
    expected = values[values.abs().argsort(descending=True)][:4].tolist()
    assert record["eigenvalues"] == pytest.approx(expected, abs=1e-4 * abs(expected[0]))


@pytest.mark.parametrize("mode", [{}, {"bf16": True}], ids=str)
def test_the_training_is_bit_for_bit_the_same(tmp_path, mode):
    """With dropout, of which GPT-2 has some by default."""
    plain = train(tmp_path / "plain", [], **mode)
    callback = CurvatureCallback(BATCH, tmp_path / "curvature", every=1, k=2, parameters=LAST)
    model = train(tmp_path, [callback], **mode)
    assert len(recorded(tmp_path / "curvature")) == 5
    for (name, ours), theirs in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert any(module.p > 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))


def test_a_training_that_is_resumed_goes_on(tmp_path):
    def callback():
        return CurvatureCallback(BATCH, tmp_path / "curvature", every=2, k=2, parameters=LAST)

    train(tmp_path, [callback()], steps=4, save_strategy="steps", save_steps=2)
    first = recorded(tmp_path / "curvature")
    train(tmp_path, [callback()], gpt2(seed=9), steps=4, resume=str(tmp_path / "trainer" / "checkpoint-2"))
    records = recorded(tmp_path / "curvature")
    assert [record["step"] for record in records] == [0, 2, 4]
    assert records[1]["eigenvalues"] == first[1]["eigenvalues"]


def test_a_model_without_a_second_derivative_trains_to_the_end(tmp_path, caplog):
    steps = []

    class Count(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            steps.append(state.global_step)

    callback = CurvatureCallback(BATCH, tmp_path / "curvature", every=1, k=2)
    model = gpt2()
    model.transformer.h[0].mlp.act = cases.Applied(cases.Once.apply)
    train(tmp_path, [callback, Count()], model)
    assert steps == [1, 2, 3, 4]
    warned = [entry for entry in caplog.records if entry.name == "eigenspan" and entry.levelno >= logging.WARNING]
    assert len(warned) == 1
    assert not (tmp_path / "curvature" / "results.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"), [({"steps": [-1]}, "numbers from 0 on"), ({"every": 1, "seconds": -1}, "more than 0")]
)
def test_wrong_schedules_and_options_are_refused_at_once(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        CurvatureCallback(BATCH, tmp_path, **changes)


def test_batches_that_are_no_arguments_are_refused_at_once(tmp_path):
    pair = (BATCH["input_ids"], BATCH["labels"])
    with pytest.raises(TypeError, match=r"a mapping of its arguments, .*got a tuple: give one, or loss="):
        CurvatureCallback(pair, tmp_path, every=1)
    CurvatureCallback(pair, tmp_path, every=1, loss=torch.nn.CrossEntropyLoss())  # which takes what its loss does
    with pytest.raises(TypeError, match=r"input_ids, labels of the data are lists.*return_tensors=\"pt\""):
        CurvatureCallback({name: tensor.tolist() for name, tensor in BATCH.items()}, tmp_path, every=1)


def test_a_model_that_computes_no_loss_of_a_batch_says_what_is_missing(tmp_path, caplog):
    callback = CurvatureCallback({"input_ids": BATCH["input_ids"]}, tmp_path / "curvature", every=1, parameters=LAST)
    train(tmp_path, [callback])
    (entry,) = [entry for entry in caplog.records if entry.name == "eigenspan"]
    found = "GPT2LMHeadModel computes no loss of batches with the keys input_ids: add labels, or give loss="
    assert found in entry.getMessage()


def test_making_one_draws_no_random_numbers(tmp_path):
    """A loader draws a seed each time that it is gone through."""
    state = torch.get_rng_state()
    CurvatureCallback(torch.utils.data.DataLoader(rows_of(BATCH), batch_size=2, shuffle=True), tmp_path, every=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_selection_that_matches_nothing_ends_the_training_before_its_first_step(tmp_path):
    model = gpt2()
    with pytest.raises(ValueError, match="matches no parameter"):
        train(tmp_path, [CurvatureCallback(BATCH, tmp_path / "curvature", every=1, parameters="lora")], model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), gpt2().parameters(), strict=True))


def test_only_the_first_rank_records(tmp_path):
    callback, state = CurvatureCallback(BATCH, tmp_path / "curvature", every=1, k=2), types.SimpleNamespace()
    state.is_world_process_zero, state.global_step = False, 0
    for hook in (callback.on_train_begin, callback.on_step_end, callback.on_train_end):
        hook(None, state, None, model=gpt2())
    assert not (tmp_path / "curvature").exists()


# -- the loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_of_batches_is_the_mean_over_all_predicted_labels():
    model = gpt2().eval()
    parts = [{name: tensor[rows] for name, tensor in BATCH.items()} for rows in (slice(0, 1), slice(1, 6))]
    H = es.Hessian(model, own_loss(model), parts, parameters=LAST)
    logits = model(BATCH["input_ids"]).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, BATCH["labels"][:, 1:].flatten())
    assert H.loss() == pytest.approx(float(expected.detach()), rel=1e-6)
    mean = sum(float(model(**part).loss.detach()) for part in parts) / 2
    assert abs(mean - H.loss()) > 1e-3  # which the mean of both losses is not
    whole = es.Hessian(model, own_loss(model), BATCH, parameters=LAST)
    V = torch.randn(H.shape[0], 2)
    torch.testing.assert_close(H @ V, whole @ V, rtol=1e-4, atol=1e-5)


def test_a_smoothing_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"label_smoothing is in \[0, 1\), got 1.5"):
        own_loss(gpt2(), 1.5)


def test_the_loss_of_a_classifier_is_the_mean_over_samples():
    config = gpt2().config
    config.num_labels, config.pad_token_id = 3, 0
    torch.manual_seed(4)
    model = transformers.GPT2ForSequenceClassification(config).eval()
    data = {"input_ids": BATCH["input_ids"].clamp(min=1), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}
    parts = [{name: tensor[rows] for name, tensor in data.items()} for rows in (slice(0, 2), slice(2, 6))]
    H = es.Hessian(model, own_loss(model), parts, parameters="score")
    assert H.loss() == pytest.approx(float(model(**data).loss.detach()), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_the_smoothed_loss_is_that_of_the_trainer(tmp_path, smoothing):
    """By the trainer's own, of labels some of which are ignored; and it is the one that a training records."""
    model = gpt2().eval()
    labels = BATCH["labels"].clone()
    labels[0, 2:] = -100
    data = {**BATCH, "labels": labels}
    parts = [{name: tensor[rows] for name, tensor in data.items()} for rows in (slice(0, 1), slice(1, 6))]
    smoother = transformers.trainer_pt_utils.LabelSmoother(epsilon=smoothing)
    expected = float(smoother(model(input_ids=data["input_ids"]), labels, shift_labels=True).detach())
    H = es.Hessian(model, own_loss(model, smoothing), parts, parameters=LAST)
    assert H.loss() == pytest.approx(expected, rel=1e-6)
    assert abs(expected - float(model(**data).loss.detach())) > 1e-4
    callback = CurvatureCallback(data, tmp_path / "curvature", steps=[0], k=4, parameters=LAST)
    train(tmp_path, [callback], gpt2(), steps=1, label_smoothing_factor=smoothing)
    assert recorded(tmp_path / "curvature")[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_labels_that_are_predicted_where_they_stand_all_count():
    torch.manual_seed(4)
    config = transformers.BertConfig(
        vocab_size=19, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = transformers.BertForMaskedLM(config).eval()
    parts = [{name: tensor[rows] for name, tensor in BATCH.items()} for rows in (slice(0, 1), slice(1, 6))]
    H = es.Hessian(model, own_loss(model), parts, parameters="cls.predictions.transform")
    assert H.loss() == pytest.approx(float(model(**BATCH).loss.detach()), rel=1e-6)


@pytest.mark.parametrize("kind", [dict, tuple])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_models_that_return_mappings_or_tuples_are_taken_as_a_trainer_takes_them(kind, smoothing):
    torch.manual_seed(4)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(6, 3)

        def forward(self, inputs, labels=None):
            logits = self.head(inputs)
            parts = {} if labels is None else {"loss": torch.nn.functional.cross_entropy(logits, labels)}
            parts["logits"] = logits
            return parts if kind is dict else tuple(parts.values())

    model, data = Classifier(), {"inputs": torch.randn(6, 6), "labels": labels}
    H = es.Hessian(model, own_loss(model, smoothing), data)
    expected = torch.nn.functional.cross_entropy(model.head(data["inputs"]), labels, label_smoothing=smoothing)
    assert H.loss() == pytest.approx(float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize("kind", ["NextSentencePrediction", "MultipleChoice", "QuestionAnswering"])
def test_heads_with_one_label_a_row_or_none_weigh_by_rows(tmp_path, kind):
    torch.manual_seed(4)
    config = transformers.BertConfig(
        vocab_size=19, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = getattr(transformers, f"BertFor{kind}")(config).eval()
    answers = torch.tensor([0, 1, 1, 0, 1, 0])
    data = {"input_ids": BATCH["input_ids"], "labels": answers}
    if kind == "MultipleChoice":
        data["input_ids"] = data["input_ids"].view(6, 2, 6)
    if kind == "QuestionAnswering":
        data = {"input_ids": BATCH["input_ids"], "start_positions": answers, "end_positions": answers + 2}
    parts = [{name: tensor[rows] for name, tensor in data.items()} for rows in (slice(0, 1), slice(1, 6))]
    CurvatureCallback(data, tmp_path, every=1)  # whatever the answers are called
    H = es.Hessian(model, own_loss(model), parts, parameters="bert.encoder")
    assert H.loss() == pytest.approx(float(model(**data).loss.detach()), rel=1e-6)
