from __future__ import annotations

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.tokenizer.clustering import kmeans
from recbole_genrec.tokenizer.residual_kmeans import (
    ResidualKMeans,
    fit_codebooks,
    quantize_by_nearest,
)


def tokenizer(**changes) -> ResidualKMeans:
    settings = dict(n_features=2, n_levels=2, codebook_size=2, kmeans_iterations=20)
    return ResidualKMeans(**{**settings, **changes})


def test_two_levels_by_hand():
    codebooks = torch.tensor([[[0.8, 0.0], [0.0, 1.0]], [[0.1, 0.0], [0.5, 0.0]]])
    result = quantize_by_nearest(torch.tensor([[1.0, 0.0], [0.5, 1.0]]), codebooks)
    assert result.codes.tolist() == [[0, 0], [1, 1]]
    torch.testing.assert_close(result.quantized, torch.tensor([[0.9, 0.0], [0.5, 1.0]]))
    torch.testing.assert_close(result.distances, torch.tensor([[0.04, 0.01], [0.25, 0.0]]))


def test_grid_of_items_is_coded_without_error():
    # Two far corners, each with two near items at the same offsets: one level for the corner, one
    # for the offset.
    features = torch.tensor([[0.0, -1.0], [0.0, 1.0], [100.0, -1.0], [100.0, 1.0]])
    model = tokenizer()
    model.start(features, seed=0)
    codes = model.encode(features)
    assert len(codes.unique(dim=0)) == 4
    assert codes[0, 0] == codes[1, 0] != codes[2, 0] == codes[3, 0]
    assert codes[0, 1] == codes[2, 1] != codes[1, 1] == codes[3, 1]
    assert model.report(features) == pytest.approx(
        {"explained_variance": 1.0, "distance_level_0": 1.0, "distance_level_1": 0.0}
    )


def test_every_level_lowers_the_error_and_beats_random_codebooks():
    features = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))
    codebooks = fit_codebooks(features, n_levels=3, codebook_size=32, seed=0, n_iterations=30)
    fitted = quantize_by_nearest(features, codebooks)
    error = fitted.distances.mean(dim=0)
    assert features.square().sum(1).mean() > error[0] > error[1] > error[2]
    random = torch.randn(3, 32, 8, generator=torch.Generator().manual_seed(1)) * codebooks.std(
        dim=(1, 2), keepdim=True
    )
    assert error[2] < quantize_by_nearest(features, random).distances[:, 2].mean()
    assert all(len(level.unique()) == 32 for level in fitted.codes.t())


def test_codes_survive_saving_and_there_is_no_gradient():
    features = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    model = tokenizer(codebook_size=5)
    model.start(features, seed=3)
    copy = tokenizer(codebook_size=5)
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.encode(features), model.encode(features))
    assert model.losses(features) == {}
    assert list(model.parameters()) == []
    assert model.end_epoch(features, epoch=0, seed=0) == 0


def test_seed_decides_the_codes():
    features = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    first, again, other = (tokenizer(codebook_size=16) for _ in range(3))
    for model, seed in ((first, 3), (again, 3), (other, 4)):
        model.start(features, seed=seed)
    assert torch.equal(first.encode(features), again.encode(features))
    assert not torch.equal(first.encode(features), other.encode(features))


def test_small_catalogue_is_an_error():
    with pytest.raises(UserError, match="catalogue of 3 items is smaller than codebook_size 4"):
        tokenizer(codebook_size=4).start(torch.randn(3, 2), seed=0)


def test_level_l_is_fitted_with_seed_plus_l():
    points = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    codebooks = fit_codebooks(points, n_levels=2, codebook_size=8, seed=5, n_iterations=1)
    first, assignments = kmeans(points, 8, seed=5, n_iterations=1)
    residual = points - first[assignments]
    assert torch.equal(codebooks[1], kmeans(residual, 8, seed=6, n_iterations=1)[0])
    assert not torch.equal(codebooks[1], kmeans(residual, 8, seed=4, n_iterations=1)[0])
