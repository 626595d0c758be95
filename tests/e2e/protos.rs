//! The `.proto` files that are shipped say what goes over the wire: by a real compiler of them, what the server's own
//! reflection says, and what a gateway sends.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use prost::Message;
use protox::prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use protox::prost_reflect::prost_types::{FileDescriptorProto, MethodDescriptorProto};
use protox::prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};
use tutti_api::demand::{PROTOBUF, Snapshot};
use tutti_tests::scaler::{SERVICE, Scaler};
use tutti_tests::{Client, Tutti, eventually, pool, simulator};

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn compiled(file: &str) -> FileDescriptorProto {
    let path = root().join(file);
    let set = protox::compile([&path], [path.parent().unwrap()]).unwrap_or_else(|error| panic!("{file}: {error}"));
    let [file] = <[FileDescriptorProto; 1]>::try_from(set.file).expect("one file");
    file
}

/// Message, field, number and type of each field; nested ones by their own names.
fn fields(file: &FileDescriptorProto) -> BTreeSet<(String, String, i32, String)> {
    let nested = file.message_type.iter().flat_map(|message| &message.nested_type);
    let of = |message: &protox::prost_reflect::prost_types::DescriptorProto| -> Vec<_> {
        let fields = message.field.iter().map(|field| {
            let kind = match field.r#type() {
                Type::Message => field.type_name().rsplit('.').next().unwrap_or_default().to_owned(),
                other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
            };
            let kind = if field.label() == Label::Repeated { format!("repeated {kind}") } else { kind };
            (message.name().to_owned(), field.name().to_owned(), field.number(), kind)
        });
        fields.collect()
    };
    file.message_type.iter().chain(nested).flat_map(of).collect()
}

/// The one message of a field of ServerReflectionResponse, `file_descriptor_response`.
#[derive(Clone, PartialEq, Message)]
struct Reflected {
    #[prost(message, optional, tag = "4")]
    files: Option<Files>,
}

#[derive(Clone, PartialEq, Message)]
struct Files {
    #[prost(bytes = "vec", repeated, tag = "1")]
    all: Vec<Vec<u8>>,
}

#[test]
fn the_external_scaler_is_what_its_reflection_says() {
    let scaler = Scaler::of("127.0.0.1:1");
    // file_containing_symbol is field 4.
    let ask = [&[34, u8::try_from(SERVICE.len()).unwrap()], SERVICE.as_bytes()].concat();
    let said = scaler.keda.call("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &ask, 1);
    let reflected = Reflected::decode(&*said.messages[0]).unwrap().files.expect("a file");
    let reflected = FileDescriptorProto::decode(&*reflected.all[0]).unwrap();
    let shipped = compiled("scaler-metrics/proto/externalscaler.proto");
    assert_eq!((reflected.name(), reflected.package()), (shipped.name(), shipped.package()));
    assert_eq!(fields(&reflected), fields(&shipped));
    let methods = |file: &FileDescriptorProto| -> Vec<(String, String, String, bool)> {
        let method = |of: &MethodDescriptorProto| {
            (of.name().to_owned(), of.input_type().to_owned(), of.output_type().to_owned(), of.server_streaming())
        };
        file.service.iter().flat_map(|service| service.method.iter().map(method)).collect()
    };
    assert_eq!(methods(&reflected), methods(&shipped));
    assert_eq!(methods(&shipped).len(), 4);
}

/// What the types that a gateway encodes say of themselves, by their attributes.
fn written() -> BTreeSet<(String, String, i32, String)> {
    let mut all = BTreeSet::new();
    for file in ["snapshot", "sketch"] {
        let text = fs::read_to_string(root().join(format!("api/src/demand/{file}.rs"))).unwrap();
        let (mut message, mut attribute) = (String::new(), None);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("pub struct ") {
                message = name.trim_end_matches(" {").to_owned();
            } else if let Some(said) = line.trim().strip_prefix("#[prost(") {
                attribute = Some(said.trim_end_matches(")]").to_owned());
            } else if let (Some(said), Some(field)) = (attribute.take(), line.trim().strip_prefix("pub ")) {
                let (name, of) = field.trim_end_matches(',').split_once(": ").unwrap();
                let mut words = said.split(", ");
                let kind = match words.next().unwrap() {
                    "message" => of.trim_start_matches("Vec<").trim_start_matches("Option<").trim_end_matches('>'),
                    kind => kind,
                };
                let kind = if said.contains("repeated") { format!("repeated {kind}") } else { kind.to_owned() };
                let number = said.split("tag = \"").nth(1).unwrap().trim_end_matches('"').parse().unwrap();
                all.insert((message.clone(), name.to_owned(), number, kind));
            }
        }
    }
    all
}

/// Whether nothing in a message is unknown, in whatever depth.
fn is_known(message: &DynamicMessage) -> bool {
    let known = |value: &Value| match value {
        Value::Message(message) => is_known(message),
        Value::List(all) => all.iter().all(|value| value.as_message().is_none_or(is_known)),
        _ => true,
    };
    message.unknown_fields().count() == 0 && message.fields().all(|(_, value)| known(value))
}

#[test]
fn demand_is_what_gateways_send() {
    let file = compiled("api/proto/demand.proto");
    assert_eq!(fields(&file), written());

    let replica = simulator();
    let fields = "slots: 1\n    scale: { min: 1, max: 3, target: 50% }\nmodels:\n  - name: risk\n    revisions: [{ name: v1, pool: p, upstream: m }]\n    slo: { ttft: 500ms }";
    let tutti = Tutti::start(&pool(&[replica.url()], fields));
    let chat = r#"{"model":"risk","messages":[{"role":"user","content":"hi"}]}"#;
    assert_eq!(tutti.ask("POST", "/api/chat", chat).status, 200);
    let bytes = eventually("it is measured", || {
        let mut ops = Client::connect(&tutti.ops()).expect("the ops port");
        let bytes = ops.ask("GET", "/demand", &[("Accept", PROTOBUF)], "").body;
        let snapshot = Snapshot::read(&bytes).expect("a snapshot");
        snapshot.rows.iter().any(|row| row.ended == 1).then_some(bytes)
    });
    let mut types = DescriptorPool::new();
    types.add_file_descriptor_proto(file).expect("a file");
    let snapshot = types.get_message_by_name("tutti.demand.Snapshot").expect("a message");
    let read = DynamicMessage::decode(snapshot, &*bytes).expect("a snapshot");
    assert!(is_known(&read), "{read:?}");
    let first = |name: &str| match read.get_field_by_name(name).as_deref() {
        Some(Value::List(all)) => all.first().and_then(|value| value.as_message().cloned()).expect(name),
        other => panic!("{name}: {other:?}"),
    };
    let number = |of: &DynamicMessage, name: &str| of.get_field_by_name(name).map(|value| value.into_owned());
    assert_eq!(number(&first("pools"), "most"), Some(Value::U32(3)));
    assert_eq!(number(&first("rows"), "slo_ttft_ms"), Some(Value::U64(500)));
    assert_eq!(read.descriptor().name(), "Snapshot");
}
