"""Writes the GGUF files: a Qwen2-shaped chat model, a LoRA adapter, a small BERT for embeddings.

Key names and tensor names are those that llama.cpp reads (and with it Ollama).
"""

import json
import re

import numpy as np
from gguf import GGUFWriter, LlamaFileType, PoolingType, RopeScalingType, TokenType

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Hugging Face's names of the parts of a Qwen2 block, and GGUF's.
QWEN2_PARTS = {
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
QWEN2_WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def qwen2_name(name):
    """`model.layers.0.self_attn.q_proj.weight` -> `blk.0.attn_q.weight`. Qwen2 needs no permutation."""
    if name in QWEN2_WHOLE:
        return QWEN2_WHOLE[name]
    layer, part, kind = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name).groups()
    return f"blk.{layer}.{QWEN2_PARTS[part]}.{kind}"


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add(writer, name, array):
    """Matrices as f16. What is added rather than multiplied stays f32: the engine has no f16 sums."""
    summed = array.ndim == 1 or name in ("token_types.weight", "position_embd.weight")
    writer.add_tensor(name, array.astype(np.float32 if summed else np.float16))


def write_qwen2(path, name, model, tokenizer):
    config = model.config
    w = GGUFWriter(path, "qwen2")
    w.add_type("model")
    w.add_name(name)
    w.add_file_type(LlamaFileType.MOSTLY_F16)
    w.add_block_count(config.num_hidden_layers)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(config.rope_parameters["rope_theta"])
    w.add_rope_scaling_type(RopeScalingType.NONE)

    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types([TokenType.CONTROL if t in special else TokenType.NORMAL for t in tokens])
    w.add_token_merges(merges(tokenizer))
    w.add_bos_token_id(tokenizer.token_to_id("<|endoftext|>"))
    w.add_eos_token_id(tokenizer.token_to_id("<|im_end|>"))
    w.add_pad_token_id(tokenizer.token_to_id("<|endoftext|>"))
    w.add_add_bos_token(False)
    w.add_chat_template(CHAT_TEMPLATE)

    for key, tensor in model.state_dict().items():
        add(w, qwen2_name(key), tensor.float().numpy())
    finish(w)


def merges(tokenizer):
    pairs = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]


def write_lora(path, name, tensors, alpha):
    """A PEFT state dict as a GGUF adapter.

    The tensors stay f32, as PEFT saved them, so that another converter's output can be compared
    with this file exactly.
    """
    w = GGUFWriter(path, "qwen2")
    w.add_type("adapter")
    w.add_name(name)
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", float(alpha))
    w.add_file_type(LlamaFileType.ALL_F32)
    for key in sorted(tensors):
        base, side = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", key).groups()
        w.add_tensor(f"{qwen2_name(base + '.weight')}.lora_{side.lower()}", tensors[key].float().numpy())
    finish(w)


def write_bert(path, name, hanzi, seed, width=64, inner=128, heads=4, context=512):
    """An embedding model of seeded random weights: one block, mean pooling, nothing trained.

    The token embeddings are large beside all else, so a vector is close to a random projection of
    the bag of characters: texts that share characters are nearer to each other than texts that do
    not. Positions weigh enough that the order of the characters shows too.
    """
    rng = np.random.default_rng(seed)

    # WordPiece as llama.cpp keeps it: the start of a word is marked, its continuation is not. Chinese
    # characters and punctuation are always words of their own, letters and digits can continue one.
    ascii_marks = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    marks = ascii_marks + list("，。！？：；、（）《》“”‘’—…·￥")
    alphabet = list("abcdefghijklmnopqrstuvwxyz0123456789")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = special + alphabet + ["▁" + t for t in alphabet + marks + list(hanzi)]

    w = GGUFWriter(path, "bert")
    w.add_type("model")
    w.add_name(name)
    w.add_file_type(LlamaFileType.MOSTLY_F16)
    w.add_block_count(1)
    w.add_context_length(context)
    w.add_embedding_length(width)
    w.add_feed_forward_length(inner)
    w.add_head_count(heads)
    w.add_layer_norm_eps(1e-12)
    w.add_causal_attention(False)
    w.add_pooling_type(PoolingType.MEAN)

    w.add_tokenizer_model("bert")
    w.add_tokenizer_pre("default")
    w.add_token_type_count(2)
    w.add_token_list(tokens)
    w.add_token_types([TokenType.CONTROL if t in special else TokenType.NORMAL for t in tokens])
    w.add_pad_token_id(0)
    w.add_unk_token_id(1)
    w.add_bos_token_id(2)
    w.add_sep_token_id(3)
    w.add_eos_token_id(3)
    w.add_mask_token_id(4)

    def matrix(name, rows, columns, scale):
        add(w, name + ".weight", rng.normal(0, scale, (rows, columns)))

    def norm(name):
        add(w, name + ".weight", np.ones(width))
        add(w, name + ".bias", np.zeros(width))

    def linear(name, out, into):
        matrix(name, out, into, 0.5 / np.sqrt(into))
        add(w, name + ".bias", np.zeros(out))

    matrix("token_embd", len(tokens), width, 1.0)
    matrix("token_types", 2, width, 0.02)
    matrix("position_embd", context, width, 0.5)
    norm("token_embd_norm")
    linear("blk.0.attn_q", width, width)
    linear("blk.0.attn_k", width, width)
    linear("blk.0.attn_v", width, width)
    linear("blk.0.attn_output", width, width)
    norm("blk.0.attn_output_norm")
    linear("blk.0.ffn_up", inner, width)
    linear("blk.0.ffn_down", width, inner)
    norm("blk.0.layer_output_norm")
    finish(w)
