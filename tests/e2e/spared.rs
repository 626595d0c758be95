//! What becomes of replicas' Pods when there are to be fewer: the only copy of a hot adapter is ended last, and who ends lets his
//! answers end first.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tutti_api::demand::{PROTOBUF, Snapshot};
use tutti_rig::{ControlPlane, Kind, deployed};
use tutti_simulator::engine::Machine;
use tutti_simulator::{Config, Model, Running, Simulator};
use tutti_tests::scaler::Scaler;
use tutti_tests::{Client, Tutti, binary, eventually, pool, quick, simulator_with};

fn chat(model: &str, stream: bool) -> String {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }], "stream": stream }).to_string()
}

const OBJECTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: bank }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: tutti-scaler, namespace: bank }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: tutti-scaler, namespace: bank }
rules: [{ apiGroups: [""], resources: [pods], verbs: [list, patch] }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: tutti-scaler, namespace: bank }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: tutti-scaler }
subjects: [{ kind: ServiceAccount, name: tutti-scaler, namespace: bank }]
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: engines, namespace: bank }
spec:
  replicas: 2
  selector: { matchLabels: { app: engines } }
  template:
    metadata: { labels: { app: engines } }
    spec: { nodeName: somewhere, containers: [{ name: engine, image: none }] }
"#;

fn pods(kubernetes: &ControlPlane) -> Vec<Value> {
    let listed = kubernetes.kubectl(&["get", "pods", "-n", "bank", "-o", "json"]).unwrap_or_default();
    let listed: Value = serde_json::from_str(&listed).unwrap_or_default();
    listed["items"].as_array().cloned().unwrap_or_default()
}

/// The Pod at an address.
fn pod_at(kubernetes: &ControlPlane, ip: &str) -> Value {
    pods(kubernetes).into_iter().find(|pod| pod["status"]["podIP"] == ip).unwrap_or_default()
}

fn cost(kubernetes: &ControlPlane, ip: &str) -> String {
    let annotations = &pod_at(kubernetes, ip)["metadata"]["annotations"];
    annotations["controller.kubernetes.io/pod-deletion-cost"].as_str().unwrap_or_default().to_owned()
}

/// Says of a Pod what a kubelet would: that it runs at this address, and is ready since then.
fn runs(kubernetes: &ControlPlane, pod: &Value, ip: &str, since: &str) {
    let ready = json!({ "type": "Ready", "status": "True", "lastTransitionTime": since });
    let status = json!({ "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": [ready] });
    let patch = json!({ "status": status }).to_string();
    let name = pod["metadata"]["name"].as_str().unwrap();
    let arguments = ["patch", "pod", name, "-n", "bank", "--subresource=status", "--type=merge", "-p", &patch];
    kubernetes.kubectl(&arguments).expect("a Pod's status");
}

/// `tutti scaler-metrics` as in a Pod: with its account where Pods have theirs, and the API server's address.
fn in_a_pod(kubernetes: &ControlPlane, account: &Path, arguments: &[&str]) -> Scaler {
    let token = kubernetes.kubectl(&["create", "token", "tutti-scaler", "-n", "bank"]).expect("a token");
    std::fs::write(account.join("token"), token).unwrap();
    std::fs::copy(kubernetes.authority(), account.join("ca.crt")).unwrap();
    let mut command = Command::new("unshare");
    let mount = "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io && \
                 ln -s \"$0\" /run/secrets/kubernetes.io/serviceaccount && exec \"$@\"";
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]).arg(account).arg(binary());
    command.args(["scaler-metrics", "--grpc", "127.0.0.1:0", "--listen", "127.0.0.1:0"]).args(arguments);
    command.env("KUBERNETES_SERVICE_HOST", kubernetes.address().ip().to_string());
    command.env("KUBERNETES_SERVICE_PORT", kubernetes.address().port().to_string());
    Scaler::of_process(Tutti::of(&mut command))
}

/// The replicas that alone have an adapter in use, by their addresses.
fn sole(tutti: &Tutti) -> Vec<String> {
    let mut ops = Client::connect(&tutti.ops()).unwrap();
    let answer = ops.ask("GET", "/demand", &[("Accept", PROTOBUF)], "");
    let told = &Snapshot::read(&answer.body).unwrap().pools[0].told;
    told.iter().filter(|replica| replica.sole > 0).map(|replica| replica.ip.clone()).collect()
}

