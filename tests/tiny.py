"""Tiny models for tests: real architectures with random weights, real fast tokenizers trained here.

Each builder writes a whole model folder and always the same one. Sizes are hidden 32, two layers and a
vocabulary of a few hundred, so that a forward pass costs a millisecond. The llama's tokenizer has a ChatML
template and pad = eos as SmolLM2's has; the GPT-2's has neither template nor padding token, as GPT-2's.
"""

from __future__ import annotations

import json
import shutil
import string
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tunery.config import ModelConfig
from tunery.data.templates import TEMPLATES
from tunery.export import gguf_vocab
from tunery.models import load

HIDDEN, LAYERS, HEADS, LENGTH = 32, 2, 4, 512
TEXTS = (
    "What is the capital of France? The capital of France is Paris.",
    "The film is good, great, wonderful. The film is bad, boring, awful.",
    "How do I return an order? You can return an order within 30 days.",
    "Hello, my name is Anna and I live in London. I like green tea.",
    "Please answer the question: where is my parcel? It arrives on Monday.",
    "0 1 2 3 4 5 6 7 8 9 10 11 12 2024",
    "你好，请问怎么退货？您可以在三十天内退货。",
    "这家酒店很好，房间干净，服务周到。",
    "这部电影很差，又长又无聊。北京是中国的首都。",
    "我的包裹在哪里？预计星期一送达，谢谢。",
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def byte_bpe(special: list[str], size: int = 400) -> Tokenizer:
    """GPT-2's kind of tokenizer: any text, no unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    """BERT's: lower case, Chinese characters one by one, sentence pairs with segment ids.

    The vocabulary is counted here: tokenizers' own trainer finds another one in every process. It has the words of
    ``TEXTS``, their characters, and the pairs of letters that stand in several words.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    pieces = (tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)) for text in TEXTS)
    words = {word for found in pieces for word, _ in found}
    pairs = Counter(word[i : i + 2] for word in sorted(words) for i in range(1, len(word) - 1))
    characters = sorted({*string.ascii_lowercase, *string.digits, *"".join(words)})
    inner = [f"##{piece}" for piece in [*characters, *sorted(pair for pair, count in pairs.items() if count > 1)]]
    names = [*special, *characters, *inner, *sorted(words - set(characters))]
    tokenizer.model = models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def _word_names() -> dict[str, str]:
    return {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


def _save(folder: Path, model_class: Any, config: Any, tokenizer: Tokenizer, **named: Any) -> Path:
    """Weights are drawn from a state of their own, so building one does not disturb a test's random numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    types = named.pop("types", False)
    names = ["input_ids", "token_type_ids", "attention_mask"] if types else ["input_ids", "attention_mask"]
    template = named.pop("template", None)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=names, model_max_length=LENGTH, **named
    )
    fast.chat_template = template
    fast.save_pretrained(str(folder))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        model_class(config).save_pretrained(str(folder))
    return folder


def tiny_llama(folder: Path) -> Path:
    """A decoder with rotary positions, grouped heads, tied embeddings and a chat template; pad = eos."""
    tokenizer = byte_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return _save(
        folder,
        transformers.LlamaForCausalLM,
        config,
        tokenizer,
        template=CHATML,
        unk_token="<|endoftext|>",
        **names,
    )


def tiny_gpt2(folder: Path) -> Path:
    """A decoder with learnt positions and Conv1D layers; no padding token, no template."""
    tokenizer = byte_bpe(["<|endoftext|>"])
    config = transformers.GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=LENGTH,
        bos_token_id=0,
        eos_token_id=0,
    )
    end = "<|endoftext|>"
    return _save(folder, transformers.GPT2LMHeadModel, config, tokenizer, bos_token=end, eos_token=end, unk_token=end)


def tiny_bert(folder: Path, model_class: Any = transformers.BertModel) -> Path:
    """An encoder, saved as bare backbone with pooler unless another class of BERT's is named."""
    tokenizer = word_piece()
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        pad_token_id=0,
    )
    return _save(folder, model_class, config, tokenizer, types=True, **_word_names())


