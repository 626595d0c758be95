//! What is in `deploy/`, as the tools of those who run it read it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::serde::Serialize;
use k8s_openapi::serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tutti_api::Config;
use tutti_rig::{Kind, Ollama, deployed};
use tutti_tests::run;

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The configuration in a text, by `tutti check` and by its types.
fn checked(text: &str) -> Config {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tutti.yaml");
    fs::write(&file, text).expect("a file");
    let checked = run(&["check", "--config", &file.display().to_string()], &[]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    tutti_api::load(text, "tutti.yaml", []).expect("a configuration that checks")
}

/// The same with what its comments offer in place of `auth: none`.
fn checked_with_keys(text: &str) {
    let offered = |line: &str| ["# auth: {", "# tls: {"].iter().any(|offer| line.trim_start().starts_with(offer));
    let uncommented = |line: &str| if offered(line) { line.replacen("# ", "", 1) } else { line.to_owned() };
    let lines: Vec<String> = text
        .lines()
        .filter(|line| !line.contains("auth: none ") && !line.ends_with("auth: none"))
        .map(uncommented)
        .collect();
    let config = tutti_api::load(&lines.join("\n"), "tutti.yaml", []).expect("what is offered"); // its files are not here
    assert!(
        config.gateway.tls.is_some() && matches!(config.gateway.auth, Some(tutti_api::Auth::Keys { .. })),
        "{lines:?}"
    );
}

/// How long a gateway may go on after SIGTERM.
fn end(config: &Config) -> Duration {
    config.gateway.shutdown_delay.get() + config.gateway.drain.get()
}

#[test]
fn the_image_is_one_static_binary_that_is_nobody() {
    let stages = deployed(Kind::Dockerfile, &root().join("deploy/image/Dockerfile")).unwrap();
    let stages = stages.as_array().unwrap();
    let steps = |stage: &Value, name: &str| -> Vec<String> {
        let steps = stage["steps"].as_array().unwrap().iter().filter(|step| step["name"] == name);
        steps.map(|step| step["text"].as_str().unwrap().to_owned()).collect()
    };
    let [build, image] = stages.as_slice() else { panic!("{stages:?}") };
    let rust = read("Cargo.toml").lines().find_map(|line| Some(line.strip_prefix("rust-version = \"")?.to_owned()));
    assert_eq!(
        build["base"].as_str(),
        rust.map(|rust| format!("rust:{}-bookworm", rust.trim_end_matches('"'))).as_deref()
    );
    assert_eq!(steps(build, "COPY"), ["COPY . ."]);

    assert_eq!(image["base"], "scratch");
    assert_eq!(steps(image, "RUN"), [""; 0], "there is no shell");
    assert!(steps(image, "COPY").iter().all(|copy| copy.starts_with("COPY --from=build ")));
    assert_eq!(steps(image, "USER"), ["USER 65532:65532"]);
    assert_eq!(steps(image, "ENTRYPOINT"), ["ENTRYPOINT [\"/tutti\"]"]);
    let defaults = Config::default().gateway;
    let port = |address: &str| address.rsplit(':').next().unwrap().to_owned();
    assert_eq!(steps(image, "EXPOSE"), [format!("EXPOSE {} {}", port(&defaults.listen), port(&defaults.ops))]);
    for step in ["CMD", "HEALTHCHECK"].iter().flat_map(|name| steps(image, name)) {
        let words: Vec<String> = serde_json::from_str(&step[step.find('[').unwrap()..]).unwrap();
        let command = words.iter().find(|word| *word != "/tutti").unwrap();
        assert_eq!(run(&[command, "--help"], &[]).code, Some(0), "{step}");
    }
}

/// Cargo wants every member of the workspace there, and nothing else is worth a new build.
#[test]
fn the_image_is_built_from_the_sources_alone() {
    let ignore = read(".dockerignore");
    let sent: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(ignore.lines().any(|line| line == "*") && ignore.lines().any(|line| line == "**/target"));
    for path in &sent {
        assert!(root().join(path).exists(), "{path}");
    }
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
    for member in members.split(',').map(|member| member.trim().trim_matches('"')) {
        let folder = member.split('/').next().unwrap();
        assert!(sent.contains(&folder), "{member} is not sent to the build");
    }
}

#[test]
fn compose_starts_a_gateway_before_two_ollamas() {
    let project = deployed(Kind::Compose, &root().join("deploy/compose/compose.yaml")).unwrap();
    let tutti = &project["services"]["tutti"];
    let build =
        Path::new(tutti["build"]["context"].as_str().unwrap()).join(tutti["build"]["dockerfile"].as_str().unwrap());
    assert_eq!(build.canonicalize().unwrap(), root().join("deploy/image/Dockerfile").canonicalize().unwrap());
    assert_eq!((&tutti["read_only"], &tutti["cap_drop"]), (&json!(true), &json!(["ALL"])));

    let mounts = tutti["volumes"].as_array().unwrap();
    let mount = |target: &str| mounts.iter().find(|mount| mount["target"] == target).unwrap();
    let folder = mount("/etc/tutti")["source"].as_str().unwrap();
    assert_eq!(mount("/var/lib/tutti")["type"], "volume", "its token outlives it");
    let text = fs::read_to_string(Path::new(folder).join("tutti.yaml")).unwrap();
    checked_with_keys(&text);
    let config = checked(&text);
    for port in tutti["ports"].as_array().unwrap() {
        assert_eq!(port["host_ip"], "127.0.0.1", "it lets anybody ask");
    }
    let listen: u16 = config.gateway.listen.rsplit(':').next().unwrap().parse().unwrap();
    assert!(tutti["ports"].as_array().unwrap().iter().any(|port| port["target"] == listen));
    let grace = tutti["stop_grace_period"].as_str().and_then(|grace| grace.parse::<tutti_api::HumanDuration>().ok());
    assert!(grace.unwrap().get() > end(&config));

    let hosts: Vec<&str> = config.pools[0].endpoints.iter().filter_map(|endpoint| endpoint.url.as_deref()).collect();
    assert_eq!(hosts, ["http://ollama-1:11434", "http://ollama-2:11434"]);
    for name in ["ollama-1", "ollama-2"] {
        let ollama = &project["services"][name];
        assert!(ollama["image"].as_str().is_some_and(|image| image.starts_with("ollama/ollama:")), "{ollama}");
        assert_eq!(ollama["volumes"][0]["source"], name, "each has its own store");
    }
}

const KUSTOMIZATIONS: [&str; 6] = ["base", "list", "ollama", "keyed", "scaler", "adapters"];

/// The objects of a kustomization, each of a type that Kubernetes knows, and with no field that it does not.
fn objects(folder: &str) -> Vec<Value> {
    let built = deployed(Kind::Kustomize, &root().join("deploy/kustomize").join(folder)).expect("a kustomization");
    let objects = built.as_array().expect("objects").clone();
    for object in &objects {
        let again = match object["kind"].as_str().unwrap_or_default() {
            "ConfigMap" => round::<ConfigMap>(object),
            "Deployment" => round::<Deployment>(object),
            "PodDisruptionBudget" => round::<PodDisruptionBudget>(object),
            "Service" => round::<Service>(object),
            "Role" => round::<Role>(object),
            "RoleBinding" => round::<RoleBinding>(object),
            // KEDA's own schema looks at it in `cluster`.
            "ScaledObject" => object.clone(),
            "ServiceAccount" => round::<ServiceAccount>(object),
            "StatefulSet" => round::<StatefulSet>(object),
            other => panic!("{folder}: nothing says what a {other} is"),
        };
        assert_eq!(again, *object, "{folder}: Kubernetes would drop what is missing on the left");
        assert_eq!(object["metadata"]["namespace"], "tutti", "{object}");
    }
    objects
}

fn round<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
    serde_json::to_value(&typed).unwrap_or_default()
}

