//! What is asked and answered.

use super::{
    Discard, Freeze, FreezeReport, Prepare, PrepareReport, ProcessReport, Progress, Thaw,
    ThawReport,
};
use serde::{Deserialize, Serialize};

/// Version of the messages. A process answers another version with an error
/// that names both.
pub const PROTOCOL_VERSION: u32 = 1;

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
    /// To let memory go that need not survive a freeze.
    Discard(Discard),
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
    /// To [`Request::Freeze`]: the memory is gone, the snapshot whole.
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
pub(super) fn understand(bytes: &[u8]) -> Result<Request, Response> {
    let refuse = Response::Error;
    let VersionOnly { version } =
        serde_json::from_slice(bytes).map_err(|error| refuse(format!("not a request: {error}")))?;
    if version != PROTOCOL_VERSION {
        return Err(refuse(format!(
            "the request speaks version {version} of the protocol, this process version {PROTOCOL_VERSION}"
        )));
    }
    serde_json::from_slice::<Versioned<Request>>(bytes)
        .map(|request| request.message)
        .map_err(|error| refuse(format!("unknown request: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        match understand(text.as_bytes()) {
            Err(Response::Error(message)) => message,
            other => panic!("{other:?}"),
        }
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
}
