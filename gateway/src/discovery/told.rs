//! What a name server's answer says of a name's addresses. Pure.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::answer::Part;

/// What an answer with records says.
pub(super) fn told(response: &Message, name: &Name, record: RecordType) -> Part {
    let mut names = vec![name];
    let mut ttl = u32::MAX;
    // The names that the name is an alias of, in whatever order they come.
    while let Some((target, alias)) = response.answers.iter().find_map(|record| alias(record, &names)) {
        names.push(target);
        ttl = ttl.min(alias.ttl);
    }
    let mut found = Vec::new();
    for record in
        response.answers.iter().filter(|answer| answer.record_type() == record && names.contains(&&answer.name))
    {
        let ip = match &record.data {
            RData::A(a) => IpAddr::V4(a.0),
            RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
            _ => continue,
        };
        if can_be_a_replica(ip) {
            found.push(ip.to_canonical());
            ttl = ttl.min(record.ttl);
        }
    }
    let seconds = |ttl: u32| Duration::from_secs(ttl.into());
    let negative = negative_ttl(&response.authorities);
    match (found.is_empty(), response.response_code) {
        (false, _) => Part::Addresses { found, ttl: seconds(ttl) },
        (true, ResponseCode::NXDomain) => Part::Nothing { exists: false, ttl: negative.map(seconds) },
        (true, _) if negative.is_some() => Part::Nothing { exists: true, ttl: negative.map(seconds) },
        (true, _) => Part::Failed("its answer is none to the question".to_owned()),
    }
}

/// The name that a record makes one of these an alias of, if it is none of them.
fn alias<'r>(record: &'r Record, names: &[&Name]) -> Option<(&'r Name, &'r Record)> {
    let RData::CNAME(target) = &record.data else { return None };
    (names.contains(&&record.name) && !names.contains(&&target.0)).then_some((&target.0, record))
}

/// How long it holds that there is nothing (RFC 2308, section 5), where the zone says it. Unit: seconds.
fn negative_ttl(authorities: &[Record]) -> Option<u32> {
    authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    })
}

/// What an answer without records, or none, says.
pub(super) fn untold(error: NetError) -> Part {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, negative_ttl, ns, soa, .. })) => {
            if soa.is_none() && ns.is_some() {
                return Part::Failed("it sends on to another one".to_owned());
            }
            let ttl = negative_ttl.map(|seconds| Duration::from_secs(seconds.into()));
            Part::Nothing { exists: response_code != ResponseCode::NXDomain, ttl }
        }
        NetError::Dns(DnsError::ResponseCode(code)) => Part::Failed(code.to_string()),
        NetError::Timeout => Part::Failed("timed out".to_owned()),
        error => Part::Failed(error.to_string()),
    }
}

