"""The decoder is the lesson's: shapes, causality, weights counted, a numpy twin, and it learns to sort."""

import itertools
import math

import numpy as np
import pytest
import torch

from pipeline.report.network import Attention, Decoder, Size, causal_mask, heads_apart

SORT = Size(words=3, positions=11)


def _asymmetric(size: Size, seed: int = 0) -> Decoder:
    """A network whose every weight is random, biases and norms as well: no error can hide in a 0."""
    torch.manual_seed(seed)
    network = Decoder(size)
    with torch.no_grad():
        for weights in network.parameters():
            weights.normal_(0.0, 0.3)
    return network.eval()


def test_nano_sort_model_has_the_published_number_of_weights():
    network = Decoder(SORT)
    assert sum(p.numel() for p in network.parameters()) == SORT.parameters == 85_584


@pytest.mark.parametrize("size", [Size(50, 128), Size(7, 9, layers=2, heads=4, width=32)])
def test_weights_follow_the_formula(size):
    assert sum(p.numel() for p in Decoder(size).parameters()) == size.parameters


def test_a_later_word_changes_no_earlier_logit():
    network = _asymmetric(Size(words=20, positions=12))
    words = torch.randint(0, 20, (2, 12), generator=torch.Generator().manual_seed(1))
    before = network(words)
    for place in range(12):
        changed = words.clone()
        changed[:, place] = (changed[:, place] + 1) % 20
        after = network(changed)
        assert torch.equal(before[:, :place], after[:, :place])
        assert not torch.equal(before[:, place], after[:, place])


def test_heads_apart_sum_to_the_stacked_form():
    torch.manual_seed(3)
    attention = Attention(48, 3)
    x = torch.randn(2, 7, 48)
    parts = heads_apart(attention, x)
    assert len(parts) == 3
    together = sum(parts) + attention.project.bias
    assert (together - attention(x)).abs().max() < 1e-6


def test_attention_shares_sum_to_one_and_look_backwards_only():
    network = _asymmetric(Size(words=20, positions=12))
    seen: list[list[torch.Tensor]] = []
    network(torch.randint(0, 20, (2, 9)), seen)
    assert [len(block) for block in seen] == [3, 3, 3]
    for weights in itertools.chain.from_iterable(seen):
        assert weights.shape == (2, 9, 9)
        assert torch.allclose(weights.sum(2), torch.ones(2, 9), atol=1e-6)
        assert (weights[:, ~causal_mask(9)] == 0).all()


def test_a_numpy_forward_written_by_hand_agrees():
    network = _asymmetric(Size(words=13, positions=10), seed=5)
    words = np.random.default_rng(0).integers(0, 13, (3, 10))
    with torch.no_grad():
        ours = network(torch.from_numpy(words)).numpy()
    by_hand = np.stack([_forward(network, row) for row in words])
    assert np.abs(ours - by_hand).max() <= 1e-5 * max(1.0, np.abs(by_hand).max())


def test_a_width_that_heads_can_not_share_is_refused():
    with pytest.raises(ValueError, match="shared by 3 heads"):
        Attention(50, 3)


def _forward(network: Decoder, words: np.ndarray) -> np.ndarray:
    """The decoder again, in float64, one position after the other, without matrices of heads."""
    w = {name: p.detach().numpy().astype(np.float64) for name, p in network.named_parameters()}
    x = w["word_table.weight"][words] + w["position_table.weight"][: len(words)]
    for block in range(network.size.layers):
        at = f"blocks.{block}."
        y = _norm(x, w[at + "norm_1.weight"], w[at + "norm_1.bias"])
        qkv = y @ w[at + "attention.query_key_value.weight"].T
        qkv = qkv + w[at + "attention.query_key_value.bias"]
        heads = np.zeros_like(x)
        for t in range(len(words)):
            for h in range(network.size.heads):
                d = network.size.width // network.size.heads
                query = qkv[t, h * d : (h + 1) * d]
                keys = qkv[: t + 1, network.size.width + h * d : network.size.width + (h + 1) * d]
                start = 2 * network.size.width + h * d
                values = qkv[: t + 1, start : start + d]
                scores = keys @ query / math.sqrt(d)
                shares = np.exp(scores - scores.max())
                heads[t, h * d : (h + 1) * d] = (shares / shares.sum()) @ values
        x = x + heads @ w[at + "attention.project.weight"].T + w[at + "attention.project.bias"]
        y = _norm(x, w[at + "norm_2.weight"], w[at + "norm_2.bias"])
        y = y @ w[at + "mlp.up.weight"].T + w[at + "mlp.up.bias"]
        y = 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + y @ w[at + "mlp.down.weight"].T + w[at + "mlp.down.bias"]
    x = _norm(x, w["last_norm.weight"], w["last_norm.bias"])
    return x @ w["word_table.weight"].T


def _norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias


@pytest.mark.slow
def test_it_learns_to_sort_six_letters():
    """All 729 inputs of the sort task, several checks in a row (it flickers after the first 100 %)."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = Decoder(SORT)
    letters = torch.tensor(list(itertools.product(range(3), repeat=6)))
    texts = torch.cat([letters, letters.sort(1).values], 1)  # [729, 12]
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    in_a_row = 0
    for step in range(1, 1501):
        batch = texts[torch.randint(0, 729, (64,))]
        logits = network(batch[:, :-1])[:, 5:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 6:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if step % 25 == 0:
            in_a_row = in_a_row + 1 if _sorts(network, letters, texts) == 729 else 0
            if in_a_row == 2:
                break
    assert in_a_row == 2, f"not sorted twice in a row after {step} steps"


def _sorts(network: Decoder, letters: torch.Tensor, texts: torch.Tensor) -> int:
    written = letters
    with torch.no_grad():
        for _ in range(6):
            following = network(written)[:, -1].argmax(1)
            written = torch.cat([written, following[:, None]], 1)
    return int((written == texts).all(1).sum())
