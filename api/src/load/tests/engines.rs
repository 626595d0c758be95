use super::of;

#[test]
fn each_engine_has_its_own_names_for_models() {
    let text = |engine: &str, name: &str| {
        format!(
            "pools: [{{ name: p, engine: {engine}, endpoints: [{{ url: http://h:1 }}] }}]
models: [{{ name: m, revisions: [{{ name: v1, pool: p, upstream: \"{name}\" }}] }}]"
        )
    };
    assert!(of(&text("openai", "models/a b@2")).is_ok());
    for (engine, wrong, why) in [
        ("ollama", "models/a b@2".to_owned(), "\"models/a b@2\" is no name that Ollama takes"),
        ("openai", "x".repeat(257), "a model's name has 1 to 256 bytes and no control characters"),
        ("openai", String::new(), "a model's name has 1 to 256 bytes and no control characters"),
    ] {
        let problems = of(&text(engine, &wrong)).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(why), "{problems:?}");
    }
    let keys = "pools: [{ name: p, endpoints: [{ url: http://h:1, apiKeyFile: ~/key }] }]";
    assert_eq!(
        of(keys).unwrap_err(),
        [
            "tutti.yaml:1:63: pools[0].endpoints[0].apiKeyFile: this names no file; write its whole path; `~` means nothing here"
        ]
    );
}
