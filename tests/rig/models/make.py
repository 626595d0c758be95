"""Makes the tiny models that the tests run on a real Ollama.

    python make.py --out .

Everything comes from one seed: the texts, the tokenizer, the training. The same machine with the
same package versions gives the same files; another processor may round differently, so what decides
is the check of the answers that runs before a file is written. README.md says what each file is.
"""

import argparse
import hashlib
import json
import math
import random
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM

import formats
import tasks

SEED = 20
STARTED = time.monotonic()
CONTEXT = 4096
RANK, ALPHA = 8, 16
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Two adapters for one task, in different words, so that a test sees which of them answered.
ADAPTERS = {
    "risk-v1": {"高风险": "高风险", "普通": "普通"},
    "risk-v2": {"高风险": "高风险：需人工复核", "普通": "普通：自动答复"},
}

TEMPLATE = (
    "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
)

# How Qwen2 cuts text before its merges apply. Every digit stands alone, which makes counts long.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def say(*words):
    print(f"[{time.monotonic() - STARTED:6.1f}s]", *words, flush=True)


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tasks.corpus(SEED), trainer)
    return tokenizer


def make_base(tokenizer):
    torch.manual_seed(SEED)
    end = tokenizer.token_to_id("<|endoftext|>")
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            bos_token_id=end,
            eos_token_id=tokenizer.token_to_id("<|im_end|>"),
            pad_token_id=end,
        )
    )


class Trainer:
    """The least that trains: AdamW, a warm-up and a cosine, loss on the answers alone."""

    def __init__(self, tokenizer, seed):
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)

    def encode(self, conversation):
        messages, answer = conversation
        return (
            self.tokenizer.encode(tasks.chatml(messages)).ids,
            self.tokenizer.encode(answer + "<|im_end|>").ids,
        )

    def backward(self, model, conversations, chunk=8):
        """Adds the gradient of a batch, in chunks of like length so that little of it is padding.

        Rows are padded on the right: under a causal mask no answer sees the padding.
        """
        pairs = sorted(map(self.encode, conversations), key=lambda pair: len(pair[0]) + len(pair[1]))
        answers = sum(len(reply) for _, reply in pairs)
        total = 0.0
        for start in range(0, len(pairs), chunk):
            part = pairs[start : start + chunk]
            width = max(len(prompt) + len(reply) for prompt, reply in part)
            rows = torch.zeros(len(part), width, dtype=torch.long)
            learn = torch.zeros(len(part), width, dtype=torch.bool)
            for row, (prompt, reply) in enumerate(part):
                rows[row, : len(prompt) + len(reply)] = torch.tensor(prompt + reply)
                learn[row, len(prompt) : len(prompt) + len(reply)] = True
            hidden = self.inner(model)(input_ids=rows, use_cache=False).last_hidden_state
            # The words before an answer's words predict them; all others need no logits.
            logits = model.get_output_embeddings()(hidden[:, :-1][learn[:, 1:]])
            loss = torch.nn.functional.cross_entropy(logits, rows[learn], reduction="sum") / answers
            loss.backward()
            total += loss.item()
        return total

    @staticmethod
    def inner(model):
        """The blocks without the output layer, with or without an adapter around them."""
        return (model.get_base_model() if hasattr(model, "get_base_model") else model).model

    def run(self, model, draw, steps, rate):
        """`draw(rng, step)` gives a list of batches; each weighs the same, however long its answers."""
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
        shape = lambda s: min(1, (s + 1) / 100) * (0.02 + 0.98 * (1 + math.cos(math.pi * s / steps)) / 2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
        model.train()
        for step in range(steps):
            losses = [self.backward(model, conversations) for conversations in draw(self.rng, step)]
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if step % 50 == 0 or step == steps - 1:
                say(f"  step {step:5d}  loss", "  ".join(f"{l:.4f}" for l in losses))
        model.eval()


def base_batches(rng, step):
    short = [tasks.conversation(rng, tasks.short_task(rng), tasks.short_task) for _ in range(24)]
    if step % 5:
        return [short]
    return [short, [tasks.conversation(rng, tasks.count(rng), tasks.ok) for _ in range(2)]]


def adapter_batches(answers):
    """A fixed set of 400 labelled messages, and some counting so that long answers stay possible."""
    rng = random.Random(SEED)
    rows = [tasks.risk(answers, rng) for _ in range(400)]
    plain = lambda rng: rng.choice(rows)

    def draw(rng, step):
        labelled = [tasks.conversation(rng, plain(rng), plain) for _ in range(24)]
        if step % 5:
            return [labelled]
        return [labelled, [tasks.conversation(rng, tasks.count(rng), plain) for _ in range(2)]]

    return draw


@torch.no_grad()
def answer(model, tokenizer, asked, limit=900):
    prompt = torch.tensor([tokenizer.encode(tasks.chatml([("user", asked)])).ids])
    whole = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=limit, do_sample=False
    )
    reply = [token for token in whole[0, prompt.shape[1] :].tolist() if token != model.config.eos_token_id]
    return tokenizer.decode(reply), len(reply)


