//! The measurements: one setting after another, each with the best of those before.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use regex::Regex;
use yi_gguf::{DType, Gguf};
use yi_quantize::threads::Processors;

use super::goal::{Goal, Speed};
use super::{Profile, Settings, batch_costs};
use crate::bench::{Test, batch_times};
use crate::engine::{BatchCosts, EngineError};
use crate::error::{Error, Kind};
use crate::llama::{
    self, CacheType, Context, ContextParams, DecodeError, FlashAttention, GpuLayers, Kernels,
    LoadParams, MAX_THREADS, Model,
};
use crate::model::ModelFile;
use crate::repack::{RepackChoice, repackable};

/// One measured setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The setting, as on the command line: `-t 4`.
    pub setting: String,
    /// Tokens a second of a prompt, where that was measured.
    pub prefill: Option<f64>,
    /// Tokens a second of an answer, where that was measured.
    pub decode: Option<f64>,
}

/// A measurement takes about so long, in seconds, and is made twice: the faster one counts.
const PREFILL_S: f64 = 3.0;
const DECODE_S: f64 = 2.0;
/// Tokens of a measured prompt: fewer use other kernels, more tell nothing new.
const PREFILL_TOKENS: (u32, u32) = (64, 512);
const DECODE_TOKENS: (u32, u32) = (8, 64);
const N_REPETITIONS: u32 = 2;
/// A setting that is not the usual one must be so much faster.
const CLEARLY: f64 = 1.03;
/// Lengths of short batches.
const BATCHES: [usize; 10] = [1, 2, 3, 4, 6, 7, 8, 12, 16, 32];

/// Finds the fastest settings for a model on this machine. `on_row` gets each measurement when it is done.
///
/// The model is loaded once for each choice of weights to repack that makes sense for its types, and for
/// each choice of layers on a GPU. `n_threads` leaves the number of threads as it is. Setting `stop` ends the
/// search.
///
/// # Errors
/// When the model does not load, or a computation fails or is stopped.
pub fn search(
    file: &ModelFile,
    goal: Goal,
    n_threads: Option<usize>,
    stop: Arc<AtomicBool>,
    on_row: &mut dyn FnMut(&Row),
) -> Result<Profile, Error> {
    let mut search = Search {
        file,
        goal,
        stop,
        on_row,
        n_prompt: PREFILL_TOKENS.0,
        n_gen: DECODE_TOKENS.0,
    };
    let settings = search.run(n_threads)?;
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    Ok(Profile {
        goal,
        time: time.to_string(),
        settings,
    })
}

struct Search<'a> {
    file: &'a ModelFile,
    goal: Goal,
    stop: Arc<AtomicBool>,
    on_row: &'a mut dyn FnMut(&Row),
    n_prompt: u32,
    n_gen: u32,
}

