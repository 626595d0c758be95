//! What PEFT writes: a configuration and safetensors.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tutti_api::Reason;

use super::pattern::Pattern;
use super::{CONFIG, Checked, Form, MAX_RANK, Pair, Refused, WEIGHTS, finite, heads_of, open, shown};
use crate::architecture::Architecture;
use crate::base::Base;
use crate::safetensors::{self, Tensor};

/// Largest configuration. Unit: bytes.
const MAX_CONFIG: u64 = 1 << 20;
/// What every name begins with.
const BEFORE: &str = "base_model.model.";

/// `adapter_config.json` (PEFT's `LoraConfig`).
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    peft_type: String,
    r: u64,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    rank_pattern: Pattern<u64>,
    #[serde(default)]
    alpha_pattern: Pattern<f64>,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

/// Beginnings (`init_lora_weights`) that take from the base's own weights what they give to the matrices: on the base as it was
/// they are wrong. PEFT's `path_initial_model_for_weight_conversion` saves them so that they are right, as `true`.
const TAKES_FROM_THE_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// Fields that change what the matrices mean; as PEFT has them where they are off.
const UNSUPPORTED: [(&str, &str); 14] = [
    ("use_dora", "DoRA scales the base's own weights"),
    ("modules_to_save", "whole layers stand beside the LoRA"),
    ("trainable_token_indices", "embeddings of tokens stand beside the LoRA"),
    ("lora_bias", "biases stand beside the LoRA"),
    ("fan_in_fan_out", "its matrices are the other way round"),
    ("layer_replication", "the base's layers are repeated"),
    ("target_parameters", "parameters that are no linear layers are adapted"),
    ("megatron_config", "it is of a parallel layer"),
    ("use_qalora", "its input is pooled"),
    ("use_bdlora", "its matrices are block-diagonal"),
    ("kasa_config", "it takes parts of the base's weights away, and has a diagonal between its matrices"),
    ("monteclora_config", "what its matrices are is sampled"),
    ("alora_invocation_tokens", "it is active from a token on only"),
    ("arrow_config", "it is one of several that are routed"),
];

pub(super) fn verify(folder: &Path, base: &Base) -> Result<Checked, Refused> {
    let config = config(folder).map_err(|refused| refused.of(CONFIG))?;
    weights(&folder.join(WEIGHTS), &config, base).map_err(|refused| refused.of(WEIGHTS))
}

fn config(folder: &Path) -> Result<Config, Refused> {
    let (file, length) = open(&folder.join(CONFIG))?;
    let invalid = |what: String| Refused::new(Reason::InvalidFile, what);
    if length > MAX_CONFIG {
        return Err(invalid(format!("is {length} bytes long: at most {MAX_CONFIG} are read")));
    }
    let mut text = Vec::new();
    file.take(MAX_CONFIG).read_to_end(&mut text).map_err(|error| invalid(format!("cannot be read: {error}")))?;
    let config: Config = serde_json::from_slice(&text)
        .map_err(|error| invalid(format!("is no configuration of a LoRA: {}", shown(&error.to_string()))))?;
    let unsupported = |what: String| Err(Refused::new(Reason::Unsupported, what));
    if config.peft_type != "LORA" {
        return unsupported(format!("peft_type is {:?}: LORA is served", shown(&config.peft_type)));
    }
    let is_off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    let on = |(name, _): &&(&str, &str)| config.other.get(*name).is_some_and(|value| !is_off(value));
    if let Some((name, why)) = UNSUPPORTED.iter().find(on) {
        return unsupported(format!(
            "{name} is set: {why}, which engines' adapters cannot say. Train without it, or merge it yourself"
        ));
    }
    if let Some(bias) = config.other.get("bias").and_then(Value::as_str).filter(|bias| *bias != "none") {
        return unsupported(format!("bias is {:?}: biases stand beside the LoRA. Train with \"none\"", shown(bias)));
    }
    let begun = config.other.get("init_lora_weights").and_then(Value::as_str).map(str::to_ascii_lowercase);
    if let Some(begun) = begun.filter(|begun| TAKES_FROM_THE_BASE.iter().any(|word| begun.starts_with(word))) {
        return unsupported(format!(
            "init_lora_weights is {:?}: it was trained on a base that was changed for it. Save it with \
             path_initial_model_for_weight_conversion",
            shown(&begun)
        ));
    }
    if !(1..=MAX_RANK).contains(&config.r) || !config.lora_alpha.is_finite() || config.lora_alpha == 0.0 {
        return Err(invalid(format!(
            "r is {} and lora_alpha {}: r is 1 to {MAX_RANK}, lora_alpha a number but 0",
            config.r, config.lora_alpha
        )));
    }
    let is_plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    let mut names = config.rank_pattern.names().chain(config.alpha_pattern.names());
    if let Some(name) = names.find(|name| !is_plain(name)) {
        return unsupported(format!(
            "a pattern of ranks or alphas is {:?}: modules' names are read, no expressions",
            shown(name)
        ));
    }
    drop(names);
    Ok(config)
}

