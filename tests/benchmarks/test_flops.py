from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import forward_flops, training_flops
from recbole_genrec.seq2seq.t5 import T5, T5Size

SIZE = T5Size(24, 40, 3, 2, 16, 0.0, 0.0)  # heads of 32 columns together, a hidden size of 24
N_ROWS, LENGTH, N_TARGETS, N_TOKENS = 5, 7, 4, 50


def test_a_row_by_hand():
    size = T5Size(1, 1, 1, 1, 1, 0.0, 0.0)
    # Encoder, 3 tokens: 4 projections and 2 feed-forward products of 2 operations each; scores and
    # sums of 9 pairs.
    encoder = 3 * 6 * 2 + 9 * 4
    # Decoder, 2 tokens: 6 projections (of cross-attention query and output) and 2 products; 4 own
    # pairs; keys and values of 3; 6 pairs.
    decoder = 2 * 8 * 2 + 4 * 4 + 3 * 2 * 2 + 6 * 4
    assert forward_flops(size, torch.tensor([3]), [10, 20]) == encoder + decoder + 2 * 10 + 2 * 20


def test_rows_add_up_and_backward_is_twice_forward():
    rows = [forward_flops(SIZE, torch.tensor([tokens]), [9, 8]) for tokens in (1, 4, 30)]
    assert forward_flops(SIZE, torch.tensor([1, 4, 30]), [9, 8]) == sum(rows)
    assert training_flops(SIZE, torch.tensor([1, 4, 30]), [9, 8]) == 3 * sum(rows)


def test_equals_the_products_that_torch_counts_in_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=N_TOKENS,
        d_model=24,
        d_ff=40,
        d_kv=16,
        num_layers=3,
        num_decoder_layers=3,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config)
    source, target = (
        torch.randint(1, N_TOKENS, (N_ROWS, LENGTH)),
        torch.randint(1, N_TOKENS, (N_ROWS, N_TARGETS)),
    )
    arguments = (SIZE, torch.full((N_ROWS,), LENGTH), [N_TOKENS] * N_TARGETS)
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=source, labels=target).loss
    assert counter.get_total_flops() == forward_flops(*arguments)
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    assert counter.get_total_flops() == training_flops(*arguments) - forward_flops(*arguments)


def test_equals_the_products_that_torch_counts_in_our_t5():
    """To a few per cent: a faster way to the same result may save some of them."""
    model, table = T5(SIZE), torch.nn.Embedding(N_TOKENS, 24)
    source, target = (
        torch.randint(1, N_TOKENS, (N_ROWS, LENGTH)),
        torch.randint(1, N_TOKENS, (N_ROWS, N_TARGETS)),
    )
    mask = torch.ones_like(source, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter:
        hidden = model.decode(table(target), model.encode(table(source), mask), mask)
        F.cross_entropy((hidden @ table.weight.T).flatten(0, 1), target.flatten()).backward()
    expected = training_flops(SIZE, torch.full((N_ROWS,), LENGTH), [N_TOKENS] * N_TARGETS)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.05)
