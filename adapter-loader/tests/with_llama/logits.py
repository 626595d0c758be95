"""Prints what a model answers with to tokens, as JSON: a row of logits for each token.

    python logits.py BASE.gguf TOKENS [LORA.gguf]

On one thread, with a cache of keys and values of 32 bits: what is left of a difference to PyTorch is the order of sums.
"""

import ctypes
import json
import os
import sys

import llama_cpp as llama
import numpy as np

base, tokens = sys.argv[1], json.loads(sys.argv[2])
quiet = llama.llama_log_callback(lambda level, text, data: sys.stderr.buffer.write(text) if level >= 4 else None)
llama.llama_log_set(quiet, ctypes.c_void_p())
llama.llama_backend_init()
options = llama.llama_model_default_params()
options.use_mmap = False
model = llama.llama_model_load_from_file(base.encode(), options)
assert model, f"{base} is not loaded"
options = llama.llama_context_default_params()
options.n_ctx = options.n_batch = options.n_ubatch = 64
options.n_threads = options.n_threads_batch = 1
options.type_k = options.type_v = llama.GGML_TYPE_F32
context = llama.llama_init_from_model(model, options)
assert context, "no context"
if len(sys.argv) > 3:
    lora = llama.llama_adapter_lora_init(model, sys.argv[3].encode())
    assert lora, f"{sys.argv[3]} is not taken"
    assert llama.llama_set_adapter_lora(context, lora, 1.0) == 0
batch = llama.llama_batch_init(len(tokens), 0, 1)
batch.n_tokens = len(tokens)
for at, token in enumerate(tokens):
    batch.token[at], batch.pos[at], batch.logits[at] = token, at, True
    batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
assert llama.llama_decode(context, batch) == 0
words = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
rows = [np.ctypeslib.as_array(llama.llama_get_logits_ith(context, at), shape=(words,)).tolist() for at in range(len(tokens))]
print(json.dumps(rows), flush=True)
os._exit(0)  # what the process has, it need not give back one by one
