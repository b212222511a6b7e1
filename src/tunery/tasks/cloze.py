"""Classification by the words a language model puts into a template (PET, LM-BFF), trained or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from tunery.data import balance
from tunery.errors import ConfigError, DataError, ModelError, near
from tunery.protocols import SOFT, Batch, Encoded, Example, Position, Prediction, Strict, Task

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from tunery.data.cloze import Template

ONE, PAIR = "Text: {text}\nLabel: {label}", "Text: {text}\nText 2: {text_pair}\nLabel: {label}"
KINDS = {"encoder": "masked_lm", "decoder": "causal_lm", "encoder-decoder": "seq2seq_lm"}
SENTINEL = "<extra_id_0>"
BLANKS = ("N/A", "")
"""Texts that say nothing, beside the mask token (Zhao et al. 2021)."""
_UNCUT = 1 << 30
_VERBALISER = "task.verbaliser"


class Cloze(Task):
    """Cross-entropy over the labels' scores.

    A word's score is the sum of the log-probabilities of its tokens: in the place of as many masks (masked models),
    after what stands before it, with all that follows it (causal models), or after the sentinel (T5). A label's score
    is the log of its words' mean probability. Schick & Schütze 2020, arXiv:2001.07676; Gao et al. 2020,
    arXiv:2012.15723; calibration: Zhao et al. 2021, arXiv:2102.09690.
    """

    class Config(Strict):
        name: Literal["cloze"] = "cloze"
        template: str | None = Field(
            None,
            description="text with {text}, {text_pair} and {label}, as 'Review: {text} | Sentiment: {label}', and "
            "[soft:n] for soft tokens; a brace is written twice; default: a line for each text and the label",
        )
        verbaliser: dict[str, list[str]] | None = Field(
            None, description="words for each label, {positive: [great, good], …}; default: the labels themselves"
        )
        calibrate: bool = Field(
            False, description="when evaluating, take away what the model says of texts that say nothing"
        )

        @field_validator("template")
        @classmethod
        def _parsed(cls, value: str | None) -> str | None:
            """Raises ConfigError."""
            from tunery.data import cloze

            if value is not None:
                cloze.parse(value)
            return value

        @field_validator("verbaliser", mode="before")
        @classmethod
        def _texts(cls, value: Any) -> Any:
            """One word needs no list; labels and words that look like numbers or booleans are texts."""
            if not isinstance(value, Mapping):
                return value
            listed = {key: words if isinstance(words, list) else [words] for key, words in value.items()}
            return {_text(key): [_text(word) for word in words] for key, words in listed.items()}

        @field_validator("verbaliser")
        @classmethod
        def _distinct(cls, value: dict[str, list[str]] | None) -> dict[str, list[str]] | None:
            """Raises ConfigError."""
            seen: set[str] = set()
            for label, words in (value or {}).items():
                for word in words:
                    if not word.strip() or word != word.strip():
                        hint = "write it without spaces around it"
                        raise ConfigError(f"{word!r} is no word for label {label!r}", hint, _VERBALISER)
                    if word in seen:
                        raise ConfigError(f"the word {word!r} stands twice", "give each label its own", _VERBALISER)
                    seen.add(word)
                if not words:
                    raise ConfigError(f"no word for label {label!r}", f"write {label}: [word]", _VERBALISER)
            return value

    summary = "a label by the word a language model fills in: few rows, or none"
    formats: ClassVar[tuple[str, ...]] = ("labels",)
    metrics: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "f1_weighted",
        "f1_macro",
        "precision_macro",
        "recall_macro",
        "loss",
    )
    kinds: ClassVar[tuple[str, ...]] = ("classes", "loss")
    monitor = "accuracy"
    output = "logits"
    language_head = True
    default_max_length = 256

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.labels: tuple[str, ...] = ()
        self.named = False
        """Whether the user gave the labels."""
        self.uneven = False
        """Whether there are so many more rows of one label than of another that accuracy says little."""
        self._counts: Counter[str] = Counter()
        self.default = ONE
        self._words: list[tuple[int, ...]] = []
        self._owners: list[int] = []
        """Which label each of the words belongs to."""
        self._kind, self._mark = "", 0
        self._tokenizer: Any = None
        self._last: tuple[Example | None, int, int] = (None, 0, 0)
        """The example encoded last, and where in its row the texts end and the label begins."""

    # ------------------------------------------------------------------------------------ labels and words

    def fit(self, examples: Sequence[Example], labels: Sequence[str] | None = None) -> None:
        """Raises DataError: fewer than two labels, several in a row. ConfigError: the verbaliser has other labels."""
        several = next((example for example in examples if isinstance(example.label, tuple)), None)
        if several is not None:
            raise DataError("several labels in one row", "task=classify takes such rows", several.where)
        counts = Counter(str(example.label) for example in examples if example.label is not None)
        if len(counts) < 2:
            raise DataError(
                f"all {len(examples)} training rows have the same label {next(iter(counts), 'none')!r}",
                "rows of at least two labels are needed",
                examples[0].where if examples else "",
            )
        self.named = bool(labels)
        self.labels = tuple(labels or sorted(counts))
        self._counts = counts
        self.uneven = balance.ratio(counts) > balance.UNEVEN
        self._choose()
        if self.uneven:
            self.notes = (balance.note(counts, self.monitor),)
        self.default = PAIR if any(example.text_pair is not None for example in examples) else ONE
        words = self.config.verbaliser
        if words is None:
            return
        for label in self.labels:
            if label not in words:
                hint = near(label, [w for w in words if w not in self.labels]) if set(words) - set(self.labels) else ""
                raise ConfigError(f"no words for the label {label!r}", hint or f"add {label}: [word]", _VERBALISER)
        for label in words:
            if label not in self.labels:
                raise ConfigError(f"{label!r} is no label of the data", near(label, list(self.labels)), _VERBALISER)

    def balance(self) -> None:
        self.class_weights = balance.weights(self._counts, self.labels)

    def _choose(self) -> None:
        """Uneven classes are judged by the mean of the classes first."""
        if self.uneven:
            self.monitor = "f1_macro"  # type: ignore[misc]
            self.metrics = tuple(dict.fromkeys((self.monitor, *self.metrics)))  # type: ignore[misc]

    def check(self, example: Example) -> str | None:
        if isinstance(example.label, tuple):
            return "several labels in one row"
        where = "in data.labels" if self.named else "among the training rows"
        unknown = example.label is not None and str(example.label) not in self.labels
        return f"label {example.label!r} is not {where}" if unknown else None

    def state(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "default": self.default, "uneven": self.uneven}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.labels, self.default = tuple(state["labels"]), state["default"]
        self.uneven = state.get("uneven", False)  # runs of version 0.1.0 do not say
        self._choose()

    @property
    def template(self) -> Template:
        from tunery.data import cloze

        return cloze.parse(self.config.template or self.default)

    @property
    def words(self) -> dict[str, list[str]]:
        """The words of each label."""
        given = self.config.verbaliser
        return {label: given[label] if given else [label] for label in self.labels}

    def _prepare(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Tokenise the words, once. Raises ConfigError."""
        from tunery.data import cloze

        if self._tokenizer is tokenizer:
            return
        self._words = cloze.word_ids(self.template, [w for words in self.words.values() for w in words], tokenizer)
        self._owners = [n for n, words in enumerate(self.words.values()) for _ in words]
        self._tokenizer = tokenizer

    # --------------------------------------------------------------------------------------------- the model

    def refuses(self, base: Any) -> str | None:
        if base.family == "encoder-decoder" and SENTINEL not in base.tokenizer.get_vocab():
            return f"{base.name} has no {SENTINEL} to stand for the label; use a T5, or task=seq2seq"
        if base.family == "encoder" and base.tokenizer.mask_token_id is None:
            return f"the tokenizer of {base.name} has no mask token; use smollm2, or task=classify"
        if base.family == "encoder" and not base.has_head("masked_lm"):
            return f"{base.name} has no masked-language head in its files; use smollm2, or task=classify"
        return None

    def bind(self, base: Any) -> None:
        """Make ready to score with a model of this base that is loaded already. Raises ConfigError: a label word that
        the tokenizer does not know, or that shares a token with what stands beside it.
        """
        self._prepare(base.tokenizer)
        self._kind = KINDS[base.family]
        if self._kind == "seq2seq_lm":
            self._mark = base.tokenizer.convert_tokens_to_ids(SENTINEL)
        elif self._kind == "masked_lm":
            self._mark = base.tokenizer.mask_token_id

    def head(self, base: Any) -> tuple[nn.Module, tuple[str, ...]]:
        self.bind(base)
        model, new = base.load(self._kind)
        if new:
            raise ModelError(
                f"{base.name} has no language head: {new[0]} is not in its files",
                "use smollm2, or task=classify",
                "model.name",
            )
        return model, new

    def encode(self, example: Example, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
        """One row, with the label's first word (any label's, where there is none) in the place ``span`` tells."""
        from tunery.data import cloze

        self._prepare(tokenizer)
        label = self.labels[0] if example.label is None else str(example.label)
        longest = max(map(len, self._words))
        encoded, end = cloze.encode(self.template, example, self.words[label][0], longest, tokenizer, max_length)
        self._last = (example, end, encoded.span[0] if encoded.span else 0)
        if example.label is not None:
            encoded.target = self.labels.index(label)
        return [encoded]

    def soft_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return self.template.soft

    def soft_at(self, position: Position, example: Example, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """In the row that ``encode`` made of this example just before, which may be cut."""
        if self._last[0] is not example:
            self.encode(example, tokenizer, _UNCUT)
        _, end, label = self._last
        return end if position == "after" else label

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """[rows, labels], fp32."""
        from tunery.models import cloze

        return cloze.label_scores(self.word_scores(model, batch, self._words), self._owners)

    def word_scores(self, model: nn.Module, batch: Batch, words: Sequence[tuple[int, ...]]) -> Tensor:
        """[rows, words], fp32: of any words' token ids (``data.cloze.word_ids``) in the label's place."""
        from tunery.models import cloze

        if self._kind == "masked_lm":
            return cloze.masked_scores(model, batch, words, self._mark)
        if self._kind == "seq2seq_lm":
            return cloze.sentinel_scores(model, batch, words, self._mark)
        if self.template.goes_on:
            return cloze.whole_scores(model, batch, words)
        return cloze.causal_scores(model, batch, words)

    def vocabulary(self, model: nn.Module, batch: Batch) -> Tensor:
        """[rows, vocabulary]: log-probability of each token to be the first (masked models: the only one) of the word
        in the label's place, fp32. Causal models read what stands before it alone.
        """
        from tunery.models import cloze

        if self._kind == "causal_lm":
            return cloze.next_shares(model, batch)
        return cloze.marked_shares(model, batch, self._mark)

    def priors(self, model: nn.Module, soft: bool) -> Tensor:
        """[labels]: log of the labels' mean probability for texts that say nothing."""
        found = [self.scores(model, batch).softmax(-1) for batch in self.blanks(model, soft)]
        mean: Tensor = sum(found) / len(found)  # type: ignore[assignment]
        return mean[0].log()

    def blanks(self, model: nn.Module, soft: bool) -> list[Batch]:
        """Texts that say nothing, one a batch."""
        from tunery.data import soft as soft_rows
        from tunery.data.batch import collate

        device = next(model.parameters()).device
        found = []
        for text in (*BLANKS, self._tokenizer.mask_token or "[MASK]"):
            blank = Example("<blank>", 1, text=text, text_pair=text)
            (row,) = soft_rows.encode(self, blank, self._tokenizer, _UNCUT)
            row = row if soft else row.without_soft()
            if row.span and row.span[0] == 0 and self._kind == "causal_lm" and not self.template.goes_on:
                continue  # nothing stands before the label
            found.append(collate([row], self._tokenizer.pad_token_id or 0, device))
        return found

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Priors are taken away in evaluation only, and computed anew each time: they are those of this model."""
        import torch
        from torch.nn import functional as F

        logits = self.scores(model, batch)
        if self.config.calibrate and not model.training:
            logits = logits - self.priors(model, bool((batch["input_ids"] >= SOFT).any()))
        target = batch.get("target")
        if target is None:
            return logits.new_zeros(()), torch.tensor(0), logits
        count = torch.tensor(len(logits), device=logits.device)
        weight = None
        if self.class_weights and model.training:
            weight = logits.new_tensor([self.class_weights[label] for label in self.labels])
        return F.cross_entropy(logits, target, weight, reduction="sum"), count, logits

    # ------------------------------------------------------------------------------------------ predictions

    def decode(self, outputs: Tensor) -> list[Prediction]:
        found = []
        for row in outputs.softmax(-1).tolist():
            shares = dict(zip(self.labels, row, strict=True))
            found.append(Prediction(max(shares, key=shares.__getitem__), shares))
        return found

    def reference(self, example: Example) -> Any:
        return example.label


def _text(value: Any) -> Any:
    """``1`` → "1", ``true`` → "true", as labels of a data file are read."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value
