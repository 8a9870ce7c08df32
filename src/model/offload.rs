//! Layers on GPUs: how many there are to be, and what leaves the host with them.

use yi_quantize::memory;

use super::ModelFile;
use crate::error::Error;
use crate::fit::{DEVICE_MARGIN, Geometry, Parts, Placement};
use crate::llama::{self, ContextParams, Gpu, GpuLayers};

/// How many layers go to GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offload {
    /// For [`LoadParams::n_gpu_layers`](crate::llama::LoadParams::n_gpu_layers).
    pub n_layers: Option<u32>,
    /// The GPUs.
    pub gpus: Vec<Gpu>,
    /// What goes where; `None` without a GPU.
    pub placement: Option<Placement>,
}

impl Offload {
    /// Whether any layer leaves the host.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.placement.as_ref().is_some_and(|p| p.n_layers > 0)
    }
}

/// Bytes that each has free. One that does not tell counts as the host, as in llama.cpp.
pub(crate) fn free_bytes(gpus: &[Gpu]) -> Vec<u64> {
    let free = gpus.iter().map(|gpu| match gpu {
        Gpu {
            free: 0, total: 0, ..
        } => memory::available_bytes().unwrap_or(0),
        gpu => gpu.free,
    });
    free.collect()
}

impl ModelFile {
    /// How many layers go to this machine's GPUs, and whether they fit there with such a context.
    ///
    /// # Errors
    /// [`Error::GpuMemory`] when as many as were asked for do not fit.
    pub fn offload(&self, layers: GpuLayers, context: &ContextParams) -> Result<Offload, Error> {
        self.offload_beside(layers, context, &[])
    }

    /// The same where others will take so much on each GPU, in bytes.
    ///
    /// # Errors
    /// As of [`ModelFile::offload`].
    pub fn offload_beside(
        &self,
        layers: GpuLayers,
        context: &ContextParams,
        taken: &[u64],
    ) -> Result<Offload, Error> {
        let gpus = llama::gpus(llama::backend()?);
        if gpus.is_empty() {
            let n_layers = match layers {
                GpuLayers::Auto | GpuLayers::All => None,
                GpuLayers::Count(n) => Some(n),
            };
            return Ok(Offload {
                n_layers,
                gpus,
                placement: None,
            });
        }
        let taken = taken.iter().copied().chain(std::iter::repeat(0));
        let free = free_bytes(&gpus).into_iter().zip(taken);
        let free: Vec<u64> = free.map(|(free, n)| free.saturating_sub(n)).collect();
        let parts = self.parts(context);
        let placement = match layers {
            GpuLayers::Auto => parts.fit(&free, DEVICE_MARGIN),
            GpuLayers::All => parts.place(u32::MAX, &free),
            GpuLayers::Count(n) => parts.place(n, &free),
        };
        if let Some((device, needed)) = placement.too_much(&free) {
            return Err(Error::GpuMemory {
                n_layers: placement.n_layers,
                device: format!("{} ({})", gpus[device].name, gpus[device].description),
                needed,
                free: free[device],
            });
        }
        Ok(Offload {
            n_layers: Some(placement.n_layers),
            gpus,
            placement: Some(placement),
        })
    }

    /// What leaves the host's memory with so many layers on GPUs; `None` where nothing does.
    pub(super) fn away(
        &self,
        n_gpu_layers: Option<u32>,
        context: &ContextParams,
    ) -> Option<Placement> {
        if n_gpu_layers == Some(0) {
            return None;
        }
        let gpus = llama::gpus(llama::backend().ok()?);
        // What goes to a GPU without memory of its own stays in the host's.
        if gpus.is_empty() || gpus.iter().any(|gpu| gpu.shares_memory) {
            return None;
        }
        let free = free_bytes(&gpus);
        Some(
            self.parts(context)
                .place(n_gpu_layers.unwrap_or(u32::MAX), &free),
        )
    }

    fn parts(&self, context: &ContextParams) -> Parts {
        let geometry = Geometry::new(self.headers());
        Parts::new(self.headers(), geometry.as_ref(), context)
    }
}