def tiny_roberta(folder: Path) -> Path:
    """An encoder saved with its masked-language head and, as RoBERTa's checkpoints, without pooler."""
    tokenizer = byte_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    config = transformers.RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH + 2,
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    names |= {"unk_token": "<unk>", "mask_token": "<mask>"}
    return _save(folder, transformers.RobertaForMaskedLM, config, tokenizer, **names)


def tiny_t5(folder: Path) -> Path:
    """An encoder-decoder with relative positions."""
    special = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{i}>" for i in range(10))]
    tokenizer = byte_bpe(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    config = transformers.T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=HIDDEN,
        d_kv=8,
        d_ff=64,
        num_layers=LAYERS,
        num_heads=HEADS,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _save(folder, transformers.T5ForConditionalGeneration, config, tokenizer, **names)


def tiny_distilbert(folder: Path) -> Path:
    """An encoder without segment ids, saved with its masked-language head as DistilBERT's checkpoints are."""
    tokenizer = word_piece()
    config = transformers.DistilBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        dim=HIDDEN,
        hidden_dim=64,
        n_layers=LAYERS,
        n_heads=HEADS,
        max_position_embeddings=LENGTH,
        pad_token_id=0,
    )
    return _save(folder, transformers.DistilBertForMaskedLM, config, tokenizer, **_word_names())


def tiny_deberta(folder: Path) -> Path:
    """DeBERTa-v2 with disentangled attention over relative positions, as version 3's checkpoints set it."""
    tokenizer = word_piece()
    config = transformers.DebertaV2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        relative_attention=True,
        position_buckets=16,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        type_vocab_size=0,
        pad_token_id=0,
        legacy=False,
    )
    return _save(folder, transformers.DebertaV2ForMaskedLM, config, tokenizer, **_word_names())


def tiny_modernbert(folder: Path) -> Path:
    """An encoder with rotary positions, gated feed-forward layers and local beside global attention."""
    tokenizer = word_piece()
    config = transformers.ModernBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        global_attn_every_n_layers=2,
        local_attention=8,
        pad_token_id=0,
        cls_token_id=2,
        bos_token_id=2,
        sep_token_id=3,
        eos_token_id=3,
    )
    return _save(folder, transformers.ModernBertForMaskedLM, config, tokenizer, **_word_names())


def tiny_qwen(folder: Path) -> Path:
    """Qwen3: normed queries and keys, grouped heads, ChatML; as there, padding and end are tokens of their own."""
    tokenizer = byte_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    config = transformers.Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        eos_token_id=2,
        pad_token_id=0,
    )
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return _save(folder, transformers.Qwen3ForCausalLM, config, tokenizer, template=CHATML, **names)


def tiny_qwen2(folder: Path) -> Path:
    """Qwen2: biases on queries, keys and values, more embeddings than tokens, a head of its own.

    Not in ``BUILDERS``: it is for exports, the common suite has Qwen3.
    """
    tokenizer = byte_bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    words = next(pattern for pattern, name in gguf_vocab.REGEXES.items() if name == "qwen2")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(words), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.normalizer = normalizers.NFC()
    config = transformers.Qwen2Config(
        vocab_size=tokenizer.get_vocab_size() + 3,
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=False,
        eos_token_id=2,
        pad_token_id=0,
    )
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return _save(folder, transformers.Qwen2ForCausalLM, config, tokenizer, template=CHATML, **names)


def tiny_llama3(folder: Path) -> Path:
    """Llama as 3.1 is: digits by threes, a BOS in front, positions scaled by frequency, a head of its own, biases."""
    named = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = byte_bpe(named)
    words = next(pattern for pattern, name in gguf_vocab.REGEXES.items() if name == "llama-bpe")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(words), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.model.ignore_merges = True
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B", special_tokens=[("<|begin_of_text|>", 0)]
    )
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 64}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        rope_parameters=rope,
        attention_bias=True,
        mlp_bias=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|end_of_text|>"}
    return _save(folder, transformers.LlamaForCausalLM, config, tokenizer, template=TEMPLATES["llama3"], **names)


