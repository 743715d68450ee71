"""The report writer's network: a GPT decoder of nano size, one step of the lesson per line.

Read it from :class:`Decoder` downwards. Words become vectors, three blocks let every position look
at the positions before it (attention) and think about what it saw (the MLP), and the last line
turns each vector into one number per word: how well that word would come next.

Letters at the end of a name say its shape, from left to right:

=====  ===========================  =====================
b      batch: texts side by side    any
t      time: positions of a text    any up to ``positions``
s      time again: the positions that are looked at
c      channels: the width          48
k      query, key and value         144 = 3 x 48
d      one head's share of them     16 = 48 / 3
m      the MLP's inner width        192 = 4 x 48
v      words known                  set by the vocabulary
=====  ===========================  =====================

The design is GPT-2's (Radford et al. 2019): normalisation before each step, learned positions,
biases everywhere, GELU in its tanh form (Hendrycks & Gimpel 2016), and a head that is the table of
words itself. It has 12 L c^2 + 13 L c + (v + positions + 2) c weights.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Size:
    """How large the decoder is. ``words`` and ``positions`` come from the vocabulary."""

    words: int
    positions: int
    layers: int = 3
    heads: int = 3
    width: int = 48

    @property
    def parameters(self) -> int:
        """Return the number of weights, by the formula in the module's text."""
        squares = 12 * self.layers * self.width**2
        lines = (13 * self.layers + self.words + self.positions + 2) * self.width
        return squares + lines


class Decoder(nn.Module):  # type: ignore[misc]
    """From words to the logits of the next word.

    ``forward(words_bt)`` takes token numbers, int64 [b, t], and returns logits, float32 [b, t, v]:
    row t scores the word that follows position t, knowing positions 0..t only.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.word_table = nn.Embedding(size.words, size.width)
        self.position_table = nn.Embedding(size.positions, size.width)
        self.blocks = nn.ModuleList(Block(size.width, size.heads) for _ in range(size.layers))
        self.last_norm = nn.LayerNorm(size.width)
        self._draw_weights()

    def forward(self, words_bt: Tensor, attention: list[list[Tensor]] | None = None) -> Tensor:
        """Return the logits of the next word at every position, float32 [b, t, v].

        Parameters
        ----------
        words_bt
            Token numbers, int64 [b, t], t at most ``size.positions``.
        attention
            An empty list to be filled, for teaching: one list per block, in it one
            [b, t, s] tensor per head, whose rows sum to 1 and look only backwards.
        """
        positions_t = torch.arange(words_bt.shape[1], device=words_bt.device)
        x_btc = self.word_table(words_bt)  # what each word means ............ [b, t, 48]
        x_btc = x_btc + self.position_table(positions_t)  # and where it stands  [b, t, 48]
        for block in self.blocks:
            seen: list[Tensor] | None = None if attention is None else []
            x_btc = block(x_btc, seen)  # look back, think ................... [b, t, 48]
            if attention is not None and seen is not None:
                attention.append(seen)
        x_btc = self.last_norm(x_btc)  # ..................................... [b, t, 48]
        logits_btv: Tensor = x_btc @ self.word_table.weight.T  # the tied head  [b, t, v]
        return logits_btv

    def _draw_weights(self) -> None:
        # normal with deviation 1/sqrt(c), so that a sum over c channels has the size of one; what
        # is added to the residual stream is scaled down by the root of the number of additions
        # (two per block, GPT-2's rule), so that depth doesn't make it grow
        deviation = 1 / math.sqrt(self.size.width)
        additions = math.sqrt(2 * self.size.layers)
        for name, weights in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weights)
            elif "norm" in name:
                nn.init.ones_(weights)
            else:
                adds = name.endswith(("project.weight", "down.weight"))
                nn.init.normal_(weights, std=deviation / additions if adds else deviation)


class Block(nn.Module):  # type: ignore[misc]
    """Attention, then the MLP; each reads a normalised copy and adds its answer to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x_btc: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """Return the stream with both answers added, float32 [b, t, c]."""
        x_btc = x_btc + self.attention(self.norm_1(x_btc), seen)  # [b, t, 48]
        return x_btc + self.mlp(self.norm_2(x_btc))  # ............ [b, t, 48]