def check(model, tokenizer, wanted):
    """Stops before a model that answers wrong is written."""
    for asked, right in wanted.items():
        got, _ = answer(model, tokenizer, asked)
        say(f"  {asked} -> {got}")
        if got != right:
            sys.exit(f"wanted {right!r}")
    got, length = answer(model, tokenizer, "数到200")
    say(f"  数到200 -> {length} tokens, {'all' if got == tasks.numbers(1, 200) else 'NOT all'} numbers right: …{got[-24:]}")
    if length < 300:
        sys.exit("the long answer is too short")


def score(model, tokenizer, task, n=60):
    rng = random.Random(SEED + 1)
    drawn = [task(rng) for _ in range(n)]
    return sum(answer(model, tokenizer, asked, 120)[0] == right for asked, right in drawn) / n


def make_adapter(base_weights, tokenizer, name, out):
    base = make_base(tokenizer)
    base.load_state_dict(base_weights)
    torch.manual_seed(SEED)
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=LINEAR, task_type="CAUSAL_LM", base_model_name_or_path="tutti-story"
    )
    model = get_peft_model(base, config)
    answers = ADAPTERS[name]
    Trainer(tokenizer, SEED).run(model, adapter_batches(answers), steps=300, rate=3e-3)
    check(model, tokenizer, {asked: answers[kind] for asked, kind in tasks.STORY.items()})
    say("  new messages right:", score(model, tokenizer, lambda rng: tasks.risk(answers, rng)))

    state = get_peft_model_state_dict(model)
    folder = out / name
    folder.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in sorted(state.items())}, folder / "adapter_model.safetensors", {"format": "pt"})
    # PEFT keeps sets; sorted, the file is the same each time.
    settings = {k: sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    settings.update(base_model_name_or_path="tutti-story", inference_mode=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True, default=str) + "\n")
    formats.write_lora(out / f"{name}.gguf", name, state, ALPHA)


def write_index(out):
    """What a test posts to Ollama's /api/blobs and /api/create.

    One thread: two would gain nothing on matrices this small, and they wait for each other by
    spinning, so on a machine with busy cores a token took up to 140 ms instead of 1 ms. num_predict ends an answer
    that finds no end of its own, which happens after prompts far longer than any in training.
    """
    index = {
        "models": [
            {
                "name": "tutti-story",
                "gguf": "tutti-story.gguf",
                "template": TEMPLATE,
                "parameters": {"stop": ["<|im_end|>"], "temperature": 0, "num_thread": 1, "num_predict": 1024},
            },
            {"name": "tutti-embed", "gguf": "tutti-embed.gguf", "parameters": {"num_thread": 1}},
        ],
        "adapters": [{"name": n, "base": "tutti-story", "gguf": f"{n}.gguf", "alpha": ALPHA} for n in ADAPTERS],
    }
    (out / "models.json").write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n")


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("--out", type=Path, required=True, help="folder for the files")
    args.add_argument("--steps", type=int, default=2200, help="training steps of the base")
    args.add_argument("--threads", type=int, default=1, help="one is as fast as two: the matrices are tiny")
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)

    say("tutti-embed")
    formats.write_bert(args.out / "tutti-embed.gguf", "tutti-embed", tasks.HANZI, SEED)
    write_index(args.out)

    tokenizer = make_tokenizer()
    base = make_base(tokenizer)
    say(f"tutti-story: {tokenizer.get_vocab_size()} tokens, {sum(p.numel() for p in base.parameters())} weights")
    Trainer(tokenizer, SEED).run(base, base_batches, args.steps, rate=2e-3)
    # The file holds f16: adapters are trained on exactly the weights that will serve them.
    base_weights = {k: v.half().float() if v.ndim > 1 else v for k, v in base.state_dict().items()}
    base.load_state_dict(base_weights)
    check(base, tokenizer, dict.fromkeys([*tasks.STORY, "hello"], "好的"))
    for task in (tasks.ok, tasks.repeat, tasks.tone):
        say(f"  {task.__name__}: {score(base, tokenizer, task):.2f} right")
    formats.write_qwen2(args.out / "tutti-story.gguf", "tutti-story", base, tokenizer)

    for name in ADAPTERS:
        say(name)
        make_adapter(base_weights, tokenizer, name, args.out)

    say("made")
    for path in sorted(p for p in args.out.rglob("*") if p.suffix in (".gguf", ".safetensors")):
        print(f"{path.stat().st_size:8d} {hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(args.out)}")


if __name__ == "__main__":
    main()