impl Config {
    /// By what a pair's product is multiplied.
    fn scale(&self, alpha: f64, rank: u64) -> f64 {
        let rank = rank as f64;
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

fn weights(path: &Path, config: &Config, base: &Base) -> Result<Checked, Refused> {
    let Some(architecture) = Architecture::of(&base.architecture) else {
        let message = format!("the base is {}: adapters of {} are converted", base.architecture, Architecture::names());
        return Err(Refused::new(Reason::Unsupported, message));
    };
    let (file, bytes) = open(path)?;
    let tensors = safetensors::read(BufReader::new(&file), bytes)?;
    // llama.cpp's scale of a pair is alpha / rank (llama-adapter.h, `get_scale`).
    let alpha = (config.scale(config.lora_alpha, config.r) * config.r as f64) as f32;
    if !alpha.is_normal() {
        return Err(Refused::new(Reason::InvalidFile, format!("{CONFIG}'s lora_alpha and r make the scale {alpha}")));
    }
    let mut halves: BTreeMap<String, [Option<(Tensor, f32)>; 2]> = BTreeMap::new();
    for tensor in tensors {
        let (module, half) = split(&tensor.name).map(|(module, half)| (module.to_owned(), half))?;
        let largest = finite::scan(&file, &tensor.name, tensor.dtype, tensor.start, tensor.length)?;
        halves.entry(module).or_default()[half] = Some((tensor, largest));
    }
    let mut pairs = Vec::new();
    for (module, pair) in halves {
        let [Some((a, _)), Some(b)] = pair else {
            return Err(Refused::new(Reason::InvalidFile, format!("{module} has only one of lora_A and lora_B")));
        };
        pairs.push(fits(&module, a, b, alpha, config, architecture, base)?);
    }
    let Some(rank) = pairs.iter().map(|pair| pair.a.shape[0]).max() else {
        return Err(Refused::new(Reason::InvalidFile, "has no tensors"));
    };
    let form = Form::Peft { file: path.to_owned(), pairs };
    Ok(Checked { form, architecture: base.architecture.clone(), alpha, own_alpha: config.lora_alpha, rank, bytes })
}

/// A tensor's module, and which of the two matrices it is.
fn split(name: &str) -> Result<(&str, usize), Refused> {
    let unsupported = |what: String| Refused::new(Reason::Unsupported, what);
    let module = name
        .strip_prefix(BEFORE)
        .ok_or_else(|| unsupported(format!("tensor {name:?} does not begin with {BEFORE}")))?;
    let half = [".lora_A.weight", ".lora_B.weight"].iter().enumerate();
    let found = half.into_iter().find_map(|(half, end)| Some((module.strip_suffix(end)?, half)));
    found.ok_or_else(|| {
        unsupported(format!(
            "tensor {name:?} is none of a LoRA over linear layers: lora_A.weight and lora_B.weight are"
        ))
    })
}

fn fits(
    module: &str,
    a: Tensor,
    (b, largest): (Tensor, f32),
    alpha: f32,
    config: &Config,
    architecture: &Architecture,
    base: &Base,
) -> Result<Pair, Refused> {
    let Some((target, heads)) = architecture.tensor(module) else {
        let message =
            format!("{module} is no linear layer of {}: embeddings and heads are not served", architecture.name);
        return Err(Refused::new(Reason::Unsupported, message));
    };
    let wrong = |message: String| Err(Refused::new(Reason::WrongBase, message));
    let Some(dims) = base.tensors.get(&target) else {
        return wrong(format!("{module}: the base has no {target}, so it has fewer layers or is another"));
    };
    let (&[rank, columns], &[rows, of_b], &[base_columns, base_rows]) = (&a.shape[..], &b.shape[..], &dims[..]) else {
        return wrong(format!(
            "{module}: lora_A is {:?}, lora_B {:?}, the base's {target} {dims:?}: not all matrices",
            a.shape, b.shape
        ));
    };
    if (columns, rows) != (base_columns, base_rows) {
        return wrong(format!(
            "{module} is for weights of {rows} by {columns}, the base's {target} are {base_rows} by {base_columns}"
        ));
    }
    let wanted = config.rank_pattern.of(module).unwrap_or(config.r);
    if rank != of_b || rank != wanted || rank > MAX_RANK {
        let message = format!(
            "{module}: its matrices have the ranks {rank} and {of_b}, {CONFIG} says {wanted}, and {MAX_RANK} is the most"
        );
        return Err(Refused::new(Reason::InvalidFile, message));
    }
    let scale = config.scale(config.alpha_pattern.of(module).unwrap_or(config.lora_alpha), rank);
    let factor = (scale * rank as f64 / f64::from(alpha)) as f32;
    // Alone what rounding alpha to 32 bits leaves is no factor.
    let factor = if (factor - 1.0).abs() < 1e-6 { 1.0 } else { factor };
    let heads = heads.map(|heads| heads_of(heads, base));
    if heads == Some(0) {
        let message = format!("{module}: the base does not say how many heads it has, and its rows are theirs");
        return Err(Refused::new(Reason::Unsupported, message));
    }
    if let Some(heads) = heads.filter(|heads| !rows.is_multiple_of(heads * 2)) {
        return wrong(format!("{module} has {rows} rows, which are none of {heads} heads"));
    }
    if !factor.is_normal() || !(largest * factor).is_finite() {
        return Err(Refused::new(
            Reason::NotFinite,
            format!("{module}: its alpha and rank scale it to infinity, or to nothing"),
        ));
    }
    Ok(Pair { target, a, b, factor, heads })
}
