//! How many replicas there shall be, and what clients may expect.

use super::{Report, field};
use crate::yaml::Step;
use crate::{ModelSpec, PoolSpec};

/// Finds what is wrong with how a pool is scaled.
pub(super) fn pool(spec: &PoolSpec, here: &[Step], report: &mut Report<'_>) {
    let Some(scale) = &spec.scale else { return };
    let steps = field(here, "scale");
    if spec.slots.count().is_none() && !report.is_refused(&field(here, "slots")) {
        let help =
            "write the number of requests that a replica works on at once (OLLAMA_NUM_PARALLEL) as the pool's `slots`";
        report.add(&steps, "how many replicas the work needs is not known while `slots` is auto", Some(help));
    }
    if scale.max == 0 || scale.min > scale.max {
        report.add(&field(&steps, "max"), "there may be fewer replicas than there must be, or none at all", None);
    }
    if scale.target.fraction() <= 0.0 {
        report.add(&field(&steps, "target"), "no number of replicas leaves every slot free", None);
    }
}

/// Finds what is wrong with what a model's clients may expect.
pub(super) fn model(spec: &ModelSpec, here: &[Step], report: &mut Report<'_>) {
    let Some(slo) = &spec.slo else { return };
    for (name, time) in [("ttft", slo.ttft), ("p99", slo.p99)] {
        if let Some(time) = time {
            report.positive(&field(&field(here, "slo"), name), time);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::load;

    fn of(pool: &str, model: &str) -> Vec<String> {
        let text = format!(
            "pools:\n  - name: p\n    endpoints: [{{ url: http://h:1 }}]\n{pool}models:\n  - name: m\n    \
             revisions: [{{ name: v1, pool: p, upstream: x }}]\n{model}"
        );
        load(&text, "t", []).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_scale_must_be_one() {
        assert_eq!(
            of("    slots: 4\n    scale: { min: 0, max: 8, target: 70% }\n", "    slo: { ttft: 500ms }\n"),
            [""; 0]
        );
        let wrong = [
            ("    scale: {}\n", "while `slots` is auto"),
            ("    slots: 4\n    scale: { min: 5 }\n", "pools[0].scale.max"),
            ("    slots: 4\n    scale: { max: 0 }\n", "pools[0].scale.max"),
            ("    slots: 4\n    scale: { target: 0% }\n", "pools[0].scale.target"),
        ];
        for (pool, said) in wrong {
            let problems = of(pool, "");
            assert!(problems.len() == 1 && problems[0].contains(said), "{pool}: {problems:?}");
        }
        let problems = of("", "    slo: { ttft: 0s }\n");
        assert!(problems.len() == 1 && problems[0].contains("models[0].slo.ttft"), "{problems:?}");
    }
}
