use super::of;

fn text(endpoints: &str, traffic: &str) -> String {
    format!(
        "pools: [{{ name: p, endpoints: [{endpoints}] }}]\nmodels:\n  - name: m\n    revisions: [{{ name: v1, pool: p, upstream: a }}, {{ name: v2, pool: p, upstream: b }}]\n    traffic: {{ {traffic} }}\n"
    )
}

const TWO: &str = "{ url: http://h:1 }, { url: http://h:2 }";

#[test]
fn a_strategy_is_one_thing_and_its_steps_are() {
    for good in [
        "strategy: { canary: { steps: [{ setWeight: 5% }, { pause: 2m }, { pause: until-promoted }] } }",
        "strategy: { blueGreen: {} }, mirror: 10%",
        "strategy: { blueGreen: { autoPromotionEnabled: false, postPromotionAnalysis: {} }, onLostReplicas: rollback }",
        "sticky: { header: x-user }",
        "sticky: { tenant: true }",
    ] {
        assert_eq!(of(&text(TWO, good)).err(), None, "{good}");
    }
    for (wrong, why) in [
        ("strategy: {}", "a change comes about in one way"),
        ("strategy: { canary: { steps: [{ setWeight: 5% }] }, blueGreen: {} }", "a change comes about in one way"),
        ("strategy: { canary: { steps: [] } }", "a canary has 1 to 100 steps"),
        ("strategy: { canary: { steps: [{}] } }", "steps[0]: a step is one thing"),
        ("strategy: { canary: { steps: [{ setWeight: 5%, pause: 1s }] } }", "steps[0]: a step is one thing"),
        ("strategy: { blueGreen: { prePromotionAnalysis: { interval: 0s } } }", "interval: 0s is no time"),
        ("sticky: {}", "one thing keeps a client on its revision"),
        ("sticky: { key: true, tenant: true }", "one thing keeps a client on its revision"),
        ("sticky: { header: \"x user\" }", "this is no header's name"),
    ] {
        let problems = of(&text(TWO, wrong)).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(why), "{wrong}: {problems:?}");
    }
}

#[test]
fn a_shared_revision_is_tried_on_a_replica_of_its_own() {
    let (one, canary) = ("{ url: http://h:1 }", "strategy: { canary: { steps: [{ setWeight: 5% }] } }");
    for traffic in [canary, "mirror: 1%"] {
        let problems = of(&text(one, traffic)).unwrap_err();
        assert!(problems[0].contains("the candidate needs a replica of its own"), "{problems:?}");
        assert!(problems[0].contains("pool \"p\""), "{problems:?}");
        assert_eq!(of(&text(TWO, traffic)).err(), None);
        assert_eq!(of(&text("{ dns: \"h:1\" }", traffic)).err(), None, "who knows how many there are");
    }
    assert_eq!(of(&text(one, "strategy: { blueGreen: {} }")).err(), None, "at once is no trial");
}
