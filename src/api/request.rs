//! Requests as clients send them, parsed into what cannot be wrong.

use std::time::Duration;

use bytes::Bytes;
use opentelemetry::trace::TraceState;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic_types::FieldViolation;

use super::error;
use crate::proto;
use crate::protocol::quorum::Consistency;
use crate::telemetry::Caller;
use crate::types::{KEY_BYTES_MAX, Key, RequestId, TraceContext};

/// The longest life of a value: 100 years. Beyond it, clocks and sums would have to be doubted.
pub(super) const TTL_MS_MAX: u64 = 100 * 365 * 24 * 3600 * 1000;
/// The least that a client may leave to a request.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// The part of a client's time that is kept for the answer's way back, and the most of it. A busy
/// machine may take tens of milliseconds to wake up both ends, and a client that stops waiting a
/// moment before the answer learns nothing of who was missing.
const WAY_BACK_PART: u32 = 10;
const WAY_BACK_MAX: Duration = Duration::from_millis(100);

/// Gathers what is wrong with the fields of a request, so that all of it is told at once.
#[derive(Default)]
pub(super) struct Fields {
    violations: Vec<FieldViolation>,
}

impl Fields {
    pub(super) fn key(&mut self, key: Bytes) -> Option<Key> {
        match Key::new(key) {
            Ok(key) => Some(key),
            Err(invalid) => self.refuse("key", invalid.to_string()),
        }
    }

    pub(super) fn prefix(&mut self, prefix: Bytes) -> Option<Bytes> {
        if prefix.len() <= KEY_BYTES_MAX {
            return Some(prefix);
        }
        let told = format!("a key has at most {KEY_BYTES_MAX} bytes, this has {}", prefix.len());
        self.refuse("prefix", told)
    }

    pub(super) fn value(&mut self, value: Bytes, bytes_max: usize) -> Option<Bytes> {
        if value.len() <= bytes_max {
            return Some(value);
        }
        let told = format!(
            "a value has at most {bytes_max} bytes (limits.value_bytes), this one has {}",
            value.len()
        );
        self.refuse("value", told)
    }

    pub(super) fn consistency(&mut self, number: i32) -> Option<Consistency> {
        match proto::Consistency::try_from(number) {
            Ok(proto::Consistency::One) => Some(Consistency::One),
            Ok(proto::Consistency::Unspecified | proto::Consistency::Quorum) => {
                Some(Consistency::Quorum)
            }
            Ok(proto::Consistency::All) => Some(Consistency::All),
            Err(_) => {
                let told = format!("{number} is not one of 1 (ONE), 2 (QUORUM), 3 (ALL)");
                self.refuse("consistency", told)
            }
        }
    }

    /// None within for a request without an id.
    #[expect(clippy::option_option, reason = "the outer one tells whether it is valid")]
    pub(super) fn request_id(&mut self, id: &[u8]) -> Option<Option<RequestId>> {
        if id.is_empty() {
            return Some(None);
        }
        if let Ok(id) = <[u8; 16]>::try_from(id) {
            return Some(Some(RequestId(id)));
        }
        let told = format!("a request id is empty or has 16 bytes, not {}", id.len());
        self.refuse("request_id", told)
    }

    /// None within for a value that lives for ever.
    #[expect(clippy::option_option, reason = "the outer one tells whether it is valid")]
    pub(super) fn ttl(&mut self, ttl_ms: u64) -> Option<Option<u64>> {
        match ttl_ms {
            0 => Some(None),
            1..=TTL_MS_MAX => Some(Some(ttl_ms)),
            _ => {
                let told = format!("at most {TTL_MS_MAX} (100 years) is allowed; 0 is for ever");
                self.refuse("ttl_ms", told)
            }
        }
    }

    pub(super) fn refuse<T>(&mut self, field: &str, told: String) -> Option<T> {
        self.violations.push(FieldViolation::new(field, told));
        None
    }

    pub(super) fn any_refused(&self) -> bool {
        !self.violations.is_empty()
    }

    /// The status to answer with, after a field was refused.
    pub(super) fn into_status(self) -> Status {
        error::invalid(self.violations)
    }
}

