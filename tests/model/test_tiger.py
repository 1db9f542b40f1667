from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recbole_genrec.errors import UserError
from recbole_genrec.model import abstract
from recbole_genrec.model.tiger import TIGER
from recbole_genrec.quick_start import run
from recbole_genrec.tokenizer.residual_kmeans import ResidualKMeans
from recbole_genrec.tokenizer.rqvae import RQVAE
from recbole_genrec.trainer.optimizer import StageOptimizer, named_parameters

HISTORIES = [[1, 2, 3], [4], [5, 6]]
TARGETS = [4, 5, 7]


def hand_made_logits(model: TIGER, histories, targets) -> torch.Tensor:
    """Logits of the whole vocabulary [B, L, V], row by row, without padding."""
    tokens, rows = model.semantic_ids.tokens, []
    for history, target in zip(histories, targets):
        source = torch.cat([tokens[item] for item in history]).unsqueeze(0)
        mask = torch.ones_like(source, dtype=torch.bool)
        memory = model.seq2seq.encode(model.token_table(source), mask)
        inputs = torch.tensor([[0, *tokens[target][:-1].tolist()]])
        hidden = model.seq2seq.decode(model.token_table(inputs), memory, mask)
        rows.append(hidden[0] @ model.token_table.weight.T / 16**0.5)
    return torch.stack(rows)


def test_loss_is_the_cross_entropy_of_the_targets_tokens(make_experiment, make_batch):
    model = make_experiment("TIGER", softmax_scope="full").name_items()
    logits = hand_made_logits(model, HISTORIES, TARGETS)
    labels = model.semantic_ids.tokens[TARGETS]
    losses = model.losses(make_batch(HISTORIES, TARGETS))
    assert list(losses) == ["generation"]
    assert losses["generation"].item() == pytest.approx(
        F.cross_entropy(logits.flatten(0, 1), labels.flatten()).item(), abs=1e-5
    )


def test_loss_within_the_levels(make_experiment, make_batch):
    model = make_experiment("TIGER", softmax_scope="level").name_items()
    logits = hand_made_logits(model, HISTORIES, TARGETS)
    codes = model.semantic_ids.codes[TARGETS]
    levels = [logits[:, 0, 1:5], logits[:, 1, 5:9], logits[:, 2, 9:13], logits[:, 3, 13:23]]
    expected = (
        sum(F.cross_entropy(level, codes[:, index]).item() for index, level in enumerate(levels))
        / 4
    )
    assert model.losses(make_batch(HISTORIES, TARGETS))["generation"].item() == pytest.approx(
        expected, abs=1e-5
    )


def test_history_enters_with_all_its_tokens_oldest_first(make_experiment):
    model = make_experiment("TIGER").name_items()
    embeddings = model.embed_history(torch.tensor([[3, 1, 0]]))
    tokens = [
        *model.semantic_ids.tokens[3].tolist(),
        *model.semantic_ids.tokens[1].tolist(),
        0,
        0,
        0,
        0,
    ]
    assert torch.equal(embeddings, model.token_table(torch.tensor([tokens])))


def test_counter_tells_items_with_equal_codes_apart(make_experiment, make_batch):
    model = make_experiment("TIGER", n_beams=10).name_items()
    codes = model.semantic_ids.codes[1:, :3].clone()
    codes[:] = codes[0]
    model.semantic_ids.assign(codes)
    assert model.semantic_ids.codes[1:, 3].tolist() == list(range(10))
    first, second = model.predict(make_batch([[1], [2]], [5, 5])).tolist()
    assert abs(first - second) > 1e-5
    assert sorted(model.search(make_batch([[1]], [5]), 10).item_ids[:, :10][0].tolist()) == list(
        range(1, 11)
    )


def test_tokenizers(make_experiment):
    assert isinstance(make_experiment("TIGER").model.tokenizer, RQVAE)
    experiment = make_experiment("TIGER", tokenizer="residual_kmeans")
    assert isinstance(experiment.model.tokenizer, ResidualKMeans)
    assert experiment.model.tokenizer_stage().epochs == 0, "k-means has nothing to train"
    assert make_experiment("TIGER").model.tokenizer_stage().epochs == 4
    with pytest.raises(
        UserError,
        match=r"tokenizer is 'vq', but has to be one of rqvae, residual_kmeans, .*: choose one",
    ):
        make_experiment("TIGER", tokenizer="vq")


def test_settings_reach_the_tokenizer(make_experiment):
    given = dict(
        commitment_weight=0.4,
        quantization_reduction="mean",
        restart_every=3,
    )
    tokenizer = make_experiment("TIGER", **given).model.tokenizer
    found = (
        tokenizer.commitment_weight,
        tokenizer.reduction,
        tokenizer.restart_every,
    )
    assert found == (0.4, "mean", 3)


def test_stages_train_every_parameter_once(make_experiment):
    model = make_experiment("TIGER").model
    trained = [
        id(weight)
        for stage in model.stages()
        for group in stage.groups
        for weight in named_parameters(model, group)
    ]
    assert len(trained) == len(set(trained))
    assert set(trained) == {id(weight) for weight in model.parameters()}


def test_tokenizer_gets_no_gradient_from_the_recommender(make_experiment, make_batch):
    model = make_experiment("TIGER").name_items().train()
    model.calculate_loss(make_batch(HISTORIES, TARGETS)).backward()
    assert all(weight.grad is None for weight in model.tokenizer.parameters())
    for part in (model.seq2seq, model.token_table):
        assert all(weight.grad.abs().sum() > 0 for weight in part.parameters())


def test_learns_a_few_sequences_by_heart(make_experiment, make_batch):
    experiment = make_experiment("TIGER", weight_decay=0.0, scheduler="constant", warmup_epochs=0)
    model = experiment.name_items().train()
    histories, targets = (
        [[1, 2], [2, 1], [3], [4, 5, 6], [6, 5, 4], [7, 8], [9], [10, 1, 1]],
        [5, 3, 8, 8, 1, 2, 10, 4],
    )
    batch = make_batch(histories, targets)
    optimizer = StageOptimizer(model, model.recommender_stage(), "adamw", 1.0, 1)
    for step in range(150):
        optimizer.step(model.calculate_loss(batch), step)
    model.eval()
    assert model.calculate_loss(batch).item() < 0.1
    assert model.search(batch, 1).item_ids[:, :1].flatten().tolist() == targets


def test_random_codes_need_no_item_features(small_settings):
    settings = {
        **small_settings("TIGER"),
        "tokenizer": "random",
        "item_features": {"text": "missing.npy"},
        "epochs": 1,
    }
    result = run(model="TIGER", config_dict=settings)
    assert result["semantic_ids"]["collisions_before"] == 0.0
    assert result["stage_seconds"].keys() == {"tokenizer", "recommender"}


@pytest.mark.parametrize(
    ("model", "tokenizer"),
    [("TIGER", {}), ("TIGER", {"tokenizer": "residual_kmeans"}), ("UniGRec", {})],
)
def test_codes_that_may_be_equal_need_a_counter(make_experiment, monkeypatch, model, tokenizer):
    monkeypatch.setattr(abstract, "item_matrix", lambda *given: pytest.fail("features were made"))
    with pytest.raises(
        UserError, match="counter_size is 0, but the tokenizer may leave items with equal codes"
    ):
        make_experiment(model, counter_size=0, **tokenizer)


def test_random_codes_need_no_counter(make_experiment):
    model = make_experiment("TIGER", tokenizer="random", counter_size=0).model
    model.finish_tokenizer()
    assert model.semantic_ids.n_levels == model.config["n_levels"]
