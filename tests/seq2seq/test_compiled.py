from __future__ import annotations

import pytest
import torch

from recbole_genrec.errors import UserError
from recbole_genrec.model.unger.transformer import Transformer, TransformerSize
from recbole_genrec.seq2seq.compiled import check_compiler, compiled
from recbole_genrec.seq2seq.t5 import T5, T5Size

N_USERS, N_TOKENS, N_BEAMS, WIDTH = 3, 7, 4, 8
SEQ2SEQ = {
    "T5": lambda: T5(T5Size(WIDTH, 16, 1, 2, 4, 0.1, 0.1)),
    "Transformer": lambda: Transformer(
        TransformerSize(WIDTH, 16, 1, 1, 2, 4, 0.1, 0.1, N_TOKENS, 5)
    ),
}


def decode(encode, step, seq2seq) -> list[torch.Tensor]:
    """Return encoder states of padded histories and three steps; the later two follow parents."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(N_TOKENS) < torch.tensor([[N_TOKENS], [3], [1]])
    memory = encode(torch.randn(N_USERS, N_TOKENS, WIDTH, generator=generator), mask)
    cache, found = seq2seq.start_cache(memory, mask), [memory[mask]]
    for level, width in enumerate((1, N_BEAMS, N_BEAMS)):
        if level:
            cache.follow(
                torch.randint(1 if level == 1 else N_BEAMS, (N_USERS, width), generator=generator)
            )
        found.append(step(torch.randn(N_USERS, width, WIDTH, generator=generator), cache))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SEQ2SEQ)
@torch.no_grad()
def test_compiled_parts_compute_the_same(name):
    try:
        check_compiler(torch.device("cpu"))
    except UserError:
        pytest.skip("torch.compile needs a C++ compiler")
    seq2seq = SEQ2SEQ[name]().eval()
    parts = compiled(seq2seq)
    assert parts.encode != seq2seq.encode and parts.step != seq2seq.step
    before = decode(*parts, seq2seq)
    for ours, plain in zip(before, decode(seq2seq.encode, seq2seq.step, seq2seq)):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    # Weights that change in place, as by an optimizer, or are loaded must not stay in the kernels.
    for weight in seq2seq.parameters():
        weight.mul_(1.5)
    seq2seq.load_state_dict({name: 0.9 * weight for name, weight in seq2seq.state_dict().items()})
    after = decode(*parts, seq2seq)
    assert not any(torch.allclose(one, other, atol=1e-2) for one, other in zip(before, after))
    for ours, plain in zip(after, decode(seq2seq.encode, seq2seq.step, seq2seq)):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


def test_a_machine_that_cannot_compile_is_refused(monkeypatch):
    def fail(function):
        raise RuntimeError("no g++\nand a long trace")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(
        UserError, match=r"does not work here \(no g\+\+\): .* set compile_search to False"
    ):
        check_compiler(torch.device("cpu"))
