//! Who may come in: the tokens of a file, and the names that belong to some of them.
//!
//! A token with a name *is* that name: its bearer has it in every room, and nobody else can have it,
//! or one that looks like it, in any. The file is read again when it changes, and whoever could not
//! come in any more in the same way is closed.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Arguments;
use std::future::pending;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::StatusCode;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use tokio::sync::watch;
use tokio_websockets::CloseCode;

use crate::os::cannot_start;
use crate::protocol::close::Fault;
use crate::protocol::token::{self, Token};
use crate::server::files;
use crate::server::handshake::{Refusal, refuse};
use crate::server::limits::Limits;
use crate::server::name::{self, Name, Names};

const NO_TOKEN: Refusal = refuse(StatusCode::UNAUTHORIZED, "a valid token is needed here");

/// What to close with when a token is gone (RFC 6455 7.4.1).
const REVOKED: Fault = (
    CloseCode::POLICY_VIOLATION,
    Cow::Borrowed("your token is not valid any more"),
);

/// … and when it does not give the name any more that its bearer has.
const RENAMED: Fault = (
    CloseCode::POLICY_VIOLATION,
    Cow::Borrowed("the names of the tokens were changed, and yours with them"),
);

/// The tokens that are in force.
#[derive(Debug)]
pub struct Tokens {
    known: Vec<Known>,
    /// All names that belong to a token.
    names: Names,
}

#[derive(Debug)]
struct Known {
    token: Token,
    name: Option<Name>,
}

impl Tokens {
    /// The tokens of a file, of which there may be `limits.tokens`.
    ///
    /// # Errors
    ///
    /// What is wrong with the file, without anything that stands in it.
    pub fn parse(file: &[u8], limits: &Limits) -> Result<Self, String> {
        let entries = token::entries(file)?;
        if entries.is_empty() {
            return Err(token::NONE.to_owned());
        }
        if entries.len() > limits.tokens {
            let (count, most) = (entries.len(), limits.tokens);
            return Err(format!(
                "there are {count} tokens in it, and at most {most} can be"
            ));
        }
        let (mut known, mut names, mut seen) = (Vec::new(), Names::default(), HashSet::new());
        for entry in entries {
            let wrong = |why| format!("the name in line {} is wrong: {why}", entry.line);
            let name = match entry.name {
                None => None,
                Some(text) => Some(Name::new(text).ok_or_else(|| wrong(name::RULE))?),
            };
            // A person may have several tokens, one for each device.
            if let (Some(name), Some(text)) = (&name, entry.name)
                && seen.insert(text)
            {
                if !names.is_free(name, None) {
                    return Err(wrong("it looks like another one"));
                }
                names.take(name, 0);
            }
            let token = entry.token;
            known.push(Known { token, name });
        }
        Ok(Self { known, names })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// Finds a token. All are compared, to the end, and what is the same about them makes no
    /// difference to the time: only their lengths do, which are no secret.
    fn find(&self, shown: &Token) -> Option<&Known> {
        let mut found = u32::MAX;
        for (n, known) in (0..).zip(&self.known) {
            let same = known
                .token
                .secret()
                .as_bytes()
                .ct_eq(shown.secret().as_bytes());
            found.conditional_assign(&n, same);
        }
        self.known.get(usize::try_from(found).ok()?)
    }

    /// The name under which the bearer of this token comes in who asks for that name, or for none.
    fn name(&self, shown: &Token, wished: Option<&Name>) -> Result<Option<Name>, Refusal> {
        let known = self.find(shown).ok_or(NO_TOKEN)?;
        match (&known.name, wished) {
            (Some(own), Some(other)) if !own.resembles(other) => Err(forbid(format!(
                "this token is for the name {}, and for no other",
                own.text()
            ))),
            (Some(own), _) => Ok(Some(own.clone())),
            (None, Some(name)) if !self.names.is_free(name, None) => Err(forbid(format!(
                "the name {} belongs to a token, or looks like one that does",
                name.text()
            ))),
            (None, name) => Ok(name.cloned()),
        }
    }
}

fn forbid(why: String) -> Refusal {
    Refusal::Answered(StatusCode::FORBIDDEN, why.into())
}

/// The tokens of a file, or one line that says why it cannot be used.
fn usable(path: &Path, file: &[u8], limits: &Limits) -> Result<Arc<Tokens>, String> {
    let tokens = Tokens::parse(file, limits);
    tokens.map(Arc::new).map_err(|why| token::wrong(path, &why))
}

/// Judges those who want to come in.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// `None` when everybody may come in.
    tokens: Option<watch::Receiver<Arc<Tokens>>>,
}

impl Access {
    /// Lets in who has one of these tokens, whatever they are at the time.
    #[must_use]
    pub fn by(tokens: watch::Receiver<Arc<Tokens>>) -> Self {
        let tokens = Some(tokens);
        Self { tokens }
    }

