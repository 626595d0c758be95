//! A request that another gateway holds the client of: from its body on it goes as one of our own.

use std::sync::Arc;

use http::{HeaderMap, Response};

use super::attempt::Attempt;
use super::head::{passed_on, request_id};
use crate::budget::Room;
use crate::classify;
use crate::errors::{Code, Failure};
use crate::exchange::ResponseBody;
use crate::peer::{Declined, Inbound};
use crate::settle::Settlement;
use crate::shared::Shared;

/// Serves a request of another gateway, which has found it good, counts it and writes its line.
pub(crate) async fn forwarded(
    shared: Arc<Shared>,
    headers: HeaderMap,
    mut inbound: Inbound,
) -> Result<Response<ResponseBody>, Failure> {
    shared.beginning.over().await; // its revision is chosen here
    let mut settlement = Settlement::begin(request_id(&headers));
    settlement.silence();
    let (api, ticket, named) = (inbound.api, inbound.ticket, std::mem::take(&mut inbound.model));
    settlement.record.api = Some(api);
    let config = shared.table().config.clone();
    let limits = &config.gateway.limits;
    let budget = limits.buffered_bodies.bytes();
    let mut room = Room { held: shared.budget.hold(), limit: budget };
    let body = inbound.read(limits.body.bytes(), &mut room).await?;
    settlement.hold(Some(room.held));
    let headers = passed_on(&headers);
    let reading = classify::read(api, Some(named), &body)?;
    let mut attempt = Attempt::new(&shared, &reading, &body, &headers, ticket, budget);
    attempt.choice = std::mem::take(&mut inbound.choice);
    inbound.queued();
    attempt.inbound = Some(inbound);
    let answered = attempt.run(&mut settlement).await;
    let mut response = answered.map_err(|failure| match &attempt.inbound {
        // What this table does not know its sender's does.
        Some(inbound) if failure.code == Code::ModelNotFound && !inbound.confirmed => {
            inbound.decline(Declined::Unknown)
        }
        Some(inbound) => {
            inbound.refused();
            failure
        }
        None => failure,
    })?;
    response.body_mut().settle(settlement);
    Ok(response)
}
