//! How releases stand: what this gateway's traffic goes by, and, where it is the driver, how far each change is.

use super::family as f;
use super::text::{Format, Page};
use crate::table::Table;
use crate::traffic::{MIRRORED, Split};
use tutti_api::Share;
use tutti_control_plane::Standing;

/// What traffic goes by, of models with several revisions.
pub(super) fn traffic(table: &Table, page: &mut Page) {
    let models = || table.splits();
    let mut family = page.family(&f::REVISION_WEIGHT);
    for (model, split) in models() {
        for served in split.all.iter().map(|route| &route.served) {
            let weight = Share::of_parts(split.weight(&served.revision)).fraction();
            family.value([model, &served.revision, &served.pool], weight);
        }
    }
    let mut family = page.family(&f::MIRRORED);
    for (model, split) in models() {
        for served in split.all.iter().map(|route| &route.served) {
            let told = served.counted.iter().flat_map(|counted| MIRRORED.iter().zip(counted.mirrored()));
            for ((_, outcome), count) in told.filter(|(_, count)| *count > 0) {
                family.value([model, &served.revision, &served.pool, outcome], count);
            }
        }
    }
    let of = |page: &mut Page, metric, value: fn(&Split) -> u64| {
        let mut family = page.family(metric);
        models().for_each(|(model, split)| family.value([model], value(split)));
    };
    of(page, &f::TRAFFIC_GENERATION, |split| split.generation);
    of(page, &f::TRAFFIC_OVERRIDDEN, |split| split.overridden.into());
}

/// What a driver knows of its releases.
pub(super) fn driven(releases: &[Standing], page: &mut Page) {
    let mut family = page.family(&f::RELEASE_GENERATION);
    releases.iter().for_each(|of| family.value([&*of.model], of.generation));
    let mut family = page.family(&f::RELEASE_STEP);
    for (of, candidate) in releases.iter().filter_map(|of| Some((of, of.candidate.as_ref()?))) {
        family.value([&*of.model, candidate], of.step);
    }
    let mut family = page.family(&f::RELEASE_PAUSED);
    releases.iter().for_each(|of| family.value([&*of.model], u8::from(of.paused)));
}

/// The page of a driver beside several gateways.
pub(crate) fn page(releases: &[Standing]) -> String {
    let mut page = Page::new(Format::Plain);
    driven(releases, &mut page);
    page.finish()
}
