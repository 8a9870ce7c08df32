//! `yi worker`: memory and processors for a model that no single machine holds.

use clap::Args;

use super::args::threads;
use super::compute::resolve_threads;
use super::note;
use crate::error::Error;
use crate::llama::{self, Endpoint};

/// Arguments of `yi worker`.
#[derive(Debug, Args)]
#[command(
    after_help = "On the machine that has the file: yi run -m FILE --rpc HOST:PORT,HOST:PORT …\n\n\
    The protocol has no password and no encryption, and a worker trusts what it is sent. Keep it on loopback and \
    reach it through a tunnel that has both: WireGuard, or stunnel with client certificates (docs/scaling.md)."
)]
pub struct WorkerArgs {
    /// The address to listen on
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50052")]
    listen: Endpoint,
    /// Threads [default: the fast physical cores, within the container's quota and the affinity mask]
    #[arg(short, long, value_name = "N", value_parser = threads)]
    threads: Option<usize>,
    /// Let everybody who reaches the address use this machine
    #[arg(long)]
    insecure_network: bool,
}

/// Works until it is ended.
pub fn run(args: &WorkerArgs) -> Result<(), Error> {
    if !args.listen.is_local() {
        if !args.insecure_network {
            return Err(Error::Usage {
                message: format!(
                    "{} can be reached from other machines, and a worker trusts everybody",
                    args.listen
                ),
                hint: "listen on 127.0.0.1 behind WireGuard or stunnel, or say --insecure-network where the network is your own",
            });
        }
        note(
            "warning: whoever reaches this worker can read what it computes, and run what they like",
        );
    }
    let backend = llama::backend()?;
    let n_threads = resolve_threads(args.threads);
    note(format_args!(
        "works for whoever connects to {}",
        args.listen
    ));
    Ok(llama::work(backend, &args.listen, n_threads)?)
}
