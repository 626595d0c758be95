//! The messages of `proto/externalscaler.proto`, and their descriptor for who asks by reflection.

use std::collections::HashMap;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MessageOptions,
    MethodDescriptorProto, ServiceDescriptorProto,
};

/// Which ScaledObject asks, and what it says in its trigger.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ScaledObjectRef {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) namespace: String,
    #[prost(map = "string, string", tag = "3")]
    pub(crate) metadata: HashMap<String, String>,
}

/// Whether there is anything to do.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct IsActiveResponse {
    #[prost(bool, tag = "1")]
    pub(crate) result: bool,
}

/// The metrics that there are.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetMetricSpecResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) specs: Vec<MetricSpec>,
}

/// A metric, and what it shall be. The whole number is for KEDA before 2.17.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetricSpec {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int64, tag = "2")]
    pub(crate) target: i64,
    #[prost(double, tag = "3")]
    pub(crate) target_float: f64,
}

/// What a metric is now?
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetMetricsRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) of: Option<ScaledObjectRef>,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
}

/// What metrics are.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetMetricsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) values: Vec<MetricValue>,
}

/// What a metric is. The whole number is for KEDA before 2.17.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MetricValue {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int64, tag = "2")]
    pub(crate) value: i64,
    #[prost(double, tag = "3")]
    pub(crate) value_float: f64,
}

const PACKAGE: &str = "externalscaler";

fn field(name: &str, number: i32, kind: Type, label: Label, of: Option<&str>) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        r#type: Some(kind.into()),
        label: Some(label.into()),
        type_name: of.map(|of| format!(".{PACKAGE}.{of}")),
        ..FieldDescriptorProto::default()
    }
}

fn message(name: &str, field: Vec<FieldDescriptorProto>) -> DescriptorProto {
    DescriptorProto { name: Some(name.to_owned()), field, ..DescriptorProto::default() }
}

/// The file, as a compiler of protobuf describes it.
pub(super) fn descriptor() -> Vec<u8> {
    let one = |name, number, kind| field(name, number, kind, Label::Optional, None);
    let many = |name, of| field(name, 1, Type::Message, Label::Repeated, Some(of));
    let entry = DescriptorProto {
        options: Some(MessageOptions { map_entry: Some(true), ..MessageOptions::default() }),
        ..message("ScalerMetadataEntry", vec![one("key", 1, Type::String), one("value", 2, Type::String)])
    };
    let map = Some("ScaledObjectRef.ScalerMetadataEntry");
    let reference = DescriptorProto {
        nested_type: vec![entry],
        ..message(
            "ScaledObjectRef",
            vec![
                one("name", 1, Type::String),
                one("namespace", 2, Type::String),
                field("scalerMetadata", 3, Type::Message, Label::Repeated, map),
            ],
        )
    };
    let number = |name, whole, exact| {
        let fields = vec![one("metricName", 1, Type::String), one(whole, 2, Type::Int64), one(exact, 3, Type::Double)];
        message(name, fields)
    };
    let method = |name: &str, input: &str, output: &str, streams: bool| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(format!(".{PACKAGE}.{input}")),
        output_type: Some(format!(".{PACKAGE}.{output}")),
        server_streaming: Some(streams),
        ..MethodDescriptorProto::default()
    };
    let service = ServiceDescriptorProto {
        name: Some("ExternalScaler".to_owned()),
        method: vec![
            method("IsActive", "ScaledObjectRef", "IsActiveResponse", false),
            method("StreamIsActive", "ScaledObjectRef", "IsActiveResponse", true),
            method("GetMetricSpec", "ScaledObjectRef", "GetMetricSpecResponse", false),
            method("GetMetrics", "GetMetricsRequest", "GetMetricsResponse", false),
        ],
        ..ServiceDescriptorProto::default()
    };
    let of = field("scaledObjectRef", 1, Type::Message, Label::Optional, Some("ScaledObjectRef"));
    let file = FileDescriptorProto {
        name: Some("externalscaler.proto".to_owned()),
        package: Some(PACKAGE.to_owned()),
        message_type: vec![
            reference,
            message("IsActiveResponse", vec![one("result", 1, Type::Bool)]),
            message("GetMetricSpecResponse", vec![many("metricSpecs", "MetricSpec")]),
            number("MetricSpec", "targetSize", "targetSizeFloat"),
            message("GetMetricsRequest", vec![of, one("metricName", 2, Type::String)]),
            message("GetMetricsResponse", vec![many("metricValues", "MetricValue")]),
            number("MetricValue", "metricValue", "metricValueFloat"),
        ],
        service: vec![service],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}
