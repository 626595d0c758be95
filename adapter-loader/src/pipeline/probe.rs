//! A candidate must answer before it serves: asked by the gateway in its turn where the engine serves, else by the loader.

use std::time::{Duration, Instant};

use serde_json::Value;
use tutti_api::{Phase, ProbeRequest, ProbeResult, Reason};

use super::register::Staged;
use super::{Failure, Work};
use crate::engine::{REFUSALS, is_certain};
use crate::fault::{Point, point};
use crate::probe::Probe;
use crate::retry::Retry;

/// How often it is looked whether there is still a gateway to wait for.
const LOOK: Duration = Duration::from_secs(1);

/// Has the candidate answer; writes down which model did.
pub(super) async fn step(work: &Work, staged: &Staged) -> Result<(), Failure> {
    if staged.is_copied {
        return Ok(());
    }
    work.phase(Phase::Probing);
    point(Point::ProbeBefore);
    let probe = Probe::of(staged.made.probe.as_ref(), &work.wants.spec.probe);
    let key = (staged.made.base, probe.request().to_string());
    let known = work.tools.base_answer(&key);
    let asks_base = probe.needs_base() && known.is_none();
    let result = asked(work, staged, &probe, asks_base).await?;
    point(Point::ProbeAfterAnswer);
    if let Some(error) = result.error.as_ref().filter(|_| result.refused) {
        return Err(Failure::judged(Reason::EngineRefused, format!("the engine refuses to answer the probe: {error}")));
    }
    if let Some(error) = result.error {
        return Err(Failure::passing(Reason::EngineUnavailable, format!("the probe was not answered: {error}")));
    }
    let Some(candidate) = result.candidate else {
        return Err(Failure::passing(Reason::EngineUnavailable, "the probe has no answer"));
    };
    let base = known.or(result.base);
    if asks_base && base.is_none() {
        return Err(Failure::passing(Reason::EngineUnavailable, "the base did not answer the probe"));
    }
    if let Some(base) = base.clone().filter(|_| asks_base) {
        work.tools.keep_base_answer(key, base);
    }
    probe.judge(&candidate, base.as_ref()).map_err(Failure::Judged)?;
    let model = staged.model.clone();
    work.keep(|record| {
        if let Some(candidate) = &mut record.candidate {
            candidate.proven = Some(model);
        }
    })?;
    point(Point::ProbeAfterRecord);
    Ok(())
}

/// What came of the probe, asked again where the engine refuses: once it may have met the deletion of another name.
async fn asked(work: &Work, staged: &Staged, probe: &Probe, asks_base: bool) -> Result<ProbeResult, Failure> {
    let mut retry = Retry::new(REFUSALS);
    loop {
        let Some(result) = by_gateway(work, staged, probe, asks_base).await else {
            return by_loader(work, staged, probe, asks_base).await;
        };
        let is_doubtful = result.refused && !result.again && !result.error.as_deref().is_some_and(is_certain);
        let Some(wait) = is_doubtful.then(|| retry.next()).flatten() else { return Ok(result) };
        tokio::time::sleep(wait).await;
    }
}

/// Waits for a gateway to ask; `None` where there is none to wait for. An engine that serves is asked by nobody else, however
/// long that takes.
async fn by_gateway(work: &Work, staged: &Staged, probe: &Probe, asks_base: bool) -> Option<ProbeResult> {
    let name = &staged.made.engine_name;
    let mut answered = loop {
        if !work.tools.board.may_be_serving(Instant::now()) {
            return None;
        }
        match work.tools.board.expect_probe(name.clone()) {
            Some(answered) => break answered,
            None => tokio::time::sleep(LOOK).await, // as many wait as may
        }
    };
    let request = ProbeRequest {
        engine_name: name.clone(),
        staging_name: work.tools.engine.staging().name(name),
        base: asks_base.then(|| work.wants.base.clone()),
        request: probe.request(),
    };
    work.tell(|running| running.probe = Some(request));
    let result = loop {
        tokio::select! {
            answer = &mut answered => break answer.ok(),
            () = tokio::time::sleep(LOOK) => {
                if !work.tools.board.may_be_serving(Instant::now()) {
                    break None;
                }
            }
        }
    };
    work.tell(|running| running.probe = None);
    if result.is_some() {
        work.tools.board.metrics.probed("gateway");
    }
    result
}

/// Asks the engine itself.
async fn by_loader(work: &Work, staged: &Staged, probe: &Probe, asks_base: bool) -> Result<ProbeResult, Failure> {
    let engine = &work.tools.engine;
    let request: Value = probe.request();
    let base = match asks_base {
        true => Some(engine.ask(&work.wants.base, &request).await?),
        false => None,
    };
    let candidate = engine.ask(engine.staging().name(&staged.made.engine_name).as_str(), &request).await?;
    work.tools.board.metrics.probed("loader");
    Ok(ProbeResult { candidate: Some(candidate), base, ..ProbeResult::default() })
}
