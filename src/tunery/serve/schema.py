"""Requests, with OpenAI's names. What would change the answer and is not supported is refused, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from tunery.protocols import Message

TURNS = 256
"""Messages of a conversation. Rendering looks at every turn from the beginning."""
STOPS = 4
INPUTS = 2048
"""Texts of one request to classify or embed."""
HARMLESS = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    *("parallel_tool_calls", "prediction"),
)
"""Keys of OpenAI's API that do not change an answer of ours: taken and not looked at."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "min_p": (0,),
    "audio": (),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),
}
"""Keys of OpenAI's API that are not supported, with the values that ask for nothing. None always does."""


def _plain(text: str) -> str:
    """Half a character (a lone surrogate) is valid JSON, and nothing that a tokenizer could read."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("text", "not valid Unicode")
    return text


Text = Annotated[str, AfterValidator(_plain)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]
Integer = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]
Stop = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]


class Body(BaseModel):
    """Base of the requests: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = NEUTRAL

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kept = {}
        for key, value in values.items():
            if key in cls.model_fields:
                kept[key] = value
            elif key in HARMLESS or (key in cls.refused and (value is None or value in cls.refused[key])):
                continue
            elif key in cls.refused:
                given: dict[str, Any] = {"param": key}
                raise PydanticCustomError("unsupported", "{param} is not supported; leave it out", given)
            else:
                kept[key] = value
        return kept


class StreamOptions(BaseModel):
    """Of a stream."""

    model_config = ConfigDict(extra="forbid")
    include_usage: Switch = Field(False, description="one more piece, with the numbers of tokens")
    include_obfuscation: Switch | None = Field(None, description="taken, and not done")


class Sampled(Body):
    """What all requests that generate text have in common."""

    model: Name = Field(description="a name from /v1/models")
    max_tokens: Integer | None = Field(None, ge=1, description="longest answer; default: what the server allows")
    temperature: Number | None = Field(None, ge=0, le=2, description="default 0: the most likely token")
    top_p: Number | None = Field(None, gt=0, le=1, description="smallest set of this probability")
    top_k: Integer | None = Field(None, ge=0, description="not OpenAI's: only the k most likely tokens; 0: all")
    repetition_penalty: Number | None = Field(None, ge=0.01, le=10, description="not OpenAI's: above 1 repeat less")
    seed: Integer | None = Field(None, description="the same seed gives the same answer; default: another each time")
    stop: Stop | list[Stop] | None = Field(None, description="texts that end the answer; they are not part of it")
    stream: Switch | None = Field(None, description="server-sent events")
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @model_validator(mode="after")
    def _fits(self) -> Sampled:
        if len(self.stops) > STOPS:
            raise PydanticCustomError("stop", "stop takes 4 texts at most")
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("stream_options", "stream_options needs stream=true")
        return self


class Part(BaseModel):
    """A part of a message. Only text: nothing is loaded from an address or a path in a request."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"] = Field(description="text; images, audio and files are not read")
    text: Text


class Turn(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, values: Any) -> Any:
        """Clients send back ``refusal: null`` and the like, as they got it."""
        if not isinstance(values, dict):
            return values
        kept = {key: value for key, value in values.items() if value not in (None, []) or key == "content"}
        kept.pop("name", None)  # of OpenAI's schema; no template here tells one user from another
        return kept

    @property
    def message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class ChatRequest(Sampled):
    """``POST /v1/chat/completions``."""

    messages: list[Turn] = Field(min_length=1, max_length=TURNS)
    max_completion_tokens: Integer | None = Field(None, ge=1, description="the same as max_tokens")
    logprobs: Switch | None = Field(None, description="log probabilities of the tokens")
    top_logprobs: Integer | None = Field(None, ge=0, le=20, description="with the most likely others; needs logprobs")

    @model_validator(mode="after")
    def _asks(self) -> ChatRequest:
        if self.messages[-1].role == "assistant":
            raise PydanticCustomError("messages", "the last message must not be the assistant's")
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "top_logprobs needs logprobs=true")
        return self


class CompletionRequest(Sampled):
    """``POST /v1/completions``."""

    prompt: Text | list[Text] = Field(description="one text; token ids are not taken, each model has its own")
    logprobs: Integer | None = Field(None, ge=0, le=5, description="log probabilities, with so many others")

    @property
    def text(self) -> str | None:
        """The prompt, if it is one."""
        given = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return given[0] if len(given) == 1 else None


class EmbeddingRequest(Body):
    """``POST /v1/embeddings``."""

    model: Name = Field(description="a name from /v1/models")
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=INPUTS)]
    encoding_format: Literal["float", "base64"] | None = Field(None, description="default: float")
    dimensions: Integer | None = Field(None, ge=1, description="must be the model's own, if given")


class Pair(BaseModel):
    """A text to classify, or two."""

    model_config = ConfigDict(extra="forbid")
    text: Text
    text_pair: Text | None = None


class ClassifyRequest(Body):
    """``POST /v1/classify``, which is not in OpenAI's API."""

    model: Name = Field(description="a name from /v1/models")
    input: Text | Pair | Annotated[list[Text | Pair], Field(min_length=1, max_length=INPUTS)]


class AdapterRequest(Body):
    """``POST /v1/adapters``."""

    refused: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = Field(description="to serve it as")
    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")] = Field(
        description="name of a run in the server's --runs-folder"
    )
