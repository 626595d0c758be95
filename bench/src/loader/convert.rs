//! An adapter of a large model, verified and converted, and merged into its base: on one core, and onto the disk.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tutti_adapter_loader::base::Base;
use tutti_adapter_loader::gguf::{TensorKind, Value, Writer};
use tutti_adapter_loader::{convert, merge, quant, verify};
use tutti_api::{Digest, FileEntry, Manifest, MergeTo};

use super::LoaderBench;
use crate::report::{Bar, Origin, heading, median, short};

const RANK: u64 = 32;
/// Layers of the base that is merged with: each is 218 million numbers.
const MERGED_LAYERS: u64 = 2;
/// Numbers that are made at once, and written again and again.
const PIECE: usize = 1 << 20;
/// As the loader gathers bytes before they are written.
const BUFFER: usize = 1 << 20;

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Convert {
    origin: Origin,
    width: u64,
    layers: u64,
    rows: Vec<Row>,
    merges: Vec<Merged>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    name: String,
    /// Of the adapter's weights. Unit: bytes.
    read: u64,
    /// Of what was made. Unit: bytes.
    made: u64,
    /// Processor time of each run. Unit: seconds.
    verify: Vec<f64>,
    convert: Vec<f64>,
    /// From begin to end, digest and fsync among it. Unit: seconds.
    disk: Vec<f64>,
    /// As many bytes written, and fsync, and nothing else. Unit: seconds.
    plain: Vec<f64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Merged {
    name: String,
    /// Of the base. Unit: bytes.
    read: u64,
    numbers: u64,
    /// Processor time of all threads. Unit: seconds.
    own: Vec<f64>,
    /// From begin to end, into nothing. Unit: seconds.
    times: Vec<f64>,
}

/// A matrix of a layer: PEFT's name, GGUF's, columns and rows in quarters of the width.
const PARTS: [(&str, &str, u64, u64); 7] = [
    ("self_attn.q_proj", "attn_q", 4, 4),
    ("self_attn.k_proj", "attn_k", 4, 1),
    ("self_attn.v_proj", "attn_v", 4, 1),
    ("self_attn.o_proj", "attn_output", 4, 4),
    ("mlp.gate_proj", "ffn_gate", 4, 14),
    ("mlp.up_proj", "ffn_up", 4, 14),
    ("mlp.down_proj", "ffn_down", 14, 4),
];

/// The matrices of so many layers: PEFT's name, GGUF's, columns, rows.
fn matrices(width: u64, layers: u64) -> impl Iterator<Item = (String, String, u64, u64)> {
    (0..layers).flat_map(move |layer| {
        PARTS.map(|(module, tensor, columns, rows)| {
            let quarter = width / 4;
            (
                format!("base_model.model.model.layers.{layer}.{module}"),
                format!("blk.{layer}.{tensor}.weight"),
                columns * quarter,
                rows * quarter,
            )
        })
    })
}

fn base(architecture: &str, width: u64, layers: u64) -> Base {
    let tensors = matrices(width, layers).map(|(_, tensor, columns, rows)| (tensor, vec![columns, rows]));
    Base { architecture: architecture.to_owned(), digest: None, heads: 32, heads_kv: 8, tensors: tensors.collect() }
}

/// Numbers as weights have them: small, of both signs.
fn numbers() -> Vec<f32> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / f32::from(u16::MAX) / 1280.0 - 0.1
    };
    std::iter::repeat_with(next).take(PIECE).collect()
}

/// Writes an adapter as PEFT does.
fn peft(folder: &Path, dtype: &str, width: u64, layers: u64) -> anyhow::Result<u64> {
    let config = json!({ "peft_type": "LORA", "r": RANK, "lora_alpha": 16, "bias": "none" });
    fs::write(folder.join(verify::CONFIG), config.to_string())?;
    let numbers = numbers();
    let bytes: Vec<u8> = match dtype {
        "F32" => numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
        "F16" => numbers.iter().flat_map(|number| quant::f32_to_f16(*number).to_le_bytes()).collect(),
        _ => numbers.iter().flat_map(|number| ((number.to_bits() >> 16) as u16).to_le_bytes()).collect(),
    };
    let of_one = (bytes.len() / PIECE) as u64;
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (module, _, columns, rows) in matrices(width, layers) {
        for (half, shape) in [("A", [RANK, columns]), ("B", [rows, RANK])] {
            let begin = end;
            end += shape[0] * shape[1] * of_one;
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
            header.insert(format!("{module}.lora_{half}.weight"), entry);
        }
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = File::create(folder.join(verify::WEIGHTS))?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    fill(&mut file, &bytes, end)?;
    file.sync_all()?;
    Ok(end)
}

/// Writes so many bytes of those, again and again.
fn fill(out: &mut impl Write, bytes: &[u8], mut count: u64) -> io::Result<()> {
    while count > 0 {
        let take = bytes.len().min(usize::try_from(count).unwrap_or(bytes.len()));
        out.write_all(&bytes[..take])?;
        count -= take as u64;
    }
    Ok(())
}

/// A file whose digest is known once it is written, as the loader writes it.
struct Hashed(File, Sha256);

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What passes is counted, and goes nowhere.
#[derive(Default)]
struct Nowhere(u64);

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Processor time of this thread, or of all of the process. Unit: seconds.
fn worked(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)).as_secs_f64()
}