impl Search<'_> {
    fn run(&mut self, asked: Option<usize>) -> Result<Settings, Error> {
        let backend = llama::backend()?;
        let processors = Processors::detect();
        let n_threads = asked
            .unwrap_or_else(|| processors.threads())
            .clamp(1, MAX_THREADS);
        let mut settings = Settings {
            n_threads,
            n_threads_batch: n_threads,
            n_batch: ContextParams::default().n_batch,
            n_ubatch: ContextParams::default().n_ubatch,
            flash_attention: FlashAttention::Auto,
            repack: RepackChoice::Auto,
            n_gpu_layers: GpuLayers::Auto,
            batch_costs: batch_costs(self.file.headers(), backend, Kernels::default()),
        };
        let mut model = self.load(&settings)?;
        self.choose_lengths(&model, &settings)?;
        if asked.is_none() {
            self.threads(&model, &mut settings, &processors)?;
        }
        let has_gpu = llama::devices(backend).iter().any(|d| d.is_gpu);
        let changes: Vec<Change> = if has_gpu {
            vec![
                Change::GpuLayers(GpuLayers::Auto),
                Change::GpuLayers(GpuLayers::Count(0)),
            ]
        } else {
            let choices = repack_choices(self.file.headers(), backend);
            choices.into_iter().map(Change::Repack).collect()
        };
        if changes.len() > 1 {
            // One model at a time in memory.
            drop(model);
            self.loads(&mut settings, changes)?;
            model = self.load(&settings)?;
        }
        self.batches(&model, &mut settings)?;
        self.attention(&model, &mut settings)?;
        settings.batch_costs = self.batch_costs(&model, &settings)?;
        Ok(settings)
    }

    fn load(&self, settings: &Settings) -> Result<Arc<Model>, Error> {
        let backend = llama::backend()?;
        let context = settings.context(self.file.resolve_n_ctx(None));
        let offload = self.file.offload(settings.n_gpu_layers, &context)?;
        let params = LoadParams {
            n_gpu_layers: offload.n_layers,
            repack: settings.repack.resolve(
                self.file.headers(),
                backend,
                offload.is_any(),
                Kernels::default(),
            )?,
            ..LoadParams::default()
        };
        let stop = Arc::clone(&self.stop);
        let model = self.file.load(&params, &mut |_| {
            if stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        if !model.has_decoder() {
            return Err(Error::NoDecoder {
                path: self.file.path().to_owned(),
            });
        }
        Ok(model)
    }

    fn context(
        &self,
        model: &Arc<Model>,
        settings: &Settings,
        cache: CacheType,
        n_ctx: u32,
    ) -> Result<Context, Error> {
        let params = ContextParams {
            type_k: cache,
            type_v: cache,
            ..settings.context(n_ctx)
        };
        let stop = Arc::clone(&self.stop);
        self.file.context(Arc::clone(model), &params, stop)
    }

    /// Tokens a second of a test.
    fn speed(&self, context: &mut Context, test: Test) -> Result<f64, Error> {
        let samples_ns = test.run(context, N_REPETITIONS, true).map_err(failed)?;
        let best_ns = samples_ns.into_iter().min().unwrap_or(u64::MAX);
        Ok(f64::from(test.n_prompt + test.n_gen) * 1e9 / best_ns as f64)
    }

    fn prefill(&self, model: &Arc<Model>, settings: &Settings, n_depth: u32) -> Result<f64, Error> {
        let test = Test {
            n_prompt: self.n_prompt,
            n_gen: 0,
            n_depth,
        };
        let mut context = self.context(model, settings, CacheType::F16, test.n_ctx())?;
        self.speed(&mut context, test)
    }

    fn decode(&self, model: &Arc<Model>, settings: &Settings, n_depth: u32) -> Result<f64, Error> {
        let test = Test {
            n_prompt: 0,
            n_gen: self.n_gen,
            n_depth,
        };
        let mut context = self.context(model, settings, CacheType::F16, test.n_ctx())?;
        self.speed(&mut context, test)
    }

    /// Both speeds with these settings, after a prompt's tokens.
    fn both(
        &mut self,
        model: &Arc<Model>,
        settings: &Settings,
        setting: String,
    ) -> Result<Speed, Error> {
        let depth = if setting.starts_with("-fa") {
            self.n_prompt
        } else {
            0
        };
        let speed = Speed {
            prefill: self.prefill(model, settings, depth)?,
            decode: self.decode(model, settings, depth)?,
        };
        self.row(setting, Some(speed.prefill), Some(speed.decode));
        Ok(speed)
    }

    fn row(&mut self, setting: String, prefill: Option<f64>, decode: Option<f64>) {
        (self.on_row)(&Row {
            setting,
            prefill,
            decode,
        });
    }

    /// As many tokens as a measurement has time for.
    fn choose_lengths(&mut self, model: &Arc<Model>, settings: &Settings) -> Result<(), Error> {
        let longest = self.file.n_ctx_train().max(2) / 2;
        self.n_prompt = self.n_prompt.min(longest);
        self.n_gen = self.n_gen.min(longest);
        let within = |n: f64, (least, most): (u32, u32)| (n as u32).clamp(least, most).min(longest);
        let prefill = self.prefill(model, settings, 0)?;
        let decode = self.decode(model, settings, 0)?;
        self.n_prompt = within(prefill * PREFILL_S, PREFILL_TOKENS);
        self.n_gen = within(decode * DECODE_S, DECODE_TOKENS);
        Ok(())
    }

    fn threads(
        &mut self,
        model: &Arc<Model>,
        settings: &mut Settings,
        processors: &Processors,
    ) -> Result<(), Error> {
        let counts = thread_counts(processors);
        let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
        for &n_threads in &counts {
            settings.n_threads = n_threads;
            settings.n_threads_batch = n_threads;
            let speed = self.both(model, settings, format!("-t {n_threads}"))?;
            prefills.push(speed.prefill);
            decodes.push(speed.decode);
        }
        settings.n_threads = counts[first_near_best(&decodes)];
        settings.n_threads_batch = counts[first_near_best(&prefills)];
        Ok(())
    }

    /// Settings that need the model to be loaded anew.
    fn loads(&mut self, settings: &mut Settings, changes: Vec<Change>) -> Result<(), Error> {
        let (mut found, mut speeds) = (Vec::new(), Vec::new());
        for change in changes {
            let changed = change.applied(settings);
            let model = match self.load(&changed) {
                Ok(model) => model,
                // It does not fit: no choice here.
                Err(error) if error.kind() == Kind::Memory => continue,
                Err(error) => return Err(error),
            };
            speeds.push(self.both(&model, &changed, change.name())?);
            found.push(changed);
        }
        if let Some(best) = self.goal.best(&speeds) {
            *settings = found.swap_remove(best);
        }
        Ok(())
    }

    fn batches(&mut self, model: &Arc<Model>, settings: &mut Settings) -> Result<(), Error> {
        let usual = self.prefill(model, settings, 0)?;
        self.row(format!("-ub {}", settings.n_ubatch), Some(usual), None);
        let mut best = (usual * CLEARLY, settings.n_ubatch);
        for n_ubatch in [256, 128] {
            // With as many tokens it is the same.
            if n_ubatch >= self.n_prompt {
                continue;
            }
            let changed = Settings {
                n_ubatch,
                ..settings.clone()
            };
            let prefill = self.prefill(model, &changed, 0)?;
            self.row(format!("-ub {n_ubatch}"), Some(prefill), None);
            if prefill > best.0 {
                best = (prefill, n_ubatch);
            }
        }
        settings.n_ubatch = best.1;
        Ok(())
    }

    /// Flash attention, and what a smaller cache would bring: it changes the results, so that is only shown.
    fn attention(&mut self, model: &Arc<Model>, settings: &mut Settings) -> Result<(), Error> {
        let (mut found, mut speeds) = (Vec::new(), Vec::new());
        for flash_attention in [FlashAttention::Auto, FlashAttention::Off] {
            let changed = Settings {
                flash_attention,
                ..settings.clone()
            };
            speeds.push(self.both(model, &changed, format!("-fa {flash_attention}"))?);
            found.push(changed);
        }
        if let Some(best) = self.goal.best(&speeds) {
            *settings = found.swap_remove(best);
        }
        let test = Test {
            n_prompt: 0,
            n_gen: self.n_gen,
            n_depth: self.n_prompt,
        };
        let quantized = Settings {
            flash_attention: FlashAttention::Auto,
            ..settings.clone()
        };
        // Not every model's heads have a length that it can store.
        if let Ok(mut context) = self.context(model, &quantized, CacheType::Q8_0, test.n_ctx()) {
            let decode = self.speed(&mut context, test)?;
            self.row("-ctk q8_0 -ctv q8_0".to_owned(), None, Some(decode));
        }
        Ok(())
    }

    fn batch_costs(
        &mut self,
        model: &Arc<Model>,
        settings: &Settings,
    ) -> Result<BatchCosts, Error> {
        let mut context = self.context(model, settings, CacheType::F16, 64)?;
        let times = batch_times(&mut context, &BATCHES, N_REPETITIONS).map_err(failed)?;
        for &(n, wall_s) in &times {
            let speed = n as f64 / wall_s;
            self.row(format!("{n} at once"), None, Some(speed));
        }
        Ok(BatchCosts::try_from(times).unwrap_or_default())
    }
}

enum Change {
    Repack(RepackChoice),
    GpuLayers(GpuLayers),
}

impl Change {
    fn applied(&self, settings: &Settings) -> Settings {
        let mut settings = settings.clone();
        match self {
            Change::Repack(choice) => settings.repack = choice.clone(),
            Change::GpuLayers(n) => settings.n_gpu_layers = *n,
        }
        settings
    }

    fn name(&self) -> String {
        match self {
            Change::Repack(choice) => format!("--repack {choice}"),
            Change::GpuLayers(layers) => format!("-ngl {layers}"),
        }
    }
}

/// What can be repacked of these types, the least first: nothing, parts of Q4_K, all.
fn repack_choices(headers: &[Gguf], backend: &llama::Backend) -> Vec<RepackChoice> {
    let mut choices = vec![RepackChoice::Off];
    let mut tensors = repackable(headers, backend).peekable();
    if tensors.peek().is_none() {
        return choices;
    }
    // The rest gain from repacking at both prefill and decode (src/repack.rs).
    if !llama::has_own_kernels(backend)
        && tensors.any(|tensor| tensor.dtype() == DType::Q4_K && tensor.name().contains("ffn_up"))
    {
        let parts = [r"ffn_up\.", r"ffn_(up|gate)\.", r"attn_"];
        let parts = parts.iter().filter_map(|part| Regex::new(part).ok());
        choices.extend(parts.map(RepackChoice::Matching));
    }
    choices.push(RepackChoice::On);
    choices
}

/// Counts of threads that may be best: half of the cores, all, and all hardware threads, within the quota.
fn thread_counts(processors: &Processors) -> Vec<usize> {
    let usual = processors.threads();
    let most = processors.quota.map_or(processors.logical, |quota| {
        (quota.ceil() as usize).min(processors.logical)
    });
    let mut counts = vec![
        usual.div_ceil(2),
        usual - usual / 4,
        usual,
        processors.physical,
        most,
    ];
    for n in &mut counts {
        *n = (*n).clamp(1, most.clamp(1, MAX_THREADS));
    }
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// The first that is not clearly slower than the fastest.
fn first_near_best(speeds: &[f64]) -> usize {
    let best = speeds.iter().copied().fold(0.0, f64::max);
    speeds
        .iter()
        .position(|speed| speed * CLEARLY >= best)
        .unwrap_or(0)
}

fn failed(error: DecodeError) -> Error {
    match error {
        DecodeError::Stopped => Error::Interrupted,
        error => EngineError::Decode(error).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_counts_stay_within_the_machine() {
        let processors = |logical, physical, fast, quota| Processors {
            logical,
            physical,
            fast,
            quota,
        };
        assert_eq!(thread_counts(&processors(2, 2, 2, None)), [1, 2]);
        assert_eq!(thread_counts(&processors(1, 1, 1, None)), [1]);
        assert_eq!(thread_counts(&processors(16, 8, 8, None)), [4, 6, 8, 16]);
        assert_eq!(
            thread_counts(&processors(20, 14, 6, None)),
            [3, 5, 6, 14, 20]
        );
        let limited = thread_counts(&processors(64, 32, 32, Some(1.5)));
        assert!(limited.iter().all(|&n| (1..=2).contains(&n)), "{limited:?}");
    }

    #[test]
    fn fewer_threads_count_when_more_bring_nothing() {
        assert_eq!(first_near_best(&[10.0, 19.9, 20.0]), 1);
        assert_eq!(first_near_best(&[10.0, 12.0, 20.0]), 2);
        assert_eq!(first_near_best(&[20.0, 12.0]), 0);
    }
}
