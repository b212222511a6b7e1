"""Words for labels, found in the vocabulary (LM-BFF, Gao et al. 2021, arXiv:2012.15723, section 5.1).

For each class the words with the highest mean log-probability in the label's place over a few training rows of that
class; then the combinations that tell these rows apart best. Which of them is best is for development rows to say.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tunery.data import cloze
from tunery.decide.candidates import Candidate
from tunery.decide.prompt_scores import ClozeScorer
from tunery.errors import ConfigError
from tunery.models import cloze as models

LIKELY = 100
"""Words of each class that are looked at: those that the model itself would write."""
COMBINATIONS = 20_000
FEWEST = 2
"""Letters of a word; where the label is Chinese, one character is a word."""
BATCH, HALF = 32, 0.5


def search(scorer: ClozeScorer, candidate: Candidate, count: int) -> list[dict[str, list[str]]]:
    """The best ``count`` verbalisers on these training rows, best first, and one of their words together.

    Words are whole (one token in the label's place, which the model does not go on spelling) and distinct. Of the
    likely words of a class those are combined whose log-probability is most above the mean of the other classes:
    likely words of all classes are the same ones.
    """
    rows = scorer.material.pool
    labels = scorer.material.task.labels
    targets = torch.tensor([labels.index(str(row.label)) for row in rows])
    if len(set(targets.tolist())) < len(labels):
        return []
    shares = scorer.vocabulary(candidate, rows)
    means = torch.stack([shares[targets == label].mean(0) for label in range(len(labels))])
    few = max(1, min(LIKELY, int(COMBINATIONS ** (1 / len(labels)))))
    words = [_words(scorer, candidate, means, label) for label in range(len(labels))]
    begun = _begun(scorer, candidate, sorted({token for found in words for token, _ in found}))
    words = [[word for word in found if word[0] not in begun][:few] for found in words]
    if not all(words):
        return []
    best = _combine(shares, targets, words, count)
    found = [{name: [word] for name, (_, word) in zip(labels, chosen, strict=True)} for chosen in best]
    return [*found, *_together(found)]


def _words(scorer: ClozeScorer, candidate: Candidate, means: Tensor, label: int) -> list[tuple[int, str]]:
    """Token id and text of the likely words of a class, the most telling first."""
    tokenizer = scorer.material.base.tokenizer
    others = (means.sum(0) - means[label]) / (len(means) - 1)
    likely: list[int] = []
    texts: dict[int, str] = {}
    template = cloze.parse(str(candidate.task["template"]))
    for token in means[label].argsort(descending=True)[: 10 * LIKELY].tolist():
        text = tokenizer.decode([token]).strip()
        if not text.isalpha() or (text.isascii() and len(text) < FEWEST):
            continue
        try:
            ids = cloze.word_ids(template, [text], tokenizer)
        except ConfigError:
            continue
        if ids == [(token,)] and text not in texts.values():
            likely.append(token)
            texts[token] = text
        if len(likely) == LIKELY:
            break
    likely.sort(key=lambda token: float(others[token] - means[label, token]))
    return [(token, texts[token]) for token in likely]


@torch.inference_mode()
def _begun(scorer: ClozeScorer, candidate: Candidate, tokens: Sequence[int]) -> set[int]:
    """Those that are only the beginning of a word: after them a causal model mostly goes on with letters.

    Masked models put one token in the place of one mask, and scripts without spaces have no such beginnings.
    """
    material = scorer.material
    task = scorer.made(candidate)
    task.bind(material.base)  # type: ignore[attr-defined]
    texts = {token: material.base.tokenizer.decode([token]).strip() for token in tokens}
    asked = [token for token in tokens if texts[token].isascii()]
    if material.base.family != "decoder" or not asked:
        return set()
    letters = _letters(material.base.tokenizer)
    blank = task.blanks(material.model, soft=False)[0]  # type: ignore[attr-defined]
    ids, _, _ = models.put(material.model, blank, (), cut=True)
    found = set()
    for begin in range(0, len(asked), BATCH):
        part = ids.new_tensor(asked[begin : begin + BATCH]).unsqueeze(1)
        read = torch.cat([ids.expand(len(part), -1), part], 1)
        logits = material.model(input_ids=read, use_cache=False, logits_to_keep=ids.new_tensor([-1])).logits[:, -1]
        on = logits.float().softmax(-1)[:, : len(letters)][:, letters.to(logits.device)].sum(1)
        found |= {token for token, share in zip(asked[begin:], on.tolist(), strict=False) if share > HALF}
    return found


def _letters(tokenizer: Any) -> Tensor:
    """[vocabulary], true for tokens that go on with the word before them."""
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return torch.tensor([bool(name) and name[0].isascii() and name[0].isalpha() for name in names])


def _combine(
    shares: Tensor, targets: Tensor, words: list[list[tuple[int, str]]], count: int
) -> list[tuple[tuple[int, str], ...]]:
    """The combinations that are right on most rows, then with the smallest loss; no word for two classes."""
    combinations = [
        chosen for chosen in itertools.product(*words) if len({token for token, _ in chosen}) == len(chosen)
    ]
    found: list[tuple[int, float, int]] = []
    for begin in range(0, len(combinations), 1000):
        part = combinations[begin : begin + 1000]
        ids = torch.tensor([[token for token, _ in chosen] for chosen in part])
        logits = shares[:, ids]  # [rows, combinations, classes]
        right = (logits.argmax(-1) == targets[:, None]).sum(0)
        losses = -logits.log_softmax(-1)[torch.arange(len(targets)), :, targets].mean(0)
        found += [(-int(r), float(loss), begin + i) for i, (r, loss) in enumerate(zip(right, losses, strict=True))]
    return [combinations[number] for *_, number in sorted(found)[:count]]


def _together(found: Sequence[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
    """All words of the best combinations: what one word says by chance the others do not. None if they overlap."""
    merged = {label: list(dict.fromkeys(w for words in found for w in words[label])) for label in (found or [{}])[0]}
    every = [word for words in merged.values() for word in words]
    return [merged] if len(set(every)) == len(every) and merged not in found else []
