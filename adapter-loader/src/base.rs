//! The base that an adapter is for: what of it an adapter must fit.

use std::collections::HashMap;

use serde_json::Value;
use tutti_api::Digest;

use crate::gguf::Header;

/// A base model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// `general.architecture`: `llama`, `qwen2`.
    pub architecture: String,
    /// Of its GGUF, where it is known.
    pub digest: Option<Digest>,
    /// Attention heads of a layer; 0 where it is not said.
    pub heads: u64,
    /// Those of keys and values.
    pub heads_kv: u64,
    /// Its tensors and their dimensions, in ggml's order: columns, rows.
    pub tensors: HashMap<String, Vec<u64>>,
}

impl Base {
    /// Of a GGUF's header.
    ///
    /// # Errors
    /// It names no architecture.
    pub fn of_header(header: &Header, digest: Option<Digest>) -> Result<Self, String> {
        let architecture = header.architecture().ok_or("its GGUF names no general.architecture")?.to_owned();
        let number = |key: &str| header.number(&format!("{architecture}.attention.{key}"));
        let heads = number("head_count").unwrap_or(0);
        let heads_kv = number("head_count_kv").unwrap_or(heads);
        let tensors = header.tensors.iter().map(|tensor| (tensor.name.clone(), tensor.dims.clone())).collect();
        Ok(Self { architecture, digest, heads, heads_kv, tensors })
    }

    /// Of what an Ollama's `/api/show` says with `verbose` (0.11.4: `model_info` holds the GGUF's keys, `tensors` a name and a
    /// shape each).
    ///
    /// # Errors
    /// It names no architecture, or shows no tensors.
    pub fn of_show(shown: &Value, digest: Option<Digest>) -> Result<Self, String> {
        let info = &shown["model_info"];
        let architecture = info["general.architecture"].as_str().ok_or("it shows no general.architecture")?.to_owned();
        let number = |key: &str| info[format!("{architecture}.attention.{key}")].as_u64();
        let heads = number("head_count").unwrap_or(0);
        let heads_kv = number("head_count_kv").unwrap_or(heads);
        let tensor = |tensor: &Value| {
            let dims = tensor["shape"].as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<_>>>()?;
            Some((tensor["name"].as_str()?.to_owned(), dims))
        };
        let tensors: HashMap<_, _> = shown["tensors"].as_array().into_iter().flatten().filter_map(tensor).collect();
        if tensors.is_empty() {
            return Err("it shows no tensors: this engine's /api/show has no `verbose`".to_owned());
        }
        Ok(Self { architecture, digest, heads, heads_kv, tensors })
    }
}
