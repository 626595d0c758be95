//! What the parts of tutti agree on: specs, names, shapes; no I/O.
#![allow(missing_docs, reason = "stub")]
use std::time::Duration;
#[derive(Debug, Clone, Default)] pub struct Config { pub gateway: GatewaySpec, pub pools: Vec<PoolSpec>, pub models: Vec<ModelSpec> }
#[derive(Debug, Clone, Default)] pub struct GatewaySpec { pub listen: String, pub ops: String, pub admin: AdminSpec, pub allowed_hosts: Vec<String>, pub limits: Limits, pub drain: HumanDuration }
#[derive(Debug, Clone, Default)] pub struct AdminSpec { pub listen: String, pub token_file: Option<String> }
#[derive(Debug, Clone, Default)] pub struct Limits { pub body: ByteSize, pub buffered_bodies: ByteSize, pub connections: u32, pub header: ByteSize }
#[derive(Debug, Clone, Default, Copy)] pub struct ByteSize(usize); impl ByteSize { pub fn bytes(self) -> usize { self.0 } }
#[derive(Debug, Clone, Default, Copy)] pub struct HumanDuration(Duration); impl HumanDuration { pub fn get(self) -> Duration { self.0 } }
#[derive(Debug, Clone, Default)] pub struct PoolSpec { pub name: String, pub endpoints: Vec<Endpoint>, pub expose: Expose, pub slots: Slots, pub queue: Queue, pub timeouts: Timeouts, pub retries: Retries }
#[derive(Debug, Clone, Default)] pub struct Endpoint { pub url: Option<String> }
#[derive(Debug, Clone, Default, PartialEq)] pub enum Expose { #[default] Named, All }
#[derive(Debug, Clone, Default)] pub struct Slots; impl Slots { pub fn count(&self) -> Option<u16> { None } }
#[derive(Debug, Clone, Default)] pub struct Queue { pub size: u32, pub wait: HumanDuration }
#[derive(Debug, Clone, Default)] pub struct Timeouts { pub connect: HumanDuration, pub first_byte: HumanDuration, pub idle: HumanDuration }
#[derive(Debug, Clone, Default)] pub struct Retries { pub max: u32 }
#[derive(Debug, Clone, Default)] pub struct ModelSpec { pub name: String, pub aliases: Vec<String>, pub revisions: Vec<Revision>, pub traffic: Option<Traffic> }
#[derive(Debug, Clone, Default)] pub struct Revision { pub name: String, pub pool: String, pub upstream: Option<String> }
#[derive(Debug, Clone, Default)] pub struct Traffic { pub revision: Option<String> }