fn object<T: DeserializeOwned>(objects: &[Value], kind: &str, name: &str) -> T {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    serde_json::from_value(found.unwrap_or_else(|| panic!("no {kind} {name}")).clone()).expect("its type was checked")
}

/// The configuration in the ConfigMap `tutti`, and that map.
fn configured(objects: &[Value]) -> (Config, ConfigMap) {
    let map: ConfigMap = object(objects, "ConfigMap", "tutti");
    let config = checked(&map.data.as_ref().expect("data")["tutti.yaml"]);
    (config, map)
}

#[test]
fn kustomize_builds_gateways_that_may_do_nothing_else() {
    let objects = objects("base");
    let (config, _) = configured(&objects);
    let deployment: Deployment = object(&objects, "Deployment", "tutti");
    let spec = deployment.spec.unwrap();
    let pod = spec.template.spec.unwrap();
    assert_eq!(spec.replicas, Some(2));
    for folder in KUSTOMIZATIONS {
        let (config, _) = configured(&self::objects(folder));
        assert!(Duration::from_secs(pod.termination_grace_period_seconds.unwrap() as u64) > end(&config), "{folder}");
        let delay = config.gateway.shutdown_delay.get();
        assert!(delay >= Duration::from_secs(5), "{folder}: the cluster has yet to hear that the Pod goes");
    }
    assert_eq!(pod.automount_service_account_token, Some(false));
    let security = pod.security_context.unwrap();
    assert_eq!((security.run_as_non_root, security.run_as_user), (Some(true), Some(65532)));
    assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
    let container = &pod.containers[0];
    let security = container.security_context.as_ref().unwrap();
    assert_eq!((security.read_only_root_filesystem, security.allow_privilege_escalation), (Some(true), Some(false)));
    assert_eq!(security.capabilities.as_ref().unwrap().drop.as_deref(), Some(["ALL".to_owned()].as_slice()));

    let port = |name: &str| {
        let ports = container.ports.as_ref().unwrap();
        ports.iter().find(|port| port.name.as_deref() == Some(name)).unwrap().container_port.to_string()
    };
    assert!(config.gateway.listen.ends_with(&format!(":{}", port("http"))));
    assert!(config.gateway.ops.ends_with(&format!(":{}", port("ops"))));
    assert_eq!(asks(&container.readiness_probe), ("/readyz".to_owned(), json!("ops")));
    assert_eq!(asks(&container.liveness_probe), ("/healthz".to_owned(), json!("ops")));
    let memory = &container.resources.as_ref().unwrap().limits.as_ref().unwrap()["memory"].0;
    let memory: tutti_api::ByteSize = memory.parse().unwrap();
    assert!(memory > config.gateway.limits.buffered_bodies);

    let service: Service = object(&objects, "Service", "tutti");
    assert_eq!(service.spec.unwrap().selector, spec.template.metadata.unwrap().labels);
    let budget: PodDisruptionBudget = object(&objects, "PodDisruptionBudget", "tutti");
    assert_eq!(budget.spec.unwrap().selector.unwrap(), spec.selector);
}