/// How long it takes by a clock, and what comes of it.
fn timed<T>(clock: ClockId, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let begun = worked(clock);
    let outcome = work()?;
    Ok((worked(clock) - begun, outcome))
}

pub(super) fn measure(options: &LoaderBench) -> anyhow::Result<Convert> {
    let (width, layers) = (options.width, options.layers);
    ensure!(
        width > 0 && width.is_multiple_of(256) && layers > 0,
        "the width is a multiple of 256, the layers are some"
    );
    let rows = [("llama", "F32"), ("llama", "F16"), ("llama", "BF16"), ("qwen2", "BF16")];
    let rows = rows.map(|(architecture, dtype)| row(architecture, dtype, options));
    let rows = rows.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let merges = merges(options)?;
    let origin = Origin::here("cargo xtask bench loader".into(), Vec::new());
    Ok(Convert { origin, width, layers, rows, merges })
}

fn row(architecture: &str, dtype: &str, options: &LoaderBench) -> anyhow::Result<Row> {
    let folder = TempDir::with_prefix("tutti-bench-loader-")?;
    let read = peft(folder.path(), dtype, options.width, options.layers)?;
    let base = base(architecture, options.width, options.layers);
    let mut row = Row {
        name: format!("{architecture}, {dtype}"),
        read,
        made: 0,
        verify: Vec::new(),
        convert: Vec::new(),
        disk: Vec::new(),
        plain: Vec::new(),
    };
    let piece = vec![7; BUFFER];
    for _ in 0..options.rounds {
        let (verify, checked) = timed(ClockId::ThreadCPUTime, || checked(folder.path(), &base))?;
        let (convert, nowhere) = timed(ClockId::ThreadCPUTime, || {
            let mut nowhere = BufWriter::with_capacity(BUFFER, Nowhere::default());
            convert::convert(&checked, &mut nowhere)?;
            Ok(nowhere.into_inner().map_err(io::IntoInnerError::into_error)?.0)
        })?;
        let out = folder.path().join("out");
        rustix::fs::sync();
        let begun = Instant::now();
        let mut hashed = Hashed(File::create(&out)?, Sha256::new());
        let mut buffered = BufWriter::with_capacity(BUFFER, &mut hashed);
        convert::convert(&checked, &mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        hashed.0.sync_all()?;
        std::hint::black_box(hashed.1.finalize());
        let disk = begun.elapsed().as_secs_f64();
        fs::remove_file(&out)?;
        rustix::fs::sync();
        let begun = Instant::now();
        let mut file = File::create(&out)?;
        fill(&mut file, &piece, nowhere)?;
        file.sync_all()?;
        let plain = begun.elapsed().as_secs_f64();
        fs::remove_file(&out)?;
        row.made = nowhere;
        for (times, time) in [&mut row.verify, &mut row.convert, &mut row.disk, &mut row.plain]
            .into_iter()
            .zip([verify, convert, disk, plain])
        {
            times.push(time);
        }
        eprintln!("{}: verified in {verify:.3} s, converted in {convert:.3} s; onto the disk {disk:.2} s", row.name);
    }
    Ok(row)
}

fn checked(folder: &Path, base: &Base) -> anyhow::Result<verify::Checked> {
    let entry = FileEntry { sha256: Digest::new([0; 32]), size: 1 };
    let files: BTreeMap<_, _> = [verify::CONFIG, verify::WEIGHTS].map(|name| (name.to_owned(), entry)).into();
    Ok(verify::verify(folder, &Manifest { files, ..Manifest::default() }, base)?)
}

fn merges(options: &LoaderBench) -> anyhow::Result<Vec<Merged>> {
    let folder = TempDir::with_prefix("tutti-bench-loader-")?;
    let layers = MERGED_LAYERS.min(options.layers);
    peft(folder.path(), "BF16", options.width, layers)?;
    let lora = folder.path().join("lora.gguf");
    let base = base("llama", options.width, layers);
    convert::convert(&checked(folder.path(), &base)?, BufWriter::new(File::create(&lora)?))?;
    let lora = File::open(lora)?;
    let path = folder.path().join("base.gguf");
    let mut rows = Vec::new();
    for (kind, to) in [
        (TensorKind::Q4_K, MergeTo::Q8_0),
        (TensorKind::Q4_K, MergeTo::F16),
        (TensorKind::Q6_K, MergeTo::Q8_0),
        (TensorKind::Q8_0, MergeTo::Q8_0),
        (TensorKind::F16, MergeTo::F16),
    ] {
        gguf(&path, kind, options.width, layers)?;
        let file = File::open(&path)?;
        let numbers = matrices(options.width, layers).map(|(_, _, columns, rows)| columns * rows).sum();
        let name = format!("{kind} to {}", if to == MergeTo::F16 { "F16" } else { "Q8_0" });
        let mut row = Merged { name, read: file.metadata()?.len(), numbers, own: Vec::new(), times: Vec::new() };
        for _ in 0..options.rounds {
            let begun = Instant::now();
            let merged = || merge::merge(&file, &lora, to, Nowhere::default()).context("it is not merged");
            let (own, ()) = timed(ClockId::ProcessCPUTime, merged)?;
            row.own.push(own);
            row.times.push(begun.elapsed().as_secs_f64());
            eprintln!("{}: merged in {:.2} s", row.name, begun.elapsed().as_secs_f64());
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Writes a base of this kind.
fn gguf(path: &Path, kind: TensorKind, width: u64, layers: u64) -> anyhow::Result<()> {
    /// 0.002, as a scale of 16 bits.
    const SCALE: [u8; 2] = 0x1819_u16.to_le_bytes();
    let numbers = numbers();
    let mut bytes = vec![0; usize::try_from(kind.bytes(PIECE as u64).context("whole blocks")?)?];
    match kind {
        TensorKind::F16 => quant::encode_f16(&numbers, &mut bytes),
        TensorKind::Q8_0 => quant::quantise_q8_0(&numbers, &mut bytes),
        _ => {
            let random = numbers.iter().flat_map(|number| number.to_bits().to_le_bytes());
            bytes.iter_mut().zip(random).for_each(|(byte, random)| *byte = random);
            for block in bytes.chunks_exact_mut(kind.block().1) {
                // Where their scales lie (`ggml-common.h`): before Q4_K's blocks, behind Q6_K's.
                match kind {
                    TensorKind::Q6_K => block[208..].copy_from_slice(&SCALE),
                    _ => block[..4].copy_from_slice(&[SCALE, SCALE].concat()),
                }
            }
        }
    }
    let metadata = vec![("general.architecture".to_owned(), Value::String("llama".to_owned()))];
    let tensors = matrices(width, layers).map(|(_, tensor, columns, rows)| (tensor, vec![columns, rows], kind));
    let mut writer = Writer::new(BufWriter::new(File::create(path)?), metadata, tensors)?;
    for (_, _, columns, rows) in matrices(width, layers) {
        let mut left = kind.bytes(columns * rows).context("whole blocks")?;
        while left > 0 {
            let take = bytes.len().min(usize::try_from(left)?);
            writer.write(&bytes[..take])?;
            left -= take as u64;
        }
    }
    writer.finish()?.flush()?;
    Ok(())
}

/// Megabytes (10⁶) a second.
fn rate(bytes: u64, times: &[f64]) -> f64 {
    bytes as f64 / 1e6 / median(times.iter().copied())
}

impl Convert {
    /// Its part of the section.
    pub(super) fn markdown(&self) -> String {
        let mut text = heading("Adapters converted and merged", &self.origin);
        let rounds = self.rows.first().map_or(0, |row| row.verify.len());
        let _ = writeln!(
            text,
            "A LoRA of rank {RANK} over all linear layers of a model {} wide with {} layers, out of the cache of files; of \
             {rounds} rounds the middle one. Verified, it is read whole and each number looked at; converted, it is read again \
             and written as 32-bit floats, for llama with q and k permuted: both as megabytes of the adapter a second of one \
             core's time. Onto the disk: conversion, SHA-256 and fsync, as the loader does it, on one thread, and as many bytes \
             merely written, as megabytes of what is written.\n",
            self.width, self.layers
        );
        text += "| adapter | MB | verified MB/s a core | converted MB/s a core | both MB/s a core | onto the disk MB/s | merely written MB/s |\n";
        text += "|---|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let both: Vec<f64> =
                row.verify.iter().zip(&row.convert).map(|(verify, convert)| verify + convert).collect();
            let cells = [
                row.read as f64 / 1e6,
                rate(row.read, &row.verify),
                rate(row.read, &row.convert),
                rate(row.read, &both),
                rate(row.made, &row.disk),
                rate(row.made, &row.plain),
            ];
            let _ = writeln!(text, "| {} | {} |", row.name, cells.map(short).join(" | "));
        }
        text.push('\n');
        let slowest = self.rows.iter().map(|row| rate(row.read, &row.convert)).fold(f64::INFINITY, f64::min);
        text += &Bar::new("MB/s a core, converted, the slowest", Some(slowest), 500.0).at_least().line();
        let _ = writeln!(
            text,
            "\nMerged into a base of the same width with {} layers, each matrix of which is adapted, written nowhere.\n",
            MERGED_LAYERS.min(self.layers)
        );
        text += "| merged | base MB | base MB/s | million numbers a second | a core's million numbers a second |\n";
        text += "|---|---|---|---|---|\n";
        for row in &self.merges {
            let cells = [
                row.read as f64 / 1e6,
                rate(row.read, &row.times),
                rate(row.numbers, &row.times),
                rate(row.numbers, &row.own),
            ];
            let _ = writeln!(text, "| {} | {} |", row.name, cells.map(short).join(" | "));
        }
        text
    }
}