/// Whether a connection to an address reaches one machine, and one that was meant: 0.0.0.0 would be this one.
pub(super) fn can_be_a_replica(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::{OpCode, Query};
    use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, NS, SOA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn record(owner: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(name(owner), ttl, data)
    }

    fn a(owner: &str, ttl: u32, ip: &str) -> Record {
        record(owner, ttl, RData::A(A(ip.parse().unwrap())))
    }

    fn cname(owner: &str, ttl: u32, target: &str) -> Record {
        record(owner, ttl, RData::CNAME(CNAME(name(target))))
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        record("bank.", ttl, RData::SOA(SOA::new(name("ns.bank."), name("root.bank."), 1, 1, 1, 1, minimum)))
    }

    fn of(answers: Vec<Record>, authorities: Vec<Record>, code: ResponseCode) -> Part {
        let mut message = Message::response(1, OpCode::Query);
        message.add_query(Query::query(name("gpu.bank."), RecordType::A));
        message.add_answers(answers);
        message.add_authorities(authorities);
        message.metadata.response_code = code;
        told(&message, &name("gpu.bank."), RecordType::A)
    }

    fn addresses(found: &[&str], ttl: u64) -> Part {
        let found = found.iter().map(|ip| ip.parse().unwrap()).collect();
        Part::Addresses { found, ttl: Duration::from_secs(ttl) }
    }

    #[test]
    fn only_what_belongs_to_the_question_counts() {
        let ok = ResponseCode::NoError;
        let found = vec![a("GPU.bank.", 9, "10.0.0.1"), a("gpu.bank.", 7, "10.0.0.2"), a("evil.", 1, "6.6.6.6")];
        assert_eq!(of(found, vec![], ok), addresses(&["10.0.0.1", "10.0.0.2"], 7));
        let v6 = record("gpu.bank.", 9, RData::AAAA(AAAA("::1".parse().unwrap())));
        assert_eq!(of(vec![a("gpu.bank.", 9, "10.0.0.1"), v6], vec![], ok), addresses(&["10.0.0.1"], 9));
        assert!(matches!(of(vec![a("evil.", 9, "6.6.6.6")], vec![], ok), Part::Failed(_)));
    }

    #[test]
    fn an_alias_is_followed_in_any_order_and_round_in_a_circle_only_once() {
        let ok = ResponseCode::NoError;
        let chain = vec![
            a("c.bank.", 50, "10.0.0.3"),
            cname("b.bank.", 60, "c.bank."),
            cname("gpu.bank.", 5, "b.bank."),
            a("gpu.bank.", 99, "10.0.0.4"),
        ];
        assert_eq!(of(chain, vec![], ok), addresses(&["10.0.0.3", "10.0.0.4"], 5));
        let circle = vec![cname("gpu.bank.", 5, "b.bank."), cname("b.bank.", 5, "gpu.bank.")];
        assert!(matches!(of(circle, vec![], ok), Part::Failed(_)));
        let dangling = || vec![cname("gpu.bank.", 5, "b.bank.")];
        let nothing = |exists, ttl| Part::Nothing { exists, ttl: Some(Duration::from_secs(ttl)) };
        assert_eq!(of(dangling(), vec![soa(30, 10)], ok), nothing(true, 10));
        assert_eq!(of(dangling(), vec![soa(3, 10)], ResponseCode::NXDomain), nothing(false, 3));
        assert!(matches!(of(dangling(), vec![], ok), Part::Failed(_)), "the server follows no aliases");
    }

    #[test]
    fn an_address_that_is_no_machines_is_none() {
        let answers = ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.2"].map(|ip| a("gpu.bank.", 9, ip)).into();
        assert_eq!(of(answers, vec![], ResponseCode::NoError), addresses(&["127.0.0.2"], 9));
    }

    #[test]
    fn that_there_is_nothing_is_not_that_nobody_can_tell() {
        let no_records = |code, ns: bool, ttl| {
            let mut none = NoRecords::new(Query::query(name("gpu.bank."), RecordType::A), code);
            none.negative_ttl = ttl;
            let ns = ns.then(|| record("bank.", 9, RData::NS(NS(name("ns.bank.")))));
            none.ns = ns.map(|ns| vec![hickory_resolver::net::ForwardNSData { ns, glue: Vec::new().into() }].into());
            untold(NetError::from(none))
        };
        let nothing = |exists, ttl: Option<u64>| Part::Nothing { exists, ttl: ttl.map(Duration::from_secs) };
        assert_eq!(no_records(ResponseCode::NXDomain, false, Some(5)), nothing(false, Some(5)));
        assert_eq!(no_records(ResponseCode::NoError, false, None), nothing(true, None));
        assert!(matches!(no_records(ResponseCode::NoError, true, None), Part::Failed(_)), "a referral");
        for error in [
            NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)),
            NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)),
            NetError::Timeout,
            NetError::NoConnections,
        ] {
            assert!(matches!(untold(error.clone()), Part::Failed(_)), "{error}");
        }
    }
}
