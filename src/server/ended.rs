//! Why a connection ended, as a close code for the client and as a line for the operator.

use std::fmt;
use std::time::Duration;

use tokio_websockets::{CloseCode, Error};

use crate::protocol::close::{self, Fault};

/// Why a connection ended.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Ended {
    /// The client said goodbye, with this code.
    Left(CloseCode),
    /// The connection ended without a goodbye.
    Lost,
    /// The client sent what the protocol or this chat does not allow, or may not be here any more.
    Fault(Fault),
    /// The client took nothing for so long.
    Stuck(Duration),
    /// The client did not answer a ping within the limit.
    Silent(Duration),
    /// A newer connection has the session of this one.
    Replaced,
    /// What was said in its room is another past than the one it knows.
    Renewed,
    /// The server is shutting down.
    Stopped,
}

impl Ended {
    /// The close code to say goodbye with (RFC 6455 7.4.1) and the reason in words. `None` when
    /// the other end takes nothing any more.
    #[must_use]
    pub fn goodbye(&self) -> Option<(CloseCode, &str)> {
        match self {
            Self::Left(code) => Some((*code, "")),
            Self::Fault((code, reason)) => Some((*code, reason)),
            Self::Silent(_) => Some((CloseCode::POLICY_VIOLATION, "no answer to a ping")),
            Self::Replaced => Some((
                CloseCode::POLICY_VIOLATION,
                "replaced by a newer connection",
            )),
            Self::Renewed => Some((
                CloseCode::SERVICE_RESTART,
                "what was said before is gone: come back",
            )),
            Self::Stopped => Some((CloseCode::GOING_AWAY, "server shutting down")),
            Self::Lost | Self::Stuck(_) => None,
        }
    }

    /// Whether the operator should hear of it.
    #[must_use]
    pub fn concerns_operator(&self) -> bool {
        matches!(self, Self::Fault(_) | Self::Stuck(_) | Self::Silent(_))
    }
}

/// What an error of the WebSocket library means.
impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        close::fault(&error).map_or(Self::Lost, Self::Fault)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left(_) => write!(f, "left"),
            Self::Lost => write!(f, "was lost"),
            Self::Fault((code, reason)) => {
                write!(f, "was closed: {reason} ({})", u16::from(*code))
            }
            Self::Stuck(limit) => write!(f, "was cut off: it took nothing for {limit:?}"),
            Self::Silent(limit) => write!(f, "was cut off: silent for {limit:?}"),
            Self::Replaced => write!(f, "was replaced by a newer connection"),
            Self::Renewed => write!(f, "was told that what was said before is gone"),
            Self::Stopped => write!(f, "was told that the server is shutting down"),
        }
    }
}
