//! `yi serve`: the server's flags, and what they mean.

mod named;
mod source;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use yi_quantize::memory;
use yi_quantize::request::byte_size;

use super::args::{LoadArgs, SharedArgs, count};
use super::note;
use super::settings::ModelTable;
use super::setup::Shared;
use crate::error::{Error, gib};
use crate::server::Server;
use crate::server::fleet::{FleetSettings, Limits};
use crate::server::settings::{Address, AuditSettings, Bounds, Settings, Sync, TlsFiles};

/// Arguments of `yi serve`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Each flag has a twin in the environment: YI_PORT=8080 is --port 8080. A TOML file gives the rest, \
    with the flags' names: port = 8080. In it, a table [models.NAME] has flags of one model: model = its file, \
    ctx-size = 16384."
)]
pub struct ServeArgs {
    /// A model: a GGUF file (of a split model the first part), or a name in the folder of models. Clients call it
    /// by the file's name, or by NAME. May be repeated; the first one answers who names none
    #[arg(short, long, value_name = "[NAME=]FILE")]
    model: Vec<PathBuf>,
    /// Serve all models in this folder, each by its name there [default: YI_MODELS, where there is no -m]
    #[arg(long, value_name = "DIR")]
    models_dir: Option<PathBuf>,
    #[command(flatten)]
    served: ServedArgs,
    #[command(flatten)]
    shared: SharedArgs,
    #[command(flatten)]
    fleet: FleetArgs,
    /// A TOML file with flags
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print what all flags are, as a TOML file, and end
    #[arg(long)]
    pub print_config: bool,
    /// The address to listen on: a name, an IP address, or unix:PATH
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 = any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// The model's name for clients, where there is one model [default: the file's]
    #[arg(short, long, value_name = "NAME")]
    alias: Option<String>,
    /// Leave out the chat page at `/`
    #[arg(long)]
    no_page: bool,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    audit: AuditArgs,
    #[command(flatten)]
    bounds: BoundsArgs,
}

/// How a model is served. Each model may have its own, in a table of the TOML file.
#[derive(Debug, Clone, Args)]
pub struct ServedArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Requests that run at once, also written -np; they share the context
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count)]
    parallel: u32,
    /// Memory for conversations that others push out of the context, so that they need not be computed again; 0 = none
    /// [default: as much as the context itself takes, and half of what is left at most; with several models 0]
    #[arg(long, value_name = "SIZE", value_parser = size_or_none)]
    cache_ram: Option<u64>,
    /// Answer /v1/embeddings, too, which takes memory of its own
    #[arg(long, visible_alias = "embedding")]
    embeddings: bool,
    /// A known template in place of the file's own
    #[arg(long, value_name = "NAME", value_parser = ["chatml"])]
    chat_template: Option<String>,
    /// A Jinja template in place of the file's own
    #[arg(long, value_name = "FILE", conflicts_with = "chat_template")]
    chat_template_file: Option<PathBuf>,
    /// Load it at start, and not at its first request; a single model always is
    #[arg(long)]
    preload: bool,
}

/// How many models are loaded, and for how long.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Several models")]
struct FleetArgs {
    /// Memory for models, weights and contexts, as in 24GiB; past it, the least recently used one leaves
    /// [default: what is available when the server starts]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_budget: Option<u64>,
    /// Models in memory at once [default: as many as fit]
    #[arg(long, value_name = "N", value_parser = count)]
    models_max: Option<u32>,
    /// A model that nobody has used for so many seconds leaves the memory [default: it stays]
    #[arg(long, value_name = "S", value_parser = seconds)]
    unload_after: Option<Duration>,
}

/// Who may come in, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
struct AccessArgs {
    /// The file of API keys, see `yi keys`; without it, no key is asked for
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// The server's certificate, PEM, with those that lead to its root
    #[arg(
        long,
        visible_alias = "ssl-cert-file",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(
        long,
        visible_alias = "ssl-key-file",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// Clients must have a certificate that one of these signed, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// A web page's origin that may ask from a browser, as in https://example.com; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Let everybody who reaches the address ask, from other machines, too
    #[arg(long)]
    insecure_no_keys: bool,
    /// Let keys and texts cross the network unencrypted, for instance behind a proxy that speaks TLS
    #[arg(long)]
    insecure_plain_http: bool,
}

/// What is written down.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Audit")]
struct AuditArgs {
    /// Write an audit log to this file: who, when, which model, how much; never the text
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// When records are forced to the disk: `always` or a number of seconds
    #[arg(long, value_name = "WHEN", default_value = "1", value_parser = sync)]
    audit_fsync: Sync,
    /// A new file is begun after so many bytes
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = size)]
    audit_rotate: u64,
    /// Write salted digests of prompts and answers, too
    #[arg(long)]
    audit_digests: bool,
}

