//! What is asked and answered.

use super::{
    Discard, Freeze, FreezeReport, Prepare, PrepareReport, ProcessReport, Progress, Thaw,
    ThawReport,
};
use serde::{Deserialize, Serialize};

/// Version of the messages. A process answers another version with an error
/// that names both.
pub const PROTOCOL_VERSION: u32 = 1;

/// What takes long, as it is said.
pub(super) const FREEZE: &str = "a freeze";
pub(super) const THAW: &str = "a thaw";

/// What a process can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// The report as it is now.
    Status,
    /// To make room for a snapshot.
    Prepare(Prepare),
    /// To freeze.
    Freeze(Freeze),
    /// To thaw.
    Thaw(Thaw),
    /// To freeze because the driver is about to lock the process.
    FreezeForLock(Freeze),
    /// To thaw what was frozen for a lock, as the driver has unlocked the process.
    /// Not answered, as the process may be stopped yet. Nothing is done if it is
    /// not frozen, or for another reason.
    ThawAfterLock(Thaw),
    /// To let memory go that need not survive a freeze.
    Discard(Discard),
}

impl Request {
    /// What is done, if it takes long: progress is told before the answer.
    pub(super) fn long_work(&self) -> Option<&'static str> {
        match self {
            Request::Status | Request::Discard(_) => None,
            Request::Prepare(_) => Some("a preparation"),
            Request::Freeze(_) | Request::FreezeForLock(_) => Some(FREEZE),
            Request::Thaw(_) | Request::ThawAfterLock(_) => Some(THAW),
        }
    }

    /// What is wrong with its values. They come from another process.
    fn check(&self) -> Result<(), String> {
        match self {
            Request::Status => Ok(()),
            Request::Prepare(prepare) => prepare.check(),
            Request::Freeze(freeze) | Request::FreezeForLock(freeze) => freeze.check(),
            Request::Thaw(thaw) | Request::ThawAfterLock(thaw) => thaw.check(),
            Request::Discard(discard) => discard.check(),
        }
    }
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", content = "body", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`]: the report.
    Status(Box<ProcessReport>),
    /// To [`Request::Prepare`], [`Request::Freeze`] and [`Request::Thaw`], before
    /// the answer itself: how far it is. Any number of times.
    Progress(Progress),
    /// To [`Request::Prepare`]: there is room.
    Prepared(PrepareReport),
    /// To [`Request::Freeze`] and [`Request::FreezeForLock`]: the memory is gone, the snapshot whole.
    Frozen(FreezeReport),
    /// To [`Request::Thaw`]: the process goes on.
    Thawed(ThawReport),
    /// To [`Request::Discard`].
    Discarded,
    /// The request was not understood or not carried out: why.
    Error(String),
}

/// A message with its version.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Versioned<T> {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) message: T,
}

impl<T> Versioned<T> {
    pub(super) fn new(message: T) -> Versioned<T> {
        Versioned {
            version: PROTOCOL_VERSION,
            message,
        }
    }
}

/// The version alone, readable in every version's messages.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Understands a request, or says why not.
pub(super) fn understand(bytes: &[u8]) -> Result<Request, String> {
    let VersionOnly { version } =
        serde_json::from_slice(bytes).map_err(|error| format!("not a request: {error}"))?;
    if version != PROTOCOL_VERSION {
        return Err(format!(
            "the request speaks version {version} of the protocol, this process version {PROTOCOL_VERSION}"
        ));
    }
    let request = serde_json::from_slice::<Versioned<Request>>(bytes)
        .map_err(|error| format!("unknown request: {error}"))?
        .message;
    request.check()?;
    Ok(request)
}

/// Understands an answer.
///
/// # Errors
/// The version that the other side speaks, if it is another one, and what is wrong.
pub(super) fn understand_answer(
    bytes: &[u8],
) -> Result<Response, (Option<u32>, serde_json::Error)> {
    serde_json::from_slice::<Versioned<Response>>(bytes)
        .map(|answer| answer.message)
        .map_err(|error| {
            let spoken = serde_json::from_slice(bytes).map(|VersionOnly { version }| version);
            (
                spoken.ok().filter(|spoken| *spoken != PROTOCOL_VERSION),
                error,
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        understand(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_request_reads_as_documented() {
        let text = serde_json::to_string(&Versioned::new(Request::Status)).unwrap();
        assert_eq!(text, r#"{"version":1,"request":"status"}"#);
        assert_eq!(understand(text.as_bytes()), Ok(Request::Status));
    }

    #[test]
    fn a_request_may_have_keys_that_this_version_does_not_know() {
        let text = r#"{"version":1,"request":"status","later":true}"#;
        assert_eq!(understand(text.as_bytes()), Ok(Request::Status));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_a_reason() {
        assert!(refusal(r#"{"version":2,"request":"status"}"#).contains("version 2"));
        assert!(refusal(r#"{"version":1,"request":"explode"}"#).contains("unknown request"));
        assert!(refusal("[]").contains("not a request"));
        assert!(refusal("").contains("not a request"));
    }

    #[test]
    fn a_response_names_itself_before_its_body() {
        let text = serde_json::to_string(&Versioned::new(Response::Error("no".into()))).unwrap();
        assert_eq!(text, r#"{"version":1,"response":"error","body":"no"}"#);
    }

    #[test]
    fn answers_of_other_versions_are_told_from_broken_ones() {
        let version = |text: &str| understand_answer(text.as_bytes()).map_err(|(found, _)| found);
        let told = Response::Error("no".into());
        assert_eq!(
            version(r#"{"version":2,"response":"error","body":"no"}"#),
            Ok(told),
            "what can be understood is"
        );
        assert_eq!(version(r#"{"version":2,"response":"sung"}"#), Err(Some(2)));
        assert_eq!(version(r#"{"version":1,"response":"sung"}"#), Err(None));
        assert_eq!(version("{"), Err(None));
    }

    #[test]
    fn keys_that_came_later_have_defaults() {
        let text = r#"{"version":1,"request":"freeze","to":"/x","drain_seconds":1.5}"#;
        let freeze = Freeze {
            to: "/x".into(),
            drain_seconds: 1.5,
            budget_bytes: None,
        };
        assert_eq!(understand(text.as_bytes()), Ok(Request::Freeze(freeze)));
    }

    #[test]
    fn values_out_of_range_are_refused_with_a_reason() {
        let freeze = |to: &str, drain: &str| {
            refusal(&format!(
                r#"{{"version":1,"request":"freeze","to":"{to}","drain_seconds":{drain}}}"#
            ))
        };
        assert!(freeze("x/y", "1").contains("absolute"));
        assert!(freeze("", "1").contains("absolute"));
        assert!(freeze(&format!("/{}", "x".repeat(5000)), "1").contains("longer than"));
        assert!(freeze("/a\\u0000b", "1").contains("zero byte"));
        for drain in ["-1", "1e10"] {
            assert!(freeze("/x", drain).contains("drain_seconds"), "{drain}");
        }
        for drain in ["1e999", "null", "NaN", "\"1\""] {
            freeze("/x", drain);
        }
        let discard = |address: u64, bytes: u64| {
            refusal(&format!(
                r#"{{"version":1,"request":"discard","address":{address},"bytes":{bytes},"discard":true}}"#
            ))
        };
        assert!(discard(4096, 0).contains("no bytes"));
        assert!(discard(u64::MAX, 2).contains("address space"));
    }
}
