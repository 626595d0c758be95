//! When a certificate is valid: the one thing in it that the gateway itself reads (RFC 5280, 4.1). What it proves is the
//! clients' to judge.

use tutti_api::Timestamp;

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, in which the version stands where it is not the first.
const VERSION: u8 = 0xa0;

/// The validity in a certificate's DER; `None` where it is no certificate.
pub(super) fn validity(der: &[u8]) -> Option<Validity> {
    let (SEQUENCE, certificate, _) = element(der)? else { return None };
    let (SEQUENCE, mut signed, _) = element(certificate)? else { return None };
    if element(signed)?.0 == VERSION {
        signed = element(signed)?.2;
    }
    for _ in ["serial number", "algorithm", "issuer"] {
        signed = element(signed)?.2;
    }
    let (SEQUENCE, validity, _) = element(signed)? else { return None };
    let (kind, not_before, rest) = element(validity)?;
    let not_before = time(kind, not_before)?;
    let (kind, not_after, _) = element(rest)?;
    Some(Validity { not_before, not_after: time(kind, not_after)? })
}

/// The first element of a DER text: its tag, its contents, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, der) = der.split_first()?;
    let (&first, der) = der.split_first()?;
    let (length, der) = match first {
        0..=0x7f => (usize::from(first), der),
        0x81..=0x84 => {
            let (length, der) = der.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), der)
        }
        _ => return None,
    };
    let (contents, rest) = der.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// A time in UTC, to the second: `YYMMDDHHMMSSZ`, of the years 1950 to 2049, or `YYYYMMDDHHMMSSZ`.
fn time(kind: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (century, text) = match (kind, text.len()) {
        (UTC_TIME, 13) => (if text >= "50" { "19" } else { "20" }, text),
        (GENERALIZED_TIME, 15) => text.split_at_checked(2)?,
        _ => return None,
    };
    let part = |at: usize| text.get(at..at + 2);
    let (date, clock) = ([part(0)?, part(2)?, part(4)?].join("-"), [part(6)?, part(8)?, part(10)?].join(":"));
    format!("{century}{date}T{clock}{}", text.get(12..)?).parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        let seconds = |kind, text: &[u8]| time(kind, text).map(Timestamp::unix);
        assert_eq!(seconds(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, b"491231235959Z"), seconds(GENERALIZED_TIME, b"20491231235959Z"));
        assert_eq!(seconds(UTC_TIME, b"500101000000Z"), seconds(GENERALIZED_TIME, b"19500101000000Z"));
        assert_eq!(seconds(GENERALIZED_TIME, b"20261124082358Z"), Some(1_795_508_638));
        for (kind, wrong) in [
            (UTC_TIME, &b"7001010000Z"[..]),
            (UTC_TIME, b"700101000000"),
            (4, b"700101000000Z"),
            (UTC_TIME, b"70010100000\xffZ"),
        ] {
            assert_eq!(time(kind, wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), put in any::<prop::sample::Index>(), byte: u8) {
            let _ = validity(&bytes);
            let mut certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.der().to_vec();
            let at = put.index(certificate.len());
            certificate[at] = byte;
            let _ = validity(&certificate);
            let _ = validity(&certificate[..at]);
        }

        #[test]
        fn what_a_certificate_says_is_read(from in 0..4_000_000_000i64, lasts in 0..4_000_000_000i64) {
            let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
            let at = |seconds: i64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.unsigned_abs());
            (params.not_before, params.not_after) = (at(from), at(from + lasts));
            let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            let expected = Validity { not_before: Timestamp::from_unix(from), not_after: Timestamp::from_unix(from + lasts) };
            prop_assert_eq!(validity(certificate.der()), Some(expected));
        }
    }
}