#[test]
fn kubernetes_ends_another_pod_than_the_one_with_the_only_copy_of_a_hot_adapter() {
    let kubernetes = ControlPlane::start().expect("Kubernetes");
    // At first it may not mark them.
    kubernetes.apply(&OBJECTS.replace("verbs: [list, patch]", "verbs: [list]")).expect("objects");
    let base = Model::chat("base", 1 << 20);
    let config = Config { models: vec![base.with_adapter("hot"), base], ..quick() };
    let at = |host: &str| {
        let listen: SocketAddr = format!("{host}:0").parse().unwrap();
        Simulator::start(Config { listen, ..config.clone() }).unwrap()
    };
    let replicas = ["127.0.0.2", "127.0.0.3"].map(at);
    let urls: Vec<String> = replicas.iter().map(Running::url).collect();
    let tutti = Tutti::start(&pool(&urls, "expose: all\n    slots: 1"));
    let asked = || assert_eq!(tutti.ask("POST", "/api/chat", &chat("hot", false)).status, 200);
    let hot = eventually("one alone has it", || {
        asked();
        Some(sole(&tutti)).filter(|sole| sole.len() == 1)?.pop()
    });
    let other = if hot == "127.0.0.2" { "127.0.0.3" } else { "127.0.0.2" };

    let made = eventually("two Pods", || Some(pods(&kubernetes)).filter(|pods| pods.len() == 2));
    // It has been ready for a shorter time, so that it is the one that would be ended.
    runs(&kubernetes, &made[0], other, "2020-01-01T00:00:00Z");
    runs(&kubernetes, &made[1], &hot, "2026-01-01T00:00:00Z");
    let account = tempfile::tempdir().unwrap();
    let scaler = in_a_pod(&kubernetes, account.path(), &["--gateways", &tutti.ops(), "--spare-pods", "bank"]);
    let said = scaler.process.wait_said("Pods are not marked: any of them may be ended first");
    let why = said["fields"]["why"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("403 Forbidden: may this account PATCH /api/v1/namespaces/bank/pods/engines-"), "{why}");
    kubernetes.apply(OBJECTS).expect("objects");
    eventually("both are marked", || {
        asked();
        ((&*cost(&kubernetes, &hot), &*cost(&kubernetes, other)) == ("1000", "0")).then_some(())
    });

    kubernetes.kubectl(&["scale", "deployment", "engines", "-n", "bank", "--replicas=1"]).expect("fewer");
    let ends = |ip: &str| pod_at(&kubernetes, ip)["metadata"]["deletionTimestamp"].is_string();
    eventually("one is ended", || {
        let gone = pods(&kubernetes).len() < 2;
        (gone || ends(&hot) || ends(other)).then_some(())
    });
    assert!(
        pod_at(&kubernetes, &hot).is_object() && !ends(&hot),
        "it stays: {}\n{}",
        pod_at(&kubernetes, &hot),
        kubernetes.logs()
    );
}

/// What `deploy/kustomize/scaler` has an engine's Pod do before it is told to end, for an engine on this port.
fn before_its_end(port: u16) -> Command {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kustomize/scaler"));
    let objects = deployed(Kind::Kustomize, &folder).expect("a kustomization");
    let engine = objects.as_array().unwrap().iter().find(|object| object["kind"] == "StatefulSet").unwrap();
    let pod = &engine["spec"]["template"]["spec"];
    assert!(pod["terminationGracePeriodSeconds"].as_u64() >= Some(600), "its answers may take so long");
    let container = &pod["containers"][0];
    assert_eq!(container["ports"][0]["containerPort"], 11434);
    let words = container["lifecycle"]["preStop"]["exec"]["command"].as_array().unwrap();
    let [shell, run, script] = [0, 1, 2].map(|at| words[at].as_str().unwrap());
    assert!(script.contains(&format!(":{:04X} ", 11434)), "it looks at that port: {script}");
    let mut command = Command::new(shell);
    command.arg(run).arg(script.replace(&format!(":{:04X} ", 11434), &format!(":{port:04X} ")));
    command
}

#[test]
fn a_pod_that_goes_is_told_to_end_once_its_answers_have() {
    let slow = Machine { token_time: Duration::from_millis(40), ..Machine::instant() };
    let replica = simulator_with(Config { machine: slow, answer_tokens: 100, ..quick() });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("replicas");
    std::fs::write(&file, replica.url()).unwrap();
    let yaml =
        format!("pools:\n  - {{ name: p, endpoints: [{{ file: {:?} }}], expose: all }}\n", file.display().to_string());
    let tutti = Tutti::start(&yaml);
    let mut stream = tutti.begin("/api/chat", &chat("m", true));
    stream.head().unwrap();
    assert!(!stream.chunk().unwrap().is_empty());
    // Its Pod ends: it leaves DNS, and Kubernetes runs this before it sends SIGTERM.
    let new = folder.path().join("new");
    std::fs::write(&new, "# none").unwrap();
    std::fs::rename(&new, &file).unwrap();
    let mut waits = before_its_end(replica.addr().port()).spawn().expect("a shell");
    let last: Value = serde_json::from_slice(&stream.last_chunk()).unwrap();
    assert_eq!(last["done"], true, "the stream of one that is gone ends in peace");
    assert!(waits.try_wait().unwrap().is_none(), "so long it waits");
    let status = eventually("it may end", || waits.try_wait().unwrap());
    assert!(status.success());
    assert_eq!(replica.in_flight(), 0);
}
