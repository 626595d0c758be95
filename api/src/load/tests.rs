mod adapters;
mod engines;
mod traffic;

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
    queue: { sise: 3, wait: 30, coldWait: 1m }
    batching: { maxWait: 5s }
  - nmae: other
")
    .unwrap_err();
    let expected = [
        "tutti.yaml:3:19: gateway.limits.body: 32 does not fit; write a number with its unit, such as 512B, 64Ki, 32Mi or 2Gi",
        "tutti.yaml:3:23: gateway.limits: unknown field `conections`; did you mean `connections`?",
        "tutti.yaml:7:12: pools[0].slots: \"lots\" does not fit; write `auto`, or a number from 1 to 4096",
        "tutti.yaml:8:14: pools[0].queue: unknown field `sise`; did you mean `size`?",
        "tutti.yaml:8:29: pools[0].queue.wait: 30 does not fit; write a number with its unit, such as 250ms, 30s, 5m or 2h",
        "tutti.yaml:10:5: pools[1]: unknown field `nmae`; did you mean `name`?",
        "tutti.yaml:10:5: pools[1]: `endpoints` is missing",
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
            "tutti.yaml:12:27: models[0].revisions[0].pool: there is no pool \"qwne\"; did you mean `qwen`?",
            "tutti.yaml:13:26: models[0].traffic.revision: there is no revision \"v9\"; there are v1",
        ]
    );
}

#[test]
fn what_is_unsafe_wants_a_word() {
    let problems = of("gateway: { listen: \"0.0.0.0:80\" }").unwrap_err();
    assert!(problems[0].contains("an address off loopback wants keys"), "{problems:?}");
    assert!(of("gateway: { listen: \"0.0.0.0:80\", auth: none }").is_ok());
    assert!(of("gateway: { listen: \"0.0.0.0:80\", auth: { keysFile: /k } }").is_ok());
    for none in ["\"\"", "~/keys.yaml"] {
        let problems = of(&format!("gateway: {{ auth: {{ keysFile: {none} }} }}")).unwrap_err();
        assert!(problems[0].contains("gateway.auth.keysFile: this names no file"), "{problems:?}");
    }
    let problems = of("gateway: { auth: {} }").unwrap_err();
    assert!(problems[0].contains("gateway.auth: `keysFile` is missing"), "{problems:?}");
    let problems = of("gateway: { auth: nobody }").unwrap_err();
    assert!(problems[0].contains("gateway.auth: \"nobody\" does not fit; write `none`"), "{problems:?}");
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
        ("gateway: &x {}", "anchors"),
        ("gateway: *x", "YAML"),
        ("gateway: !!binary x", "tags"),
        ("gateway: {}\ngateway: {}", "stands twice"),
        ("{}\n---\n{}", "second document"),
        ("a: [", "YAML"),
        ("[1]", "a list does not fit; write { gateway, models, pools }"),
    ] {
        let problems = of(text).unwrap_err();
        assert!(problems[0].contains(why), "{text}: {problems:?}");
    }
    let deep = format!("a: {}{}", "[".repeat(40), "]".repeat(40));
    assert!(of(&deep).unwrap_err()[0].contains("nested too deeply"));
}

