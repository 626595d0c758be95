//! The specs as Kubernetes custom resources, `tutti.dev/v1alpha1`, are the very types that a file carries. Here it is
//! checked that a Kubernetes API server would take their schemas.

use kube::CustomResourceExt;
use serde_json::Value;

use crate::{Model, Pool};

/// Structural schemas know no union of types but int-or-string
/// (kubernetes.io, "Specifying a structural schema").
fn assert_structural(schema: &Value, path: &str) {
    let int_or_string = schema["x-kubernetes-int-or-string"] == true;
    assert!(int_or_string || schema["type"].is_string(), "{path} has no single type: {schema}");
    for union in ["oneOf", "anyOf", "allOf"] {
        assert!(schema[union].is_null(), "{path} is a union: {schema}");
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        assert_structural(field, &format!("{path}.{name}"));
    }
    if schema["type"] == "array" {
        assert_structural(&schema["items"], &format!("{path}[]"));
    }
}

#[test]
fn the_custom_resources_have_structural_schemas() {
    for crd in [Pool::crd(), Model::crd()] {
        let crd = serde_json::to_value(crd).unwrap();
        assert_eq!(crd["spec"]["scope"], "Namespaced");
        assert_eq!(crd["spec"]["group"], "tutti.dev");
        let version = &crd["spec"]["versions"][0];
        assert_eq!(version["name"], "v1alpha1");
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert_structural(spec, crd["spec"]["names"]["kind"].as_str().unwrap());
    }
}
