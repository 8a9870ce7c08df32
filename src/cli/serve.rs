//! `yi serve`: the server's flags, and what they mean.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;
use yi_quantize::request::byte_size;

use super::args::{ModelArgs, count};
use super::{input, note, setup};
use crate::engine::EngineParams;
use crate::engine::template::CHATML;
use crate::error::{Error, gib};
use crate::model::loaded::EmbedParams;
use crate::model::{DEFAULT_N_CTX, ModelFile};
use crate::server::settings::{Address, AuditSettings, Bounds, Settings, Sync, TlsFiles};
use crate::server::{CallFormat, Served, Server};

/// Arguments of `yi serve`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Each flag has a twin in the environment: YI_PORT=8080 is --port 8080. A TOML file gives the rest, \
    with the flags' names: port = 8080."
)]
pub struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
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
    /// Requests that run at once, also written -np; they share the context
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = count)]
    parallel: u32,
    /// Answer /v1/embeddings, too, which takes memory of its own
    #[arg(long, visible_alias = "embedding")]
    embeddings: bool,
    /// The model's name for clients [default: the file's]
    #[arg(short, long, value_name = "NAME")]
    alias: Option<String>,
    /// A known template in place of the file's own
    #[arg(long, value_name = "NAME", value_parser = ["chatml"])]
    chat_template: Option<String>,
    /// A Jinja template in place of the file's own
    #[arg(long, value_name = "FILE", conflicts_with = "chat_template")]
    chat_template_file: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    audit: AuditArgs,
    #[command(flatten)]
    bounds: BoundsArgs,
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
    /// A client that takes nothing for so many seconds is dropped
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
            alias: self.alias.clone(),
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

    /// Tokens of the whole context: as asked for, or the default length for each request at once.
    fn n_ctx(&self, file: &ModelFile) -> u32 {
        match self.model.ctx_size {
            None => {
                let each = DEFAULT_N_CTX.min(file.n_ctx_train()).max(1);
                each.saturating_mul(self.parallel)
            }
            asked => file.resolve_n_ctx(asked),
        }
    }
}

/// Serves until a signal ends it.
pub fn run(args: ServeArgs) -> Result<(), Error> {
    let file = setup::open(&args.model)?;
    // What is wrong with the settings is told before the model is loaded.
    let instead = match (&args.chat_template, &args.chat_template_file) {
        (Some(_), _) => Some(CHATML.to_owned()),
        (None, Some(path)) => Some(input::read_text(path)?),
        (None, None) => None,
    };
    file.sampling()?.check()?;
    let server = Server::bind(args.settings(), args.parallel as usize)?;
    note(format_args!("listening on {}", server.url()?));
    let wants_hash = server.wants_hash();
    let stop = Arc::new(AtomicBool::new(false));
    let engine_stop = Arc::clone(&stop);
    server.run(
        move || load(&args, file, instead, wants_hash, engine_stop),
        &stop,
    )
}

fn load(
    args: &ServeArgs,
    file: ModelFile,
    instead: Option<String>,
    wants_hash: bool,
    stop: Arc<AtomicBool>,
) -> Result<Served, Error> {
    let sha256 = wants_hash.then(|| file.sha256()).transpose()?;
    let n_ctx = args.n_ctx(&file);
    let (model, context) = setup::load(&args.model, file, n_ctx, args.parallel)?;
    // Everybody who may wait for a slot waits in the server's own queue.
    let params = EngineParams {
        n_queue: args.parallel as usize,
        ..EngineParams::default()
    };
    let engine = model.engine(&context, &params, stop)?;
    let embedder = if args.embeddings {
        let params = EmbedParams {
            n_threads: context.n_threads_batch,
            ..model.embed_params()
        };
        Some(Mutex::new(model.embedder(&params, Arc::default())?))
    } else {
        None
    };
    let n_ctx_train = model.loaded().n_ctx_train();
    let n_parallel = args.parallel as usize;
    let share = engine.n_ctx() / n_parallel;
    let file = model.file();
    let template_source = match instead {
        Some(source) => Some(source),
        None => file
            .metadata()
            .str("tokenizer.chat_template")?
            .map(str::to_owned),
    };
    let id = args.alias.clone().unwrap_or_else(|| {
        let stem = file.path().file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    });
    note(format_args!(
        "{id}: {} of weights, {} requests at once, a context of {} tokens",
        gib(model.loaded().n_bytes()),
        n_parallel,
        engine.n_ctx()
    ));
    Ok(Served {
        id,
        created: std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        template: model
            .chat_template(template_source.as_deref())
            .map_err(|error| error.to_string()),
        calls: template_source.as_deref().and_then(CallFormat::of_template),
        template_source,
        embedder,
        sampling: file.sampling()?,
        n_parallel,
        // One request may have more than its share, but no more than the model was trained for.
        n_ctx: engine.n_ctx().min(n_ctx_train.max(share)),
        n_ctx_train,
        n_params: model.loaded().n_params(),
        n_bytes: model.loaded().n_bytes(),
        sha256,
        engine,
    })
}