#[test]
fn the_gateways_of_kustomize_find_their_replicas() {
    let base = objects("base");
    let (config, _) = configured(&base);
    let dns: tutti_api::Address = config.pools[0].endpoints[0].dns.as_deref().unwrap().parse().unwrap();
    let [name, domain] = dns.name().unwrap().split_once('.').map(<[&str; 2]>::from).unwrap();
    assert_eq!(domain, "tutti.svc.cluster.local.", "no search domain has a say");
    let service: Service = object(&base, "Service", name);
    let service = service.spec.unwrap();
    assert_eq!(service.cluster_ip.as_deref(), Some("None"), "its Pods' own addresses are wanted");
    assert_eq!(service.ports.unwrap()[0].port, i32::from(dns.port()));

    let ollamas: StatefulSet = object(&objects("ollama"), "StatefulSet", "ollama");
    let pods = ollamas.spec.unwrap().template;
    assert_eq!(service.selector, pods.metadata.unwrap().labels);
    assert_eq!(pods.spec.unwrap().containers[0].ports.as_ref().unwrap()[0].container_port, i32::from(dns.port()));

    let list = objects("list");
    let (config, map) = configured(&list);
    let file = config.pools[0].endpoints.iter().find_map(|endpoint| endpoint.file.clone()).unwrap();
    let listed = &map.data.unwrap()[Path::new(&file).file_name().unwrap().to_str().unwrap()];
    assert_eq!(tutti_gateway::discovery::list::parse(listed).map(|urls| urls.len()), Ok(2));
    let deployment: Deployment = object(&list, "Deployment", "tutti");
    let mounts = deployment.spec.unwrap().template.spec.unwrap().containers[0].volume_mounts.clone().unwrap();
    assert!(mounts.iter().any(|mount| Path::new(&file).starts_with(&mount.mount_path) && mount.name == "config"));
    assert!(!list.iter().any(|object| object["metadata"]["name"] == "ollama"), "nobody asks for it");
}

