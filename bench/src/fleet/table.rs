//! The section of RESULTS.md, its bars and its picture.

use std::fmt::Write as _;

use super::curve::{Curve, Curves};
use super::plan::TENANTS;
use super::scenario::{OURS, Row, Scenario};
use super::{FleetResults, SHARE};
use crate::report::{Bar, heading, short, spread};

/// The file of the picture, below the folder of RESULTS.md.
pub(crate) const PICTURE: &str = "results/fleet.svg";

impl FleetResults {
    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("Fleets in virtual time", &self.origin);
        let usual = self.loads.first();
        let (replicas, adapters) = usual.map_or((0, 0), |usual| (usual.replicas, usual.adapters));
        let _ = write!(
            text,
            "{replicas} replicas with one slot and one adapter in memory each; {adapters} adapters on one base, asked for \
             by Zipf's law, and {TENANTS} tenants' in turn; a request takes {} s, a load {} s, and an answer is of use for {} s. “tutti” is the gateway's own \
             scheduler, the very same code, which is told how long an answer is of use. The others send each request on as it \
             comes, to replicas with queues of their own, first come first served; one that has waited {2} s there is given \
             up, which no Ollama would do. The same requests for all, {:.0} s of them a seed; {} seeds at {:.0} % (the middle \
             one, least–greatest), a third as many elsewhere.\n\n",
            self.service,
            self.load,
            self.slo,
            usual.map_or(f64::NAN, |usual| usual.seconds),
            self.seeds,
            100.0 * SHARE,
        );
        let _ = write!(
            text,
            "The bound on capacity is a linear program (stated in `bench/src/fleet/bound.rs`). Over the run's length each \
             replica pays a load at least once for each adapter that it holds: **{}** requests a second, of which the share is \
             asked for. “Bound”, in the tables, is the same program where a load can serve what comes within the time in \
             which answers are of use, and no more: it serves all up to {} a second, and above that what is cheapest (in the mean: to let lone requests fall could gain a little).\n\n",
            short(self.capacity.0),
            short(self.capacity.1)
        );
        text += &self.bars();
        let _ = write!(text, "\n![Answers in time over what is asked for]({PICTURE})\n");
        if let Some(compared) = self.compared() {
            let _ = write!(
                text,
                "\nAt {:.0} % of the bound, {} requests a second; the share of use could be {} at most. Loads and seconds of \
                 replicas' work for each answer in time; fair is Jain's index of the shares that tenants got, and adapters; cold, what \
                 of the requests for the less wanted half of the adapters was of use.\n\n{HEAD}",
                100.0 * compared.share,
                short(compared.rate),
                short(compared.most)
            );
            compared.rows.iter().for_each(|row| text += &row.line());
        }
        text += &self.others();
        text += &self.costs();
        text += &self.classes();
        text + &self.real()
    }

    fn compared(&self) -> Option<&Scenario> {
        self.loads.iter().find(|scenario| scenario.share == SHARE)
    }

    fn bars(&self) -> String {
        let compared = self.compared();
        let own = compared.and_then(Scenario::own).map(Row::goodput);
        let times = compared.zip(own).map(|(compared, own)| own / compared.best_other());
        let mut text = Bar::new("of use, × the best other policy", times, 2.0).at_least().line();
        text += &Bar::figure("of use, of what is offered", own).at_least().aim(0.9).line();
        let all = self.costs.events.first();
        text +=
            &Bar::new("µs of an event in the largest fleet, median", all.map(|all| all.median), 20.0).aim(5.0).line();
        for classes in self.classes.iter().filter(|classes| classes.plain) {
            let what = format!("interactive p99, × without bulk: {}", classes.of);
            text += &Bar::new(&what, Some(classes.with / classes.without), 1.5).aim(1.25).line();
            let what = format!("of what is left, used by bulk: {}", classes.of);
            text += &Bar::new(&what, Some(classes.used), 0.85).at_least().aim(0.95).line();
        }
        text
    }

    fn others(&self) -> String {
        let mut text = String::from(
            "\nOther loads, shapes, sizes: the share of use.\n\n| | replicas | adapters | of the bound | random | round robin | \
             least loaded | consistent hash | tutti | bound |\n|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for scenario in self.loads.iter().chain(&self.others) {
            let Scenario { name, replicas, adapters, share, rows, .. } = scenario;
            let _ = write!(text, "| {name} | {replicas} | {adapters} | {:.0} % |", 100.0 * share);
            for row in rows {
                let _ = write!(text, " {} |", short(row.goodput()));
            }
            let _ = writeln!(
                text,
                " {} |",
                if name == "Poisson" || name == "larger" { short(scenario.most) } else { "–".into() }
            );
        }
        text + "\nBy day and night: from a fifth to nine fifths of the mean. Bursts: four times the mean for 12 s of each 120 s. \
                Replicas die: each half minute the next one, for 20 s; what it had is sent again. Larger fleets: one seed and \
                a twelfth of the time, in which nothing is loaded at first.\n"
    }

    fn costs(&self) -> String {
        let costs = &self.costs;
        let mut text = format!(
            "\nWhat the scheduler itself takes for an event with {} replicas, {} adapters, {} and more requests waiting. \
             Ticks that find nothing to do do not count.\n\n| event | seen | median µs | p99 µs |\n|---|---|---|---|\n",
            costs.replicas, costs.adapters, costs.waiting
        );
        for cost in &costs.events {
            let _ =
                writeln!(text, "| {} | {} | {} | {} |", cost.event, cost.count, short(cost.median), short(cost.p99));
        }
        text
    }

    fn classes(&self) -> String {
        let mut text = String::from(
            "\nInteractive requests (30 % of what 4 replicas with 4 slots each can do, requests of half a second to one and a half) without bulk, and beside \
             one and a half times as much bulk as can be done. What is to be reached, above, is for models whose weights are there and \
             requests that are alike. What runs is not interrupted: who waits for an answer waits for the end of bulk that takes longer. Where \
             adapters take turns, who waits for an answer decides which weights are loaded, and what is left is time without \
             those that bulk wants ([why](../docs/decisions/turns-on-several-replicas.md)).\n\n| | p99 s without | p99 s with | × | used of what is left | \
             interactive refused |\n|---|---|---|---|---|---|\n",
        );
        for classes in &self.classes {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                classes.of,
                short(classes.without),
                short(classes.with),
                short(classes.with / classes.without),
                short(classes.used),
                classes.refused
            );
        }
        text
    }

    fn real(&self) -> String {
        if self.real.is_empty() {
            return String::new();
        }
        let mut text = String::from(
            "\nThe closed loops of “Adapters that take turns” again in virtual time, with the times of a load and a request \
             that were measured there.\n\n| through | clients | answers/s | simulated | error | longest s | simulated | error \
             |\n|---|---|---|---|---|---|---|---|\n",
        );
        let error = |(real, simulated): (f64, f64)| format!("{:+.1} %", 100.0 * (simulated / real - 1.0));
        for pair in &self.real {
            let (rate, longest) = (pair.rate, pair.longest);
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                pair.through,
                pair.clients,
                short(rate.0),
                short(rate.1),
                error(rate),
                short(longest.0),
                short(longest.1),
                error(longest)
            );
        }
        text
    }

    /// The picture: what is of use over what is asked for.
    pub(crate) fn picture(&self) -> String {
        let rows = self.loads.first().map(|first| &first.rows[..]).unwrap_or_default();
        let mut curves: Vec<Curve> = rows
            .iter()
            .enumerate()
            .map(|(at, row)| Curve {
                name: row.policy.clone(),
                kind: if row.policy == OURS { "own" } else { "" },
                points: self.loads.iter().map(|of| (of.share, of.rows.get(at).map_or(0.0, Row::goodput))).collect(),
            })
            .collect();
        let points = self.loads.iter().map(|of| (of.share, of.most)).collect();
        curves.push(Curve { name: "bound of one SLO".to_owned(), kind: "most", points });
        let axes = ("asked for, of the bound on capacity".to_owned(), "of use".to_owned());
        Curves { title: "Answers in time, of what is asked for".to_owned(), axes, curves }.svg()
    }
}

const HEAD: &str = "| policy | of use | p50 s | p99 s | loads | replica s | refused | fair: tenants | adapters | cold |\n\
                    |---|---|---|---|---|---|---|---|---|---|\n";

impl Row {
    fn line(&self) -> String {
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            self.policy,
            spread(self.goodput.iter().copied()),
            short(self.p50),
            short(self.p99),
            short(self.loads),
            short(self.busy),
            short(self.refused),
            self.tenants.map_or("–".to_owned(), short),
            short(self.jain),
            short(self.coldest)
        )
    }
}
