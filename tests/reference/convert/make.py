"""Makes the references that the adapter-loader's converter is held to.

    python make.py --llama llama_cpp_python-0.3.9/vendor/llama.cpp --out .

Of each architecture a tiny random model, as GGUF by llama.cpp's own `convert_hf_to_gguf.py`; adapters for it in three kinds of
numbers as PEFT saves them, and what llama.cpp's own `convert_lora_to_gguf.py`, run as it is, makes of each; and what PyTorch
answers with and without the first of them. README.md says what each file is.
"""

import argparse
import hashlib
import json
import logging
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

SEED = 6
VOCABULARY, HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD = 48, 32, 64, 2, 4, 2, 8
TOKENS = [3, 17, 42, 5, 5, 29, 11, 40, 0, 23, 8, 31]

SHAPE = dict(
    vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS, max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    pad_token_id=0,
)
# Of Gemma a head is not what is left of the hidden size, and the embeddings are the head. Its attention is scaled by what
# llama.cpp takes for granted; so is the count of layers: of Gemma 2 it knows those of 26, of Gemma 3 each sixth is a whole one.
GEMMA = SHAPE | dict(
    hidden_size=16, intermediate_size=16, head_dim=8, query_pre_attn_scalar=8, tie_word_embeddings=True, sliding_window=64
)
SPLIT = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]

MODELS = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, SHAPE, SPLIT),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, SHAPE | dict(sliding_window=None), SPLIT),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, SHAPE, SPLIT),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, SHAPE | dict(head_dim=16), SPLIT),
    "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM, GEMMA | dict(num_hidden_layers=26), SPLIT),
    "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM, GEMMA | dict(num_hidden_layers=6), SPLIT),
    "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM, SHAPE | dict(sliding_window=64), FUSED),
}

# Its numbers, the ranks (of the whole, of single modules), alpha.
ADAPTERS = {
    "f32": (torch.float32, 4, {"down_proj": 2, "o_proj": 6}, 8),
    "f16": (torch.float16, 3, {}, 16),
    "bf16": (torch.bfloat16, 1, {}, 3),
}


def model(name):
    """A model whose every weight is random: norms and biases would begin as ones and zeros."""
    config, kind, shape, _ = MODELS[name]
    torch.manual_seed(SEED)
    made = kind(config(**shape, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter_name, parameter in made.named_parameters():
            noise = torch.randn_like(parameter)
            if "norm" in parameter_name:
                parameter.copy_((0.0 if "gemma" in name else 1.0) + 0.1 * noise)
            else:
                parameter.copy_(noise * (0.1 if parameter.dim() == 1 else 0.2))
    return made


def base(folder, out):
    """The model as GGUF, by llama.cpp. It has no words: only its numbers are asked for."""
    import convert_hf_to_gguf as converter

    hparams = json.loads((folder / "config.json").read_text())
    # Where that converter looks for what newer versions of transformers keep elsewhere.
    rope = hparams.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    hparams.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
    hparams["rope_scaling"] = None
    kind = converter.ModelBase.from_model_architecture(hparams["architectures"][0])

    class Wordless(kind):
        model_arch = kind.model_arch

        def set_vocab(self):
            self._set_vocab_none()
            try:
                self.gguf_writer.add_vocab_size(VOCABULARY)
            except ValueError:
                pass  # it says so itself

        def _create_vocab_sentencepiece(self):
            return [b""] * VOCABULARY, [], []  # how many there are is all that it takes from here

    writer = Wordless(folder, converter.gguf.LlamaFileType.ALL_F32, out, hparams=hparams, eager=True)
    writer.write()


def converted(llama, folder, adapter):
    """What llama.cpp's script makes of an adapter: its keys, and of each tensor shape, kind and SHA-256."""
    from gguf import GGUFReader

    with tempfile.TemporaryDirectory() as temp:
        out = Path(temp) / "lora.gguf"
        script = str(llama / "convert_lora_to_gguf.py")
        sys.argv = [script, "--base", str(folder), "--outfile", str(out), str(adapter)]
        runpy.run_path(script, run_name="__main__")  # not a process of its own: to import torch takes long
        reader = GGUFReader(out)
        keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        tensors = {
            tensor.name: {
                "dims": [int(dim) for dim in tensor.shape],
                "kind": tensor.tensor_type.name,
                "sha256": hashlib.sha256(tensor.data.tobytes()).hexdigest(),
            }
            for tensor in reader.tensors
        }
    return {"keys": keys, "tensors": tensors}


def listed(said):
    """As JSON, a tensor a line."""
    tensors = ",\n".join(f"  {json.dumps(name)}: {json.dumps(tensor)}" for name, tensor in said["tensors"].items())
    return f'{{\n "keys": {json.dumps(said["keys"])},\n "tensors": {{\n{tensors}\n }}\n}}\n'


def logits(of):
    with torch.no_grad():
        return [[float(f"{number:.7g}") for number in row] for row in of(torch.tensor([TOKENS])).logits[0].tolist()]


def adapt(name, words, folder):
    """An adapter with random matrices, as PEFT saves it; yields the model with it."""
    dtype, rank, ranks, alpha = ADAPTERS[words]
    _, _, shape, modules = MODELS[name]
    ends = [0, shape["num_hidden_layers"] - 1]  # its files would be large with all of them
    config = LoraConfig(
        r=rank, lora_alpha=alpha, rank_pattern=ranks, target_modules=modules, layers_to_transform=ends, task_type="CAUSAL_LM"
    )
    torch.manual_seed(SEED + rank)
    tuned = get_peft_model(model(name), config).eval()
    with torch.no_grad():
        for parameter_name, parameter in tuned.named_parameters():
            if "lora_" in parameter_name:
                parameter.copy_((torch.randn_like(parameter) * 0.2).to(dtype))
    tuned.save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    save_file({key: tensor.to(dtype) for key, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    (folder / "README.md").unlink(missing_ok=True)
    return tuned


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama", type=Path, required=True, help="vendor/llama.cpp of llama-cpp-python's source")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    llama = options.llama.resolve()
    sys.path[:0] = [str(llama), str(llama / "gguf-py")]
    logging.basicConfig(level=logging.ERROR)
    script = llama / "convert_lora_to_gguf.py"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    versions["convert_lora_to_gguf.py"] = f"sha256 {hashlib.sha256(script.read_bytes()).hexdigest()}"
    (options.out / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")
    for name in MODELS:
        out = options.out / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        with tempfile.TemporaryDirectory() as temp:
            folder = Path(temp) / f"tiny-{name}"
            plain = model(name)
            plain.save_pretrained(folder)
            base(folder, out / "base.gguf")
            answers = {"tokens": TOKENS, "base": logits(plain)}
            for words in ADAPTERS:
                tuned = adapt(name, words, out / words)
                answers[words] = logits(tuned)
                said = converted(llama, folder, out / words)
                (out / words / "expected.json").write_text(listed(said))
            (out / "logits.json").write_text(json.dumps(answers) + "\n")
        print(name, "done", flush=True)


if __name__ == "__main__":
    main()