/// A start with a file that is not mounted would fail.
#[test]
fn the_keyed_gateways_of_kustomize_mount_what_they_read() {
    let objects = objects("keyed");
    let (config, _) = configured(&objects);
    let deployment: Deployment = object(&objects, "Deployment", "tutti");
    let pod = deployment.spec.unwrap().template.spec.unwrap();
    let mounts = pod.containers[0].volume_mounts.clone().unwrap();
    let Some(tutti_api::Auth::Keys { keys_file }) = config.gateway.auth else { panic!("no keys") };
    let tls = config.gateway.tls.unwrap();
    // A Secret of Kubernetes' own kind for TLS has these two keys.
    for (file, secret, key) in
        [(keys_file, "tutti-keys", "keys.yaml"), (tls.cert, "tutti-tls", "tls.crt"), (tls.key, "tutti-tls", "tls.key")]
    {
        let (folder, name) = file.rsplit_once('/').unwrap();
        let mount = mounts.iter().find(|mount| mount.mount_path == folder).unwrap();
        assert!(mount.sub_path.is_none(), "a file that is mounted alone never changes");
        let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name).unwrap();
        let from = volume.secret.as_ref().unwrap();
        assert_eq!((from.secret_name.as_deref(), name), (Some(secret), key));
        assert_eq!(from.default_mode, Some(0o440), "its group reads it, and nobody writes it");
    }
    assert!(mounts.iter().any(|mount| mount.name == "config") && mounts.iter().any(|mount| mount.name == "state"));
}

#[test]
fn the_scaler_of_kustomize_asks_the_gateways_and_is_asked_by_keda() {
    let objects = objects("scaler");
    let (config, _) = configured(&objects);
    let deployment: Deployment = object(&objects, "Deployment", "tutti-scaler");
    let spec = deployment.spec.unwrap();
    let (pod, labels) = (spec.template.spec.unwrap(), spec.template.metadata.unwrap().labels);
    assert_eq!(spec.replicas, Some(2), "while one restarts the other answers");
    let container = &pod.containers[0];
    let security = container.security_context.as_ref().unwrap();
    assert_eq!((security.read_only_root_filesystem, security.allow_privilege_escalation), (Some(true), Some(false)));
    assert_eq!(
        container.image,
        object::<Deployment>(&objects, "Deployment", "tutti").spec.unwrap().template.spec.unwrap().containers[0].image
    );
    let args: Vec<&str> = container.args.as_ref().unwrap().iter().map(String::as_str).collect();
    assert_eq!(run(&[&args[..], &["--help"]].concat(), &[]).code, Some(0), "{args:?}");
    let value = |name: &str| args[args.iter().position(|arg| *arg == name).unwrap() + 1];
    let port = |address: &str| address.rsplit(':').next().unwrap().parse::<i32>().unwrap();
    assert_eq!(value("--endpoint-slices"), format!("tutti/tutti:{}", port(&config.gateway.ops)));
    let ports: Vec<i32> = container.ports.iter().flatten().map(|port| port.container_port).collect();
    assert_eq!(ports, [port(value("--grpc")), port(value("--listen"))]);

    let role: Role = object(&objects, "Role", "tutti-scaler");
    let rules = serde_json::to_value(role.rules.unwrap()).unwrap();
    assert_eq!(
        rules,
        json!([{ "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"] }])
    );
    let bound: RoleBinding = object(&objects, "RoleBinding", "tutti-scaler");
    assert_eq!(bound.subjects.unwrap()[0].name, pod.service_account_name.unwrap());

    let service: Service = object(&objects, "Service", "tutti-scaler");
    let service = service.spec.unwrap();
    assert_eq!((service.cluster_ip.as_deref(), &service.selector), (Some("None"), &labels));
    let scaled = objects.iter().find(|object| object["kind"] == "ScaledObject").unwrap();
    let trigger = &scaled["spec"]["triggers"][0];
    let address = format!("tutti-scaler.tutti.svc.cluster.local:{}", port(value("--grpc")));
    assert_eq!((&trigger["type"], &trigger["metadata"]["scalerAddress"]), (&json!("external-push"), &json!(address)));
    let pool = &config.pools[0];
    let scale = pool.scale.clone().unwrap();
    assert_eq!(trigger["metadata"]["pool"], json!(pool.name));
    assert_eq!(
        (&scaled["spec"]["minReplicaCount"], &scaled["spec"]["maxReplicaCount"]),
        (&json!(scale.min), &json!(scale.max))
    );
    let target: StatefulSet =
        object(&objects, "StatefulSet", scaled["spec"]["scaleTargetRef"]["name"].as_str().unwrap());
    let target = target.spec.unwrap();
    assert_eq!(target.replicas, None, "else each `apply` would take them from KEDA");
    let env = target.template.spec.unwrap().containers[0].env.clone().unwrap();
    let parallel = env.iter().find(|of| of.name == "OLLAMA_NUM_PARALLEL").and_then(|of| of.value.as_deref());
    assert_eq!(parallel.map(str::to_owned), Some(pool.slots.count().unwrap().to_string()));
}