/// How long a request may take: what the client says, less the answer's way back, and no more
/// than `longest`.
pub(super) fn timeout(metadata: &MetadataMap, longest: Duration) -> Duration {
    let asked = metadata.get("grpc-timeout").and_then(|text| grpc_timeout(text.as_bytes()));
    let Some(asked) = asked else { return longest };
    let way_back = (asked / WAY_BACK_PART).min(WAY_BACK_MAX);
    asked.saturating_sub(way_back).clamp(TIMEOUT_MIN, longest.max(TIMEOUT_MIN))
}

/// Up to eight digits and a unit, as the gRPC protocol has it; none if it is anything else.
fn grpc_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The W3C trace context of a request, if it has a valid one.
pub(super) fn caller(metadata: &MetadataMap) -> Option<Caller> {
    let context = traceparent(metadata.get("traceparent")?.as_bytes())?;
    Some(Caller { context, state: tracestate(metadata) })
}

/// What several headers say is one list. One that cannot be read says nothing of the trace itself.
fn tracestate(metadata: &MetadataMap) -> TraceState {
    let headers = metadata.get_all("tracestate").iter();
    let parts: Vec<&str> = headers.filter_map(|header| header.to_str().ok()).collect();
    if parts.is_empty() {
        return TraceState::default();
    }
    parts.join(",").parse().unwrap_or_default()
}

/// `version-trace-span-flags` in lower-case hexadecimal. Later versions may have more behind it.
fn traceparent(text: &[u8]) -> Option<TraceContext> {
    let (head, more) = text.split_at_checked(55)?;
    let mut parts = head.split(|&byte| byte == b'-');
    let [version, trace, span, flags] =
        [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let lengths = [version.len(), trace.len(), span.len(), flags.len()];
    let version = hex(version)?;
    let tail_fits = more.is_empty() || version > 0 && more[0] == b'-';
    if lengths != [2, 32, 16, 2] || parts.next().is_some() || version == 0xff || !tail_fits {
        return None;
    }
    let (trace, span, flags) = (hex(trace)?, hex(span)?, hex(flags)?);
    let span = u64::try_from(span).ok()?;
    let flags = u8::try_from(flags).ok()?;
    (trace != 0 && span != 0).then_some(TraceContext { trace, span, flags })
}

/// At most 32 digits.
fn hex(digits: &[u8]) -> Option<u128> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(u128::from(byte - b'0')),
        b'a'..=b'f' => Some(u128::from(byte - b'a' + 10)),
        _ => None,
    };
    digits.iter().try_fold(0u128, |sum, byte| Some(sum << 4 | digit(byte)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_traceparent_is_read_strictly() {
        let good = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = traceparent(good).unwrap();
        assert_eq!(trace.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!((trace.span, trace.flags), (0xb7ad_6b71_6920_3331, 1));
        for bad in [
            &b""[..],
            b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            b"000-af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(traceparent(bad), None, "{}", String::from_utf8_lossy(bad));
        }
        let later = b"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert_eq!(traceparent(later), Some(trace));
    }

    #[test]
    fn a_tracestate_is_one_list_and_garbage_is_none() {
        let of = |headers: &[&str]| {
            let mut metadata = MetadataMap::new();
            let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            metadata.insert("traceparent", parent.parse().unwrap());
            for header in headers {
                metadata.append("tracestate", header.parse().unwrap());
            }
            caller(&metadata).unwrap().state.header()
        };
        assert_eq!(of(&[]), "");
        assert_eq!(of(&["a=1"]), "a=1");
        assert_eq!(of(&["a=1,b=2", "c=3"]), "a=1,b=2,c=3");
        assert_eq!(of(&["a b c"]), "");
        assert_eq!(caller(&MetadataMap::new()), None);
    }

    #[test]
    fn a_deadline_is_the_clients_less_the_way_back_and_never_beyond_the_limit() {
        let longest = Duration::from_secs(5);
        let of = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            timeout(&metadata, longest)
        };
        assert_eq!(timeout(&MetadataMap::new(), longest), longest);
        assert_eq!(of("1S"), Duration::from_millis(900));
        assert_eq!(of("100m"), Duration::from_millis(90));
        assert_eq!(of("99999999H"), longest);
        assert_eq!(of("1n"), TIMEOUT_MIN);
        for garbage in ["", "5", "S", "123456789S", "-1S", "1.5S", "1x"] {
            assert_eq!(of(garbage), longest, "{garbage}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(text: Vec<u8>, digits in "[0-9a-f-]{50,60}") {
            let _ = grpc_timeout(&text);
            let _ = traceparent(&text);
            let _ = traceparent(digits.as_bytes());
        }
    }
}