/// How much of everything.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
struct BoundsArgs {
    /// Requests that may wait for their turn; one more is answered with 429
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    queue: u32,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = count)]
    max_connections: u32,
    /// The largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = size)]
    max_body: u64,
    /// A request's head must be there after so many seconds
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    header_timeout: Duration,
    /// A request's body must be there after so many seconds
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    body_timeout: Duration,
    /// A client that takes nothing for so many seconds, or under 1 KiB/s for longer, is dropped
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    write_timeout: Duration,
    /// A request waits no longer for its turn, in seconds
    #[arg(long, value_name = "S", default_value = "300", value_parser = seconds)]
    queue_timeout: Duration,
    /// After SIGTERM, requests have so many seconds to end
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    drain_timeout: Duration,
}

fn size(text: &str) -> Result<u64, String> {
    byte_size(text).map_err(|error| error.to_string())
}

fn size_or_none(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { size(text) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    seconds
        .filter(|s| (0.0..=1e9).contains(s))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "it must be a number of seconds".to_owned())
}

fn sync(text: &str) -> Result<Sync, String> {
    match text {
        "always" => Ok(Sync::Always),
        other => seconds(other)
            .map(Sync::Every)
            .map_err(|_| "it must be `always` or a number of seconds".to_owned()),
    }
}

impl ServeArgs {
    fn settings(&self) -> Settings {
        let ServeArgs {
            access,
            audit,
            bounds,
            ..
        } = self;
        let address = match self.host.strip_prefix("unix:") {
            Some(path) => Address::Unix(path.into()),
            None => Address::Tcp(self.host.clone(), self.port),
        };
        let tls = match (&access.tls_cert, &access.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: access.tls_client_ca.clone(),
            }),
            _ => None,
        };
        Settings {
            address,
            keys: access.keys.clone(),
            insecure_no_keys: access.insecure_no_keys,
            insecure_plain_http: access.insecure_plain_http,
            tls,
            cors_origins: access.cors_origin.clone(),
            audit: audit.audit_log.clone().map(|path| AuditSettings {
                path,
                sync: audit.audit_fsync,
                rotate_bytes: audit.audit_rotate,
                digests: audit.audit_digests,
            }),
            has_page: !self.no_page,
            n_queue: bounds.queue as usize,
            bounds: Bounds {
                n_connections: bounds.max_connections as usize,
                body_bytes: usize::try_from(bounds.max_body).unwrap_or(usize::MAX),
                header_time: bounds.header_timeout,
                body_time: bounds.body_timeout,
                write_time: bounds.write_timeout,
                queue_time: bounds.queue_timeout,
                drain_time: bounds.drain_timeout,
            },
        }
    }

    fn fleet(&self) -> FleetSettings {
        let FleetArgs {
            memory_budget,
            models_max,
            unload_after,
        } = &self.fleet;
        FleetSettings {
            limits: Limits {
                bytes: memory_budget.or_else(memory::available_bytes),
                n_models: models_max.map(|n| n as usize),
            },
            is_strict: memory_budget.is_some(),
            unload_after: *unload_after,
        }
    }
}

/// Serves until a signal ends it.
pub fn run(args: &ServeArgs, tables: &[ModelTable]) -> Result<(), Error> {
    let models = named::all(args, tables)?;
    let shared = Shared::new(&args.shared)?;
    let wants_hash = args.audit.audit_log.is_some();
    let is_single = models.len() == 1;
    let mut offers = Vec::with_capacity(models.len());
    for model in models {
        let is_named = model.is_named;
        let offer = source::offer(
            model,
            &shared,
            is_single,
            wants_hash,
            args.fleet.memory_budget,
        );
        // What is wrong with a file that was named is told before the server starts. In a folder there may be
        // others.
        if is_named {
            offer.source.open()?;
        }
        offers.push(offer);
    }
    let n_models = offers.len();
    let fleet = args.fleet();
    let server = Server::bind(args.settings(), fleet, offers)?;
    if n_models > 1 {
        let memory = match fleet.limits.bytes {
            Some(bytes) => format!("in {} of memory", gib(bytes)),
            // Then nobody would ever leave.
            None => {
                "and no limit of memory is known here: give one with --memory-budget".to_owned()
            }
        };
        note(format_args!("{n_models} models, {memory}"));
    }
    note(format_args!("listening on {}", server.url()?));
    server.run()
}