/// Serde would take these: the fields of its types may also stand in a list, in order.
#[test]
fn a_list_is_no_map() {
    let listed = "
gateway: [\"0.0.0.0:21500\", \"127.0.0.1:21501\", { listen: \"127.0.0.1:21502\" }, { keysFile: /etc/keys }]
pools: [[p, ollama, null, [[\"http://h:1\", null, null, \"http://h:2\", /etc/key]], named, 4]]
";
    assert_eq!(
        of(listed).unwrap_err(),
        [
            "tutti.yaml:2:10: gateway: a list does not fit; write { admin, allowedHosts, auth, drain, limits, listen, log, nameservers, ops, peer, shutdownDelay, tls }",
            "tutti.yaml:3:9: pools[0]: a list does not fit; write { adapters, base, batching, endpoints, engine, expose, health, keepAlive, name, queue, retries, runner, scale, slots, timeouts }",
        ]
    );
    for text in ["[]", "gateway: { auth: { none: null } }", "pools: [{ name: p, expose: { all: null } }]"] {
        assert!(of(text).is_err(), "{text}");
    }
}

#[test]
fn an_item_that_does_not_fit_hides_nothing() {
    let text = GOOD.replace("[risk-model]", "[1, 2, true, ok, [x], null]");
    assert_eq!(
        of(&text).unwrap_err(),
        [
            "tutti.yaml:10:15: models[0].aliases[0]: 1 does not fit; write 1 to 256 bytes without control characters",
            "tutti.yaml:10:18: models[0].aliases[1]: 2 does not fit; write 1 to 256 bytes without control characters",
            "tutti.yaml:10:21: models[0].aliases[2]: true does not fit; write 1 to 256 bytes without control characters",
            "tutti.yaml:10:31: models[0].aliases[4]: a list does not fit; write 1 to 256 bytes without control characters",
            "tutti.yaml:10:36: models[0].aliases[5]: an empty value does not fit; write 1 to 256 bytes without control characters",
        ]
    );
}

#[test]
fn nothing_wrong_hides_anything_else() {
    let text = "
lisen: x
gateway: { ops: h, ops: i, limits: &a {}, drain: 1 }
pools:
  - { name: p, endpoints: [], \"a`b\": 1, keepAlive: 5 }
  - { name: [q], endpoints: [{ url: http://h }] }
models:
  - { name: m, revisions: [{ name: v1, pool: nope, upstream: x }], traffic: { revision: v2 } }
";
    assert_eq!(
        of(text).unwrap_err(),
        [
            "tutti.yaml:2:1: unknown field `lisen`; there are gateway, models, pools",
            "tutti.yaml:3:17: gateway.ops: this is no address to listen on: the port is missing; write host:port, such as 127.0.0.1:11500",
            "tutti.yaml:3:20: ops: this field stands twice",
            "tutti.yaml:3:36: anchors (`&…`) are not taken",
            "tutti.yaml:3:50: gateway.drain: 1 does not fit; write a number with its unit, such as 250ms, 30s, 5m or 2h",
            "tutti.yaml:5:27: pools[0].endpoints: there is nothing in it; write a list of: { apiKeyFile, dns, file, loader, url }",
            "tutti.yaml:5:31: pools[0]: unknown field `a`b`; there are adapters, base, batching, endpoints, engine, expose, health, keepAlive, name, queue, retries, runner, scale, slots, timeouts",
            "tutti.yaml:5:52: pools[0].keepAlive: 5 does not fit; write `client`, or a duration such as 30s",
            "tutti.yaml:6:13: pools[1].name: a list does not fit; write 1 to 63 letters, digits and `-`",
            "tutti.yaml:6:37: pools[1].endpoints[0].url: this is no replica's URL: the port is missing; write http://host:port",
            // Not that there is no pool `nope`: who knows what pools[1] shall be called.
            "tutti.yaml:8:89: models[0].traffic.revision: there is no revision \"v2\"; there are v1",
        ]
    );
}

#[test]
fn what_is_too_much_to_show_is_counted() {
    let many: String = (0..73).map(|number| format!("x{number}: 1\n")).collect();
    let problems = of(&many).unwrap_err();
    assert_eq!(problems.len(), 51);
    assert_eq!(problems[50], "tutti.yaml: 23 further problems are not shown");
}

#[test]
fn an_empty_field_is_a_missing_one() {
    assert_eq!(of("gateway:\npools:\nmodels: ~\n"), Ok(Config::default()));
    assert_eq!(of("gateway: { tls: ~, limits: { body: } }"), Ok(Config::default()));
    let text = GOOD.replace("    aliases: [risk-model]\n", "    aliases:\n    slo: null\n");
    assert_eq!(of(&text).map(|config| config.models[0].aliases.len()), Ok(0));
    assert_eq!(
        of("pools: [{ name: , endpoints: [{ url: http://h:1 }] }]").unwrap_err(),
        ["tutti.yaml:1:11: pools[0]: `name` is missing"]
    );
    for (text, what) in [
        ("gateway: 3", "gateway: 3 does not fit; write { admin, "),
        ("pools: {}", "pools: a map does not fit; write a list of: { adapters, "),
        ("pools: [{ base: 2.10 }]", "pools[0].base: 2.1 does not fit; it is text: put it in quotes"),
        (
            "pools: [{ queue: { size: -1 } }]",
            "pools[0].queue.size: -1 does not fit; write a whole number from 0 to 4294967295",
        ),
    ] {
        let problems = of(text).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(what)), "{problems:?}");
    }
}

/// What the schema lets pass is what the loader lets pass.
#[test]
fn schema_and_loader_agree() {
    let with = |what: &str, instead: &str| of(&GOOD.replace(what, instead)).is_ok();
    for wrong in ["0", "5000", "\"4\"", "foo", "{}", "1.5"] {
        assert!(!with("slots: 4", &format!("slots: {wrong}")), "{wrong}");
    }
    for right in ["auto", "1", "4096", "1.0", "null"] {
        assert!(with("slots: 4", &format!("slots: {right}")), "{right}");
    }
    assert!(!with("wait: 250ms", "size: 4294967296"));
    assert!(with("wait: 250ms", "size: 1.0"));
    assert!(!with("wait: 250ms", "wait: 9999999999h"));
    assert!(!with("    slots: 4", "    retries: { max: 2 }"));
    for text in ["pools: [{}]", "models: [{}]", "pools: [{ name: p, endpoints: [{}] }]", "pools: [{ name: p }]"] {
        assert!(of(text).is_err(), "{text}");
    }
}

#[test]
fn addresses_and_limits_are_those_of_this_world() {
    for (gateway, place, why) in [
        ("listen: 127.0.0.1:11501", "gateway.ops", "gateway.listen is the same address"),
        ("admin: { listen: localhost:11500 }", "gateway.admin.listen", "gateway.listen is the same address"),
        ("listen: http://127.0.0.1:11500", "gateway.listen", "no address"),
        ("auth: none, listen: 'http://x:1'", "gateway.listen", "no address"),
        ("listen: '::1'", "gateway.listen", "no address"),
        ("listen: '*:80'", "gateway.listen", "no address"),
        ("listen: foo bar:1", "gateway.listen", "no address"),
        ("listen: '[127.0.0.1]:80'", "gateway.listen", "no address"),
        ("admin: { tokenFile: '' }", "gateway.admin.tokenFile", "no file"),
        ("admin: { tokenFile: ~/tok }", "gateway.admin.tokenFile", "no file"),
        ("allowedHosts: ['http://x/', 10.0.0.7]", "gateway.allowedHosts[0]", "no name"),
        ("allowedHosts: [b, 'a:80']", "gateway.allowedHosts[1]", "no name"),
        ("allowedHosts: ['']", "gateway.allowedHosts[0]", "no name"),
        ("nameservers: [10.0.0.1, 'dns.bank:53']", "gateway.nameservers[1]", "asked for itself"),
        ("limits: { connections: 0 }", "gateway.limits.connections", "from 1"),
        ("limits: { header: 0B }", "gateway.limits.header", "0B"),
        ("limits: { body: 600Mi }", "gateway.limits.body", "never fits"),
    ] {
        let problems = of(&format!("gateway: {{ {gateway} }}")).unwrap_err();
        assert_eq!(problems.len(), 1, "{gateway}: {problems:?}");
        assert!(problems[0].contains(&format!(" {place}: ")) && problems[0].contains(why), "{gateway}: {problems:?}");
    }
    for (pool, place) in [
        ("timeouts: { connect: 0s }", "timeouts.connect"),
        ("timeouts: { firstByte: 0ms }", "timeouts.firstByte"),
        ("timeouts: { idle: 0h }", "timeouts.idle"),
        ("queue: { wait: 0s }", "queue.wait"),
        ("base: '@@ not a name'", "base"),
    ] {
        let text = format!("pools: [{{ name: p, endpoints: [{{ url: http://h:1 }}], {pool} }}]");
        let problems = of(&text).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(&format!(" pools[0].{place}: ")), "{pool}: {problems:?}");
    }
    assert!(of("gateway: { listen: '127.0.0.1:0', ops: '127.0.0.1:0', admin: { listen: '127.0.0.1:0' } }").is_ok());
}

#[test]
fn an_endpoint_is_another_than_the_gateway_and_its_like() {
    let urls = |list: &[&str]| {
        let list: Vec<String> = list.iter().map(|url| format!("{{ url: '{url}' }}")).collect();
        of(&format!("pools: [{{ name: p, endpoints: [{}] }}]", list.join(", ")))
    };
    let problems = urls(&["http://h:1", "http://h:1/", "http://H:1"]).unwrap_err();
    assert!(problems[0].contains("pools[0].endpoints[1].url: endpoints[0] is the same replica"), "{problems:?}");
    assert_eq!(problems.len(), 2);
    for itself in ["http://127.0.0.1:11500", "http://localhost:11500/", "http://127.0.0.1:11502"] {
        let problems = urls(&[itself]).unwrap_err();
        assert!(problems[0].contains("pools[0].endpoints[0].url: this is the gateway itself"), "{problems:?}");
    }
}

#[test]
fn a_password_is_not_repeated() {
    for text in [
        "pools: [{ name: p, endpoints: [{ url: 'http://u:secretpw@h:1' }] }]",
        "pools: [{ name: p, endpoints: [{ url: 'u:secretpw@h:1' }] }]",
        "pools: [{ name: p, endpoints: ['http://u:secretpw@h:1'] }]",
        "gateway: { allowedHosts: ['http://u:secretpw@h:1'] }",
        "pools: [{ name: p, endpoints: [{ 'http://u:secretpw@h:1': x }] }]",
    ] {
        for problem in load(text, "tutti.yaml", []).unwrap_err() {
            assert!(!problem.to_string().contains("secretpw"), "{problem}");
        }
    }
}

#[test]
fn what_is_shown_is_short_and_harms_no_terminal() {
    let long = format!("gateway: {{ drain: {} }}", "\"x\", ".repeat(20_000));
    let escape = "gateway: { drain: \"a\u{1b}[31mb\" } # \t\u{1b}[31m";
    for text in [&long, escape] {
        for problem in load(text, "tutti.yaml", []).unwrap_err() {
            let shown = problem.to_string();
            assert!(shown.len() < 2000 && !shown.contains(['\u{1b}', '\t']), "{shown}");
        }
    }
    let far = format!("{}lisen: 1 }}", "gateway: { ".to_owned() + &" ".repeat(1000));
    let shown = load(&far, "tutti.yaml", []).unwrap_err()[0].to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[1][lines[2].find('^').unwrap()..].starts_with("lisen"), "{shown}");
}

#[test]
fn many_fields_are_read_in_no_time() {
    let many: String = (0..90_000).map(|number| format!("x{number}: 1\n")).collect();
    let before = std::time::Instant::now();
    assert!(of(&many).is_err());
    assert!(before.elapsed().as_secs() < 20, "{:?}", before.elapsed());
}

#[test]
fn a_name_that_stands_twice_is_marked_where_it_does() {
    let problems = of(&GOOD.replace("risk-model", "'Risk:latest', x, x, ''")).unwrap_err();
    assert_eq!(
        problems,
        [
            "tutti.yaml:10:15: models[0].aliases[0]: models[0].name has this name already",
            "tutti.yaml:10:33: models[0].aliases[2]: models[0].aliases[1] has this name already",
            "tutti.yaml:10:36: models[0].aliases[3]: \"\" does not fit; write 1 to 256 bytes without control characters",
        ]
    );
}

#[test]
fn what_the_environment_says_as_text_is_taken_as_it_is() {
    let config = with_env(
        GOOD,
        &[
            ("TUTTI__GATEWAY__LISTEN", "[::1]:9"),
            ("TUTTI__GATEWAY__ADMIN__TOKENFILE", "@a # b"),
            ("TUTTI__POOLS__0__NAME", "007"),
            ("TUTTI__POOLS__0__BASE", "7"),
            ("TUTTI__POOLS__0__SLOTS", "9"),
            ("TUTTI__POOLS__0__EXPOSE", "all"),
            ("TUTTI__MODELS__0__REVISIONS__0__NAME", "2.10"),
            ("TUTTI__MODELS__0__REVISIONS__0__POOL", "007"),
            ("TUTTI__MODELS__0__TRAFFIC__REVISION", "2.10"),
            ("TUTTI__MODELS__0__ALIASES__0", "true"),
        ],
    )
    .unwrap();
    assert_eq!(config.gateway.listen, "[::1]:9");
    assert_eq!(config.gateway.admin.token_file.as_deref(), Some("@a # b"));
    assert_eq!((config.pools[0].name.as_str(), config.pools[0].base.as_deref()), ("007", Some("7")));
    assert_eq!((config.pools[0].slots, config.pools[0].expose), (Slots::Count(9), Expose::All));
    assert_eq!(config.models[0].revisions[0].name, "2.10");
    assert_eq!(config.models[0].aliases, ["true"]);
}

#[test]
fn the_environment_fills_lists_and_empty_fields() {
    let endpoints: Vec<(String, String)> = (0..11)
        .map(|number| (format!("TUTTI__POOLS__0__ENDPOINTS__{number}__URL"), format!("http://h:{}", number + 1)))
        .collect();
    let config = load(GOOD, "tutti.yaml", endpoints).unwrap();
    assert_eq!(config.pools[0].endpoints[10].url.as_deref(), Some("http://h:11"));
    let config = with_env("gateway:\n", &[("TUTTI__GATEWAY__LISTEN", "127.0.0.1:9"), ("TUTTI__POOLS", "")]).unwrap();
    assert_eq!(config.gateway.listen, "127.0.0.1:9");
    let keyed = with_env("", &[("TUTTI__GATEWAY__AUTH__KEYSFILE", "x")]).unwrap();
    assert_eq!(keyed.gateway.auth, Some(crate::Auth::Keys { keys_file: "x".to_owned() }));
    assert_eq!(
        with_env("", &[("TUTTI__GATEWAY__LIMITS__CONNECTIONS", "many")]).unwrap_err(),
        [
            "environment variable TUTTI__GATEWAY__LIMITS__CONNECTIONS: gateway.limits.connections: \"many\" does not fit; write a whole number from 1 to 4294967295"
        ]
    );
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

    /// Where the schema finds nothing wrong, serde does not either.
    #[test]
    fn what_is_left_fits_the_types(cut in any::<prop::sample::Index>(), put in "[]a-z0-9{}:,\\[ ]{0,6}") {
        let mut text = GOOD.to_owned();
        text.insert_str(cut.index(text.len()), &put);
        if let Some(root) = yaml::parse(&text, MAX_TEXT, None, &mut Vec::new()) {
            let left = shape::hold(&root, described(), Quotes::Values, &mut Vec::new()).value;
            prop_assert!(serde_json::from_value::<Config>(left.clone()).is_ok(), "{}", left);
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
