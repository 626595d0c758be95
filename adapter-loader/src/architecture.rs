//! What the architectures call their linear layers: Hugging Face's names, which PEFT writes, and GGUF's.
//!
//! The names are those of llama.cpp's `gguf-py/gguf/tensor_mapping.py`; that q and k of `llama` are permuted, of its
//! `convert_hf_to_gguf.py` (`LlamaModel.permute`): its rotary embedding pairs neighbours, Hugging Face's pairs halves.

/// A part of a layer.
struct Part {
    /// PEFT's name for it, within its layer.
    module: &'static str,
    /// GGUF's.
    tensor: &'static str,
}

/// A family of models.
pub(crate) struct Architecture {
    /// GGUF's name, `general.architecture`.
    pub(crate) name: &'static str,
    parts: &'static [Part],
    /// Whether the rows of q and k are permuted.
    permutes: bool,
}

/// Whose rows a permutation is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heads {
    /// The queries'.
    Query,
    /// The keys'.
    Key,
}

const SPLIT: &[Part] = &[
    Part { module: "self_attn.q_proj", tensor: "attn_q" },
    Part { module: "self_attn.k_proj", tensor: "attn_k" },
    Part { module: "self_attn.v_proj", tensor: "attn_v" },
    Part { module: "self_attn.o_proj", tensor: "attn_output" },
    Part { module: "mlp.gate_proj", tensor: "ffn_gate" },
    Part { module: "mlp.up_proj", tensor: "ffn_up" },
    Part { module: "mlp.down_proj", tensor: "ffn_down" },
];

const FUSED: &[Part] = &[
    Part { module: "self_attn.qkv_proj", tensor: "attn_qkv" },
    Part { module: "self_attn.o_proj", tensor: "attn_output" },
    Part { module: "mlp.gate_up_proj", tensor: "ffn_up" },
    Part { module: "mlp.down_proj", tensor: "ffn_down" },
];

/// Those whose adapters are converted. Mistral is `llama` in a GGUF.
const ALL: &[Architecture] = &[
    Architecture { name: "llama", parts: SPLIT, permutes: true },
    Architecture { name: "qwen2", parts: SPLIT, permutes: false },
    Architecture { name: "qwen3", parts: SPLIT, permutes: false },
    Architecture { name: "gemma2", parts: SPLIT, permutes: false },
    Architecture { name: "gemma3", parts: SPLIT, permutes: false },
    Architecture { name: "phi3", parts: FUSED, permutes: false },
];

/// What stands before a layer's number: that of text models, and of those with an eye (gemma3), by older and newer versions
/// of transformers.
const BEFORE: [&str; 3] = ["model.layers.", "language_model.model.layers.", "model.language_model.layers."];

impl Architecture {
    /// By GGUF's name.
    pub(crate) fn of(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|architecture| architecture.name == name)
    }

    /// Their names, for people.
    pub(crate) fn names() -> String {
        ALL.iter().map(|architecture| architecture.name).collect::<Vec<_>>().join(", ")
    }

    /// GGUF's name of the weights of a module, `model.layers.0.self_attn.q_proj` → `blk.0.attn_q.weight`; and whose heads their
    /// rows are permuted by. `None` where it is no linear layer of this architecture.
    pub(crate) fn tensor(&self, module: &str) -> Option<(String, Option<Heads>)> {
        let rest = BEFORE.iter().find_map(|before| module.strip_prefix(before))?;
        let (layer, within) = rest.split_once('.')?;
        let plain = layer.len() <= 6 && layer.bytes().all(|byte| byte.is_ascii_digit());
        let layer: u32 = plain.then(|| layer.parse().ok()).flatten()?;
        let part = self.parts.iter().find(|part| part.module == within)?;
        let heads = match part.tensor {
            "attn_q" if self.permutes => Some(Heads::Query),
            "attn_k" if self.permutes => Some(Heads::Key),
            _ => None,
        };
        Some((format!("blk.{layer}.{}.weight", part.tensor), heads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_linear_layer_has_a_name() {
        let llama = Architecture::of("llama").unwrap();
        let name = |module: &str| llama.tensor(module);
        assert_eq!(name("model.layers.12.self_attn.q_proj"), Some(("blk.12.attn_q.weight".into(), Some(Heads::Query))));
        assert_eq!(name("model.layers.0.self_attn.k_proj"), Some(("blk.0.attn_k.weight".into(), Some(Heads::Key))));
        assert_eq!(name("model.layers.0.mlp.down_proj"), Some(("blk.0.ffn_down.weight".into(), None)));
        for other in
            ["lm_head", "model.embed_tokens", "model.layers.x.mlp.down_proj", "model.layers.0.input_layernorm", ""]
        {
            assert_eq!(name(other), None, "{other}");
        }
        let gemma = Architecture::of("gemma3").unwrap();
        assert_eq!(gemma.tensor("language_model.model.layers.1.mlp.up_proj").unwrap().0, "blk.1.ffn_up.weight");
        assert_eq!(gemma.tensor("model.layers.1.self_attn.q_proj").unwrap().1, None);
        let phi = Architecture::of("phi3").unwrap();
        assert_eq!(phi.tensor("model.layers.3.mlp.gate_up_proj").unwrap().0, "blk.3.ffn_up.weight");
        assert_eq!(phi.tensor("model.layers.3.self_attn.q_proj"), None);
        assert!(Architecture::of("bert").is_none() && Architecture::names().contains("qwen3"));
    }
}