class Attention(nn.Module):  # type: ignore[misc]
    """Every position asks a question, and takes the values of the earlier positions that answer it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} can't be shared by {heads} heads")
        self.heads = heads
        self.head_width = width // heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x_btc: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """Return what each position learned from the ones before it, float32 [b, t, c]."""
        allowed_ts = causal_mask(x_btc.shape[1], x_btc.device)
        qkv_btk = self.query_key_value(x_btc)  # ................................ [b, t, 144]
        queries_btc, keys_btc, values_btc = qkv_btk.chunk(3, dim=2)  # .......... 3 x [b, t, 48]
        answers_btd = []
        for head in range(self.heads):
            columns = slice(head * self.head_width, (head + 1) * self.head_width)
            q_btd = queries_btc[:, :, columns]  # what I am looking for ......... [b, t, 16]
            k_bsd = keys_btc[:, :, columns]  # what I can be found by ........... [b, s, 16]
            v_bsd = values_btc[:, :, columns]  # what I tell who finds me ....... [b, s, 16]
            # a sum of 16 products spreads like sqrt(16); divided by it, softmax stays soft
            scores_bts = q_btd @ k_bsd.transpose(1, 2) / math.sqrt(self.head_width)  # [b, t, s]
            scores_bts = scores_bts.masked_fill(~allowed_ts, -math.inf)  # the future is hidden
            weights_bts = scores_bts.softmax(dim=2)  # shares that sum to 1 ..... [b, t, s]
            answers_btd.append(weights_bts @ v_bsd)  # ......................... [b, t, 16]
            if seen is not None:
                seen.append(weights_bts.detach())
        together_btc = torch.cat(answers_btd, dim=2)  # heads side by side ...... [b, t, 48]
        mixed_btc: Tensor = self.project(together_btc)  # ....................... [b, t, 48]
        return mixed_btc


class Mlp(nn.Module):  # type: ignore[misc]
    """What a position makes of what it saw: 192 small detectors, and what each of them adds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU(approximate="tanh")
        self.down = nn.Linear(4 * width, width)

    def forward(self, x_btc: Tensor) -> Tensor:
        """Return the MLP's answer at every position, float32 [b, t, c]."""
        inner_btm = self.gelu(self.up(x_btc))  # [b, t, 192]
        answer_btc: Tensor = self.down(inner_btm)  # [b, t, 48]
        return answer_btc


def causal_mask(time: int, device: torch.device | None = None) -> Tensor:
    """Return which position (row t) may look at which (column s): bool [t, s], s <= t."""
    positions = torch.arange(time, device=device)
    return positions[None, :] <= positions[:, None]


def heads_apart(attention: Attention, x_btc: Tensor) -> list[Tensor]:
    """Return each head's own contribution to the attention's answer, ``heads`` x [b, t, c].

    The projection's 48 columns are the heads' matrices side by side, so the answer is a sum:
    ``sum_h A_h V_h W_h^T + bias``, with A_h the shares, V_h the values and W_h = W[:, 16h:16h+16].
    It shows which head wrote what into the stream; the answer itself needs no such parting.
    """
    seen: list[Tensor] = []
    attention(x_btc, seen)
    values_bsc = attention.query_key_value(x_btc).chunk(3, dim=2)[2]
    parts = []
    for head, weights_bts in enumerate(seen):
        columns = slice(head * attention.head_width, (head + 1) * attention.head_width)
        up_cd = attention.project.weight[:, columns]  # [48, 16]
        parts.append(weights_bts @ values_bsc[:, :, columns] @ up_cd.T)  # [b, t, 48]
    return parts