/// What a container's probe asks.
fn asks(probe: &Option<k8s_openapi::api::core::v1::Probe>) -> (String, Value) {
    let get = probe.as_ref().and_then(|probe| probe.http_get.clone()).expect("a probe by HTTP");
    (get.path.expect("its path"), serde_json::to_value(get.port).expect("a port"))
}

#[test]
fn the_loaders_of_kustomize_are_native_sidecars_that_have_what_they_read() {
    let objects = objects("adapters");
    let (config, _) = configured(&objects);
    let (pool, adapters) = (&config.pools[0], config.pools[0].adapters.clone().unwrap());
    let ollama: Deployment = object(&objects, "Deployment", "ollama");
    let pod = ollama.spec.unwrap().template;
    let service: Service = object(&objects, "Service", "ollama");
    assert_eq!(service.spec.unwrap().selector, pod.metadata.unwrap().labels);
    let pod = pod.spec.unwrap();
    let [loader] = pod.init_containers.as_deref().unwrap() else { panic!("a loader alone") };
    let engine = &pod.containers[0];
    assert_eq!(loader.restart_policy.as_deref(), Some("Always"), "else it would have to end before the engine starts");

    // Its arguments are those of this binary, and lead to the engine beside it.
    let args = loader.args.clone().unwrap();
    let value = |name: &str| args.iter().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('=')).unwrap();
    let help = run(&["adapter-loader", "--help"], &[]).stdout;
    assert!(args[1..].iter().all(|arg| help.contains(arg.split('=').next().unwrap())), "{args:?}");
    let engine_port = engine.ports.as_ref().unwrap()[0].container_port;
    assert_eq!((args[0].as_str(), value("--pool")), ("adapter-loader", &*pool.name));
    assert_eq!(value("--engine"), format!("http://127.0.0.1:{engine_port}"));
    let port = format!(":{}", loader.ports.as_ref().unwrap()[0].container_port);
    assert!(value("--listen").ends_with(&port) && pool.endpoints[0].loader.as_deref() == Some(&*port));
    assert!(adapters.token_file.is_some(), "it listens beyond loopback");

    let asked = [&loader.startup_probe, &loader.readiness_probe, &loader.liveness_probe].map(asks);
    assert_eq!(asked, ["/startupz", "/readyz", "/healthz"].map(|path| (path.to_owned(), json!("loader"))));
    let startup = loader.startup_probe.as_ref().unwrap();
    let waits = startup.period_seconds.unwrap() * startup.failure_threshold.unwrap();
    assert!(Duration::from_secs(waits as u64) > adapters.startup_budget.get(), "it is not killed before it would pass");
    let security = loader.security_context.as_ref().unwrap();
    assert_eq!((security.run_as_non_root, security.read_only_root_filesystem), (Some(true), Some(true)));

    // Of the two neither sees the other's files.
    let mounts = loader.volume_mounts.clone().unwrap();
    let theirs = engine.volume_mounts.clone().unwrap();
    assert!(mounts.iter().all(|mount| theirs.iter().all(|other| other.name != mount.name)));
    let volume = |name: &str| pod.volumes.iter().flatten().find(|volume| volume.name == name).unwrap();
    let at = |folder: &str| mounts.iter().find(|mount| mount.mount_path == folder).unwrap();
    assert_eq!(at("/etc/tutti").name, "config");
    for file in [adapters.token_file, adapters.s3.credentials_file].into_iter().flatten() {
        let mount = at(file.rsplit_once('/').unwrap().0);
        assert!(
            mount.sub_path.is_none() && mount.read_only == Some(true),
            "a file that is mounted alone never changes"
        );
        assert_eq!(volume(&mount.name).secret.as_ref().unwrap().default_mode, Some(0o440));
    }
    let bytes = |text: &str| text.parse::<tutti_api::ByteSize>().unwrap().bytes();
    let disk = volume(&at(value("--state")).name).empty_dir.clone().unwrap().size_limit.unwrap().0;
    let (disk, budget) = (bytes(&disk), adapters.disk.bytes());
    assert!(disk > budget && disk <= budget + budget / 10, "room for what it may keep, and for little else");
    let requests = loader.resources.as_ref().unwrap().requests.as_ref().unwrap();
    assert_eq!(bytes(&requests["ephemeral-storage"].0), disk, "a node has it");

    // The gateways show the same token.
    let gateways: Deployment = object(&objects, "Deployment", "tutti");
    let gateway = gateways.spec.unwrap().template.spec.unwrap();
    let mount = gateway.containers[0].volume_mounts.iter().flatten().find(|mount| mount.name == "loader").unwrap();
    let secret = gateway.volumes.iter().flatten().find(|volume| volume.name == "loader").unwrap();
    assert_eq!((&mount.mount_path, &secret.secret), (&at("/etc/tutti-loader").mount_path, &volume("loader").secret));
}

