//! The way to a running gateway: its admin port.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use tutti_api::{Address, InvalidAddress};

use crate::{Source, config, local};

/// Which gateway a command asks.
#[derive(Args, Clone, Debug)]
pub(crate) struct Admin {
    #[command(flatten)]
    pub(crate) source: Source,
    /// The gateway's admin address, as http://HOST:PORT; else the configuration's
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// The file with the admin token; else the configuration's
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// What a gateway answered.
pub(crate) struct Answer {
    /// Where it was asked.
    pub(crate) admin: String,
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Admin {
    /// Asks the gateway; an error is that none answers.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Result<Answer> {
        let (admin, file) = self.whom()?;
        let address = address(&admin)?;
        let token = std::fs::read_to_string(&file).with_context(|| cannot_read(&file))?;
        let answer = local::ask(&address, method, path, Some(token.trim())).map_err(|error| {
            anyhow!(
                "no gateway answers at {admin} ({error}): is it running, and is this its admin address? One that was \
                 changed is taken at the next start"
            )
        })?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("the answer is no HTTP")?;
        Ok(Answer { admin, status, body: body.to_owned() })
    }

    /// Where to ask, and where the token is. The configuration is read only for what no argument says.
    fn whom(&self) -> Result<(String, PathBuf)> {
        if let (Some(admin), Some(file)) = (&self.admin, &self.token_file) {
            return Ok((admin.clone(), file.clone()));
        }
        let gateway = config::gateway_part(&self.source)?;
        let file = self.token_file.clone().map_or_else(|| config::token_file(&gateway), Ok)?;
        Ok((self.admin.clone().unwrap_or(gateway.admin.listen), file))
    }
}

/// What is said to whom has no token: mostly no gateway has run yet, or it runs as another user.
fn cannot_read(token: &Path) -> String {
    let token = token.display();
    format!(
        "cannot read the admin token in {token}; a gateway makes it at its first start, in the state folder of the user \
         that it runs as: start one, or name its file with --token-file FILE"
    )
}

/// The address in an URL, or one that stands for itself.
fn address(url: &str) -> Result<Address> {
    let address = url.strip_prefix("http://").unwrap_or(url);
    let parsed = address.strip_suffix('/').unwrap_or(address).parse();
    parsed.map_err(|error: InvalidAddress| anyhow!("the admin address is none ({error}): write http://host:port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_needs_no_scheme_and_takes_only_http() {
        for url in ["127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:1/"] {
            assert_eq!(address(url).unwrap().to_string(), "127.0.0.1:1");
        }
        for wrong in ["https://h:1", "http://h:1/path", "u:p@h:1", "h"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
