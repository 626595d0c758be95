//! A real Kubernetes with a real KEDA: its ScaledObject is what moves `spec.replicas`, by what scaler-metrics says of real
//! gateways. Wants root and Debian's containerd; elsewhere it says so and is no test.

#![allow(clippy::unwrap_used, reason = "a test's helper fails as the test does")]

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tutti_rig::{Cluster, static_binary};
use tutti_tests::Client;

/// How long Pods and controllers may take on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(240);

fn eventually<T>(cluster: &Cluster, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        if Instant::now() > until {
            let state = cluster.kubectl(&["get", "pods,scaledobjects,hpa,events", "-n", "bank", "-o", "wide"]);
            panic!("{what}: not within {PATIENCE:?}\n{}\n{}", state.unwrap_or_default(), cluster.logs());
        }
        std::thread::sleep(Duration::from_millis(50)); // between two looks: nothing tells us
    }
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
rules:
  - { apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list] }
  - { apiGroups: [""], resources: [pods], verbs: [list, patch] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: tutti-scaler, namespace: bank }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: tutti-scaler }
subjects: [{ kind: ServiceAccount, name: tutti-scaler, namespace: bank }]
---
apiVersion: v1
kind: ConfigMap
metadata: { name: tutti, namespace: bank }
data:
  tutti.yaml: |
    gateway: { listen: "0.0.0.0:11500", ops: "0.0.0.0:11501", auth: none }
    pools:
      - name: qwen
        endpoints: [{ dns: "replicas.bank.svc.cluster.local:11434" }]
        slots: 1
        scale: { min: 0, max: 4, target: 100% }
      - name: many
        endpoints: [{ dns: "nobody.bank.svc.cluster.local:11434" }]
        slots: 1
        scale: { min: 0, max: 50, target: 100% }
        queue: { coldWait: 20m }
    models:
      - { name: waits, revisions: [{ name: v1, pool: many, upstream: simulated }] }
      - { name: risk, revisions: [{ name: v1, pool: qwen, upstream: simulated }], slo: { ttft: 5s } }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: tutti, namespace: bank }
spec:
  replicas: 1
  selector: { matchLabels: { app: tutti } }
  template:
    metadata: { labels: { app: tutti } }
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: tutti
          image: docker.io/rig/tutti:1
          imagePullPolicy: Never
          args: [gateway, --config, /config/tutti.yaml, --cores, "1"]
          volumeMounts: [{ name: config, mountPath: /config }]
          readinessProbe: { httpGet: { path: /readyz, port: 11501 }, periodSeconds: 1 }
      volumes: [{ name: config, configMap: { name: tutti } }]
---
apiVersion: v1
kind: Service
metadata: { name: tutti, namespace: bank }
spec: { selector: { app: tutti }, ports: [{ name: http, port: 11500 }] }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: tutti-scaler, namespace: bank }
spec:
  replicas: 2
  selector: { matchLabels: { app: tutti-scaler } }
  template:
    metadata: { labels: { app: tutti-scaler } }
    spec:
      serviceAccountName: tutti-scaler
      terminationGracePeriodSeconds: 5
      containers:
        - name: tutti
          image: docker.io/rig/tutti:1
          imagePullPolicy: Never
          args: [scaler-metrics, --endpoint-slices, "bank/tutti:11501", --grpc, "0.0.0.0:11520", --listen, "0.0.0.0:11521", --spare-pods, bank]
          readinessProbe: { httpGet: { path: /readyz, port: 11521 }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: tutti-scaler, namespace: bank }
spec: { clusterIP: None, selector: { app: tutti-scaler }, ports: [{ name: grpc, port: 11520 }] }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: replicas, namespace: bank }
spec:
  replicas: 0
  selector: { matchLabels: { app: replicas } }
  template:
    metadata: { labels: { app: replicas } }
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: engine
          image: docker.io/rig/tutti:1
          imagePullPolicy: Never
          args: [up, --simulate, --cores, "1"]
          env:
            - { name: TUTTI__GATEWAY__LISTEN, value: "0.0.0.0:11434" }
            - { name: TUTTI__GATEWAY__OPS, value: "0.0.0.0:11501" }
            - { name: TUTTI__GATEWAY__AUTH, value: none }
          readinessProbe: { httpGet: { path: /readyz, port: 11501 }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: replicas, namespace: bank }
spec: { clusterIP: None, selector: { app: replicas }, ports: [{ name: http, port: 11434 }] }
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: { name: qwen, namespace: bank }
spec:
  scaleTargetRef: { name: replicas }
  minReplicaCount: 0
  maxReplicaCount: 4
  cooldownPeriod: 10
  advanced:
    horizontalPodAutoscalerConfig:
      behavior: { scaleDown: { stabilizationWindowSeconds: 15 } }
  triggers:
    - type: external-push
      metadata: { scalerAddress: "tutti-scaler.bank.svc.cluster.local:11520", pool: qwen }
