//! `tutti scaler-metrics` as KEDA sees it: what goes over the wire is as its own file has it, externalscaler.proto.

use std::collections::HashMap;
use std::process::Command;

use prost::Message;

use crate::{Answer, Called, Client, Dns, Grpc, Tutti, binary};

/// KEDA's service.
pub const SERVICE: &str = "externalscaler.ExternalScaler";

/// A trigger of a ScaledObject.
#[derive(Clone, PartialEq, Message)]
pub struct Ref {
    /// The ScaledObject.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where it is.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// The trigger's metadata.
    #[prost(map = "string, string", tag = "3")]
    pub metadata: HashMap<String, String>,
}

impl Ref {
    /// One with this metadata.
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let metadata = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { name: "qwen".to_owned(), namespace: "bank".to_owned(), metadata }
    }
}

/// A metric's target, or its value.
#[derive(Clone, PartialEq, Message)]
pub struct Number {
    /// The metric.
    #[prost(string, tag = "1")]
    pub name: String,
    /// As it was before KEDA 2.17.
    #[prost(int64, tag = "2")]
    pub whole: i64,
    /// As it is.
    #[prost(double, tag = "3")]
    pub exact: f64,
}

/// Some of them.
#[derive(Clone, PartialEq, Message)]
pub struct Numbers {
    /// All.
    #[prost(message, repeated, tag = "1")]
    pub all: Vec<Number>,
}

#[derive(Clone, PartialEq, Message)]
struct Wanted {
    #[prost(message, optional, tag = "1")]
    of: Option<Ref>,
    #[prost(string, tag = "2")]
    name: String,
}

/// One that runs.
#[derive(Debug)]
pub struct Scaler {
    /// The process.
    pub process: Tutti,
    /// A connection to it.
    pub keda: Grpc,
}

impl Scaler {
    /// One that asks these gateways.
    pub fn before(gateways: &[&Tutti]) -> Self {
        let addresses: Vec<String> = gateways.iter().map(|tutti| tutti.ops()).collect();
        Self::of(&addresses.join(","))
    }

    /// One that asks at these addresses.
    pub fn of(gateways: &str) -> Self {
        Self::with(gateways, &[], "")
    }

    /// One that asks at these addresses, with more arguments and a `tutti.yaml`.
    pub fn with(gateways: &str, more: &[&str], yaml: &str) -> Self {
        let arguments = ["scaler-metrics", "--gateways", gateways, "--grpc", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
        Self::of_process(Tutti::spawn(&[&arguments, more].concat(), yaml, &[]))
    }

    /// One whose system names this name server, with these arguments.
    ///
    /// # Panics
    /// Where the system gives nobody a mount namespace.
    pub fn resolving(dns: &Dns, arguments: &[&str]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap_or_else(|error| panic!("no file: {error}"));
        let written = std::fs::write(file.path(), format!("nameserver {}\n", dns.address()));
        written.unwrap_or_else(|error| panic!("cannot write: {error}"));
        let mut command = Command::new("unshare");
        let mount = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]).arg(file.path()).arg(binary());
        command.args(["scaler-metrics", "--grpc", "127.0.0.1:0", "--listen", "127.0.0.1:0"]).args(arguments);
        let scaler = Self::of_process(Tutti::of(&mut command));
        drop(file); // the mount keeps it
        scaler
    }

    /// One that has been started.
    pub fn of_process(process: Tutti) -> Self {
        let keda = Grpc::connect(&process.said_address("tutti tells what is wanted", "grpc"));
        Self { process, keda }
    }

    /// A page of its port.
    ///
    /// # Panics
    /// Where it does not answer.
    pub fn page(&self, path: &str) -> Answer {
        let listen = self.process.said_address("tutti tells what is wanted", "listen");
        let client = Client::connect(&listen);
        client.unwrap_or_else(|error| panic!("{listen}: {error}")).ask("GET", path, &[], "")
    }

    /// Calls a method of KEDA's.
    pub fn call(&self, method: &str, message: &impl Message) -> Called {
        self.keda.call(&format!("{SERVICE}/{method}"), &message.encode_to_vec(), 0)
    }

    /// Whether a pool is active.
    ///
    /// # Errors
    /// The status of why that is not known.
    pub fn is_active(&self, pool: &str) -> Result<bool, u32> {
        let called = self.call("IsActive", &Ref::of(&[("pool", pool)]));
        match called.status {
            Some(0) => Ok(called.messages.first().is_some_and(|message| *message == [8, 1])), // field 1 is true
            status => Err(status.unwrap_or_default()),
        }
    }

    /// The replicas that a pool wants; `None`: that is not known.
    ///
    /// # Panics
    /// Where the answer is none of KEDA's.
    pub fn wanted(&self, pool: &str) -> Option<f64> {
        let request = Wanted { of: Some(Ref::of(&[("pool", pool)])), name: "s0-tutti".to_owned() };
        let called = self.call("GetMetrics", &request);
        let numbers = Numbers::decode(called.messages.first()?.as_slice());
        let numbers = numbers.unwrap_or_else(|error| panic!("no numbers: {error}"));
        assert_eq!((numbers.all.len(), &*numbers.all[0].name), (1, "s0-tutti"));
        assert_eq!(numbers.all[0].whole, numbers.all[0].exact.ceil() as i64);
        Some(numbers.all[0].exact)
    }
}
