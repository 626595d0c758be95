use super::{GOOD, of};

#[test]
fn a_revision_is_an_adapter_of_a_pool_that_has_some_or_what_the_engine_has() {
    let with = |pool: &str, revision: &str| {
        let text = GOOD.replace("    slots: 4", &format!("    slots: 4\n    {pool}"));
        of(&text.replace("upstream: risk:v1", revision))
    };
    let pool = "base: q\n    adapters: { from: s3://models/ }";
    let digest = "ab".repeat(32);
    assert!(with(pool, &format!("adapter: risk/v1, digest: \"sha256:{digest}\"")).is_ok());
    for (pool, revision, expected) in [
        (pool, "adapter: risk/v1, upstream: x", "revisions[0].upstream: a revision is an `adapter` or an `upstream`"),
        (pool, "digest: \"sha256:ab\", upstream: x", "revisions[0].digest: \"sha256:ab\" is no digest"),
        (pool, "slot: x", "revisions[0]: unknown field `slot`"),
        (pool, "adapter: ../v1", "revisions[0].adapter: \"../v1\" is no adapter's path"),
        ("base: q", "adapter: risk/v1", "revisions[0].adapter: the pool \"qwen\" has no adapters"),
        ("adapters: { from: /a }", "adapter: risk/v1", "pools[0].adapters: these adapters are for no base"),
        ("base: q\n    adapters: { from: models }", "adapter: a/b", "pools[0].adapters.from: this is no place"),
        ("base: q\n    adapters: { from: \"s3:///x\" }", "adapter: a/b", "pools[0].adapters.from: this is no place"),
    ] {
        let problems = with(pool, revision).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
    }
    // Two revisions of one path, by name.
    let other = "cd".repeat(32);
    let two = |second: &str| {
        let first = format!("adapter: risk/v1, digest: \"sha256:{digest}\" }}");
        with(
            pool,
            &format!("{first}\n      - {{ name: again, pool: qwen, adapter: risk/v1, digest: \"sha256:{second}\""),
        )
    };
    assert!(two(&digest).is_ok(), "{:?}", two(&digest));
    let problems = two(&other).unwrap_err();
    let expected = "revisions[1].digest: models[0].revisions[0].digest insists on another digest of risk/v1";
    assert!(problems.iter().any(|problem| problem.contains(expected)), "{problems:?}");
    let problems = of(&GOOD.replace(", upstream: risk:v1", "")).unwrap_err();
    assert!(problems[0].contains("revisions[0]: it does not say what it is"), "{problems:?}");
}