"#;

/// Replicas in name only, on nodes of kwok's: the gateway has no way to them, so that whoever asks for them waits.
const FLEET: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: many, namespace: bank }
spec:
  replicas: 0
  selector: { matchLabels: { app: many } }
  template:
    metadata: { labels: { app: many } }
    spec:
      nodeSelector: { type: kwok }
      tolerations: [{ key: kwok.x-k8s.io/node, operator: Exists }]
      containers:
        - name: engine
          image: docker.io/rig/none:1
          resources: { requests: { cpu: "2", memory: 4Gi } }
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: { name: many, namespace: bank }
spec:
  scaleTargetRef: { name: many }
  minReplicaCount: 0
  maxReplicaCount: 50
  cooldownPeriod: 10
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp: { policies: [{ type: Pods, value: 50, periodSeconds: 15 }] }
        scaleDown: { stabilizationWindowSeconds: 15 }
  triggers:
    - type: external-push
      metadata: { scalerAddress: "tutti-scaler.bank.svc.cluster.local:11520", pool: many }
"#;

/// A node of kwok's with room for 16 of them.
fn fake(number: usize) -> String {
    let room = "{ cpu: \"32\", memory: 256Gi, pods: \"110\" }";
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: fake-{number}\n  annotations: {{ kwok.x-k8s.io/node: fake }}\n  \
         labels: {{ type: kwok, kubernetes.io/hostname: fake-{number} }}\nspec:\n  \
         taints: [{{ key: kwok.x-k8s.io/node, value: fake, effect: NoSchedule }}]\nstatus: {{ capacity: {room}, allocatable: {room} }}\n"
    )
}

/// A ScaledObject that names no pool that there is.
const WRONG: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: { name: idle, namespace: bank }
spec:
  replicas: 0
  selector: { matchLabels: { app: idle } }
  template:
    metadata: { labels: { app: idle } }
    spec: { containers: [{ name: idle, image: docker.io/rig/pause:1, imagePullPolicy: Never }] }
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: { name: wrong, namespace: bank }
spec:
  scaleTargetRef: { name: idle }
  pollingInterval: 5
  triggers:
    - type: external
      metadata: { scalerAddress: "tutti-scaler.bank.svc.cluster.local:11520", pool: qwne }
"#;

/// A request that takes so many milliseconds of a simulated replica.
fn chat(model: &str, millis: u32) -> String {
    let messages = json!([{ "role": "user", "content": "hi" }]);
    json!({ "model": model, "messages": messages, "stream": true, "options": { "num_predict": millis } }).to_string()
}

fn replicas(cluster: &Cluster, deployment: &str) -> Option<u64> {
    let path = format!("/apis/apps/v1/namespaces/bank/deployments/{deployment}/scale");
    let scale = cluster.kubectl(&["get", "--raw", &path]).ok()?;
    let scale: Value = serde_json::from_str(&scale).ok()?;
    Some(scale["spec"]["replicas"].as_u64().unwrap_or(0))
}

fn say(cluster: &Cluster, when: &str) {
    let told = cluster.kubectl(&["get", "scaledobject,hpa", "-n", "bank"]).unwrap_or_default();
    println!("--- {when}\n{told}");
}

