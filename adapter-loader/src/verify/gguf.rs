//! An adapter that is a GGUF already, as llama.cpp's `convert_lora_to_gguf.py` writes one.

use std::collections::HashMap;
use std::io::BufReader;
use std::path::Path;

use tutti_api::Reason;

use super::{Checked, Form, MAX_RANK, Refused, finite, open, shown};
use crate::base::Base;
use crate::gguf::{Header, Limits, TensorInfo, TensorKind};
use crate::safetensors::Dtype;

pub(super) fn verify(path: &Path, base: &Base) -> Result<Checked, Refused> {
    let (file, bytes) = open(path)?;
    let header = Header::read(BufReader::new(&file), &Limits::default())
        .map_err(|error| Refused::new(error.reason(), error.to_string()))?;
    let says = |key: &str, wanted: &str| match header.text(key) {
        Some(text) if text == wanted => Ok(()),
        other => {
            let other = shown(other.unwrap_or("nothing"));
            Err(Refused::new(Reason::InvalidFile, format!("is no LoRA: {key} is {other:?}, not {wanted:?}")))
        }
    };
    says("general.type", "adapter")?;
    says("adapter.type", "lora")?;
    let alpha = header.get("adapter.lora.alpha").and_then(|alpha| alpha.as_f32()).filter(|alpha| alpha.is_normal());
    let alpha =
        alpha.ok_or_else(|| Refused::new(Reason::InvalidFile, "has no adapter.lora.alpha that is a number but 0"))?;
    let architecture = header.architecture().unwrap_or_default();
    if architecture != base.architecture {
        let message =
            format!("is for the architecture {:?}, and the base is {:?}", shown(architecture), base.architecture);
        return Err(Refused::new(Reason::WrongBase, message));
    }
    let mut pairs: HashMap<&str, [Option<&TensorInfo>; 2]> = HashMap::new();
    for tensor in &header.tensors {
        let half = tensor.name.rsplit_once(".lora_").and_then(|(target, half)| match half {
            "a" => Some((target, 0)),
            "b" => Some((target, 1)),
            _ => None,
        });
        let Some((target, half)) = half else {
            return Err(Refused::new(Reason::Unsupported, format!("tensor {:?} is none of a LoRA", tensor.name)));
        };
        pairs.entry(target).or_default()[half] = Some(tensor);
        let dtype = match tensor.kind {
            TensorKind::F32 => Dtype::F32,
            TensorKind::F16 => Dtype::F16,
            TensorKind::BF16 => Dtype::BF16,
            other => {
                let message = format!("tensor {:?} is {other}: F32, F16 and BF16 are read", tensor.name);
                return Err(Refused::new(Reason::Unsupported, message));
            }
        };
        finite::scan(&file, &tensor.name, dtype, header.position(tensor), tensor.bytes())?;
    }
    let mut largest = 0;
    for (target, pair) in pairs {
        let [Some(a), Some(b)] = pair else {
            return Err(Refused::new(Reason::InvalidFile, format!("{target} has only one of lora_a and lora_b")));
        };
        largest = largest.max(fits(target, a, b, base)?);
    }
    if largest == 0 {
        return Err(Refused::new(Reason::InvalidFile, "has no tensors"));
    }
    let form = Form::Gguf(path.to_owned());
    Ok(Checked {
        form,
        architecture: architecture.to_owned(),
        alpha,
        own_alpha: f64::from(alpha),
        rank: largest,
        bytes,
    })
}

/// Whether a pair fits the base's weights; yields its rank.
fn fits(target: &str, a: &TensorInfo, b: &TensorInfo, base: &Base) -> Result<u64, Refused> {
    let wrong = |message: String| Err(Refused::new(Reason::WrongBase, message));
    let Some(dims) = base.tensors.get(target) else { return wrong(format!("the base has no tensor {target}")) };
    if target.starts_with("token_embd") || target.starts_with("output.") {
        return Err(Refused::new(Reason::Unsupported, format!("{target}: adapters of embeddings are not served")));
    }
    match (&a.dims[..], &b.dims[..], &dims[..]) {
        ([columns, rank], [of_b, rows], [base_columns, base_rows]) if (columns, rows) == (base_columns, base_rows) => {
            if rank != of_b || *rank > MAX_RANK {
                let message =
                    format!("{target}: its two matrices have the ranks {rank} and {of_b}, {MAX_RANK} at most");
                return Err(Refused::new(Reason::InvalidFile, message));
            }
            Ok(*rank)
        }
        (a, b, dims) => wrong(format!("{target} is {dims:?} in the base; lora_a is {a:?}, lora_b {b:?}")),
    }
}
