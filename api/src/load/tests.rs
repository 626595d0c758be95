use proptest::prelude::*;

use super::*;
use crate::{ByteSize, Expose, HumanDuration, Slots};

fn of(text: &str) -> Result<Config, Vec<String>> {
    with_env(text, &[])
}

fn with_env(text: &str, env: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(text, "tutti.yaml", env).map_err(|problems| {
        problems.iter().map(|problem| problem.to_string().lines().next().unwrap_or_default().to_owned()).collect()
    })
}

const GOOD: &str = "
gateway: { listen: 127.0.0.1:1, limits: { body: 1Mi } }
pools:
  - name: qwen
    endpoints: [{ url: http://127.0.0.1:11434 }]
    slots: 4
    queue: { wait: 250ms }
models:
  - name: risk
    aliases: [risk-model]
    revisions:
      - { name: v1, pool: qwen, upstream: risk:v1 }
    traffic: { revision: v1 }
";

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(of(""), Ok(Config::default()));
    assert_eq!(of("# nothing\n"), Ok(Config::default()));
}

#[test]
fn what_is_written_is_read() {
    let config = of(GOOD).unwrap();
    assert_eq!(config.gateway.limits.body, ByteSize::new(1 << 20));
    assert_eq!(config.gateway.limits.connections, 20_000);
    assert_eq!(config.pools[0].slots, Slots::Count(4));
    assert_eq!(config.pools[0].expose, Expose::Named);
    assert_eq!(config.pools[0].queue.wait, HumanDuration::from_millis(250));
    assert_eq!(config.pools[0].queue.size, 1024);
    assert_eq!(config.models[0].aliases, ["risk-model"]);
}

#[test]
fn everything_wrong_is_said_at_once_with_its_place() {
    let problems = of("
gateway:
  limits: { body: 32, conections: 5 }
pools:
  - name: qwen
    endpoints: [{ url: http://127.0.0.1:11434 }]
    slots: lots
    queue: { sise: 3, wait: 30 }
    keepAlive: 5m
  - nmae: other
")
    .unwrap_err();
    let expected = [
        "tutti.yaml:3:19: gateway.limits.body: integer `32`, expected a size (a number with its unit, such as 512B, 64Ki, 32Mi or 2Gi)",
        "tutti.yaml:3:23: gateway.limits: unknown field `conections`; did you mean `connections`?",
        "tutti.yaml:7:12: pools[0].slots: \"lots\" is neither `auto` nor a number",
        "tutti.yaml:8:14: pools[0].queue: unknown field `sise`; did you mean `size`?",
        "tutti.yaml:8:29: pools[0].queue.wait: integer `30`, expected a duration (a number with its unit, such as 250ms, 30s, 5m or 2h)",
        "tutti.yaml:9:5: pools[0].keepAlive: not yet: this version of tutti does not do this; leave it out, or write `client`",
        "tutti.yaml:10:5: pools[1]: unknown field `nmae`; did you mean `name`?",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn a_problem_shows_its_line_with_a_mark() {
    let problems = load("gateway:\n  lisen: x\n", "tutti.yaml", []).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "tutti.yaml:2:3: gateway: unknown field `lisen`; did you mean `listen`?\n    2 |   lisen: x\n      |   ^"
    );
}

#[test]
fn names_that_do_not_fit_each_other() {
    let text = GOOD.replace("revision: v1 }", "revision: v9 }").replace("pool: qwen,", "pool: qwne,");
    let problems = of(&text).unwrap_err();
    assert_eq!(
        problems,
        [
            "tutti.yaml:12:27: models[0].revisions[0].pool: there is no pool \"qwne\"; there are qwen",
            "tutti.yaml:13:26: models[0].traffic.revision: there is no revision \"v9\"; there are v1",
        ]
    );
}

#[test]
fn what_is_unsafe_wants_a_word() {
    let problems = of("gateway: { listen: \"0.0.0.0:80\" }").unwrap_err();
    assert!(problems[0].contains("an address off loopback wants keys"), "{problems:?}");
    assert!(of("gateway: { listen: \"0.0.0.0:80\", auth: none }").is_ok());
    let problems = of("gateway: { auth: { keysFile: x } }").unwrap_err();
    assert!(problems[0].contains("gateway.auth.keysFile: not yet"), "{problems:?}");
    let problems = of("gateway: { auth: nobody }").unwrap_err();
    assert!(problems[0].contains("gateway.auth: write `none`"), "{problems:?}");
}

#[test]
fn what_comes_later_is_refused_by_name() {
    let text = GOOD.replace(
        "    slots: 4",
        "    slots: 4\n    runner: { numCtx: 8192 }\n    adapters: { from: s3://models/ }\n    scale: {}",
    );
    let problems = of(&text).unwrap_err();
    for (field, problem) in ["runner", "adapters", "scale"].iter().zip(&problems) {
        assert!(problem.contains(&format!("pools[0].{field}: not yet")), "{problem}");
    }
}

#[test]
fn the_environment_overrides() {
    let config = with_env(
        GOOD,
        &[
            ("TUTTI__GATEWAY__LISTEN", "127.0.0.1:9"),
            ("TUTTI__GATEWAY__ALLOWEDHOSTS", "[a, b]"),
            ("TUTTI__POOLS__0__QUEUE__SIZE", "7"),
            ("TUTTI__MODELS__0__REVISIONS__0__NAME", "v1"),
            ("TUTTI_CONFIG", "ignored"),
        ],
    )
    .unwrap();
    assert_eq!(config.gateway.listen, "127.0.0.1:9");
    assert_eq!(config.gateway.allowed_hosts, ["a", "b"]);
    assert_eq!(config.pools[0].queue.size, 7);
    let problems = with_env(GOOD, &[("TUTTI__GATEWAY__LISEN", "x")]).unwrap_err();
    assert_eq!(
        problems,
        ["environment variable TUTTI__GATEWAY__LISEN: gateway: there is no field `LISEN`; did you mean `listen`?"]
    );
    let from_nothing =
        with_env("", &[("TUTTI__POOLS__0__NAME", "p"), ("TUTTI__POOLS__0__ENDPOINTS__0__URL", "http://h:1")]).unwrap();
    assert_eq!(from_nothing.pools[0].name, "p");
}

#[test]
fn what_yaml_could_hide_is_refused() {
    for (text, why) in [
        ("a: &x 1", "anchors"),
        ("a: *x", "YAML"),
        ("a: !!binary x", "tags"),
        ("gateway: {}\ngateway: {}", "stands twice"),
        ("{}\n---\n{}", "second document"),
        ("a: [", "YAML"),
        ("[1]", "expected"),
    ] {
        let problems = of(text).unwrap_err();
        assert!(problems[0].contains(why), "{text}: {problems:?}");
    }
    let deep = format!("a: {}{}", "[".repeat(40), "]".repeat(40));
    assert!(of(&deep).unwrap_err()[0].contains("nested too deeply"));
}

#[test]
fn the_example_of_the_reference_is_right() {
    assert_eq!(of(crate::reference::EXAMPLE).map(|_| ()), Ok(()));
}

proptest! {
    #[test]
    fn no_text_brings_it_down(text in "[a-z{}\\[\\]:,&*!|>'\"#\n -]{0,80}") {
        let _ = load(&text, "x", []);
    }

    #[test]
    fn every_problem_has_a_place_in_the_text(cut in any::<prop::sample::Index>(), put in "[a-z{}:, ]{0,4}") {
        let mut text = GOOD.to_owned();
        text.insert_str(cut.index(text.len()), &put);
        if let Err(problems) = load(&text, "x", []) {
            for problem in problems {
                let (line, _) = problem.line_column().unwrap();
                prop_assert!(line >= 1 && line <= text.lines().count() + 1, "{}", problem);
            }
        }
    }

    /// What serde writes, the loader reads.
    #[test]
    fn a_written_configuration_is_read_again(size in 0..10_000u32, slots in 1..4096u16, wait in 1..100_000u64) {
        let mut config = of(GOOD).unwrap();
        config.pools[0].queue.size = size;
        config.pools[0].slots = Slots::Count(slots);
        config.pools[0].queue.wait = HumanDuration::from_millis(wait);
        let text = serde_json::to_string(&config).unwrap();
        prop_assert_eq!(of(&text), Ok(config));
    }
}