    /// Lets in who has one of the tokens of this file, or everybody if there is none. The file is
    /// read again when it changes, and `tell` says so in one line; when it cannot be used then, that
    /// is said too, and the tokens from before stay in force.
    ///
    /// # Errors
    ///
    /// One line that names the file and says why it cannot be used and what to do.
    pub fn open(
        file: Option<&Path>,
        limits: &Limits,
        tell: impl Fn(Arguments<'_>) + Send + 'static,
    ) -> Result<Self, String> {
        let Some(path) = file.map(Path::to_owned) else {
            return Ok(Self::default());
        };
        let first = token::read(&path)?;
        let (in_force, tokens) = watch::channel(usable(&path, &first, limits)?);
        let (name, limits) = (path.clone(), limits.clone());
        let read = move || token::read(&path);
        let followed = files::follow(limits.look, first, read, move |file| {
            let file = file.map_err(str::to_owned);
            match file.and_then(|file| usable(&name, file, &limits)) {
                Ok(tokens) => {
                    let (count, name) = (tokens.count(), name.display());
                    in_force.send_replace(tokens);
                    tell(format_args!(
                        "{name} was read again, tokens in force now: {count}"
                    ));
                }
                Err(why) => tell(format_args!("{why} (the tokens from before stay in force)")),
            }
        });
        followed.map_err(cannot_start)?;
        Ok(Self::by(tokens))
    }

    /// Whether a token is needed.
    #[must_use]
    pub fn needs_token(&self) -> bool {
        self.tokens.is_some()
    }

    /// Lets in who has a token, or everybody if none is needed.
    ///
    /// # Errors
    ///
    /// 401: the token is missing, or is not one of those in force.
    pub fn admit(&self, shown: Option<Token>) -> Result<Pass, Refusal> {
        let Some(tokens) = &self.tokens else {
            return Ok(Pass::default());
        };
        let mut tokens = tokens.clone();
        let token = shown.ok_or(NO_TOKEN)?;
        // Marked as seen, so that the next change is one.
        tokens.borrow_and_update().find(&token).ok_or(NO_TOKEN)?;
        let bearer = Bearer {
            tokens,
            token,
            wished: None,
            name: None,
        };
        Ok(Pass(Some(Box::new(bearer))))
    }
}

/// What somebody has who was let in. The default is what everybody has when no token is needed.
#[derive(Debug, Default)]
pub struct Pass(Option<Box<Bearer>>);

#[derive(Debug)]
struct Bearer {
    tokens: watch::Receiver<Arc<Tokens>>,
    token: Token,
    /// The name that it asked for, if it did, …
    wished: Option<Name>,
    /// … and the one that it got.
    name: Option<Name>,
}

impl Pass {
    /// The name under which it comes in that asks for this one, or for none.
    ///
    /// # Errors
    ///
    /// 403: its token has another name, or the name belongs to another token.
    pub fn name(&mut self, wished: Option<Name>) -> Result<Option<Name>, Refusal> {
        let Some(bearer) = &mut self.0 else {
            return Ok(wished);
        };
        let tokens = bearer.tokens.borrow();
        bearer.name = tokens.name(&bearer.token, wished.as_ref())?;
        bearer.wished = wished;
        Ok(bearer.name.clone())
    }

    /// Waits until it could not come in any more as it did, and returns what to close with: its
    /// token is gone or has another name, or its name is another token's now.
    pub async fn revoked(&mut self) -> Fault {
        match &mut self.0 {
            // Boxed, since the others should not keep room for it.
            Some(bearer) => Box::pin(bearer.revoked()).await,
            None => pending().await,
        }
    }
}

impl Bearer {
    async fn revoked(&mut self) -> Fault {
        while self.tokens.changed().await.is_ok() {
            let tokens = self.tokens.borrow_and_update();
            let name = tokens.name(&self.token, self.wished.as_ref());
            if name == Err(NO_TOKEN) {
                return REVOKED;
            }
            if name.as_ref() != Ok(&self.name) {
                return RENAMED;
            }
        }
        pending().await
    }
}

/// What it means that others can reach this address, in one line; `None` when only this machine
/// can, or when they need a token and what they say is encrypted.
#[must_use]
pub fn exposure(address: SocketAddr, tls: bool, tokens: bool) -> Option<String> {
    const JOIN: &str = "whoever can reach it can join (--token-file lets in whom you choose)";
    const READ: &str = "whoever sees the network can read along (--tls-cert encrypts)";
    if address.ip().to_canonical().is_loopback() {
        return None;
    }
    let what = match (tokens, tls) {
        (true, true) => return None,
        (false, true) => JOIN.to_owned(),
        (true, false) => format!("{READ}, and so get the tokens"),
        (false, false) => format!("{JOIN}, and {READ}"),
    };
    let port = address.port();
    Some(format!("port {port} is open to other machines: {what}"))
}