def tiny_llama2(folder: Path) -> Path:
    """Llama as 2 is: pieces of sentencepiece's kind with bytes for what is in none, a space before every text."""
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([f"▁{text.replace(' ', '▁')}" for text in TEXTS], trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = described["added_tokens"][:3]  # bytes are pieces, not special tokens
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
        bos_token_id=1,
        eos_token_id=2,
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return _save(folder, transformers.LlamaForCausalLM, config, tokenizer, **names)


def tiny_gemma(folder: Path) -> Path:
    """Gemma 2: scaled embeddings, sliding windows beside full attention, softcapped logits, padding on the left."""
    tokenizer = byte_bpe(["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )
    config = transformers.Gemma2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
        max_position_embeddings=LENGTH,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    return _save(
        folder, transformers.Gemma2ForCausalLM, config, tokenizer, template=GEMMA, padding_side="left", **names
    )


def tiny_bart(folder: Path) -> Path:
    """An encoder-decoder with learnt positions, whose decoder begins with the end token."""
    tokenizer = byte_bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    config = transformers.BartConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=HIDDEN,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=LENGTH,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    names |= {"unk_token": "<unk>", "mask_token": "<mask>"}
    return _save(folder, transformers.BartForConditionalGeneration, config, tokenizer, **names)


def tiny_bloom(folder: Path) -> Path:
    """A decoder with ALiBi instead of positions, a norm after the embeddings and a padding token of its own.

    Not in ``BUILDERS``: the tutorials need it, the common suite has decoders enough.
    """
    tokenizer = byte_bpe(["<unk>", "<s>", "</s>", "<pad>"])
    config = transformers.BloomConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return _save(folder, transformers.BloomForCausalLM, config, tokenizer, padding_side="left", **names)


BUILDERS = {
    "bert": tiny_bert,
    "distilbert": tiny_distilbert,
    "roberta": tiny_roberta,
    "deberta": tiny_deberta,
    "modernbert": tiny_modernbert,
    "gpt2": tiny_gpt2,
    "llama": tiny_llama,
    "qwen": tiny_qwen,
    "gemma": tiny_gemma,
    "t5": tiny_t5,
    "bart": tiny_bart,
}


def tiny_gguf(llama: Path, path: Path, pre: str = "smollm") -> Path:
    """The tiny llama as an unquantised GGUF file, as llama.cpp's converter would write it."""
    import gguf
    from safetensors.torch import load_file

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(llama))
    backend = tokenizer.backend_tokenizer
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    merges = json.loads(backend.to_str())["model"]["merges"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(LENGTH)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if index < 3 else 1 for index in range(len(tokens))])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHATML)
    for name, tensor in load_file(llama / "model.safetensors").items():
        writer.add_tensor(_gguf_name(name), _permuted(name, tensor).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(name: str) -> str:
    if name.startswith("model.embed_tokens"):
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{parts[rest.removesuffix('.weight')]}.weight"


def _permuted(name: str, weight: torch.Tensor) -> torch.Tensor:
    """llama.cpp interleaves the two halves of each head's rotary dimensions."""
    heads = {"q_proj": HEADS, "k_proj": 2}.get(name.split(".")[-2], 0)
    if not heads:
        return weight
    rows = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, rows, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def base_of(name: object, **settings: Any) -> load.Base:
    """Open a base on the CPU, in fp32 unless told otherwise."""
    return load.open_base(ModelConfig(name=str(name), device="cpu", **{"dtype": "float32", **settings}))


def copy_of(source: Path, target: Path, drop: str = "") -> Path:
    """A copy of a model folder to damage, without the file ``drop``."""
    shutil.copytree(source, target)
    if drop:
        (target / drop).unlink()
    return target


def edit_config(path: Path, **changes: Any) -> None:
    """Change keys of a copy's config.json."""
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