/// Waits until there are many replicas; yields how many are wanted.
fn many(cluster: &Cluster, ready: &dyn Fn(&str) -> u64) -> u64 {
    eventually(cluster, "six clients want more", || replicas(cluster, "replicas").filter(|count| *count >= 3));
    eventually(cluster, "they are there", || (ready("replicas") >= 3).then_some(()));
    say(cluster, "at many");
    eventually(cluster, "who works is marked", || {
        let costs = cluster.kubectl(&[
            "get",
            "pods",
            "-n",
            "bank",
            "-l",
            "app=replicas",
            "-o",
            "jsonpath={.items[*].metadata.annotations}",
        ]);
        costs.ok().filter(|costs| costs.contains(r#""controller.kubernetes.io/pod-deletion-cost":"10""#))
    });
    replicas(cluster, "replicas").unwrap_or_default()
}

/// Fifty who wait for a pool at zero bring fifty replicas, on nodes of kwok's, and none once they have gone.
fn fifty(cluster: &Cluster, ready: &dyn Fn(&str) -> u64, waits: &dyn Fn() -> Client) {
    cluster.apply(&(0..4).map(fake).collect::<String>()).expect("nodes");
    cluster.apply(FLEET).expect("objects");
    eventually(cluster, "four nodes of kwok's", || {
        let path = ["get", "nodes", "-l", "type=kwok", "--no-headers"];
        let nodes = cluster.kubectl(&path).ok()?;
        (nodes.lines().filter(|line| line.contains(" Ready ")).count() == 4).then_some(())
    });
    let begun = Instant::now();
    let all: Vec<Client> = (0..50).map(|_| waits()).collect();
    eventually(cluster, "fifty are wanted", || replicas(cluster, "many").filter(|count| *count == 50));
    println!("from fifty requests at zero to spec.replicas = 50: {:?}", begun.elapsed());
    eventually(cluster, "and there", || (ready("many") == 50).then_some(()));
    println!("and to as many ready Pods: {:?}", begun.elapsed());
    say(cluster, "at fifty");
    drop(all);
    eventually(cluster, "nobody waits any more", || replicas(cluster, "many").filter(|count| *count == 0));
    say(cluster, "at none again");
}

#[test]
fn keda_takes_a_pool_from_zero_to_one_to_many_and_back() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("not tried: containers want root");
    }
    let cluster = Cluster::start(&static_binary().expect("the binary")).expect("a cluster");
    let network = File::open(cluster.network().expect("its network")).expect("its network");
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
    cluster.apply(OBJECTS).expect("objects");
    let ready = |deployment: &str| {
        let path = ["get", "deployment", deployment, "-n", "bank", "-o", "jsonpath={.status.readyReplicas}"];
        cluster.kubectl(&path).ok().and_then(|ready| ready.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    eventually(&cluster, "the gateway and two scalers", || {
        (ready("tutti") == 1 && ready("tutti-scaler") == 2).then_some(())
    });
    let state = [
        "get",
        "scaledobject",
        "qwen",
        "-n",
        "bank",
        "-o",
        "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}",
    ];
    eventually(&cluster, "the ScaledObject is ready", || {
        cluster.kubectl(&state).is_ok_and(|of| of == "True").then_some(())
    });
    cluster.apply(WRONG).expect("objects");
    // What deploy/ has for KEDA, by KEDA's own schema; its namespace is another.
    let deployed = include_str!("../../deploy/kustomize/scaler/scaler.yaml");
    let scaled = deployed.split("---").find(|object| object.contains("kind: ScaledObject")).expect("one");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), scaled).expect("a file");
    let dry =
        ["create", "--dry-run=server", "--validate=strict", "-n", "bank", "-f", &file.path().display().to_string()];
    cluster.kubectl(&dry).expect("KEDA's schema takes it");
    say(&cluster, "at zero");
    assert_eq!(replicas(&cluster, "replicas"), Some(0));

    let ip = cluster
        .kubectl(&["get", "service", "tutti", "-n", "bank", "-o", "jsonpath={.spec.clusterIP}"])
        .expect("an address");
    let send = |body: &str| {
        let mut client = Client::connect(&format!("{ip}:11500")).expect("the gateway");
        client.send("POST", "/api/chat", &[], body).expect("a request");
        client
    };
    let begin = |millis: u32| send(&chat("risk", millis));
    let begun = Instant::now();
    let mut first = begin(10);
    eventually(&cluster, "the first request at zero wants a replica", || {
        replicas(&cluster, "replicas").filter(|count| *count >= 1)
    });
    let took = begun.elapsed();
    println!("from the first request at zero to spec.replicas = 1: {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let answer = first.answer().expect("an answer");
    println!("and to its answer: {:?}", begun.elapsed());
    assert_eq!(answer.status, 200, "{}", answer.text());
    say(&cluster, "at one");

    // Six clients that ask again and again. Threads are in the network of the one that starts them.
    let (over, until) = (AtomicBool::new(false), Instant::now() + 2 * PATIENCE);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !over.load(Relaxed) && Instant::now() < until {
                    let answer = begin(2_000).answer();
                    assert!(answer.is_ok_and(|answer| answer.status == 200), "nobody is refused while it scales");
                }
            });
        }
        let most = many(&cluster, &ready);
        over.store(true, Relaxed);
        assert!((3..=4).contains(&most), "no more than scale.max: {most}");
    });
    eventually(&cluster, "nothing to do", || replicas(&cluster, "replicas").filter(|count| *count == 0));
    say(&cluster, "at zero again");

    let events = eventually(&cluster, "what is wrong with a trigger", || {
        let events = cluster.kubectl(&["get", "events", "-n", "bank", "--field-selector", "involvedObject.name=wrong"]);
        events.ok().filter(|events| events.contains("no gateway has a pool named"))
    });
    println!("{events}");

    fifty(&cluster, &ready, &|| send(&chat("waits", 10)));
}