#[test]
fn the_guide_to_adapters_shows_what_is_so() {
    let guide = read("docs/adapters.md");
    let mut blocks = guide.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let first = checked(blocks.next().unwrap());
    assert_eq!(first.models[0].revisions[0].adapter.as_deref(), Some("risk/v1"), "what was pushed there before");
    // Each of its commands has the options that are shown.
    let commands = guide.lines().filter_map(|line| line.strip_prefix("    tutti "));
    let mut seen = 0;
    for line in commands.map(|line| line.split(" #").next().unwrap_or_default()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let named = words.iter().take_while(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
        let named: Vec<&str> = named.copied().filter(|word| !word.starts_with('-')).collect();
        let help = run(&[&named[..], &["--help"]].concat(), &[]);
        let options = words.iter().map(|word| word.trim_matches(['[', ']'])).filter(|word| word.starts_with("--"));
        for option in options {
            assert!(help.code == Some(0) && help.stdout.contains(option), "{line}: {option}");
        }
        seen += 1;
    }
    assert!(seen >= 6, "only {seen} commands");
    // The version that the tests run is the one that the table says was run.
    let rows: Vec<&str> = guide.lines().filter(|line| line.contains("in every run of the tests")).collect();
    assert!(rows.len() == 1 && rows[0].starts_with(&format!("| {} | taken", Ollama::version())), "{rows:?}");
}

/// Files that commands name, in comments and in the guides, are there.
#[test]
fn what_is_shown_names_files_that_there_are() {
    let mut files = vec![root().join("README.md"), root().join("docs/operations.md")];
    for folder in ["compose", "image", "systemd"]
        .into_iter()
        .map(str::to_owned)
        .chain(KUSTOMIZATIONS.map(|of| format!("kustomize/{of}")))
    {
        files.extend(fs::read_dir(root().join("deploy").join(&folder)).unwrap().flatten().map(|entry| entry.path()));
    }
    let mut seen = 0;
    for file in files.iter().filter(|path| path.is_file()) {
        let text = fs::read_to_string(file).unwrap();
        let words = text.split(|char: char| char.is_whitespace() || "`()[],;'\"".contains(char));
        let keys = |word: &&str| !word.ends_with("/keys.yaml"); // made by the reader
        let named = words.map(|word| word.trim_end_matches(['.', ':'])).filter(|word| word.starts_with("deploy/"));
        for word in named.filter(keys) {
            assert!(root().join(word).exists(), "{}: {word}", file.display());
            seen += 1;
        }
    }
    assert!(seen > 15, "only {seen} were found");
}

#[test]
fn the_unit_is_one_that_systemd_takes_and_finds_safe() {
    let unit = read("deploy/systemd/tutti.service");
    let values = |name: &str| -> Vec<&str> {
        unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
    };
    let command: Vec<&str> = values("ExecStart")[0].split(' ').collect();
    assert_eq!(command[1..], ["gateway", "--config", "/etc/tutti/tutti.yaml"]);
    let stop: tutti_api::HumanDuration = values("TimeoutStopSec")[0].parse().unwrap();
    assert!(stop.get() > end(&Config::default()));
    let files: u32 = values("LimitNOFILE")[0].parse().unwrap();
    assert!(files > 2 * Config::default().gateway.limits.connections, "a client and a replica for each");
    assert_eq!((values("ExecReload"), values("KillSignal")), (vec!["/bin/kill -HUP $MAINPID"], vec!["SIGTERM"]));

    let systemd = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).output();
        let output = output.expect("systemd-analyze, of Debian's package systemd, which cargo xtask test installs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().join("tutti.service").display().to_string();
    // The program need not be installed for its unit to be looked at: any other that is there will do.
    fs::write(&here, unit.replace(command[0], "/bin/true")).unwrap();
    let (good, said) = systemd(&["verify", "--man=no", &here]);
    assert!(good && said.is_empty(), "{said}");
    let (good, said) = systemd(&["security", "--offline=true", "--threshold=20", &here]);
    assert!(good, "exposed to more than 2.0 of 10: {said}");
}
