//! The command line of `yi-quantize`: parsed here, carried out by the library.

mod args;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

pub use args::Args;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::convert::convert;
use crate::error::{Error, for_terminal};
use crate::imatrix::Imatrix;
use crate::input::Input;
use crate::kernels::Isa;
use crate::output::Target;
use crate::pipeline::Workers;
use crate::plan::Plan;
use crate::progress::Display;
use crate::recipe::Sizing;
use crate::report::{Summary, plan_json, plan_table};
use crate::threads;

/// Carries out a parsed command line.
pub fn run(args: &Args) -> Result<(), Error> {
    let started = Instant::now();
    let mut request = args.request()?;
    // Where the output cannot be, the checkpoint need not be looked at.
    let target = match args.dry_run {
        true => None,
        false => {
            let target = Target::new(&args.output, args.force, &args.input)?.reading(args.files());
            Some(match args.resume {
                true => target.resuming(),
                false => target,
            })
        }
    };
    let input = Input::open(&args.input)?;
    let imatrix = args.imatrix().map(|path| Imatrix::open(path)).transpose()?;
    let cancelled = Arc::new(AtomicBool::new(false));
    // Without a handler the process would still end, but leave its temporary file behind.
    for signal in [SIGINT, SIGTERM] {
        let _ = signal_hook::flag::register(signal, Arc::clone(&cancelled));
    }
    // With a handler, a file that passes the user's limit (`ulimit -f`) is an error and not the end.
    #[cfg(unix)]
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    let workers = Workers {
        n_threads: args
            .threads
            .map_or_else(threads::default_threads, usize::from),
        isa: args.isa.unwrap_or_else(Isa::detect),
    };
    let mut prediction = None;
    if let Some(budget) = args.budget()? {
        let sizing = Sizing {
            input: &input,
            request: &request,
            imatrix: imatrix.as_ref(),
        };
        let (recipe, predicted) = sizing.for_budget(budget, workers, &cancelled)?;
        if let Some(path) = args.save_recipe() {
            recipe.save(path)?;
        }
        request = recipe.applied_to(&request);
        prediction = Some(predicted);
    }
    let plan = (workers.pool()?).install(|| Plan::new(&input, &request, imatrix.as_ref()))?;
    for warning in &plan.warnings {
        warn(warning);
    }
    let Some(target) = target else {
        let text = if args.json {
            plan_json(&plan, prediction.as_ref()).to_string()
        } else {
            plan_table(&plan, prediction.as_ref())
        };
        return print(&text);
    };
    if let Some(prediction) = &prediction {
        // Nobody may be listening.
        let _ = writeln!(std::io::stderr(), "{}", prediction.describe(&plan));
    }

    // Of several files the first one stands for all, as it does for llama.cpp.
    let output = match plan.parts.len() {
        1 => args.output.clone(),
        n => args
            .output
            .with_file_name(target.part_names(n).swap_remove(0)),
    };
    let display = Display::new(&plan);
    let result = convert(&input, &plan, target, workers, &display, &cancelled);
    display.finish();
    result?;

    let n_threads = workers.n_threads;
    let summary = Summary::new(&output, &input, &plan, n_threads, started.elapsed());
    print(&if args.json {
        summary.json().to_string()
    } else {
        summary.to_string()
    })
}

/// What `--version` prints; with `detail` also what the program found on this machine.
pub fn print_version(detail: bool) -> Result<(), Error> {
    let mut text = concat!("yi-quantize ", env!("CARGO_PKG_VERSION")).to_owned();
    if detail {
        let available: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
        text += &format!(
            "\ninstructions {} (of {})",
            Isa::detect(),
            available.join(", ")
        );
        text += &format!("\nthreads      {}", threads::default_threads());
    }
    print(&text)
}

fn warn(text: &str) {
    // Names in it are somebody else's text, and nobody may be listening.
    let _ = writeln!(std::io::stderr(), "warning: {}", for_terminal(text));
}

fn print(text: &str) -> Result<(), Error> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        // Whoever closed the pipe has read enough.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::Stdout { source: e }),
        _ => Ok(()),
    }
}
